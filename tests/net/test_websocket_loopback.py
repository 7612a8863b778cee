"""MQTT over WebSocket on real connections: plain and TLS, with backpressure from socket to producer and back."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString, wrapClientTLS
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request

from mqttcluster.net.websocket import WebSocketFactory
from tests.support.certificates import Certificates

#: Bytes the source produces; more than any socket buffers between the two ends.
MUCH = 32 * 1024 * 1024
PIECE = bytes(64 * 1024)


class Source(Protocol):
    """Echoes, and when asked for "much" writes until it has; notes whether it was paused before it was done."""

    def connectionMade(self) -> None:
        self.lost: Deferred[None] = Deferred()
        self.left = 0
        self.paused = False
        self.first_pause: Deferred[int] = Deferred()
        self.factory.made.callback(self)

    def dataReceived(self, data: bytes) -> None:
        if data == b"much":
            self.left = MUCH
            self.transport.registerProducer(self, True)
            self.resumeProducing()
        else:
            self.transport.write(data)

    def pauseProducing(self) -> None:
        self.paused = True
        if not self.first_pause.called:
            self.first_pause.callback(self.left)

    def resumeProducing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            self.left -= len(PIECE)
            self.transport.write(PIECE)
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        self.left = 0

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)


class Client(Protocol):
    """A WebSocket client."""

    def __init__(self) -> None:
        self.websocket = WSConnection(ConnectionType.CLIENT)
        self.opened: Deferred[None] = Deferred()
        self.echoed: Deferred[bytes] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.received = 0
        self.code: int | None = None

    def connectionMade(self) -> None:
        self.transport.write(self.websocket.send(Request(host="localhost", target="/mqtt", subprotocols=["mqtt"])))

    def dataReceived(self, data: bytes) -> None:
        self.websocket.receive_data(data)
        for event in self.websocket.events():
            if isinstance(event, AcceptConnection):
                self.opened.callback(None)
            elif isinstance(event, BytesMessage):
                self.received += len(event.data)
                if not self.echoed.called:
                    self.echoed.callback(event.data)
            elif isinstance(event, CloseConnection):
                self.code = event.code
                self.transport.write(self.websocket.send(event.response()))

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)


@pytest.mark.parametrize("kind", ["tcp", "ssl"])
@pytest_twisted.ensureDeferred
async def test_echo_and_backpressure(kind: str, certificates: Certificates) -> None:
    """A slow client holds up its producer; when it reads on it gets everything, then the end."""
    wrapped = Factory.forProtocol(Source)
    wrapped.noisy = False
    wrapped.made = Deferred()  # type: ignore[attr-defined]
    extra = f":privateKey={certificates.server_key}:certKey={certificates.server}" if kind == "ssl" else ""
    server = serverFromString(reactor, f"{kind}:0:interface=127.0.0.1{extra}")
    port = await server.listen(WebSocketFactory(wrapped, clock=reactor))  # type: ignore[arg-type]
    try:
        number = port.getHost().port
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{number}")
        if kind == "ssl":
            authority = ssl.Certificate.loadPEM(certificates.authority.read_bytes())
            endpoint = wrapClientTLS(ssl.optionsForClientTLS("localhost", authority), endpoint)
        client = await connectProtocol(endpoint, Client())
        await client.opened
        source: Source = await wrapped.made  # type: ignore[attr-defined]
        assert ISSLTransport.providedBy(source.transport) == (kind == "ssl")

        client.transport.write(client.websocket.send(BytesMessage(b"hello")))
        assert await client.echoed == b"hello"

        client.transport.write(client.websocket.send(BytesMessage(b"much")))
        client.transport.pauseProducing()
        left = await source.first_pause
        assert left > 0, "nothing held the producer up"
        client.transport.resumeProducing()
        await client.lost
        await source.lost
        assert client.received == MUCH + len(b"hello")
        assert client.code == 1000
    finally:
        await port.stopListening()
