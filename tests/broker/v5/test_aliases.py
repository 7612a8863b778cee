"""Topic aliases towards clients: when the broker uses them, which, and what they save."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.core.framing import ALIAS_SIZE, Aliases, Framing
from mqttcluster.core.message import Message
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import Publish
from mqttcluster.mqtt.properties import Prop
from tests.broker.playbook import World, only_publishes
from tests.conformance.v5.stage import (
    connect,
    durable,
    publish,
    say,
    subscribe,
)

LONG = "building/7/floor/3/room/12/temperature"


def aliases(packets: list[Publish]) -> list[tuple[str, object]]:
    """Topic and alias of each, as they were on the wire."""
    return [(packet.topic, packet.properties.get(Prop.TOPIC_ALIAS)) for packet in packets]


def test_a_topic_gets_an_alias_when_it_comes_again(world: World) -> None:
    """The first message has the topic, the second brings the alias, from the third on the topic is empty."""
    guest = connect(world, topic_alias_maximum=5)
    subscribe(guest, "#")
    for number in range(4):
        say(world, LONG, b"%d" % number)
    found = only_publishes(guest.packets())
    assert aliases(found) == [(LONG, None), (LONG, 1), ("", 1), ("", 1)]
    assert [message.payload for message in found] == [b"0", b"1", b"2", b"3"]


def test_topics_that_come_once_or_are_short_get_none(world: World) -> None:
    """An alias that is not used again would only cost bytes, and so would one that is longer than the topic."""
    guest = connect(world, topic_alias_maximum=5)
    subscribe(guest, "#")
    for number in range(30):
        say(world, f"{LONG}/{number}")
        say(world, "abc")
    assert {alias for _, alias in aliases(only_publishes(guest.packets()))} == {None}


def test_no_aliases_for_a_client_that_takes_none(world: World) -> None:
    """Neither without Topic Alias Maximum nor with 0, nor when the broker is told to use none."""
    silent = World(max_topic_aliases=0)
    for guest in (connect(world, "a"), connect(world, "b", topic_alias_maximum=0)):
        subscribe(guest, "#")
        for _ in range(3):
            say(world, LONG)
        assert {alias for _, alias in aliases(only_publishes(guest.packets()))} == {None}
    guest = connect(silent, topic_alias_maximum=5)
    assert guest.announced("topic_alias_maximum", 0) == 0
    subscribe(guest, "#")
    for _ in range(3):
        say(silent, LONG)
    assert {alias for _, alias in aliases(only_publishes(guest.packets()))} == {None}


def test_the_alias_that_was_not_used_for_longest_is_given_away(world: World) -> None:
    """With two aliases and three topics the client is told anew which topic an alias stands for."""
    guest = connect(world, topic_alias_maximum=2)
    subscribe(guest, "#")
    for name in "one", "one", "two", "two", "one", "three", "three", "two":
        say(world, f"{LONG}/{name}")
    one, two, three = (f"{LONG}/{name}" for name in ("one", "two", "three"))
    expected = [(one, None), (one, 1), (two, None), (two, 2), ("", 1), (three, None), (three, 2), (two, None)]
    assert aliases(only_publishes(guest.packets())) == expected


def test_a_new_connection_begins_without_aliases(world: World) -> None:
    """What is sent again after a reconnect has its topic [MQTT-3.3.2-7]."""
    guest = durable(world, topic_alias_maximum=5)
    subscribe(guest, "#", qos=1)
    for _ in range(3):
        say(world, LONG, qos=1)
    assert aliases(only_publishes(guest.packets()))[-1] == ("", 1)
    guest.drop()
    again = durable(world, present=True, topic_alias_maximum=5)
    found = only_publishes(again.packets())
    assert aliases(found) == [(LONG, None), (LONG, 1), ("", 1)]
    assert all(message.dup for message in found)


def test_a_client_alone_is_sent_fewer_bytes(world: World) -> None:
    """A run of plain messages, which others get as they came, is sent with aliases to who takes them."""
    thrifty, plain, publisher = connect(world, "t", topic_alias_maximum=5), connect(world, "n"), connect(world, "p")
    subscribe(thrifty, LONG)
    subscribe(plain, LONG)
    publisher.send(*[publish(LONG, b"x")] * 10)
    assert len(thrifty.bytes()) < len(plain.bytes()) - 7 * (len(LONG) - ALIAS_SIZE)


def test_a_message_that_is_too_large_leaves_no_alias_behind() -> None:
    """An alias is in force only if the packet that brings it was sent."""
    framing = Framing(5, largest=80, aliases=3)
    sizes = (10, 200, 10, 10)
    frames = [framing.frame(Message(LONG, b"x" * size), 0, False, 0.0) for size in sizes]
    decoder = Decoder(version=5)
    decoder.receive(b"".join(frame for frame in frames if frame is not None))
    found = [decoder.next_packet() for _ in range(3)]
    assert frames[1] is None
    assert aliases(only_publishes([packet for packet in found if packet is not None])) == [
        (LONG, None),
        (LONG, 1),
        ("", 1),
    ]


@given(st.integers(1, 4), st.lists(st.sampled_from([f"topic/{name}" for name in "abcdefgh"]), max_size=60))
def test_a_client_always_finds_the_topic(most: int, topics: list[str]) -> None:
    """Whatever comes, the client's own table leads to the right topics, and no alias is larger than it takes."""
    table: dict[int, str] = {}
    ours = Aliases(most)
    for topic in topics:
        alias, known = ours.find(topic)
        assert alias <= most
        if alias and not known:
            table[alias] = topic
            ours.told(topic, alias)
        if known:
            assert table[alias] == topic
