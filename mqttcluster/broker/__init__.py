"""Floor 3: the application.

``broker``        the object that holds the parts together; start and stop
``client``        one connected client: the life of a connection, up to its ``farewell``
``intake``        its receiving half: bytes to packets, in order; ``handlers`` has what each packet does
``receiving``     what it publishes: PUBLISH and PUBREL, in ``steps``; ``fast_lane`` for plain ones in runs
``outlet``        what it gets; ``receipts`` are its acknowledgements, ``feed`` retained messages, ``sender`` the bytes
``admission``     what a CONNECT must bring; ``terms`` is what the two ends agree on
``sessions``      CONNECT to CONNACK, takeover, the end of a connection
``publishing``    who gets a message, what must be stored first, who is told then
``subscribing``   SUBSCRIBE, UNSUBSCRIBE, retained messages for a new subscription
``housekeeping``  wills that are due, sessions that have expired
``cluster``       this node among others, or ``alone``; ``heard`` is what the others say, ``takeover`` a session that
                  moves, ``retained_sync`` keeps the retained messages of all in step
``output``        one write per connection and reactor turn
``settings``      the limits

Who may connect, publish and subscribe:

``auth``            the words for it, and the interfaces for code from outside
``authentication``  one authenticator after the other; ``passwords`` is that of a file
``authorization``   one authorizer after the other; ``acl`` is that of a file
``enhanced``        conversations of MQTT 5.0: ``dialogue`` carries them, ``scram`` is one
``permissions``     what one client may publish, as far as it has asked
``muted``           subscriptions that new rules have stopped

What a node tells of itself:

``metric_table``  every figure: name, kind, meaning
``metrics``       the counters
``lag``           how late the reactor is
``prometheus``    the counters as Prometheus reads them
``sys_topics``    the counters as $SYS/broker/... topics

An acknowledgement leaves after the store has answered [G1]. What a client sends is dealt with in the order it was sent;
acknowledgements leave in that order, too [MQTT-4.6.0-2].
"""
