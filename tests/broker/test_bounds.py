"""No client has more of the broker than its share: every bound of `Settings`, and what happens at it [G9]."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.core.message import Message
from mqttcluster.mqtt.packets import Connect, Publish, Suback, Subscribe, Subscription, Will
from mqttcluster.storage.interfaces import QueueLimits
from mqttcluster.storage.memory import MemoryStore
from tests.broker.playbook import Peer, World, only_publishes, payloads, payloads_of, take_all
from tests.conformance.raw import (
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    acknowledgement,
    puback,
    pubcomp,
    publish,
    pubrec,
    pubrel,
    send,
    suback,
    subscribe,
    subscribe_to,
    text,
    unsuback,
    unsubscribe,
)


def numbers(*ranges: range) -> list[bytes]:
    return [b"%d" % number for numbers in ranges for number in numbers]


def waiting(peer: Peer) -> int:
    """Bytes that wait in the broker for this peer to take them."""
    assert peer.client is not None
    return peer.client.sender.size


# -- the queue


def test_a_full_queue_of_a_clean_session_drops_the_newest() -> None:
    """2 in flight and 5 queued are kept, in order; the others are counted as dropped; later ones find room again."""
    world = World(max_inflight=2, max_queued=5)
    subscriber, publisher = subscribe_to(world.connect("s"), ("t", 1)), world.connect("p")
    for number in range(20):
        send(publisher, "t", b"%d" % number, 1)
    assert world.broker.metrics.dropped["queue_full"] == 13
    seen = payloads(subscriber)
    assert seen == numbers(range(2))
    for identifier in range(1, 8):
        seen += payloads(subscriber.send(puback(identifier)))
    assert seen == numbers(range(7))
    send(publisher, "t", b"later", 1)
    assert payloads(subscriber) == [b"later"]


@pytest.mark.parametrize("connected", [True, False], ids=("online", "offline"))
@pytest.mark.parametrize(
    ("drop_oldest", "kept"), [(False, numbers(range(5))), (True, numbers(range(15, 20)))], ids=("newest", "oldest")
)
def test_a_full_queue_of_a_durable_session(connected: bool, drop_oldest: bool, kept: list[bytes]) -> None:
    """The store keeps 5; which of them is lost is a setting for sessions that are offline. QoS 0 is not touched."""
    world = World(store=MemoryStore(QueueLimits(5, drop_oldest)), max_inflight=2)
    subscriber, publisher = subscribe_to(world.connect("s", clean_start=False), ("t", 1)), world.connect("p")
    if not connected:
        subscriber.send(DISCONNECT)
    for number in range(20):
        send(publisher, "t", b"%d" % number, 1)
    if connected:
        send(publisher, "t", b"QoS 0", 0)
        assert world.broker.metrics.dropped["queue_full"] == 15
        kept = [*numbers(range(2)), b"QoS 0", *numbers(range(2, 5))]
    else:
        subscriber = world.connect("s", clean_start=False, present=True)
    seen = payloads(subscriber)
    for identifier in range(1, 21):
        seen += payloads(subscriber.send(puback(identifier)))
    assert seen == kept


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
def test_a_long_queue_is_read_in_portions(clean: bool) -> None:
    """A thousand messages for a client that was away or slow arrive in order, with a small look-ahead in memory."""
    world = World(max_inflight=3, max_queued=2000)
    subscriber, publisher = subscribe_to(world.connect("s", clean_start=clean), ("t", 2)), world.connect("p")
    subscriber.stop_taking()
    for number in range(1000):
        publisher.send(publish("t", b"%d" % number, 1 + number % 2, id=number + 1))
        if number % 2:
            publisher.send(pubrel(number + 1))
    subscriber.take_again()
    seen = []
    while packets := subscriber.packets():
        for packet in packets:
            assert isinstance(packet, Publish)
            seen.append(packet.payload)
            if not clean:
                assert len(session_of(subscriber).queue) <= 2 * world.broker.sessions.look_ahead
            subscriber.send(acknowledgement(packet.qos, packet.packet_id))
            if packet.qos == 2:
                subscriber.put_back(subscriber.bytes().replace(pubrel(packet.packet_id), b""))
                subscriber.send(pubcomp(packet.packet_id))
    assert seen == numbers(range(1000))


def session_of(peer: Peer) -> Any:
    assert peer.client is not None
    assert peer.client.outlet is not None
    return peer.client.outlet.session


@pytest.mark.parametrize("window", [1, 2, 64, 100])
def test_a_durable_session_does_not_stall(window: int) -> None:
    """Whatever the window: a client that acknowledges gets everything that was queued while it was offline."""
    world = World(max_inflight=window)
    subscribe_to(world.connect("s", clean_start=False), ("t", 1)).send(DISCONNECT)
    publisher = world.connect("p")
    for number in range(500):
        send(publisher, "t", b"%d" % number, 1)
    subscriber = world.connect("s", clean_start=False, present=True)
    # all acknowledgements come in one chunk, so that nothing is in flight when the queue is looked at
    assert payloads_of(take_all(subscriber)) == numbers(range(500))


# -- the window


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("qos", [1, 2])
def test_the_window_is_kept(qos: int, clean: bool) -> None:
    """No more than `max_inflight` unacknowledged messages reach a client; PUBREC alone makes no room."""
    world = World(max_inflight=3)
    subscriber, publisher = subscribe_to(world.connect("s", clean_start=clean), ("t", 2)), world.connect("p")
    for number in range(10):
        send(publisher, "t", b"%d" % number, qos)
    assert payloads(subscriber) == numbers(range(3))
    if qos == 1:
        assert subscriber.send(puback(2)).bytes() == publish("t", b"3", 1, id=4)
    else:
        assert subscriber.send(pubrec(2)).bytes() == pubrel(2)
        assert subscriber.send(pubcomp(2)).bytes() == publish("t", b"3", 2, id=4)


@pytest.mark.parametrize("qos", [1, 2])
def test_the_window_is_kept_over_a_reconnect(qos: int) -> None:
    """What comes again counts: messages with DUP first, exchanges past PUBREC too, new ones when there is room."""
    world = World(max_inflight=2)
    subscriber, publisher = subscribe_to(world.connect("s", clean_start=False), ("t", 2)), world.connect("p")
    for number in range(4):
        send(publisher, "t", b"%d" % number, qos)
    subscriber.drop()
    subscriber = world.connect("s", clean_start=False, present=True)
    again = publish("t", b"0", qos, id=1, dup=True) + publish("t", b"1", qos, id=2, dup=True)
    assert subscriber.bytes() == again
    if qos == 2:
        assert subscriber.send(pubrec(1)).bytes() == pubrel(1)
        subscriber.drop()
        subscriber = world.connect("s", clean_start=False, present=True)
        assert subscriber.bytes() == pubrel(1) + publish("t", b"1", 2, id=2, dup=True)
        assert subscriber.send(pubcomp(1)).bytes() == publish("t", b"2", 2, id=3)


# -- publishes that wait for the store


def test_a_slow_store_pauses_the_publisher_of_runs() -> None:
    """The same for runs: they are taken as far as there is room, acknowledged in order, and nothing is lost."""
    world = World(max_receiving=4)
    subscribe_to(world.connect("s", clean_start=False), ("t", 2)).send(DISCONNECT)
    publisher = world.connect("p")
    world.hold()
    publisher.send(*(publish("t", b"%d" % number, 1, id=number) for number in range(1, 11)))
    acknowledged = b""
    while len(acknowledged) < 40:
        assert publisher.client is not None
        assert publisher.client.steps.unacknowledged <= 4
        assert publisher.reading == (len(acknowledged) > 24)
        world.answer(1)
        world.settle()
        acknowledged += (arrived := publisher.bytes())
        assert arrived
    assert acknowledged == b"".join(puback(number) for number in range(1, 11))
    world.store.release_all()
    again = world.connect("s", clean_start=False, present=True)
    assert [packet.payload for packet in again.packets()] == [b"%d" % number for number in range(1, 11)]


@pytest.mark.parametrize("qos", [1, 2])
def test_a_slow_store_pauses_the_publisher(qos: int) -> None:
    """At `max_receiving` publishes under way reading pauses; it goes on with the answers, and nothing is lost."""
    world = World(max_receiving=4, no_fast_lane=True)
    subscribe_to(world.connect("s", clean_start=False), ("t", 2)).send(DISCONNECT)
    publisher, other = world.connect("p"), world.connect("other")
    world.hold()
    publisher.send(*(publish("t", b"%d" % number, qos, id=number) for number in range(1, 4)))
    assert publisher.reading
    publisher.send(*(publish("t", b"%d" % number, qos, id=number) for number in range(4, 11)))
    assert not publisher.reading
    assert len(world.store._waiting) == 4
    assert other.send(PINGREQ).bytes() == PINGRESP
    world.answer(1)
    assert publisher.bytes() == acknowledgement(qos, 1)
    assert len(world.store._waiting) == 4
    world.release()
    assert publisher.reading
    assert publisher.bytes() == b"".join(acknowledgement(qos, number) for number in range(2, 11))


def test_a_slow_store_pauses_a_client_that_releases() -> None:
    """PUBREL waits for the store as well, and is bounded as well."""
    world = World(max_receiving=4)
    publisher = world.connect("p", clean_start=False)
    assert publisher.send(publish("t", b"x", 2, id=1)).bytes() == pubrec(1)
    world.hold()
    publisher.send(pubrel(1) * 100)
    assert not publisher.reading
    assert len(world.store._waiting) == 4
    world.release()
    assert publisher.reading
    assert publisher.bytes() == pubcomp(1) * 100


# -- output


def test_a_client_that_takes_nothing_loses_qos_0() -> None:
    """Past `send_buffer` QoS 0 is dropped and counted; what waits stays below it, but for one message."""
    world = World(send_buffer=1000)
    slow, quick = (subscribe_to(world.connect(name), ("t", 0)) for name in ("slow", "quick"))
    publisher = world.connect("p")
    slow.stop_taking()
    frame = publish("t", b"." * 95)
    for _ in range(50):
        publisher.send(frame)
        world.advance(0.001)
    assert quick.bytes() == frame * 50
    assert slow.bytes() == b""
    kept = 1000 // len(frame) + 1
    assert waiting(slow) == kept * len(frame)
    assert world.broker.metrics.dropped["send_buffer"] == 50 - kept
    slow.take_again()
    assert slow.bytes() == frame * kept
    publisher.send(frame)
    assert slow.bytes() == frame


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_that_takes_nothing_keeps_qos_1_and_2_queued(qos: int, clean: bool) -> None:
    """They wait where they are and flow when the client takes output again."""
    world = World(send_buffer=1000, max_inflight=100)
    slow, publisher = subscribe_to(world.connect("slow", clean_start=clean), ("t", 2)), world.connect("p")
    slow.stop_taking()
    for number in range(50):
        send(publisher, "t", b"%d" % number + b"." * 100, qos)
    assert waiting(slow) == 0
    assert not any(world.broker.metrics.dropped.values())
    slow.take_again()
    world.advance(0)
    assert [payload.rstrip(b".") for payload in payloads(slow)] == numbers(range(50))


@pytest.mark.parametrize(
    ("question", "answer"),
    [(PINGREQ, PINGRESP), (publish("u", b"x", 1, id=1), puback(1)), (pubrec(9), pubrel(9))],
    ids=("PINGREQ", "PUBLISH", "PUBREC"),
)
def test_a_client_that_takes_nothing_is_not_read(question: bytes, answer: bytes) -> None:
    """Answers fill the buffer up to its bound; then the client is paused, until it takes them."""
    world = World(send_buffer=100)
    client = world.connect("c")
    client.stop_taking()
    sent = 0
    while client.reading:
        client.send(question * 7)
        sent += 7
        assert sent < 1000
    assert waiting(client) <= 100 + 7 * len(answer)
    client.take_again()
    assert client.reading
    assert client.bytes() == answer * sent
    assert client.alive()


def test_more_answers_than_the_buffer_holds_in_one_chunk() -> None:
    """A client that does take its output gets every answer, though one chunk asks for more than `send_buffer`."""
    world = World(send_buffer=100)
    client = world.connect("c")
    client.send(PINGREQ * 1000)
    while arrived := client.bytes():
        assert not arrived.replace(PINGRESP, b"")
        world.settle()
    assert client.reading
    assert world.broker.metrics.messages_sent == 1001
    assert client.alive()


def test_messages_that_fill_the_buffer_do_not_leave_a_client_paused() -> None:
    """Its own messages come back to a client, more in one chunk than `send_buffer`: it is read again afterwards."""
    world = World(send_buffer=100)
    client = subscribe_to(world.connect("c"), ("t", 1))
    client.send(*(publish("t", b"." * 50, 1, id=number) for number in range(1, 101)))
    for _ in range(10):
        world.settle()
    assert client.reading
    assert client.alive()


# -- connections


def test_the_number_of_connections_is_bounded() -> None:
    """One more than `max_connections` is refused and counted; when one has gone there is room."""
    world = World(max_connections=3)
    peers = [world.connect("a"), world.connect("b"), world.peer()]
    assert world.peer().closed
    assert world.broker.metrics.connections_refused == 1
    peers[2].drop()
    assert not world.peer().closed
    assert peers[0].alive()
    peers[0].send(DISCONNECT)
    peers[0].drop()
    assert world.connect("c").alive()


@pytest.mark.parametrize("beginning", ["", "10", "10 0C 00 04 4D 51 54 54 04 02"])
def test_a_connection_without_connect_is_closed_in_time(beginning: str) -> None:
    """Nothing, or a CONNECT that does not end, for `connect_timeout` seconds: closed, nothing sent."""
    world = World(connect_timeout=10)
    peer = world.peer().send(beginning) if beginning else world.peer()
    world.advance(9.9)
    assert not peer.closed
    world.advance(0.1)
    assert peer.closed
    assert peer.bytes() == b""


def test_a_connect_that_the_store_does_not_answer_is_closed_in_time() -> None:
    """It gets CONNACK 0x03 (unavailable); the late answer of the store does no harm, the next CONNECT works."""
    world = World(connect_timeout=10)
    world.hold()
    peer = world.peer().send(Connect("c", clean_start=False, will=Will("will", b"gone")))
    world.advance(10)
    assert peer.closed
    world.release()
    assert peer.bytes() == bytes.fromhex("20 02 00 03")
    assert world.connect("c", clean_start=False, present=True).alive()


def test_a_connected_client_is_not_closed_by_the_timeout() -> None:
    """`connect_timeout` is about CONNECT only."""
    world = World(connect_timeout=10)
    client = world.connect("c")
    world.advance(1000)
    assert client.alive()


def test_a_client_that_does_not_take_its_last_bytes_is_aborted() -> None:
    """A closed connection whose peer keeps it open goes after `connect_timeout` seconds."""
    world = World(connect_timeout=10)
    client = world.connect("c").send(DISCONNECT)
    assert not client.aborted
    world.advance(10)
    assert client.aborted


# -- subscriptions, topics, retained messages


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
def test_the_number_of_subscriptions_is_bounded(clean: bool) -> None:
    """Filters past `max_subscriptions` get 0x80; those that are there can be replaced, and removed for others."""
    world = World(max_subscriptions=3)
    client = world.connect("c", clean_start=clean)
    assert client.send(subscribe(1, ("a", 0), ("b", 0), ("a", 1), ("c", 2), ("d", 1), ("b", 2))).bytes() == suback(
        1, 0, 0, 1, 2, 0x80, 2
    )
    assert client.send(subscribe(2, ("e", 0), ("c", 0))).bytes() == suback(2, 0x80, 0)
    assert client.send(unsubscribe(3, "a")).bytes() == unsuback(3)
    assert client.send(subscribe(4, ("e", 0), ("f", 0))).bytes() == suback(4, 0, 0x80)
    assert subscribe_to(world.connect("other"), ("d", 0)).alive()


def test_the_number_of_levels_is_bounded() -> None:
    """Filters with more levels get 0x80, messages and wills with more are dropped; PUBACK comes as ever."""
    world = World(max_topic_levels=3)
    client = world.connect("c")
    assert client.send(subscribe(1, ("a/b/c", 0), ("a/b/c/d", 0), ("///", 0), ("#", 0))).bytes() == suback(
        1, 0, 0x80, 0x80, 0
    )
    publisher = world.connect("p", will=Will("a/b/c/will", b"x", retain=True))
    send(publisher, "a/b/c/d", b"x", 1, retain=True)
    send(publisher, "a/b/c", b"y", 1)
    publisher.drop()
    assert client.bytes() == publish("a/b/c", b"y")
    assert subscribe_to(world.connect("late"), ("#", 0)).bytes() == b""


@pytest.mark.parametrize("sys_interval", [0, 10], ids=["alone", "beside the broker's own"])
def test_the_number_of_retained_messages_is_bounded(sys_interval: int) -> None:
    """At `max_retained` topics a new one is delivered and not kept; old ones can be replaced, or cleared for others.
    Those under $SYS take nobody's place."""
    world = World(max_retained=2, sys_interval=sys_interval)
    world.advance(30)
    publisher, watcher = world.connect("p"), subscribe_to(world.connect("w"), ("#", 0))
    for topic, payload in (("a", b"1"), ("b", b"2"), ("c", b"3"), ("a", b"4")):
        send(publisher, topic, payload, 1, retain=True)
    assert payloads(watcher) == [b"1", b"2", b"3", b"4"]
    assert sorted(payloads(subscribe_to(world.connect("late"), ("#", 0)))) == [b"2", b"4"]
    for topic, payload in (("a", b""), ("c", b"5"), ("d", b"6"), ("d", b"")):
        send(publisher, topic, payload, 1, retain=True)
    assert sorted(payloads(subscribe_to(world.connect("later"), ("#", 0)))) == [b"2", b"5"]


