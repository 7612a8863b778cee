"""QoS 1 and 2 in MQTT 5.0: sections 3.4 to 3.7, 4.3, 4.4 and 4.6, towards subscribers and from publishers."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import (
    Disconnect,
    Packet,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, numbered, only_publishes, payloads, payloads_of, take_all
from tests.conformance.v5.stage import (
    Guest,
    asked,
    assert_cut_off,
    assert_sent_away,
    bystander,
    connect,
    durable,
    hand_over,
    publish,
    restart,
    say,
    subscribe,
    with_will,
)

NOT_FOUND, IN_USE = Reason.PACKET_IDENTIFIER_NOT_FOUND, Reason.PACKET_IDENTIFIER_IN_USE


def session(world: World, qos: int = 2, **fields: object) -> Guest:
    """A client with Clean Start 0 that is subscribed to `t`."""
    guest = durable(world, "s", **fields)  # type: ignore[arg-type]
    subscribe(guest, "t", qos=qos)
    return guest


def bring(world: World, guest: Guest, end: str) -> tuple[World, Guest]:
    """The client of `session` loses its connection in this way, and comes back."""
    if end == "drop":
        guest.drop()
    elif end == "crash":
        world = restart(world)
    return world, durable(world, "s", present=True)


ENDS = pytest.mark.parametrize("end", ["drop", "takeover", "crash"])


# -- towards a subscriber


@pytest.mark.rule5("MQTT-4.3.1-1", "MQTT-3.3.1-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_qos_0_towards_a_subscriber(world: World, qos: int) -> None:
    """At granted QoS 0 every message goes out with QoS 0 and DUP 0, also when the publisher's packet had DUP."""
    watcher = bystander(world)
    connect(world, "p").send(publish("t", b"x", qos, id=3, dup=qos > 0))
    assert watcher.bytes().hex(" ") == "30 05 00 01 74 00 78"


@pytest.mark.rule5("MQTT-4.3.2-1", "MQTT-4.3.2-2", "MQTT-4.3.2-3", "MQTT-4.4.0-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_nothing_is_repeated_on_a_live_connection(world: World, qos: int) -> None:
    """Each message has an unused id and DUP 0; it is sent once, however long its acknowledgement takes."""
    guest = session(world)
    connect(world, "p").send(*numbered(2, qos))
    assert guest.packets() == [publish("t", b"1", qos, id=1), publish("t", b"2", qos, id=2)]
    world.advance(100_000)
    assert guest.packets() == []


@pytest.mark.rule5("MQTT-4.3.2-3", "MQTT-4.4.0-1", "MQTT-4.4.0-2")
@ENDS
def test_qos_1_is_unacknowledged_until_its_puback(world: World, end: str) -> None:
    """Only the PUBACK with the id of a message ends its exchange, whatever its code; the others come again."""
    guest = session(world, 1)
    hand_over(connect(world, "p"), *numbered(4, 1))
    assert payloads(guest) == [b"1", b"2", b"3", b"4"]
    guest.send(Puback(2), Puback(99), Puback(3, Reason.QUOTA_EXCEEDED))
    for _ in range(2):
        world, guest = bring(world, guest, end)
        assert guest.packets() == [publish("t", b"1", 1, id=1, dup=True), publish("t", b"4", 1, id=4, dup=True)]


@pytest.mark.rule5("MQTT-4.3.3-2", "MQTT-4.3.3-4", "MQTT-3.6.1-1", "MQTT-3.6.2-1", "MQTT-2.2.1-5")
@pytest.mark.parametrize("code", [Reason.SUCCESS, Reason.NO_MATCHING_SUBSCRIBERS])
def test_qos_2_towards_a_subscriber(world: World, code: Reason) -> None:
    """PUBLISH, PUBREC, PUBREL, PUBCOMP with one id; then it is over, and late acknowledgements harm nobody."""
    guest = session(world)
    hand_over(connect(world, "p"), publish("t", b"x", 2, id=9))
    assert guest.packets() == [publish("t", b"x", 2, id=1)]
    assert guest.send(Pubrec(1, code)).bytes().hex(" ") == "62 02 00 01"
    assert guest.send(Pubrec(1)).packets() == [Pubrel(1)]  # once more: PUBREL once more
    assert guest.send(Pubcomp(1), Pubcomp(1)).packets() == []
    assert guest.send(Pubrec(1)).packets() == [Pubrel(1, NOT_FOUND)]
    assert guest.alive()


@pytest.mark.rule5("MQTT-4.3.3-3", "MQTT-4.3.3-5", "MQTT-4.3.3-6", "MQTT-4.4.0-1", "MQTT-4.4.0-2")
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], [publish("t", b"x", 2, id=1, dup=True)]),
        ([Pubrec(1)], [Pubrel(1)]),
        ([Pubrec(1), Pubcomp(1)], []),
        ([Pubrec(1), Pubcomp(1, NOT_FOUND)], []),
        ([Pubrec(1, Reason.UNSPECIFIED_ERROR)], []),
        ([Pubrec(1, Reason.PACKET_IDENTIFIER_IN_USE)], []),
    ],
    ids=["nothing", "PUBREC", "PUBCOMP", "PUBCOMP 0x92", "PUBREC 0x80", "PUBREC 0x91"],
)
@ENDS
def test_qos_2_after_a_reconnect(world: World, answers: list[Packet], expected: list[Packet], end: str) -> None:
    """Before PUBREC the PUBLISH is sent again, after it only the PUBREL; after PUBCOMP or a refusal nothing."""
    guest = session(world)
    hand_over(connect(world, "p"), publish("t", b"x", 2, id=9))
    guest.send(*answers)
    world, guest = bring(world, guest, end)
    assert guest.packets() == expected
    hand_over(connect(world, "p"), publish("t", b"y", 2, id=9))
    assert payloads(guest) == [b"y"]


