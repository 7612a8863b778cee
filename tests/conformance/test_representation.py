"""Chapters 1 and 2 of MQTT 3.1.1: strings, the fixed header, lengths and packet identifiers."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import (
    Connect,
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
from tests.broker.playbook import Peer, World
from tests.conformance.stage import (
    ACCEPTED,
    assert_cut_off,
    assert_refused,
    bystander,
    connect_bytes,
    subscribe,
    with_will,
)
from tests.support.wire import frame, string

#: Bytes that are no UTF-8, by what is wrong with them.
ILL_FORMED = {
    "surrogate D800": "ED A0 80",
    "surrogate DFFF": "ED BF BF",
    "surrogate pair": "ED A0 BD ED B8 80",
    "overlong NUL": "C0 80",
    "overlong slash, 2 bytes": "C0 AF",
    "overlong slash, 3 bytes": "E0 80 AF",
    "overlong slash, 4 bytes": "F0 80 80 AF",
    "beyond U+10FFFF": "F4 90 80 80",
    "five byte form": "F8 88 80 80 80",
    "truncated": "61 E2 82",
    "continuation alone": "61 80",
    "byte FF": "FF",
}

#: Where a client may put a string once it is connected: first byte, and what stands before and behind the string.
STRING_PLACES = {
    "PUBLISH topic": (0x30, b"", b"payload"),
    "SUBSCRIBE filter": (0x82, b"\x00\x01", b"\x00"),
    "UNSUBSCRIBE filter": (0xA2, b"\x00\x01", b""),
}

#: Where CONNECT has strings: flags, and the fields around the one that is put to the test.
CONNECT_PLACES = {
    "ClientId": (0x02, [], []),
    "Will Topic": (0x06, [string("c")], [string("message")]),
    "User Name": (0x82, [string("c")], []),
}


@pytest.mark.rule("MQTT-1.5.3-1")
@pytest.mark.parametrize("raw", ILL_FORMED.values(), ids=ILL_FORMED)
@pytest.mark.parametrize("place", STRING_PLACES)
def test_ill_formed_utf8_ends_the_connection(world: World, place: str, raw: str) -> None:
    """A string that is no UTF-8 is not published or subscribed: the connection closes, its will goes out."""
    watcher, mortal = bystander(world), with_will(world)
    first, before, behind = STRING_PLACES[place]
    mortal.send(frame(first, before + string(bytes.fromhex(raw)) + behind))
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-1.5.3-1", "MQTT-3.1.4-1")
@pytest.mark.parametrize("raw", ILL_FORMED.values(), ids=ILL_FORMED)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("ClientId", marks=pytest.mark.rule("MQTT-3.1.3-4")),
        pytest.param("Will Topic", marks=pytest.mark.rule("MQTT-3.1.3-10")),
        pytest.param("User Name", marks=pytest.mark.rule("MQTT-3.1.3-11")),
    ],
)
def test_ill_formed_utf8_in_connect(world: World, place: str, raw: str) -> None:
    """A CONNECT with a string that is no UTF-8 gets no CONNACK."""
    watcher, peer = bystander(world), world.peer()
    flags, before, behind = CONNECT_PLACES[place]
    peer.send(connect_bytes(flags, *before, string(bytes.fromhex(raw)), *behind))
    assert_refused(peer, watcher)


@pytest.mark.rule("MQTT-1.5.3-1")
@pytest.mark.parametrize(
    "raw", ["7F", "C2 80", "DF BF", "E0 A0 80", "ED 9F BF", "EE 80 80", "F0 90 80 80", "F4 8F BF BF"]
)
def test_every_well_formed_length_passes(world: World, raw: str) -> None:
    """The outermost characters of each UTF-8 length, and those beside the surrogates, arrive unchanged."""
    watcher = bystander(world)
    packet = frame(0x30, string(b"t/" + bytes.fromhex(raw)) + b"x")
    publisher = world.connect("p").send(packet)
    assert watcher.bytes() == packet
    assert publisher.alive()


@pytest.mark.rule("MQTT-1.5.3-2")
@pytest.mark.parametrize("text", [b"\0", b"a\0", b"a\0b"])
@pytest.mark.parametrize("place", STRING_PLACES)
def test_nul_ends_the_connection(world: World, place: str, text: bytes) -> None:
    """U+0000 in a string closes the connection."""
    watcher, mortal = bystander(world), with_will(world)
    first, before, behind = STRING_PLACES[place]
    mortal.send(frame(first, before + string(text) + behind))
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-1.5.3-2", "MQTT-3.1.4-1")
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("ClientId", marks=pytest.mark.rule("MQTT-3.1.3-4")),
        pytest.param("Will Topic", marks=pytest.mark.rule("MQTT-3.1.3-10")),
        pytest.param("User Name", marks=pytest.mark.rule("MQTT-3.1.3-11")),
    ],
)
def test_nul_in_connect(world: World, place: str) -> None:
    """U+0000 in a string of CONNECT: closed, no CONNACK."""
    watcher, peer = bystander(world), world.peer()
    flags, before, behind = CONNECT_PLACES[place]
    peer.send(connect_bytes(flags, *before, string(b"a\0b"), *behind))
    assert_refused(peer, watcher)


@pytest.mark.rule("MQTT-1.5.3-3")
@pytest.mark.parametrize("topic", ["\ufeffa", "a\ufeff", "a/\ufeff/b", "\ufeff"])
def test_byte_order_mark_is_a_character(world: World, topic: str) -> None:
    """EF BB BF in a topic is a character: subscribed without it means nothing comes, with it all bytes do."""
    exact, without = world.connect("exact"), world.connect("without")
    subscribe(exact, topic)
    subscribe(without, topic.replace("\ufeff", "") or "a")
    packet = frame(0x30, string(topic) + b"x")
    world.connect("p").send(packet)
    assert exact.bytes() == packet
    assert without.bytes() == b""


@pytest.mark.rule("MQTT-1.5.3-3")
def test_byte_order_mark_tells_client_ids_apart(world: World) -> None:
    """A ClientId with U+FEFF in front is another one: neither connection takes the other over."""
    plain = world.connect("a")
    marked = world.connect("\ufeffa")
    assert plain.alive()
    assert marked.alive()


@pytest.mark.rule("N311-01")
@pytest.mark.parametrize(
    "topic", ["a\x01", "a\x1f", "a\x7f", "a\x80", "a\x9f", "a\ufdd0", "a\ufffe", "a\uffff", "a\U0001ffff"]
)
def test_control_characters_and_non_characters_pass(world: World, topic: str) -> None:
    """N311-01: a receiver may close on them; this broker does not, and forwards them as they are."""
    watcher = bystander(world)
    packet = frame(0x30, string(topic) + b"x")
    publisher = world.connect("p").send(packet)
    assert watcher.bytes() == packet
    assert publisher.alive()


# -- the fixed header

_BODIES = {
    1: connect_bytes(0x02, string("z"))[2:],
    4: b"\x00\x01",
    5: b"\x00\x01",
    6: b"\x00\x01",
    7: b"\x00\x01",
    8: b"\x00\x01\x00\x01a\x00",
    10: b"\x00\x01\x00\x01a",
    12: b"",
    14: b"",
}
_FLAGS = {6: 2, 8: 2, 10: 2}


@pytest.mark.rule("MQTT-2.2.2-2")
@pytest.mark.parametrize(
    ("packet_type", "flags"),
    [
        pytest.param(packet_type, flags, id=f"{packet_type << 4 | flags:02X}")
        for packet_type in _BODIES
        if packet_type != 1
        for flags in range(16)
        if flags != _FLAGS.get(packet_type, 0)
    ],
)
def test_wrong_header_flags_end_the_connection(world: World, packet_type: int, flags: int) -> None:
    """Any value but the fixed one in the low four bits of the first byte: closed, and the will goes out."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(packet_type << 4 | flags, _BODIES[packet_type]))
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-2.2.2-2", "MQTT-3.1.4-1")
@pytest.mark.parametrize("flags", range(1, 16))
def test_wrong_header_flags_of_connect(world: World, flags: int) -> None:
    """CONNECT whose low four bits are not 0000: closed, no CONNACK."""
    watcher, peer = bystander(world), world.peer()
    peer.send(frame(0x10 | flags, _BODIES[1]))
    assert_refused(peer, watcher)


