"""Wills of MQTT 5.0: when they are published, how, and when not. Sections 3.1.2.5 to 3.1.2.7 and 3.1.3.2."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from unittest.mock import ANY

import pytest

from mqttcluster.mqtt.packets import Connack, Disconnect
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads
from tests.conformance.v5.stage import (
    NEVER,
    Guest,
    NoSecrets,
    bystander,
    call,
    connect,
    durable,
    props,
    publish,
    restart,
    say,
    subscribe,
    will,
)


def silence(world: World, client: Guest) -> None:
    world.advance(20)


def second_connect(world: World, client: Guest) -> None:
    client.send(call())


def malformed(world: World, client: Guest) -> None:
    client.send("36 00")


def violation(world: World, client: Guest) -> None:
    client.send("30 04 00 01 2B 00")


def too_large(world: World, client: Guest) -> None:
    client.send("30 FF FF FF 7F")


def lost(world: World, client: Guest) -> None:
    client.drop()


def half_a_packet(world: World, client: Guest) -> None:
    client.send("E0").drop()


def with_will_message(world: World, client: Guest) -> None:
    client.send(Disconnect(Reason.DISCONNECT_WITH_WILL))


def unspecified(world: World, client: Guest) -> None:
    client.send(Disconnect(Reason.UNSPECIFIED_ERROR))


def administrative(world: World, client: Guest) -> None:
    client.send(Disconnect(Reason.ADMINISTRATIVE_ACTION, props(session_expiry_interval=0)))


def taken_over(world: World, client: Guest) -> None:
    connect(world, "mortal")


ENDS = [
    *(silence, second_connect, malformed, violation, too_large, lost, half_a_packet),
    *(with_will_message, unspecified, administrative, taken_over),
]


@pytest.mark.parametrize("expiry", [0, 3600])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.rule5("MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-10", "N5-37", "N5-57", "N5-39")
def test_any_end_but_a_normal_one_publishes_the_will(
    world: World, end: Callable[[World, Guest], None], expiry: int
) -> None:
    """Once, and at once; the ends of connection and session that follow add nothing."""
    watcher = bystander(world, qos=2)
    client = connect(world, "mortal", keep_alive=10, will=will(qos=1), session_expiry_interval=expiry)
    world.advance(5)
    assert watcher.packets() == []
    end(world, client)
    assert client.closed
    assert watcher.packets() == [publish("will", b"gone", 1, id=1)]
    client.drop()
    world.advance(10_000)
    assert watcher.packets() == []


@pytest.mark.parametrize("raw", ["E0 00", "E0 01 00", "E0 02 00 00", "E0 07 00 05 11 00 00 00 05"])
@pytest.mark.parametrize("delay", [0, 5])
@pytest.mark.rule5("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3")
def test_a_normal_disconnect_discards_the_will(world: World, raw: str, delay: int) -> None:
    """In each of its forms; it is published neither then, nor later, nor after a restart of the broker."""
    watcher = bystander(world)
    client = connect(
        world, "mortal", session_expiry_interval=60, will=will(qos=1, retain=True, will_delay_interval=delay)
    )
    client.send(raw)
    assert client.bytes() == b""
    assert client.closed
    world.advance(100)
    assert watcher.packets() == []
    again = restart(world)
    again.advance(100)
    late = connect(again, "late")
    subscribe(late, "#")
    assert late.packets() == []


# -- the delay


@pytest.mark.rule5("MQTT-3.1.2-8", "N5-37")
@pytest.mark.parametrize(("delay", "expiry", "due"), [(10, 60, 10), (60, 10, 10), (10, 10, 10), (10, NEVER, 10)])
def test_the_will_waits_for_its_delay_or_the_end_of_the_session(
    world: World, delay: int, expiry: int, due: int
) -> None:
    """Whichever comes first; once."""
    watcher = bystander(world)
    mortal = will(will_delay_interval=delay)
    connect(world, "mortal", session_expiry_interval=expiry, will=mortal).drop()
    world.advance(due - 1)
    assert watcher.packets() == []
    world.advance(3)
    assert watcher.packets() == [publish("will", b"gone")]
    world.advance(1000)
    assert watcher.packets() == []


@pytest.mark.rule5("N5-37", "MQTT-3.1.2-8")
@pytest.mark.parametrize("fields", [{}, {"session_expiry_interval": 0}], ids=["absent", "0"])
def test_a_session_that_ends_at_once_does_not_let_the_will_wait(world: World, fields: dict[str, int]) -> None:
    """With an interval of 0 the will goes out with the connection, whatever its delay."""
    watcher = bystander(world)
    connect(world, "mortal", will=will(will_delay_interval=100), **fields).drop()
    assert watcher.packets() == [publish("will", b"gone")]


@pytest.mark.rule5("N5-37", "N5-36")
def test_disconnect_with_will_that_ends_the_session(world: World) -> None:
    """0x04 and an interval of 0: the session ends, so the will is due."""
    watcher = bystander(world)
    mortal = connect(world, "mortal", session_expiry_interval=100, will=will(will_delay_interval=50))
    mortal.send(Disconnect(Reason.DISCONNECT_WITH_WILL, props(session_expiry_interval=0)))
    assert watcher.packets() == [publish("will", b"gone")]


@pytest.mark.rule5("MQTT-3.1.3-9", "MQTT-3.1.2-8", "MQTT-3.1.2-10")
@pytest.mark.parametrize("version", [4, 5])
def test_who_comes_back_in_time_cancels_the_will(world: World, version: int) -> None:
    """Back before the delay is over: it is not published, then or later, unless the new connection leaves it again."""
    watcher = bystander(world)
    durable(world, "mortal", will=will(will_delay_interval=10)).drop()
    world.advance(9)
    if version == 5:
        again = durable(world, "mortal", present=True, will=will(b"second", will_delay_interval=10))
    else:
        again = world.connect("mortal", 4, present=True, clean_start=False)  # type: ignore[assignment]
    world.advance(100)
    assert watcher.packets() == []
    again.drop()
    world.advance(12)
    assert payloads(watcher) == ([b"second"] if version == 5 else [])


@pytest.mark.rule5("MQTT-3.1.3-9", "MQTT-3.1.2-4", "N5-37")
def test_clean_start_ends_the_session_and_publishes_the_will(world: World) -> None:
    """A new session under the same client id ends the old one, and with it the wait of its will."""
    watcher = bystander(world)
    durable(world, "mortal", will=will(will_delay_interval=10)).drop()
    connect(world, "mortal", clean_start=True)
    assert watcher.packets() == [publish("will", b"gone")]
    world.advance(20)
    assert watcher.packets() == []


@pytest.mark.rule5("N5-38", "MQTT-3.1.4-3", "MQTT-3.1.3-9")
@pytest.mark.parametrize("delay", [0, 10])
@pytest.mark.parametrize("expiry", [0, 60])
@pytest.mark.parametrize("clean", [True, False])
def test_a_takeover(world: World, clean: bool, expiry: int, delay: int) -> None:
    """The will of the older connection goes out unless its session goes on and it has a delay."""
    watcher = bystander(world)
    connect(world, "mortal", session_expiry_interval=expiry, will=will(b"older", will_delay_interval=delay))
    goes_on = not clean and expiry > 0
    connect(world, "mortal", clean_start=clean, present=goes_on)
    assert payloads(watcher) == ([] if goes_on and delay else [b"older"])
    world.advance(1000)
    assert watcher.packets() == []


@pytest.mark.rule5("N5-38", "MQTT-3.1.2-8")
@pytest.mark.parametrize("delay", [0, 10])
def test_a_takeover_takes_time(world: World, delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A microsecond lies between the end of the older connection and the newer one's turn, and the store answers late:
    a will without a delay is not taken for one that still waits."""
    watcher = bystander(world)
    connect(world, "mortal", session_expiry_interval=60, will=will(b"older", will_delay_interval=delay))
    ticks = itertools.count(1)
    monkeypatch.setattr(world.clock, "seconds", lambda: world.clock.rightNow + next(ticks) * 1e-6)
    world.hold()
    newer = world.peer(5)
    newer.send(call("mortal", clean_start=False, session_expiry_interval=60))
    world.release()
    assert newer.packets() == [Connack(True, properties=ANY)]
    world.advance(2)
    assert payloads(watcher) == ([] if delay else [b"older"])


