"""mqttcluster: an MQTT broker on Twisted; nodes that share a Redis are one broker.

The package is built in floors, and imports point downwards only:

``mqtt``     floor 0, the protocol as data: packets, wire format, topics. No I/O, standard library only.
``core``     floor 1, behaviour without I/O: messages, sessions, connections, routing. Time is an argument.
``storage``  floor 2, what outlives a connection: the store's interface and its implementations.
``broker``   floor 3, the application: opening sessions, routing publishes, housekeeping.
``net``      floor 4, Twisted: byte streams and WebSocket.
``config``, ``tap``  the only places that choose concrete classes, and the only reader of the global reactor.

docs/architecture.md tells the same at more length.
"""

__version__ = "0.1.0"
