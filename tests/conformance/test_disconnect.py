"""PINGREQ, PINGRESP, DISCONNECT: sections 3.12 to 3.14 of MQTT 3.1.1."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Will
from tests.broker.playbook import Peer, World
from tests.conformance.raw import (
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    puback,
    publish,
    pubrec,
    send,
    suback,
    subscribe,
    subscribe_to,
    unsubscribe,
)


@pytest.fixture
def watcher(world: World) -> Peer:
    """A client that sees every message."""
    return subscribe_to(world.connect("watcher"), ("#", 2))


def mortal(world: World, **fields: object) -> Peer:
    """A client with a will."""
    return world.connect("mortal", will=Will("will", b"gone"), **fields)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.rule("MQTT-3.12.4-1")
def test_every_pingreq_is_answered(world: World, version: int) -> None:
    """One PINGRESP for one PINGREQ, three for three in one chunk, and while a publish waits for the store."""
    client = world.connect("c", version, clean_start=False)
    assert client.send(PINGREQ).bytes() == PINGRESP
    assert client.send(PINGREQ * 3).bytes() == PINGRESP * 3
    world.hold()
    assert client.send(publish("t", b"x", 2, id=1), PINGREQ).bytes() == PINGRESP
    world.answer()
    assert client.bytes() == pubrec(1)


@pytest.mark.parametrize("packet", ["E1 00", "E2 00", "E4 00", "E8 00", "EF 00", "E0 01 00", "E0 02 00 00"])
@pytest.mark.rule("MQTT-3.14.1-1")
def test_an_invalid_disconnect_is_no_disconnect(world: World, watcher: Peer, packet: str) -> None:
    """Flags or a body in DISCONNECT close the connection, and the will is published."""
    client = mortal(world)
    assert client.send(packet).closed
    assert client.bytes() == b""
    assert watcher.bytes() == publish("will", b"gone")


@pytest.mark.parametrize("packet", ["C1 00", "C8 00", "C0 01 00", "D0 00"])
@pytest.mark.rule("MQTT-2.2.2-2", "MQTT-4.8.0-1")
def test_an_invalid_pingreq_is_refused(world: World, watcher: Peer, packet: str) -> None:
    """Flags or a body in PINGREQ, or a PINGRESP from a client, close the connection; the will is published."""
    client = mortal(world)
    assert client.send(packet).closed
    assert client.bytes() == b""
    assert watcher.bytes() == publish("will", b"gone")


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.14.4-1", "N311-13")
def test_the_server_closes_after_disconnect(world: World, clean: bool) -> None:
    """A client that says DISCONNECT and does not close is closed by the server, which sends nothing more."""
    client = subscribe_to(world.connect("c", clean_start=clean), ("t", 1))
    assert client.send(DISCONNECT).closed
    send(world.connect("p"), "t", b"x", 1)
    assert client.bytes() == b""


@pytest.mark.parametrize(
    "behind",
    [publish("t", b"x", 1, id=2), subscribe(2, ("t", 0)), unsubscribe(2, "old"), PINGREQ, DISCONNECT, b"\xff\xff\xff"],
    ids=["PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE", "PINGREQ", "DISCONNECT", "rubbish"],
)
@pytest.mark.parametrize("cut", [False, True], ids=("one chunk", "two chunks"))
@pytest.mark.rule("MQTT-3.14.4-2")
def test_what_comes_behind_disconnect_is_not_processed(world: World, watcher: Peer, behind: bytes, cut: bool) -> None:
    """No answer, no message to others, no change of subscriptions, no will."""
    client = mortal(world, clean_start=False)
    subscribe_to(client, ("old", 1))
    if cut:
        client.send(DISCONNECT).send(behind)
    else:
        client.send(DISCONNECT + behind)
    assert client.closed
    assert client.bytes() == b""
    assert watcher.bytes() == b""
    for name in ("old", "t"):
        send(world.connect("p"), name, b"x", 1)
    assert world.connect("mortal", clean_start=False, present=True).bytes() == publish("old", b"x", 1, id=1)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.14.4-3")
def test_disconnect_discards_the_will(world: World, watcher: Peer, qos: int, clean: bool) -> None:
    """It is published neither then, nor later, nor after a restart of the broker."""
    client = world.connect("c", clean_start=clean, will=Will("will", b"gone", qos, retain=True))
    client.send(DISCONNECT)
    client.drop()
    world.advance(3600)
    assert watcher.bytes() == b""
    late = subscribe_to(world.restart().connect("late"), ("will", 2))
    assert late.bytes() == b""


@pytest.mark.rule("MQTT-3.14.4-3", "MQTT-3.3.4-1")
def test_what_was_sent_before_disconnect_counts(world: World, watcher: Peer) -> None:
    """SUBSCRIBE, PUBLISH and DISCONNECT in one chunk, the store slow: the message arrives, the subscription holds."""
    subscribe_to(world.connect("durable", clean_start=False), ("t", 1)).send(DISCONNECT)
    client = world.connect("c", clean_start=False)
    world.hold()
    client.send(subscribe(1, ("t", 1)), publish("t", b"x", 1, id=2), DISCONNECT)
    world.release()
    assert client.closed
    assert client.bytes().startswith(suback(1, 1))
    assert watcher.bytes() == publish("t", b"x", 1, id=1)
    for name in ("durable", "c"):
        assert world.connect(name, clean_start=False, present=True).bytes()[4:] == publish("t", b"x", 1, id=1)[4:]


@pytest.mark.rule("MQTT-3.3.4-1")
def test_acknowledgements_before_disconnect_are_sent(world: World) -> None:
    """PUBLISH and DISCONNECT in one chunk: the PUBACK leaves before the connection is closed."""
    client = world.connect("c")
    client.send(publish("t", b"x", 1, id=2), DISCONNECT)
    assert client.closed
    assert client.bytes() == puback(2)


@pytest.mark.rule("MQTT-4.3.2-1")
def test_acknowledgements_from_the_client_before_disconnect_count(world: World) -> None:
    """PUBACK and DISCONNECT in one chunk: the message does not come again."""
    client = subscribe_to(world.connect("c", clean_start=False), ("t", 1))
    send(world.connect("p"), "t", b"x", 1)
    assert client.bytes() == publish("t", b"x", 1, id=1)
    client.send(puback(1), DISCONNECT)
    assert world.connect("c", clean_start=False, present=True).bytes() == b""