@pytest.mark.rule5("N5-39", "MQTT-3.1.2-7", "MQTT-3.1.2-8")
@pytest.mark.parametrize("away", [True, False], ids=["while it waits", "while connected"])
def test_a_delayed_will_survives_the_broker(world: World, away: bool) -> None:
    """The broker crashes: the will comes when its delay is over, into the queue of an absent client; once."""
    watcher = durable(world, "watcher")
    subscribe(watcher, "will", qos=1)
    watcher.drop()
    mortal = connect(world, "mortal", session_expiry_interval=60, will=will(qos=1, will_delay_interval=30))
    if away:
        mortal.drop()
        world.advance(10)
    again = restart(world)
    again.advance(12)
    watcher = durable(again, "watcher", present=True)
    assert watcher.packets() == []
    again.advance(30)
    assert watcher.packets() == [publish("will", b"gone", 1, id=1)]
    again.advance(1000)
    assert watcher.packets() == []


@pytest.mark.rule5("MQTT-3.1.3-9", "N5-39")
def test_a_delayed_will_is_cancelled_over_a_restart(world: World) -> None:
    """The broker crashes while the will waits, its client is back in time: no will."""
    mortal = durable(world, "mortal", will=will(will_delay_interval=30))
    mortal.drop()
    again = restart(world)
    watcher = bystander(again)
    durable(again, "mortal", present=True)
    again.advance(100)
    assert watcher.packets() == []


