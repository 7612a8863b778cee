"""PUBLISH in MQTT 5.0, section 3.3: flags, topics, retained messages, properties, expiry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqttcluster.mqtt.packets import (
    V5,
    Disconnect,
    PacketType,
    Puback,
    Publish,
    Pubrec,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads, payloads_of
from tests.conformance.v5.stage import (
    NoSecrets,
    asked,
    assert_cut_off,
    block,
    bystander,
    connect,
    durable,
    finish,
    hand_over,
    props,
    publish,
    restart,
    say,
    subscribe,
    with_will,
)
from tests.conftest import CHANCE
from tests.mqtt.strategies import packet_of
from tests.support.wire import frame, string

EVERYTHING: dict[str, Any] = {
    "payload_format_indicator": 1,
    "content_type": "text/\u00e4",
    "response_topic": "answer/to/\u00e4",
    "correlation_data": bytes(range(256)),
    "user_property": [("k", "2"), ("", ""), ("k", "1"), ("\u00e4", "\ufeff"), ("k", "2")],
}


def newcomer(world: World, topic_filter: str = "t", qos: int = 2, **options: Any) -> list[Publish]:
    """What a client without history gets for its subscription, SUBACK left out."""
    guest = connect(world, "")
    subscribe(guest, topic_filter, qos=qos, **options)
    return only_publishes(guest.packets())


# -- the first byte


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule5("MQTT-3.3.1-1", "MQTT-4.3.2-2", "MQTT-4.3.3-2")
def test_dup_tells_a_repetition_from_a_first_attempt(world: World, qos: int) -> None:
    """The first delivery has DUP 0, the one after a reconnect DUP 1, and a message never sent before DUP 0 again."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    say(world, "t", b"first", qos)
    assert guest.packets() == [publish("t", b"first", qos, id=1)]
    guest.drop()
    say(world, "t", b"second", qos)
    again = durable(world, present=True)
    assert again.packets() == [publish("t", b"first", qos, id=1, dup=True), publish("t", b"second", qos, id=2)]


@pytest.mark.parametrize("first", [0x38, 0x39])
@pytest.mark.rule5("MQTT-3.3.1-2", "MQTT-4.3.1-1")
def test_dup_with_qos_0_is_refused(world: World, first: int) -> None:
    """0x81, and the message reaches nobody."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(first, string("t") + b"\0x"))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule5("MQTT-3.3.1-3", "MQTT-3.3.1-2", "MQTT-4.3.1-1")
def test_dup_is_not_passed_on(world: World, qos: int, granted: int) -> None:
    """What a publisher sends with DUP leaves with DUP 0, and is no duplicate for it."""
    watcher, publisher = bystander(world, qos=granted), connect(world, "p")
    publisher.send(publish("t", b"x", qos, id=3, dup=True))
    assert only_publishes(watcher.packets()) == [publish("t", b"x", min(qos, granted), id=1)]


@pytest.mark.parametrize("first", [0x36, 0x37, 0x3E, 0x3F])
@pytest.mark.rule5("MQTT-3.3.1-4")
def test_qos_3_is_refused(world: World, first: int) -> None:
    """0x81, and the message reaches nobody."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(first, string("t") + b"\x00\x01\0x"))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


# -- retained messages


@pytest.mark.parametrize("second", [0, 1, 2])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.3.1-5", "N5-44", "N5-45", "MQTT-3.8.4-8")
def test_a_retained_message_replaces_the_one_before(world: World, first: int, second: int) -> None:
    """The newest message and its QoS count: QoS 0 drops what was kept at QoS 2, and is kept itself."""
    say(world, "t", b"first", first, retain=True)
    say(world, "t", b"second", second, retain=True)
    assert newcomer(world) == [publish("t", b"second", second, id=1, retain=True)]
    assert newcomer(restart(world)) == [publish("t", b"second", second, id=1, retain=True)]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.3.1-12", "MQTT-3.3.1-13")
