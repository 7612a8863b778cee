"""SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK in MQTT 5.0, sections 3.8 to 3.11, and topics as the broker uses them."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.mqtt.packets import (
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads
from tests.conformance.v5.stage import (
    NoSecrets,
    asked,
    assert_cut_off,
    bystander,
    connect,
    durable,
    finish,
    hand_over,
    identifiers,
    publish,
    restart,
    say,
    subscribe,
    with_will,
)
from tests.support.wire import frame, string

BAD_FILTERS = ["", "a#", "a/#/b", "#/a", "##", "#+", "+#", "a/##", "a+", "+a", "a/b+/c", "a/++"]


# -- SUBSCRIBE as bytes


@pytest.mark.parametrize("first", [first for first in range(0x80, 0x90) if first != 0x82], ids=hex)
@pytest.mark.rule5("MQTT-3.8.1-1", "MQTT-2.1.3-1")
def test_a_subscribe_with_other_flags_is_refused(world: World, first: int) -> None:
    """0x81, without SUBACK."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(bytes((first,)) + bytes.fromhex("07 00 01 00 00 01 74 00"))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.parametrize("first", [first for first in range(0xA0, 0xB0) if first != 0xA2], ids=hex)
@pytest.mark.rule5("MQTT-3.10.1-1", "MQTT-2.1.3-1")
def test_an_unsubscribe_with_other_flags_is_refused(world: World, first: int) -> None:
    """0x81, without UNSUBACK."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(bytes((first,)) + bytes.fromhex("06 00 01 00 00 01 74"))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.rule5("MQTT-3.8.3-2", "MQTT-3.10.3-2")
@pytest.mark.parametrize("raw", ["82 03 00 01 00", "A2 03 00 01 00"], ids=["SUBSCRIBE", "UNSUBSCRIBE"])
def test_no_filter_at_all(world: World, raw: str) -> None:
    """0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-4.7.3-2")
@pytest.mark.parametrize("bad", [b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"a\x00b"], ids=bytes.hex)
@pytest.mark.parametrize("kind", [0x82, 0xA2], ids=["SUBSCRIBE", "UNSUBSCRIBE"])
def test_a_filter_that_is_no_utf_8(world: World, kind: int, bad: bytes) -> None:
    """0x81, also behind a good filter, which has no effect."""
    end = b"\0" if kind == 0x82 else b""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(kind, b"\0\1\0" + string("good") + end + string(bad) + end))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.parametrize("kind", [0x82, 0xA2], ids=["SUBSCRIBE", "UNSUBSCRIBE"])
@pytest.mark.parametrize("topic_filter", BAD_FILTERS)
@pytest.mark.rule5("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1")
def test_an_invalid_filter(world: World, topic_filter: str, kind: int) -> None:
    """0x82, or a refusal of that filter alone (0x8F); there is no such subscription in the end."""
    end = b"\0" if kind == 0x82 else b""
    guest = durable(world)
    guest.send(frame(kind, b"\0\1\0" + string(topic_filter) + end))
    [packet] = guest.packets()
    if isinstance(packet, (Suback, Unsuback)):
        assert packet.reasons == [Reason.TOPIC_FILTER_INVALID]
        assert not guest.closed
    else:
        assert packet.reason is Reason.PROTOCOL_ERROR  # type: ignore[union-attr]
        assert guest.closed


@pytest.mark.rule5("MQTT-3.8.3-5")
@pytest.mark.parametrize("options", [0x40, 0x80, 0xC0, 0x41, 0x82], ids=hex)
def test_reserved_option_bits(world: World, options: int) -> None:
    """0x81, and none of the packet's filters is subscribed."""
    watcher, mortal = bystander(world), with_will(world, session_expiry_interval=60)
    mortal.send(frame(0x82, b"\0\1\0" + string("good") + b"\1" + string("t") + bytes((options,))))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)
    hand_over(connect(world, "p"), publish("good", b"x", 1, id=1))
    assert connect(world, "mortal", clean_start=False, present=True).packets() == []


