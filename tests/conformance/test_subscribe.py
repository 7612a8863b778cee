"""SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK: sections 3.8 to 3.11 of MQTT 3.1.1, and topics as the broker uses them."""

from __future__ import annotations

import pytest

from mqttcluster.broker.auth import Identity
from tests.broker.playbook import World
from tests.conformance.raw import (
    DISCONNECT,
    frame,
    puback,
    pubcomp,
    publish,
    pubrec,
    pubrel,
    send,
    suback,
    subscribe,
    subscribe_to,
    text,
    topics,
    unsuback,
    unsubscribe,
)

BAD_TEXT = [b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x00b"]
BAD_FILTERS = ["", "a#", "a/#/b", "#/a", "##", "#+", "+#", "a/##", "a+", "+a", "a/b+/c", "a/++"]


class NoSecrets:
    """An authorizer that keeps everybody from subscribing to `secret`."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        return True

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return filter != "secret"


# -- SUBSCRIBE as bytes


@pytest.mark.parametrize("first", [first for first in range(0x80, 0x90) if first != 0x82], ids=hex)
@pytest.mark.rule("MQTT-3.8.1-1")
def test_a_subscribe_with_other_flags_is_refused(world: World, first: int) -> None:
    """SUBSCRIBE begins with 0x82; any other low half closes the connection, without SUBACK."""
    client = world.connect("c")
    assert client.send(bytes((first,)) + subscribe(1, ("t", 0))[1:]).closed
    assert client.bytes() == b""


@pytest.mark.parametrize("bad", BAD_TEXT, ids=lambda bad: bad.hex())
@pytest.mark.rule("MQTT-3.8.3-1")
def test_a_filter_that_is_no_utf_8_is_refused(world: World, bad: bytes) -> None:
    """Ill-formed UTF-8 or U+0000 in a filter closes the connection, also behind a good filter."""
    client = world.connect("c")
    entry = len(bad).to_bytes(2, "big") + bad + b"\x00"
    assert client.send(frame(0x82, b"\x00\x01" + text("good") + b"\x00" + entry)).closed
    assert client.bytes() == b""


@pytest.mark.parametrize("topic_filter", ["#", "+", "a/#", "+/+", "a/+/c"])
@pytest.mark.rule("MQTT-3.8.3-2", "N311-16")
def test_wildcards_are_supported(world: World, topic_filter: str) -> None:
    """Filters with wildcards are granted, so there is nothing to refuse."""
    subscribe_to(world.connect("c"), (topic_filter, 2))


@pytest.mark.parametrize("body", ["", "00", "00 01", "00 01 00", "00 01 00 01 74", "00 01 00 02 74 00"])
@pytest.mark.rule("MQTT-3.8.3-3")
def test_a_subscribe_without_a_whole_filter_is_refused(world: World, body: str) -> None:
    """No filter at all, or one without its QoS byte, closes the connection, without SUBACK."""
    client = world.connect("c")
    assert client.send(frame(0x82, bytes.fromhex(body))).closed
    assert client.bytes() == b""


@pytest.mark.parametrize("options", [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x81, 0x82, 0xFC, 0xFF], ids=hex)
@pytest.mark.rule("MQTT-3.8.3-4")
def test_a_bad_qos_byte_is_refused(world: World, options: int) -> None:
    """QoS 3 and reserved bits close the connection, and none of the packet's filters is subscribed."""
    client = world.connect("c", clean_start=False)
    assert client.send(subscribe(1, ("good", 1), ("t", options))).closed
    assert client.bytes() == b""
    send(world.connect("p"), "good", b"x", 1)
    assert world.connect("c", clean_start=False, present=True).bytes() == b""


@pytest.mark.rule("MQTT-2.3.1-1")
def test_identifier_0_is_refused(world: World) -> None:
    """SUBSCRIBE and UNSUBSCRIBE with packet id 0 close the connection, without an answer."""
    for packet in (subscribe(0, ("t", 0)), unsubscribe(0, "t")):
        client = world.connect()
        assert client.send(packet).closed
        assert client.bytes() == b""


@pytest.mark.parametrize("topic_filter", BAD_FILTERS)
@pytest.mark.rule("MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.3-1")
def test_an_invalid_filter_is_refused(world: World, topic_filter: str) -> None:
    """A # that is not a whole last level, a + that is not a whole level, an empty filter: the connection closes."""
    for packet in (subscribe(1, (topic_filter, 0)), unsubscribe(1, topic_filter)):
        client = world.connect()
        assert client.send(packet).closed
        assert client.bytes() == b""


# -- SUBACK


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("identifier", [1, 10, 255, 256, 65535])
@pytest.mark.rule("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-2.3.1-7")
def test_every_subscribe_is_answered_under_its_identifier(world: World, identifier: int, clean: bool) -> None:
    """SUBACK comes with the same packet id, also to a SUBSCRIBE that changes nothing."""
    client = world.connect("c", clean_start=clean)
    for _ in range(2):
        client.send(subscribe(identifier, ("t", 0)))
        assert client.bytes().hex() == f"9003{identifier:04x}00"


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("N311-14")
def test_suback_comes_before_the_first_message(world: World, qos: int) -> None:
    """A client that knows no subscription yet sees no PUBLISH: retained and live messages follow SUBACK."""
    send(world.connect("p"), "t", b"kept", qos, retain=True)
    client = world.connect("c", clean_start=False)
    client.send(subscribe(1, ("t", 2)), publish("t", b"live"))
    arrived = client.bytes()
    assert arrived.startswith(suback(1, 2))
    assert b"kept" in arrived
    assert arrived.count(b"live") == 1


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.rule("MQTT-3.8.4-3")
def test_the_same_filter_again_replaces_the_subscription(world: World, before: int, after: int, clean: bool) -> None:
    """One copy comes, at the QoS of the newer subscription, and retained messages come again."""
    publisher = world.connect("p")
    send(publisher, "t", b"kept", 0, retain=True)
    client = world.connect("c", clean_start=clean)
    for identifier, qos in ((1, before), (2, after)):
        client.send(subscribe(identifier, ("t", qos)))
        assert client.bytes() == suback(identifier, qos) + publish("t", b"kept", retain=True)
    send(publisher, "t", b"x", 2)
    assert client.bytes() == publish("t", b"x", after, id=1)
    assert client.send(unsubscribe(3, "t")).bytes() == unsuback(3)
    send(publisher, "t", b"x", 0)
    assert client.bytes() == b""


@pytest.mark.rule("MQTT-3.8.4-3")
def test_nothing_is_lost_while_a_subscription_is_replaced(world: World) -> None:
    """Messages published before, while and after the store takes the new subscription arrive, in order."""
    client, publisher = subscribe_to(world.connect("c", clean_start=False), ("t", 1)), world.connect("p")
    world.hold()
    publisher.send(publish("t", b"1", 1, id=1))
    client.send(subscribe(2, ("t", 1)))
    publisher.send(publish("t", b"2", 1, id=2))
    world.answer()
    publisher.send(publish("t", b"3", 1, id=3))
    world.release()
    arrived = client.bytes()
    assert suback(2, 1) in arrived
    assert arrived.replace(suback(2, 1), b"") == b"".join(publish("t", b"%d" % n, 1, id=n) for n in (1, 2, 3))


@pytest.mark.rule("MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.9.3-1", "MQTT-3.9.3-2")
def test_one_code_for_each_filter_in_their_order() -> None:
    """A packet with many filters is answered by one SUBACK: granted QoS or 0x80, in the order of the filters."""
    client = World(authorizer=NoSecrets()).connect("c")
    client.send(subscribe(7, ("a", 2), ("secret", 2), ("b", 0), ("c/#", 1), ("secret", 0), ("d", 2)))
    assert client.bytes().hex(" ") == "90 08 00 07 02 80 00 01 80 02"
    assert client.alive()


@pytest.mark.rule("MQTT-3.8.4-4", "MQTT-3.9.3-1")
def test_the_same_filter_twice_in_one_packet(world: World) -> None:
    """Two codes, and the last QoS holds, as with two packets."""
    client = world.connect("c")
    assert client.send(subscribe(7, ("t", 2), ("u", 0), ("t", 1))).bytes() == suback(7, 2, 0, 1)
    send(world.connect("p"), "t", b"x", 2)
    assert client.bytes() == publish("t", b"x", 1, id=1)


@pytest.mark.rule("MQTT-3.8.4-5")
def test_a_refused_filter_brings_nothing() -> None:
    """0x80 means no subscription: neither retained nor live messages come, the other filters work."""
    world = World(authorizer=NoSecrets())
    publisher = world.connect("p")
    send(publisher, "secret", b"kept", 1, retain=True)
    client = world.connect("c")
    assert client.send(subscribe(1, ("secret", 1), ("open", 1))).bytes() == suback(1, 0x80, 1)
    send(publisher, "secret", b"x", 1)
    send(publisher, "open", b"y", 1)
    assert client.bytes() == publish("open", b"y", 1, id=1)


# -- UNSUBSCRIBE


@pytest.mark.parametrize("first", [first for first in range(0xA0, 0xB0) if first != 0xA2], ids=hex)
@pytest.mark.rule("MQTT-3.10.1-1")
def test_an_unsubscribe_with_other_flags_is_refused(world: World, first: int) -> None:
    """UNSUBSCRIBE begins with 0xA2; any other low half closes the connection, without UNSUBACK."""
    client = world.connect("c")
    assert client.send(bytes((first,)) + unsubscribe(1, "t")[1:]).closed
    assert client.bytes() == b""


@pytest.mark.parametrize("bad", BAD_TEXT, ids=lambda bad: bad.hex())
@pytest.mark.rule("MQTT-3.10.3-1")
def test_unsubscribing_from_what_is_no_utf_8_is_refused(world: World, bad: bytes) -> None:
    """Ill-formed UTF-8 or U+0000 closes the connection, also behind a good filter."""
    client = world.connect("c")
    assert client.send(frame(0xA2, b"\x00\x01" + text("good") + len(bad).to_bytes(2, "big") + bad)).closed
    assert client.bytes() == b""


@pytest.mark.rule("MQTT-3.10.3-1")
def test_unsubscribe_filters_stand_one_behind_the_other(world: World) -> None:
    """There is no QoS byte between them: with one the packet is malformed."""
    client = world.connect("c")
    assert client.send(frame(0xA2, b"\x00\x01" + text("a") + b"\x00" + text("b"))).closed
    assert client.bytes() == b""


@pytest.mark.parametrize("body", ["", "00", "00 01", "00 01 00", "00 01 00 02 74"])
@pytest.mark.rule("MQTT-3.10.3-2")
def test_an_unsubscribe_without_a_whole_filter_is_refused(world: World, body: str) -> None:
    """No filter at all closes the connection, without UNSUBACK."""
    client = world.connect("c")
    assert client.send(frame(0xA2, bytes.fromhex(body))).closed
    assert client.bytes() == b""


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.10.4-1")
def test_unsubscribe_compares_characters(world: World, clean: bool) -> None:
    """Only the very same filter goes: no wildcard expansion, no case folding, no trimming."""
    client = subscribe_to(world.connect("c", clean_start=clean), ("a/b", 0), ("a/#", 1), ("A/b", 0))
    for identifier, other in enumerate(("#", "a/+", "+/b", "a/b/", "/a/b", "a/B", "a/b "), 2):
        assert client.send(unsubscribe(identifier, other)).bytes() == unsuback(identifier)
    publisher = world.connect("p")
    send(publisher, "a/b", b"x", 1)
    assert client.bytes() == publish("a/b", b"x", 1, id=1)
    assert client.send(unsubscribe(20, "a/#")).bytes() == unsuback(20)
    send(publisher, "a/b", b"x", 1)
    assert client.bytes() == publish("a/b", b"x")
    assert client.send(unsubscribe(21, "a/b")).bytes() == unsuback(21)
    send(publisher, "a/b", b"x", 1)
    send(publisher, "A/b", b"y", 1)
    assert client.bytes() == publish("A/b", b"y")


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.rule("MQTT-3.10.4-2")
def test_after_unsubscribing_nothing_new_comes(world: World, qos: int, offline: bool) -> None:
    """Neither while the client is connected nor while it is away."""
    client = subscribe_to(world.connect("c", clean_start=False), ("t", 2))
    assert client.send(unsubscribe(2, "t")).bytes() == unsuback(2)
    if offline:
        client.send(DISCONNECT)
    send(world.connect("p"), "t", b"x", qos)
    if offline:
        client = world.connect("c", clean_start=False, present=True)
    assert client.bytes() == b""


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.10.4-2", "N311-15")
def test_retained_messages_that_still_wait_do_not_come_after_unsubscribing(clean: bool) -> None:
    """What is in flight or queued may come; what a subscription only noted is forgotten with it."""
    world = World(max_inflight=1)
    for number in range(20):
        send(world.connect("p"), f"t/{number}", b"x", 1, retain=True)
    client = subscribe_to(world.connect("c", clean_start=clean), ("t/#", 1))
    arrived = topics(client.bytes())
    assert client.send(unsubscribe(2, "t/#")).bytes() == unsuback(2)
    for identifier in range(1, 21):
        arrived += topics(client.send(puback(identifier)).bytes())
    assert 1 <= len(arrived) <= 2


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-3.10.4-3")
def test_deliveries_under_way_are_completed_after_unsubscribing(world: World, qos: int, clean: bool) -> None:
    """A message sent before UNSUBSCRIBE is acknowledged to its end behind it."""
    client = subscribe_to(world.connect("c", clean_start=clean), ("t", 2))
    send(world.connect("p"), "t", b"x", qos)
    assert client.bytes() == publish("t", b"x", qos, id=1)
    assert client.send(unsubscribe(2, "t")).bytes() == unsuback(2)
    if qos == 1:
        assert client.send(puback(1)).bytes() == b""
    else:
        assert client.send(pubrec(1)).bytes() == pubrel(1)
        assert client.send(pubcomp(1)).bytes() == b""
    assert client.alive()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-3.10.4-3")
def test_deliveries_under_way_are_sent_again_after_unsubscribing(world: World, qos: int) -> None:
    """Also over a reconnect: the message with DUP, and after PUBREC the PUBREL."""
    client = subscribe_to(world.connect("c", clean_start=False), ("t", 2))
    send(world.connect("p"), "t", b"x", qos)
    assert client.bytes() == publish("t", b"x", qos, id=1)
    client.send(unsubscribe(2, "t")).drop()
    client = world.connect("c", clean_start=False, present=True)
    assert client.bytes() == publish("t", b"x", qos, id=1, dup=True)
    if qos == 1:
        assert client.send(puback(1)).bytes() == b""
    else:
        client.send(pubrec(1)).drop()
        client = world.connect("c", clean_start=False, present=True)
        assert client.bytes() == pubrel(1)
        assert client.send(pubcomp(1)).bytes() == b""
    client.drop()
    assert world.connect("c", clean_start=False, present=True).bytes() == b""


@pytest.mark.parametrize("subscribed", [True, False])
@pytest.mark.parametrize("identifier", [1, 256, 65535])
@pytest.mark.rule("MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-2.3.1-7")
def test_every_unsubscribe_is_answered_under_its_identifier(world: World, identifier: int, subscribed: bool) -> None:
    """UNSUBACK comes with the same packet id, whether or not there was anything to remove."""
    client = world.connect("c")
    if subscribed:
        subscribe_to(client, ("t", 0))
    assert client.send(unsubscribe(identifier, "t")).bytes().hex() == f"b002{identifier:04x}"
    assert client.send(unsubscribe(identifier, "t")).bytes().hex() == f"b002{identifier:04x}"


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.10.4-6")
def test_an_unsubscribe_with_many_filters(world: World, clean: bool) -> None:
    """Each filter is dealt with, known or not, also twice the same; one UNSUBACK comes."""
    client = subscribe_to(world.connect("c", clean_start=clean), ("a", 0), ("b", 0), ("c", 0))
    assert client.send(unsubscribe(5, "a", "none", "c", "a")).bytes() == unsuback(5)
    for name in "abc":
        send(world.connect("p"), name, b"x", 1)
    assert client.bytes() == publish("b", b"x")


# -- topics through the broker; tests/mqtt has the tables


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("a/b", "a/b/", False),
        ("a//b", "a/b", False),
        ("+", "/a", False),
        ("+/+", "/", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("/#", "a", False),
        ("#", "/", True),
        ("a/+/#", "a", False),
        ("a/#", "a/$x/b", True),
        ("+/$x", "a/$x", True),
        ("/+", "/$SYS", True),
        ("A", "a", False),
        ("caf\u00e9", "cafe\u0301", False),
        ("\ufeffa", "a", False),
        (" a", "a", False),
    ],
)
@pytest.mark.rule("MQTT-4.7.3-4", "MQTT-3.3.2-3", "MQTT-1.5.3-3")
def test_a_filter_matches_live_and_retained_messages_alike(
    world: World, topic_filter: str, topic: str, matches: bool
) -> None:
    """A message that comes live also comes as retained, and one that does not match comes neither way."""
    client = subscribe_to(world.connect("c"), (topic_filter, 0))
    send(world.connect("p"), topic, b"x", 0, retain=True)
    assert client.bytes() == (publish(topic, b"x") if matches else b"")
    late = subscribe_to(world.connect("late"), (topic_filter, 0))
    assert late.bytes() == (publish(topic, b"x", retain=True) if matches else b"")