@pytest.mark.rule("MQTT-2.2.2-1")
def test_header_flags_the_server_sends(world: World) -> None:
    """Each packet a client gets begins with the very byte the standard gives."""
    peer = world.peer().send("10 0D 00 04 4D 51 54 54 04 02 00 3C 00 01 61")
    assert peer.bytes() == bytes.fromhex("20 02 00 00")
    peer.send("82 06 00 0A 00 01 74 02")
    assert peer.bytes() == bytes.fromhex("90 03 00 0A 02")
    peer.send("32 06 00 01 75 00 0B 78")  # QoS 1 to a topic nobody has
    assert peer.bytes() == bytes.fromhex("40 02 00 0B")
    peer.send("34 06 00 01 75 00 0C 78")  # QoS 2
    assert peer.bytes() == bytes.fromhex("50 02 00 0C")
    peer.send("62 02 00 0C")
    assert peer.bytes() == bytes.fromhex("70 02 00 0C")
    world.connect("p").send(Publish("t", b"x", 2, packet_id=1))
    assert peer.bytes() == bytes.fromhex("34 06 00 01 74 00 01 78")
    peer.send("50 02 00 01")
    assert peer.bytes() == bytes.fromhex("62 02 00 01")
    peer.send("70 02 00 01", "A2 05 00 0D 00 01 74", "C0 00")
    assert peer.bytes() == bytes.fromhex("B0 02 00 0D D0 00")