# -- a subscription that matches a lot


TOPICS = 20_000


class SlowPeer(Peer):
    """Takes one write at a time."""

    largest = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        self.largest = max(self.largest, len(data))
        self.stop_taking()


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("qos", [0, 1])
def test_a_subscription_to_everything_brings_everything(qos: int, clean: bool) -> None:
    """20,000 retained messages come, each once, to a client that takes them slowly; little of them waits in memory."""
    world = World(send_buffer=5000, sys_interval=0)
    publisher = world.connect("p")
    for number in range(TOPICS):
        publisher.send(publish(f"t/{number}", b"%d" % number, 1, id=1, retain=True))
    publisher.bytes()
    client = SlowPeer(world)
    client.send(Connect("c", clean_start=clean)).take_again()
    assert client.bytes() == bytes.fromhex("20 02 00 00")
    client.send(Subscribe(1, [("#", Subscription(qos))]))
    client.take_again()
    seen: list[str] = []
    arrived = client.bytes()
    assert arrived[:5] == suback(1, qos)
    client.put_back(arrived[5:])
    limit = max(world.settings.max_inflight, world.broker.sessions.look_ahead) * 2
    while len(seen) < TOPICS:
        packets = client.packets()
        session = session_of(client)
        assert waiting(client) <= 5000 + 30
        assert len(session.queue) <= limit
        seen += [packet.topic for packet in packets if isinstance(packet, Publish)]
        answers = b"".join(puback(packet.packet_id) for packet in packets if isinstance(packet, Publish) and packet.qos)
        if answers:
            client.send(answers)
        client.take_again()
        world.settle()
        assert packets or client._arrived, f"stalled after {len(seen)}"
    assert client.largest <= 5000 + 30
    assert sorted(seen) == sorted(f"t/{number}" for number in range(TOPICS))
    assert not any(world.broker.metrics.dropped.values())


