"""Chapters 1 and 2 of MQTT 5.0: strings, integers, flags, packet ids, property blocks, as a client meets them."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import (
    V5,
    Connect,
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import World, only_publishes
from tests.conformance.v5.stage import (
    WILL,
    Guest,
    asked,
    assert_cut_off,
    assert_refused,
    block,
    bystander,
    call,
    connect,
    connect_bytes,
    finish,
    publish,
    say,
    subscribe,
    with_will,
)
from tests.mqtt.cases import BAD, BROKEN_STRINGS, Bad, params
from tests.support.wire import frame, string

#: Bytes that a client may send once it is connected, and that must not pass.
BAD_PACKETS = [row for row in BAD if row.version == V5 and row.raw[0] != 0x10]
#: CONNECT packets of version 5 that must not pass.
BAD_CONNECTS = [row for row in BAD if row.version == V5 and row.raw[0] == 0x10 and "name" not in row.name.split()[:1]]

ENCODINGS = pytest.mark.parametrize("text", BROKEN_STRINGS.values(), ids=BROKEN_STRINGS)


@pytest.mark.parametrize("row", params(BAD_PACKETS))
@pytest.mark.rule5("MQTT-4.13.1-1", "MQTT-4.13.2-1", "N5-01", "N5-02", "N5-03", "N5-04", "N5-57")
def test_bad_bytes_end_the_connection(world: World, row: Bad) -> None:
    """DISCONNECT tells what was wrong, the connection closes, its will goes out; nobody else notices."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(row.raw)
    assert_cut_off(mortal, row.reason, watcher)


@pytest.mark.parametrize("row", params(BAD_CONNECTS))
@pytest.mark.rule5("MQTT-3.1.4-1", "MQTT-3.1.4-6", "MQTT-3.2.2-6", "MQTT-3.2.2-7")
def test_a_bad_connect_is_refused(world: World, row: Bad) -> None:
    """CONNACK tells what was wrong, the connection closes, and what comes behind is not looked at."""
    watcher, guest = bystander(world), Guest(world)
    guest.send(row.raw + encode(publish("t", b"behind", 1, id=1), V5))
    assert_refused(guest, row.reason)
    assert watcher.packets() == []


# -- strings


@ENCODINGS
@pytest.mark.rule5("MQTT-1.5.4-1", "MQTT-1.5.7-1", "MQTT-3.3.2-13", "MQTT-3.3.2-19")
def test_a_property_that_is_no_utf_8(world: World, text: bytes) -> None:
    """Every string property of PUBLISH is looked at: 0x81, and the message reaches nobody."""
    broken = string(text)
    for value in (b"\x03" + broken, b"\x08" + broken, b"\x26" + broken + b"\0\1v", b"\x26\0\1k" + broken):
        world = World()
        watcher, mortal = bystander(world), with_will(world)
        mortal.send(frame(0x30, string("t") + block(value) + b"x"))
        assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@ENCODINGS
@pytest.mark.rule5("MQTT-1.5.4-1", "MQTT-1.5.7-1", "MQTT-3.1.3-11", "MQTT-3.1.4-1")
def test_a_property_of_connect_that_is_no_utf_8(world: World, text: bytes) -> None:
    """User properties, the authentication method and the will's properties are strings, too: CONNACK 0x81."""
    broken, ending = string(text), string("w") + string("x")
    for raw in (
        connect_bytes(0x02, string("c"), properties=block(b"\x26" + broken + b"\0\1v")),
        connect_bytes(0x02, string("c"), properties=block(b"\x26\0\1k" + broken)),
        connect_bytes(0x02, string("c"), properties=block(b"\x15" + broken)),
        connect_bytes(0x06, string("c"), block(b"\x03" + broken), ending),
        connect_bytes(0x06, string("c"), block(b"\x08" + broken), ending),
        connect_bytes(0x06, string("c"), block(b"\x26\0\1k" + broken), ending),
    ):
        assert_refused(Guest(world).send(raw), Reason.MALFORMED_PACKET)


