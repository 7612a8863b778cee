"""What a server of MQTT 5.0 can leave out, how CONNACK says so, and what happens to who tries it all the same."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.mqtt.packets import Packet, Pingreq, Suback
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads
from tests.conformance.v5.stage import (
    Guest,
    asked,
    assert_cut_off,
    assert_refused,
    assert_sent_away,
    bystander,
    call,
    connect,
    hand_over,
    publish,
    subscribe,
    will,
    with_will,
)

FEATURES: dict[str, tuple[dict[str, Any], str, Packet, Reason]] = {
    "retain": (
        {"no_retain": True},
        "retain_available",
        publish("t", b"x", 1, id=1, retain=True),
        Reason.RETAIN_NOT_SUPPORTED,
    ),
    "wildcards": (
        {"no_wildcard_subscriptions": True},
        "wildcard_subscription_available",
        asked(1, "a/+"),
        Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,
    ),
    "identifiers": (
        {"no_subscription_identifiers": True},
        "subscription_identifier_available",
        asked(1, "t", identifier=5),
        Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
    ),
    "shared": (
        {"no_shared_subscriptions": True},
        "shared_subscription_available",
        asked(1, "$share/g/t"),
        Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
    ),
}


@pytest.mark.rule5("MQTT-3.2.2-14", "N5-13", "N5-23", "N5-24", "N5-25")
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_that_is_switched_off(name: str) -> None:
    """CONNACK says 0, and using it ends the connection with a code of its own. Everything else works."""
    settings, announced, packet, reason = FEATURES[name]
    world = World(**settings)
    watcher = connect(world, "watcher")
    subscribe(watcher, "t", "will")
    mortal = with_will(world)
    assert mortal.announced(announced, 1) == 0
    assert sum(Prop[other.upper()] in mortal.connack.properties for _, other, _, _ in FEATURES.values()) == 1
    hand_over(mortal, publish("t", b"fine", 2, id=9))
    assert payloads(watcher) == [b"fine"]
    mortal.send(packet)
    assert_cut_off(mortal, reason, watcher)


@pytest.mark.rule5("N5-41")
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_that_is_there(world: World, name: str) -> None:
    """By default all of them are."""
    _, announced, packet, _ = FEATURES[name]
    guest = connect(world)
    assert guest.announced(announced, 1) == 1
    guest.send(packet)
    assert guest.alive()


@pytest.mark.rule5("N5-64", "N5-13")
def test_older_clients_and_features_that_are_switched_off() -> None:
    """3.1.1 has no word for it: a filter is refused with 0x80, RETAIN is not kept."""
    world = World(no_retain=True, no_wildcard_subscriptions=True)
    older = world.connect("older", 4)
    older.send("82 0A 00 01 00 01 2B 00 00 01 74 00")
    assert older.bytes().hex(" ") == "90 04 00 01 80 00"
    older.send("31 04 00 01 74 78")
    if not older.closed:
        assert payloads(older) == [b"x"]
    late = connect(world, "late")
    subscribe(late, "t")
    assert late.packets() == []


# -- Maximum QoS


@pytest.mark.rule5("MQTT-3.2.2-9", "MQTT-3.2.2-10", "MQTT-3.2.2-11", "N5-12", "MQTT-3.8.4-8")
@pytest.mark.parametrize("most", [0, 1])
def test_a_server_with_a_maximum_qos(most: int) -> None:
    """CONNACK names it; subscriptions may ask for more and are granted what there is; PUBLISH above it: 0x9B."""
    world = World(max_qos=most)
    watcher = connect(world, "watcher")
    watcher.send(asked(1, "t", "will", qos=2))
    assert watcher.packets() == [Suback(1, [Reason(most)] * 2)]
    for qos in range(3):
        mortal = with_will(world)
        assert mortal.connack.properties[Prop.MAXIMUM_QOS] == most
        mortal.send(publish("t", b"x", qos, id=1))
        if qos > most:
            assert_cut_off(mortal, Reason.QOS_NOT_SUPPORTED, watcher)
        else:
            assert [message.qos for message in only_publishes(watcher.packets())] == [qos]
            mortal.send("E0 00")


@pytest.mark.rule5("MQTT-3.2.2-9", "N5-41")
def test_a_server_without_one_says_nothing(world: World) -> None:
    """The property is absent: 2 must not be sent."""
    assert Prop.MAXIMUM_QOS not in connect(world).connack.properties


@pytest.mark.rule5("MQTT-3.2.2-12", "MQTT-3.2.2-13", "MQTT-3.1.4-2")
def test_wills_that_the_server_cannot_keep() -> None:
    """Will QoS above the maximum: CONNACK 0x9B. A retained will where nothing is retained: CONNACK 0x9A."""
    world = World(max_qos=1, no_retain=True)
    assert_refused(Guest(world).send(call(will=will(qos=2))), Reason.QOS_NOT_SUPPORTED)
    assert_refused(Guest(world).send(call(will=will(qos=1, retain=True))), Reason.RETAIN_NOT_SUPPORTED)
    watcher = bystander(world)
    connect(world, will=will(qos=1)).drop()
    assert payloads(watcher) == [b"gone"]


# -- Server Keep Alive


@pytest.mark.rule5("MQTT-3.1.2-21", "MQTT-3.2.2-21", "MQTT-3.1.2-22")
@pytest.mark.parametrize("wanted", [0, 1000])
def test_a_server_that_wants_to_hear_of_its_clients(wanted: int) -> None:
    """CONNACK names its keep alive where the client's is longer, or none; the client is measured by it."""
    world = World(max_keep_alive=20)
    guest = connect(world, keep_alive=wanted)
    assert guest.connack.properties[Prop.SERVER_KEEP_ALIVE] == 20
    world.advance(29)
    guest.send(Pingreq())
    assert guest.alive()
    world.advance(32)
    assert_sent_away(guest, Reason.KEEP_ALIVE_TIMEOUT)


@pytest.mark.rule5("MQTT-3.2.2-22", "MQTT-3.1.2-22")
def test_a_shorter_keep_alive_is_left_alone() -> None:
    """No Server Keep Alive: the client's own counts."""
    world = World(max_keep_alive=20)
    guest = connect(world, keep_alive=10)
    assert Prop.SERVER_KEEP_ALIVE not in guest.connack.properties
    world.advance(14)
    assert guest.alive()
    world.advance(17)
    assert guest.closed


# -- Response Information


@pytest.mark.rule5("MQTT-3.1.2-28")
def test_response_information_for_who_asks() -> None:
    """A topic prefix of the client's own, if the server has been given one; nobody else is told."""
    world = World(response_topic_prefix="answers")
    guest = connect(world, "c1", request_response_information=1)
    other = connect(world, "c2", request_response_information=1)
    found = [each.connack.properties[Prop.RESPONSE_INFORMATION] for each in (guest, other)]
    assert all(str(each).startswith("answers/") for each in found)
    assert found[0] != found[1]
    for fields in ({}, {"request_response_information": 0}):
        assert Prop.RESPONSE_INFORMATION not in connect(world, "c3", **fields).connack.properties
