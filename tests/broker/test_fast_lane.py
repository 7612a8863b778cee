"""The fast lane changes nothing that a client could notice: two brokers, with and without it, do the same."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttcluster.mqtt.packets import (
    V5,
    V311,
    Connect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import Peer, World

CLIENTS = 3
TOPICS = ["t", "a/b", "a/c", "long/topic/with/levels"]
FILTERS = [*TOPICS, "#", "a/+", "+"]


class Actor:
    """A client that keeps what arrives, by kind, and answers when it is told to."""

    def __init__(self, world: World, number: int, version: int, clean: bool, properties: dict[int, Any]) -> None:
        fields: dict[str, Any] = {"clean_start": clean}
        if version == V5:
            fields["properties"] = properties
            if not clean:
                fields["properties"] = {**properties, Prop.SESSION_EXPIRY_INTERVAL: 1000}
        self.peer = Peer(world, version)
        self.version = version
        self.peer.send(Connect(f"client{number}", version, **fields))
        self.seen: dict[str, list[Any]] = defaultdict(list)
        self.owed: list[Packet] = []
        self.identifier = 0
        self.look()

    def look(self) -> None:
        for packet in self.peer.packets():
            self.seen[type(packet).__name__].append(packet)
            if isinstance(packet, Publish) and packet.qos:
                self.owed.append((Puback if packet.qos == 1 else Pubrec)(packet.packet_id))
            elif isinstance(packet, Pubrec) and packet.reason < 0x80:
                self.owed.append(Pubrel(packet.packet_id))
            elif isinstance(packet, Pubrel):
                self.owed.append(Pubcomp(packet.packet_id))

    def answer(self, count: int) -> None:
        now, self.owed = self.owed[:count], self.owed[count:]
        self.send(b"".join(encode(packet, self.version) for packet in now))

    def publish(self, publishes: list[Publish], cut: int) -> None:
        data = b""
        for publish in publishes:
            if publish.qos:
                self.identifier = self.identifier % 300 + 1
            properties = publish.properties if self.version == V5 else {}
            identifier = self.identifier if publish.qos else 0
            packet = Publish(publish.topic, publish.payload, publish.qos, publish.retain, False, identifier, properties)
            data += encode(packet, self.version)
        at = cut % (len(data) + 1)
        self.send(data[:at])
        self.send(data[at:])

    def send(self, data: bytes | Packet) -> None:
        if not self.peer.closed and data:
            self.peer.send(data)


payloads = st.sampled_from([b"", b"1", b"22", b"x" * 130])
publishes = st.builds(
    Publish,
    st.sampled_from(["t", "t", *TOPICS]),
    payloads,
    st.sampled_from([1, 0, 1, 2]),
    retain=st.sampled_from([False] * 9 + [True]),
    properties=st.sampled_from([{}] * 6 + [{Prop.CONTENT_TYPE: "x"}, {Prop.MESSAGE_EXPIRY_INTERVAL: 5}]),
)
rows = st.one_of(
    st.builds(lambda publish, count: [publish] * count, publishes, st.sampled_from([7, 2, 3, 40])),
    st.lists(publishes, min_size=1, max_size=6),
)
numbers = st.integers(0, CLIENTS - 1)
subscriptions = st.builds(
    Subscription,
    st.integers(0, 2),
    no_local=st.booleans(),
    retain_as_published=st.booleans(),
    identifier=st.sampled_from([0, 0, 7]),
)
publishing = st.tuples(st.just("publish"), numbers, rows, st.integers(0, 5000))
actions = st.one_of(
    publishing,
    publishing,
    st.tuples(st.just("answer"), numbers, st.sampled_from([1, 3, 1000])),
    st.tuples(st.just("subscribe"), numbers, st.sampled_from(FILTERS), subscriptions),
    st.tuples(st.just("unsubscribe"), numbers, st.sampled_from(FILTERS)),
)
clients = st.tuples(
    st.sampled_from([V311, V5]),
    st.sampled_from([True, True, False]),
    st.sampled_from([{}, {}, {Prop.RECEIVE_MAXIMUM: 2}, {Prop.TOPIC_ALIAS_MAXIMUM: 2}, {Prop.MAXIMUM_PACKET_SIZE: 60}]),
)


class Play:
    """One broker and its clients."""

    def __init__(self, kinds: list[tuple[int, bool, dict[int, Any]]], limits: dict[str, Any]) -> None:
        self.world = World(**limits)
        self.actors = [Actor(self.world, number, *kind) for number, kind in enumerate(kinds)]
        for actor in self.actors:  # what they may publish is known from here on
            actor.publish([Publish(topic, b"") for topic in TOPICS], 0)

    def do(self, action: tuple[Any, ...]) -> None:
        name, number, *rest = action
        actor = self.actors[number]
        if name == "publish":
            actor.publish(*rest)
        elif name == "answer":
            actor.answer(*rest)
        elif name == "subscribe":
            topic_filter, subscription = rest
            if actor.version == V311:
                subscription = Subscription(subscription.qos)
            identifier = subscription.identifier
            properties: Any = {Prop.SUBSCRIPTION_IDENTIFIER: [identifier]} if identifier else {}
            actor.send(Subscribe(9, [(topic_filter, subscription)], properties))
        else:
            actor.send(Unsubscribe(9, rest))
        self.world.settle()
        for each in self.actors:
            each.look()

    def outcome(self) -> list[Any]:
        broker = self.world.broker
        figures = (
            broker.metrics.publish_received_by,
            broker.metrics.publish_sent_by,
            broker.metrics.publish_bytes_sent_by,
            broker.metrics.messages_received,
            broker.metrics.messages_sent,
            broker.metrics.dropped,
        )
        return [(actor.peer.closed, dict(actor.seen)) for actor in self.actors] + [figures]


@settings(max_examples=300, deadline=None)
@given(
    kinds=st.lists(clients, min_size=CLIENTS, max_size=CLIENTS),
    limits=st.fixed_dictionaries(
        {
            "max_inflight": st.sampled_from([1, 3, 256]),
            "max_queued": st.sampled_from([2, 25, 1000]),
            "max_receiving": st.sampled_from([4, 256]),
        }
    ),
    first=st.tuples(
        *[st.tuples(st.just(number), st.sampled_from(["#", "t"]), subscriptions) for number in range(CLIENTS)]
    ),
    acts=st.lists(actions, min_size=3, max_size=14),
)
def test_everything_is_the_same_without_it(
    kinds: list[tuple[int, bool, dict[int, Any]]],
    limits: dict[str, Any],
    first: tuple[tuple[int, str, Subscription], ...],
    acts: list[tuple[Any, ...]],
) -> None:
    """Per client: the same packets of each kind, in the same order, and the same counters."""
    fast, slow = Play(kinds, {**limits, "no_fast_lane": False}), Play(kinds, {**limits, "no_fast_lane": True})
    assert fast.world.broker.fast_lane is not None
    assert slow.world.broker.fast_lane is None
    for action in [*(("subscribe", *one) for one in first), *acts]:
        fast.do(action)
        slow.do(action)
    assert fast.outcome() == slow.outcome()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [V311, V5])
def test_runs_do_take_it(qos: int, version: int) -> None:
    """So that the test above cannot pass for want of runs: a thousand messages make few writes and no packets."""
    world = World(no_fast_lane=False, max_queued=2000, max_inflight=2000, max_receiving=2000)
    publisher, subscriber = Peer(world, version), Peer(world, version)
    publisher.send(Connect("p", version))
    subscriber.send(Connect("s", version), Subscribe(1, [("t", Subscription(qos))]))
    subscriber.packets()
    publisher.send(Publish("t", b"first", qos, packet_id=2000 if qos else 0))
    taken: list[int] = []
    fast_lane = world.broker.fast_lane
    assert fast_lane is not None
    take = fast_lane.take
    fast_lane.take = lambda client: taken.append(take(client)) or taken[-1]  # type: ignore[method-assign, func-returns-value]
    publisher.send(*[Publish("t", b"x", qos, packet_id=n if qos else 0) for n in range(1, 1001)], Pingreq())
    assert sum(taken) == 1000
    assert len(subscriber.packets()) == 1001


def test_a_run_longer_than_the_receive_maximum_is_taken_in_pieces_at_3_1_1() -> None:
    world = World(max_receiving=10)
    publisher, subscriber = world.connect("p"), world.connect("s")
    subscriber.send(Subscribe(1, [("t", Subscription(2))]))
    publisher.send(*[Publish("t", bytes([n]), 1, packet_id=n + 1) for n in range(25)])
    assert [p.packet_id for p in publisher.packets()] == list(range(1, 26))
    assert [p.payload for p in subscriber.packets()[1:]] == [bytes([n]) for n in range(25)]


def test_a_publisher_of_qos_0_waits_a_moment_for_a_receiver_that_does_take_it() -> None:
    """Nothing is lost only because many publishers are quicker than one subscriber; one that takes nothing at all is
    waited for once."""
    world = World(no_fast_lane=False, send_buffer=1000)
    publisher, subscriber = world.connect("p"), world.connect("s")
    subscriber.send(Subscribe(1, [("t", Subscription(0))]))
    publisher.send(Publish("t", b"first"))
    subscriber.packets()
    frame = encode(Publish("t", b"." * 100), V311)
    subscriber.stop_taking()
    for _ in range(3):
        publisher.send(frame * 10)
        assert not publisher.reading
        subscriber.take_again()
        subscriber.stop_taking()
        assert publisher.reading
    assert world.broker.metrics.dropped["send_buffer"] == 0
    assert subscriber.bytes() == frame * 30
    publisher.send(frame * 10)
    assert not publisher.reading
    world.advance(0.1)
    assert publisher.reading
    publisher.send(frame * 10)
    assert publisher.reading
    assert world.broker.metrics.dropped["send_buffer"] == 10
