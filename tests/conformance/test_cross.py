"""Every kind of publisher and every kind of subscriber, and every byte that arrives at both."""

from __future__ import annotations

import pytest

from tests.broker.playbook import World
from tests.conformance.raw import (
    DISCONNECT,
    acknowledgement,
    puback,
    pubcomp,
    publish,
    pubrec,
    pubrel,
    receive,
    send,
    suback,
    subscribe,
)

TOPIC, PAYLOAD = "a/b", b"\x00\xffpayload"
QOS = (0, 1, 2)
VERSIONS = (3, 4)
SESSIONS = ("clean", "durable", "offline")


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("receiver", VERSIONS, ids=("to 3.1", "to 3.1.1"))
@pytest.mark.parametrize("sender", VERSIONS, ids=("from 3.1", "from 3.1.1"))
@pytest.mark.parametrize("retain", [False, True], ids=("plain", "retain"))
@pytest.mark.parametrize("granted", QOS, ids=("subscribed 0", "subscribed 1", "subscribed 2"))
@pytest.mark.parametrize("published", QOS, ids=("published 0", "published 1", "published 2"))
@pytest.mark.rule("MQTT-3.3.1-9", "MQTT-3.3.4-1", "MQTT-3.8.4-6", "MQTT-3.3.2-3", "N311-18")
def test_a_live_message(
    world: World, published: int, granted: int, retain: bool, sender: int, receiver: int, session: str
) -> None:
    """An established subscription brings one message at min(published, subscribed), RETAIN 0, DUP 0.

    A session that is offline meanwhile gets it when it is back, unless the QoS is 0.
    """
    qos = min(published, granted)
    subscriber = world.connect("s", receiver, clean_start=session == "clean")
    assert subscriber.send(subscribe(9, (TOPIC, granted))).bytes() == suback(9, granted)
    if session == "offline":
        subscriber.send(DISCONNECT)
    publisher = world.connect("p", sender)
    send(publisher, TOPIC, PAYLOAD, published, id=77, retain=retain)
    if session == "offline":
        subscriber = world.connect("s", receiver, clean_start=False, present=True)
        expected = publish(TOPIC, PAYLOAD, qos, id=1) if qos else b""
    else:
        expected = publish(TOPIC, PAYLOAD, qos, id=1)
    assert subscriber.bytes() == expected
    if expected:
        receive(subscriber, qos, 1)
    _nothing_is_left(world, session, receiver)


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("receiver", VERSIONS, ids=("to 3.1", "to 3.1.1"))
@pytest.mark.parametrize("sender", VERSIONS, ids=("from 3.1", "from 3.1.1"))
@pytest.mark.parametrize("granted", QOS, ids=("subscribed 0", "subscribed 1", "subscribed 2"))
@pytest.mark.parametrize("published", QOS, ids=("published 0", "published 1", "published 2"))
@pytest.mark.rule("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-8", "MQTT-3.8.4-6")
def test_a_retained_message(
    world: World, published: int, granted: int, sender: int, receiver: int, session: str
) -> None:
    """A later subscription brings the retained message at min(published, subscribed), RETAIN 1, DUP 0.

    A session whose connection breaks before the acknowledgement gets it again with DUP 1, unless the QoS is 0.
    """
    qos = min(published, granted)
    send(world.connect("p", sender), TOPIC, PAYLOAD, published, id=77, retain=True)
    subscriber = world.connect("s", receiver, clean_start=session == "clean")
    subscriber.send(subscribe(9, (TOPIC, granted)))
    assert subscriber.bytes() == suback(9, granted) + publish(TOPIC, PAYLOAD, qos, id=1, retain=True)
    if session == "offline":
        subscriber.drop()
        subscriber = world.connect("s", receiver, clean_start=False, present=True)
        assert subscriber.bytes() == (publish(TOPIC, PAYLOAD, qos, id=1, retain=True, dup=True) if qos else b"")
    receive(subscriber, qos, 1)
    _nothing_is_left(world, session, receiver)


def _nothing_is_left(world: World, session: str, version: int) -> None:
    """A new connection finds no message and no open exchange."""
    again = world.connect("s", version, clean_start=False, present=session != "clean")
    assert again.bytes() == b""


@pytest.mark.parametrize("version", VERSIONS, ids=("3.1", "3.1.1"))
@pytest.mark.parametrize("published", QOS)
@pytest.mark.rule("MQTT-3.3.1-1", "MQTT-4.4.0-1")
def test_every_break_in_the_exchange_is_mended(world: World, published: int, version: int) -> None:
    """Connections that break after PUBLISH and after PUBREC: the message again with DUP, then only PUBREL again."""
    subscriber = world.connect("s", version, clean_start=False)
    subscriber.send(subscribe(9, (TOPIC, 2)))
    assert subscriber.bytes() == suback(9, 2)
    send(world.connect("p"), TOPIC, PAYLOAD, published)
    assert subscriber.bytes() == publish(TOPIC, PAYLOAD, published, id=1)
    subscriber.drop()
    subscriber = world.connect("s", version, clean_start=False, present=True)
    if not published:
        assert subscriber.bytes() == b""
        return
    assert subscriber.bytes() == publish(TOPIC, PAYLOAD, published, id=1, dup=True)
    if published == 1:
        assert subscriber.send(puback(1)).bytes() == b""
    else:
        assert subscriber.send(pubrec(1)).bytes() == pubrel(1)
        subscriber.drop()
        subscriber = world.connect("s", version, clean_start=False, present=True)
        assert subscriber.bytes() == pubrel(1)
        assert subscriber.send(pubcomp(1)).bytes() == b""
    subscriber.drop()
    assert world.connect("s", version, clean_start=False, present=True).bytes() == b""


@pytest.mark.parametrize("version", VERSIONS, ids=("3.1", "3.1.1"))
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.rule("MQTT-4.3.2-2", "MQTT-4.3.3-2")
def test_a_publisher_that_repeats_itself_after_a_break(world: World, qos: int, version: int) -> None:
    """What a publisher sends again with DUP after a lost acknowledgement arrives once at QoS 2, twice at QoS 1."""
    subscriber = world.connect("s")
    subscriber.send(subscribe(9, (TOPIC, 2)))
    assert subscriber.bytes() == suback(9, 2)
    publisher = world.connect("p", version, clean_start=False)
    publisher.send(publish(TOPIC, PAYLOAD, qos, id=5))
    publisher.drop()
    publisher = world.connect("p", version, clean_start=False, present=True)
    publisher.send(publish(TOPIC, PAYLOAD, qos, id=5, dup=True))
    assert publisher.bytes() == acknowledgement(qos, 5)
    first, second = publish(TOPIC, PAYLOAD, qos, id=1), publish(TOPIC, PAYLOAD, qos, id=2)
    assert subscriber.bytes() == (first if qos == 2 else first + second)
