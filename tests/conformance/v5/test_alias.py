"""Topic aliases of MQTT 5.0, in both directions: section 3.3.2.3.4."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.mqtt.packets import Puback, Publish, Pubrec
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads, take_all
from tests.conformance.v5.stage import (
    Guest,
    NoSecrets,
    assert_cut_off,
    bystander,
    connect,
    durable,
    publish,
    say,
    subscribe,
    with_will,
)

#: Long enough for an alias to be worth its bytes.
TOPIC = "a/long/topic"


def aliased(topic: str, alias: int, payload: bytes = b"x", qos: int = 0, id: int = 0) -> Publish:
    return publish(topic, payload, qos, id=id, topic_alias=alias)


def heard(guest: Any) -> list[tuple[str, bytes]]:
    """Topic and payload of what has come."""
    return [(message.topic, message.payload) for message in only_publishes(guest.packets())]


# -- from a client


@pytest.mark.rule5("MQTT-3.3.2-12", "MQTT-3.2.2-17")
def test_the_server_takes_every_alias_up_to_its_maximum(world: World) -> None:
    """From 1 to the Topic Alias Maximum of CONNACK: set, and then used without a topic."""
    watcher, publisher = bystander(world), connect(world, "p")
    most = publisher.announced("topic_alias_maximum", 0)
    assert most > 0
    numbers = [1, *range(2, min(most, 100)), most]
    for number in numbers:
        publisher.send(aliased(f"t/{number}", number))
    for number in numbers:
        publisher.send(aliased("", number, b"again"))
    assert heard(watcher) == [(f"t/{number}", b"x") for number in numbers] + [
        (f"t/{number}", b"again") for number in numbers
    ]


@pytest.mark.rule5("MQTT-3.3.2-12", "MQTT-3.3.4-1")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
def test_a_message_without_a_topic_has_that_of_its_alias(world: World, qos: int, retain: bool) -> None:
    """Live, retained and stored it is as if the topic had been sent; the alias itself is not passed on."""
    watcher, absent = bystander(world, qos=2), durable(world, "absent")
    subscribe(absent, "t", qos=2)
    absent.drop()
    publisher = connect(world, "p")
    publisher.send(aliased("t", 3, b"first"))
    found = publish("", b"x", qos, id=1, retain=retain, topic_alias=3, content_type="text")
    publisher.send(found)
    assert watcher.packets() == [publish("t", b"first"), publish("t", b"x", qos, id=1, content_type="text")]
    waited = durable(world, "absent", present=True)
    assert waited.packets() == ([publish("t", b"x", qos, id=1, content_type="text")] if qos else [])
    late = connect(world, "late")
    subscribe(late, "t", qos=2)
    kept = publish("t", b"x", qos, id=1, retain=True, content_type="text")
    assert late.packets() == ([kept] if retain else [])


@pytest.mark.rule5("MQTT-3.3.2-12")
def test_an_alias_can_be_set_anew(world: World) -> None:
    """From the packet that sets it, it means the new topic; the old topic can still be named."""
    watcher, publisher = bystander(world), connect(world, "p")
    publisher.send(aliased("a", 1), aliased("", 1), aliased("b", 1), aliased("", 1), publish("a", b"x"), aliased("", 1))
    assert [topic for topic, _ in heard(watcher)] == ["a", "a", "b", "b", "a", "b"]


@pytest.mark.rule5("MQTT-3.3.2-7", "N5-42", "N5-15")
@pytest.mark.parametrize("takeover", [True, False])
def test_aliases_end_with_their_connection(world: World, takeover: bool) -> None:
    """On the next one the alias is unknown: 0x82."""
    publisher = durable(world, "mortal")
    publisher.send(aliased("t", 1))
    if not takeover:
        publisher.drop()
    watcher = bystander(world)
    again = with_will(world, "mortal", clean_start=False, present=True)
    again.send(aliased("", 1))
    assert_cut_off(again, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.3.2-7")
def test_aliases_are_of_one_client(world: World) -> None:
    """Two clients use the same number for different topics."""
    watcher, one, two = bystander(world), connect(world, "one"), connect(world, "two")
    one.send(aliased("a", 1))
    two.send(aliased("b", 1))
    one.send(aliased("", 1))
    two.send(aliased("", 1))
    assert [topic for topic, _ in heard(watcher)] == ["a", "b", "a", "b"]


@pytest.mark.rule5("N5-15", "MQTT-3.3.2-1")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_an_unknown_alias(world: World, qos: int) -> None:
    """0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(aliased("", 1, qos=qos, id=1))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.3.2-8", "MQTT-3.3.2-9", "MQTT-3.2.2-17", "N5-16")
