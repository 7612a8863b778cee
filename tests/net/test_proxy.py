"""Behind a balancer: whose address counts, and what becomes of those that send no PROXY header."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mqttcluster.net.proxy import LONGEST, BadHeader, ProxyFactory, ProxyProtocol, read_header
from mqttcluster.net.stream import describe
from tests.support import wire
from tests.support.certificates import Certificates
from tests.support.process import Broker
from tests.support.wire import Wire

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BALANCER = "192.0.2.1:40000"
V1 = b"PROXY TCP4 198.51.100.7 192.0.2.9 50123 1883\r\n"


def v2(kind: int, addresses: bytes, command: int = 0x21, more: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, kind, len(addresses + more)) + addresses + more


def inet(client: str, server: str, ports: tuple[int, int] = (50123, 1883)) -> bytes:
    return ipaddress.ip_address(client).packed + ipaddress.ip_address(server).packed + struct.pack("!HH", *ports)


def unix(client: bytes, server: bytes = b"/run/proxy.sock") -> bytes:
    return client.ljust(108, b"\0") + server.ljust(108, b"\0")


V2 = v2(0x11, inet("198.51.100.7", "192.0.2.9"))
LOCAL = v2(0x00, b"", command=0x20)

GOOD = {
    "v1-tcp4": (V1, "198.51.100.7:50123"),
    "v1-tcp6": (b"PROXY TCP6 2001:db8::7 2001:db8::9 50123 1883\r\n", "[2001:db8::7]:50123"),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", BALANCER),
    "v1-unknown-with-addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", BALANCER),
    "v2-tcp4": (V2, "198.51.100.7:50123"),
    "v2-tcp6": (v2(0x21, inet("2001:db8::7", "2001:db8::9")), "[2001:db8::7]:50123"),
    "v2-unix": (v2(0x31, unix(b"/run/client.sock")), "unix:/run/client.sock"),
    "v2-unix-unnamed": (v2(0x31, unix(b"")), "unix"),
    "v2-unix-that-forges-a-log-line": (v2(0x31, unix(b"/x\n2026-01-01 all is well")), "unix"),
    "v2-local": (LOCAL, BALANCER),
    "v2-local-with-addresses": (v2(0x11, inet("203.0.113.1", "203.0.113.2"), command=0x20), BALANCER),
    "v2-unspecified": (v2(0x00, b""), BALANCER),
    "v2-datagrams": (v2(0x12, inet("198.51.100.7", "192.0.2.9")), BALANCER),
    "v2-with-more": (v2(0x11, inet("198.51.100.7", "192.0.2.9"), more=b"\x02\x00\x04mqtt"), "198.51.100.7:50123"),
}

BAD = {
    "mqtt": wire.connect("no-header"),
    "http": b"GET /mqtt HTTP/1.1\r\n\r\n",
    "tls": bytes.fromhex("1603010200"),
    "nearly-v1": b"PROXIES",
    "nearly-v2": SIGNATURE[:-1] + b"\r",
    "v1-other-protocol": b"PROXY UDP4 198.51.100.7 192.0.2.9 1 2\r\n",
    "v1-short": b"PROXY TCP4 198.51.100.7\r\n",
    "v1-nothing": b"PROXY \r\n",
    "v1-long": V1[:-2] + b" more\r\n",
    "v1-endless": b"PROXY UNKNOWN " + b"x" * 100,
    "v1-no-address": b"PROXY TCP4 localhost 192.0.2.9 1 2\r\n",
    "v1-wrong-family": b"PROXY TCP4 2001:db8::7 2001:db8::9 1 2\r\n",
    "v1-scope": b"PROXY TCP6 fe80::1%x fe80::2 1 2\r\n",
    "v1-bytes": b"PROXY TCP4 \xff\xfe 192.0.2.9 1 2\r\n",
    "v1-nul": b"PROXY TCP4 1.2.3.4\0 192.0.2.9 1 2\r\n",
    "v1-no-port": b"PROXY TCP4 198.51.100.7 192.0.2.9 x 1883\r\n",
    "v1-large-port": b"PROXY TCP4 198.51.100.7 192.0.2.9 65536 1883\r\n",
    "v1-negative-port": b"PROXY TCP4 198.51.100.7 192.0.2.9 -1 1883\r\n",
    "v2-other-version": v2(0x11, inet("198.51.100.7", "192.0.2.9"), command=0x31),
    "v2-other-command": v2(0x11, inet("198.51.100.7", "192.0.2.9"), command=0x22),
    "v2-other-family": v2(0x41, b"\0" * 12),
    "v2-other-protocol": v2(0x13, b"\0" * 12),
    "v2-too-short": v2(0x11, b"\0" * 11),
    "v2-too-short-for-unix": v2(0x31, b"\0" * 215),
    "v2-too-long": SIGNATURE + struct.pack("!BBH", 0x21, 0x11, LONGEST - 15),
}


class Inner(Protocol):
    """What is behind the header: notes what it gets and from whom."""

    def __init__(self, addr: object) -> None:
        self.built_for = addr
        self.peer = ""
        self.data = b""
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        self.peer = describe(self.transport.getPeer())

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason


class Inside(Factory):
    """Makes `Inner`."""

    def __init__(self) -> None:
        self.made: list[Inner] = []
        self.refuses = False

    def buildProtocol(self, addr: object) -> Inner | None:
        if self.refuses:
            return None
        self.made.append(Inner(addr))
        return self.made[-1]


class Stage:
    """A factory with a clock, and connections from a balancer."""

    def __init__(self, room: int = 100) -> None:
        self.clock = Clock()
        self.inside = Inside()
        self.room = room
        self.factory = ProxyFactory(self.inside, 10.0, lambda: self.room, self.clock)

    def connect(self) -> tuple[ProxyProtocol, StringTransport]:
        protocol = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40000))
        assert protocol is not None
        transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 40000))
        protocol.makeConnection(transport)
        return protocol, transport


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_whose_address(name: str, pieces: int) -> None:
    """However the header is cut by the network, the client's address is what counts, and no byte of its own is lost."""
    header, peer = GOOD[name]
    stage = Stage()
    protocol, _ = stage.connect()
    data = header + b"hello"
    step = -(-len(data) // pieces)
    for at in range(0, len(data), step):
        protocol.dataReceived(data[at : at + step])
    protocol.dataReceived(b", broker")
    [inner] = stage.inside.made
    assert inner.peer == peer
    assert describe(inner.built_for) == peer
    assert inner.data == b"hello, broker"
    assert stage.factory.waiting == 0
    assert stage.clock.getDelayedCalls() == []


def test_where_the_client_has_connected_to() -> None:
    """The other end's address is the balancer's public one."""
    header = read_header(V1)
    assert header is not None
    assert (header.length, describe(header.destination)) == (len(V1), "192.0.2.9:1883")


@pytest.mark.parametrize("name", BAD)
def test_no_header(name: str) -> None:
    """Whoever sends something else is dropped at once, and reaches nothing behind."""
    stage = Stage()
    protocol, transport = stage.connect()
    protocol.dataReceived(BAD[name])
    assert transport.disconnected
    assert stage.inside.made == []
    protocol.dataReceived(V1 + b"after all")
    protocol.connectionLost(Failure(ConnectionDone()))
    assert stage.inside.made == []
    assert stage.factory.waiting == 0
    assert stage.clock.getDelayedCalls() == []


@given(st.sampled_from([SIGNATURE, SIGNATURE + b"!", b"PROXY ", b"PROXY TCP4 ", b""]), st.binary(max_size=300))
def test_any_bytes(start: bytes, rest: bytes) -> None:
    """Nothing that looks like a header does anything but count, wait or fail."""
    data = start + rest
    try:
        header = read_header(data)
    except BadHeader:
        return
    assert header is None or 0 < header.length <= len(data)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("said", ["nothing", "half", "whole"])
def test_who_stalls(header: bytes, said: str) -> None:
    """Whoever does not go on has as long as a CONNECT has, and is dropped then; bytes that dribble in win no time."""
    stage = Stage()
    protocol, transport = stage.connect()
    part = {"nothing": b"", "half": header[: len(header) // 2], "whole": header}[said]
    for byte in part:
        stage.clock.advance(9.0 / len(part))
        protocol.dataReceived(bytes([byte]))
    stage.clock.advance(10.0 - stage.clock.seconds() - 0.01)
    assert not transport.disconnected
    stage.clock.advance(0.02)
    assert transport.disconnected
    assert stage.factory.waiting == 0
    assert stage.inside.made == []


def test_a_probe_leaves_no_trace() -> None:
    """A health check that connects, says LOCAL and leaves is no client."""
    stage = Stage()
    protocol, _ = stage.connect()
    protocol.dataReceived(LOCAL)
    protocol.connectionLost(Failure(ConnectionDone()))
    assert stage.inside.made == []
    assert stage.factory.waiting == 0
    assert stage.clock.getDelayedCalls() == []


def test_the_end() -> None:
    """What is behind the header hears that the connection is gone, and why."""
    stage = Stage()
    protocol, _ = stage.connect()
    protocol.dataReceived(V1 + b"x")
    reason = Failure(ConnectionDone())
    protocol.connectionLost(reason)
    assert stage.inside.made[0].lost is reason


def test_refused_behind_the_header() -> None:
    """If nobody wants the client its connection ends."""
    stage = Stage()
    stage.inside.refuses = True
    protocol, transport = stage.connect()
    protocol.dataReceived(V1 + b"x")
    assert transport.disconnected
    protocol.connectionLost(Failure(ConnectionDone()))
    assert stage.factory.waiting == 0


def test_how_many_may_wait() -> None:
    """Connections that wait for their header count: with as many as there is room for, one more is refused."""
    stage = Stage(room=2)
    (first, _), _ = stage.connect(), stage.connect()
    assert stage.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40001)) is None
    first.dataReceived(V1 + b"x")
    stage.connect()
    stage.room = 1
    assert stage.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40002)) is None