@pytest.mark.rule5("N5-21", "N5-22", "N5-18", "N5-19")
@pytest.mark.parametrize(
    "raw",
    [
        "82 07 00 01 00 00 01 74 03",
        "82 07 00 01 00 00 01 74 30",
        "82 09 00 01 02 0B 00 00 01 74 00",
        "82 0B 00 01 04 0B 01 0B 02 00 01 74 00",
    ],
    ids=["QoS 3", "retain handling 3", "identifier 0", "two identifiers"],
)
def test_options_that_are_not_allowed(world: World, raw: str) -> None:
    """0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


# -- SUBACK


@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize("number", [1, 10, 255, 256, 65535])
@pytest.mark.rule5("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-2.2.1-6", "MQTT-3.8.4-7")
def test_every_subscribe_is_answered_under_its_identifier(world: World, number: int, kept: bool) -> None:
    """SUBACK comes with the same packet id, also to a SUBSCRIBE that changes nothing."""
    guest = connect(world, session_expiry_interval=60 if kept else 0)
    for qos in (0, 0, 1, 2):
        guest.send(asked(number, "t", qos=qos))
        assert guest.bytes().hex() == f"9004{number:04x}00{qos:02x}"


@pytest.mark.rule5("MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.8.4-7", "MQTT-3.9.3-1", "MQTT-3.9.3-2")
def test_one_code_for_each_filter_in_their_order() -> None:
    """A packet with many filters is answered by one SUBACK: granted QoS, or 0x87 for what is not allowed."""
    guest = connect(World(authorizer=NoSecrets()))
    wanted = [("a", 2), ("secret", 2), ("b", 0), ("c/#", 1), ("secret", 0), ("d", 2)]
    guest.send(Subscribe(7, [(name, Subscription(qos)) for name, qos in wanted]))
    assert guest.packets() == [Suback(7, [Reason(code) for code in (2, 0x87, 0, 1, 0x87, 2)])]
    assert guest.alive()


@pytest.mark.rule5("MQTT-3.8.4-7", "MQTT-3.8.4-5")
def test_a_refused_filter_brings_nothing() -> None:
    """Neither retained nor live messages come; the other filters work."""
    world = World(authorizer=NoSecrets())
    guest = connect(world)
    guest.send(asked(1, "secret", "open", qos=1))
    assert guest.packets() == [Suback(1, [Reason.NOT_AUTHORIZED, Reason.GRANTED_QOS_1])]
    say(world, "open", b"y", 1)
    assert payloads(guest) == [b"y"]


@pytest.mark.rule5("MQTT-3.8.4-7", "MQTT-3.9.3-2", "N5-54")
def test_more_subscriptions_than_there_is_room_for() -> None:
    """0x97 for what is too much; what was there stays."""
    world = World(max_subscriptions=3)
    guest = connect(world)
    subscribe(guest, "a", "b")
    guest.send(asked(2, "b", "c", "d", "e", qos=1))
    assert guest.packets() == [Suback(2, [Reason(1), Reason(1), Reason.QUOTA_EXCEEDED, Reason.QUOTA_EXCEEDED])]
    for topic in ("a", "b", "c", "d"):
        say(world, topic, topic.encode())
    assert payloads(guest) == [b"a", b"b", b"c"]


@pytest.mark.rule5("MQTT-3.8.4-1", "N5-47")
def test_suback_comes_before_the_first_message(world: World) -> None:
    """A client that knows no subscription yet sees no PUBLISH: retained and live messages follow SUBACK."""
    say(world, "t", b"kept", 1, retain=True)
    guest = durable(world)
    guest.send(asked(1, "t", qos=2), publish("t", b"live"))
    first, *rest = guest.packets()
    assert first == Suback(1, [Reason.GRANTED_QOS_2])
    assert sorted(message.payload for message in only_publishes(rest)) == [b"kept", b"live"]


# -- the same filter again


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
@pytest.mark.rule5("MQTT-3.8.4-3", "MQTT-3.8.4-4", "MQTT-3.8.4-8")
def test_the_same_filter_again_replaces_the_subscription(world: World, before: int, after: int, kept: bool) -> None:
    """One copy comes, at the QoS of the newer subscription, and retained messages come again."""
    say(world, "t", b"kept", retain=True)
    guest = connect(world, session_expiry_interval=60 if kept else 0)
    for number, qos in ((1, before), (2, after)):
        guest.send(asked(number, "t", qos=qos))
        assert guest.packets() == [Suback(number, [Reason(qos)]), publish("t", b"kept", retain=True)]
    say(world, "t", b"x", 2)
    assert guest.packets() == [publish("t", b"x", after, id=1)]
    assert guest.send(Unsubscribe(3, ["t"])).packets() == [Unsuback(3, [Reason.SUCCESS])]
    say(world, "t")
    assert guest.packets() == []


@pytest.mark.rule5("MQTT-3.8.4-3", "N5-48", "MQTT-3.3.4-3")
@pytest.mark.parametrize("crash", [True, False])
def test_options_and_identifier_are_replaced(world: World, crash: bool) -> None:
    """Each newer subscription says all there is: identifier, No Local, Retain As Published; also when stored."""
    guest = durable(world)
    steps: list[tuple[dict[str, Any], Publish | None]] = [
        ({"identifier": 5}, publish("t", b"x", 1, id=1, subscription_identifier=5)),
        ({"identifier": 6}, publish("t", b"x", 1, id=1, subscription_identifier=6)),
        ({}, publish("t", b"x", 1, id=1)),
        ({"retain_as_published": True}, publish("t", b"x", 1, id=1, retain=True)),
        ({"no_local": True, "identifier": 7}, None),
        ({"retain_handling": 2}, publish("t", b"x", 1, id=1)),
    ]
    for number, (options, expected) in enumerate(steps, 1):
        options = {"retain_handling": 2, **options}
        subscribe(guest, "t", qos=1, packet_id=number, **options)
        if crash:
            world = restart(world)
            guest = durable(world, present=True)
        guest.send(publish("t", b"x", 1, id=99, retain=True))
        found = only_publishes(guest.packets())
        assert [(message.retain, message.properties) for message in found] == (
            [(expected.retain, expected.properties)] if expected else []
        )
        finish(guest, *found)


@pytest.mark.rule5("MQTT-3.8.4-4")
def test_nothing_is_lost_while_a_subscription_is_replaced(world: World) -> None:
    """Messages published before, while and after the store takes the new subscription arrive, once, in order."""
    guest, publisher = durable(world), connect(world, "p")
    subscribe(guest, "t", qos=1)
    world.hold()
    publisher.send(publish("t", b"1", 1, id=1))
    guest.send(asked(2, "t", qos=1, identifier=5))
    publisher.send(publish("t", b"2", 1, id=2))
    world.answer()
    publisher.send(publish("t", b"3", 1, id=3))
    world.release()
    found = guest.packets()
    assert [message.payload for message in only_publishes(found)] == [b"1", b"2", b"3"]
    assert Suback(2, [Reason.GRANTED_QOS_1]) in found


@pytest.mark.rule5("MQTT-3.8.4-5", "MQTT-3.9.3-1")
def test_the_same_filter_twice_in_one_packet(world: World) -> None:
    """Two codes, and the last options hold, as with two packets."""
    guest = connect(world)
    guest.send(Subscribe(7, [("t", Subscription(2)), ("u", Subscription(0)), ("t", Subscription(1))]))
    assert guest.packets() == [Suback(7, [Reason(2), Reason(0), Reason(1)])]
    say(world, "t", b"x", 2)
    assert guest.packets() == [publish("t", b"x", 1, id=1)]


# -- No Local


@pytest.mark.rule5("MQTT-3.8.3-3")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_no_local(world: World, qos: int, kept: bool) -> None:
    """A client's own messages do not come back, those of others do; without the option its own come, too."""
    guest = connect(world, session_expiry_interval=60 if kept else 0)
    subscribe(guest, "t", qos=2, no_local=True)
    subscribe(guest, "u", qos=2, packet_id=2)
    guest.send(publish("t", b"mine", qos, id=1), publish("u", b"mine too", qos, id=2))
    assert [message.payload for message in only_publishes(guest.packets())] == [b"mine too"]
    say(world, "t", b"theirs", qos)
    assert payloads(guest) == [b"theirs"]


