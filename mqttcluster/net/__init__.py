"""Floor 4: MQTT on real connections.

``stream``      bytes from TCP, TLS and Unix sockets
``websocket``   the same bytes inside WebSocket frames: the connection
``handshake``   the HTTP request that opens a WebSocket, and its refusals
``frames``      the frames behind it, the only place that knows them
``pings``       signs of life for all WebSockets, by one timer
``gather``      many connections read at one stroke
``proxy``       the header of a balancer in front of any of these
``admin``       probes over HTTP
``interfaces``  what these ask of a transport and a clock
"""
