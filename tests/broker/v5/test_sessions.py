"""How long sessions live, and what that means for wills, subscriptions and exchanges."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Connect, Disconnect, Pubcomp, Pubrec, Pubrel, Subscribe, Subscription
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, payloads
from tests.conformance.v5.stage import (
    Guest,
    assert_sent_away,
    bystander,
    call,
    connect,
    durable,
    props,
    publish,
    say,
    subscribe,
    will,
)


def knows(world: World, client_id: str) -> bool:
    """Whether the broker, or its store, still has anything of a session."""
    there = client_id in world.broker.sessions.subscribers or client_id in world.store.inner._sessions
    return there or any(r.subscriber.client_id == client_id for r in world.broker.routing.match("t"))


@pytest.mark.parametrize("last", ["expiry 0 at connect", "expiry 0 at disconnect", "no expiry at connect"])
def test_a_resumed_session_that_ends_with_its_connection(world: World, last: str) -> None:
    """It is whole while the connection lasts, queue and exchanges included; then nothing is left of it."""
    guest = durable(world, expiry=60)
    subscribe(guest, "t", qos=2)
    guest.send(publish("u", b"x", 2, id=7)).packets()
    guest.drop()
    say(world, "t", b"waited", 1)
    fields = {"expiry 0 at connect": {"session_expiry_interval": 0}, "no expiry at connect": {}}
    again = connect(world, present=True, clean_start=False, **fields.get(last, {"session_expiry_interval": 60}))
    assert payloads(again) == [b"waited"]
    watcher = bystander(world, "u")
    assert again.send(publish("u", b"x", 2, id=7, dup=True)).packets() == [Pubrec(7)]
    assert watcher.packets() == []  # it is known to the store, and not published a second time
    assert again.send(Pubrel(7)).packets() == [Pubcomp(7)]
    say(world, "t", b"live", 2)
    assert payloads(again) == [b"live"]
    assert knows(world, "c")
    if last == "expiry 0 at disconnect":
        again.send(Disconnect(properties=props(session_expiry_interval=0)))
    else:
        again.drop()
    assert not knows(world, "c")
    connect(world, clean_start=False)


def test_an_end_that_the_store_missed_is_made_up_for(world: World) -> None:
    """The store fails as a resumed session ends; when it is back nothing is left of the session."""
    guest = durable(world, expiry=60)
    subscribe(guest, "t", qos=1)
    guest.drop()
    again = connect(world, present=True, clean_start=False)
    world.store.failing = True
    again.drop()
    assert knows(world, "c")
    world.store.failing = False
    world.advance(2)
    assert not knows(world, "c")


def test_a_session_cannot_be_kept_after_the_fact(world: World) -> None:
    """DISCONNECT with an expiry after CONNECT without one: 0x82, and the will is published."""
    watcher = bystander(world, "will")
    guest = connect(world, will=will())
    guest.send(Disconnect(properties=props(session_expiry_interval=10)))
    assert_sent_away(guest, Reason.PROTOCOL_ERROR)
    assert payloads(watcher) == [b"gone"]
    assert not knows(world, "c")


@pytest.mark.parametrize(("asked", "announced"), [(100, None), (101, 100), (0xFFFF_FFFF, 100), (None, None)])
def test_the_longest_expiry(asked: int | None, announced: int | None) -> None:
    """What the broker does not grant it says in CONNACK, and keeps to; DISCONNECT gets no more either."""
    world = World(session_expiry=100)
    fields = {} if asked is None else {"session_expiry_interval": asked}
    guest = connect(world, **fields)
    assert guest.connack.properties.get(Prop.SESSION_EXPIRY_INTERVAL) == announced
    if asked is None:
        return
    guest.send(Disconnect(properties=props(session_expiry_interval=5000)))
    world.advance(99)
    assert knows(world, "c")
    world.advance(2)
    assert not knows(world, "c")


def test_a_longer_expiry_at_the_end_keeps_the_will_waiting(world: World) -> None:
    """The will is due at the end of its delay or of the session, and it is the last word on the session that counts."""
    watcher = bystander(world, "will")
    guest = connect(world, session_expiry_interval=5, will=will(will_delay_interval=20))
    guest.send(Disconnect(Reason.DISCONNECT_WITH_WILL, props(session_expiry_interval=60)))
    world.advance(19)
    assert payloads(watcher) == []
    world.advance(2)
    assert payloads(watcher) == [b"gone"]


def test_coming_back_and_leaving_again_while_a_will_waits(world: World) -> None:
    """The old will is cancelled by coming back in time; the new connection has left none."""
    watcher = bystander(world, "will")
    durable(world, expiry=60, will=will(will_delay_interval=20)).drop()
    world.advance(10)
    durable(world, expiry=60, present=True).drop()
    for _ in range(8):
        world.advance(10)
    assert payloads(watcher) == []


def test_a_connection_that_comes_while_the_end_is_being_stored(world: World) -> None:
    """The store takes its time with the end of a resumed session; the new one is not harmed by the news of it."""
    guest = durable(world, expiry=60)
    subscribe(guest, "t", qos=1)
    guest.drop()
    again = connect(world, present=True, clean_start=False)
    world.hold()
    again.drop()
    third = Guest(world).send(call(clean_start=False, session_expiry_interval=60))
    world.release()
    assert not third.take_connack().session_present
    subscribe(third, "t", qos=1)
    say(world, "t", b"x", 1)
    assert payloads(third) == [b"x"]
    assert knows(world, "c")


def test_one_session_and_clients_of_both_kinds(world: World) -> None:
    """A session of MQTT 3.1.1 is gone on with by 5.0 and back; identifiers and options stay with the subscriptions."""
    old = world.connect("both", version=4, clean_start=False)
    old.send(Subscribe(1, [("t", Subscription(1))])).packets()
    old.drop()
    new = connect(world, "both", present=True, clean_start=False, session_expiry_interval=60)
    wanted = Subscription(1, no_local=True, retain_as_published=True, identifier=7)
    new.send(Subscribe(2, [("u", wanted)], props(subscription_identifier=7))).packets()
    new.send(Disconnect())
    say(world, "u", b"kept", 1, retain=True)
    say(world, "t", b"plain", 1)
    peer = world.peer(4).send(Connect("both", 4, clean_start=False))
    found = peer.packets()[1:]
    assert [(p.topic, p.payload, p.retain) for p in found] == [("u", b"kept", True), ("t", b"plain", False)]  # type: ignore[union-attr]


def test_empty_client_ids(world: World) -> None:
    """Each gets a name of its own, with either Clean Start, by which it can come back."""
    first = connect(world, "", clean_start=False, session_expiry_interval=60)
    second = connect(world, "", clean_start=True)
    names = [guest.connack.properties[Prop.ASSIGNED_CLIENT_IDENTIFIER] for guest in (first, second)]
    assert names[0] != names[1]
    first.drop()
    again = durable(world, str(names[0]), present=True)
    assert Prop.ASSIGNED_CLIENT_IDENTIFIER not in again.connack.properties
