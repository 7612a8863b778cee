"""Retained messages: section 3.3.1.3 of MQTT 3.1.1."""

from __future__ import annotations

import pytest

from tests.broker.playbook import World
from tests.conformance.raw import (
    DISCONNECT,
    publish,
    receive,
    send,
    suback,
    subscribe,
    subscribe_to,
    topics,
    unsuback,
    unsubscribe,
)


def retain(world: World, topic: str, payload: bytes, qos: int = 0) -> None:
    """Somebody publishes with RETAIN and leaves."""
    publisher = world.connect("publisher")
    send(publisher, topic, payload, qos, retain=True)
    publisher.send(DISCONNECT)


def newcomer(world: World, topic_filter: str = "t", qos: int = 2) -> bytes:
    """What a client without history gets for its subscription, SUBACK left out."""
    peer = subscribe_to(world.connect(), (topic_filter, qos))
    arrived = peer.bytes()
    peer.send(DISCONNECT)
    return arrived


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-8")
def test_a_retained_message_waits_for_later_subscribers(world: World, qos: int) -> None:
    """Message and QoS are kept: every later subscriber gets them with RETAIN 1, once."""
    retain(world, "t", b"kept", qos)
    for _ in range(2):
        assert newcomer(world) == publish("t", b"kept", qos, id=1, retain=True)


@pytest.mark.rule("MQTT-3.3.1-6")
def test_a_subscription_brings_the_last_message_of_each_matching_topic(world: World) -> None:
    """A wildcard filter brings one message of each topic it matches, and none of the others."""
    for topic in ("a", "a/b", "a/b/c", "a/", "b", "ab"):
        retain(world, topic, b"old")
        retain(world, topic, b"new")
    arrived = newcomer(world, "a/#")
    assert sorted(topics(arrived)) == ["a", "a/", "a/b", "a/b/c"]
    assert arrived.count(b"new") == 4
    assert sorted(topics(newcomer(world, "+"))) == ["a", "ab", "b"]


@pytest.mark.parametrize("second", [0, 1, 2])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.1-5", "MQTT-3.3.1-7")
def test_a_retained_message_replaces_the_one_before_whatever_its_qos(world: World, first: int, second: int) -> None:
    """The newest message and its QoS count: QoS 0 drops what was kept at QoS 2, and is kept itself."""
    retain(world, "t", b"first", first)
    retain(world, "t", b"second", second)
    assert newcomer(world) == publish("t", b"second", second, id=1, retain=True)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.3.1-9")
def test_an_established_subscription_gets_it_without_retain(world: World, qos: int, clean: bool) -> None:
    """A live message has RETAIN 0, also if it is being kept at that moment, also if it replaces one."""
    subscriber = subscribe_to(world.connect("s", clean_start=clean), ("t", 2))
    for identifier in (1, 2):
        retain(world, "t", b"x", qos)
        assert subscriber.bytes() == publish("t", b"x", qos, id=identifier)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.1-9")
def test_a_session_that_was_offline_gets_it_without_retain(world: World, qos: int) -> None:
    """A message that was queued for an old subscription has RETAIN 0 when it is sent at last."""
    subscribe_to(world.connect("s", clean_start=False), ("t", 2)).send(DISCONNECT)
    retain(world, "t", b"x", qos)
    expected = publish("t", b"x", qos, id=1) if qos else b""
    assert world.connect("s", clean_start=False, present=True).bytes() == expected


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.1-10")
def test_an_empty_payload_is_delivered_and_clears_the_topic(world: World, qos: int) -> None:
    """Present subscribers get the empty message with RETAIN 0, later ones nothing; doing it twice is harmless."""
    subscriber = subscribe_to(world.connect("s"), ("t", 2))
    retain(world, "t", b"kept", 2)
    retain(world, "other", b"stays")
    assert subscriber.bytes() == publish("t", b"kept", 2, id=1)
    for identifier in (2, 3):
        retain(world, "t", b"", qos)
        assert subscriber.bytes() == publish("t", b"", qos, id=identifier)
        assert newcomer(world, "#") == publish("other", b"stays", retain=True)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.1-11")
def test_an_empty_payload_is_never_kept(world: World, qos: int) -> None:
    """An empty message with RETAIN to a topic without one leaves nothing behind, over a restart either."""
    retain(world, "t", b"", qos)
    assert newcomer(world) == b""
    assert newcomer(world.restart()) == b""


@pytest.mark.parametrize("payload", [b"plain", b""])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("MQTT-3.3.1-12")
def test_a_message_without_retain_leaves_the_kept_one_alone(world: World, qos: int, payload: bytes) -> None:
    """RETAIN 0 neither stores, nor replaces, nor clears, with and without payload."""
    send(world.connect("p"), "t", payload, qos)
    assert newcomer(world) == b""
    retain(world, "t", b"kept", 1)
    send(world.connect("p"), "t", payload, qos)
    assert newcomer(world) == publish("t", b"kept", 1, id=1, retain=True)


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.rule("MQTT-3.8.4-3", "MQTT-3.3.1-8")
def test_subscribing_again_brings_it_again(world: World, kept: int, granted: int) -> None:
    """The same filter once more, nothing changed: the retained message comes once more, each time a new exchange."""
    retain(world, "t", b"x", kept)
    subscriber, qos = world.connect("s"), min(kept, granted)
    for identifier in (1, 2, 3):
        subscriber.send(subscribe(identifier, ("t", granted)))
        assert subscriber.bytes() == suback(identifier, granted) + publish("t", b"x", qos, id=identifier, retain=True)
        receive(subscriber, qos, identifier)


