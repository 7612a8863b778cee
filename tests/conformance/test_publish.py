"""PUBLISH and its acknowledgements: sections 3.3 to 3.7 of MQTT 3.1.1."""

from __future__ import annotations

import pytest

from mqttcluster.broker.auth import Identity
from tests.broker.playbook import Peer, World
from tests.conformance.raw import (
    DISCONNECT,
    acknowledgement,
    frame,
    puback,
    pubcomp,
    publish,
    pubrec,
    pubrel,
    send,
    subscribe,
    subscribe_to,
    text,
)


class NoSecrets:
    """An authorizer that keeps everybody from publishing to `secret`."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        return topic != "secret"

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return True


def witness(world: World) -> Peer:
    """A client that sees every message, QoS as published."""
    return subscribe_to(world.connect("witness"), ("#", 2))


# -- the first byte


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-3.3.1-1")
def test_dup_tells_a_repetition_from_a_first_attempt(world: World, qos: int) -> None:
    """The first delivery has DUP 0, the one after a reconnect DUP 1, and a message never sent before DUP 0 again."""
    subscriber = subscribe_to(world.connect("s", clean_start=False), ("t", 2))
    publisher = world.connect("p")
    send(publisher, "t", b"first", qos)
    assert subscriber.bytes() == publish("t", b"first", qos, id=1)
    subscriber.drop()
    send(publisher, "t", b"second", qos)
    subscriber = world.connect("s", clean_start=False, present=True)
    assert subscriber.bytes() == publish("t", b"first", qos, id=1, dup=True) + publish("t", b"second", qos, id=2)


@pytest.mark.parametrize("first", [0x38, 0x39])
@pytest.mark.rule("MQTT-3.3.1-2")
def test_dup_with_qos_0_is_refused(world: World, first: int) -> None:
    """A PUBLISH with QoS 0 and DUP closes the connection and reaches nobody."""
    subscriber, publisher = witness(world), world.connect("p")
    publisher.send(frame(first, text("t") + b"x"))
    assert publisher.closed
    assert publisher.bytes() == subscriber.bytes() == b""


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-3.3.1-3")
def test_dup_is_not_passed_on(world: World, qos: int) -> None:
    """What a publisher sends with DUP leaves with DUP 0, and is no duplicate for it."""
    subscriber, publisher = witness(world), world.connect("p")
    publisher.send(publish("t", b"x", qos, id=3, dup=True))
    assert publisher.bytes() == acknowledgement(qos, 3)
    assert subscriber.bytes() == publish("t", b"x", qos, id=1)


@pytest.mark.parametrize("first", [0x36, 0x37, 0x3E, 0x3F])
@pytest.mark.rule("MQTT-3.3.1-4")
def test_qos_3_is_refused(world: World, first: int) -> None:
    """QoS bits 11 close the connection and reach nobody."""
    subscriber, publisher = witness(world), world.connect("p")
    publisher.send(frame(first, text("t") + b"\x00\x01x"))
    assert publisher.closed
    assert publisher.bytes() == subscriber.bytes() == b""


# -- the topic name


@pytest.mark.parametrize(
    "topic",
    [b"\xff", b"\xc3", b"a\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x00b"],
    ids=lambda topic: topic.hex(),
)
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.2-1")
def test_a_topic_that_is_no_utf_8_is_refused(world: World, topic: bytes, qos: int) -> None:
    """Ill-formed UTF-8 and U+0000 in a topic name close the connection, without acknowledgement."""
    subscriber, publisher = witness(world), world.connect("p")
    identifier = b"\x00\x01" if qos else b""
    publisher.send(frame(0x30 | qos << 1, len(topic).to_bytes(2, "big") + topic + identifier))
    assert publisher.closed
    assert publisher.bytes() == subscriber.bytes() == b""


@pytest.mark.parametrize("body", ["", "00", "00 04 74", "00 02 74"])
@pytest.mark.rule("MQTT-3.3.2-1")
def test_a_publish_without_a_whole_topic_is_refused(world: World, body: str) -> None:
    """The topic name is the first field; one that is not all there closes the connection."""
    publisher = world.connect("p")
    assert publisher.send(frame(0x30, bytes.fromhex(body))).closed
    assert publisher.bytes() == b""


@pytest.mark.parametrize("topic", ["#", "+", "a/#", "a/+/b", "a+", "a#b", "/+"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.2-2")
def test_a_topic_with_a_wildcard_is_refused(world: World, topic: str, qos: int) -> None:
    """# or + anywhere in a topic name closes the connection, without acknowledgement."""
    subscriber, publisher = witness(world), world.connect("p")
    publisher.send(publish(topic, b"x", qos, id=1))
    assert publisher.closed
    assert publisher.bytes() == subscriber.bytes() == b""