def test_an_empty_payload_is_delivered_and_clears_the_topic(world: World, qos: int) -> None:
    """Subscribers get the empty message, RETAIN as they want it; later ones nothing; twice is harmless."""
    plain, faithful = connect(world, "plain"), connect(world, "faithful")
    subscribe(plain, "t", qos=2)
    subscribe(faithful, "t", qos=2, retain_as_published=True)
    say(world, "t", b"kept", 2, retain=True)
    say(world, "other", b"stays", retain=True)
    plain.packets(), faithful.packets()
    for identifier in (2, 3):
        say(world, "t", b"", qos, retain=True)
        assert plain.packets() == [publish("t", b"", qos, id=identifier)]
        assert faithful.packets() == [publish("t", b"", qos, id=identifier, retain=True)]
        assert newcomer(world, "#") == [publish("other", b"stays", retain=True)]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.3.1-7")
def test_an_empty_payload_is_never_kept(world: World, qos: int) -> None:
    """An empty message with RETAIN and properties to a topic without one leaves nothing behind."""
    say(world, "t", b"", qos, retain=True, content_type="nothing")
    assert newcomer(world) == []
    assert newcomer(restart(world)) == []


@pytest.mark.parametrize("payload", [b"plain", b""])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.3.1-8")
def test_a_message_without_retain_leaves_the_kept_one_alone(world: World, qos: int, payload: bytes) -> None:
    """RETAIN 0 neither stores, nor replaces, nor clears, with and without payload."""
    say(world, "t", payload, qos)
    assert newcomer(world) == []
    say(world, "t", b"kept", 1, retain=True)
    say(world, "t", payload, qos)
    assert newcomer(world) == [publish("t", b"kept", 1, id=1, retain=True)]


@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize(("handling", "brings"), [(0, [True, True, True]), (1, [True, False, True]), (2, [False] * 3)])
@pytest.mark.rule5("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11", "MQTT-3.8.4-4")
def test_retain_handling(world: World, handling: int, brings: list[bool], kept: bool) -> None:
    """A new subscription, the same again, and once more after UNSUBSCRIBE."""
    say(world, "a/b", b"1", 1, retain=True)
    say(world, "a/c", b"2", retain=True)
    guest = durable(world) if kept else connect(world)
    for number, expected in enumerate(brings):
        guest.send(asked(number + 1, "a/+", qos=1, retain_handling=handling))
        suback, *rest = guest.packets()
        assert suback.packet_id == number + 1  # type: ignore[union-attr]
        assert sorted(payloads_of(rest)) == ([b"1", b"2"] if expected else [])
        assert all(message.retain for message in only_publishes(rest))
        finish(guest, *only_publishes(rest))
        if number == 1:
            guest.send("A2 08 00 09 00 00 03 61 2F 2B")
            assert len(guest.packets()) == 1


@pytest.mark.rule5("MQTT-3.3.1-10")
@pytest.mark.parametrize("crash", [True, False])
def test_retain_handling_1_in_a_resumed_session(world: World, crash: bool) -> None:
    """The subscription is there from an earlier connection: no retained messages. In another session: they come."""
    say(world, "t", b"kept", retain=True)
    guest = durable(world)
    subscribe(guest, "t", retain_handling=2)
    if crash:
        world = restart(world)
    else:
        guest.drop()
    again = durable(world, present=True)
    subscribe(again, "t", retain_handling=1)
    assert again.packets() == []
    fresh = connect(world)
    subscribe(fresh, "t", retain_handling=1)
    assert payloads(fresh) == [b"kept"]


@pytest.mark.rule5("MQTT-3.3.1-9", "MQTT-3.8.4-5")
def test_each_filter_has_its_own_retain_handling(world: World) -> None:
    """Three filters in one packet, three ways."""
    for topic in ("a", "b", "c"):
        say(world, topic, topic.encode(), retain=True)
    guest = connect(world)
    subscribe(guest, "b")
    guest.packets()
    guest.send("82 0F 00 02 00 00 01 61 00 00 01 62 10 00 01 63 20")
    assert payloads(guest) == [b"a"]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("retain", [True, False])
