"""The store fails, operation by operation: no acknowledgement, the connection that asked ends, nobody else notices,
and all is well again when the store is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from mqttcluster.broker.broker import Broker
from mqttcluster.broker.settings import Settings
from mqttcluster.mqtt.packets import Connect, Will
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.memory import MemoryStore
from tests.broker.playbook import HeldStore, Peer, World
from tests.conformance.raw import (
    DISCONNECT,
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
    unsuback,
    unsubscribe,
)


@pytest.fixture(autouse=True)
def no_tracebacks() -> Iterator[None]:
    """A store that fails is nothing unexpected: no traceback is logged."""
    seen: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None:
            seen.append(event)

    globalLogPublisher.addObserver(observe)
    yield
    globalLogPublisher.removeObserver(observe)
    assert not seen


class Bystanders:
    """Two clients that need no store. `undisturbed` lets them talk to each other."""

    def __init__(self, world: World) -> None:
        self.listener = subscribe_to(world.connect("listener"), ("bystanders", 1))
        self.talker = world.connect("talker")
        self.count = 0

    def undisturbed(self) -> None:
        self.count += 1
        send(self.talker, "bystanders", b"x", 1)
        assert self.listener.bytes() == publish("bystanders", b"x", 1, id=self.count)
        assert self.listener.send(puback(self.count)).bytes() == b""
        send(self.talker, "bystanders", b"y", 0)
        assert self.listener.bytes() == publish("bystanders", b"y")


@pytest.fixture
def bystanders(world: World) -> Bystanders:
    return Bystanders(world)


def durable(world: World, name: str = "s", present: bool = False, **fields: object) -> Peer:
    return world.connect(name, clean_start=False, present=present, **fields)


def assert_cut_off(peer: Peer) -> None:
    """Closed, and nothing said."""
    assert peer.closed
    assert peer.bytes() == b""


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("N311-21", "MQTT-3.2.2-4", "MQTT-3.2.2-5")
def test_open(world: World, bystanders: Bystanders, clean: bool) -> None:
    """CONNECT is answered with 0x03, server unavailable; later it works."""
    world.store.failing = True
    peer = world.peer().send(Connect("c", clean_start=clean))
    assert peer.bytes() == bytes.fromhex("20 02 00 03")
    assert peer.closed
    bystanders.undisturbed()
    world.store.failing = False
    assert world.connect("c", clean_start=clean).alive()


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
def test_open_that_takes_over(world: World, bystanders: Bystanders, clean: bool) -> None:
    """The older connection is closed and the newer one refused; the older one's will is published once, later."""
    watcher = subscribe_to(world.connect("w"), ("will", 1))
    older = world.connect("c", clean_start=clean, will=Will("will", b"gone", 1))
    world.store.failing = True
    newer = world.peer().send(Connect("c", clean_start=clean))
    assert newer.bytes() == bytes.fromhex("20 02 00 03")
    assert older.closed
    bystanders.undisturbed()
    world.store.failing = False
    world.advance(2)
    assert watcher.bytes() == publish("will", b"gone", 1, id=1)
    assert world.connect("c", clean_start=clean, present=not clean).alive()
    assert watcher.bytes() == b""


def test_subscribe(world: World, bystanders: Bystanders) -> None:
    """No SUBACK, the connection ends, and there is no subscription."""
    client = durable(world)
    world.store.failing = True
    assert_cut_off(client.send(subscribe(1, ("t", 1))))
    bystanders.undisturbed()
    world.store.failing = False
    client = durable(world, present=True)
    send(world.connect("p"), "t", b"x", 1)
    assert client.bytes() == b""
    assert client.send(subscribe(1, ("t", 1))).bytes() == suback(1, 1)


def test_unsubscribe(world: World, bystanders: Bystanders) -> None:
    """No UNSUBACK, the connection ends, and the subscription is still there."""
    client = subscribe_to(durable(world), ("t", 1))
    world.store.failing = True
    assert_cut_off(client.send(unsubscribe(2, "t")))
    bystanders.undisturbed()
    world.store.failing = False
    client = durable(world, present=True)
    send(world.connect("p"), "t", b"x", 1)
    assert client.bytes() == publish("t", b"x", 1, id=1)
    assert client.send(unsubscribe(2, "t")).bytes() == unsuback(2)


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-4.8.0-2", "N311-21")
def test_publish(world: World, bystanders: Bystanders, qos: int, clean: bool) -> None:
    """No acknowledgement, the publisher's connection ends; it publishes again and the subscriber has it once."""
    subscriber = subscribe_to(durable(world), ("t", 2))
    publisher = world.connect("p", clean_start=clean)
    world.store.failing = True
    assert_cut_off(publisher.send(publish("t", b"x", qos, id=1)))
    assert subscriber.bytes() == b""
    assert subscriber.alive()
    bystanders.undisturbed()
    world.store.failing = False
    publisher = world.connect("p", clean_start=clean, present=not clean)
    publisher.send(publish("t", b"x", qos, id=1, dup=True))
    assert publisher.bytes() == acknowledgement(qos, 1)
    assert subscriber.bytes() == publish("t", b"x", qos, id=1)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_publish_with_retain(world: World, bystanders: Bystanders, qos: int) -> None:
    """The connection ends and nothing is retained: what could not be stored is not shown to later subscribers."""
    publisher, late = world.connect("p"), world.connect("late")
    world.store.failing = True
    assert_cut_off(publisher.send(publish("t", b"x", qos, id=1, retain=True)))
    assert subscribe_to(late, ("t", 2)).bytes() == b""
    bystanders.undisturbed()
    world.store.failing = False
    send(world.connect("p"), "t", b"y", qos, retain=True)
    assert subscribe_to(world.connect("later"), ("t", 2)).bytes() == publish("t", b"y", qos, id=1, retain=True)