@pytest.mark.parametrize("topic", ["t", ""])
@pytest.mark.parametrize("which", ["0", "one too many", "the largest"])
def test_an_alias_out_of_range(world: World, which: str, topic: str) -> None:
    """0x94, and the message reaches nobody."""
    watcher, mortal = bystander(world), with_will(world)
    alias = {"0": 0, "one too many": mortal.announced("topic_alias_maximum", 0) + 1, "the largest": 0xFFFF}[which]
    mortal.send(aliased(topic, alias))
    assert_cut_off(mortal, Reason.TOPIC_ALIAS_INVALID, watcher)


@pytest.mark.rule5("MQTT-3.2.2-18", "N5-16", "N5-41")
def test_a_server_without_aliases() -> None:
    """It announces none, and answers any with 0x94."""
    world = World(max_topic_aliases=0)
    watcher, mortal = bystander(world), with_will(world)
    assert mortal.announced("topic_alias_maximum", 0) == 0
    mortal.send(aliased("t", 1))
    assert_cut_off(mortal, Reason.TOPIC_ALIAS_INVALID, watcher)


@pytest.mark.rule5("MQTT-3.3.2-12", "N5-52")
def test_an_alias_set_by_a_message_that_is_refused() -> None:
    """The mapping holds though the message was not allowed; and permission is asked for the topic behind it."""
    world = World(authorizer=NoSecrets())
    watcher, publisher = bystander(world), connect(world, "p")
    publisher.send(aliased("secret", 1, qos=1, id=1), aliased("", 1, qos=1, id=2), aliased("open", 1, qos=1, id=3))
    publisher.send(aliased("", 1, qos=1, id=4))
    reasons = [packet.reason for packet in publisher.packets() if isinstance(packet, Puback)]
    assert reasons == [Reason.NOT_AUTHORIZED, Reason.NOT_AUTHORIZED, Reason.SUCCESS, Reason.SUCCESS]
    assert [topic for topic, _ in heard(watcher)] == ["open", "open"]


@pytest.mark.rule5("MQTT-3.3.2-12", "MQTT-4.3.3-10")
def test_an_alias_set_by_a_repeated_qos_2_message(world: World) -> None:
    """A repetition is not delivered again, and its alias counts all the same."""
    watcher, publisher = bystander(world), connect(world, "p")
    publisher.send(publish("t", b"x", 2, id=1))
    publisher.send(publish("t", b"x", 2, id=1, dup=True, topic_alias=4), aliased("", 4, b"y"))
    assert [type(packet) for packet in publisher.packets()] == [Pubrec, Pubrec]
    assert heard(watcher) == [("t", b"x"), ("t", b"y")]


# -- to a client


def resolved(guest: Guest, aliases: dict[int, str]) -> list[tuple[str, bytes]]:
    """Topic and payload of what has come, as a client reads it that keeps `aliases`."""
    found = []
    for message in only_publishes(guest.packets()):
        alias: Any = message.properties.get(Prop.TOPIC_ALIAS)
        if alias is not None and message.topic:
            aliases[alias] = message.topic
        found.append((message.topic or aliases[alias], message.payload))
    return found