@pytest.mark.rule("MQTT-3.3.2-3", "N311-20")
def test_a_subscriber_gets_only_topics_that_its_filter_matches(world: World) -> None:
    """Of several topics those arrive that match the filter, under the very name they were published with."""
    subscriber = subscribe_to(world.connect("s"), ("a/+/c", 0))
    world.connect("p").send(*(publish(topic, b"x") for topic in ("a/b/c", "a//c", "a/b", "a/b/c/d", "A/b/c", "a/c")))
    assert subscriber.bytes() == publish("a/b/c", b"x") + publish("a//c", b"x")


# -- answers


@pytest.mark.parametrize("topic", ["heard", "unheard"])
@pytest.mark.parametrize(("qos", "answer"), [(0, ""), (1, "40 02 12 34"), (2, "50 02 12 34")])
@pytest.mark.rule("MQTT-3.3.4-1")
def test_the_answer_follows_the_qos(world: World, qos: int, answer: str, topic: str) -> None:
    """Nothing for QoS 0, PUBACK for QoS 1, PUBREC for QoS 2, whether or not anybody listens."""
    subscribe_to(world.connect("s"), ("heard", 2))
    publisher = world.connect("p")
    publisher.send(publish(topic, b"x", qos, id=0x1234))
    assert publisher.bytes() == bytes.fromhex(answer)


@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("order", [("+/b", "a/b", "a/#"), ("a/#", "a/b", "+/b")], ids=" ".join)
@pytest.mark.rule("MQTT-3.3.5-1")
def test_overlapping_subscriptions_bring_one_copy_at_the_highest_qos(
    world: World, published: int, order: tuple[str, ...]
) -> None:
    """Three filters of one client with QoS 1, 2 and 0 match: one copy comes, at min(published, 2)."""
    granted = {"+/b": 1, "a/b": 2, "a/#": 0}
    subscriber = subscribe_to(world.connect("s"), *((name, granted[name]) for name in order))
    send(world.connect("p"), "a/b", b"x", published)
    assert subscriber.bytes() == publish("a/b", b"x", published, id=1)


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.5-2")
def test_a_publish_that_is_not_allowed_is_answered_and_dropped(qos: int, clean: bool, retain: bool) -> None:
    """An unauthorized publisher sees the same acknowledgements as any other, and nobody gets the message."""
    world = World(authorizer=NoSecrets())
    subscriber, publisher = witness(world), world.connect("p", clean_start=clean)
    for _ in range(2):
        send(publisher, "secret", b"x", qos, id=9, retain=retain)
    assert not publisher.closed
    assert subscriber.bytes() == b""
    late = subscribe_to(world.connect("late"), ("secret", 2))
    assert late.bytes() == b""


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("N311-19")
def test_a_topic_that_begins_with_a_dollar_belongs_to_the_server(world: World, qos: int) -> None:
    """A publish to $... is acknowledged and reaches nobody, and cannot forge what the server says there."""
    subscriber = subscribe_to(world.connect("s"), ("$SYS/#", 2), ("$other/t", 2))
    publisher = world.connect("p")
    for topic in ("$SYS/broker/version", "$other/t"):
        send(publisher, topic, b"forged", qos, retain=True)
    assert subscriber.bytes() == b""
    assert subscribe_to(world.connect("late"), ("$SYS/#", 2), ("$other/t", 2)).bytes() == b""


