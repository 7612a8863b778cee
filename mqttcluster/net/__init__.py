"""Floor 4: MQTT on real connections.

``stream``      bytes from TCP, TLS and Unix sockets
``websocket``   the same bytes inside WebSocket frames: what a listener serves, for ``stream`` or any other protocol
``websocket_connection``  one connection, from its ``handshake`` (the HTTP request that opens it, and its refusals) to
                its end; ``frames`` is the only place that knows them, ``outgoing`` holds back what the client does not
                take, ``pings`` are signs of life for all of them, by one timer
``gather``      many connections read at one stroke
``proxy``       the header of a balancer in front of any of these
``admin``       probes over HTTP
``interfaces``  what these ask of a transport and a clock
"""