@pytest.mark.rule5("MQTT-3.8.3-3", "MQTT-3.3.4-2", "N5-20")
def test_no_local_with_an_overlapping_subscription(world: World) -> None:
    """The other subscription brings the client's own message, with its own identifier only."""
    guest = connect(world)
    subscribe(guest, "t", qos=2, no_local=True, identifier=1)
    subscribe(guest, "#", qos=1, packet_id=2, identifier=2)
    guest.send(publish("t", b"mine", 2, id=1))
    [message] = only_publishes(guest.packets())
    assert (message.qos, identifiers(message)) == (1, [2])
    say(world, "t", b"theirs", 2)
    [message] = only_publishes(guest.packets())
    assert (message.qos, identifiers(message)) == (2, [1, 2])


@pytest.mark.rule5("MQTT-3.8.3-3")
def test_no_local_goes_by_client_id(world: World) -> None:
    """A message that was published on an earlier connection of the same client is its own, also as retained one."""
    guest = durable(world)
    subscribe(guest, "t", qos=1, no_local=True)
    guest.drop()
    again = durable(world, present=True)
    again.send(publish("t", b"mine", 1, id=1, retain=True))
    assert only_publishes(again.packets()) == []
    other = connect(world, "other")
    subscribe(other, "t", qos=1, no_local=True)
    assert payloads(other) == [b"mine"]


