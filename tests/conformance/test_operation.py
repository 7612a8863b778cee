"""Chapter 4 of MQTT 3.1.1: session state, the QoS 1 and 2 exchanges in both directions, order, topics, errors."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import (
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
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
from tests.broker.playbook import Peer, World, numbered, only_publishes, payloads, payloads_of, take_all
from tests.conformance.stage import ACCEPTED, WILL, assert_cut_off, bystander, subscribe, with_will
from tests.support.wire import frame, string


def durable(world: World, topic_filter: str = "t", qos: int = 2, client_id: str = "s") -> Peer:
    """A CleanSession=0 client with one subscription."""
    peer = world.connect(client_id, clean_start=False)
    subscribe(peer, topic_filter, qos=qos)
    return peer


def back(world: World, client_id: str = "s") -> Peer:
    """The same client again, with CleanSession=0."""
    return world.connect(client_id, present=True, clean_start=False)


# -- session state


@pytest.mark.rule("MQTT-4.1.0-1")
@pytest.mark.parametrize("crash", [False, True])
def test_session_state_is_kept(world: World, crash: bool) -> None:
    """Subscriptions, open exchanges of both directions and queued messages: all is there on the next connection."""
    watcher = bystander(world, "from")
    session = durable(world)
    publisher = world.connect("p")
    publisher.send(*numbered(3, 2))
    assert payloads(session) == [b"1", b"2", b"3"]
    session.send(Pubrec(1), Pubrec(2))
    assert session.packets() == [Pubrel(1), Pubrel(2)]
    session.send(Pubcomp(1), Publish("from", b"mine", 2, packet_id=8))
    assert session.packets() == [Pubrec(8)]
    assert payloads(watcher) == [b"mine"]
    if crash:
        world = world.restart()
        publisher, watcher = world.connect("p"), bystander(world, "from")
    else:
        session.drop()
    publisher.send(*numbered(1, 1, first=4))
    again = back(world)
    again.send(Publish("from", b"mine", 2, dup=True, packet_id=8))  # the same exchange: not published twice
    assert again.packets() == [
        Pubrel(2),
        Publish("t", b"3", 2, dup=True, packet_id=3),
        Publish("t", b"4", 1, packet_id=4),
        Pubrec(8),
    ]
    assert watcher.packets() == []
    again.send(Pubcomp(2), Pubrec(3), Puback(4))
    assert again.packets() == [Pubrel(3)]
    again.send(Pubcomp(3), Pubrel(8))
    assert again.packets() == [Pubcomp(8)]
    again.drop()
    assert back(world).packets() == []


@pytest.mark.rule("MQTT-4.1.0-1")
def test_restart_keeps_queue_and_order(world: World) -> None:
    """A long queue of an offline session comes in order after a crash of the broker, more than a window of it."""
    durable(world).drop()
    world.connect("p").send(*numbered(200, 1))
    session = world.restart().connect("s", present=True, clean_start=False)
    assert payloads_of(take_all(session)) == [b"%d" % number for number in range(1, 201)]


@pytest.mark.rule("MQTT-4.1.0-1")
@pytest.mark.parametrize("end", ["drop", "takeover"])
@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
def test_subscription_that_changes_while_its_connection_ends(world: World, action: str, end: str) -> None:
    """The store took it, the answer never left: the session is the same before and after a crash of the broker."""
    session = world.connect("s", clean_start=False)
    if action == "unsubscribe":
        subscribe(session, "t", qos=1)
    world.hold()
    session.send(Subscribe(5, [("t", Subscription(1))]) if action == "subscribe" else Unsubscribe(5, ["t"]))
    if end == "drop":
        session.drop()
        world.release()
        again = back(world)
    else:
        again = world.peer().send(Connect("s", clean_start=False))
        world.release()
        assert again.bytes()[:2] == b"\x20\x02"
    publisher = world.connect("p").send(*numbered(1, 1))
    before = len(payloads(again))
    publisher.drop()
    again.send(*(Puback(number) for number in range(1, before + 1)))
    world = world.restart()
    again = back(world)
    world.connect("p").send(*numbered(1, 1))
    assert len(payloads(again)) == before
    again.send(Unsubscribe(6, ["t"]))
    assert again.packets() == [Unsuback(6)]
    world = world.restart()
    again = back(world)
    world.connect("p").send(*numbered(1, 1, first=9))
    assert [packet for packet in again.packets() if packet.payload == b"9"] == []


@pytest.mark.rule("MQTT-4.1.0-2")
@pytest.mark.parametrize("clean", [True, False])
def test_session_lasts_as_long_as_its_connection(clean: bool) -> None:
    """Session expiry counts from the end of the connection; a connected session never expires."""
    world = World(session_expiry=10)
    session = world.connect("s", clean_start=clean)
    subscribe(session, "t", qos=1)
    world.advance(1000)
    world.connect("p").send(*numbered(1, 1))
    assert payloads(session) == [b"1"]
    session.send(Puback(1))
    session.drop()
    world.advance(9)
    if not clean:
        back(world).drop()
        world.advance(10.5)
    world.connect("s", clean_start=False, present=False)


# -- QoS 0


@pytest.mark.rule("MQTT-4.3.1-1")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_qos_0_towards_a_subscriber(world: World, qos: int) -> None:
    """At granted QoS 0 every message goes out with QoS 0 and DUP 0, also when the publisher's packet had DUP."""
    watcher = bystander(world)
    world.connect("p").send(Publish("t", b"x", qos, dup=qos > 0, packet_id=3 if qos else 0))
    assert watcher.bytes() == bytes.fromhex("30 04 00 01 74 78")


