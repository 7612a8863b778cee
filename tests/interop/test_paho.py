"""Eclipse Paho for Python, over every transport it has."""

from __future__ import annotations

import queue
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.enums import MQTTProtocolVersion as Version
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.certificates import Certificates
from tests.support.process import TCP, TLS, UNIX, WEBSOCKET, Broker
from tests.support.wire import PATIENCE, ClosedByBroker, Wire

VERSIONS = [
    pytest.param(paho.MQTTv31, id="3.1"),
    pytest.param(paho.MQTTv311, id="3.1.1"),
    pytest.param(paho.MQTTv5, id="5.0"),
]
DEADLINE = PATIENCE
COUNT = 100


def properties(packet: int, **values: Any) -> Properties:
    """Properties by Paho's own names, for one kind of packet."""
    found = Properties(packet)
    for name, value in values.items():
        setattr(found, name, value)
    return found


class Client:
    """A Paho client in its own thread; what it hears is in queues.

    `more` are properties of CONNECT, for MQTT 5.0; a session that is not clean is kept for five minutes there.
    """

    def __init__(
        self,
        client_id: str = "",
        clean: bool = True,
        version: Version = paho.MQTTv311,
        transport: str = TCP,
        **more: Any,
    ) -> None:
        five = version == paho.MQTTv5
        self._options: dict[str, Any] = {}
        if five:
            more = more if clean else {"SessionExpiryInterval": 300, **more}
            self._options = {"clean_start": clean, "properties": properties(PacketTypes.CONNECT, **more)}
        #: The properties of CONNACK.
        self.agreed: Properties | None = None
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if five else clean,
            protocol=version,
            reconnect_on_failure=False,
            transport={TCP: "tcp", TLS: "tcp", UNIX: "unix", WEBSOCKET: "websockets"}[transport],  # type: ignore[arg-type]
        )
        self.connected: queue.Queue[tuple[bool, bool]] = queue.Queue()
        self.granted: queue.Queue[list[int]] = queue.Queue()
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.ended: queue.Queue[object] = queue.Queue()
        self.paho.on_connect = self._on_connect
        self.paho.on_subscribe = lambda c, u, mid, codes, p: self.granted.put([code.value for code in codes])
        self.paho.on_message = lambda c, u, message: self.messages.put(message)
        self.paho.on_disconnect = lambda c, u, flags, code, p: self.ended.put(code)

    def _on_connect(self, client: Any, userdata: Any, flags: paho.ConnectFlags, code: Any, properties: Any) -> None:
        self.agreed = properties
        self.connected.put((not code.is_failure, flags.session_present))

    def connect(self, host: str, port: int) -> bool:
        """Connect and start its thread; Session Present."""
        self.paho.connect(host, port, **self._options)
        self.paho.loop_start()
        accepted, present = self.connected.get(timeout=DEADLINE)
        assert accepted
        return present

    def subscribe(self, topic: str, qos: int) -> None:
        self.paho.subscribe(topic, qos)
        assert self.granted.get(timeout=DEADLINE) == [qos]

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False) -> None:
        """Publish and wait until the exchange is over."""
        self.paho.publish(topic, payload, qos, retain).wait_for_publish(DEADLINE)

    def take(self, count: int) -> list[paho.MQTTMessage]:
        return [self.messages.get(timeout=DEADLINE) for _ in range(count)]

    def leave(self) -> None:
        """DISCONNECT."""
        self.paho.disconnect()
        self.ended.get(timeout=DEADLINE)
        self.paho.loop_stop()

    def vanish(self) -> None:
        """Lose the connection without DISCONNECT."""
        sock = self.paho.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        self.ended.get(timeout=DEADLINE)


Make = Callable[..., Client]


@pytest.fixture
def make() -> Iterator[Make]:
    clients: list[Client] = []

    def make_(*args: Any, **options: Any) -> Client:
        clients.append(Client(*args, **options))
        return clients[-1]

    yield make_
    for client in clients:
        client.paho.loop_stop()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_both_ways_in_order(shared_broker: Broker, make: Make, version: Version, qos: int) -> None:
    """Two clients send each other a hundred messages; each gets all of them, once, in order, at the QoS agreed."""
    one, two = (make(version=version, client_id=f"paho{n}v{version}q{qos}") for n in (1, 2))
    base = f"paho/{version}/{qos}"
    for client, topic in ((one, f"{base}/to1"), (two, f"{base}/to2")):
        client.connect(shared_broker.host, shared_broker.port)
        client.subscribe(topic, qos)
    expected = [b"%d" % n for n in range(COUNT)]
    for payload in expected:
        one.paho.publish(f"{base}/to2", payload, qos)
        two.paho.publish(f"{base}/to1", payload, qos)
    for client in (one, two):
        messages = client.take(COUNT)
        assert [message.payload for message in messages] == expected
        assert {(message.qos, message.retain) for message in messages} == {(qos, False)}
    for client in (one, two):
        client.leave()
        assert client.messages.empty()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_retained(shared_broker: Broker, make: Make, version: Version, qos: int) -> None:
    """A retained message greets a later subscriber, marked as retained; cleared, it greets nobody."""
    topic = f"paho/retained/{version}/{qos}"
    client = make(version=version, client_id=f"retained{version}{qos}")
    client.connect(shared_broker.host, shared_broker.port)
    client.publish(topic, b"here", qos, retain=True)
    client.subscribe(topic, 2)
    [message] = client.take(1)
    assert (message.payload, message.qos, message.retain) == (b"here", qos, True)
    client.publish(topic, b"", qos, retain=True)
    [message] = client.take(1)
    assert (message.payload, message.retain) == (b"", False)
    client.subscribe(topic, 2)
    client.publish(topic, b"marker", qos)
    assert client.take(1)[0].payload == b"marker"
    client.leave()


