"""What most conformance tests need beside the client under test: a bystander, a will, an authenticator, raw bytes."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from mqttcluster.broker.auth import Credentials
from mqttcluster.mqtt.packets import Publish, Suback, Subscribe, Subscription, Will
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import Peer, World
from tests.support.wire import frame, string

ACCEPTED = bytes.fromhex("20 02 00 00")
RESUMED = bytes.fromhex("20 02 01 00")

#: The will of `with_will`, as a bystander sees it.
WILL = Publish("will", b"gone")


def connect_bytes(flags: int, *fields: bytes, level: int = 4, name: str | bytes = "MQTT", keep_alive: int = 0) -> bytes:
    """A CONNECT as `flags` and `fields` say, whether or not they fit together."""
    return frame(0x10, string(name) + bytes((level, flags)) + keep_alive.to_bytes(2, "big") + b"".join(fields))


def subscribe(peer: Peer, *filters: str, qos: int = 0, packet_id: int = 1) -> None:
    """Subscribe, and read the SUBACK and nothing else."""
    peer.send(Subscribe(packet_id, [(topic_filter, Subscription(qos)) for topic_filter in filters]))
    assert peer.packets() == [Suback(packet_id, [Reason(qos)] * len(filters))]


def bystander(world: World, topic_filter: str = "#", qos: int = 0) -> Peer:
    """Another client: it sees what is published, and must never be disturbed."""
    peer = world.connect("bystander")
    subscribe(peer, topic_filter, qos=qos)
    return peer


def with_will(world: World, client_id: str = "mortal", **fields: object) -> Peer:
    """A client whose end without DISCONNECT the bystander hears of."""
    return world.connect(client_id, will=Will("will", b"gone"), **fields)


def assert_refused(peer: Peer, *others: Peer) -> None:
    """The broker has closed the connection without a word; `others` have noticed nothing."""
    assert peer.bytes() == b""
    assert peer.closed
    for other in others:
        assert other.packets() == []
        assert other.alive()


def assert_cut_off(peer: Peer, watcher: Peer) -> None:
    """The broker has closed the connection of `with_will` without a word and published its will, once."""
    assert peer.bytes() == b""
    assert peer.closed
    assert watcher.packets() == [WILL]
    assert watcher.alive()


class Doorkeeper:
    """An authenticator that answers what the test says, when it says so, and remembers what it was asked."""

    def __init__(self, answer: Reason | None = Reason.SUCCESS) -> None:
        self.answer = answer
        self.asked: list[Credentials] = []
        self.waiting: list[Deferred[Reason]] = []

    def authenticate(self, credentials: Credentials) -> Deferred[Reason]:
        self.asked.append(credentials)
        if self.answer is None:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        return succeed(self.answer)