# -- overlapping subscriptions and identifiers


@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("order", [("+/b", "a/b", "a/#"), ("a/#", "a/b", "+/b")], ids=" ".join)
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
@pytest.mark.rule5("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4", "N5-20", "N5-50")
def test_overlapping_subscriptions(world: World, published: int, order: tuple[str, ...], kept: bool) -> None:
    """One copy comes, at the highest QoS, with the identifiers of all that match, repetitions included."""
    granted = {"+/b": (1, 7), "a/b": (2, 9), "a/#": (0, 7)}
    guest = connect(world, session_expiry_interval=60 if kept else 0)
    for number, name in enumerate(order, 1):
        subscribe(guest, name, qos=granted[name][0], packet_id=number, identifier=granted[name][1])
    subscribe(guest, "other/#", qos=2, packet_id=8, identifier=1000)
    subscribe(guest, "+/+", qos=0, packet_id=9)
    say(world, "a/b", b"x", published)
    [message] = only_publishes(guest.packets())
    assert (message.qos, message.payload) == (published, b"x")
    assert identifiers(message) == [7, 7, 9]


@pytest.mark.rule5("MQTT-3.3.4-3", "N5-20", "N5-49")
@pytest.mark.parametrize("how", ["live", "waited", "crash", "sent again"])
def test_an_identifier_on_every_way(world: World, how: str) -> None:
    """Live, from the queue, after a restart of the broker, and repeated."""
    guest = durable(world)
    subscribe(guest, "t", qos=1, identifier=42)
    if how in ("waited", "crash"):
        guest.drop()
    say(world, "t", b"x", 1, user_property=[("k", "v")])
    if how == "crash":
        world = restart(world)
    if how != "live":
        guest.drop()
        guest = durable(world, present=True)
    expected = publish(
        "t", b"x", 1, id=1, dup=how == "sent again", user_property=[("k", "v")], subscription_identifier=42
    )
    assert guest.packets() == [expected]


@pytest.mark.rule5("N5-20", "MQTT-3.3.4-3")
def test_each_client_sees_its_own_identifiers(world: World) -> None:
    """Several receivers of one message, each with another identifier, or none."""
    guests = {number: connect(world, f"c{number}") for number in range(4)}
    for number, guest in guests.items():
        subscribe(guest, "t", qos=number % 3, identifier=number * 100)
    say(world, "t", b"x", 2)
    for number, guest in guests.items():
        [message] = only_publishes(guest.packets())
        assert (message.qos, identifiers(message)) == (number % 3, [number * 100] if number else [])


# -- UNSUBSCRIBE


@pytest.mark.rule5("MQTT-3.10.4-1", "MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.11.3-2")
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_unsubscribe(world: World, kept: bool) -> None:
    """It removes the equal filter and no other that matches the same; unknown ones get 0x11."""
    guest = connect(world, session_expiry_interval=60 if kept else 0)
    subscribe(guest, "a/+", "a/#", "a/b", qos=1)
    for number, (name, code) in enumerate([("a/b", 0), ("a/b", 0x11), ("a/c", 0x11), ("A/+", 0x11), ("#", 0x11)], 2):
        assert guest.send(Unsubscribe(number, [name])).packets() == [Unsuback(number, [Reason(code)])]
    say(world, "a/b", b"still", 1)
    assert payloads(guest) == [b"still"]
    assert guest.send(Unsubscribe(9, ["a/+", "a/#"])).packets() == [Unsuback(9, [Reason(0), Reason(0)])]
    say(world, "a/b", b"x", 1)
    assert guest.packets() == []


@pytest.mark.rule5("MQTT-3.10.4-6", "MQTT-3.11.3-1", "MQTT-3.11.3-2")
def test_unsuback_has_one_code_for_each_filter(world: World) -> None:
    """In their order; the same filter twice is there the first time only."""
    guest = durable(world)
    subscribe(guest, "a", "b", qos=1)
    guest.send(Unsubscribe(5, ["x", "b", "b", "a", "y"]))
    assert guest.packets() == [Unsuback(5, [Reason(code) for code in (0x11, 0, 0x11, 0, 0x11)])]