@pytest.mark.parametrize("version", VERSIONS)
def test_will(shared_broker: Broker, make: Make, version: Version) -> None:
    """The will of a client that vanishes is published; that of a client that says goodbye is not."""
    topic = f"paho/will/{version}"
    watcher = make(client_id=f"watcher{version}", version=version)
    watcher.connect(shared_broker.host, shared_broker.port)
    watcher.subscribe(topic, 1)
    for name in ("polite", "lost"):
        client = make(client_id=f"{name}{version}", version=version)
        client.paho.will_set(topic, name, qos=1)
        client.connect(shared_broker.host, shared_broker.port)
        if name == "polite":
            client.leave()
        else:
            client.vanish()
    assert watcher.take(1)[0].payload == b"lost"
    watcher.leave()
    assert watcher.messages.empty()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_persistent_session(shared_broker: Broker, make: Make, version: Version, qos: int) -> None:
    """What was published while a client with a persistent session was away is there when it comes back, in order."""
    topic, name = f"paho/away/{version}/{qos}", f"away{version}{qos}"
    client = make(name, clean=False, version=version)
    assert not client.connect(shared_broker.host, shared_broker.port)
    client.subscribe(topic, qos)
    client.leave()
    sender = make(f"sender{version}{qos}", version=version)
    sender.connect(shared_broker.host, shared_broker.port)
    expected = [b"%d" % n for n in range(COUNT)]
    for info in [sender.paho.publish(topic, payload, qos) for payload in expected]:
        info.wait_for_publish(DEADLINE)
    sender.leave()
    again = make(name, clean=False, version=version)
    # MQTT 3.1 has no Session Present.
    assert again.connect(shared_broker.host, shared_broker.port) is (version != paho.MQTTv31)
    messages = again.take(COUNT)
    assert [message.payload for message in messages] == expected
    assert {message.qos for message in messages} == {qos}
    again.leave()
    clean = make(name, version=version)
    assert not clean.connect(shared_broker.host, shared_broker.port)
    clean.leave()


@pytest.mark.parametrize("transport", [UNIX, WEBSOCKET])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_other_transports(shared_broker: Broker, make: Make, transport: str, qos: int) -> None:
    """Over a UNIX socket and over WebSocket everything is as over TCP, large messages too."""
    if transport not in shared_broker.ports:
        pytest.skip(f"this broker does not offer {transport}")
    client = make(transport=transport)
    if transport == UNIX:
        client.connect(str(shared_broker.ports[UNIX]), 1)
    else:
        client.paho.ws_set_options(path="/mqtt")
        client.connect(shared_broker.host, int(shared_broker.ports[WEBSOCKET]))
    topic = f"paho/{transport}/{qos}"
    client.subscribe(topic, qos)
    expected = [b"%d" % n for n in range(COUNT)] + [bytes(200_000), b"end"]
    for payload in expected:
        client.paho.publish(topic, payload, qos)
    assert [message.payload for message in client.take(len(expected))] == expected
    client.leave()


def test_tls(shared_broker: Broker, make: Make, certificates: Certificates) -> None:
    """A client that trusts our authority and checks the host name is served."""
    client = make(transport=TLS)
    client.paho.tls_set(ca_certs=str(certificates.authority))
    client.connect(shared_broker.host, int(shared_broker.ports[TLS]))
    client.subscribe("paho/tls", 1)
    client.publish("paho/tls", b"sealed", 1)
    assert client.take(1)[0].payload == b"sealed"
    client.leave()


def test_client_certificate(
    pytestconfig: pytest.Config, start_broker: Callable[..., Broker], make: Make, certificates: Certificates
) -> None:
    """Where certificates are asked for, a client that has one of ours is served and one without is not."""
    if pytestconfig.getoption("--broker") != "mqttcluster":
        pytest.skip("set up for mqttcluster only")
    demand = ["--tls-client-ca", str(certificates.authority), "--tls-client-certificates", "require"]
    broker = start_broker([TLS], demand)
    port = int(broker.ports[TLS])
    client = make(transport=TLS)
    client.paho.tls_set(str(certificates.authority), str(certificates.client), str(certificates.client_key))
    client.connect(broker.host, port)
    client.subscribe("paho/mutual", 1)
    client.publish("paho/mutual", b"known", 1)
    assert client.take(1)[0].payload == b"known"
    client.leave()

    def stranger() -> None:
        # With TLS 1.3 the client's handshake is over before the server looks at certificates.
        context = ssl.create_default_context(cafile=str(certificates.authority))
        with Wire((broker.host, port)) as wire:
            wire.socket = context.wrap_socket(wire.socket, server_hostname=broker.host)
            wire.connect("stranger")

    with pytest.raises((ssl.SSLError, ConnectionError, ClosedByBroker)):
        stranger()