@pytest.mark.rule("N311-03")
@pytest.mark.parametrize("first", ["00", "0F", "F0", "F2", "FF"])
def test_reserved_packet_types(world: World, first: str) -> None:
    """N311-03: types 0 and 15 close the connection."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(first + "00")
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("N311-04")
@pytest.mark.parametrize("raw", ["20 02 00 00", "90 03 00 01 00", "B0 02 00 01", "D0 00"])
def test_packets_of_the_other_direction(world: World, raw: str) -> None:
    """N311-04: what only a server may send closes the connection of a client that sends it."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, watcher)


# -- lengths


@pytest.mark.rule("N311-02")
@pytest.mark.parametrize("raw", ["C0 80 80 80 80 00", "C0 FF FF FF FF", "30 80 80 80 80"])
def test_remaining_length_of_five_bytes(world: World, raw: str) -> None:
    """N311-02: a fourth length byte that announces a fifth closes the connection, without waiting for it."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, watcher)


@pytest.mark.parametrize("raw", ["C0 80 00", "C0 80 80 00", "C0 80 80 80 00"])
def test_remaining_length_in_more_bytes_than_needed(world: World, raw: str) -> None:
    """3.1.1 does not forbid it: the PINGREQ is answered."""
    assert world.connect("c").send(raw).bytes() == bytes.fromhex("D0 00")


@pytest.mark.parametrize("length", [3, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_each_size_of_remaining_length(length: int) -> None:
    """The shortest and the longest packet of each size of length field pass through, byte for byte."""
    world = World(max_packet_size=3 * 1024 * 1024, send_buffer=8 * 1024 * 1024)
    watcher = bystander(world)
    packet = frame(0x30, string("t") + bytes(length - 3))
    publisher = world.connect("p").send(packet)
    assert watcher.bytes() == packet
    assert publisher.alive()


def test_packet_beyond_the_limit_is_refused_by_its_header() -> None:
    """A packet larger than the broker takes ends that connection before its body has come."""
    world = World(max_packet_size=1000)
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(frame(0x30, string("t") + bytes(994)))
    assert len(watcher.bytes()) == 1000
    mortal.send(frame(0x30, string("t") + bytes(995))[:3])
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("N311-05")
@pytest.mark.parametrize(
    "raw",
    [
        *("40 01 00", "40 03 00 01 00", "50 01 00", "50 03 00 01 00", "62 01 00", "62 03 00 01 00", "70 00"),
        *("70 04 00 01 00 00", "C0 01 00", "E0 01 00", "E0 02 00 00"),
    ],
)
def test_fixed_size_packets_of_another_size(world: World, raw: str) -> None:
    """N311-05: an acknowledgement, PINGREQ or DISCONNECT of another length closes the connection; the will goes out."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("N311-06")
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("30 00", id="PUBLISH-without-topic"),
        pytest.param("30 01 00", id="PUBLISH-with-half-a-length"),
        pytest.param("30 03 00 02 61", id="PUBLISH-topic-past-the-end"),
        pytest.param("32 03 00 01 61", id="PUBLISH-QoS-1-without-id"),
        pytest.param("32 04 00 01 61 00", id="PUBLISH-QoS-1-with-half-an-id"),
        pytest.param("82 01 00", id="SUBSCRIBE-with-half-an-id"),
        pytest.param("82 05 00 01 00 01 61", id="SUBSCRIBE-without-QoS"),
        pytest.param("82 06 00 01 00 03 61 00", id="SUBSCRIBE-filter-past-the-end"),
        pytest.param("82 07 00 01 00 01 61 00 00", id="SUBSCRIBE-with-a-byte-left"),
        pytest.param("A2 05 00 01 00 02 61", id="UNSUBSCRIBE-filter-past-the-end"),
        pytest.param("A2 06 00 01 00 01 61 00", id="UNSUBSCRIBE-with-a-byte-left"),
    ],
)
def test_fields_that_do_not_fill_the_packet(world: World, raw: str) -> None:
    """N311-06: a field that runs past the Remaining Length, or bytes behind the last field, close the connection."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, watcher)


# -- packet identifiers


@pytest.mark.rule("MQTT-2.3.1-1")
@pytest.mark.parametrize(
    "raw",
    ["82 06 00 00 00 01 61 00", "A2 05 00 00 00 01 61", "32 06 00 01 74 00 00 78", "34 06 00 01 74 00 00 78"],
    ids=["SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH QoS 1", "PUBLISH QoS 2"],
)
def test_packet_id_0_from_a_client(world: World, raw: str) -> None:
    """Packet id 0 closes the connection; nothing is published or answered."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-2.3.1-1")
