"""Floor 0: the MQTT protocol as data, for versions 3.1, 3.1.1 and 5.0 alike.

``reasons``     reason codes, and the exception that carries one
``packets``     one plain class per control packet
``properties``  the table of MQTT 5.0 properties
``wire``        integers, strings and lengths as bytes
``readers``     packet body -> packet, one function per packet type
``writers``     packet -> bytes, one function per packet type
``decoder``     a byte stream cut into packets
``topics``      topic names, topic filters, matching

Nothing here knows a socket, a clock or a session.
"""
