"""The other end of a WebSocket connection, in memory: wsproto's client as a browser, and a transport to look at."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from wsproto import ConnectionType, WSConnection
from wsproto.events import CloseConnection, Event, Request
from wsproto.frame_protocol import Opcode

from mqttcluster.net.websocket import WebSocketFactory
from mqttcluster.net.websocket_connection import WebSocketProtocol

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(target: str = "/mqtt", method: str = "GET", version: str = "1.1", **headers: str | None) -> bytes:
    """A good handshake, but for what is said: header names with underscores; None leaves a header out."""
    lines: dict[str, str | None] = {
        "host": "broker.example",
        "upgrade": "websocket",
        "connection": "keep-alive, Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "mqtt",
    }
    lines.update({name.replace("_", "-"): value for name, value in headers.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {target} HTTP/{version}\r\n{head}\r\n".encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """A client's frame as bytes, right or wrong. The mask is of zeros, so that the payload can be read."""
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        length = bytes([bit | len(payload)])
    elif len(payload) < 65536:
        length = bytes([bit | 126]) + struct.pack("!H", len(payload))
    else:
        length = bytes([bit | 127]) + struct.pack("!Q", len(payload))
    return bytes([(0x80 if fin else 0) | rsv << 4 | opcode]) + length + (bytes(4) if mask else b"") + payload


def binary(payload: bytes, fin: bool = True) -> bytes:
    return frame(Opcode.BINARY, payload, fin=fin)


class Recorder(Protocol):
    """The wrapped protocol: writes down what happens to it."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.lost: Failure | None = None
        self.made = 0

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.chunks.append(data)

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def connectionLost(self, reason: Any = None) -> None:
        assert self.lost is None, "connectionLost twice"
        self.lost = reason


class Wire(StringTransport):
    """A transport whose outgoing buffer can be said to be full."""

    def full(self) -> None:
        if self.producer is not None:
            self.producer.pauseProducing()

    def drained(self) -> None:
        if self.producer is not None:
            self.producer.resumeProducing()

    def getPeerCertificate(self) -> str:
        return "the certificate"


class Browser:
    """A client and everything between it and the wrapped protocol. `recorders` are those built so far."""

    def __init__(self, wrapped: type[Recorder] = Recorder, **options: Any) -> None:
        self.recorders: list[Recorder] = []

        def build() -> Recorder:
            self.recorders.append(wrapped())
            return self.recorders[-1]

        self.clock = Clock()
        self.factory = WebSocketFactory(Factory.forProtocol(build), clock=self.clock, **options)
        self.wire = Wire()
        self.server: WebSocketProtocol = self.factory.buildProtocol(self.wire.getPeer())
        self.client = WSConnection(ConnectionType.CLIENT)
        self.server.makeConnection(self.wire)

    @property
    def wrapped(self) -> Recorder:
        return self.recorders[0]

    def send(self, data: bytes) -> None:
        """Bytes arrive at the server."""
        self.server.dataReceived(data)

    def answer(self) -> bytes:
        """What the server has written since the last call."""
        data = self.wire.value()
        self.wire.clear()
        return data

    def open(self, **request_options: Any) -> Browser:
        """Do the handshake with wsproto's client."""
        options: dict[str, Any] = {"host": "broker.example", "target": "/mqtt", "subprotocols": ["mqtt"]}
        self.send(self.client.send(Request(**{**options, **request_options})))
        self.accepted, *rest = self.events()
        assert not rest
        return self

    def events(self) -> list[Event]:
        """What the client makes of the bytes the server has written."""
        self.client.receive_data(self.answer())
        return list(self.client.events())

    def close_codes(self) -> list[int]:
        return [event.code for event in self.events() if isinstance(event, CloseConnection)]

    def lose(self) -> None:
        """The connection is gone."""
        self.server.connectionLost(Failure(ConnectionDone()))

    @property
    def ended(self) -> bool:
        """The server has told the transport to end, after what is written."""
        return bool(self.wire.disconnecting)

    @property
    def aborted(self) -> bool:
        return bool(self.wire.disconnected)