@pytest.mark.parametrize("identifier", [1, 255, 256, 65535])
def test_every_other_packet_id_is_taken(world: World, identifier: int) -> None:
    """1 and 65535 are as good as any."""
    peer = world.connect("c")
    peer.send(
        Subscribe(identifier, [("a", Subscription(0))]),
        Unsubscribe(identifier, ["a"]),
        Publish("t", b"x", 1, packet_id=identifier),
        Publish("t", b"x", 2, packet_id=identifier),
    )
    assert peer.packets() == [
        Suback(identifier, [Reason.SUCCESS]),
        Unsuback(identifier),
        Puback(identifier),
        Pubrec(identifier),
    ]


@pytest.mark.rule("MQTT-2.3.1-1", "MQTT-2.3.1-4")
def test_packet_ids_of_the_server_go_round() -> None:
    """After 65535 comes 1, never 0; while the old 1 is not acknowledged nothing else bears that id."""
    world = World(max_inflight=1000, max_queued=5000)
    subscriber, publisher = world.connect("s"), world.connect("p")
    subscribe(subscriber, "t", qos=1)
    publisher.send(Publish("t", b"first", packet_id=1, qos=1))
    assert subscriber.packets() == [Publish("t", b"first", 1, packet_id=1)]  # and never acknowledged for now
    rest = bytes.fromhex("32 06 00 01 74 00 01 78") * 999
    seen: list[int] = []
    while len(seen) < 65534:
        publisher.send(rest)
        publisher.bytes()
        arrived = subscriber.bytes()
        identifiers = [int.from_bytes(arrived[at + 5 : at + 7], "big") for at in range(0, len(arrived), 8)]
        seen += identifiers
        subscriber.send(b"".join(b"\x40\x02" + identifier.to_bytes(2, "big") for identifier in identifiers))
        if not identifiers:
            break
    assert seen == list(range(2, 65536))
    assert subscriber.bytes() == b""
    subscriber.send(Puback(1))
    arrived = subscriber.bytes()
    assert arrived[:8] == bytes.fromhex("32 06 00 01 74 00 01 78")
    assert arrived[8:16] == bytes.fromhex("32 06 00 01 74 00 02 78")


