"""Wills: when they are published, how, and when not. Sections 3.1.2.5 to 3.1.2.7 of MQTT 3.1.1."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mqttcluster.broker.auth import Identity
from mqttcluster.mqtt.packets import Will
from tests.broker.playbook import Peer, World
from tests.conformance.raw import DISCONNECT, publish, send, subscribe_to


class NoSecrets:
    """An authorizer that keeps everybody from publishing to `secret`."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        return topic != "secret"

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return True


def silence(world: World, client: Peer) -> None:
    world.advance(15)


def second_connect(world: World, client: Peer) -> None:
    client.send("10 0D 00 04 4D 51 54 54 04 02 00 3C 00 01 61")


def malformed(world: World, client: Peer) -> None:
    client.send("36 00")


def rubbish(world: World, client: Peer) -> None:
    client.send(b"\x00" * 100)


def too_large(world: World, client: Peer) -> None:
    client.send("30 FF FF FF 7F")


def lost(world: World, client: Peer) -> None:
    client.drop()


def half_a_packet(world: World, client: Peer) -> None:
    client.send("E0").drop()


ENDS = [silence, second_connect, malformed, rubbish, too_large, lost, half_a_packet]


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.rule("MQTT-3.1.2-8", "MQTT-3.1.2-10")
def test_any_end_without_disconnect_publishes_the_will(
    world: World, end: Callable[[World, Peer], None], clean: bool
) -> None:
    """Once, and at once, whatever CleanSession says; the ends of the connection that follow add nothing."""
    watcher = subscribe_to(world.connect("watcher"), ("#", 2))
    client = world.connect("mortal", clean_start=clean, keep_alive=10, will=Will("will", b"gone", 1))
    world.advance(5)
    assert watcher.bytes() == b""
    end(world, client)
    assert client.closed
    assert watcher.bytes() == publish("will", b"gone", 1, id=1)
    client.drop()
    world.advance(3600)
    assert watcher.bytes() == b""


@pytest.mark.parametrize("again", [True, False], ids=("clean again", "durable again"))
@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.1.2-8", "MQTT-3.1.4-2")
def test_a_takeover_publishes_the_will(world: World, clean: bool, again: bool) -> None:
    """The older connection did not say DISCONNECT: its will is published, that of the newer one waits."""
    watcher = subscribe_to(world.connect("watcher"), ("#", 2))
    older = world.connect("mortal", clean_start=clean, will=Will("will", b"older"))
    newer = world.connect("mortal", clean_start=again, present=not clean and not again, will=Will("will", b"newer"))
    assert older.closed
    assert watcher.bytes() == publish("will", b"older")
    newer.drop()
    assert watcher.bytes() == publish("will", b"newer")


@pytest.mark.rule("MQTT-3.1.2-8", "N311-12")
def test_a_broker_that_stops_publishes_the_wills(world: World) -> None:
    """Who is connected when the broker shuts down did not say DISCONNECT."""
    subscribe_to(world.connect("watcher", clean_start=False), ("#", 1)).send(DISCONNECT)
    client = world.connect("mortal", will=Will("will", b"gone", 1, retain=True))
    publications = world.store.inner.publish
    seen = []
    world.store.inner.publish = lambda publication: seen.append(publication.message) or publications(publication)
    world.broker.stop()
    world.settle()
    assert client.closed
    assert [(message.topic, message.payload) for message in seen] == [("will", b"gone")]


@pytest.mark.rule("N311-12")
def test_a_broker_that_crashed_publishes_the_wills_when_it_is_back(world: World) -> None:
    """Exactly once, into the queue of an offline session."""
    subscribe_to(world.connect("watcher", clean_start=False), ("#", 1)).send(DISCONNECT)
    world.connect("mortal", will=Will("will", b"gone", 1))
    again = world.restart()
    watcher = again.connect("watcher", clean_start=False, present=True)
    assert watcher.bytes() == publish("will", b"gone", 1, id=1)
    again.advance(60)
    assert watcher.bytes() == b""


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.rule("MQTT-3.1.2-9", "MQTT-3.1.2-16", "MQTT-3.1.2-17", "MQTT-3.3.1-9")
def test_a_will_is_a_message_like_any_other(world: World, qos: int, granted: int, retain: bool) -> None:
    """At min(will QoS, subscribed), RETAIN 0 for present subscribers, queued for offline ones, kept if it says so."""
    present = subscribe_to(world.connect("present"), ("will", granted))
    subscribe_to(world.connect("offline", clean_start=False), ("will", granted)).send(DISCONNECT)
    world.connect("mortal", will=Will("will", b"gone", qos, retain)).drop()
    delivered = min(qos, granted)
    assert present.bytes() == publish("will", b"gone", delivered, id=1)
    offline = world.connect("offline", clean_start=False, present=True)
    assert offline.bytes() == (publish("will", b"gone", delivered, id=1) if delivered else b"")
    late = subscribe_to(world.connect("late"), ("will", granted))
    assert late.bytes() == (publish("will", b"gone", delivered, id=1, retain=True) if retain else b"")