# -- the message


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.rule5("MQTT-3.1.2-14", "MQTT-3.1.2-15", "MQTT-3.3.1-12", "MQTT-3.3.1-13", "MQTT-3.8.4-8")
def test_a_will_is_a_message_like_any_other(world: World, qos: int, granted: int, retain: bool) -> None:
    """At min(will QoS, subscribed), RETAIN as the subscription wants it, queued for the absent, kept if it says so."""
    present, faithful = connect(world, "present"), connect(world, "faithful")
    subscribe(present, "will", qos=granted)
    subscribe(faithful, "will", qos=granted, retain_as_published=True)
    absent = durable(world, "absent")
    subscribe(absent, "will", qos=granted)
    absent.drop()
    connect(world, "mortal", will=will(b"gone", qos, retain)).drop()
    delivered = min(qos, granted)
    assert present.packets() == [publish("will", b"gone", delivered, id=1)]
    assert faithful.packets() == [publish("will", b"gone", delivered, id=1, retain=retain)]
    waited = durable(world, "absent", present=True).packets()
    assert waited == ([publish("will", b"gone", delivered, id=1)] if delivered else [])
    late = connect(world, "late")
    subscribe(late, "will", qos=granted)
    assert late.packets() == ([publish("will", b"gone", delivered, id=1, retain=True)] if retain else [])


@pytest.mark.rule5("MQTT-3.1.3-10", "MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-20", "N5-40")
@pytest.mark.parametrize("delay", [0, 10])
@pytest.mark.parametrize("crash", [False, True])
def test_a_will_keeps_its_properties(world: World, delay: int, crash: bool) -> None:
    """All but the delay reach the subscriber, user properties in their order; also when the broker crashes before."""
    said = {
        "payload_format_indicator": 1,
        "content_type": "text",
        "response_topic": "r",
        "correlation_data": b"\0\xff",
        "user_property": [("k", "2"), ("a", "b"), ("k", "1"), ("k", "2")],
    }
    mortal = connect(
        world, "mortal", session_expiry_interval=60, will=will(b"gone", 1, will_delay_interval=delay, **said)
    )
    watcher = durable(world, "watcher")
    subscribe(watcher, "will", qos=1)
    if crash:
        world = restart(world)
        watcher = durable(world, "watcher", present=True)
    else:
        mortal.drop()
    world.advance(12)
    assert watcher.packets() == [publish("will", b"gone", 1, id=1, **said)]


