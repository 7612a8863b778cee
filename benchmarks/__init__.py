"""Benchmarks: this broker beside others, measured in turn on one machine. ``python -m benchmarks`` runs them.

__main__    the command: who is measured with what, in which order
scenarios   what is measured, as a table
goals       what is to be reached, as a table
peers       how each broker is started; programs: a process, its processor time and memory
worker      the load, one process for each measurement; it calls one of
  flow        publishers and subscribers at full speed
  paced       the same at a given rate, with latency
  crowd       many connections, many sessions: how fast and how much memory
  stored      retained messages and queues
clients     publishers and subscribers that cost little, and what they count
links       connections over TCP, TLS and WebSocket; wire: the bytes of MQTT and WebSocket frames
report      the table, RESULTS.md, results.json; chart: the SVG
"""
