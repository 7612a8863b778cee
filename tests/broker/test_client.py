"""What a client notices of the order of things."""

from __future__ import annotations

from itertools import count

import pytest

from mqttcluster.mqtt.packets import (
    Connect,
    Disconnect,
    Pingreq,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import World


def test_puback_waits_for_the_store(world: World) -> None:
    """A publisher gets its PUBACK, and a durable subscriber the message, when the store has answered [G1]."""
    subscriber = world.connect("s", clean_start=False)
    subscriber.send(Subscribe(1, [("t", Subscription(1))]))
    assert subscriber.packets() == [Suback(1, [Reason.GRANTED_QOS_1])]
    publisher = world.connect("p")
    world.hold()
    publisher.send(Publish("t", b"x", 1, packet_id=7))
    assert publisher.packets() == []
    assert subscriber.packets() == []
    world.answer()
    assert publisher.packets() == [Puback(7)]
    assert subscriber.packets() == [Publish("t", b"x", 1, packet_id=1)]


@pytest.mark.parametrize("busy", ["connecting", "subscribing"])
def test_what_arrived_before_the_connection_was_lost_counts(world: World, busy: str) -> None:
    """A client that sends what it has to say with DISCONNECT behind it, and closes, need not wait for answers: its
    publish is delivered and its will is not published, though the store was busy when the connection ended."""
    watcher = world.connect("w")
    watcher.send(Subscribe(1, [("#", Subscription(0))])).packets()
    will = Will("dead", b"x", 0, False)
    first = Connect("p", clean_start=False, will=will)
    rest = [Publish("t", b"said"), Subscribe(1, [("y", Subscription(1))]), Publish("t", b"too"), Disconnect()]
    peer = world.peer()
    if busy == "subscribing":
        peer.send(first)
    world.hold()
    peer.send(*([first, *rest] if busy == "connecting" else rest)).drop()
    world.release()
    assert [p.payload for p in watcher.packets() if isinstance(p, Publish)] == [b"said", b"too"]
    assert peer.client not in world.broker.clients
    assert "p" not in world.broker.sessions.connected
    world.advance(60)
    assert watcher.packets() == []


def test_a_lost_connection_without_disconnect_ends_behind_what_arrived(world: World) -> None:
    """Without DISCONNECT the will follows what the client has published before."""
    watcher = world.connect("w")
    watcher.send(Subscribe(1, [("#", Subscription(0))])).packets()
    peer = world.peer()
    world.hold()
    peer.send(Connect("p", will=Will("dead", b"x", 0, False)), Publish("t", b"said"), b"\x30").drop()
    world.release()
    assert [p.topic for p in watcher.packets() if isinstance(p, Publish)] == ["t", "dead"]
    assert peer.client not in world.broker.clients


def test_a_lost_connection_is_not_waited_for_when_its_session_is_taken_over(world: World) -> None:
    """The newer connection wins over one that is lost and still has packets to be dealt with."""
    old = world.connect("p", clean_start=False)
    world.hold()
    old.send(Subscribe(1, [("y", Subscription(1))]), Publish("t", b"late")).drop()
    new = world.peer()
    new.send(Connect("p", clean_start=False))
    world.release()
    assert world.broker.clients == {new.client}
    assert new.alive()


def test_a_client_takes_turns_with_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk full of packets that cost much does not keep the others waiting until all of it is done [G9]; nothing
    of it is lost."""
    monkeypatch.setattr(world.broker.clock, "seconds", count(1000.0, 0.005).__next__)
    greedy = world.connect("g")
    assert greedy.client is not None
    greedy.client.data_received(encode(Pingreq(), 4) * 100)
    assert not greedy.reading
    assert greedy.client.connection.decoder.buffered
    for _ in range(200):
        world.clock.advance(0)
    assert len(greedy.packets()) == 100
    assert greedy.reading


@pytest.mark.rule("MQTT-3.1.2-2")
def test_a_version_that_nobody_speaks_is_refused(world: World) -> None:
    """Level 6 gets return code 1 in the form of 3.1.1, which every client understands; then the end."""
    peer = world.peer(version=4)
    peer.send(bytes.fromhex("10 10 00 04 4D 51 54 54 06 02 00 00 00 00 03 61 62 63"))
    assert peer.bytes().hex(" ") == "20 02 00 01"
    assert peer.closed


def test_a_broker_that_stops_publishes_the_wills_of_its_clients_though_others_were_due(world: World) -> None:
    """A will that becomes due as the broker stops reaches a session's queue, also while another is being published."""
    kept = world.connect("k", clean_start=False)
    kept.send(Subscribe(1, [("#", Subscription(1))]))
    first, second, third = (world.connect(name, will=Will(name, b"x", 1, False)) for name in "abc")
    publish, published = world.store.inner.publish, []
    world.store.inner.publish = lambda p: publish(p).addCallback(lambda _: published.append(p.message.topic) or _)
    world.hold()
    first.drop()
    second.drop()
    world.answer()  # their end is stored
    world.answer()  # their wills are known to be due, and the first one is on its way to the store
    stopping = world.broker.stop()
    while not stopping.called:
        assert world.store.waiting
        world.answer(1)
    assert third.closed
    assert published == ["a", "b", "c"]


def test_every_refused_publish_is_counted(world: World) -> None:
    """An operator sees in $SYS how often clients try what they may not, also when it is the same topic again."""
    publisher = world.connect("p")
    for identifier in (1, 2, 3):
        publisher.send(Publish("$SYS/x", b"x", 1, packet_id=identifier))
    assert world.broker.metrics.operations_refused == 3
