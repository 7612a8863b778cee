"""The properties of MQTT 5.0: one table of what exists, what it holds and where it may stand.

`read` and `write` are driven by `TABLE`. A value is int, str or bytes; User Properties are a list of pairs,
Subscription Identifiers a list of int. An unknown or misplaced property is malformed (0x81), a repeated one or a value
out of its limits a protocol error (0x82), a Topic Alias of 0 has a code of its own (0x94). Who may send what is not
judged here: a Subscription Identifier in PUBLISH, for one, is read from either side.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any, NamedTuple

from mqttcluster.mqtt import wire
from mqttcluster.mqtt.packets import PacketType, Properties
from mqttcluster.mqtt.reasons import MalformedPacket, MQTTError, ProtocolViolation, Reason
from mqttcluster.mqtt.topics import check_name


class Prop(IntEnum):
    """Property identifiers."""

    PAYLOAD_FORMAT_INDICATOR = 0x01
    MESSAGE_EXPIRY_INTERVAL = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_IDENTIFIER = 0x0B
    SESSION_EXPIRY_INTERVAL = 0x11
    ASSIGNED_CLIENT_IDENTIFIER = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY_INTERVAL = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28
    SUBSCRIPTION_IDENTIFIER_AVAILABLE = 0x29
    SHARED_SUBSCRIPTION_AVAILABLE = 0x2A


class Kind(Enum):
    """How a value is encoded: its reader, its writer, and the Python type of one occurrence."""

    BYTE = (wire.Cursor.byte, lambda value: value.to_bytes(1, "big"), int)
    TWO_BYTES = (wire.Cursor.two_bytes, lambda value: value.to_bytes(2, "big"), int)
    FOUR_BYTES = (wire.Cursor.four_bytes, lambda value: value.to_bytes(4, "big"), int)
    VARINT = (wire.Cursor.varint, wire.varint, int)
    STRING = (wire.Cursor.string, wire.string, str)
    BINARY = (wire.Cursor.binary, wire.binary, bytes)
    PAIR = (
        lambda cursor: (cursor.string(), cursor.string()),
        lambda pair: wire.string(pair[0]) + wire.string(pair[1]),
        tuple,
    )

    def __init__(self, read: Callable[[wire.Cursor], Any], write: Callable[[Any], bytes], python: type[Any]) -> None:
        self.read = read
        self.write = write
        self.python = python


#: The will's properties stand in CONNECT, behind their own length: a place beside the fifteen packet types.
WILL = 0

_P = PacketType
_CONNECT, _CONNACK, _PUBLISH, _AUTH = _P.CONNECT, _P.CONNACK, _P.PUBLISH, _P.AUTH
_REASONED = (_CONNACK, _P.PUBACK, _P.PUBREC, _P.PUBREL, _P.PUBCOMP, _P.SUBACK, _P.UNSUBACK, _P.DISCONNECT, _AUTH)
_EVERYWHERE = (*_REASONED, WILL, _CONNECT, _PUBLISH, _P.SUBSCRIBE, _P.UNSUBSCRIBE)


class Row(NamedTuple):
    """One property: `kind` of value, the `places` it may stand in, its least and greatest value (None: no limit)."""

    kind: Kind
    places: tuple[int, ...]
    least: int = 0
    most: int | None = None


TABLE: dict[int, Row] = {
    Prop.PAYLOAD_FORMAT_INDICATOR: Row(Kind.BYTE, (_PUBLISH, WILL), most=1),
    Prop.MESSAGE_EXPIRY_INTERVAL: Row(Kind.FOUR_BYTES, (_PUBLISH, WILL)),
    Prop.CONTENT_TYPE: Row(Kind.STRING, (_PUBLISH, WILL)),
    Prop.RESPONSE_TOPIC: Row(Kind.STRING, (_PUBLISH, WILL)),
    Prop.CORRELATION_DATA: Row(Kind.BINARY, (_PUBLISH, WILL)),
    Prop.SUBSCRIPTION_IDENTIFIER: Row(Kind.VARINT, (_PUBLISH, _P.SUBSCRIBE), least=1),
    Prop.SESSION_EXPIRY_INTERVAL: Row(Kind.FOUR_BYTES, (_CONNECT, _CONNACK, _P.DISCONNECT)),
    Prop.ASSIGNED_CLIENT_IDENTIFIER: Row(Kind.STRING, (_CONNACK,)),
    Prop.SERVER_KEEP_ALIVE: Row(Kind.TWO_BYTES, (_CONNACK,)),
    Prop.AUTHENTICATION_METHOD: Row(Kind.STRING, (_CONNECT, _CONNACK, _AUTH)),
    Prop.AUTHENTICATION_DATA: Row(Kind.BINARY, (_CONNECT, _CONNACK, _AUTH)),
    Prop.REQUEST_PROBLEM_INFORMATION: Row(Kind.BYTE, (_CONNECT,), most=1),
    Prop.WILL_DELAY_INTERVAL: Row(Kind.FOUR_BYTES, (WILL,)),
    Prop.REQUEST_RESPONSE_INFORMATION: Row(Kind.BYTE, (_CONNECT,), most=1),
    Prop.RESPONSE_INFORMATION: Row(Kind.STRING, (_CONNACK,)),
    Prop.SERVER_REFERENCE: Row(Kind.STRING, (_CONNACK, _P.DISCONNECT)),
    Prop.REASON_STRING: Row(Kind.STRING, _REASONED),
    Prop.RECEIVE_MAXIMUM: Row(Kind.TWO_BYTES, (_CONNECT, _CONNACK), least=1),
    Prop.TOPIC_ALIAS_MAXIMUM: Row(Kind.TWO_BYTES, (_CONNECT, _CONNACK)),
    Prop.TOPIC_ALIAS: Row(Kind.TWO_BYTES, (_PUBLISH,), least=1),
    Prop.MAXIMUM_QOS: Row(Kind.BYTE, (_CONNACK,), most=1),
    Prop.RETAIN_AVAILABLE: Row(Kind.BYTE, (_CONNACK,), most=1),
    Prop.USER_PROPERTY: Row(Kind.PAIR, _EVERYWHERE),
    Prop.MAXIMUM_PACKET_SIZE: Row(Kind.FOUR_BYTES, (_CONNECT, _CONNACK), least=1),
    Prop.WILDCARD_SUBSCRIPTION_AVAILABLE: Row(Kind.BYTE, (_CONNACK,), most=1),
    Prop.SUBSCRIPTION_IDENTIFIER_AVAILABLE: Row(Kind.BYTE, (_CONNACK,), most=1),
    Prop.SHARED_SUBSCRIPTION_AVAILABLE: Row(Kind.BYTE, (_CONNACK,), most=1),
}

#: Properties whose value is a list, one item for each occurrence.
LISTS = (Prop.USER_PROPERTY, Prop.SUBSCRIPTION_IDENTIFIER)
# To look up a member of an enum takes longer than most of what is done with it.
_TOPIC_ALIAS, _RESPONSE_TOPIC, _USER_PROPERTY = Prop.TOPIC_ALIAS, Prop.RESPONSE_TOPIC, Prop.USER_PROPERTY
_AUTHENTICATION_DATA = Prop.AUTHENTICATION_DATA


def _label(identifier: int) -> str:
    return Prop(identifier).name.lower().replace("_", " ")


def _check_value(identifier: int, row: Row, value: Any) -> None:
    if row.kind.python is int and (value < row.least or (row.most is not None and value > row.most)):
        if identifier == _TOPIC_ALIAS:
            raise MQTTError(Reason.TOPIC_ALIAS_INVALID, "the topic alias is 0")
        raise ProtocolViolation(f"the {_label(identifier)} must not be {value}")
    if identifier == _RESPONSE_TOPIC:
        check_name(value)


def read(cursor: wire.Cursor, place: int) -> Properties:
    """The Property Length and the properties behind it, as they stand in `place`: a PacketType, or WILL."""
    size = cursor.varint()
    if not size:
        return {}
    if size > cursor.left:
        raise MalformedPacket("the properties run past the end of the packet")
    block = wire.Cursor(cursor.data, cursor.at, cursor.at + size)
    cursor.at = block.end
    found: dict[int, Any] = {}
    while block.at < block.end:
        identifier = block.varint()
        row = TABLE.get(identifier)
        if row is None or place not in row.places:
            raise MalformedPacket(f"property 0x{identifier:02X} must not stand here")
        value = row.kind.read(block)
        _check_value(identifier, row, value)
        if identifier not in found:
            found[identifier] = [value] if identifier in LISTS else value
        elif identifier == _USER_PROPERTY or (identifier in LISTS and place == _PUBLISH):
            found[identifier].append(value)
        else:
            raise ProtocolViolation(f"the {_label(identifier)} comes twice")
    if _AUTHENTICATION_DATA in found and Prop.AUTHENTICATION_METHOD not in found:
        raise ProtocolViolation("authentication data without an authentication method")
    return found


def write(properties: Properties, place: int) -> bytes:
    """The Property Length and the properties, as they stand in `place`: a PacketType, or WILL.

    ValueError for a property that must not stand there, and for a value its type cannot hold.
    """
    if not properties:
        return b"\0"  # [MQTT-2.2.2-1] of 5.0
    parts: list[bytes] = []
    for identifier, value in properties.items():
        row = TABLE.get(identifier)
        if row is None or place not in row.places:
            raise ValueError(f"property 0x{identifier:02X} must not stand here")
        head = bytes((identifier,))
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) != (identifier in LISTS) or not all(
            isinstance(item, row.kind.python) for item in values
        ):
            raise ValueError(f"the {_label(identifier)} has a value of the wrong type")
        try:
            parts.extend(head + row.kind.write(item) for item in values)
        except OverflowError:
            raise ValueError(f"the {_label(identifier)} is out of range: {value!r}") from None
    block = b"".join(parts)
    return wire.varint(len(block)) + block