@pytest.mark.rule("MQTT-4.3.1-1")
def test_qos_0_from_a_client(world: World) -> None:
    """It is delivered and not answered; DUP with QoS 0 closes the connection."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send("30 04 00 01 74 78")
    assert mortal.bytes() == b""
    assert watcher.packets() == [Publish("t", b"x")]
    mortal.send("38 04 00 01 74 78")
    assert_cut_off(mortal, watcher)


# -- QoS 1


@pytest.mark.rule("MQTT-4.3.2-1")
@pytest.mark.parametrize("clean", [True, False])
def test_qos_1_towards_a_subscriber(world: World, clean: bool) -> None:
    """Each message has an unused id and DUP 0; on a live connection it is not sent again, however long PUBACK takes."""
    session = world.connect("s", clean_start=clean)
    subscribe(session, "t", qos=1)
    world.connect("p").send(Publish("t", b"a", 1, dup=True, packet_id=9), Publish("t", b"b", 1, packet_id=9))
    assert session.packets() == [Publish("t", b"a", 1, packet_id=1), Publish("t", b"b", 1, packet_id=2)]
    world.advance(100_000)
    assert session.bytes() == b""


@pytest.mark.rule("MQTT-4.3.2-1")
def test_qos_1_is_unacknowledged_until_its_puback(world: World) -> None:
    """Only the PUBACK with the id of a message ends its exchange: the others come again on every new connection."""
    session = durable(world, qos=1)
    world.connect("p").send(*numbered(3, 1))
    assert payloads(session) == [b"1", b"2", b"3"]
    session.send(Puback(2), Puback(99))
    session.drop()
    for _ in range(2):
        session = back(world)
        assert session.packets() == [
            Publish("t", b"1", 1, dup=True, packet_id=1),
            Publish("t", b"3", 1, dup=True, packet_id=3),
        ]
        session.drop()


@pytest.mark.rule("MQTT-4.3.2-1")
def test_window_of_unacknowledged_messages() -> None:
    """No more than the window is in flight; each PUBACK lets the next one out."""
    world = World(max_inflight=2)
    session, publisher = world.connect("s"), world.connect("p")
    subscribe(session, "t", qos=1)
    publisher.send(*numbered(4, 1))
    assert payloads(session) == [b"1", b"2"]
    session.send(Puback(1))
    assert session.packets() == [Publish("t", b"3", 1, packet_id=3)]
    session.send(Puback(2), Puback(3))
    assert session.packets() == [Publish("t", b"4", 1, packet_id=4)]


@pytest.mark.rule("MQTT-4.3.2-1", "MQTT-3.3.1-1")
@pytest.mark.parametrize("end", ["drop", "takeover", "DISCONNECT"])
def test_first_attempt_has_no_dup_after_a_reconnect(end: str) -> None:
    """What waited behind a full window was never sent: on the next connection it goes out with DUP 0."""
    world = World(max_inflight=1)
    session = durable(world, qos=1)
    world.connect("p").send(*numbered(2, 1))
    assert payloads(session) == [b"1"]
    if end == "drop":
        session.drop()
    elif end == "DISCONNECT":
        session.send(Disconnect())
    again = back(world)
    assert again.packets() == [Publish("t", b"1", 1, dup=True, packet_id=1)]
    again.send(Puback(1))
    assert again.packets() == [Publish("t", b"2", 1, packet_id=2)]


@pytest.mark.rule("MQTT-4.3.2-2")
@pytest.mark.parametrize("dup", [False, True])
def test_qos_1_from_a_client(world: World, dup: bool) -> None:
    """PUBACK with the same id; after it the same id is a new message, whatever its DUP."""
    watcher, publisher = bystander(world), world.connect("p")
    publisher.send(Publish("t", b"a", 1, packet_id=7))
    assert publisher.packets() == [Puback(7)]
    publisher.send(Publish("t", b"b", 1, dup=dup, packet_id=7))
    assert publisher.packets() == [Puback(7)]
    assert payloads(watcher) == [b"a", b"b"]


@pytest.mark.rule("MQTT-4.3.2-2")
@pytest.mark.parametrize("retain", [False, True])
def test_puback_when_the_message_is_safe(world: World, retain: bool) -> None:
    """PUBACK leaves when the store has the message for the sessions and the topic that keep it, not before [G1]."""
    durable(world).drop()
    publisher = world.connect("p")
    world.hold()
    publisher.send(Publish("r" if retain else "t", b"x", 1, retain=retain, packet_id=7))
    world.advance(60)
    assert publisher.bytes() == b""
    world.answer()
    assert publisher.packets() == [Puback(7)]


# -- QoS 2, towards a subscriber


@pytest.mark.rule("MQTT-4.3.3-1")
@pytest.mark.parametrize("clean", [True, False])
def test_qos_2_towards_a_subscriber(world: World, clean: bool) -> None:
    """PUBLISH, PUBREC, PUBREL, PUBCOMP with one id; after it the exchange is over, and a late PUBCOMP harms nobody."""
    session = world.connect("s", clean_start=clean)
    subscribe(session, "t", qos=2)
    world.connect("p").send(Publish("t", b"x", 2, dup=True, packet_id=9))
    assert session.packets() == [Publish("t", b"x", 2, packet_id=1)]
    session.send(Pubrec(1))
    assert session.bytes() == bytes.fromhex("62 02 00 01")
    session.send(Pubrec(1))  # once more: PUBREL once more
    assert session.bytes() == bytes.fromhex("62 02 00 01")
    session.send(Pubcomp(1), Pubcomp(1))
    assert session.bytes() == b""
    world.advance(100_000)
    assert session.bytes() == b""


@pytest.mark.rule("MQTT-4.3.3-1")
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], [Publish("t", b"x", 2, dup=True, packet_id=1)]),
        ([Pubrec(1)], [Pubrel(1)]),
        ([Pubrec(1), Pubcomp(1)], []),
    ],
    ids=["waiting for PUBREC", "waiting for PUBCOMP", "over"],
)
@pytest.mark.parametrize("end", ["drop", "takeover", "crash"])
def test_qos_2_after_a_reconnect(world: World, answers: list[Packet], expected: list[Packet], end: str) -> None:
    """Before PUBREC the PUBLISH is sent again, after it only the PUBREL, after PUBCOMP nothing."""
    session = durable(world)
    world.connect("p").send(Publish("t", b"x", 2, packet_id=9))
    session.send(*answers)
    if end == "drop":
        session.drop()
    elif end == "crash":
        world = world.restart()
    again = back(world)
    assert again.packets() == expected
    again.send(*[Pubrec(1), Pubcomp(1)][len(answers) :])
    again.drop()
    assert back(world).packets() == []


@pytest.mark.rule("MQTT-4.3.3-1")
def test_pubrel_leaves_when_the_pubrec_is_on_record(world: World) -> None:
    """A crash behind a PUBREL can so never bring the PUBLISH again [G2]; a second PUBREC meanwhile changes nothing."""
    session = durable(world)
    world.connect("p").send(Publish("t", b"x", 2, packet_id=9))
    assert payloads(session) == [b"x"]
    world.hold()
    session.send(Pubrec(1))
    session.send(Pubrec(1))
    assert session.bytes() == b""
    world.release()
    assert session.packets() == [Pubrel(1)]


# -- QoS 2, from a client


@pytest.mark.rule("MQTT-4.3.3-2")
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("dup", [False, True])
def test_qos_2_from_a_client(world: World, clean: bool, dup: bool) -> None:
    """Until PUBREL the same id is the same message, DUP or not; after PUBCOMP it is a new one, DUP or not."""
    watcher, publisher = bystander(world), world.connect("p", clean_start=clean)
    publisher.send(Publish("t", b"a", 2, packet_id=7))
    publisher.send(Publish("t", b"a", 2, dup=dup, packet_id=7), Publish("t", b"other", 2, packet_id=8))
    assert publisher.packets() == [Pubrec(7), Pubrec(7), Pubrec(8)]
    assert payloads(watcher) == [b"a", b"other"]
    publisher.send(Pubrel(7))
    assert publisher.packets() == [Pubcomp(7)]
    publisher.send(Pubrel(7))  # the PUBCOMP was lost
    assert publisher.packets() == [Pubcomp(7)]
    publisher.send(Publish("t", b"b", 2, dup=dup, packet_id=7), Publish("t", b"other", 2, dup=True, packet_id=8))
    assert publisher.packets() == [Pubrec(7), Pubrec(8)]
    assert payloads(watcher) == [b"b"]


@pytest.mark.rule("MQTT-4.3.3-2")
def test_pubrel_of_an_unknown_id(world: World) -> None:
    """It is answered with PUBCOMP, so that the client can finish."""
    assert world.connect("c").send(Pubrel(4711)).packets() == [Pubcomp(4711)]
    assert world.connect("d", clean_start=False).send(Pubrel(4711)).packets() == [Pubcomp(4711)]


@pytest.mark.rule("MQTT-4.3.3-2")
@pytest.mark.parametrize("end", ["drop", "takeover", "crash"])
@pytest.mark.parametrize("step", ["PUBREC", "PUBREL"])
def test_qos_2_from_a_client_that_reconnects(world: World, end: str, step: str) -> None:
    """A re-sent PUBLISH or PUBREL on the next connection is answered, and the message was published once."""
    session = durable(world, client_id="s")
    session.drop()
    publisher = world.connect("p", clean_start=False)
    publisher.send(Publish("t", b"x", 2, packet_id=7))
    if step == "PUBREL":
        publisher.send(Pubrel(7))
    if end == "drop":
        publisher.drop()
    elif end == "crash":
        world = world.restart()
    again = back(world, "p")
    if step == "PUBREC":
        again.send(Publish("t", b"x", 2, dup=True, packet_id=7))
        assert again.packets() == [Pubrec(7)]
    again.send(Pubrel(7))
    assert again.packets() == [Pubcomp(7)]
    again.send(Publish("t", b"y", 2, packet_id=7))
    assert payloads(back(world)) == [b"x", b"y"]


@pytest.mark.rule("MQTT-4.3.3-2")
def test_pubrec_and_pubcomp_wait_for_the_store(world: World) -> None:
    """PUBREC leaves when id and message are on record, PUBCOMP when the id is free there, too [G2]."""
    watcher, publisher = bystander(world), world.connect("p", clean_start=False)
    world.hold()
    publisher.send(Publish("t", b"x", 2, packet_id=7))
    publisher.send(Publish("t", b"x", 2, dup=True, packet_id=7))
    assert publisher.bytes() == b""
    assert payloads(watcher) == []
    world.answer()
    assert publisher.packets() == [Pubrec(7), Pubrec(7)]
    assert payloads(watcher) == [b"x"]
    publisher.send(Pubrel(7))
    assert publisher.bytes() == b""
    world.answer()
    assert publisher.packets() == [Pubcomp(7)]
    world.release()
    publisher.send(Publish("t", b"y", 2, packet_id=7))
    assert publisher.packets() == [Pubrec(7)]
    assert payloads(watcher) == [b"y"]


def test_packet_ids_of_the_two_directions_are_separate(world: World) -> None:
    """The same id is in use in both directions, through all steps, without touching the other."""
    client, publisher = world.connect("c"), world.connect("p")
    subscribe(client, "t", qos=2)
    publisher.send(*numbered(2, 2))
    assert [packet.packet_id for packet in client.packets()] == [1, 2]
    client.send(Publish("u", b"q2", 2, packet_id=1), Publish("u", b"q1", 1, packet_id=2))
    assert client.packets() == [Pubrec(1), Puback(2)]
    client.send(Pubrec(1), Pubrec(2))
    assert client.packets() == [Pubrel(1), Pubrel(2)]
    client.send(Pubcomp(1), Publish("u", b"q2", 2, dup=True, packet_id=1))  # still held
    assert client.packets() == [Pubrec(1)]
    client.send(Pubrel(1), Pubcomp(2))
    assert client.packets() == [Pubcomp(1)]


# -- resending


@pytest.mark.rule("MQTT-4.4.0-1")
@pytest.mark.parametrize("end", ["drop", "takeover", "crash"])
def test_everything_unacknowledged_is_sent_again(world: World, end: str) -> None:
    """After CONNACK come PUBREL and PUBLISH packets with DUP and their ids; then the new messages, with DUP 0."""
    session, publisher = durable(world, "#"), world.connect("p")
    publisher.send(
        Publish("a", b"1", 1, packet_id=1),
        Publish("a", b"2", 2, packet_id=2),
        Publish("a", b"3", 0),
        Publish("a", b"4", 2, packet_id=4),
        Publish("a", b"5", 1, packet_id=5),
    )
    assert sorted(payloads(session)) == [b"1", b"2", b"3", b"4", b"5"]
    session.send(Pubrec(2))
    if end == "drop":
        session.drop()
        publisher.send(Publish("a", b"6", 1, packet_id=6))
    elif end == "crash":
        world = world.restart()
        world.connect("p").send(Publish("a", b"6", 1, packet_id=6))
    again = back(world)
    if end == "takeover":
        publisher.send(Publish("a", b"6", 1, packet_id=6))
    assert again.packets() == [
        Pubrel(2),
        Publish("a", b"1", 1, dup=True, packet_id=1),
        Publish("a", b"4", 2, dup=True, packet_id=3),
        Publish("a", b"5", 1, dup=True, packet_id=4),
        Publish("a", b"6", 1, packet_id=5),
    ]


@pytest.mark.rule("MQTT-4.4.0-1")
def test_clean_session_gets_nothing_again(world: World) -> None:
    """Sending again is for CleanSession=0."""
    session = durable(world)
    world.connect("p").send(*numbered(2, 2))
    session.send(Pubrec(1))
    session.drop()
    assert world.connect("s").packets() == []


@pytest.mark.rule("MQTT-4.4.0-1", "MQTT-4.6.0-1", "MQTT-4.6.0-6")
def test_resends_keep_their_order_over_many_reconnects(world: World) -> None:
    """More than a window, acknowledged out of order in parts: the rest comes in the order first sent, each time."""
    session = durable(world, qos=1)
    world.connect("p").send(*numbered(100, 1))
    left = [b"%d" % number for number in range(1, 101)]
    while left:
        arrived = only_publishes(session.packets())
        assert [packet.payload for packet in arrived] == left[: len(arrived)]
        acknowledged = arrived[1::2] or arrived
        session.send(*(Puback(packet.packet_id) for packet in reversed(acknowledged)))
        left = [payload for payload in left if payload not in {packet.payload for packet in acknowledged}]
        session.drop()
        session = back(world)
    assert session.packets() == []


@pytest.mark.rule("MQTT-4.5.0-1")
def test_message_is_added_to_every_matching_session(world: World) -> None:
    """Online or offline, exact filter or wildcard: each session that matches gets it once, at its own QoS."""
    online, offline = durable(world, "a/+", 1, "online"), durable(world, "a/b", 2, "offline")
    clean, other = world.connect("clean"), durable(world, "a/c", 2, "other")
    subscribe(clean, "#", qos=2)
    offline.drop()
    world.connect("p").send(Publish("a/b", b"x", 2, packet_id=1))
    assert online.packets() == [Publish("a/b", b"x", 1, packet_id=1)]
    assert clean.packets() == [Publish("a/b", b"x", 2, packet_id=1)]
    assert back(world, "offline").packets() == [Publish("a/b", b"x", 2, packet_id=1)]
    assert other.packets() == []


@pytest.mark.rule("MQTT-4.5.0-1")
def test_publisher_may_be_its_own_subscriber(world: World) -> None:
    """3.1.1 has no "no local": the publisher's own session matches like any other."""
    client = durable(world, "t", 1)
    client.send(Publish("t", b"x", 1, packet_id=50))
    assert sorted(map(repr, client.packets())) == sorted(map(repr, [Puback(50), Publish("t", b"x", 1, packet_id=1)]))


