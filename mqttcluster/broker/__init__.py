"""Floor 3: the application.

``broker``        the object that holds the parts together; start and stop
``client``        one connected client: its packets, in order
``sessions``      CONNECT to CONNACK, takeover, the end of a connection
``publishing``    who gets a message, what must be stored first, who is told then
``subscribing``   SUBSCRIBE, UNSUBSCRIBE, retained messages for a new subscription
``housekeeping``  wills that are due, sessions that have expired
``output``        one write per connection and reactor turn
``auth``          who may connect, publish, subscribe
``settings``      the limits
``metrics``       the counters
``sys_topics``    the counters as $SYS/broker/... topics

An acknowledgement leaves after the store has answered [G1]. What a client sends is dealt with in the order it was sent;
acknowledgements leave in that order, too [MQTT-4.6.0-2].
"""