@pytest.mark.parametrize("first", [first for first in range(0x60, 0x70) if first != 0x62], ids=hex)
@pytest.mark.rule("MQTT-3.6.1-1")
def test_a_pubrel_with_other_flags_is_refused(world: World, first: int) -> None:
    """PUBREL begins with 0x62; any other low half closes the connection, and the exchange stays open."""
    publisher = world.connect("p", clean_start=False)
    assert publisher.send(publish("t", b"x", 2, id=1)).bytes() == pubrec(1)
    assert publisher.send(bytes((first, 2, 0, 1))).closed
    assert publisher.bytes() == b""


@pytest.mark.rule("MQTT-3.6.1-1")
def test_the_servers_pubrel_begins_with_62(world: World) -> None:
    """The PUBREL that answers a PUBREC has 0010 in its low half."""
    subscriber = witness(world)
    send(world.connect("p"), "t", b"x", 2)
    assert subscriber.bytes() == publish("t", b"x", 2, id=1)
    assert subscriber.send(pubrec(1)).bytes().hex(" ") == "62 02 00 01"


# -- ownership


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("N311-22")
def test_the_acknowledgement_does_not_wait_for_the_subscriber(world: World, qos: int) -> None:
    """A publisher is acknowledged though its only subscriber is offline, or does not take its messages."""
    subscribe_to(world.connect("offline", clean_start=False), ("t", 2)).send(DISCONNECT)
    subscribe_to(world.connect("stuck"), ("t", 2)).stop_taking()
    send(world.connect("p"), "t", b"x", qos)


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("N311-23", "MQTT-4.3.3-2")
def test_a_qos_2_message_leaves_with_its_publish_and_only_once(world: World, clean: bool) -> None:
    """Subscribers get it when PUBLISH arrives, not with repetitions, not with PUBREL; after PUBCOMP the id is new."""
    subscriber, publisher = witness(world), world.connect("p", clean_start=clean)
    assert publisher.send(publish("t", b"x", 2, id=4)).bytes() == pubrec(4)
    assert subscriber.bytes() == publish("t", b"x", 2, id=1)
    for payload in (b"x", b"other"):
        assert publisher.send(publish("t", payload, 2, id=4, dup=True)).bytes() == pubrec(4)
    assert publisher.send(pubrel(4)).bytes() == pubcomp(4)
    assert publisher.send(pubrel(4)).bytes() == pubcomp(4)
    assert subscriber.bytes() == b""
    assert publisher.send(publish("t", b"y", 2, id=4)).bytes() == pubrec(4)
    assert subscriber.bytes() == publish("t", b"y", 2, id=2)


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-4.3.3-2")
def test_a_pubrel_repeated_before_its_pubcomp_does_not_spoil_the_identifier(world: World, clean: bool) -> None:
    """PUBREL twice while the store is slow (MQTT 3.1 allows it): the id serves for new messages afterwards."""
    subscriber, publisher = witness(world), world.connect("p", clean_start=clean)
    assert publisher.send(publish("t", b"1", 2, id=4)).bytes() == pubrec(4)
    world.hold()
    publisher.send(pubrel(4), pubrel(4))
    world.answer(0 if clean else 1)
    assert publisher.bytes()[:4] == pubcomp(4)
    publisher.send(publish("t", b"2", 2, id=4))
    world.answer()
    publisher.send(pubrel(4))
    world.release()
    publisher.bytes()
    send(publisher, "t", b"3", 2, id=4)
    assert subscriber.bytes() == b"".join(publish("t", b"%d" % n, 2, id=n) for n in (1, 2, 3))