# -- order


@pytest.mark.rule("MQTT-4.6.0-2", "MQTT-4.6.0-6")
def test_pubacks_in_the_order_of_the_publishes(world: World) -> None:
    """A PUBLISH that needs no store waits with its PUBACK, and its delivery, for the one before it that does."""
    watcher, publisher = bystander(world, qos=1), world.connect("p")
    world.hold()
    publisher.send(
        Publish("r", b"1", 1, retain=True, packet_id=1),
        Publish("t", b"2", 1, packet_id=2),
        Publish("r", b"3", 1, retain=True, packet_id=3),
        Publish("t", b"4", 1, packet_id=4),
    )
    assert publisher.bytes() == b""
    world.answer(1)
    assert publisher.packets() == [Puback(1), Puback(2)]
    world.answer(1)
    assert publisher.packets() == [Puback(3), Puback(4)]
    assert payloads(watcher) == [b"1", b"2", b"3", b"4"]


@pytest.mark.rule("MQTT-4.6.0-3", "MQTT-4.6.0-6")
@pytest.mark.parametrize("clean", [True, False])
def test_pubrecs_in_the_order_of_the_publishes(world: World, clean: bool) -> None:
    """The same for QoS 2."""
    watcher, publisher = bystander(world, qos=2), world.connect("p", clean_start=clean)
    world.hold()
    publisher.send(
        Publish("r", b"1", 2, retain=True, packet_id=11),
        Publish("t", b"2", 2, packet_id=5),
        Publish("r", b"3", 2, retain=True, packet_id=9),
        Publish("t", b"4", 2, packet_id=2),
    )
    assert publisher.bytes() == b""
    world.answer(1)
    first = publisher.packets()
    assert Pubrec(11) in first
    world.release()
    assert first + publisher.packets() == [Pubrec(11), Pubrec(5), Pubrec(9), Pubrec(2)]
    assert payloads(watcher) == [b"1", b"2", b"3", b"4"]