@pytest.mark.parametrize(("retain", "left"), [(True, b""), (False, publish("will", b"kept", retain=True))])
@pytest.mark.rule("MQTT-3.1.2-17", "MQTT-3.1.2-16", "MQTT-3.3.1-10")
def test_an_empty_will_with_retain_clears_the_topic(world: World, retain: bool, left: bytes) -> None:
    """Will Retain 1 and an empty will message remove what is retained; with Will Retain 0 it stays."""
    send(world.connect("p"), "will", b"kept", 0, retain=True)
    watcher = subscribe_to(world.connect("watcher"), ("will", 0))
    watcher.bytes()
    world.connect("mortal", will=Will("will", b"", 0, retain)).drop()
    assert watcher.bytes() == publish("will", b"")
    assert subscribe_to(world.connect("late"), ("will", 0)).bytes() == left


@pytest.mark.rule("MQTT-3.1.2-8", "MQTT-3.1.2-5")
def test_a_client_can_be_left_its_own_will(world: World) -> None:
    """A durable session that is subscribed to its will topic finds the will when it comes back."""
    client = subscribe_to(world.connect("mortal", clean_start=False, will=Will("will", b"gone", 1)), ("will", 1))
    client.drop()
    client = world.connect("mortal", clean_start=False, present=True)
    assert client.bytes() == publish("will", b"gone", 1, id=1)


@pytest.mark.parametrize("topic", ["secret", "$SYS/broker/version"])
@pytest.mark.rule("MQTT-3.3.5-2", "N311-19")
def test_a_will_that_is_not_allowed_is_dropped(topic: str) -> None:
    """A will goes the way of a publish, authorization included."""
    world = World(authorizer=NoSecrets())
    watcher = subscribe_to(world.connect("watcher"), ("#", 0), ("$SYS/#", 0))
    world.connect("mortal", will=Will(topic, b"gone", 0, retain=True)).drop()
    assert watcher.bytes() == b""
    assert subscribe_to(world.connect("late"), (topic, 0)).bytes() == b""


@pytest.mark.rule("MQTT-3.1.2-12")
def test_without_will_flag_nothing_is_published(world: World) -> None:
    """Not even the will of an earlier connection of the same client."""
    watcher = subscribe_to(world.connect("watcher"), ("#", 0))
    world.connect("mortal", clean_start=False, will=Will("will", b"gone")).send(DISCONNECT)
    world.connect("mortal", clean_start=False, present=True).drop()
    world.advance(60)
    assert watcher.bytes() == b""


@pytest.mark.parametrize(
    "refused",
    [
        "10 12 00 04 4D 51 54 54 04 04 00 00 00 00 00 01 77 00 01 78",
        "10 13 00 04 4D 51 54 54 04 1E 00 00 00 01 63 00 01 77 00 01 78",
    ],
    ids=("no client id", "will QoS 3"),
)
@pytest.mark.rule("MQTT-3.1.2-8")
def test_a_connection_that_was_not_accepted_has_no_will(world: World, refused: str) -> None:
    """Neither an empty client id with CleanSession 0 nor a malformed CONNECT leaves its will behind."""
    watcher = subscribe_to(world.connect("watcher"), ("#", 0))
    peer = world.peer()
    assert peer.send(refused).closed
    assert watcher.bytes() == b""


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.1.2-10")
def test_a_will_is_published_once_though_the_store_fails_at_first(world: World, qos: int) -> None:
    """The first attempt to store it fails: it is tried again, and arrives once."""
    watcher = subscribe_to(world.connect("watcher"), ("#", 2))
    client = world.connect("mortal", will=Will("will", b"gone", qos))
    world.hold()
    client.drop()
    world.answer(1)  # the connection has ended
    world.store.failing = True
    world.answer(1)  # the will is due; storing it fails
    world.release()
    world.store.failing = False
    world.advance(2)
    assert watcher.bytes() == publish("will", b"gone", qos, id=1)
    world.advance(10)
    assert watcher.bytes() == b""
