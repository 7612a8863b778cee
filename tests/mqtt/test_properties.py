"""The property table against a second, handwritten one: which property may stand in which packet."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt import properties
from mqttcluster.mqtt.packets import PacketType
from mqttcluster.mqtt.properties import TABLE, WILL, Kind, Prop
from mqttcluster.mqtt.reasons import MalformedPacket, ProtocolViolation
from mqttcluster.mqtt.wire import Cursor

ALLOWED: dict[int, str] = {
    PacketType.CONNECT: "11 15 16 17 19 21 22 26 27",
    WILL: "01 02 03 08 09 18 26",
    PacketType.CONNACK: "11 12 13 15 16 1A 1C 1F 21 22 24 25 26 27 28 29 2A",
    PacketType.PUBLISH: "01 02 03 08 09 0B 23 26",
    PacketType.PUBACK: "1F 26",
    PacketType.PUBREC: "1F 26",
    PacketType.PUBREL: "1F 26",
    PacketType.PUBCOMP: "1F 26",
    PacketType.SUBACK: "1F 26",
    PacketType.UNSUBACK: "1F 26",
    PacketType.SUBSCRIBE: "0B 26",
    PacketType.UNSUBSCRIBE: "26",
    PacketType.DISCONNECT: "11 1C 1F 26",
    PacketType.AUTH: "15 16 1F 26",
}
EXAMPLES: dict[Kind, bytes] = {
    Kind.BYTE: b"\1",
    Kind.TWO_BYTES: b"\0\1",
    Kind.FOUR_BYTES: b"\0\0\0\1",
    Kind.VARINT: b"\1",
    Kind.STRING: b"\0\1a",
    Kind.BINARY: b"\0\1\xff",
    Kind.PAIR: b"\0\1k\0\1v",
}


@pytest.mark.parametrize("place", ALLOWED)
def test_places(place: int) -> None:
    """A property is read where the standard lists it and is malformed everywhere else, unknown ones included."""
    for identifier in range(256):
        check_place(identifier, place)


def check_place(identifier: int, place: int) -> None:
    value = EXAMPLES[TABLE[identifier].kind] if identifier in TABLE else b"\0\0\0\0"
    head = bytes((identifier,)) if identifier < 128 else bytes((identifier & 0x7F | 0x80, 1))
    block = head + value
    if identifier == Prop.AUTHENTICATION_DATA:
        block = b"\x15\0\1a" + block
    cursor = Cursor(bytes((len(block),)) + block + b"rest")
    if identifier in bytes.fromhex(ALLOWED[place]):
        assert identifier in properties.read(cursor, place)
        assert cursor.data[cursor.at :] == b"rest"
    else:
        with pytest.raises(MalformedPacket):
            properties.read(cursor, place)


@pytest.mark.parametrize(
    ("place", "identifier"), [(place, identifier) for place in ALLOWED for identifier in bytes.fromhex(ALLOWED[place])]
)
def test_repeats(place: int, identifier: int) -> None:
    """Only user properties repeat, and subscription identifiers on their way to a subscriber."""
    once = bytes((identifier,)) + EXAMPLES[TABLE[identifier].kind]
    block = once + once
    if identifier == Prop.AUTHENTICATION_DATA:
        block = b"\x15\0\1a" + block
    cursor = Cursor(bytes((len(block),)) + block)
    if identifier == Prop.USER_PROPERTY:
        assert properties.read(cursor, place) == {identifier: [("k", "v"), ("k", "v")]}
    elif identifier == Prop.SUBSCRIPTION_IDENTIFIER and place == PacketType.PUBLISH:
        assert properties.read(cursor, place) == {identifier: [1, 1]}
    else:
        with pytest.raises(ProtocolViolation):
            properties.read(cursor, place)


@pytest.mark.parametrize("identifier", [identifier for identifier, row in TABLE.items() if row.kind is not Kind.BYTE])
def test_values_cut_off(identifier: int) -> None:
    """A value that ends before its type says is malformed, at every cut."""
    place = TABLE[identifier].places[0]
    value = EXAMPLES[TABLE[identifier].kind]
    for size in range(len(value)):
        block = bytes((identifier,)) + value[:size]
        with pytest.raises(MalformedPacket):
            properties.read(Cursor(bytes((len(block),)) + block), place)


@pytest.mark.parametrize("place", ALLOWED)
def test_written_as_they_were_read(place: int) -> None:
    """Each property alone, every two of them, and all together, in either order, keep their bytes."""
    allowed = [identifier for identifier in bytes.fromhex(ALLOWED[place]) if identifier != Prop.AUTHENTICATION_DATA]
    sets = [[one] for one in allowed] + [[one, other] for one in allowed for other in allowed if one != other]
    for identifiers in [*sets, allowed, allowed[::-1]]:
        block = b"".join(bytes((identifier,)) + EXAMPLES[TABLE[identifier].kind] for identifier in identifiers)
        raw = bytes((len(block),)) + block
        assert properties.write(properties.read(Cursor(raw), place), place) == raw