@pytest.mark.rule("MQTT-4.6.0-4", "MQTT-4.6.0-6")
@pytest.mark.parametrize("clean", [True, False])
def test_pubrels_in_the_order_of_the_pubrecs(world: World, clean: bool) -> None:
    """In one chunk or in several, with a slow store or a fast one."""
    session = world.connect("s", clean_start=clean)
    subscribe(session, "t", qos=2)
    world.connect("p").send(*numbered(6, 2))
    assert len(session.packets()) == 6
    session.send(Pubrec(3), Pubrec(1))
    world.hold()
    session.send(Pubrec(6), Pubrec(2))
    session.send(Pubrec(5), Pubrec(4))
    world.release()
    assert session.packets() == [Pubrel(number) for number in (3, 1, 6, 2, 5, 4)]


@pytest.mark.rule("MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("clean", [True, False])
def test_messages_of_a_topic_keep_their_order(world: World, qos: int, clean: bool) -> None:
    """Any topic is ordered, without being told: in chunks of any size, with a store that answers late."""
    session, publisher = world.connect("s", clean_start=clean), world.connect("p")
    subscribe(session, "t", qos=2)
    messages = numbered(300, qos)
    seen: list[bytes] = []
    sizes = iter([1, 2, 17, 40, 90, 150])
    while messages:
        size = next(sizes)
        world.hold()
        publisher.send(*messages[:size])
        messages = messages[size:]
        world.release()
        seen += payloads_of(take_all(session))
    assert seen == [b"%d" % number for number in range(1, 301)]


@pytest.mark.rule("MQTT-4.6.0-6")
def test_offline_queue_comes_before_what_is_new(world: World) -> None:
    """Messages queued while the client was away are not overtaken by those published after it came back."""
    durable(world, qos=1).drop()
    publisher = world.connect("p").send(*numbered(80, 1))
    session = back(world)
    publisher.send(*numbered(80, 1, first=81))
    assert payloads_of(take_all(session)) == [b"%d" % number for number in range(1, 161)]


# -- topics


@pytest.mark.rule("MQTT-4.7.1-1")
@pytest.mark.parametrize("topic", ["#", "+", "a/#", "a/+/b", "a#", "+a", "$SYS/#"])
def test_wildcard_in_a_topic_name(world: World, topic: str) -> None:
    """A PUBLISH to a name with `#` or `+` closes the connection and reaches nobody."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(0x30, string(topic) + b"x"))
    assert_cut_off(mortal, watcher)


_INVALID_FILTERS = [
    *(pytest.param(text, marks=pytest.mark.rule("MQTT-4.7.1-2")) for text in ("a#", "a/#/b", "#/a", "##", "a/##")),
    *(pytest.param(text, marks=pytest.mark.rule("MQTT-4.7.1-3")) for text in ("a+", "+a", "a/b+/c", "a/++", "a/+b")),
    pytest.param("#+", marks=pytest.mark.rule("MQTT-4.7.1-2", "MQTT-4.7.1-3")),
    pytest.param("+#", marks=pytest.mark.rule("MQTT-4.7.1-2", "MQTT-4.7.1-3")),
    pytest.param("", marks=pytest.mark.rule("MQTT-4.7.3-1")),
    pytest.param("a\0b", marks=pytest.mark.rule("MQTT-4.7.3-2")),
]


@pytest.mark.parametrize("text", _INVALID_FILTERS)
@pytest.mark.parametrize("unsubscribing", [False, True])
def test_invalid_topic_filter(world: World, text: str, unsubscribing: bool) -> None:
    """In SUBSCRIBE and UNSUBSCRIBE it closes the connection; a good filter beside it has no effect."""
    watcher, mortal = bystander(world), with_will(world)
    end = b"" if unsubscribing else b"\0"
    mortal.send(frame(0xA2 if unsubscribing else 0x82, b"\0\1" + string("good") + end + string(text) + end))
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.1-3")
def test_valid_topic_filters(world: World) -> None:
    """Wildcards where they may stand are granted."""
    peer = world.connect("c")
    subscribe(peer, "#", "+", "a/#", "/#", "+/#", "+/+/#", "a/+/b", "+/a/#", "+/", "/", "//", "$SYS/#", "a b")


@pytest.mark.rule("MQTT-4.7.2-1")
def test_dollar_topics_and_leading_wildcards(world: World) -> None:
    """`#` and `+` in front do not show what begins with `$`, live or retained; `$SYS/#` does."""
    world = World(sys_interval=1)
    hidden, shown = world.connect("hidden"), world.connect("shown")
    subscribe(hidden, "#", "+/#", "+/broker/uptime", "+/+/uptime")
    shown.send(Subscribe(1, [("$SYS/broker/uptime", Subscription(0)), ("$SYS/+/uptime", Subscription(0))]))
    shown.packets()
    world.advance(1)
    assert [packet.topic for packet in shown.packets()] == ["$SYS/broker/uptime"]
    assert hidden.packets() == []


@pytest.mark.rule("MQTT-4.7.3-1")
def test_empty_topic_name(world: World) -> None:
    """A PUBLISH without a topic closes the connection; the topic of one character is fine."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send("30 03 00 01 2F")
    assert watcher.packets() == [Publish("/", b"")]
    mortal.send("30 03 00 00 78")
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-4.7.3-2")
def test_nul_in_a_topic_name(world: World) -> None:
    """U+0000 in a topic closes the connection."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(0x30, string("a\0b") + b"x"))
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-4.7.3-3")
@pytest.mark.parametrize("qos", [0, 1])
def test_longest_topic(world: World, qos: int) -> None:
    """65535 bytes of topic and of filter pass, and come back as they were, live, retained and as a will."""
    topic = "ä" * 32767 + "x"
    peer = world.connect("c")
    subscribe(peer, topic, qos=qos)
    world.connect("p").send(Publish(topic, b"x", qos, retain=True, packet_id=qos))
    assert peer.packets() == [Publish(topic, b"x", qos, packet_id=qos)]
    late = world.connect("late").send(Subscribe(1, [("#", Subscription(qos))]))
    assert late.packets()[1:] == [Publish(topic, b"x", qos, retain=True, packet_id=qos)]


@pytest.mark.rule("MQTT-4.7.3-4")
@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u0301", "caf\u00e9"),
        ("A", "a"),
        ("\u00df", "ss"),
        ("a ", "a"),
        ("a", " a"),
        ("\ufeffa", "a"),
        ("\ufb01", "fi"),
        ("\u212b", "\u00c5"),
        ("a", "a\u200b"),
        ("\ufffd", "?"),
    ],
)
def test_characters_are_compared_as_they_are(world: World, topic_filter: str, topic: str) -> None:
    """No normalization, no case folding, no trimming: only the same characters match."""
    subscriber, publisher = world.connect("s"), world.connect("p")
    subscribe(subscriber, topic_filter)
    publisher.send(Publish(topic, b"another"), Publish(topic_filter, b"same"))
    assert subscriber.packets() == [Publish(topic_filter, b"same")]


# -- errors


@pytest.mark.rule("MQTT-4.8.0-1")
@pytest.mark.parametrize(
    "raw",
    [
        *("36 06 00 01 74 00 01 78", "3E 06 00 01 74 00 01 78", "39 04 00 01 74 78", "82 02 00 01", "A2 02 00 01"),
        *("82 06 00 01 00 01 61 03", "82 06 00 01 00 01 61 80", "40 02 00 00", "62 02 00 00"),
    ],
)
def test_violation_closes_that_connection_only(world: World, raw: str) -> None:
    """The connection of the offending packet closes, its will goes out; others stay, what came before it counts."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(Publish("t", b"before", 1, packet_id=1), raw, Publish("t", b"behind", 1, packet_id=2))
    assert mortal.packets() == [Puback(1)]
    assert mortal.closed
    assert watcher.packets() == [Publish("t", b"before"), WILL]
    assert watcher.alive()


@pytest.mark.rule("MQTT-4.8.0-1")
@pytest.mark.parametrize(
    ("qos", "answer"), [(1, Pubrec(1)), (2, Puback(1)), (2, Pubcomp(1))], ids=["PUBREC", "PUBACK", "PUBCOMP"]
)
def test_acknowledgement_of_the_wrong_kind(world: World, qos: int, answer: Packet) -> None:
    """A PUBLISH answered by the packet of another QoS closes the connection; it is sent again to the next one."""
    session = durable(world)
    world.connect("p").send(Publish("t", b"x", qos, packet_id=9))
    assert payloads(session) == [b"x"]
    session.send(answer)
    assert session.closed
    assert back(world).packets() == [Publish("t", b"x", qos, dup=True, packet_id=1)]


@pytest.mark.rule("N311-21")
@pytest.mark.rule("MQTT-4.8.0-2")
@pytest.mark.parametrize(
    "packet",
    [
        Publish("t", b"x", 1, packet_id=1),
        Publish("t", b"x", 2, packet_id=1),
        Publish("r", b"x", 0, retain=True),
        Subscribe(1, [("t", Subscription(1))]),
        Unsubscribe(1, ["mine"]),
        Pubrel(7),
    ],
    ids=["QoS 1", "QoS 2", "retained", "SUBSCRIBE", "UNSUBSCRIBE", "PUBREL"],
)
def test_failing_store_closes_the_connection(world: World, packet: Packet) -> None:
    """What the store cannot take is not acknowledged: that connection closes (N311-21: and no other)."""
    durable(world)
    watcher = bystander(world, "u")
    peer = durable(world, "mine", 1, "c")
    peer.send(Publish("t", b"x", 2, packet_id=7))
    assert peer.packets() == [Pubrec(7)]
    world.store.failing = True
    peer.send(packet)
    assert peer.bytes() == b""
    assert peer.closed
    assert watcher.alive()
    world.store.failing = False
    assert back(world, "c").alive()


@pytest.mark.rule("MQTT-4.8.0-2")
def test_publish_that_failed_is_taken_the_next_time(world: World) -> None:
    """The client sends its QoS 2 message again on the next connection, and it is published once."""
    session = durable(world)
    publisher = world.connect("p", clean_start=False)
    world.store.failing = True
    publisher.send(Publish("t", b"x", 2, packet_id=7))
    assert publisher.closed
    assert publisher.bytes() == b""
    assert session.packets() == []
    world.store.failing = False
    again = back(world, "p").send(Publish("t", b"x", 2, dup=True, packet_id=7), Pubrel(7))
    assert again.packets() == [Pubrec(7), Pubcomp(7)]
    assert payloads(session) == [b"x"]


@pytest.mark.rule("MQTT-4.8.0-2")
def test_acknowledgements_before_the_failing_one_leave(world: World) -> None:
    """The store fails with the second of three publishes: one PUBACK, then the end."""
    durable(world).drop()
    publisher = world.connect("p")
    world.hold()
    publisher.send(*numbered(1, 1))
    world.store.failing = True
    publisher.send(*numbered(2, 1, first=2))
    assert Puback(2) not in publisher.packets()
    world.answer()
    assert publisher.closed


# -- a slow client


def test_slow_subscriber_holds_nobody_up(world: World) -> None:
    """A subscriber that takes no output loses nothing of QoS 1 and disturbs neither publisher nor other subscribers."""
    slow, fast, publisher = durable(world, qos=1), bystander(world), world.connect("p")
    slow.stop_taking()
    publisher.send(*numbered(50, 1))
    assert len(payloads(fast)) == 50
    assert len(publisher.packets()) == 50
    assert slow.bytes() == b""
    slow.take_again()
    assert payloads(slow) == [b"%d" % number for number in range(1, 51)]


def test_pings_are_answered_while_a_publish_waits(world: World) -> None:
    """A slow store does not make a live connection look dead."""
    durable(world).drop()
    publisher = world.connect("p")
    world.hold()
    publisher.send(Publish("t", b"x", 1, packet_id=1), Pingreq())
    assert publisher.packets() == [Pingresp()]


def test_publish_of_a_connection_that_ends_meanwhile(world: World) -> None:
    """What a client sent before its connection ended is delivered, though its PUBACK has nowhere to go."""
    session, publisher = durable(world, qos=1), world.connect("p")
    world.hold()
    publisher.send(*numbered(2, 1), Disconnect())
    assert publisher.closed
    world.release()
    assert payloads(session) == [b"1", b"2"]
    assert publisher.bytes() == b""


def test_suback_comes_before_what_is_behind_it(world: World) -> None:
    """A SUBSCRIBE of a stored session waits for the store; what was sent behind it waits, too."""
    peer = world.peer().send(Connect("s", clean_start=False))
    assert peer.bytes() == ACCEPTED
    world.hold()
    peer.send(Subscribe(1, [("t", Subscription(1))]), Publish("t", b"x", 1, packet_id=2), Pingreq())
    assert peer.bytes() == b""
    world.release()
    first, *others = peer.packets()
    assert first == Suback(1, [Reason.GRANTED_QOS_1])
    assert len(others) == 3