@pytest.mark.rule5("MQTT-3.10.4-3", "N5-55")
@pytest.mark.parametrize("crash", [True, False])
@pytest.mark.parametrize("qos", [1, 2])
def test_what_has_begun_is_completed(world: World, qos: int, crash: bool) -> None:
    """A delivery that is under way goes on after UNSUBSCRIBE, over a reconnect as well."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    say(world, "t", b"x", qos)
    assert payloads(guest) == [b"x"]
    assert guest.send(Unsubscribe(2, ["t"])).packets() == [Unsuback(2, [Reason.SUCCESS])]
    if crash:
        world = restart(world)
    else:
        guest.drop()
    again = durable(world, present=True)
    assert again.packets() == [publish("t", b"x", qos, id=1, dup=True)]
    if qos == 1:
        assert again.send(Puback(1)).packets() == []
    else:
        assert again.send(Pubrec(1)).packets() == [Pubrel(1)]


@pytest.mark.rule5("MQTT-3.10.4-2", "MQTT-3.10.4-1")
def test_unsubscribing_holds_over_a_restart(world: World) -> None:
    """What was removed before the broker crashed stays removed."""
    guest = durable(world)
    subscribe(guest, "t", "u", qos=1)
    guest.send(Unsubscribe(2, ["t"]))
    guest.packets()
    again = restart(world)
    say(again, "t", b"x", 1)
    say(again, "u", b"y", 1)
    assert payloads(durable(again, present=True)) == [b"y"]


# -- QoS


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.rule5("MQTT-3.8.4-8", "MQTT-3.3.4-1")
def test_the_lower_qos_counts(world: World, published: int, granted: int) -> None:
    """Of the publisher's and the subscription's."""
    guest = connect(world)
    subscribe(guest, "t", qos=granted)
    say(world, "t", b"x", published)
    assert guest.packets() == [publish("t", b"x", min(published, granted), id=1)]


# -- topics


@pytest.mark.rule5("MQTT-4.7.1-1", "MQTT-4.7.1-2")
def test_valid_topic_filters(world: World) -> None:
    """Wildcards where they may stand are granted."""
    guest = connect(world)
    subscribe(guest, "#", "+", "a/#", "/#", "+/#", "+/+/#", "a/+/b", "+/a/#", "+/", "/", "//", "$SYS/#", "a b")


@pytest.mark.rule5("MQTT-4.7.2-1")
def test_dollar_topics_and_leading_wildcards() -> None:
    """`#` and `+` in front do not show what begins with `$`, live or retained; `$SYS/#` does."""
    world = World(sys_interval=1)
    hidden, shown = connect(world, "hidden"), connect(world, "shown")
    subscribe(hidden, "#", "+/#", "+/broker/uptime", "+/+/uptime")
    shown.send(asked(1, "$SYS/broker/uptime", "$SYS/+/uptime"))
    shown.packets()
    world.advance(1)
    assert [message.topic for message in only_publishes(shown.packets())] == ["$SYS/broker/uptime"]
    assert hidden.packets() == []


@pytest.mark.rule5("MQTT-4.7.3-3")
@pytest.mark.parametrize("qos", [0, 1])
def test_the_longest_topic(world: World, qos: int) -> None:
    """65535 bytes of topic and of filter pass, and come back as they were, live and retained."""
    topic = "\u00e4" * 32767 + "x"
    guest = connect(world)
    subscribe(guest, topic, qos=qos)
    say(world, topic, b"x", qos, retain=True)
    assert guest.packets() == [publish(topic, b"x", qos, id=1)]
    late = connect(world, "late")
    subscribe(late, "#", qos=qos)
    assert late.packets() == [publish(topic, b"x", qos, id=1, retain=True)]


@pytest.mark.rule5("MQTT-4.7.3-4", "MQTT-1.5.4-3")
@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("A", "a"),
        ("\u00df", "ss"),
        ("a ", "a"),
        ("\ufeffa", "a"),
        ("\ufb01", "fi"),
        ("\u212b", "\u00c5"),
        ("a", "a\u200b"),
        ("a", "a/"),
        ("a", "/a"),
    ],
)
def test_characters_are_compared_as_they_are(world: World, topic_filter: str, topic: str) -> None:
    """No normalization, no case folding, no trimming: only the same characters match."""
    guest = connect(world)
    subscribe(guest, topic_filter)
    say(world, topic, b"another")
    say(world, topic_filter, b"same")
    assert payloads(guest) == [b"same"]
