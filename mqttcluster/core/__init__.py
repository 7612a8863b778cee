"""Floor 1: what a broker does, without I/O. Time is an argument, answers are return values.

``message``     what was published, immutable, with its encoded forms
``framing``     how it is written for one connection: size, topic aliases
``inflight``    packet identifiers and the two halves of the QoS 1 and 2 exchanges
``session``     what a client is owed: subscriptions, queue, window
``connection``  a table of what may arrive when, and the keep-alive
``routing``     who gets a message
``retained``    the last message of each topic
"""