@pytest.mark.rule5("MQTT-1.5.4-2", "MQTT-1.5.7-1", "MQTT-4.7.3-2")
@pytest.mark.parametrize(
    "value",
    [b"\x03\0\3a\0b", b"\x08\0\3a\0b", b"\x26\0\3a\0b\0\1v", b"\x26\0\1k\0\3a\0b"],
    ids=["content type", "response topic", "user property name", "user property value"],
)
def test_a_property_with_u_0000(world: World, value: bytes) -> None:
    """U+0000 in any string property: 0x81."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(0x30, string("t") + block(value)))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.rule5("MQTT-1.5.4-3", "MQTT-4.7.3-4")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_u_feff_is_a_character(world: World, qos: int) -> None:
    """In topics, client ids and properties it arrives as it was sent, and makes a difference."""
    guest = connect(world, "\ufeffc")
    subscribe(guest, "\ufefft", "u", qos=qos)
    said = {"content_type": "\ufefftext", "response_topic": "\ufeffr", "user_property": [("\ufeffk", "\ufeffv")]}
    say(world, "t", b"other")
    say(world, "\ufefft", b"x", qos, **said)
    assert guest.packets() == [publish("\ufefft", b"x", qos, id=1, **said)]
    connect(world, "c")
    assert guest.alive()


@pytest.mark.rule5("N5-31")
def test_unusual_characters_pass(world: World) -> None:
    """Control characters and non-characters are let through, as they are."""
    guest = connect(world)
    subscribe(guest, "#")
    for text in ("\x01", "\x7f", "\x9f", "\ufdd0", "\uffff", "\U0010ffff"):
        say(world, text, b"x", content_type=text)
        assert guest.packets() == [publish(text, b"x", content_type=text)]


# -- integers


@pytest.mark.rule5("MQTT-1.5.5-1")
@pytest.mark.parametrize("identifier", [1, 127, 128, 16383, 16384, 2097151, 2097152, 268435455])
def test_variable_byte_integers_of_every_size(world: World, identifier: int) -> None:
    """Both ends of each size, as a Subscription Identifier: it comes back in as few bytes as possible."""
    guest = connect(world)
    subscribe(guest, "t", identifier=identifier)
    say(world, "t")
    length = bytearray()
    rest = identifier
    while True:
        rest, low = divmod(rest, 128)
        length.append(low | (0x80 if rest else 0))
        if not rest:
            break
    assert guest.bytes() == frame(0x30, string("t") + block(b"\x0b" + bytes(length)) + b"x")


@pytest.mark.rule5("MQTT-1.5.5-1")
@pytest.mark.parametrize(
    "raw",
    ["C0 80 00", "E0 80 00", "30 84 00 00 01 74 00", "30 85 00 00 01 74 00 78", "82 87 00 00 01 00 00 01 74 00"],
)
def test_a_remaining_length_with_needless_bytes(world: World, raw: str) -> None:
    """0x81: what 3.1.1 lets pass is malformed in 5.0."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.parametrize("size", [0, 1, 120, 121, 16_376, 16_377, 1_000_000])
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.rule5("MQTT-3.3.4-1", "MQTT-1.5.5-1")
def test_a_payload_arrives_as_it_was_sent(world: World, size: int, qos: int) -> None:
    """Every length of the payload, none and those around a longer Remaining Length included, every byte value."""
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    guest = connect(world)
    subscribe(guest, "t", qos=qos)
    say(world, "t", payload, qos)
    assert guest.packets() == [publish("t", payload, qos, id=1)]


# -- packet ids


