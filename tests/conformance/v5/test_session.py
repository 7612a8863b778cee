"""Sessions of MQTT 5.0: Clean Start, Session Expiry Interval, takeover, and what is kept. Sections 3.1.2.11.2, 4.1."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import (
    Disconnect,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads
from tests.conformance.v5.stage import (
    NEVER,
    Guest,
    assert_sent_away,
    bystander,
    connect,
    durable,
    finish,
    props,
    publish,
    restart,
    say,
    subscribe,
    with_will,
)


def leave(guest: Guest, how: str, **properties: object) -> None:
    """DISCONNECT, or a network connection that breaks."""
    if how == "drop":
        guest.drop()
    else:
        guest.send(Disconnect(properties=props(**properties)))
        assert guest.closed


ENDS = pytest.mark.parametrize("end", ["drop", "DISCONNECT"])


# -- how long a session is kept


@ENDS
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.rule5("MQTT-3.1.2-23", "MQTT-4.1.0-2", "MQTT-3.1.2-5", "MQTT-3.1.2-6")
def test_a_session_is_kept_for_its_interval(world: World, clean: bool, end: str) -> None:
    """Until the interval has passed since the connection closed, whatever Clean Start was; then it is gone."""
    guest = connect(world, clean_start=clean, session_expiry_interval=60)
    subscribe(guest, "t", qos=1)
    world.advance(1000)
    leave(guest, end)
    say(world, "t", b"kept", 1)
    world.advance(59)
    again = connect(world, present=True, clean_start=False, session_expiry_interval=60)
    assert payloads(again) == [b"kept"]
    again.send(Puback(1))
    leave(again, end)
    world.advance(62)
    again = connect(world, present=False, clean_start=False, session_expiry_interval=60)
    say(world, "t", b"x", 1)
    assert again.packets() == []


@ENDS
@pytest.mark.parametrize("fields", [{}, {"session_expiry_interval": 0}], ids=["absent", "0"])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.rule5("N5-35", "MQTT-4.1.0-2", "MQTT-3.1.2-6")
def test_without_an_interval_the_session_ends_with_its_connection(
    world: World, clean: bool, fields: dict[str, int], end: str
) -> None:
    """No interval is an interval of 0, also with Clean Start 0."""
    guest = connect(world, clean_start=clean, **fields)
    subscribe(guest, "t", qos=1)
    leave(guest, end)
    again = connect(world, present=False, clean_start=False, session_expiry_interval=60)
    say(world, "t", b"x", 1)
    assert again.packets() == []


@pytest.mark.rule5("N5-35", "MQTT-3.1.2-23")
def test_the_longest_interval_never_ends(world: World) -> None:
    """0xFFFFFFFF, beyond its number of seconds."""
    durable(world).drop()
    world.advance(NEVER + 1000.0)
    durable(world, present=True)


@pytest.mark.rule5("N5-35", "MQTT-3.1.2-23")
def test_a_long_interval(world: World) -> None:
    """The largest one that ends is taken for what it says."""
    durable(world, expiry=NEVER - 1).drop()
    world.advance(NEVER / 2)
    durable(world, present=True, expiry=10).drop()
    world.advance(12)
    durable(world)


@pytest.mark.rule5("MQTT-3.1.2-5", "N5-35")
def test_a_stored_session_that_is_resumed_without_an_interval(world: World) -> None:
    """It is found, with what waited; and it ends with this connection."""
    first = durable(world)
    subscribe(first, "t", qos=1)
    first.drop()
    say(world, "t", b"x", 1)
    again = connect(world, present=True, clean_start=False)
    assert payloads(again) == [b"x"]
    again.drop()
    durable(world)


@pytest.mark.rule5("MQTT-3.1.2-23", "N5-42")
@pytest.mark.parametrize(("first", "second", "wait", "there"), [(10, 100, 50, True), (100, 10, 50, False)])
def test_each_connection_says_how_long(world: World, first: int, second: int, wait: int, there: bool) -> None:
    """The interval of the last CONNECT counts."""
    durable(world, expiry=first).drop()
    durable(world, expiry=second, present=True).drop()
    world.advance(wait)
    durable(world, present=there)


@pytest.mark.rule5("N5-36", "MQTT-3.1.2-23")
@pytest.mark.parametrize(
    ("said", "wait", "there"),
    [(0, 0, False), (5, 10, False), (100, 50, True), (NEVER, 1_000_000, True), (None, 8, True), (None, 12, False)],
)
def test_disconnect_can_change_the_interval(world: World, said: int | None, wait: int, there: bool) -> None:
    """Shorter, longer, 0 or for ever; without the property the old one stays."""
    guest = durable(world, expiry=10)
    guest.send(Disconnect(properties={} if said is None else props(session_expiry_interval=said)))
    world.advance(wait)
    durable(world, present=there)


@pytest.mark.rule5("N5-26", "N5-36", "N5-57")
@pytest.mark.parametrize("fields", [{}, {"session_expiry_interval": 0}], ids=["absent", "0"])
def test_disconnect_must_not_bring_an_interval_to_life(world: World, fields: dict[str, int]) -> None:
    """0x82: it is not a valid DISCONNECT, so the will goes out, and the session has ended."""
    watcher, mortal = bystander(world), with_will(world, **fields)
    mortal.send(Disconnect(properties=props(session_expiry_interval=10)))
    assert_sent_away(mortal, Reason.PROTOCOL_ERROR)
    assert payloads(watcher) == [b"gone"]
    connect(world, "mortal", clean_start=False, present=False)


@pytest.mark.rule5("N5-26", "N5-36")
def test_disconnect_may_say_0_again(world: World) -> None:
    """A session that ends with its connection may be told so once more."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(Disconnect(properties=props(session_expiry_interval=0)))
    assert mortal.bytes() == b""
    assert mortal.closed
    assert watcher.packets() == []