@pytest.mark.rule("MQTT-2.3.1-4")
@pytest.mark.parametrize("durable", [False, True])
def test_packet_id_is_blocked_until_acknowledged(world: World, durable: bool) -> None:
    """Messages in flight all bear different ids, also while some are half way through QoS 2."""
    subscriber, publisher = world.connect("s", clean_start=not durable), world.connect("p")
    subscribe(subscriber, "t", qos=2)
    for number in range(1, 4):
        publisher.send(Publish("t", b"%d" % number, 2, packet_id=number))
    assert [packet.packet_id for packet in subscriber.packets()] == [1, 2, 3]
    subscriber.send(Pubrec(1))
    assert subscriber.packets() == [Pubrel(1)]
    publisher.send(Publish("t", b"4", 2, packet_id=4), Publish("t", b"5", 1, packet_id=5))
    assert [packet.packet_id for packet in subscriber.packets()] == [4, 5]


@pytest.mark.rule("MQTT-2.3.1-4")
def test_packet_id_is_the_same_in_a_resend(world: World) -> None:
    """What is sent again after a reconnect bears its first id, and a new message another one."""
    subscriber, publisher = world.connect("s", clean_start=False), world.connect("p")
    subscribe(subscriber, "t", qos=1)
    publisher.send(Publish("t", b"a", 1, packet_id=100), Publish("t", b"b", 1, packet_id=101))
    subscriber.send(Puback(1))
    subscriber.drop()
    again = world.connect("s", present=True, clean_start=False)
    publisher.send(Publish("t", b"c", 1, packet_id=102))
    assert again.packets() == [
        Publish("t", b"b", 1, dup=True, packet_id=2),
        Publish("t", b"c", 1, packet_id=3),
    ]


@pytest.mark.rule("MQTT-2.3.1-5")
def test_qos_0_has_no_packet_id(world: World) -> None:
    """The payload of a QoS 0 PUBLISH begins behind the topic, in both directions, and may be empty."""
    watcher, publisher = bystander(world), world.connect("p")
    publisher.send("30 07 00 03 61 2F 62 68 69", "30 05 00 03 61 2F 62")
    assert watcher.bytes() == bytes.fromhex("30 07 00 03 61 2F 62 68 69 30 05 00 03 61 2F 62")
    assert publisher.bytes() == b""


@pytest.mark.rule("MQTT-2.3.1-5")
def test_qos_0_copy_of_a_qos_1_message_has_no_packet_id(world: World) -> None:
    """The publisher's packet id does not leak into the payload of a QoS 0 subscriber."""
    watcher = bystander(world)
    world.connect("p").send("32 09 00 03 61 2F 62 00 0A 68 69")
    assert watcher.bytes() == bytes.fromhex("30 07 00 03 61 2F 62 68 69")


@pytest.mark.rule("MQTT-2.3.1-6")
@pytest.mark.parametrize("identifier", ["00 01", "00 FF", "01 00", "FF FF"])
def test_acknowledgements_bear_the_id_of_their_publish(world: World, identifier: str) -> None:
    """PUBACK, PUBREC and PUBCOMP come back with both bytes of the id."""
    peer = world.connect("c")
    assert peer.send("32 06 00 01 74", identifier, "78").bytes() == bytes.fromhex("40 02" + identifier)
    assert peer.send("34 06 00 01 74", identifier, "78").bytes() == bytes.fromhex("50 02" + identifier)
    assert peer.send("62 02", identifier).bytes() == bytes.fromhex("70 02" + identifier)


@pytest.mark.rule("MQTT-2.3.1-6")
def test_pubrel_bears_the_id_of_its_publish(world: World) -> None:
    """Towards a subscriber each PUBREL has the id of the PUBLISH whose PUBREC came."""
    subscriber, publisher = world.connect("s"), world.connect("p")
    subscribe(subscriber, "t", qos=2)
    publisher.send(*(Publish("t", b"x", 2, packet_id=900 + number) for number in range(3)))
    assert [packet.packet_id for packet in subscriber.packets()] == [1, 2, 3]
    subscriber.send(Pubrec(2), Pubrec(1))
    assert subscriber.packets() == [Pubrel(2), Pubrel(1)]