@pytest.mark.parametrize("kept", [True, False], ids=["absent", "present"])
@pytest.mark.rule5("MQTT-3.3.1-12", "MQTT-3.3.1-13", "N5-45")
def test_retain_as_published(world: World, retain: bool, as_published: bool, qos: int, kept: bool) -> None:
    """With it the flag is the publisher's; without it, 0. Also for messages that waited. At SUBSCRIBE it is 1."""
    guest = durable(world)
    subscribe(guest, "t", qos=2, retain_as_published=as_published)
    if kept:
        guest.drop()
    say(world, "t", b"x", qos, retain=retain)
    if kept:
        guest = durable(world, present=True)
    expected = [publish("t", b"x", qos, id=1, retain=retain and as_published)] if qos or not kept else []
    assert guest.packets() == expected
    if retain:
        assert newcomer(world, retain_as_published=as_published) == [publish("t", b"x", qos, id=1, retain=True)]


@pytest.mark.rule5("MQTT-3.3.1-12", "MQTT-3.3.1-13", "MQTT-3.3.4-2")
def test_overlapping_subscriptions_that_want_different_flags(world: World) -> None:
    """One copy comes; the flag is kept if one of the matching subscriptions asks for it."""
    guest = connect(world)
    subscribe(guest, "t", qos=1, retain_as_published=True)
    subscribe(guest, "#", qos=2, packet_id=2)
    say(world, "t", b"x", 2, retain=True)
    [message] = only_publishes(guest.packets())
    assert (message.qos, message.retain) == (2, True)


@pytest.mark.rule5("N5-45", "MQTT-3.3.4-3", "MQTT-3.3.1-9")
def test_a_retained_message_carries_the_identifier_of_the_subscription(world: World) -> None:
    """Only that of the subscription that brought it, whatever else would match."""
    say(world, "t", b"kept", 1, retain=True, content_type="text")
    guest = connect(world)
    subscribe(guest, "other/#", "+", qos=1, identifier=1, retain_handling=2)
    subscribe(guest, "t", qos=1, packet_id=2, identifier=2)
    assert guest.packets() == [
        publish("t", b"kept", 1, id=1, retain=True, content_type="text", subscription_identifier=2)
    ]


# -- the topic