@pytest.mark.rule5("N5-34")
def test_a_server_that_keeps_sessions_for_less_time() -> None:
    """CONNACK names the interval in force, and it is the one that counts; a shorter wish is not touched."""
    world = World(session_expiry=30)
    guest = durable(world, expiry=1000)
    assert guest.connack.properties[Prop.SESSION_EXPIRY_INTERVAL] == 30
    guest.drop()
    world.advance(29)
    again = durable(world, expiry=NEVER, present=True)
    assert again.connack.properties[Prop.SESSION_EXPIRY_INTERVAL] == 30
    again.drop()
    world.advance(32)
    shorter = durable(world, expiry=10)
    assert shorter.announced("session_expiry_interval", 10) == 10


@pytest.mark.rule5("MQTT-4.1.0-1")
@pytest.mark.parametrize("expiry", [0, 5])
def test_a_session_lasts_while_its_connection_is_open(world: World, expiry: int) -> None:
    """The interval runs from the end of the connection, not from its beginning."""
    guest = connect(world, session_expiry_interval=expiry)
    subscribe(guest, "t", qos=2)
    say(world, "t", b"open", 2)
    [message] = only_publishes(guest.packets())
    world.advance(100_000)
    finish(guest, message)
    say(world, "t", b"x", 1)
    assert payloads(guest) == [b"x"]


@pytest.mark.rule5("MQTT-3.1.2-23", "MQTT-4.1.0-2")
@pytest.mark.parametrize("crash", [True, False])
@pytest.mark.parametrize(("wait", "there"), [(40, True), (65, False)])
def test_the_interval_survives_the_broker(world: World, wait: int, there: bool, crash: bool) -> None:
    """Sessions of clients that were away or connected when the broker stopped or crashed are kept for their time."""
    durable(world, "away", expiry=60).drop()
    guest = durable(world, "connected", expiry=60)
    subscribe(guest, "t", qos=1)
    again = restart(world, crash)
    again.advance(wait)
    durable(again, "away", expiry=60, present=there)
    durable(again, "connected", expiry=60, present=there)


# -- Clean Start


@pytest.mark.rule5("MQTT-3.1.2-4", "MQTT-3.1.4-4", "MQTT-3.2.2-2")
@pytest.mark.parametrize("connected", [True, False])
def test_clean_start_discards_everything(world: World, connected: bool) -> None:
    """Subscriptions, queued and unfinished messages of both directions; the new session can be kept."""
    watcher = bystander(world, "from")
    first = durable(world)
    subscribe(first, "t", qos=2)
    say(world, "t", b"open", 2)
    first.send(publish("from", b"mine", 2, id=8))
    assert first.packets()[-1].packet_id == 8  # type: ignore[union-attr]
    if not connected:
        first.drop()
        say(world, "t", b"waits", 1)
    again = connect(world, clean_start=True, session_expiry_interval=60)
    assert again.packets() == []
    say(world, "t", b"x", 1)
    assert again.packets() == []
    watcher.packets()
    again.send(publish("from", b"mine", 2, id=8))  # a new message, for the id was forgotten
    assert again.packets() == [Pubrec(8)]
    assert payloads(watcher) == [b"mine"]
    subscribe(again, "u", qos=1)
    again.drop()
    say(world, "u", b"kept", 1)
    assert payloads(durable(world, present=True)) == [b"kept"]


# -- what is kept


@pytest.mark.rule5("MQTT-3.1.2-5", "MQTT-4.1.0-1", "MQTT-4.4.0-1", "MQTT-3.1.2-23")
@pytest.mark.parametrize("end", ["drop", "DISCONNECT", "crash"])
def test_session_state_is_kept(world: World, end: str) -> None:
    """Subscriptions, open exchanges of both directions and queued messages: all is there on the next connection."""
    watcher = bystander(world, "from")
    session = durable(world, "s")
    subscribe(session, "t", qos=2)
    for payload in (b"1", b"2", b"3"):
        say(world, "t", payload, 2)
    assert payloads(session) == [b"1", b"2", b"3"]
    session.send(Pubrec(1), Pubrec(2))
    assert session.packets() == [Pubrel(1), Pubrel(2)]
    session.send(Pubcomp(1), publish("from", b"mine", 2, id=8))
    assert session.packets() == [Pubrec(8)]
    assert payloads(watcher) == [b"mine"]
    if end == "crash":
        world = restart(world)
        watcher = bystander(world, "from")
    else:
        leave(session, end)
    say(world, "t", b"4", 1)
    again = durable(world, "s", present=True)
    again.send(publish("from", b"mine", 2, id=8, dup=True))  # the same exchange: not published twice
    assert again.packets() == [
        Pubrel(2),
        publish("t", b"3", 2, id=3, dup=True),
        publish("t", b"4", 1, id=4),
        Pubrec(8),
    ]
    assert watcher.packets() == []
    again.send(Pubcomp(2), Pubrec(3), Puback(4))
    assert again.packets() == [Pubrel(3)]
    again.send(Pubcomp(3), Pubrel(8))
    assert again.packets() == [Pubcomp(8)]
    again.drop()
    assert durable(world, "s", present=True).packets() == []


