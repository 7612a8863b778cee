"""A browser's tab as the network sees it: a WebSocket that may be quiet for long, and answers pings by itself."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable
from types import TracebackType

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)

from tests.support import wire
from tests.support.wire import PATIENCE, Framer, Packet


class Gone(Exception):
    """The connection has ended."""


class Tab:
    """An MQTT client over WebSocket at `address`, over TLS if there is a `context`. `pings` counts what it was asked.

    With `answers` false it is a tab whose machine has gone to sleep.
    """

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext | None = None,
        host: str = "localhost",
        path: str = "/mqtt",
    ) -> None:
        plain = socket.create_connection(address, PATIENCE)
        self.socket = context.wrap_socket(plain, server_hostname=host) if context is not None else plain
        self.answers = True
        self.pings = 0
        #: The status when the handshake was refused.
        self.refused = 0
        self._packets: list[Packet] = []
        self._framer = Framer()
        self._accepted = False
        self._websocket = WSConnection(ConnectionType.CLIENT)
        self._send(Request(host=host, target=path, subprotocols=["mqtt"]))
        self.until(lambda: self._accepted or bool(self.refused))

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def connect(self, client_id: str, will: tuple[str, bytes, int, bool] | None = None) -> Tab:
        """CONNECT without a keep alive: MQTT itself has nothing to say for as long as it likes."""
        self.send(wire.connect(client_id, will=will))
        assert self.packet() == b"\x20\x02\x00\x00"
        return self

    def subscribe(self, topic: str) -> None:
        self.send(wire.subscribe(1, (topic, 1)))
        assert self.packet().type == wire.SUBACK

    def send(self, data: bytes) -> None:
        self._send(BytesMessage(data))

    def packet(self) -> Packet:
        """The next MQTT packet."""
        self.until(lambda: bool(self._packets))
        return self._packets.pop(0)

    def until(self, condition: Callable[[], bool]) -> None:
        """Live until the condition holds. `Gone` if the connection ends first."""
        end = time.monotonic() + PATIENCE
        while not condition():
            pending = isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()
            with selectors.DefaultSelector() as selector:
                selector.register(self.socket, selectors.EVENT_READ)
                if not pending and not selector.select(end - time.monotonic()):
                    raise AssertionError(f"not reached within {PATIENCE} s")
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise Gone
            self._websocket.receive_data(data)
            for event in self._websocket.events():
                self._happened(event)

    def _happened(self, event: Event) -> None:
        if isinstance(event, AcceptConnection):
            assert event.subprotocol == "mqtt"
            self._accepted = True
        elif isinstance(event, (RejectConnection, RejectData)):
            self.refused = getattr(event, "status_code", self.refused)
        elif isinstance(event, Ping):
            self.pings += 1
            if self.answers:
                self._send(event.response())
        elif isinstance(event, BytesMessage):
            self._packets += self._framer.feed(bytes(event.data))
        elif isinstance(event, CloseConnection):
            raise Gone

    def _send(self, event: Event) -> None:
        self.socket.sendall(self._websocket.send(event))