@pytest.mark.rule5("MQTT-2.2.1-2")
def test_qos_0_has_no_identifier(world: World) -> None:
    """Behind the topic of a QoS 0 message stand its properties, for publisher and subscriber."""
    guest = connect(world)
    subscribe(guest, "#")
    connect(world, "p").send("30 08 00 03 61 2F 62 00 68 69")
    assert guest.bytes().hex(" ") == "30 08 00 03 61 2f 62 00 68 69"


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.rule5("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
def test_an_identifier_in_flight_is_skipped_by_new_messages(world: World, qos: int, clean: bool) -> None:
    """A message that is never acknowledged keeps its id; the others get new ones, none of them 0."""
    guest = connect(world, clean_start=clean, session_expiry_interval=60)
    subscribe(guest, "t", qos=2)
    say(world, "t", b"stays", qos)
    [stays] = only_publishes(guest.packets())
    seen = {stays.packet_id}
    for number in range(40):
        say(world, "t", b"%d" % number, qos)
        [message] = only_publishes(guest.packets())
        assert message.packet_id
        assert message.packet_id not in seen
        seen.add(message.packet_id)
        finish(guest, message)


@pytest.mark.rule5("MQTT-2.2.1-5", "MQTT-2.2.1-6", "MQTT-3.8.4-2", "MQTT-3.10.4-5")
@pytest.mark.parametrize("number", [1, 255, 256, 4711, 65535])
def test_answers_carry_the_id_of_what_they_answer(world: World, number: int) -> None:
    """PUBACK, PUBREC, PUBCOMP, SUBACK and UNSUBACK; PUBREL, too."""
    client = connect(world)
    client.send(asked(number, "t", qos=2))
    assert client.packets() == [Suback(number, [Reason.GRANTED_QOS_2])]
    client.send(publish("u", b"x", 1, id=number), publish("u", b"x", 2, id=number), Pubrel(number))
    answers = client.packets()
    assert [(type(packet), packet.packet_id) for packet in answers] == [
        (Puback, number),
        (Pubrec, number),
        (Pubcomp, number),
    ]
    say(world, "t", b"x", 2)
    [message] = only_publishes(client.packets())
    assert client.send(Pubrec(message.packet_id)).packets() == [Pubrel(message.packet_id)]
    client.send(Pubcomp(message.packet_id), Unsubscribe(number, ["t"]))
    assert client.packets() == [Unsuback(number, [Reason.SUCCESS])]


@pytest.mark.rule5("MQTT-2.2.1-3")
@pytest.mark.parametrize(
    "raw",
    ["32 06 00 01 74 00 00 00", "34 06 00 01 74 00 00 00", "82 07 00 00 00 00 01 74 00", "A2 06 00 00 00 00 01 74"],
    ids=["QoS 1", "QoS 2", "SUBSCRIBE", "UNSUBSCRIBE"],
)
def test_identifier_0_is_refused(world: World, raw: str) -> None:
    """0x82, and the packet has no effect."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


# -- properties


@pytest.mark.rule5("MQTT-2.2.2-1")
def test_packets_of_the_server_have_a_property_length(world: World) -> None:
    """Without properties it is one byte 0: in SUBACK, UNSUBACK and PUBLISH."""
    client = connect(world)
    assert client.send(asked(1, "t")).bytes().hex(" ") == "90 04 00 01 00 00"
    say(world, "t")
    assert client.bytes().hex(" ") == "30 05 00 01 74 00 78"
    assert client.send(Unsubscribe(2, ["t", "u"])).bytes().hex(" ") == "b0 05 00 02 00 00 11"


@pytest.mark.rule5("N5-01")
def test_properties_that_stand_in_another_packet(world: World) -> None:
    """Every property in every packet of a client where it must not stand: 0x81; where it may, all is well."""
    value = {
        **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), b"\1"),
        **dict.fromkeys((0x13, 0x21, 0x22, 0x23), b"\0\1"),
        **dict.fromkeys((0x02, 0x11, 0x18, 0x27), b"\0\0\1\0"),
        **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), b"\0\1a"),
        0x0B: b"\1",
        0x26: b"\0\1k\0\1v",
    }
    assert set(value) == set(Prop)
    places = {
        "PUBLISH": (lambda found: frame(0x30, string("t") + found), {0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26}),
        "SUBSCRIBE": (lambda found: frame(0x82, b"\0\1" + found + b"\0\1t\0"), {0x0B, 0x26}),
        "UNSUBSCRIBE": (lambda found: frame(0xA2, b"\0\1" + found + b"\0\1t"), {0x26}),
        "PUBREL": (lambda found: frame(0x62, b"\0\1\0" + found), {0x1F, 0x26}),
        "DISCONNECT": (lambda found: frame(0xE0, b"\0" + found), {0x11, 0x1C, 0x1F, 0x26}),
    }
    for make, allowed in places.values():
        for identifier in sorted(set(Prop) - allowed):
            client = connect(world, "")
            client.send(make(block(bytes((identifier,)) + value[identifier])))
            [packet] = client.packets()
            assert isinstance(packet, Disconnect)
            assert packet.reason is Reason.MALFORMED_PACKET
            assert client.closed


@pytest.mark.rule5("N5-59")
def test_user_properties_of_other_packets_are_ignored(world: World) -> None:
    """Whatever a client writes about itself into its packets changes nothing and reaches nobody."""
    said = {Prop.USER_PROPERTY: [("k", "v"), ("k", "v")]}
    because = {**said, Prop.REASON_STRING: "because"}
    client = connect(world, user_property=[("k", "v")])
    client.send(asked(1, "t", qos=2))
    client.packets()
    request = asked(2, "u", qos=2)
    request.properties.update(said)
    assert client.send(request).packets() == [Suback(2, [Reason.GRANTED_QOS_2])]
    say(world, "u", b"x", 2)
    assert only_publishes(client.packets()) == [publish("u", b"x", 2, id=1)]
    assert client.send(Pubrec(1, properties=because)).packets() == [Pubrel(1)]
    assert client.send(Pubcomp(1, properties=because)).packets() == []
    say(world, "u", b"y", 1)
    [message] = only_publishes(client.packets())
    assert client.send(Puback(message.packet_id, properties=because)).packets() == []
    assert client.send(Unsubscribe(3, ["u"], said)).packets() == [Unsuback(3, [Reason.SUCCESS])]
    assert client.send(Disconnect(properties=because)).packets() == []
    assert client.closed


# -- packets that a client must not send


@pytest.mark.rule5("N5-05", "MQTT-4.13.1-1")
@pytest.mark.parametrize(
    "raw",
    ["20 03 00 00 00", "90 04 00 01 00 00", "B0 04 00 01 00 00", "D0 00"],
    ids=["CONNACK", "SUBACK", "UNSUBACK", "PINGRESP"],
)
def test_packets_that_only_a_server_sends(world: World, raw: str) -> None:
    """0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.1.0-2", "MQTT-3.2.0-2", "N5-57")
@pytest.mark.parametrize("client_id", ["mortal", "another"])
def test_a_second_connect(world: World, client_id: str) -> None:
    """0x82: it opens no session, disturbs no other client of its name, and what is behind it is not looked at."""
    watcher, mortal = bystander(world), with_will(world)
    another = connect(world, "another")
    mortal.send(call(client_id), publish("t", b"behind"))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)
    assert another.alive()
    connect(world, "mortal", clean_start=False)