@pytest.mark.rule5("MQTT-4.3.3-4", "MQTT-4.4.0-2", "N5-61")
@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99], ids=lambda code: f"{code:02X}")
def test_a_pubrec_that_refuses_ends_the_exchange(world: World, code: int) -> None:
    """No PUBREL; the id is free and the message is gone."""
    guest = session(world)
    hand_over(connect(world, "p"), publish("t", b"x", 2, id=9))
    guest.packets()
    assert guest.send(Pubrec(1, Reason(code))).packets() == []
    assert guest.send(Pubrec(1)).packets() == [Pubrel(1, NOT_FOUND)]
    assert guest.alive()


@pytest.mark.rule5("MQTT-4.3.3-5", "MQTT-3.6.2-1")
def test_acknowledgements_that_nobody_waits_for(world: World) -> None:
    """PUBREC of an unknown id gets PUBREL 0x92; PUBACK and PUBCOMP, and a PUBREC that refuses, are ignored."""
    guest = connect(world)
    assert guest.send(Pubrec(7)).packets() == [Pubrel(7, NOT_FOUND)]
    assert guest.send(Pubcomp(7, NOT_FOUND)).packets() == []
    guest.send(Puback(7), Pubcomp(7), Puback(8, Reason.UNSPECIFIED_ERROR))
    assert guest.packets() == []
    assert guest.alive()


@pytest.mark.rule5("MQTT-4.13.1-1")
@pytest.mark.parametrize(("qos", "answer"), [(1, Pubrec(1)), (2, Puback(1)), (1, Pubcomp(1)), (2, Pubcomp(1))], ids=str)
def test_an_acknowledgement_of_the_wrong_kind(world: World, qos: int, answer: Packet) -> None:
    """0x82; the message is sent again to the next connection."""
    guest = session(world)
    hand_over(connect(world, "p"), publish("t", b"x", qos, id=9))
    assert payloads(guest) == [b"x"]
    guest.send(answer)
    assert_sent_away(guest, Reason.PROTOCOL_ERROR)
    assert durable(world, "s", present=True).packets() == [publish("t", b"x", qos, id=1, dup=True)]


