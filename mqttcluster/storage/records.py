"""Messages, wills and subscriptions as versioned bytes, for every store that keeps bytes.

Each record begins with one byte, the version of its format. A release reads all versions up to its own; a newer one is
refused with a text that says so. The layouts of version 1, big-endian:

====================  ==========================================================================================
message               version · flags · length of topic (2) · length of publisher (2) · topic · publisher ·
                      [expires_at (8, float)] · [properties] · payload to the end
properties            count (2) · each: identifier (2), kind (1), value
will                  version · delay (4) · message record
subscription          version · options · identifier (4)
====================  ==========================================================================================
"""

from __future__ import annotations

from math import inf
from struct import Struct, error, pack, unpack_from

from mqttcluster.core.message import Message
from mqttcluster.mqtt.packets import Properties, PropertyValue, Subscription
from mqttcluster.storage.interfaces import StoredWill, StoreError

VERSION = 1

_MESSAGE = Struct(">BBHH")
_WILL = Struct(">BI")
_SUBSCRIPTION = Struct(">BBI")
_FLOAT = Struct(">d")
_COUNT = Struct(">I")
_PROPERTY = Struct(">HB")
_NUMBER = Struct(">q")

# Bits of a message's flags; 0x03 is its QoS.
_RETAIN, _EXPIRES, _PROPERTIES = 0x04, 0x08, 0x10
# Bits of a subscription's options; 0x03 is its QoS, 0x30 its retain handling.
_NO_LOCAL, _AS_PUBLISHED = 0x04, 0x08
# Kinds of property values.
_INT, _STR, _BYTES, _PAIRS, _INTS = range(5)


def encode_message(message: Message) -> bytes:
    """Raises `ValueError` for a message that MQTT could not carry."""
    topic, publisher = message.topic.encode(), message.publisher.encode()
    flags = message.qos | (_RETAIN if message.retain else 0)
    try:
        if message.expires_at is None and not message.properties:
            head = _MESSAGE.pack(VERSION, flags, len(topic), len(publisher))
            return b"%b%b%b%b" % (head, topic, publisher, message.payload)
        more = b""
        if message.expires_at is not None:
            flags |= _EXPIRES
            more = _FLOAT.pack(message.expires_at)
        if message.properties:
            flags |= _PROPERTIES
            more += _encode_properties(message.properties)
        head = _MESSAGE.pack(VERSION, flags, len(topic), len(publisher))
    except error as problem:
        raise ValueError(f"not an MQTT message: {problem}") from None
    return b"".join((head, topic, publisher, more, message.payload))


def decode_message(record: bytes) -> Message:
    """Raises `StoreError` for a record that is damaged, or newer than this release."""
    _check(record)
    try:
        _, flags, topic_length, publisher_length = _MESSAGE.unpack_from(record)
        at = _MESSAGE.size + topic_length
        topic = record[_MESSAGE.size : at].decode()
        publisher = record[at : at + publisher_length].decode()
        at += publisher_length
        expires_at = None
        properties: Properties = {}
        if flags & _EXPIRES:
            expires_at = _FLOAT.unpack_from(record, at)[0]
            at += _FLOAT.size
        if flags & _PROPERTIES:
            properties, at = _decode_properties(record, at)
    except (error, ValueError) as problem:
        raise _damaged() from problem
    if at > len(record) or flags & 0x03 == 0x03:
        raise _damaged()
    return Message(topic, record[at:], flags & 0x03, bool(flags & _RETAIN), publisher, properties, expires_at)


#: Where in a message record everything is that `expiry_of` looks at.
EXPIRY_WITHIN = _MESSAGE.size + 2 * 0xFFFF + _FLOAT.size


def expiry_of(record: bytes) -> float:
    """When a message expires (`inf`: never), from the first bytes of its record. ``lua/record.lua`` does the same."""
    _, flags, topic_length, publisher_length = _MESSAGE.unpack_from(record)
    if not flags & _EXPIRES:
        return inf
    expires_at: float = _FLOAT.unpack_from(record, _MESSAGE.size + topic_length + publisher_length)[0]
    return expires_at


def encode_will(will: StoredWill) -> bytes:
    """Raises `ValueError` for a message that MQTT could not carry."""
    return _WILL.pack(VERSION, will.delay) + encode_message(will.message)