def test_a_look_for_deliveries_comes_to_an_end() -> None:
    """A client whose session came from another node has the store asked for what it may have missed; when there is no
    more it is not asked again, over and over."""
    world = World()
    client = subscribe_to(world.connect("c", clean_start=False), ("t", 1))
    assert client.client is not None
    world.hold()
    client.client.look()
    world.settle()
    asked = 0
    while world.store.waiting and asked < 10:
        asked += world.store.waiting
        world.answer()
        world.settle()
    assert asked == 1


def test_subscribing_over_and_over_costs_no_memory() -> None:
    """A client that takes nothing and subscribes to everything again and again is owed a bounded number of messages."""
    world = World()
    for number in range(100):
        send(world.connect("p"), f"t/{number}", b"x", 1, retain=True)
    client = subscribe_to(world.connect("c"), ("none", 1))
    client.stop_taking()
    for identifier in range(1, 1001):
        client.send(subscribe(identifier, ("#", 1)))
    owed = sum(len(grants) for grants in session_of(client).feed.values())
    assert 100 <= owed + len(session_of(client).queue) <= 100 * 20
    client.take_again()
    assert payloads(client)


def test_a_queue_smaller_than_the_window_loses_no_retained_message() -> None:
    """Retained messages for a new subscription wait for room in the queue, however small it is."""
    world = World(max_queued=5, max_inflight=32)
    for number in range(50):
        send(world.connect("p"), f"t/{number}", b"%d" % number, 1, retain=True)
    client = subscribe_to(world.connect("c"), ("#", 1))
    assert sorted(payloads_of(take_all(client))) == sorted(numbers(range(50)))
    assert world.broker.metrics.dropped["queue_full"] == 0


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("qos", [0, 1])
def test_overlapping_filters_at_the_bounds_lose_no_retained_message(qos: int, clean: bool) -> None:
    """Ten filters of one packet match each of 50 topics, queue and buffer hold less: 500 messages come."""
    world = World(max_queued=5, send_buffer=100)
    for number in range(50):
        send(world.connect("p"), f"a/b/c/{number}", b"x", 1, retain=True)
    filters = ["#", "+/#", "a/#", "+/+/#", "a/+/#", "+/b/#", "a/b/#", "+/+/+/+", "a/+/+/+", "a/b/c/+"]
    client = world.connect("c", clean_start=clean)
    client.send(subscribe(1, *((name, qos) for name in filters)))
    assert len(take_all(client)) == 500
    assert not any(world.broker.metrics.dropped.values())


