"""The PROXY protocol, versions 1 and 2: a balancer in front says, before anything else, whose connection it hands on.

``read_header``    one header, from bytes
``ProxyFactory``   serves the protocols of another factory behind that header

Twisted's own wrapper connects the wrapped protocol before the header has come, so that it takes the balancer for the
client; wants the first 16 bytes in one read; and answers a wrong port with a traceback. Hence this one.

The wrapped protocol is made when the first byte behind the header is there, all its clients speak first. So it never
sees another address than the client's, and a probe that only connects, or that says LOCAL and no more, makes nothing.
Until then a connection costs at most `LONGEST` bytes and one read, and lives for at most `timeout` seconds.

A header without addresses (LOCAL, UNKNOWN, a family that is not known here) leaves those of the connection itself.
Who can reach such a listener can claim any address: only the balancer should.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IDelayedCall, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from mqttcluster.net.interfaces import Clock, StreamFactory
from mqttcluster.net.stream import describe

log = Logger(namespace="mqttcluster.proxy")

#: The longest header of version 2 that is taken, in bytes, with whatever the balancer adds behind the addresses.
LONGEST = 4096
#: The same for version 1, by its specification.
_LONGEST_V1 = 107
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_FAMILIES = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}


class BadHeader(ValueError):
    """No header of the PROXY protocol. The text says what is wrong."""


class Header(NamedTuple):
    """A header of `length` bytes. An address that it does not tell is None."""

    length: int
    source: IAddress | None
    destination: IAddress | None


def read_header(data: bytes) -> Header | None:
    """The header that `data` begins with, None if there is more to come. Raises `BadHeader`."""
    if _V2.startswith(data[: len(_V2)]):
        return _read_v2(data)
    if _V1.startswith(data[: len(_V1)]):
        return _read_v1(data)
    raise BadHeader("no PROXY header")


def _read_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, _LONGEST_V1)
    if end < 0:
        if len(data) >= _LONGEST_V1:
            raise BadHeader("a PROXY header without an end")
        return None
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return Header(end + 2, None, None)
    family = _FAMILIES.get(words[1])
    if family is None or len(words) != 6:
        raise BadHeader("a PROXY header that makes no sense")
    try:
        source, destination = (socket.inet_pton(family, word.decode("ascii")) for word in words[2:4])
    except (OSError, ValueError):
        raise BadHeader("a PROXY header with a wrong address") from None
    ports = [int(word) if word.isdigit() else -1 for word in words[4:]]
    if not all(0 <= port <= 65_535 for port in ports):
        raise BadHeader("a PROXY header with a wrong port")
    return Header(end + 2, _internet(family, source, ports[0]), _internet(family, destination, ports[1]))


def _read_v2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    command, kind, size = struct.unpack_from("!BBH", data, 12)
    if command not in (0x20, 0x21) or kind >> 4 > 3 or kind & 0xF > 2:
        raise BadHeader("a PROXY header that makes no sense")
    length = 16 + size
    if length > LONGEST:
        raise BadHeader("a PROXY header that is too long")
    if len(data) < length:
        return None
    try:
        addresses = _addresses(kind, data[16:length]) if command == 0x21 else (None, None)
    except struct.error:
        raise BadHeader("a PROXY header without its addresses") from None
    return Header(length, *addresses)


def _addresses(kind: int, data: bytes) -> tuple[IAddress | None, IAddress | None]:
    """Source and destination of a stream; of anything else none. Raises `struct.error`."""
    if kind == 0x31:
        return _unix(struct.unpack_from("108s", data)[0]), _unix(struct.unpack_from("108s", data, 108)[0])
    if kind not in (0x11, 0x21):
        return None, None
    family, form = (socket.AF_INET, "!4s4sHH") if kind == 0x11 else (socket.AF_INET6, "!16s16sHH")
    source, destination, source_port, destination_port = struct.unpack_from(form, data)
    return _internet(family, source, source_port), _internet(family, destination, destination_port)


def _internet(family: int, packed: bytes, port: int) -> IAddress:
    host = socket.inet_ntop(family, packed)
    address: IAddress = (IPv4Address if family == socket.AF_INET else IPv6Address)("TCP", host, port)
    return address


def _unix(field: bytes) -> IAddress:
    """A name that is not printable (it could forge a line of the log) is left out, as that of an unnamed socket is."""
    name = field.partition(b"\0")[0]
    printable = name.isascii() and name.decode("ascii").isprintable()
    address: IAddress = UNIXAddress(name if name and printable else None)
    return address


class ProxyFactory(Factory["ProxyProtocol"]):
    """Serves `wrapped`'s protocols to clients behind a balancer.

    `timeout` is how many seconds a connection has until the first byte behind its header. `room` tells how many more
    connections this node takes: so many may wait for their header. `clock` is the reactor, or a
    `twisted.internet.task.Clock`.
    """

    noisy = False

    def __init__(self, wrapped: StreamFactory, timeout: float, room: Callable[[], int], clock: Clock) -> None:
        self.wrapped = wrapped
        self.timeout = timeout
        self.clock = clock
        self._room = room
        #: Connections whose header is not complete, or that have said nothing since.
        self.waiting = 0

    def doStart(self) -> None:
        self.wrapped.doStart()
        super().doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        self.wrapped.doStop()
        super().doStop()  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: IAddress | None) -> ProxyProtocol | None:
        if self.waiting >= self._room():
            log.info("refused a connection from {peer}: too many connections", peer=describe(addr) if addr else "?")
            return None
        protocol = ProxyProtocol(self)
        protocol.factory = self
        return protocol


class ProxyProtocol(Protocol):
    """One connection. Towards the wrapped protocol it is the transport, with the addresses of the header."""

    write: Callable[[bytes], None]

    def __init__(self, factory: ProxyFactory) -> None:
        self._owner = factory
        self._buffer = b""
        self._source: IAddress | None = None
        self._destination: IAddress | None = None
        self._heading = True
        self._waiting = False
        self._timer: IDelayedCall | None = None
        self._wrapped: Any = None

    # What the real transport calls.

    def makeConnection(self, transport: ITransport) -> None:
        directlyProvides(self, providedBy(transport))  # so that a TLS connection can be told from others
        super().makeConnection(transport)  # type: ignore[no-untyped-call]

    def connectionMade(self) -> None:
        self.write = self._real.write  # not by way of __getattr__: it is called all the time
        self._waiting = True
        self._owner.waiting += 1
        self._timer = self._owner.clock.callLater(self._owner.timeout, self._late)

    def dataReceived(self, data: bytes) -> None:
        if self._wrapped is not None:
            self._wrapped.dataReceived(data)
            return
        if not self._waiting:  # refused, and not gone yet
            return
        self._buffer += data
        if self._heading:
            try:
                header = read_header(self._buffer)
            except BadHeader as problem:
                self._refuse(str(problem))
                return
            if header is None:
                return
            self._heading = False
            self._source, self._destination = header.source, header.destination
            self._buffer = self._buffer[header.length :]
        if self._buffer:
            self._hand_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._wait_no_longer()
        wrapped, self._wrapped = self._wrapped, None
        if wrapped is not None:
            wrapped.connectionLost(reason)

    # Before the wrapped protocol is there.

    def _hand_on(self) -> None:
        self._wait_no_longer()
        rest, self._buffer = self._buffer, b""
        wrapped = self._owner.wrapped.buildProtocol(self.getPeer())
        if wrapped is None:
            self._real.abortConnection()
            return
        self._wrapped = wrapped
        wrapped.makeConnection(self)
        wrapped.dataReceived(rest)

    def _wait_no_longer(self) -> None:
        if self._waiting:
            self._waiting = False
            self._owner.waiting -= 1
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _late(self) -> None:
        self._refuse("no PROXY header in time" if self._heading else "nothing came behind the PROXY header")

    def _refuse(self, why: str) -> None:
        self._wait_no_longer()
        self._buffer = b""
        log.info("{peer} disconnected: {reason}", peer=describe(self.getPeer()), reason=why)
        self._real.abortConnection()

    # The transport of the wrapped protocol: that of this one, but for the addresses.

    @property
    def _real(self) -> Any:
        return self.transport

    def getPeer(self) -> IAddress:
        """The client, as far as the header tells; else who has connected."""
        return self._source if self._source is not None else self._real.getPeer()

    def getHost(self) -> IAddress:
        """Where the client has connected to, as far as the header tells."""
        return self._destination if self._destination is not None else self._real.getHost()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.transport, name)