@pytest.mark.parametrize("topic_filter", ["#", "+/#", "+/broker/uptime", "+/broker/#"])
@pytest.mark.rule("MQTT-4.7.2-1")
def test_leading_wildcards_bring_no_dollar_topics(topic_filter: str) -> None:
    """What the server publishes under $SYS comes to $SYS/#, not to a filter that begins with a wildcard."""
    world = World(sys_interval=10)
    client = subscribe_to(world.connect("c"), (topic_filter, 0))
    admin = subscribe_to(world.connect("admin"), ("$SYS/#", 0))
    admin.bytes()
    world.advance(10)
    assert "$SYS/broker/uptime" in topics(admin.bytes())
    assert client.bytes() == b""


@pytest.mark.parametrize("size", [65_535, 65_534])
@pytest.mark.rule("MQTT-4.7.3-3")
def test_the_longest_topic_there_can_be(size: int) -> None:
    """A name of 65535 bytes is subscribed, published and retained like any other."""
    world, name = World(), "x" * size
    client = subscribe_to(world.connect("c"), (name, 1))
    send(world.connect("p"), name, b"x", 1, retain=True)
    assert client.bytes() == publish(name, b"x", 1, id=1)
    assert client.send(unsubscribe(2, name)).bytes() == unsuback(2)