@pytest.mark.rule("MQTT-4.3.2-2")
def test_the_same_identifier_after_puback_is_a_new_message(world: World) -> None:
    """QoS 1 twice with one packet id, the second time with DUP: two messages."""
    subscriber, publisher = witness(world), world.connect("p")
    assert publisher.send(publish("t", b"x", 1, id=4)).bytes() == puback(4)
    assert publisher.send(publish("t", b"x", 1, id=4, dup=True)).bytes() == puback(4)
    assert subscriber.bytes() == publish("t", b"x", 1, id=1) + publish("t", b"x", 1, id=2)


@pytest.mark.rule("MQTT-2.3.1-4")
def test_the_two_directions_have_identifiers_of_their_own(world: World) -> None:
    """One client publishes with id 1 and at once receives with id 1; both exchanges run to their ends."""
    client = subscribe_to(world.connect("c"), ("t", 2))
    assert client.send(publish("t", b"x", 2, id=1)).bytes() in (
        publish("t", b"x", 2, id=1) + pubrec(1),
        pubrec(1) + publish("t", b"x", 2, id=1),
    )
    assert client.send(pubrec(1)).bytes() == pubrel(1)
    assert client.send(pubrel(1)).bytes() == pubcomp(1)
    assert client.send(pubcomp(1)).bytes() == b""
    assert client.alive()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-2.3.1-4")
def test_an_identifier_in_flight_is_skipped_by_new_messages(qos: int) -> None:
    """A message that is never acknowledged keeps its id, also over a reconnect; the others get new ones."""
    world = World(max_inflight=4)
    subscriber, publisher = subscribe_to(world.connect("s", clean_start=False), ("t", 2)), world.connect("p")
    send(publisher, "t", b"stays", qos)
    assert subscriber.bytes() == publish("t", b"stays", qos, id=1)
    for number in range(2, 40):
        if number % 10 == 0:
            subscriber.drop()
            subscriber = world.connect("s", clean_start=False, present=True)
            assert subscriber.bytes() == publish("t", b"stays", qos, id=1, dup=True)
        send(publisher, "t", b"%d" % number, qos)
        assert subscriber.bytes() == publish("t", b"%d" % number, qos, id=number)
        subscriber.send(acknowledgement(qos, number))
        if qos == 2:
            assert subscriber.bytes() == pubrel(number)
            subscriber.send(pubcomp(number))


@pytest.mark.parametrize("wait", [1, 3600])
@pytest.mark.rule("MQTT-4.4.0-1")
def test_nothing_is_repeated_on_a_live_connection(world: World, wait: float) -> None:
    """A client that does not acknowledge gets nothing twice, however long it takes."""
    subscriber = witness(world)
    send(world.connect("p"), "t", b"x", 1, id=1)
    send(world.connect("q"), "t", b"x", 2, id=1)
    assert subscriber.bytes() == publish("t", b"x", 1, id=1) + publish("t", b"x", 2, id=2)
    world.advance(wait)
    assert subscriber.bytes() == b""


@pytest.mark.rule("MQTT-4.3.3-1", "MQTT-3.6.1-1")
def test_a_pubrec_or_puback_that_nobody_waits_for_does_no_harm(world: World) -> None:
    """PUBREC with an unknown id gets its PUBREL, so that the client can finish; PUBACK and PUBCOMP are ignored."""
    client = world.connect("c")
    assert client.send(pubrec(7)).bytes() == pubrel(7)
    assert client.send(puback(7), pubcomp(7)).bytes() == b""
    assert client.alive()