@pytest.mark.rule5("MQTT-3.14.2-1", "MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.6.2-1", "MQTT-3.7.2-1")
@pytest.mark.parametrize(
    "raw",
    ["40 03 00 01 01", "40 03 00 01 92", "50 03 00 01 92", "62 03 00 01 10", "70 03 00 01 80", "E0 01 10", "E0 01 7F"],
)
def test_reason_codes_that_do_not_belong_there(world: World, raw: str) -> None:
    """A code from the list of another packet is a protocol error."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


# -- from a publisher


@pytest.mark.rule5("MQTT-4.3.2-4", "MQTT-4.3.2-5", "MQTT-3.3.4-1")
@pytest.mark.parametrize("dup", [False, True])
def test_qos_1_from_a_client(world: World, dup: bool) -> None:
    """PUBACK with the same id; after it the same id is a new message, whatever its DUP."""
    watcher, publisher = bystander(world), connect(world, "p")
    assert publisher.send(publish("t", b"a", 1, id=7)).packets() == [Puback(7)]
    assert publisher.send(publish("t", b"b", 1, id=7, dup=dup)).packets() == [Puback(7)]
    assert payloads(watcher) == [b"a", b"b"]


@pytest.mark.rule5("MQTT-4.3.2-4", "MQTT-4.3.3-8", "N5-52")
@pytest.mark.parametrize("qos", [1, 2])
def test_acknowledged_when_the_message_is_safe(world: World, qos: int) -> None:
    """PUBACK and PUBREC leave when the store has the message, not before [G1]."""
    session(world).drop()
    publisher = connect(world, "p")
    world.hold()
    publisher.send(publish("t", b"x", qos, id=7))
    world.advance(60)
    assert publisher.bytes() == b""
    world.release()
    assert publisher.packets() == [Puback(7) if qos == 1 else Pubrec(7)]


@pytest.mark.rule5("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12", "MQTT-3.7.2-1")
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize("dup", [False, True])
def test_qos_2_from_a_client(world: World, kept: bool, dup: bool) -> None:
    """Until PUBREL the same id is the same message, DUP or not; after PUBCOMP it is a new one, DUP or not."""
    watcher = bystander(world)
    publisher = connect(world, "p", session_expiry_interval=60 if kept else 0)
    publisher.send(publish("t", b"a", 2, id=7))
    publisher.send(publish("t", b"a", 2, id=7, dup=dup), publish("t", b"other", 2, id=8))
    assert publisher.packets() == [Pubrec(7), Pubrec(7), Pubrec(8)]
    assert payloads(watcher) == [b"a", b"other"]
    assert publisher.send(Pubrel(7)).packets() == [Pubcomp(7)]
    assert publisher.send(Pubrel(7)).packets() == [Pubcomp(7, NOT_FOUND)]
    publisher.send(publish("t", b"b", 2, id=7, dup=dup), publish("t", b"other", 2, id=8, dup=True))
    assert publisher.packets() == [Pubrec(7), Pubrec(8)]
    assert payloads(watcher) == [b"b"]


@pytest.mark.rule5("MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12", "MQTT-4.1.0-1")
@ENDS
@pytest.mark.parametrize("step", ["PUBREC", "PUBREL"])
def test_qos_2_from_a_client_that_reconnects(world: World, end: str, step: str) -> None:
    """A repeated PUBLISH or PUBREL on the next connection is answered, and the message was published once."""
    reader = durable(world, "reader")
    subscribe(reader, "t", qos=2)
    reader.drop()
    publisher = durable(world, "s")
    publisher.send(publish("t", b"x", 2, id=7))
    if step == "PUBREL":
        publisher.send(Pubrel(7))
    world, again = bring(world, publisher, end)
    if step == "PUBREC":
        again.send(publish("t", b"x", 2, id=7, dup=True))
        assert again.packets() == [Pubrec(7)]
    again.send(Pubrel(7))
    assert again.packets() == [Pubcomp(7) if step == "PUBREC" else Pubcomp(7, NOT_FOUND)]
    again.send(publish("t", b"y", 2, id=7))
    assert payloads(durable(world, "reader", present=True)) == [b"x", b"y"]


@pytest.mark.rule5("MQTT-3.7.2-1", "MQTT-4.3.3-11")
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_pubrel_of_an_unknown_id(world: World, kept: bool) -> None:
    """It is answered with PUBCOMP 0x92, so that the client can finish; its own 0x92 is none of our business."""
    guest = connect(world, session_expiry_interval=60 if kept else 0)
    assert guest.send(Pubrel(4711)).bytes()[:5].hex(" ") in ("70 03 12 67 92", "70 04 12 67 92")
    assert guest.send(Pubrel(4711, NOT_FOUND)).packets() == [Pubcomp(4711, NOT_FOUND)]
    assert guest.alive()


@pytest.mark.rule5("MQTT-2.2.1-4", "MQTT-2.2.1-5")
def test_packet_ids_of_the_two_directions_are_separate(world: World) -> None:
    """The same id is in use in both directions, through all steps, without touching the other."""
    client = connect(world)
    subscribe(client, "t", qos=2)
    connect(world, "p").send(*numbered(2, 2))
    assert [message.packet_id for message in only_publishes(client.packets())] == [1, 2]
    client.send(publish("u", b"q2", 2, id=1), publish("u", b"q1", 1, id=2))
    assert [(type(packet), packet.packet_id) for packet in client.packets()] == [(Pubrec, 1), (Puback, 2)]
    client.send(Pubrec(1), Pubrec(2))
    assert client.packets() == [Pubrel(1), Pubrel(2)]
    client.send(Pubcomp(1), publish("u", b"q2", 2, id=1, dup=True))  # still held
    assert [(type(packet), packet.packet_id) for packet in client.packets()] == [(Pubrec, 1)]
    client.send(Pubrel(1), Pubcomp(2))
    assert client.packets() == [Pubcomp(1)]


@pytest.mark.rule5("MQTT-4.13.1-1", "MQTT-4.13.2-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_store_that_fails(world: World, qos: int) -> None:
    """What the store cannot take is not acknowledged with success: the client is told, and nobody else is touched."""
    session(world).drop()
    watcher, publisher = bystander(world, "u"), durable(world, "p")
    world.store.failing = True
    publisher.send(publish("t", b"x", qos, id=7))
    [answer] = publisher.packets()
    assert answer.reason >= 0x80  # type: ignore[union-attr]
    assert isinstance(answer, Disconnect) == publisher.closed
    assert watcher.alive()
    world.store.failing = False


@pytest.mark.rule5("MQTT-2.2.1-3", "N5-54", "MQTT-3.4.2-1", "MQTT-3.9.3-2", "MQTT-3.11.3-2", "N5-61")
def test_an_identifier_that_is_in_use(world: World) -> None:
    """0x91 to whatever takes the id of an open QoS 2 exchange, for every filter; the exchange goes on."""
    watcher, client = bystander(world), connect(world)
    assert client.send(publish("t", b"x", 2, id=7)).packets() == [Pubrec(7)]
    assert client.send(publish("t", b"y", 1, id=7)).packets() == [Puback(7, IN_USE)]
    assert client.send(asked(7, "a", "b")).packets() == [Suback(7, [IN_USE, IN_USE])]
    assert client.send(Unsubscribe(7, ["a", "b"])).packets() == [Unsuback(7, [IN_USE, IN_USE])]
    assert client.send(Pubrel(7)).packets() == [Pubcomp(7)]
    assert payloads(watcher) == [b"x"]
    assert client.send(asked(7, "a")).packets() == [Suback(7, [Reason.SUCCESS])]


# -- order and ownership


@pytest.mark.rule5("MQTT-4.4.0-1", "MQTT-4.6.0-1")
@ENDS
def test_everything_unacknowledged_is_sent_again(world: World, end: str) -> None:
    """After CONNACK come PUBREL and PUBLISH packets with DUP and their ids; then the new messages, with DUP 0."""
    guest, publisher = session(world), connect(world, "p")
    for qos, payload in ((1, b"1"), (2, b"2"), (0, b"3"), (2, b"4"), (1, b"5")):
        hand_over(publisher, publish("t", payload, qos, id=1))
    assert sorted(payloads(guest)) == [b"1", b"2", b"3", b"4", b"5"]
    guest.send(Pubrec(2))
    if end == "drop":
        guest.drop()
        hand_over(publisher, publish("t", b"6", 1, id=6))
    world, again = bring(world, guest, end)
    if end != "drop":
        say(world, "t", b"6", 1)
    assert again.packets() == [
        Pubrel(2),
        publish("t", b"1", 1, id=1, dup=True),
        publish("t", b"4", 2, id=3, dup=True),
        publish("t", b"5", 1, id=4, dup=True),
        publish("t", b"6", 1, id=5),
    ]


@pytest.mark.rule5("MQTT-4.4.0-1", "MQTT-3.1.2-4")
def test_a_new_session_gets_nothing_again(world: World) -> None:
    """Sending again is for sessions that are resumed."""
    guest = session(world)
    hand_over(connect(world, "p"), *numbered(2, 2))
    guest.send(Pubrec(1))
    guest.drop()
    assert connect(world, "s").packets() == []


@pytest.mark.rule5("MQTT-4.5.0-1")
def test_a_message_is_added_to_every_matching_session(world: World) -> None:
    """Present or absent, exact filter or wildcard: each session that matches gets it once, at its own QoS."""
    present, absent, clean = durable(world, "present"), durable(world, "absent"), connect(world, "clean")
    other = durable(world, "other")
    subscribe(present, "a/+", qos=1)
    subscribe(absent, "a/b", qos=2)
    subscribe(clean, "#", qos=2)
    subscribe(other, "a/c", qos=2)
    absent.drop()
    say(world, "a/b", b"x", 2)
    assert present.packets() == [publish("a/b", b"x", 1, id=1)]
    assert clean.packets() == [publish("a/b", b"x", 2, id=1)]
    assert durable(world, "absent", present=True).packets() == [publish("a/b", b"x", 2, id=1)]
    assert other.packets() == []


@pytest.mark.rule5("MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-5")
@pytest.mark.parametrize("qos", [1, 2])
def test_acknowledgements_in_the_order_of_the_publishes(world: World, qos: int) -> None:
    """A PUBLISH that needs no store waits with its answer, and its delivery, for the one before it that does."""
    watcher, publisher = bystander(world, qos=2), connect(world, "p")
    world.hold()
    ids = [11, 5, 9, 2]
    publisher.send(*(publish("t", b"%d" % n, qos, id=n, retain=n in (11, 9)) for n in ids))
    assert publisher.bytes() == b""
    world.release()
    kind = Puback if qos == 1 else Pubrec
    assert publisher.packets() == [kind(n) for n in ids]
    assert payloads(watcher) == [b"%d" % n for n in ids]


@pytest.mark.rule5("MQTT-4.6.0-4")
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_pubrels_in_the_order_of_the_pubrecs(world: World, kept: bool) -> None:
    """In one chunk or in several, with a slow store or a fast one."""
    guest = connect(world, "s", session_expiry_interval=60 if kept else 0)
    subscribe(guest, "t", qos=2)
    connect(world, "p").send(*numbered(6, 2))
    assert len(guest.packets()) == 6
    guest.send(Pubrec(3), Pubrec(1))
    world.hold()
    guest.send(Pubrec(6), Pubrec(2))
    guest.send(Pubrec(5), Pubrec(4))
    world.release()
    assert guest.packets() == [Pubrel(number) for number in (3, 1, 6, 2, 5, 4)]


@pytest.mark.rule5("MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_messages_of_a_topic_keep_their_order(world: World, qos: int, kept: bool) -> None:
    """Any topic is ordered, without being told: in chunks of any size, with a store that answers late."""
    guest, publisher = connect(world, "s", session_expiry_interval=60 if kept else 0), connect(world, "p")
    subscribe(guest, "t", qos=2)
    messages = numbered(200, qos)
    seen: list[bytes] = []
    sizes = iter([1, 2, 17, 40, 90, 150])
    while messages:
        size = next(sizes)
        world.hold()
        publisher.send(*messages[:size])
        world.release()
        if qos == 2:
            publisher.send(*(Pubrel(message.packet_id) for message in messages[:size]))
        messages = messages[size:]
        seen += payloads_of(take_all(guest))
    assert seen == [b"%d" % number for number in range(1, 201)]


@pytest.mark.rule5("MQTT-4.6.0-1", "MQTT-4.4.0-1", "MQTT-4.6.0-5")
def test_repetitions_keep_their_order_over_many_reconnects(world: World) -> None:
    """More than a window, acknowledged out of order in parts: the rest comes in the order first sent, each time."""
    guest = session(world, 1)
    hand_over(connect(world, "p"), *numbered(100, 1))
    left = [b"%d" % number for number in range(1, 101)]
    while left:
        arrived = only_publishes(guest.packets())
        assert [packet.payload for packet in arrived] == left[: len(arrived)]
        acknowledged = arrived[1::2] or arrived
        guest.send(*(Puback(packet.packet_id) for packet in reversed(acknowledged)))
        left = [payload for payload in left if payload not in {packet.payload for packet in acknowledged}]
        guest.drop()
        guest = durable(world, "s", present=True)
    assert guest.packets() == []
