"""Floor 4: MQTT on real connections.

``stream``     bytes from TCP, TLS and Unix sockets
``websocket``  the same bytes inside WebSocket frames
"""
