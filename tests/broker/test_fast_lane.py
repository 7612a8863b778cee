"""The fast lane changes nothing that a client could notice: two brokers, with and without it, do the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from mqttcluster.core.run import Run
from mqttcluster.core.session import Part, Session
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
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker import playbook
from tests.broker.playbook import Peer, World, payloads


@pytest.fixture(autouse=True, scope="module")
def with_the_fast_lane() -> Iterator[None]:
    """Also where all other tests do without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playbook, "NO_FAST_LANE", False)
        yield


CLIENTS = 3
TOPICS = ["t", "a/b", "a/c", "long/topic/with/levels"]
FILTERS = [*TOPICS, "#", "a/+", "+"]


class Actor:
    """A client that keeps what arrives, by kind, and answers when it is told to."""

    def __init__(
        self, world: World, number: int, version: int, clean: bool, properties: dict[int, Any], will: bool = False
    ) -> None:
        fields: dict[str, Any] = {"clean_start": clean}
        if will:
            fields["will"] = Will("t", b"will", 1)
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


contents = st.sampled_from([b"", b"1", b"22", b"x" * 130])
publishes = st.builds(
    Publish,
    st.sampled_from(["t", "t", *TOPICS]),
    contents,
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


class Whims:
    """Rules that change: `denied` is where nobody may publish or subscribe."""

    denied = ""

    def may_publish(self, client: Any, topic: str) -> bool:
        return topic != self.denied

    may_subscribe = may_publish


class Play:
    """One broker and its clients."""

    def __init__(self, kinds: list[tuple[int, bool, dict[int, Any]]], limits: dict[str, Any]) -> None:
        self.whims = Whims()
        self.world = World(authorizer=self.whims, **limits)
        self.kinds = kinds
        self.actors = [Actor(self.world, number, *kind) for number, kind in enumerate(kinds)]
        self.earlier: list[Actor] = []
        for actor in self.actors:
            self.learn(actor)

    def learn(self, actor: Actor) -> None:
        """What it may publish is known from here on."""
        actor.publish([Publish(topic, b"") for topic in TOPICS], 0)

    def connect(self, number: int, taking_over: bool) -> None:
        before = self.actors[number]
        if not taking_over and not before.peer.closed:
            before.peer.drop()
        self.earlier.append(before)
        actor = self.actors[number] = Actor(self.world, number, *self.kinds[number], will=taking_over)
        actor.identifier = before.identifier
        self.learn(actor)

    def happens(self, action: tuple[Any, ...]) -> None:
        """What is not said by a client."""
        name, *rest = action
        if name == "connect":
            self.connect(*rest)
        elif name == "drop":
            if not self.actors[rest[0]].peer.closed:
                self.actors[rest[0]].peer.drop()
        elif name == "hold":
            self.world.hold()
        elif name == "answer all":
            self.world.answer()
        elif name == "release":
            self.world.release()
        elif name == "wait":
            self.world.advance(1.5)
        else:
            self.whims.denied = rest[0]
            Deferred.fromCoroutine(self.world.broker.rules_changed())
        self.world.settle()
        self.look()

    def look(self) -> None:
        for each in [*self.earlier, *self.actors]:
            each.look()

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
        self.look()

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
        return [(actor.peer.closed, dict(actor.seen)) for actor in [*self.earlier, *self.actors]] + [figures]


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


events = st.one_of(
    st.tuples(st.just("connect"), numbers, st.booleans()),
    st.tuples(st.just("connect"), numbers, st.booleans()),
    st.tuples(st.just("drop"), numbers),
    st.tuples(st.just("hold")),
    st.tuples(st.just("hold")),
    st.tuples(st.just("answer all")),
    st.tuples(st.just("release")),
    st.tuples(st.just("wait")),
    st.tuples(st.just("rules"), st.sampled_from(["", "t", "a/b", "#"])),
)


@settings(max_examples=300, deadline=None)
@given(
    kinds=st.lists(clients, min_size=CLIENTS, max_size=CLIENTS),
    limits=st.fixed_dictionaries(
        {
            "max_inflight": st.sampled_from([1, 3, 256]),
            "max_queued": st.sampled_from([2, 25, 1000]),
            # Enough: a client that is not read for a while comes behind others, sooner or later with runs than without.
            "max_receiving": st.just(10_000),
        }
    ),
    first=st.tuples(
        *[st.tuples(st.just(number), st.sampled_from(["#", "t"]), subscriptions) for number in range(CLIENTS)]
    ),
    acts=st.lists(st.tuples(st.just(True), actions) | st.tuples(st.just(False), events), min_size=5, max_size=25),
)
def test_everything_is_the_same_whatever_happens_meanwhile(
    kinds: list[tuple[int, bool, dict[int, Any]]],
    limits: dict[str, Any],
    first: tuple[tuple[int, str, Subscription], ...],
    acts: list[tuple[bool, tuple[Any, ...]]],
) -> None:
    """Also when the store answers late, while clients come and go, are taken over, leave wills, and rules change."""
    fast, slow = Play(kinds, limits), Play(kinds, {**limits, "no_fast_lane": True})
    for action in (("subscribe", *one) for one in first):
        fast.do(action)
        slow.do(action)
    for said, action in [*acts, (False, ("release",)), (False, ("wait",)), (False, ("release",))]:
        for play in (fast, slow):
            (play.do if said else play.happens)(action)
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
    assert payloads(subscriber) == [bytes([n]) for n in range(25)]


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


# What only runs could get wrong


class Late:
    """An authorizer that takes its time for some client's subscriptions."""

    def __init__(self) -> None:
        self.asked: list[Deferred[bool]] = []
        self.slow = False

    def may_publish(self, client: Any, topic: str) -> bool:
        return True

    def may_subscribe(self, client: Any, topic_filter: str) -> Any:
        if not self.slow:
            return True
        self.asked.append(Deferred())
        return self.asked[-1]


def warm(publisher: Peer, *topics: str) -> None:
    """From here on it is known that the client may publish there."""
    publisher.send(*[Publish(topic, b"first") for topic in topics])


@pytest.mark.parametrize("version", [V311, V5])
def test_an_acknowledgement_that_comes_twice_in_one_breath(version: int) -> None:
    """It does nothing the second time; the client stays."""
    world = World()
    publisher, subscriber = Peer(world, version), Peer(world, version)
    publisher.send(Connect("p", version))
    subscriber.send(Connect("s", version), Subscribe(1, [("t", Subscription(2))]))
    publisher.packets()
    warm(publisher, "t")
    publisher.send(Publish("t", b"x", 2, packet_id=1), Publish("t", b"y", 1, packet_id=2))
    assert publisher.packets() == [Pubrec(1), Puback(2)]
    subscriber.packets()
    subscriber.send(Puback(2), Puback(2))
    subscriber.send(Pubrec(1), Pubrec(1))
    assert subscriber.packets() == [Pubrel(1), Pubrel(1)]
    subscriber.send(Pubcomp(1), Pubcomp(1))
    publisher.send(Pubrel(1), Pubrel(1))
    unknown = Pubcomp(1, Reason.PACKET_IDENTIFIER_NOT_FOUND) if version == V5 else Pubcomp(1)
    assert publisher.packets() == [Pubcomp(1), unknown]
    assert subscriber.alive()
    assert publisher.alive()


def test_acknowledgements_before_a_violation_count() -> None:
    """What a durable client acknowledged before it broke the protocol is not sent to it again."""
    world = World()
    publisher, subscriber = world.connect("p"), world.connect("s", clean_start=False)
    subscriber.send(Subscribe(1, [("t", Subscription(2))]))
    publisher.send(*[Publish("t", bytes([n]), 1, packet_id=n + 1) for n in range(3)])
    publisher.send(Publish("t", b"2", 2, packet_id=4))
    subscriber.packets()
    subscriber.send(*[Puback(n) for n in range(1, 5)])
    assert subscriber.closed
    assert payloads(world.connect("s", clean_start=False, present=True)) == [b"2"]


def test_nothing_of_a_chunk_is_dealt_with_behind_the_end_of_its_connection() -> None:
    """The store fails with a run, which ends the connection: what came behind it was never published."""
    world = World()
    publisher, durable, clean = world.connect("p"), world.connect("d", clean_start=False), world.connect("c")
    durable.send(Subscribe(1, [("q", Subscription(1))]))
    clean.send(Subscribe(1, [("t", Subscription(0))]))
    warm(publisher, "q", "t")
    clean.packets()
    world.store.failing = True
    publisher.send(Publish("q", b"1", 1, packet_id=1), *[Publish("t", b"2")] * 3)
    assert publisher.closed
    assert clean.packets() == []


def test_a_fenced_node_acknowledges_no_run() -> None:
    """The lease may run out between the beginning of a chunk and its end [G5]."""
    world = World()
    publisher, subscriber = world.connect("p"), world.connect("s")
    subscriber.send(Subscribe(1, [("t", Subscription(1))]))
    warm(publisher, "t")
    assert publisher.client is not None
    acting = [True]
    publisher.client.steps._may_act = lambda: acting[0]
    acting[0] = False
    publisher.send(*[Publish("t", b"x", 1, packet_id=n) for n in range(1, 4)])
    assert publisher.packets() == []
    acting[0] = True
    publisher.client.wake()
    world.settle()
    assert publisher.packets() == [Puback(1), Puback(2), Puback(3)]


def test_receivers_that_need_something_of_their_own_do_not_hold_everybody_up() -> None:
    """A chunk of thousands of tiny messages for many receivers with subscription identifiers is dealt with in parts,
    and between two parts it is somebody else's turn [G9]."""
    world = World(send_buffer=1 << 24)
    publisher = world.connect("p")
    for number in range(50):
        subscriber = world.peer(V5)
        wanted = Subscribe(1, [("t", Subscription(0, identifier=7))], {Prop.SUBSCRIPTION_IDENTIFIER: [7]})
        subscriber.send(Connect(f"s{number}", V5), wanted)
    warm(publisher, "t")
    fast_lane = world.broker.fast_lane
    assert fast_lane is not None
    sent, take, parts = world.broker.metrics.publish_sent_by, fast_lane.take, []

    def watched(client: Any) -> int:
        before = sum(sent)
        packets = take(client)
        parts.append(sum(sent) - before)
        return packets

    fast_lane.take = watched  # type: ignore[method-assign]
    publisher.send(encode(Publish("t", b""), V311) * 4000)
    assert sum(parts) == 4000 * 50
    assert max(parts) <= 5000


def test_topics_whose_receivers_are_to_be_found_again_do_not_hold_everybody_up() -> None:
    """A subscription changes, and a client publishes to hundreds of topics in one chunk: each has to be matched with
    all filters, and that is not done at one stroke [G9]."""
    world = World()
    publisher = world.connect("p")
    topics = [f"t/{number}" for number in range(200)]
    warm(publisher, *topics)
    world.connect("s").send(Subscribe(1, [("t/7", Subscription(0))]))
    fast_lane = world.broker.fast_lane
    assert fast_lane is not None
    take, parts = fast_lane.take, []
    fast_lane.take = lambda client: parts.append(take(client)) or parts[-1]  # type: ignore[method-assign, func-returns-value]
    for _ in range(2):
        warm(publisher, *topics)
    assert sum(parts) == 400
    assert max(parts[:20]) <= 10
    assert parts[-1] == 200


def test_a_run_for_receivers_that_take_it_as_it_is_goes_in_one_piece() -> None:
    """However many they are: or the fast lane would be none."""
    world = World()
    publisher = world.connect("p")
    for number in range(50):
        world.connect(f"s{number}").send(Subscribe(1, [("t", Subscription(0))]))
    warm(publisher, "t")
    fast_lane = world.broker.fast_lane
    assert fast_lane is not None
    take, parts = fast_lane.take, []
    fast_lane.take = lambda client: parts.append(take(client)) or parts[-1]  # type: ignore[method-assign, func-returns-value]
    publisher.send(encode(Publish("t", b""), V311) * 4000)
    assert parts == [4000]


def test_a_waiting_publisher_wakes_when_the_receiver_has_gone() -> None:
    world = World(send_buffer=1000)
    publisher, subscriber = world.connect("p"), world.connect("s")
    subscriber.send(Subscribe(1, [("t", Subscription(0))]))
    warm(publisher, "t")
    subscriber.stop_taking()
    publisher.send(encode(Publish("t", b"." * 100), V311) * 20)
    assert not publisher.reading
    subscriber.drop()
    world.advance(0.1)
    assert publisher.reading
    assert publisher.alive()


def test_who_waits_for_a_receiver_more_than_once_is_noted_once() -> None:
    """And a crowd that waits for one receiver costs each of them the same."""
    world = World(send_buffer=1000)
    publisher, subscriber = world.connect("p"), world.connect("s")
    assert publisher.client is not None
    assert subscriber.client is not None
    for _ in range(3):
        assert subscriber.client.living.wait(publisher.client._room_again)
    assert len(subscriber.client.sender.waiting or ()) == 1


def test_a_message_that_found_room_does_not_keep_the_rest_of_its_run_in_memory() -> None:
    """A slow subscriber's queue has room for one message at a time: it costs that message, not the chunk it came in."""
    world = World(max_queued=50, max_inflight=1, max_receiving=300)
    publisher, subscriber = world.connect("p"), world.connect("s")
    subscriber.send(Subscribe(1, [("t", Subscription(1))]))
    warm(publisher, "t")
    frames = [Publish("t", b"." * 100, 1, packet_id=n) for n in range(1, 301)]
    publisher.send(*frames)
    for number in range(1, 51):
        subscriber.send(Puback(number))
        publisher.send(*frames)
    assert subscriber.client is not None
    queue = subscriber.client.session.queue
    assert subscriber.client.session.queued == 50
    assert sum(len(part.run.data) for part in queue if isinstance(part, Part)) <= 50 * 110


def test_messages_reach_a_session_that_is_resumed_while_an_authorizer_thinks() -> None:
    """They are queued between the moment when the store gives the session and that when the connection has it."""
    authorizer = Late()
    world = World(authorizer=authorizer)
    publisher = world.connect("p")
    world.connect("s", clean_start=False).send(Subscribe(1, [("t", Subscription(1))])).drop()
    warm(publisher, "t")
    authorizer.slow = True
    subscriber = world.peer()
    subscriber.send(Connect("s", clean_start=False))
    publisher.send(*[Publish("t", bytes([n]), 1, packet_id=n + 1) for n in range(3)])
    assert len([packet for packet in publisher.packets() if isinstance(packet, Puback)]) == 3
    authorizer.asked[0].callback(True)
    world.settle()
    assert payloads(subscriber) == [b"\0", b"\1", b"\2"]


def test_an_identifier_that_is_in_flight_holds_up_what_would_need_it_and_nothing_before_it() -> None:
    """After 65,535 messages the identifiers begin anew; the client has still not acknowledged its third message."""
    session = Session("c", 1, False, 65535, 100_000)
    frames = b"".join(encode(Publish("t", b"", 1, packet_id=1), V311) for _ in range(65540))
    run = Run("t", "p", 1, False, frames, 7, 5)
    run.data = run.data[: 7 * 65540]
    assert session.offer_run(run, 1) == 65540
    following = session.next_of_runs()
    assert following is not None
    assert following.number == 65535
    for identifier in (1, 2, 4, 5):
        session.inflight.puback(identifier)
    following = session.next_of_runs()
    assert following is not None
    assert (following.sequence, following.number) == (65536, 2)
    assert session.next_of_runs() is None
    session.inflight.puback(3)
    following = session.next_of_runs()
    assert following is not None
    assert (following.sequence, following.number) == (65538, 3)
    assert session.queued == 0


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_run_does_not_overtake_what_waits_for_the_store(qos: int) -> None:
    """A retained message, then plain ones, of one client on one topic [G4]."""
    world = World()
    publisher, subscriber = world.connect("p"), world.connect("s")
    subscriber.send(Subscribe(1, [("t", Subscription(2))]))
    warm(publisher, "t")
    subscriber.packets()
    world.hold()
    retained = Publish("t", b"retained", qos, retain=True, packet_id=9 if qos else 0)
    plain = [Publish("t", bytes([n]), qos, packet_id=n + 1 if qos else 0) for n in range(4)]
    publisher.send(retained, *plain)
    assert publisher.packets() == []
    world.release()
    assert payloads(subscriber) == [b"retained", *(bytes([n]) for n in range(4))]
    assert [getattr(p, "packet_id", 0) for p in publisher.packets()] == ([9, 1, 2, 3, 4] if qos else [])


def test_of_a_run_goes_out_with_dup_what_an_earlier_connection_may_have_sent() -> None:
    """Word of it came late: the store had it before the session was taken over [MQTT-3.3.1-1]."""
    world = World()
    subscriber = world.connect("s", clean_start=False)
    subscriber.send(Subscribe(1, [("t", Subscription(1))]))
    subscriber.packets()
    assert subscriber.client is not None
    subscriber.client.session.sent_before = 2
    data = b"".join(encode(Publish("t", bytes([n]), 1, packet_id=1), V311) for n in range(4))
    subscriber.client.living.arrived_run(Run("t", "p", 1, False, data, 8, 5), 1, 1, 4, ())
    world.settle()
    assert [(p.payload, p.dup) for p in subscriber.packets() if isinstance(p, Publish)] == [
        (b"\0", True),
        (b"\1", True),
        (b"\2", False),
        (b"\3", False),
    ]