@pytest.mark.rule5("MQTT-4.1.0-1", "N5-49", "MQTT-3.8.4-3")
@pytest.mark.parametrize("crash", [True, False])
def test_subscriptions_keep_their_options(world: World, crash: bool) -> None:
    """No Local, Retain As Published and the identifier are part of the session, over a restart of the broker, too."""
    guest = durable(world)
    subscribe(guest, "mine", qos=1, no_local=True)
    subscribe(guest, "t", qos=1, retain_as_published=True, identifier=7, packet_id=2)
    if crash:
        world = restart(world)
    else:
        guest.drop()
    again = durable(world, present=True)
    again.send(publish("mine", b"x", 1, id=1))
    assert [type(packet) for packet in again.packets()] == [Puback]
    say(world, "t", b"x", 1, retain=True)
    assert again.packets() == [publish("t", b"x", 1, id=1, retain=True, subscription_identifier=7)]


@pytest.mark.rule5("MQTT-4.5.0-1", "MQTT-3.1.2-23")
def test_what_waits_keeps_its_properties(world: World) -> None:
    """A message that was queued for an absent client arrives with all its properties, over a restart of the broker."""
    said = {
        "payload_format_indicator": 1,
        "content_type": "text",
        "response_topic": "r",
        "correlation_data": b"\0\xff",
        "user_property": [("k", "v"), ("a", "b"), ("k", "v")],
    }
    guest = durable(world)
    subscribe(guest, "t", qos=2, identifier=9)
    guest.drop()
    say(world, "t", b"x", 2, **said)
    for _ in range(2):
        world = restart(world)
        again = durable(world, present=True)
        [message] = only_publishes(again.packets())
        assert message.properties == props(**said, subscription_identifier=9)


@pytest.mark.rule5("N5-42", "MQTT-3.3.2-7")
def test_limits_of_a_connection_are_not_kept(world: World) -> None:
    """Receive Maximum, Maximum Packet Size and aliases of one connection mean nothing on the next."""
    guest = durable(world, receive_maximum=1, maximum_packet_size=40, topic_alias_maximum=5)
    subscribe(guest, "t", qos=1)
    guest.drop()
    for payload in (b"1", b"2", b"x" * 100):
        say(world, "t", payload, 1)
    again = durable(world, present=True)
    assert payloads(again) == [b"1", b"2", b"x" * 100]


# -- 3.1.1 beside 5.0


@pytest.mark.rule5("N5-64", "MQTT-3.1.2-5")
def test_a_session_may_change_its_version(world: World) -> None:
    """Begun as 3.1.1 and taken up as 5.0, and back: subscriptions and messages are there, in the words of each."""
    older = world.connect("c", 4, clean_start=False)
    older.send("82 06 00 01 00 01 74 01")
    assert older.bytes().hex(" ") == "90 03 00 01 01"
    older.drop()
    said = {"content_type": "text", "user_property": [("k", "v")]}
    say(world, "t", b"1", 1, **said)
    newer = durable(world, present=True)
    assert newer.packets() == [publish("t", b"1", 1, id=1, **said)]
    newer.drop()
    older = world.connect("c", 4, present=True, clean_start=False)
    assert older.packets() == [publish("t", b"1", 1, id=1, dup=True)]


@pytest.mark.rule5("N5-64", "MQTT-3.1.2-23")
def test_sessions_of_3_1_1_stay(world: World) -> None:
    """CleanSession 0 is an interval without end; CleanSession 1 one of 0."""
    world.connect("kept", 4, clean_start=False).drop()
    world.connect("gone", 4).drop()
    world.advance(1_000_000)
    durable(world, "kept", present=True)
    durable(world, "gone")


@pytest.mark.rule5("MQTT-3.1.2-4", "MQTT-3.10.4-1")
def test_an_ended_session_has_no_subscriptions(world: World) -> None:
    """After a Clean Start, UNSUBSCRIBE finds none of the earlier filters."""
    guest = durable(world)
    subscribe(guest, "t", qos=1)
    again = connect(world)
    assert guest.closed
    again.send(Unsubscribe(3, ["t"]))
    assert again.packets() == [Unsuback(3, [Reason.NO_SUBSCRIPTION_EXISTED])]