def test_a_subscribe_with_very_many_filters_is_answered_soon() -> None:
    """A packet of a megabyte with one filter over and over: the answer has a code for each."""
    world = World()
    client = world.connect("c")
    entries = (text("a") + b"\x01") * 200_000
    body = b"\x00\x01" + entries
    size = len(body)
    head = bytes((0x82, size & 127 | 128, size >> 7 & 127 | 128, size >> 14))
    client.send(head + body)
    assert client.packets() == [Suback(1, [1] * 200_000)]


def test_a_search_of_many_retained_messages_leaves_room_for_others() -> None:
    """While a client that subscribes to everything waits, over and over, others are served in between."""
    world = World()
    publisher = world.connect("p")
    for number in range(TOPICS):
        publisher.send(publish(f"t/{number}", b"x", retain=True))
    greedy, other = world.connect("g"), world.connect("o")
    assert greedy.client is not None
    assert other.client is not None
    greedy.client.data_received(b"".join(subscribe(number, ("#", 0)) for number in range(1, 5)))
    assert greedy.client.outlet is not None
    assert len(greedy.client.outlet.session.feed) < TOPICS
    other.client.data_received(bytes.fromhex("C0 00"))
    world.clock.advance(0)
    assert other.bytes() == bytes.fromhex("D0 00")
    world.settle()
    assert len(greedy.packets()) == 4 + 4 * TOPICS


