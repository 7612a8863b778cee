"""MQTT over WebSocket: a thin layer between a Twisted transport and a byte-stream protocol.

`WebSocketFactory` wraps the factory that a TCP listener would use. It listens on any endpoint; on a TLS one that is
wss. By default a page of any origin may connect: `handshake` says what that means, and all the other rules of the
handshake. How a connection goes on from there is told by `websocket_connection`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from mqttcluster.net.handshake import Rules
from mqttcluster.net.interfaces import Clock, StreamFactory
from mqttcluster.net.pings import Pings
from mqttcluster.net.websocket_connection import WebSocketProtocol


class WebSocketFactory(Factory[WebSocketProtocol]):
    """Serves `wrapped`'s protocols to WebSocket clients.

    `path` is the only one that is answered. `origins` are the web origins whose pages may connect, like
    ``https://example.org``, compared without regard to case; empty means any. `deflate` accepts permessage-deflate.
    `max_message` bounds one compressed message, in inflated bytes (a message that is not compressed needs no bound: it
    is never put together). `handshake_timeout` and `close_timeout` are seconds; so is `ping_interval`, 0 for no pings.
    `clock` is the reactor, or a `twisted.internet.task.Clock`. `room` tells how many more connections this node takes:
    so many may be without a complete request at a time. Raises ValueError for a path or origin that could never match.
    """

    noisy = False

    def __init__(
        self,
        wrapped: StreamFactory,
        path: str = "/mqtt",
        origins: Collection[str] = (),
        deflate: bool = False,
        *,
        max_message: int = 1024 * 1024,
        handshake_timeout: float = 10.0,
        close_timeout: float = 5.0,
        ping_interval: float = 0.0,
        room: Callable[[], int] = lambda: sys.maxsize,
        clock: Clock,
    ) -> None:
        self.wrapped = wrapped
        self.rules = Rules(path, origins, deflate, max_message)
        self.handshake_timeout = handshake_timeout
        self.close_timeout = close_timeout
        self.ping_interval = ping_interval
        self.pings = Pings(ping_interval, clock)
        self.room = room
        self.clock = clock
        #: Connections whose request is not complete.
        self.waiting = 0

    def doStart(self) -> None:
        self.wrapped.doStart()
        super().doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        self.wrapped.doStop()
        super().doStop()  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: IAddress | None) -> WebSocketProtocol:
        protocol = WebSocketProtocol(self, addr)
        protocol.factory = self
        return protocol