def decode_will(record: bytes) -> StoredWill:
    """Raises `StoreError` for a record that is damaged, or newer than this release."""
    _check(record)
    try:
        _, delay = _WILL.unpack_from(record)
    except error as problem:
        raise _damaged() from problem
    return StoredWill(decode_message(record[_WILL.size :]), delay)


def encode_subscription(subscription: Subscription) -> bytes:
    options = (
        subscription.qos
        | (_NO_LOCAL if subscription.no_local else 0)
        | (_AS_PUBLISHED if subscription.retain_as_published else 0)
        | subscription.retain_handling << 4
    )
    return _SUBSCRIPTION.pack(VERSION, options, subscription.identifier)


def decode_subscription(record: bytes) -> Subscription:
    """Raises `StoreError` for a record that is damaged, or newer than this release."""
    _check(record)
    try:
        _, options, identifier = _SUBSCRIPTION.unpack(record)
    except error as problem:
        raise _damaged() from problem
    return Subscription(
        qos=options & 0x03,
        no_local=bool(options & _NO_LOCAL),
        retain_as_published=bool(options & _AS_PUBLISHED),
        retain_handling=options >> 4 & 0x03,
        identifier=identifier,
    )


def encode_identifiers(identifiers: tuple[int, ...]) -> bytes | None:
    """Subscription identifiers of a delivery; None for none, which is the rule."""
    return pack(f">{len(identifiers)}I", *identifiers) if identifiers else None


def decode_identifiers(record: bytes | None) -> tuple[int, ...]:
    return unpack_from(f">{len(record) // 4}I", record) if record else ()


def _check(record: bytes) -> None:
    if not record or not record[0]:
        raise _damaged()
    if record[0] > VERSION:
        raise StoreError(f"a record has format {record[0]}, this release reads up to {VERSION}; upgrade mqttcluster")


def _damaged() -> StoreError:
    return StoreError("a record is damaged; restore the store from a backup")


def _encode_properties(properties: Properties) -> bytes:
    parts = [pack(">H", len(properties))]
    for identifier, value in properties.items():
        parts.extend(_encode_property(identifier, value))
    return b"".join(parts)


def _encode_property(identifier: int, value: PropertyValue) -> list[bytes]:
    if isinstance(value, int):
        return [_PROPERTY.pack(identifier, _INT), _NUMBER.pack(value)]
    if isinstance(value, str):
        return [_PROPERTY.pack(identifier, _STR), _encode_bytes(value.encode())]
    if isinstance(value, bytes):
        return [_PROPERTY.pack(identifier, _BYTES), _encode_bytes(value)]
    kind = _INTS if value and isinstance(value[0], int) else _PAIRS
    parts = [_PROPERTY.pack(identifier, kind), _COUNT.pack(len(value))]
    for item in value:
        if isinstance(item, int):
            parts.append(_NUMBER.pack(item))
        else:
            parts.extend(_encode_bytes(text.encode()) for text in item)
    return parts


def _encode_bytes(data: bytes) -> bytes:
    return _COUNT.pack(len(data)) + data


def _decode_properties(record: bytes, at: int) -> tuple[Properties, int]:
    (count,) = unpack_from(">H", record, at)
    at += 2
    properties: Properties = {}
    for _ in range(count):
        identifier, kind = _PROPERTY.unpack_from(record, at)
        properties[identifier], at = _decode_property(record, at + _PROPERTY.size, kind)
    return properties, at


def _decode_property(record: bytes, at: int, kind: int) -> tuple[PropertyValue, int]:
    if kind == _INT:
        return _NUMBER.unpack_from(record, at)[0], at + _NUMBER.size
    if kind == _STR:
        data, at = _decode_bytes(record, at)
        return data.decode(), at
    if kind == _BYTES:
        return _decode_bytes(record, at)
    (count,) = _COUNT.unpack_from(record, at)
    at += _COUNT.size
    if kind == _INTS:
        return list(unpack_from(f">{count}q", record, at)), at + count * _NUMBER.size
    if kind != _PAIRS:
        raise ValueError(f"a property of kind {kind}")
    pairs = []
    for _ in range(count):
        name, at = _decode_bytes(record, at)
        value, at = _decode_bytes(record, at)
        pairs.append((name.decode(), value.decode()))
    return pairs, at


def _decode_bytes(record: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _COUNT.unpack_from(record, at)
    at += _COUNT.size
    if at + length > len(record):
        raise ValueError("a value is cut off")
    return record[at : at + length], at + length
