"""mqttcluster: an MQTT broker on Twisted; nodes that share a Redis are one broker.

The package is built in floors, and imports point downwards only:

``mqtt``     floor 0, the protocol as data: packets, wire format, topics. No I/O, standard library only.
``core``     floor 1, behaviour without I/O: messages, sessions, connections, routing. Time is an argument.
``storage``  floor 2, what outlives a connection: the store's interface and its implementations.
``broker``   floor 3, the application: opening sessions, routing publishes, housekeeping.
``net``      floor 4, Twisted: byte streams and WebSocket.

Outside of the floors stands what makes a process of them:

``tap``        ``twistd mqttcluster``: the only place that chooses concrete classes, and reads the global reactor.
``config``     the table of options, with their ``kinds``; ``loading`` reads them from everywhere they may be given.
``access``, ``listeners``, ``logs``  parts of a node, made from options.
``service``    a node's start and stop.
``passwd``     the command that writes password files; ``configdoc`` and ``metricdoc`` write two of the docs.

docs/architecture.md tells the same at more length.
"""

__version__ = "0.1.0"