def test_publishes_behind_the_one_that_failed(world: World, bystanders: Bystanders) -> None:
    """Of three publishes under way the second fails: the first is acknowledged, no later one is."""
    subscriber = subscribe_to(durable(world), ("t", 1))
    publisher = world.connect("p")
    world.hold()
    publisher.send(publish("t", b"1", 1, id=1))
    world.store.failing = True
    publisher.send(publish("t", b"2", 1, id=2), publish("t", b"3", 1, id=3))
    assert_cut_off(publisher)
    world.store.failing = False
    world.release()
    assert subscriber.bytes() == publish("t", b"1", 1, id=1)
    assert publisher.bytes() == b""
    bystanders.undisturbed()
    send(world.connect("p"), "t", b"2", 1)
    assert subscriber.bytes() == publish("t", b"2", 1, id=2)


def test_release(world: World, bystanders: Bystanders) -> None:
    """No PUBCOMP, the connection ends; PUBREL again completes the exchange, and the identifier serves again."""
    subscriber = subscribe_to(world.connect("w"), ("t", 2))
    publisher = durable(world, "p")
    assert publisher.send(publish("t", b"1", 2, id=1)).bytes() == pubrec(1)
    world.store.failing = True
    assert_cut_off(publisher.send(pubrel(1)))
    bystanders.undisturbed()
    world.store.failing = False
    publisher = durable(world, "p", present=True)
    assert publisher.send(publish("t", b"1", 2, id=1, dup=True)).bytes() == pubrec(1)
    assert publisher.send(pubrel(1)).bytes() == pubcomp(1)
    send(publisher, "t", b"2", 2, id=1)
    assert subscriber.bytes() == publish("t", b"1", 2, id=1) + publish("t", b"2", 2, id=2)


def test_acknowledge_puback(world: World, bystanders: Bystanders) -> None:
    """A PUBACK that could not be recorded ends the connection; the message comes again with DUP."""
    subscriber = subscribe_to(durable(world), ("t", 1))
    send(world.connect("p"), "t", b"x", 1)
    assert subscriber.bytes() == publish("t", b"x", 1, id=1)
    world.store.failing = True
    assert_cut_off(subscriber.send(puback(1)))
    bystanders.undisturbed()
    world.store.failing = False
    subscriber = durable(world, present=True)
    assert subscriber.bytes() == publish("t", b"x", 1, id=1, dup=True)
    assert subscriber.send(puback(1)).bytes() == b""
    subscriber.drop()
    assert durable(world, present=True).bytes() == b""


def test_acknowledge_pubrec(world: World, bystanders: Bystanders) -> None:
    """No PUBREL for a PUBREC that could not be recorded: the message comes again with DUP."""
    subscriber = subscribe_to(durable(world), ("t", 2))
    send(world.connect("p"), "t", b"x", 2)
    assert subscriber.bytes() == publish("t", b"x", 2, id=1)
    world.store.failing = True
    assert_cut_off(subscriber.send(pubrec(1)))
    bystanders.undisturbed()
    world.store.failing = False
    subscriber = durable(world, present=True)
    assert subscriber.bytes() == publish("t", b"x", 2, id=1, dup=True)
    assert subscriber.send(pubrec(1)).bytes() == pubrel(1)


def test_acknowledge_pubcomp(world: World, bystanders: Bystanders) -> None:
    """A PUBCOMP that could not be recorded ends the connection; PUBREL comes again, the message does not."""
    subscriber = subscribe_to(durable(world), ("t", 2))
    send(world.connect("p"), "t", b"x", 2)
    assert subscriber.bytes() == publish("t", b"x", 2, id=1)
    assert subscriber.send(pubrec(1)).bytes() == pubrel(1)
    world.store.failing = True
    assert_cut_off(subscriber.send(pubcomp(1)))
    bystanders.undisturbed()
    world.store.failing = False
    subscriber = durable(world, present=True)
    assert subscriber.bytes() == pubrel(1)
    assert subscriber.send(pubcomp(1)).bytes() == b""
    subscriber.drop()
    assert durable(world, present=True).bytes() == b""