def test_unsubscribing_stops_retained_messages_that_still_wait() -> None:
    """What a client has unsubscribed does not go on coming; what another subscription asked for does."""
    world = World(send_buffer=1000)
    for number in range(100):
        for topic in (f"a/{number}", f"b/{number}"):
            send(world.connect("p"), topic, b"." * 100, 0, retain=True)
    client = world.connect("c")
    client.stop_taking()
    client.send(subscribe(1, ("a/+", 0), ("b/+", 0)))
    client.send(unsubscribe(2, "a/+"))
    client.take_again()
    world.settle()
    topics = [message.topic for message in only_publishes(client.packets())]
    assert sum(topic.startswith("b/") for topic in topics) == 100
    assert sum(topic.startswith("a/") for topic in topics) < 100


def test_a_search_for_retained_messages_in_vain_takes_turns() -> None:
    """A subscription that looks at very many topics and finds nothing does not stop the broker meanwhile."""
    world = World()
    for number in range(10_000):
        world.broker.retained.apply(Message(f"a/{number}", b"x", retain=True))
    searching, other = world.connect("s"), world.connect("o")
    assert searching.client is not None
    searching.client.data_received(subscribe(1, ("+/+/none", 0)))
    assert not searching.reading
    assert other.alive()
    assert searching.reading
    assert searching.alive()