@pytest.mark.rule("MQTT-4.8.0-1")
@pytest.mark.parametrize(("qos", "answer"), [(1, pubrec(1)), (2, puback(1)), (1, pubcomp(1)), (2, pubcomp(1))])
def test_an_acknowledgement_of_the_wrong_kind_closes(world: World, qos: int, answer: bytes) -> None:
    """PUBREC for QoS 1, PUBACK for QoS 2, PUBCOMP before PUBREC: the client broke the protocol."""
    subscriber = witness(world)
    send(world.connect("p"), "t", b"x", qos)
    assert subscriber.bytes() == publish("t", b"x", qos, id=1)
    assert subscriber.send(answer).closed


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-2.3.1-1")
def test_identifier_0_is_refused(world: World, qos: int) -> None:
    """A PUBLISH with packet id 0 closes the connection and reaches nobody."""
    subscriber, publisher = witness(world), world.connect("p")
    assert publisher.send(publish("t", b"x", qos, id=0)).closed
    assert publisher.bytes() == subscriber.bytes() == b""


@pytest.mark.rule("MQTT-2.3.1-5")
def test_qos_0_has_no_identifier(world: World) -> None:
    """Two bytes behind the topic of a QoS 0 message are payload, for publisher and subscriber."""
    subscriber = witness(world)
    world.connect("p").send("30 07 00 03 61 2F 62 68 69")
    assert subscriber.bytes().hex(" ") == "30 07 00 03 61 2f 62 68 69"


@pytest.mark.parametrize("size", [0, 1, 120, 121, 16_376, 16_377, 1_000_000])
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.rule("MQTT-3.3.4-1")
def test_a_payload_arrives_as_it_was_sent(world: World, size: int, qos: int) -> None:
    """Every length of the payload, none and those around a longer Remaining Length included, every byte value."""
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    subscriber = witness(world)
    send(world.connect("p"), "t", payload, qos)
    assert subscriber.bytes() == publish("t", payload, qos, id=1)


@pytest.mark.rule("MQTT-4.6.0-6", "MQTT-4.6.0-2", "MQTT-4.6.0-3")
@pytest.mark.parametrize("qos", [1, 2])
def test_order_holds_while_the_store_is_slow(world: World, qos: int) -> None:
    """Messages and acknowledgements keep their order, also when only some of them need the store."""
    both = subscribe_to(world.connect("both"), ("+", 2))
    subscribe_to(world.connect("durable", clean_start=False), ("stored", 2))
    publisher = world.connect("p")
    world.hold()
    names = ["stored", "memory", "stored", "memory"]
    publisher.send(*(publish(name, b"%d" % n, qos, id=n) for n, name in enumerate(names, 1)))
    assert publisher.bytes() == both.bytes() == b""
    world.answer(1)
    assert publisher.bytes() == acknowledgement(qos, 1) + acknowledgement(qos, 2)
    world.answer()
    assert publisher.bytes() == acknowledgement(qos, 3) + acknowledgement(qos, 4)
    assert both.bytes() == b"".join(publish(name, b"%d" % n, qos, id=n) for n, name in enumerate(names, 1))


@pytest.mark.rule("MQTT-3.8.4-1", "MQTT-3.3.4-1")
def test_a_subscribe_between_publishes_is_answered_in_its_place(world: World) -> None:
    """PUBLISH, SUBSCRIBE, PUBLISH in one chunk, the store slow: answers in that order, and the second one arrives."""
    subscribe_to(world.connect("durable", clean_start=False), ("t", 1))
    client = world.connect("c")
    world.hold()
    client.send(publish("t", b"1", 1, id=1), subscribe(2, ("t", 0)), publish("t", b"2", 1, id=3))
    assert client.bytes() == b""
    world.answer()
    assert client.bytes() == puback(1) + b"\x90\x03\x00\x02\x00"
    world.answer()
    arrived = client.bytes()
    assert sorted((arrived[:4], arrived[4:])) in (
        sorted((puback(3), publish("t", b"2"))),
        sorted((publish("t", b"2")[:4], publish("t", b"2")[4:] + puback(3))),
    )