@pytest.mark.parametrize("topic", ["#", "+", "a/#", "a/+/b", "a+", "a#b", "/+"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.3.2-2", "MQTT-4.7.0-1")
def test_a_topic_with_a_wildcard_is_refused(world: World, topic: str, qos: int) -> None:
    """0x82, without acknowledgement, and it reaches nobody."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(0x30 | qos << 1, string(topic) + (b"\0\1" if qos else b"") + b"\0x"))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.3.2-1", "N5-14", "MQTT-4.7.3-1")
@pytest.mark.parametrize("raw", ["30 04 00 00 00 78", "32 05 00 00 00 01 00", "34 05 00 00 00 01 00"])
def test_an_empty_topic_without_alias_is_refused(world: World, raw: str) -> None:
    """0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.3.2-3")
def test_a_subscriber_gets_only_topics_that_its_filter_matches(world: World) -> None:
    """Of several topics those arrive that match the filter, under the very name they were published with."""
    guest = connect(world)
    subscribe(guest, "a/+/c")
    for topic in ("a/b/c", "a//c", "a/b", "a/b/c/d", "A/b/c", "a/c"):
        say(world, topic)
    assert [message.topic for message in only_publishes(guest.packets())] == ["a/b/c", "a//c"]


@pytest.mark.rule5("N5-60")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_topic_that_begins_with_a_dollar_belongs_to_the_server(world: World, qos: int) -> None:
    """A publish to $... reaches nobody, and its sender is told so where there is an answer."""
    guest, publisher = connect(world), connect(world, "p")
    subscribe(guest, "$SYS/#", "$other/t")
    for number, topic in enumerate(("$SYS/broker/version", "$other/t"), 1):
        publisher.send(publish(topic, b"forged", qos, id=number, retain=True))
        answers = publisher.packets()
        assert [getattr(packet, "reason", 0) >= 0x80 for packet in answers] == [True] * bool(qos)
    assert publisher.alive()
    assert guest.packets() == []
    assert newcomer(world, "$other/t") == []


# -- properties


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("how", ["live", "waited", "retained", "sent again"])
@pytest.mark.rule5(
    *("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"),
    "MQTT-1.5.4-3",
)
def test_properties_are_passed_on_unchanged(world: World, how: str, qos: int, granted: int) -> None:
    """All of them, user properties in their order with their repetitions, on every way a message can take."""
    delivered = min(qos, granted)
    if how in ("waited", "sent again") and not delivered:
        how = "live"
    guest = durable(world)
    if how == "retained":
        say(world, "t", b"text", qos, retain=True, **EVERYTHING)
        world = restart(world)
        guest = durable(world, present=True)
    subscribe(guest, "t", qos=granted)
    if how == "waited":
        guest.drop()
    if how != "retained":
        say(world, "t", b"text", qos, **EVERYTHING)
    if how in ("waited", "sent again"):
        world = restart(world)
        guest = durable(world, present=True)
    [message] = only_publishes(guest.packets())
    assert message.qos == delivered
    assert message.properties == props(**EVERYTHING)


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.rule5("MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-2.2.2-1")
def test_user_properties_as_bytes(world: World, retain: bool) -> None:
    """Live and retained they leave as they came, byte for byte."""
    guest, late = connect(world), connect(world, "late")
    raw = string("t") + block(
        *(f"26 00 01 {name} 00 01 {value}" for name, value in (("62", "31"), ("61", "32"), ("62", "33")))
    )
    if retain:
        connect(world, "p").send(frame(0x31, raw + b"x"))
        subscribe(late, "t")
        assert late.bytes() == frame(0x31, raw + b"x")
    else:
        subscribe(guest, "t")
        connect(world, "p").send(frame(0x30, raw + b"x"))
        assert guest.bytes() == frame(0x30, raw + b"x")


@pytest.mark.rule5("MQTT-3.3.2-4")
@pytest.mark.parametrize("indicator", [0, 1])
def test_the_payload_format_indicator_is_passed_on(world: World, indicator: int) -> None:
    """0 is not the same as nothing said."""
    guest = connect(world)
    subscribe(guest, "t")
    say(world, "t", b"x", payload_format_indicator=indicator)
    assert guest.packets() == [publish("t", b"x", payload_format_indicator=indicator)]


@pytest.mark.rule5("MQTT-3.3.2-15", "MQTT-3.3.2-16")
def test_request_and_response(world: World) -> None:
    """The pattern these properties are for: a question finds its answer."""
    asking, answering = connect(world, "asking"), connect(world, "answering")
    subscribe(asking, "answers/me", qos=1)
    subscribe(answering, "questions", qos=1)
    asking.send(publish("questions", b"6 * 7", 1, id=1, response_topic="answers/me", correlation_data=b"\1"))
    [question] = only_publishes(answering.packets())
    answer = {"correlation_data": question.properties[Prop.CORRELATION_DATA]}
    answering.send(publish(str(question.properties[Prop.RESPONSE_TOPIC]), b"42", 1, id=1, **answer))
    assert only_publishes(asking.packets()) == [publish("answers/me", b"42", 1, id=1, **answer)]


@pytest.mark.rule5("MQTT-3.3.2-14", "MQTT-3.3.2-13")
@pytest.mark.parametrize("topic", ["#", "a/+", "+/b", "a#"])
def test_a_response_topic_with_wildcards_is_refused(world: World, topic: str) -> None:
    """0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(0x30, string("t") + bytes((3 + len(topic),)) + b"\x08" + string(topic)))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.3.4-6")
def test_a_publisher_must_not_name_subscription_identifiers(world: World) -> None:
    """0x82, and the message reaches nobody."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send("30 07 00 01 74 02 0B 05 78")
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("N5-10", "N5-02")
@pytest.mark.parametrize(
    "properties",
    ["01 02", "01 01 01 01", "02 00 00 00 01 02 00 00 00 01", "03 00 01 61 03 00 01 61", "09 00 00 09 00 00"],
)
def test_values_that_are_not_allowed(world: World, properties: str) -> None:
    """0x82: a format other than 0 or 1, and what may come once comes twice."""
    watcher, mortal = bystander(world), with_will(world)
    found = bytes.fromhex(properties)
    mortal.send(frame(0x30, string("t") + bytes((len(found),)) + found))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("N5-29")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_payload_that_claims_to_be_text(qos: int) -> None:
    """Where payloads are checked, one that is no UTF-8 is refused with 0x99 and reaches nobody; else it passes."""
    for checked in (False, True):
        world = World(check_payload_format=checked)
        watcher, publisher = bystander(world, qos=2), connect(world, "p")
        publisher.send(publish("t", b"\xff", qos, id=1, payload_format_indicator=1))
        answers = publisher.packets()
        if checked:
            assert [getattr(packet, "reason", None) for packet in answers] == [Reason.PAYLOAD_FORMAT_INVALID]
            assert watcher.packets() == []
        else:
            assert payloads(watcher) == [b"\xff"]
        good = connect(world, "good")
        hand_over(good, publish("t", "\u00e4".encode(), qos, id=1, payload_format_indicator=1))
        hand_over(good, publish("t", b"\xff", qos, id=2, payload_format_indicator=0))
        assert payloads(watcher) == ["\u00e4".encode(), b"\xff"]


@settings(max_examples=200, suppress_health_check=[*CHANCE, HealthCheck.function_scoped_fixture])
@given(
    packet=packet_of(PacketType.PUBLISH, V5).filter(lambda packet: packet.topic and packet.topic[0] != "$"),
    granted=st.integers(0, 2),
    restarted=st.booleans(),
)
@pytest.mark.rule5("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20", "MQTT-3.3.1-5")
def test_whatever_may_be_said_arrives(packet: Publish, granted: int, restarted: bool) -> None:
    """Any legal PUBLISH: live, and as a retained message, it arrives with what was said in it, and nothing else."""
    world = World()
    guest, publisher = connect(world), connect(world, "p")
    subscribe(guest, packet.topic, qos=granted)
    packet.properties.pop(Prop.SUBSCRIPTION_IDENTIFIER, None)
    if Prop.TOPIC_ALIAS in packet.properties:
        packet.properties[Prop.TOPIC_ALIAS] = 1
    if packet.properties.get(Prop.MESSAGE_EXPIRY_INTERVAL) == 0:  # see test_an_interval_of_0
        packet.properties[Prop.MESSAGE_EXPIRY_INTERVAL] = 1
    publisher.send(packet)
    said = {name: value for name, value in packet.properties.items() if name != Prop.TOPIC_ALIAS}
    qos = min(packet.qos, granted)
    expected = Publish(packet.topic, packet.payload, qos, packet_id=1 if qos else 0, properties=said)
    assert guest.packets() == [expected]
    if restarted:
        world = restart(world)
    expected.retain = True
    kept = packet.retain and packet.payload
    assert newcomer(world, packet.topic, granted) == ([expected] if kept else [])


# -- expiry


def remaining(packet: Any) -> int | None:
    """The Message Expiry Interval of a PUBLISH."""
    found = packet.properties.get(Prop.MESSAGE_EXPIRY_INTERVAL)
    return None if found is None else int(found)


@pytest.mark.rule5("MQTT-3.3.2-6")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_that_does_not_wait_keeps_its_interval(world: World, qos: int) -> None:
    """It arrives with the interval it was sent with."""
    guest = connect(world)
    subscribe(guest, "t", qos=2)
    for interval in (1, 1000, 0xFFFF_FFFF):
        say(world, "t", b"x", qos, message_expiry_interval=interval)
        [message] = only_publishes(guest.packets())
        assert remaining(message) == interval
        finish(guest, message)


@pytest.mark.rule5("MQTT-3.3.2-5", "MQTT-3.3.2-6")
@pytest.mark.parametrize("crash", [True, False])
@pytest.mark.parametrize("qos", [1, 2])
def test_messages_that_wait_for_an_absent_client_expire(world: World, qos: int, crash: bool) -> None:
    """What is left of the interval comes with those that are in time; the others do not come at all."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    guest.drop()
    for payload, interval in ((b"short", 5), (b"long", 100), (b"next", 1)):
        say(world, "t", payload, qos, message_expiry_interval=interval)
    say(world, "t", b"for ever", qos)
    if crash:
        world = restart(world)
    world.advance(30)
    again = durable(world, present=True)
    found = only_publishes(again.packets())
    assert [(message.payload, remaining(message)) for message in found] == [(b"long", 70), (b"for ever", None)]
    finish(again, *found)
    say(world, "t", b"new", qos)
    assert payloads(again) == [b"new"]


@pytest.mark.rule5("MQTT-3.3.2-5", "MQTT-3.3.2-6")
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_messages_that_wait_for_a_slow_client_expire(world: World, kept: bool) -> None:
    """Behind a full window time runs as well; what was dropped does not use up the window."""
    guest = connect(world, receive_maximum=1, session_expiry_interval=60 if kept else 0)
    subscribe(guest, "t", qos=1)
    say(world, "t", b"first", 1)
    for payload, interval in ((b"short", 5), (b"long", 100)):
        say(world, "t", payload, 1, message_expiry_interval=interval)
    assert payloads(guest) == [b"first"]
    world.advance(30)
    guest.send(Puback(1))
    [message] = only_publishes(guest.packets())
    assert (message.payload, remaining(message)) == (b"long", 70)
    say(world, "t", b"last", 1)
    guest.send(Puback(message.packet_id))
    assert payloads(guest) == [b"last"]


@pytest.mark.rule5("N5-43", "MQTT-3.3.2-5", "MQTT-3.3.2-6")
@pytest.mark.parametrize("crash", [True, False])
def test_retained_messages_expire(world: World, crash: bool) -> None:
    """A subscription brings them with what is left of their interval; after it the topic has none."""
    say(world, "t/short", b"x", 1, retain=True, message_expiry_interval=20)
    say(world, "t/long", b"y", 1, retain=True, message_expiry_interval=100)
    if crash:
        world = restart(world)
    world.advance(10)
    found = {message.topic: remaining(message) for message in newcomer(world, "t/+")}
    assert found == {"t/short": 10, "t/long": 90}
    world.advance(15)
    assert [(message.topic, remaining(message)) for message in newcomer(world, "t/+")] == [("t/long", 75)]


@pytest.mark.rule5("N5-43", "MQTT-3.3.2-5")
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_retained_messages_that_wait_for_room_expire(world: World, kept: bool) -> None:
    """A subscription asked for two, the client takes one at a time: the other one has its time meanwhile."""
    for topic in ("a", "b"):
        say(world, topic, b"x", 1, retain=True, message_expiry_interval=20)
    guest = connect(world, receive_maximum=1, session_expiry_interval=60 if kept else 0)
    subscribe(guest, "+", qos=1)
    [first] = only_publishes(guest.packets())
    world.advance(30)
    finish(guest, first)
    assert guest.packets() == []


@pytest.mark.rule5("MQTT-3.3.2-5")
def test_an_interval_of_0(world: World) -> None:
    """It can be delivered at once or not at all: nobody who comes later sees it."""
    guest = durable(world)
    subscribe(guest, "t", qos=1)
    guest.drop()
    say(world, "t", b"x", 1, retain=True, message_expiry_interval=0)
    world.advance(1)
    assert durable(world, present=True).packets() == []
    assert newcomer(world) == []


@pytest.mark.rule5("MQTT-4.3.3-7", "MQTT-4.4.0-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_that_was_sent_does_not_expire(world: World, qos: int) -> None:
    """Its delivery had started: it is sent again to a client that was away for longer than its interval."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    say(world, "t", b"x", qos, message_expiry_interval=5)
    assert payloads(guest) == [b"x"]
    guest.drop()
    world.advance(30)
    again = durable(world, present=True)
    [message] = only_publishes(again.packets())
    assert (message.payload, message.dup, message.packet_id) == (b"x", True, 1)
    finish(again, message)


@pytest.mark.rule5("MQTT-4.3.3-7", "MQTT-4.3.3-13")
def test_a_qos_2_exchange_goes_on_after_the_expiry(world: World) -> None:
    """Towards the subscriber and from the publisher, each step is answered."""
    guest, publisher = connect(world), connect(world, "p")
    subscribe(guest, "t", qos=2)
    publisher.send(publish("t", b"x", 2, id=7, message_expiry_interval=1))
    assert publisher.packets() == [Pubrec(7)]
    [message] = only_publishes(guest.packets())
    world.advance(10)
    publisher.send(publish("t", b"x", 2, id=7, dup=True, message_expiry_interval=1))
    assert publisher.packets() == [Pubrec(7)]
    assert publisher.send("62 02 00 07").bytes().hex(" ") == "70 02 00 07"
    finish(guest, message)
    assert guest.packets() == []


@pytest.mark.rule5("N5-64", "MQTT-3.3.2-5")
def test_expiry_counts_for_older_clients_too(world: World) -> None:
    """A 3.1.1 client that comes back later does not get what has expired; what it gets has no properties."""
    older = world.connect("c", 4, clean_start=False)
    older.send("82 06 00 01 00 01 74 01")
    older.drop()
    say(world, "t", b"short", 1, message_expiry_interval=5)
    say(world, "t", b"long", 1, message_expiry_interval=100)
    world.advance(30)
    older = world.connect("c", 4, present=True, clean_start=False)
    [message] = only_publishes(older.packets())
    assert (message.payload, message.properties) == (b"long", {})


# -- answers


@pytest.mark.parametrize("topic", ["heard", "unheard"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.3.4-1", "MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-4.3.2-4", "MQTT-4.3.3-8", "N5-53")
def test_the_answer_follows_the_qos(world: World, qos: int, topic: str) -> None:
    """Nothing for QoS 0, PUBACK for QoS 1, PUBREC for QoS 2; 0x10 if nobody is subscribed."""
    guest, publisher = connect(world), connect(world, "p")
    subscribe(guest, "heard")
    publisher.send(publish(topic, b"x", qos, id=0x1234))
    code = "02 12 34" if topic == "heard" else "03 12 34 10"
    assert publisher.bytes().hex(" ") == ("", f"40 {code}", f"50 {code}")[qos]


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-4.3.3-9", "N5-52", "N5-61", "MQTT-3.1.4-2")
def test_a_publish_that_is_not_allowed(qos: int, retain: bool) -> None:
    """0x87 in PUBACK or PUBREC, silence at QoS 0; nobody gets it, nothing is kept, and the id is free at once."""
    world = World(authorizer=NoSecrets())
    watcher, publisher = bystander(world, qos=2), connect(world, "p", session_expiry_interval=60)
    for _ in range(3):
        publisher.send(publish("secret", b"x", qos, id=9, retain=retain))
        expected = [[], [Puback(9, Reason.NOT_AUTHORIZED)], [Pubrec(9, Reason.NOT_AUTHORIZED)]][qos]
        found = publisher.packets()
        assert found == expected or (not qos and isinstance(found[0], Disconnect))
    if qos:
        hand_over(publisher, publish("open", b"y", qos, id=9))
        assert payloads(watcher) == [b"y"]
    assert watcher.packets() == []
    assert newcomer(world, "+") == []


@pytest.mark.rule5("N5-53")
@pytest.mark.parametrize("qos", [1, 2])
def test_nobody_is_subscribed_any_more(world: World, qos: int) -> None:
    """0x10 after the last subscription ended; an absent session with a subscription counts as one."""
    absent = durable(world, "absent")
    subscribe(absent, "t", qos=1)
    absent.drop()
    publisher = connect(world, "p")
    kind = Puback if qos == 1 else Pubrec
    assert publisher.send(publish("t", b"x", qos, id=1)).packets() == [kind(1)]
    connect(world, "absent").drop()
    assert publisher.send(publish("t", b"x", qos, id=2)).packets() == [kind(2, Reason.NO_MATCHING_SUBSCRIBERS)]
    publisher.send(publish("t", b"x", qos, id=3, retain=True))
    [answer] = publisher.packets()
    assert answer.reason < 0x80  # type: ignore[union-attr]
