"""SIGKILL at any moment: what was acknowledged is safe, and what is exactly once stays so [G1] [G2].

The clients here are bare sockets that keep their own half of the session, so each test knows what was acknowledged.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.support import wire
from tests.support.persistent import Publisher, Pump, Subscriber
from tests.support.process import TCP, Broker


@pytest.fixture
def broker(start_broker: Callable[..., Broker]) -> Broker:
    return start_broker([TCP])


@pytest.mark.rule("MQTT-4.3.2-2", "MQTT-4.3.3-2", "MQTT-4.4.0-1", "MQTT-4.1.0-1", "MQTT-4.6.0-6", "MQTT-3.1.2-5")
@pytest.mark.parametrize("seed", [1, 2])
def test_acknowledged_means_safe_under_load(broker: Broker, seed: int) -> None:
    """Killed five times under load: what was acknowledged reaches every persistent session in order, at QoS 2 once."""
    chance = random.Random(seed)
    rounds = 5
    publishers = [
        Publisher(f"publisher{qos}", f"load/{qos}", qos, (b"%d" % n for n in range(60 * rounds))) for qos in (1, 2)
    ]
    online = [Subscriber(f"online{qos}", (f"load/{qos}", qos)) for qos in (1, 2)]
    offline, roaming = (Subscriber(name, ("load/+", 2)) for name in ("offline", "roaming"))
    subscribers = [*online, offline, roaming]
    everybody = Pump(*publishers, *subscribers)
    for subscriber in subscribers:
        subscriber.connect(broker.address)
    everybody.until(lambda: all(subscriber.subscribed for subscriber in subscribers))
    offline.leave()

    for turn in range(rounds):
        for peer in [*publishers, *online]:
            if peer.socket is None:
                peer.connect(broker.address)
        if turn % 2 and roaming.socket is None:
            roaming.connect(broker.address)
        enough = sum(len(publisher.safe) for publisher in publishers) + chance.randrange(20, 100)
        everybody.until(lambda enough=enough: sum(len(p.safe) for p in publishers) >= enough)  # type: ignore[misc]
        broker.kill()
        # The clients either still read what had reached them, or it is lost with the connection.
        chance.choice([everybody.drain, everybody.drop])()
        broker.start()

    for peer in [*publishers, *subscribers]:
        peer.connect(broker.address)
    everybody.until(lambda: all(publisher.done for publisher in publishers))
    for publisher in publishers:
        assert publisher.safe == [b"%d" % n for n in range(60 * rounds)]

    def complete(subscriber: Subscriber) -> bool:
        wanted = [p for p in publishers if subscriber not in online or p.qos == online.index(subscriber) + 1]
        return all(subscriber.has(p.topic, p.safe) for p in wanted)

    everybody.until(lambda: all(map(complete, subscribers)))
    for subscriber in [online[0], offline, roaming]:
        assert subscriber.once("load/1") == publishers[0].safe
    for subscriber in [online[1], offline, roaming]:
        assert subscriber.payloads("load/2") == publishers[1].safe
    for subscriber in subscribers:
        subscriber.leave()
        with broker.wire().connect(subscriber.client_id, clean=False, present=True) as again:
            again.expect_silence()


@pytest.mark.rule("MQTT-3.1.2-5", "MQTT-4.5.0-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_queue_of_an_absent_session(broker: Broker, qos: int) -> None:
    """Messages acknowledged while a subscriber is away are there, in order, when it comes back after a crash."""
    with broker.wire().connect("absent", clean=False) as absent:
        absent.subscribe(("news/#", qos))
        absent.disconnect()
    payloads = [b"%d" % n for n in range(100)]
    publisher = Publisher("publisher", "news/today", qos, payloads)
    publisher.connect(broker.address)
    Pump(publisher).until(lambda: publisher.safe == payloads)
    broker.restart()
    subscriber = Subscriber("absent", known=True)
    subscriber.connect(broker.address)
    Pump(subscriber).until(lambda: subscriber.idle and len(subscriber.received) >= len(payloads))
    assert subscriber.payloads("news/today") == payloads


@pytest.mark.rule("MQTT-4.3.3-2", "MQTT-4.4.0-1")
def test_killed_between_pubrec_and_pubrel_of_a_publisher(broker: Broker) -> None:
    """A publisher that repeats its QoS 2 PUBLISH after the crash, although it had PUBREC, makes no second message."""
    with broker.wire().connect("reader", clean=False) as reader:
        reader.subscribe(("once", 2))
        reader.disconnect()
    publisher = broker.wire().connect("writer", clean=False)
    publisher.send(wire.publish("once", b"first", 2, packet_id=10))
    publisher.expect(wire.pubrec(10))
    broker.restart()

    with broker.wire().connect("writer", clean=False, present=True) as publisher:
        publisher.send(wire.publish("once", b"first", 2, packet_id=10, dup=True))
        publisher.expect(wire.pubrec(10))
        publisher.send(wire.pubrel(10))
        publisher.expect(wire.pubcomp(10))
        publisher.publish("once", b"second", 2, packet_id=10)
    with broker.wire().connect("reader", clean=False, present=True) as reader:
        assert [reader.take().payload for _ in range(2)] == [b"first", b"second"]
        reader.expect_silence()


@pytest.mark.rule("MQTT-4.3.3-2")
def test_killed_after_pubcomp_of_a_publisher(broker: Broker) -> None:
    """A publisher that repeats PUBREL after the crash gets PUBCOMP, and its packet id is free for a new message."""
    with broker.wire().connect("reader", clean=False) as reader:
        reader.subscribe(("once", 2))
        reader.disconnect()
    publisher = broker.wire().connect("writer", clean=False)
    publisher.publish("once", b"first", 2, packet_id=10)
    broker.restart()

    with broker.wire().connect("writer", clean=False, present=True) as publisher:
        publisher.send(wire.pubrel(10))
        publisher.expect(wire.pubcomp(10))
        publisher.publish("once", b"second", 2, packet_id=10)
    with broker.wire().connect("reader", clean=False, present=True) as reader:
        assert [reader.take().payload for _ in range(2)] == [b"first", b"second"]
        reader.expect_silence()


@pytest.mark.rule("MQTT-3.3.1-1", "MQTT-4.4.0-1", "MQTT-2.3.1-4")
@pytest.mark.parametrize("qos", [1, 2])
def test_killed_before_a_subscriber_acknowledged(broker: Broker, qos: int) -> None:
    """What a subscriber had not acknowledged comes again after the crash, in order, with DUP and its packet id."""
    reader = broker.wire().connect("reader", clean=False).subscribe(("twice", qos))
    with broker.wire().connect("writer") as writer:
        for number in range(3):
            writer.publish("twice", b"%d" % number, qos)
    before = [reader.expect_published() for _ in range(3)]
    assert [message.dup for message in before] == [False, False, False]
    broker.restart()

    with broker.wire().connect("reader", clean=False, present=True) as reader:
        after = [reader.expect_published() for _ in range(3)]
        assert [(m.payload, m.packet_id) for m in after] == [(m.payload, m.packet_id) for m in before]
        assert [message.dup for message in after] == [True, True, True]
        for message in after:
            reader.acknowledge(message)
        reader.expect_silence()


@pytest.mark.rule("MQTT-4.3.3-1", "MQTT-4.4.0-1")
def test_killed_between_pubrec_and_pubcomp_of_a_subscriber(broker: Broker) -> None:
    """A subscriber that had PUBREL gets PUBREL again after the crash, and never that message again."""
    reader = broker.wire().connect("reader", clean=False).subscribe(("once", 2))
    with broker.wire().connect("writer") as writer:
        writer.publish("once", b"first", 2)
        writer.publish("once", b"second", 2)
    first, second = reader.expect_published(), reader.expect_published()
    reader.send(wire.pubrec(first.packet_id))
    reader.expect(wire.pubrel(first.packet_id))
    broker.restart()

    with broker.wire().connect("reader", clean=False, present=True) as reader:
        packets = [reader.packet(), reader.packet()]
        assert wire.pubrel(first.packet_id) in packets
        [again] = [packet.published for packet in packets if packet.type == wire.PUBLISH]
        assert (again.payload, again.packet_id, again.dup) == (b"second", second.packet_id, True)
        reader.send(wire.pubcomp(first.packet_id))
        reader.acknowledge(again)
        reader.expect_silence()


@pytest.mark.rule("MQTT-3.1.2-7", "MQTT-3.3.1-5", "MQTT-3.3.1-10")
def test_retained_messages_survive(broker: Broker) -> None:
    """Acknowledged retained messages are there after a crash, the newest of each topic; a cleared one is not."""
    with broker.wire().connect("writer") as writer:
        writer.publish("kept/a", b"old", 1, retain=True)
        writer.publish("kept/a", b"new", 1, retain=True)
        writer.publish("kept/b", b"two", 2, retain=True)
        writer.publish("kept/c", b"gone", 1, retain=True)
        writer.publish("kept/c", b"", 1, retain=True)
    broker.restart()

    with broker.wire().connect("reader").subscribe(("kept/#", 2)) as reader:
        found = [reader.take() for _ in range(2)]
        assert sorted((m.topic, m.payload, m.qos, m.retain) for m in found) == [
            ("kept/a", b"new", 1, True),
            ("kept/b", b"two", 2, True),
        ]
        reader.expect_silence()


@pytest.mark.rule("MQTT-3.1.2-4", "MQTT-3.1.2-6", "MQTT-3.2.2-2", "MQTT-3.10.4-2")
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_sessions_and_subscriptions_survive(broker: Broker, end: str) -> None:
    """After a crash, as after a stop, a persistent session has the subscriptions it had; a clean one is gone."""
    persistent = broker.wire().connect("persistent", clean=False)
    persistent.subscribe(("stay", 1), ("change", 2), ("leave", 1))
    persistent.subscribe(("change", 1), packet_id=2)
    persistent.send(wire.unsubscribe(3, "leave"))
    persistent.expect("B0 02 00 03")
    clean = broker.wire().connect("clean").subscribe(("stay", 1))
    getattr(broker, end)()
    clean.expect_closed()
    broker.start()

    with broker.wire().connect("writer") as writer:
        for topic in ("stay", "change", "leave"):
            writer.publish(topic, topic.encode(), 2)
    with broker.wire().connect("persistent", clean=False, present=True) as persistent:
        assert [(m.topic, m.qos) for m in (persistent.take(), persistent.take())] == [("stay", 1), ("change", 1)]
        persistent.expect_silence()
    broker.wire().connect("clean", clean=False, present=False).close()


@pytest.mark.rule("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.1.2-17", "MQTT-3.14.4-3")
def test_wills_of_a_killed_broker(broker: Broker) -> None:
    """The clients of a killed broker have lost their connections: their wills are published after the restart, once."""
    with broker.wire().connect("watcher", clean=False) as watcher:
        watcher.subscribe(("wills/#", 1))
        watcher.disconnect()
    dying = [
        broker.wire().connect("plain", will=("wills/plain", b"plain", 1, False)),
        broker.wire().connect("kept", will=("wills/kept", b"kept", 1, True)),
    ]
    broker.wire().connect("polite", will=("wills/polite", b"polite", 1, False)).disconnect()
    with broker.wire().connect("writer") as writer:
        # Acknowledged after the DISCONNECT was taken note of: the end of that will is safe, too.
        writer.publish("elsewhere", b"", 1)
    broker.restart()
    for client in dying:  # until now they were there
        client.expect_closed()
        client.close()

    with broker.wire().connect("watcher", clean=False, present=True) as watcher:
        wills = [watcher.take(), watcher.take()]
        assert sorted((m.topic, m.payload) for m in wills) == [("wills/kept", b"kept"), ("wills/plain", b"plain")]
    # A session that begins only now: a will that is published again would be new to it.
    with broker.wire().connect("second", clean=False) as second:
        second.subscribe(("wills/plain", 1))
    broker.restart()

    with broker.wire().connect("second", clean=False, present=True) as second:
        second.expect_silence()
    with broker.wire().connect("late").subscribe(("wills/#", 1)) as late:
        message = late.take()
        assert (message.topic, message.payload, message.retain) == ("wills/kept", b"kept", True)
        late.expect_silence()