def test_backpressure() -> None:
    """What is behind the header pauses the network, and is paused by it, as without one."""
    stage = Stage()
    protocol, transport = stage.connect()
    protocol.dataReceived(V1 + b"x")
    inner = stage.inside.made[0]
    producer = object()
    inner.transport.registerProducer(producer, True)
    assert (transport.producer, transport.streaming) == (producer, True)
    inner.transport.unregisterProducer()
    assert transport.producer is None
    inner.transport.pauseProducing()
    assert transport.producerState == "paused"
    inner.transport.resumeProducing()
    assert transport.producerState == "producing"
    inner.transport.write(b"out")
    assert transport.value() == b"out"
    inner.transport.loseConnection()
    assert transport.disconnecting
    assert inner.transport.disconnecting


# With a real broker

PROXIED = ["--listen", "haproxy:tcp:0:interface=127.0.0.1", "--websocket", "none", "--allow-anonymous"]
StartBroker = Callable[..., Broker]


def start(start_broker: StartBroker, *options: str) -> tuple[Broker, tuple[str, int]]:
    broker = start_broker(listeners=(), options=options)
    line = broker.log.wait_for(r"listening for MQTT\b.* on 127\.0\.0\.1:")
    return broker, ("127.0.0.1", int(line.rpartition(":")[2]))


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_the_log_has_the_clients_address(start_broker: StartBroker, header: bytes) -> None:
    """MQTT behind a header works as ever, and the log says who the client is."""
    broker, address = start(start_broker, *PROXIED)
    client = Wire(address)
    client.send(header)
    client.connect("behind")
    client.subscribe(("proxy/#", 1))
    client.publish("proxy/x", b"y")
    assert client.expect_published().payload == b"y"
    client.disconnect()
    broker.log.wait_for(r"client behind connected from 198\.51\.100\.7:50123")
    broker.log.wait_for(r"client behind disconnected from 198\.51\.100\.7:50123")


