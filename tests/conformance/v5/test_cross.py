"""Publishers and subscribers of every version: what one says reaches the others with what their version can carry."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.mqtt.packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import Peer, World
from tests.conformance.v5.stage import NEVER, Guest, hand_over, props, restart

TOPIC, PAYLOAD = "a/b", b"\x00\xffpayload"
PROPERTIES: dict[str, Any] = {
    "payload_format_indicator": 0,
    "message_expiry_interval": 1000,
    "content_type": "application/\u00e4",
    "response_topic": "answers",
    "correlation_data": bytes(range(256)),
    "user_property": [("k", "2"), ("k", "1"), ("", "")],
}
IDENTIFIER = 300

QOS = (0, 1, 2)
#: Version of the publisher, and whether it says more than the payload.
SENDERS = {"from 3.1": (3, False), "from 3.1.1": (4, False), "from 5.0": (5, False), "from 5.0 with more": (5, True)}
RECEIVERS = {"to 3.1": 3, "to 3.1.1": 4, "to 5.0": 5}
SESSIONS = ("clean", "durable", "absent")

senders = pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS)
receivers = pytest.mark.parametrize("receiver", RECEIVERS.values(), ids=RECEIVERS)
published_at = pytest.mark.parametrize("published", QOS, ids=("published 0", "published 1", "published 2"))
granted_at = pytest.mark.parametrize("granted", QOS, ids=("subscribed 0", "subscribed 1", "subscribed 2"))
sessions = pytest.mark.parametrize("session", SESSIONS)


def client(
    world: World, name: str, version: int, *, keep: bool = False, present: bool = False, will: Will | None = None
) -> Peer:
    """A client of this version; `keep` keeps its session for ever."""
    if version != V5:
        # MQTT 3.1 has no Session Present.
        return world.connect(name, version, present and version != 3, clean_start=not keep, will=will)
    guest = Guest(world)
    guest.send(Connect(name, V5, not keep, will=will, properties=props(session_expiry_interval=NEVER) if keep else {}))
    connack = guest.take_connack()
    assert isinstance(connack, Connack)
    assert (connack.reason, connack.session_present) == (Reason.SUCCESS, present)
    return guest


def subscribe(peer: Peer, qos: int, **options: Any) -> Peer:
    """To TOPIC; with an identifier where there are any."""
    five = peer.version == V5
    wanted = Subscription(qos, identifier=IDENTIFIER, **options) if five else Subscription(qos)
    found = props(subscription_identifier=IDENTIFIER) if five else {}
    peer.send(Subscribe(9, [(TOPIC, wanted)], found))
    first, *rest = peer.packets()
    assert first == Suback(9, [Reason(qos)])
    peer.put_back(b"".join(map(peer._encoded, rest)))
    return peer


def expected(receiver: int, more: bool, **fields: Any) -> Publish:
    """What a subscriber of this version gets."""
    found: dict[str, Any] = {}
    if receiver == V5:
        found = {**(PROPERTIES if more else {}), "subscription_identifier": IDENTIFIER}
    return Publish(TOPIC, PAYLOAD, properties=props(**found), **fields)


def say(world: World, sender: tuple[int, bool], qos: int, retain: bool = False) -> None:
    version, more = sender
    found = props(**PROPERTIES) if more else {}
    publisher = client(world, "p", version)
    hand_over(publisher, Publish(TOPIC, PAYLOAD, qos, retain, packet_id=77 if qos else 0, properties=found))


def receive(peer: Peer, message: Publish) -> None:
    """Acknowledge, QoS 2 to its end."""
    if message.qos == 1:
        assert peer.send(Puback(message.packet_id)).packets() == []
    elif message.qos == 2:
        assert peer.send(Pubrec(message.packet_id)).packets() == [Pubrel(message.packet_id)]
        assert peer.send(Pubcomp(message.packet_id)).packets() == []


def nothing_is_left(world: World, session: str, version: int) -> None:
    """A new connection finds no message and no open exchange."""
    again = client(world, "s", version, keep=True, present=session != "clean")
    assert again.bytes() == b""


@sessions
@receivers
@senders
@pytest.mark.parametrize("retain", [False, True], ids=("plain", "retain"))
@granted_at
@published_at
@pytest.mark.rule5("N5-64", "MQTT-3.8.4-8", "MQTT-3.3.1-12", "MQTT-3.3.2-17", "MQTT-3.3.4-3", "MQTT-4.5.0-1")
def test_a_live_message(
    world: World, published: int, granted: int, retain: bool, sender: tuple[int, bool], receiver: int, session: str
) -> None:
    """An established subscription brings one message at min(published, subscribed), RETAIN 0, DUP 0.

    A session that is absent meanwhile gets it when it is back, unless the QoS is 0.
    """
    qos = min(published, granted)
    subscriber = subscribe(client(world, "s", receiver, keep=session != "clean"), granted)
    if session == "absent":
        subscriber.send(Disconnect())
    say(world, sender, published, retain)
    if session == "absent":
        subscriber = client(world, "s", receiver, keep=True, present=True)
    message = expected(receiver, sender[1], qos=qos, packet_id=1 if qos else 0)
    assert subscriber.packets() == ([message] if qos or session != "absent" else [])
    receive(subscriber, message) if qos or session != "absent" else None
    nothing_is_left(world, session, receiver)


@sessions
@receivers
@senders
@granted_at
@published_at
@pytest.mark.rule5("N5-64", "N5-45", "MQTT-3.3.1-5", "MQTT-3.3.1-9", "MQTT-3.3.2-17", "MQTT-3.8.4-8", "MQTT-3.3.1-1")
def test_a_retained_message(
    world: World, published: int, granted: int, sender: tuple[int, bool], receiver: int, session: str
) -> None:
    """A later subscription brings the retained message at min(published, subscribed), RETAIN 1, DUP 0.

    A session whose connection breaks before the acknowledgement gets it again with DUP 1, unless the QoS is 0.
    """
    qos = min(published, granted)
    say(world, sender, published, retain=True)
    subscriber = subscribe(client(world, "s", receiver, keep=session != "clean"), granted)
    message = expected(receiver, sender[1], qos=qos, retain=True, packet_id=1 if qos else 0)
    assert subscriber.packets() == [message]
    if session == "absent":
        subscriber.drop()
        subscriber = client(world, "s", receiver, keep=True, present=True)
        message.dup = True
        assert subscriber.packets() == ([message] if qos else [])
    receive(subscriber, message)
    nothing_is_left(world, session, receiver)


@receivers
@senders
@pytest.mark.parametrize("retain", [False, True], ids=("plain", "retain"))
@published_at
@pytest.mark.rule5("N5-64", "MQTT-3.1.2-14", "MQTT-3.1.2-15", "MQTT-3.1.3-10", "N5-40")
def test_a_will(world: World, published: int, retain: bool, sender: tuple[int, bool], receiver: int) -> None:
    """It reaches those who are there, and is kept for those who come later if it says so."""
    version, more = sender
    will = Will(TOPIC, PAYLOAD, published, retain, props(**PROPERTIES) if more else {})
    mortal = client(world, "mortal", version, will=will)
    subscriber = subscribe(client(world, "s", receiver), 2)
    mortal.drop()
    identifier = 1 if published else 0
    assert subscriber.packets() == [expected(receiver, more, qos=published, packet_id=identifier)]
    late = subscribe(client(world, "late", receiver), 2)
    kept = expected(receiver, more, qos=published, packet_id=identifier, retain=True)
    assert late.packets() == ([kept] if retain else [])


@pytest.mark.parametrize("after", RECEIVERS.values(), ids=["then 3.1", "then 3.1.1", "then 5.0"])
@pytest.mark.parametrize("before", RECEIVERS.values(), ids=["3.1", "3.1.1", "5.0"])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("published", [1, 2])
@pytest.mark.rule5("N5-64", "MQTT-4.4.0-1", "MQTT-4.1.0-1", "MQTT-3.1.2-5")
def test_a_session_that_changes_its_version(world: World, published: int, crash: bool, before: int, after: int) -> None:
    """What was open and what waited goes on under the other version, with what that one can carry."""
    subscriber = subscribe(client(world, "s", before, keep=True), 2)
    say(world, (V5, True), published)
    assert len(subscriber.packets()) == 1
    subscriber.drop()
    say(world, (V5, False), published)
    if crash:
        world = restart(world)
    again = client(world, "s", after, keep=True, present=True)
    first, second = again.packets()
    found = props(**PROPERTIES) if after == V5 else {}
    if before == after == V5:
        found.update(props(subscription_identifier=IDENTIFIER))
    elif after == V5:
        assert isinstance(first, Publish)
        first.properties = {name: value for name, value in first.properties.items() if name != 0x0B}
    assert first == Publish(TOPIC, PAYLOAD, published, dup=True, packet_id=1, properties=found)
    assert isinstance(second, Publish)
    assert (second.dup, second.packet_id) == (False, 2)
    receive(again, first)
    receive(again, second)
    assert client(world, "s", after, keep=True, present=True).bytes() == b""


@pytest.mark.parametrize("version", RECEIVERS.values(), ids=["3.1", "3.1.1", "5.0"])
@pytest.mark.parametrize("published", QOS)
@pytest.mark.rule5("MQTT-3.3.1-1", "MQTT-4.4.0-1", "MQTT-4.3.3-6")
def test_every_break_in_the_exchange_is_mended(world: World, published: int, version: int) -> None:
    """Connections that break after PUBLISH and after PUBREC: the message again with DUP, then only PUBREL again."""
    subscriber = subscribe(client(world, "s", version, keep=True), 2)
    say(world, (V5, True), published)
    message = expected(version, True, qos=published, packet_id=1 if published else 0)
    assert subscriber.packets() == [message]
    subscriber.drop()
    subscriber = client(world, "s", version, keep=True, present=True)
    if not published:
        assert subscriber.packets() == []
        return
    message.dup = True
    assert subscriber.packets() == [message]
    if published == 1:
        assert subscriber.send(Puback(1)).packets() == []
    else:
        assert subscriber.send(Pubrec(1)).packets() == [Pubrel(1)]
        subscriber.drop()
        subscriber = client(world, "s", version, keep=True, present=True)
        assert subscriber.packets() == [Pubrel(1)]
        assert subscriber.send(Pubcomp(1)).packets() == []
    subscriber.drop()
    assert client(world, "s", version, keep=True, present=True).packets() == []