@pytest.mark.rule5("MQTT-3.1.2-27", "N5-41")
@pytest.mark.parametrize("fields", [{}, {"topic_alias_maximum": 0}], ids=["absent", "0"])
def test_no_alias_is_sent_to_a_client_that_takes_none(world: World, fields: dict[str, int]) -> None:
    """Whatever the publisher uses."""
    guest, publisher = connect(world, **fields), connect(world, "p")
    subscribe(guest, "#")
    publisher.send(aliased("t", 1), aliased("", 1))
    for _ in range(20):
        say(world, TOPIC)
    assert all(
        message.topic and Prop.TOPIC_ALIAS not in message.properties for message in only_publishes(guest.packets())
    )


@pytest.mark.rule5("MQTT-3.1.2-26", "MQTT-3.3.2-11", "MQTT-3.3.2-8")
@pytest.mark.parametrize("most", [1, 2, 5, 65535])
def test_aliases_to_a_client_stay_within_its_maximum(world: World, most: int) -> None:
    """More topics than aliases, over and over: each message arrives under its topic. The judge watches the numbers."""
    guest = connect(world, topic_alias_maximum=most)
    subscribe(guest, "a/topic/+", qos=1)
    aliases: dict[int, str] = {}
    for turn in range(4):
        for number in range(8):
            say(world, f"a/topic/{number}", b"%d" % turn, turn % 2)
    seen = []
    for message in take_all(guest):
        alias: Any = message.properties.get(Prop.TOPIC_ALIAS)
        if alias is not None and message.topic:
            aliases[alias] = message.topic
        seen.append((message.topic or aliases[alias], message.payload))
    assert seen == [(f"a/topic/{number}", b"%d" % turn) for turn in range(4) for number in range(8)]
    assert all(1 <= alias <= most for alias in aliases)
    assert aliases or most < 8


@pytest.mark.rule5("MQTT-3.3.2-7", "MQTT-4.4.0-1", "N5-42")
def test_what_is_sent_again_does_not_rely_on_old_aliases(world: World) -> None:
    """A new connection is told the topic in full before an alias stands for it, be it a repetition or not."""
    guest = durable(world, topic_alias_maximum=5)
    subscribe(guest, TOPIC, qos=1)
    for payload in (b"1", b"2", b"3"):
        say(world, TOPIC, payload, 1)
    assert resolved(guest, {}) == [(TOPIC, b"1"), (TOPIC, b"2"), (TOPIC, b"3")]
    guest.drop()
    say(world, TOPIC, b"4", 1)
    again = durable(world, present=True, topic_alias_maximum=5)
    assert resolved(again, {}) == [(TOPIC, b"1"), (TOPIC, b"2"), (TOPIC, b"3"), (TOPIC, b"4")]
    again.drop()
    modest = durable(world, present=True)
    assert heard(modest) == [(TOPIC, b"1"), (TOPIC, b"2"), (TOPIC, b"3"), (TOPIC, b"4")]


@pytest.mark.rule5("MQTT-3.1.2-25", "MQTT-3.3.2-11")
def test_an_alias_in_a_message_that_was_too_large_is_not_relied_on(world: World) -> None:
    """A message that would have set the alias was dropped: a later one names its topic."""
    guest = connect(world, topic_alias_maximum=5, maximum_packet_size=60)
    subscribe(guest, TOPIC)
    for payload in (b"small", b"x" * 100, b"small", b"small"):
        say(world, TOPIC, payload)
    assert resolved(guest, {}) == [(TOPIC, b"small")] * 3


@pytest.mark.rule5("MQTT-3.3.2-11")
def test_aliases_serve_versions_side_by_side(world: World) -> None:
    """One message for receivers with aliases, without them, and of 3.1.1."""
    modern, modest = connect(world, "modern", topic_alias_maximum=5), connect(world, "modest")
    older = world.connect("older", 4)
    subscribe(modern, TOPIC)
    subscribe(modest, TOPIC)
    subscribe(older, TOPIC)
    for payload in (b"1", b"2", b"3"):
        say(world, TOPIC, payload)
    assert resolved(modern, {}) == heard(modest) == [(TOPIC, b"1"), (TOPIC, b"2"), (TOPIC, b"3")]
    assert payloads(older) == [b"1", b"2", b"3"]
