"""MQTT on a byte stream: Twisted's protocol on one side, the broker's client on the other."""

from __future__ import annotations

from socket import socket
from typing import cast

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IConsumer, IPullProducer, IPushProducer, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

from mqttcluster.broker.broker import Broker
from mqttcluster.broker.client import Client
from mqttcluster.net.certificates import client_name


def describe(address: IAddress) -> str:
    """An address as people write it: ``127.0.0.1:1883``, ``unix:/run/mqtt.sock``."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is not None:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name = getattr(address, "name", None)
    if isinstance(name, bytes):
        name = name.decode(errors="backslashreplace")
    return f"unix:{name}" if name else "unix"


@implementer(IPullProducer, IPushProducer)
class MQTTProtocol(Protocol):
    """One connection. It is the transport of its client, and the producer of its transport.

    On a plain socket output is sent at once, as far as the system takes it; only the rest goes through the transport,
    which tells when that is gone. So most output costs no round through the reactor.
    """

    client: Client | None = None
    #: The socket to send by, None where only the transport knows how.
    _socket: socket | None = None
    #: The transport still has some of what was written.
    _waiting = False

    def __init__(self, broker: Broker, anonymous_allowed: bool, identity: str) -> None:
        self._broker = broker
        self._anonymous_allowed = anonymous_allowed
        self._identity = identity

    def connectionMade(self) -> None:
        transport = cast(ITCPTransport, self.transport)
        set_no_delay = getattr(transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        self.client = self._broker.connect(self, describe(transport.getPeer()), self._anonymous_allowed)
        if self.client is None:
            transport.abortConnection()
        else:
            if self._identity != "none":
                self.client.certificate_name = lambda: client_name(self.transport, self._identity)
            if isinstance(transport, Connection) and not transport.TLS:
                self._socket = transport.getHandle()
            cast(IConsumer, self.transport).registerProducer(self, self._socket is None)
            self.dataReceived = self.client.data_received  # type: ignore[method-assign]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._socket = None
        if self.client is not None:
            if reason.check(ConnectionDone):
                why = "closed by the peer without DISCONNECT"
            elif reason.check(ConnectionLost):
                why = "connection lost"
            else:
                why = reason.getErrorMessage()
            self.client.connection_lost(why)
            self.client = None

    # the producer of the real transport: it says when the network takes no more

    def pauseProducing(self) -> None:
        if self.client is not None:
            self.client.pause_writing()

    def resumeProducing(self) -> None:
        if self.client is not None and (self._waiting or self._socket is None):
            self._waiting = False
            self.client.resume_writing()

    def stopProducing(self) -> None:
        """The connection is gone; `connectionLost` follows."""

    # the transport of the client

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._socket is not None and not self._waiting:
            try:
                sent = self._socket.send(data)
            except OSError:  # what it is the transport will find out
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
            self._waiting = True
            if self.client is not None:
                self.client.pause_writing()
        cast(ITCPTransport, self.transport).write(data)

    def close(self) -> None:
        """Send what is buffered, then close."""
        self._socket = None
        cast(IConsumer, self.transport).unregisterProducer()
        cast(IPushProducer, self.transport).resumeProducing()  # TLS has to hear the other side's goodbye
        cast(ITCPTransport, self.transport).loseConnection()

    def abort(self) -> None:
        """Close now."""
        self._socket = None
        cast(ITCPTransport, self.transport).abortConnection()

    def pause_reading(self) -> None:
        """Hand on no more bytes."""
        cast(IPushProducer, self.transport).pauseProducing()

    def resume_reading(self) -> None:
        """Go on."""
        cast(IPushProducer, self.transport).resumeProducing()


class MQTTFactory(Factory):
    """Makes a protocol for each connection of a listener; `anonymous_allowed`: clients need no user name. `identity` is
    the name in a client's certificate that is its user name: ``cn``, ``san`` or ``none``."""

    noisy = False

    def __init__(self, broker: Broker, anonymous_allowed: bool, identity: str = "none") -> None:
        self._broker = broker
        self._anonymous_allowed = anonymous_allowed
        self._identity = identity

    def buildProtocol(self, addr: IAddress | None) -> MQTTProtocol:
        return MQTTProtocol(self._broker, self._anonymous_allowed, self._identity)