@pytest.mark.rule("MQTT-3.1.2-24")
def test_a_client_that_takes_no_output_is_not_waited_for_beyond_its_keep_alive() -> None:
    """A client that has vanished with its output full cannot be heard, and is closed after one and a half times its
    keep-alive, so that its will is not held back; one that takes its output again in time stays."""
    world = World(send_buffer=1024)
    gone = subscribe_to(world.connect("g", keep_alive=10, will=Will("dead", b"x", 0, False)), ("t", 0))
    slow = subscribe_to(world.connect("s", keep_alive=10), ("t", 0))
    watcher, publisher = subscribe_to(world.connect("w"), ("dead", 0)), world.connect("p")
    for peer in (gone, slow):
        peer.stop_taking()
    for _ in range(20):
        send(publisher, "t", bytes(100), 0)
    for peer in (gone, slow):
        peer.send(PINGREQ)
        assert not peer.reading
    world.advance(14)
    slow.take_again()
    assert slow.reading
    world.advance(2)
    assert gone.closed
    assert payloads(watcher) == [b"x"]
    world.advance(10)
    assert slow.alive()


def test_large_publishes_that_wait_for_the_store_pause_the_publisher() -> None:
    """Reading pauses by bytes, too, long before the number of publishes would; all are acknowledged in the end."""
    world = World(receive_buffer=10_000)
    publisher = world.connect("p", clean_start=False)
    subscribe_to(publisher, ("t", 0))
    subscribe_to(world.connect("s", clean_start=False), ("t", 1))
    world.hold()
    publisher.send(b"".join(publish("t", b"." * 4000, 1, id=number) for number in range(1, 6)))
    assert not publisher.reading
    world.release()
    assert publisher.reading
    answers = publisher.bytes()
    assert all(puback(number) in answers for number in range(1, 6))


def test_the_levels_of_all_subscriptions_are_bounded() -> None:
    """A few hundred deep filters cost as much as thousands of ordinary ones, and are refused at the same price."""
    world = World(max_subscriptions=10)
    client = world.connect("c")
    deep = "/".join("+" * 50)
    client.send(subscribe(1, (deep, 0), (f"{deep}/x", 0), ("a", 0)))
    assert client.bytes() == suback(1, 0, 0, 0x80)
    client.send(unsubscribe(2, deep)).send(subscribe(3, ("a", 0)))
    assert client.bytes() == unsuback(2) + suback(3, 0)