@pytest.mark.rule5("N5-40", "MQTT-3.3.2-5", "MQTT-3.3.2-6")
def test_a_will_begins_to_expire_when_it_is_published(world: World) -> None:
    """While it waits for its delay it does not expire; while it waits in a queue it does."""
    absent = durable(world, "absent")
    subscribe(absent, "will", qos=1)
    absent.drop()
    watcher = bystander(world, "will", qos=1)
    mortal = will(qos=1, will_delay_interval=100, message_expiry_interval=10)
    durable(world, "mortal", will=mortal).drop()
    world.advance(101)
    assert watcher.packets() == [publish("will", b"gone", 1, id=1, message_expiry_interval=10)]
    world.advance(4)
    absent = durable(world, "absent", present=True)
    [message] = only_publishes(absent.packets())
    assert 4 <= int(str(message.properties[2])) <= 7
    absent.drop()
    durable(world, "mortal", present=True, will=mortal).drop()
    world.advance(101)
    world.advance(14)
    again = durable(world, "absent", present=True)
    assert [packet.dup for packet in only_publishes(again.packets())] == [True]


@pytest.mark.rule5("MQTT-3.1.2-15", "MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.1.2-14")
@pytest.mark.parametrize("retain", [True, False])
def test_an_empty_will_with_retain_clears_the_topic(world: World, retain: bool) -> None:
    """Will Retain 1 and an empty payload remove what is retained; with Will Retain 0 it stays."""
    say(world, "will", b"kept", retain=True)
    connect(world, "mortal", will=will(b"", retain=retain)).drop()
    late = connect(world, "late")
    subscribe(late, "will")
    assert payloads(late) == ([] if retain else [b"kept"])


@pytest.mark.parametrize("topic", ["secret", "$SYS/broker/version"])
@pytest.mark.rule5("MQTT-3.1.4-2", "N5-60")
def test_a_will_that_is_not_allowed_is_never_published(topic: str) -> None:
    """It is refused at CONNECT, or dropped when it is due."""
    world = World(authorizer=NoSecrets())
    watcher = connect(world, "watcher")
    watcher.send("82 10 00 01 00 00 01 23 00 00 06 24 53 59 53 2F 23 00")
    watcher.packets()
    guest = Guest(world).send(call("mortal", will=will(topic=topic, retain=True)))
    if not guest.closed:
        guest.drop()
    assert watcher.packets() == []


@pytest.mark.rule5("MQTT-3.1.2-7")
def test_a_connection_that_was_not_accepted_has_no_will(world: World) -> None:
    """A CONNECT that is refused leaves nothing behind."""
    world = World(client_id_max_length=3)
    watcher = bystander_with_short_name(world)
    guest = Guest(world).send(call("mortal", will=will()))
    assert guest.closed
    assert watcher.packets() == []


def bystander_with_short_name(world: World) -> Guest:
    watcher = connect(world, "w")
    subscribe(watcher, "#")
    return watcher


@pytest.mark.rule5("MQTT-3.1.2-8", "N5-57")
def test_a_broker_that_stops(world: World) -> None:
    """Clients hear 0x8B, are closed, and their wills are published: they did not say DISCONNECT."""
    absent = durable(world, "absent")
    subscribe(absent, "will", qos=1)
    absent.drop()
    mortal = connect(world, "mortal", will=will(qos=1))
    again = restart(world, crash=False)
    assert mortal.closed
    [packet] = mortal.packets()
    assert isinstance(packet, Disconnect)
    assert packet.reason is Reason.SERVER_SHUTTING_DOWN
    again.advance(10)
    assert payloads(durable(again, "absent", present=True)) == [b"gone"]