@pytest.mark.rule("MQTT-2.3.1-7")
@pytest.mark.parametrize("identifier", ["00 01", "00 FF", "01 00", "FF FF"])
def test_suback_and_unsuback_bear_the_id_of_their_request(world: World, identifier: str) -> None:
    """Both bytes of the id come back."""
    peer = world.connect("c")
    assert peer.send("82 06", identifier, "00 01 61 01").bytes() == bytes.fromhex("90 03" + identifier + "01")
    assert peer.send("A2 05", identifier, "00 01 61").bytes() == bytes.fromhex("B0 02" + identifier)


# -- a byte stream


#: What a client sends, and what it gets: the examples of the standard's formats.
DIALOGUE = [
    ("10 0D 00 04 4D 51 54 54 04 02 00 3C 00 01 61", "20 02 00 00"),
    ("82 0E 00 0A 00 03 61 2F 62 01 00 03 63 2F 64 02", "90 04 00 0A 01 02"),
    ("30 07 00 03 61 2F 62 68 69", "30 07 00 03 61 2F 62 68 69"),
    ("33 09 00 03 61 2F 62 00 0A 68 69", "32 09 00 03 61 2F 62 00 01 68 69 40 02 00 0A"),
    ("40 02 00 01", ""),
    ("3C 09 00 03 63 2F 64 00 0A 68 69", "34 09 00 03 63 2F 64 00 02 68 69 50 02 00 0A"),
    ("50 02 00 02", "62 02 00 02"),
    ("62 02 00 0A", "70 02 00 0A"),
    ("70 02 00 02", ""),
    ("31 05 00 03 61 2F 62", "30 05 00 03 61 2F 62"),
    ("A2 0C 00 0B 00 03 61 2F 62 00 03 63 2F 64", "B0 02 00 0B"),
    ("C0 00", "D0 00"),
]


def _packets_in(peer: Peer) -> list[str]:
    """What came, sorted within one answer: a client's own message and its acknowledgement may come in any order."""
    return sorted(map(repr, peer.packets()))


def test_examples_of_the_standard(world: World) -> None:
    """The worked examples, one after the other, and DISCONNECT at the end."""
    peer, other = world.peer(), world.peer()
    for sent, expected in DIALOGUE:
        peer.send(sent)
        other._arrived = bytes.fromhex(expected)
        assert _packets_in(peer) == _packets_in(other), sent
    peer.send("E0 00")
    assert peer.bytes() == b""
    assert peer.closed


@pytest.mark.parametrize("size", [1, 2])
def test_packets_may_come_in_pieces(world: World, size: int) -> None:
    """The same dialogue in pieces that know nothing of packets: the same answers."""
    peer, other = world.peer(), world.peer()
    everything = bytes.fromhex("".join(sent for sent, _ in DIALOGUE) + "E0 00")
    for at in range(0, len(everything), size):
        peer.send(everything[at : at + size])
    other._arrived = bytes.fromhex("".join(expected for _, expected in DIALOGUE))
    assert _packets_in(peer) == _packets_in(other)
    assert peer.closed


def test_packets_may_share_a_chunk(world: World) -> None:
    """What comes in one piece is dealt with in order."""
    watcher, peer = bystander(world), world.peer()
    peer.send(Connect("c"), *(Publish("t", b"%d" % number) for number in range(100)), "C0 00", "E0 00")
    assert peer.bytes() == ACCEPTED + bytes.fromhex("D0 00")
    assert [packet.payload for packet in watcher.packets()] == [b"%d" % number for number in range(100)]
    assert peer.closed


def test_packet_behind_an_illegal_one_is_not_read(world: World) -> None:
    """Packets before an illegal one count, those behind it do not."""
    watcher = bystander(world)
    peer = world.peer().send(Connect("c"), Publish("t", b"before"), "F0 00", Publish("t", b"behind"))
    assert peer.bytes() == ACCEPTED
    assert peer.closed
    assert watcher.packets() == [Publish("t", b"before")]


@pytest.mark.parametrize("packet", [Pubcomp(9), Puback(9), Pubrec(9)])
def test_acknowledgement_of_nothing(world: World, packet: Puback | Pubrec | Pubcomp) -> None:
    """An id that is not in flight harms nobody; a PUBREC gets its PUBREL, so that the peer can finish."""
    peer = world.connect("c").send(packet)
    assert peer.packets() == ([Pubrel(9)] if isinstance(packet, Pubrec) else [])
    assert peer.alive()