def test_read() -> None:
    """A queue that cannot be read ends the connection; on the next one everything comes, in order."""
    world = World(max_inflight=1)
    bystanders = Bystanders(world)
    subscribe_to(durable(world), ("t", 1)).send(DISCONNECT)
    publisher = world.connect("p")
    for number in range(100):
        send(publisher, "t", b"%d" % number, 1)
    subscriber = durable(world, present=True)
    seen = []
    for identifier in range(1, 101):
        if identifier == 20:
            reading = world.store.inner.read
            world.store.inner.read = lambda *_: HeldStoreFailure.now()
        if subscriber.closed:
            world.store.inner.read = reading
            bystanders.undisturbed()
            subscriber = durable(world, present=True)
        arrived = subscriber.bytes()
        seen.append(arrived[7:])
        subscriber.send(puback(identifier))
    assert seen == [b"%d" % number for number in range(100)]


class HeldStoreFailure:
    """One failed answer."""

    @staticmethod
    def now() -> object:
        store = HeldStore(MemoryStore())
        store.failing = True
        return store.start()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
def test_close_with_a_will(world: World, bystanders: Bystanders, clean: bool, qos: int) -> None:
    """A connection ends while the store is away: its will is published once, when the store is back."""
    watcher = subscribe_to(world.connect("w"), ("will", 2))
    client = world.connect("c", clean_start=clean, will=Will("will", b"gone", qos))
    world.store.failing = True
    client.drop()
    world.advance(5)
    bystanders.undisturbed()
    assert watcher.bytes() == b""
    world.store.failing = False
    world.advance(2)
    assert watcher.bytes() == publish("will", b"gone", qos, id=1)
    world.advance(60)
    assert watcher.bytes() == b""


@pytest.mark.parametrize("wait", [0, 5])
@pytest.mark.rule("MQTT-3.14.4-3")
def test_close_with_disconnect(world: World, bystanders: Bystanders, wait: float) -> None:
    """DISCONNECT while the store is away: the will is not published, now or later, not even when the client is back
    before the store has been told."""
    watcher = subscribe_to(world.connect("w"), ("will", 0))
    client = durable(world, "c", will=Will("will", b"gone"))
    world.store.failing = True
    client.send(DISCONNECT)
    world.advance(5)
    bystanders.undisturbed()
    world.store.failing = False
    world.advance(wait)
    assert durable(world, "c", present=True).alive()
    world.advance(5)
    assert watcher.bytes() == b""


def test_close_and_session_expiry() -> None:
    """A session whose end the store missed expires all the same."""
    world = World(session_expiry=60)
    client = subscribe_to(durable(world), ("t", 1))
    world.store.failing = True
    client.drop()
    world.store.failing = False
    world.advance(2)
    world.advance(61)
    assert durable(world, present=False).alive()


def test_close_that_is_overtaken(world: World) -> None:
    """The client is back before the store has been told: the late news does not touch the new connection."""
    watcher = subscribe_to(world.connect("w"), ("will", 0))
    client = durable(world, "c", will=Will("will", b"old"))
    world.store.failing = True
    client.drop()
    world.store.failing = False
    client = durable(world, "c", present=True, will=Will("will", b"new"))
    assert watcher.bytes() == publish("will", b"old")
    world.advance(5)
    assert client.alive()
    assert watcher.bytes() == b""
    client.drop()
    assert watcher.bytes() == publish("will", b"new")


def test_due(world: World, bystanders: Bystanders) -> None:
    """Housekeeping that fails is tried again."""
    watcher = subscribe_to(world.connect("w"), ("will", 0))
    client = world.connect("c", will=Will("will", b"gone"))
    world.hold()
    client.drop()
    world.store.failing = True
    world.release()  # the end of the connection is stored, what is due cannot be asked
    world.advance(3)
    assert watcher.bytes() == b""
    bystanders.undisturbed()
    world.store.failing = False
    world.advance(1)
    assert watcher.bytes() == publish("will", b"gone")


def test_retained_messages_for_a_new_subscription(world: World, bystanders: Bystanders) -> None:
    """They cannot be queued for a durable session: its connection ends, and subscribing again brings them."""
    send(world.connect("p"), "t", b"kept", 1, retain=True)
    client = durable(world)
    world.hold()
    client.send(subscribe(1, ("t", 1)))
    world.store.failing = True
    world.release()
    assert client.closed
    assert client.bytes() == suback(1, 1)
    bystanders.undisturbed()
    world.store.failing = False
    client = durable(world, present=True)
    client.send(subscribe(1, ("t", 1)))
    assert client.bytes() == suback(1, 1) + publish("t", b"kept", 1, id=1, retain=True)


def test_start() -> None:
    """A broker whose store does not open does not start, and says why."""
    store = HeldStore(MemoryStore())
    store.failing = True
    world = World()
    failures: list[object] = []
    Broker(store, Settings(), world.clock).start().addErrback(lambda failure: failures.append(failure.value))  # type: ignore[arg-type]
    assert isinstance(failures[0], StoreError)