def test_a_large_message_behind_a_header(start_broker: StartBroker) -> None:
    """More than any buffer holds goes in and out: whoever is behind the header is paused and resumed."""
    _, address = start(start_broker, *PROXIED, "--max-packet-size", "32m")
    payload = bytes(range(256)) * 64 * 1024
    client = Wire(address)
    client.send(V2)
    client.connect("large")
    client.subscribe(("large", 0))
    client.send(wire.publish("large", payload))
    assert client.expect_published().payload == payload
    client.disconnect()


def test_garbage_in_front_of_a_broker(start_broker: StartBroker) -> None:
    """Who comes without a header is sent away, and so is who stalls; neither disturbs others."""
    broker, address = start(start_broker, *PROXIED, "--connect-timeout", "5")
    stalled = socket.create_connection(address, wire.PATIENCE)
    stalled.sendall(V2[:10])
    without = socket.create_connection(address, wire.PATIENCE)
    without.sendall(wire.connect("without"))
    for connection in (without, stalled):
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    broker.log.wait_for(r"127\.0\.0\.1:\d+ disconnected: no PROXY header in time")
    broker.log.wait_for(r"127\.0\.0\.1:\d+ disconnected: no PROXY header$")
    client = Wire(address)
    client.send(V1)
    client.connect("with")
    client.disconnect()


def test_max_connections_behind_a_header(start_broker: StartBroker) -> None:
    """Connections without a header count towards max-connections: they cannot use up more than that."""
    broker, address = start(start_broker, *PROXIED, "--max-connections", "2", "--connect-timeout", "60")
    client = Wire(address)
    client.send(V1)
    client.connect("first")
    waiting = socket.create_connection(address, wire.PATIENCE)
    refused = socket.create_connection(address, wire.PATIENCE)
    assert refused.recv(1) == b""
    broker.log.wait_for(r"refused a connection from 127\.0\.0\.1:\d+: too many connections")
    waiting.close()
    client.disconnect()


def test_tls_behind_the_header(start_broker: StartBroker, certificates: Certificates) -> None:
    """A balancer that hands on TLS as it is puts its header in front of it."""
    files = f"privateKey={certificates.server_key}:certKey={certificates.server}"
    options = ["--listen", f"haproxy:ssl:0:interface=127.0.0.1:{files}", "--websocket", "none", "--allow-anonymous"]
    broker, address = start(start_broker, *options)
    client = Wire(address)
    client.send(V2)
    context = ssl.create_default_context(cafile=str(certificates.authority))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # asks for extensions that the test's authority does not have
    client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
    client.connect("secure")
    client.publish("a", b"b" * 100_000, qos=1)
    client.disconnect()
    broker.log.wait_for(r"client secure connected from 198\.51\.100\.7:50123")
