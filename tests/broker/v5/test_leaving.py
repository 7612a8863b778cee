"""A node that stops, and what it tells its clients."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Connack, Disconnect
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, payloads
from tests.conformance.v5.stage import (
    Guest,
    assert_sent_away,
    bystander,
    call,
    connect,
    durable,
    props,
    publish,
    subscribe,
    will,
)


@pytest.mark.parametrize("advertise", ["", "mqtt.example.org:1883"])
def test_clients_are_told_where_to_go(advertise: str) -> None:
    """0x9C with the server reference if there is one, else 0x8B; clients of 3.1.1 are just closed."""
    world = World(advertise=advertise)
    guest, old = connect(world), world.connect("old", version=4)
    world.broker.stop()
    world.settle()
    [packet] = guest.packets()
    if advertise:
        assert packet == Disconnect(Reason.USE_ANOTHER_SERVER, props(server_reference=advertise))
    else:
        assert packet == Disconnect(Reason.SERVER_SHUTTING_DOWN)
    assert guest.closed
    assert (old.bytes(), old.closed) == (b"", True)


@pytest.mark.parametrize("advertise", ["", "mqtt.example.org:1883"])
def test_a_client_that_comes_too_late(advertise: str) -> None:
    """While the node finishes what is under way CONNECT waits; then it is refused by CONNACK, not by DISCONNECT."""
    world = World(advertise=advertise)
    guest = Guest(world)
    subscribe(durable(world, "kept"), "t", qos=1)
    busy = connect(world, "busy")
    world.hold()
    busy.send(publish("t", b"x", 1, id=1))
    world.broker.stop()
    guest.send(call())
    assert guest.bytes() == b""
    world.release()
    [packet] = guest.packets()
    reason = Reason.USE_ANOTHER_SERVER if advertise else Reason.SERVER_UNAVAILABLE
    assert isinstance(packet, Connack)
    assert (packet.reason, packet.properties.get(Prop.SERVER_REFERENCE)) == (reason, advertise or None)
    assert busy.closed


def test_a_node_that_the_others_took_for_dead(world: World) -> None:
    """Its clients hear 0x8B."""
    guest = connect(world)
    world.broker.abandon()
    assert_sent_away(guest, Reason.SERVER_SHUTTING_DOWN)


def test_silence(world: World) -> None:
    """0x8D after one and a half times the keep-alive, which the server may have set; the will is published."""
    world = World(max_keep_alive=20)
    watcher = bystander(world)
    guest = connect(world, "c", keep_alive=0, will=will())
    assert guest.announced("server_keep_alive", 0) == 20
    watcher_alive = 0
    for _ in range(29):
        world.advance(1)
        watcher_alive += watcher.alive()
    assert not guest.closed
    world.advance(1)
    assert_sent_away(guest, Reason.KEEP_ALIVE_TIMEOUT)
    assert watcher_alive == 29
    assert payloads(watcher) == [b"gone"]


def test_response_information() -> None:
    """Given to who asks for it, when the broker was told what to say; never a text that is no topic."""
    world = World(response_topic_prefix="replies")
    said = [
        connect(world, client_id, **fields).connack.properties.get(Prop.RESPONSE_INFORMATION)
        for client_id, fields in (
            ("a", {"request_response_information": 1}),
            ("b", {}),
            ("c", {"request_response_information": 0}),
            ("d/+", {"request_response_information": 1}),
        )
    ]
    assert said == ["replies/a", None, None, None]
    assert connect(World(), request_response_information=1).announced("response_information", 0) == 0