@pytest.mark.rule5("MQTT-4.13.1-1", "N5-30")
def test_what_came_before_the_error_counts(world: World) -> None:
    """One chunk: the publish before the bad packet is delivered and acknowledged, the one behind is not."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(publish("t", b"before", 1, id=1), "36 00", publish("t", b"behind", 1, id=2))
    first, last = mortal.packets()
    assert (type(first), type(last)) == (Puback, Disconnect)
    assert mortal.closed
    assert watcher.packets() == [Publish("t", b"before"), WILL]


@pytest.mark.rule5("MQTT-3.1.2-3", "MQTT-3.1.4-1")
def test_versions_side_by_side(world: World) -> None:
    """A connection is judged by its own version: the same bytes pass in one and not in the other."""
    older = world.connect("older", 4)
    older.send("C0 80 00")
    assert older.bytes().hex(" ") == "d0 00"
    newer = connect(world, "newer").send("C0 80 00")
    assert newer.closed
    assert older.alive()


@pytest.mark.rule5("N5-41")
def test_connect_without_properties(world: World) -> None:
    """The shortest CONNECT of version 5 is served with the defaults."""
    guest = Guest(world).send("10 0E 00 04 4D 51 54 54 05 02 00 3C 00 00 01 61")
    connack = guest.take_connack()
    assert connack.reason is Reason.SUCCESS
    assert isinstance(guest.judge.connect, Connect)
    assert guest.alive()