@pytest.mark.rule("MQTT-3.8.4-4", "MQTT-3.3.1-6")
def test_each_filter_of_a_packet_brings_its_own(world: World) -> None:
    """Two overlapping filters in one SUBSCRIBE are two subscriptions: each brings the message at its QoS."""
    retain(world, "a/b", b"x", 2)
    subscriber = subscribe_to(world.connect("s"), ("a/b", 0), ("a/+", 1), ("b", 2))
    assert subscriber.bytes() == publish("a/b", b"x", retain=True) + publish("a/b", b"x", 1, id=1, retain=True)


@pytest.mark.rule("MQTT-3.3.1-6")
def test_a_resumed_session_gets_no_retained_messages(world: World) -> None:
    """Coming back to old subscriptions is no subscription: nothing comes but what was queued."""
    retain(world, "t", b"x", 1)
    subscriber = subscribe_to(world.connect("s", clean_start=False), ("t", 0))
    assert subscriber.bytes() == publish("t", b"x", retain=True)
    subscriber.send(DISCONNECT)
    assert world.connect("s", clean_start=False, present=True).bytes() == b""


@pytest.mark.rule("MQTT-3.3.1-6")
def test_who_subscribed_to_nothing_gets_nothing(world: World) -> None:
    """Retained messages go to those that ask for them, not to everybody who connects or has unsubscribed."""
    retain(world, "t", b"x", 1)
    assert world.connect("idle").bytes() == b""
    client = subscribe_to(world.connect("s"), ("other", 1))
    assert client.send(unsubscribe(2, "other")).bytes() == unsuback(2)
    retain(world, "t", b"y", 1)
    assert client.bytes() == b""


@pytest.mark.rule("MQTT-4.7.2-1")
def test_wildcards_do_not_bring_what_the_server_retains_about_itself(world: World) -> None:
    """# and +/... bring no $SYS topics at subscription, $SYS/# does."""
    world = World(sys_interval=10)
    for topic_filter in ("#", "+/#", "+/broker/version"):
        assert newcomer(world, topic_filter) == b""
    assert b"$SYS/broker/version" in newcomer(world, "$SYS/#")
    assert topics(newcomer(world, "$SYS/broker/version")) == ["$SYS/broker/version"]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.rule("N311-17")
def test_retained_messages_outlive_their_publisher(world: World, qos: int) -> None:
    """They stay when the publisher's session ends, when a day has passed, and when the broker starts anew."""
    retain(world, "t", b"x", qos)
    world.advance(86_400)
    assert newcomer(world) == publish("t", b"x", qos, id=1, retain=True)
    assert newcomer(world.restart()) == publish("t", b"x", qos, id=1, retain=True)


@pytest.mark.rule("MQTT-3.3.1-5", "MQTT-3.1.2-7")
def test_a_clean_session_of_the_publisher_does_not_take_them_away(world: World) -> None:
    """The publisher comes again with CleanSession 1: what it retained is no part of its session."""
    publisher = world.connect("p", clean_start=False)
    send(publisher, "t", b"x", 1, retain=True)
    publisher.send(DISCONNECT)
    world.connect("p").send(DISCONNECT)
    assert newcomer(world) == publish("t", b"x", 1, id=1, retain=True)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.rule("MQTT-3.3.1-5", "MQTT-3.3.1-6")
def test_a_subscription_while_a_retained_publish_is_being_stored(world: World, qos: int) -> None:
    """Whoever subscribes meanwhile sees the new value in the end: live, since the old one came at subscription."""
    retain(world, "t", b"old", qos)
    publisher, late = world.connect("p"), world.connect("late")
    world.hold()
    publisher.send(publish("t", b"new", qos, id=1, retain=True))
    late.send(subscribe(1, ("t", 1)))
    assert late.bytes() == suback(1, 1) + publish("t", b"old", qos, id=1, retain=True)
    world.answer()
    assert late.bytes() == publish("t", b"new", qos, id=2)
    world.release()
    assert newcomer(world) == publish("t", b"new", qos, id=1, retain=True)


@pytest.mark.parametrize("clean", [True, False], ids=("clean", "durable"))
@pytest.mark.rule("MQTT-3.3.1-6")
def test_an_old_value_never_follows_a_newer_one(clean: bool) -> None:
    """Retained messages that wait for room in the window are looked up when they are sent: the newest value wins."""
    world = World(max_inflight=1)
    for topic in ("a", "b", "c"):
        retain(world, topic, b"old", 1)
    slow = subscribe_to(world.connect("s", clean_start=clean), ("#", 1))
    first = topics(slow.bytes())
    assert len(first) == 1
    for topic in ("a", "b", "c"):
        retain(world, topic, b"new", 1)
    values: dict[str, list[bytes]] = {first[0]: [b"old"]}
    for identifier in range(1, 20):
        slow.send(b"\x40\x02" + identifier.to_bytes(2, "big"))
        arrived = slow.bytes()
        if arrived:
            assert arrived[5:7] == (identifier + 1).to_bytes(2, "big")
            values.setdefault(topics(arrived)[0], []).append(arrived[7:])
    for seen in values.values():
        assert seen[-1] == b"new"
        assert b"old" not in seen[seen.index(b"new") :]
    assert set(values) == {"a", "b", "c"}
