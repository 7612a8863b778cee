"""Packet body -> packet: `read` finds one function per packet type in `READERS`; PUBLISH has `publish`.

A reader refuses what breaks a rule of format, whichever side the rule binds, and reads packets of both directions.
Malformed (0x81) is what cannot be parsed, a protocol error (0x82) what was parsed and is not allowed. Not judged here,
for it takes more than one packet: who may send what to whom, client identifiers, aliases in use, packet ids in use.

MQTT 3.1 is read with more patience where the digest of that protocol asks for it: `read` tolerates DUP in the header
of PUBREL, SUBSCRIBE and UNSUBSCRIBE, `_connect` says what else.
"""

from __future__ import annotations

from collections.abc import Callable

from mqttcluster.mqtt import properties, wire
from mqttcluster.mqtt.packets import (
    V5,
    V31,
    V311,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Properties,
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
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import MalformedPacket, MQTTError, ProtocolViolation, Reason
from mqttcluster.mqtt.topics import check_filter, check_name, split_share
from mqttcluster.mqtt.wire import Cursor

#: Protocol name -> the levels spoken under it.
_PUBLISH = PacketType.PUBLISH  # to look up a member of an enum takes longer than most of what is done with it
_LEVELS = {"MQTT": (V311, V5), "MQIsdp": (V31,)}

#: Return codes of a CONNACK before 5.0 -> reason.
_CONNACK_REASONS = (
    Reason.SUCCESS,
    Reason.UNSUPPORTED_PROTOCOL_VERSION,
    Reason.CLIENT_IDENTIFIER_NOT_VALID,
    Reason.SERVER_UNAVAILABLE,
    Reason.BAD_USER_NAME_OR_PASSWORD,
    Reason.NOT_AUTHORIZED,
)

#: Reason codes that each packet of MQTT 5.0 may carry, from either side.
_PUBLISHED = (0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
_RELEASED = (0x00, 0x92)
REASONS: dict[int, dict[int, Reason]] = {
    packet_type: {code: Reason(code) for code in codes}
    for packet_type, codes in {
        PacketType.CONNACK: (0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, *range(0x99, 0x9E), 0x9F),
        PacketType.PUBACK: _PUBLISHED,
        PacketType.PUBREC: _PUBLISHED,
        PacketType.PUBREL: _RELEASED,
        PacketType.PUBCOMP: _RELEASED,
        PacketType.SUBACK: (0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2),
        PacketType.UNSUBACK: (0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91),
        PacketType.DISCONNECT: (
            *(0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90),
            *range(0x93, 0xA3),
        ),
        PacketType.AUTH: (0x00, 0x18, 0x19),
    }.items()
}

Acknowledgement = Puback | Pubrec | Pubrel | Pubcomp
_Reader = Callable[[Cursor, int], Packet]


def _legal_first_bytes(version: int) -> frozenset[int]:
    legal = {packet_type << 4 for packet_type in PacketType if packet_type != PacketType.AUTH or version == V5}
    legal |= set(range(0x30, 0x36)) | set(range(0x3A, 0x3E))  # no QoS 3, no DUP with QoS 0
    for packet_type in (PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE):
        legal.remove(packet_type << 4)
        legal.add(packet_type << 4 | 0x02)
        if version == V31:
            legal.add(packet_type << 4 | 0x0A)
    return frozenset(legal)


#: Protocol version -> the first bytes a packet may begin with. 0, no version yet, is read as 3.1.1.
FIRST_BYTES: dict[int, frozenset[int]] = {version: _legal_first_bytes(version) for version in (V31, V311, V5)}
FIRST_BYTES[0] = FIRST_BYTES[V311]


def refusal(first: int) -> MQTTError:
    """The error for a `first` byte that is not among FIRST_BYTES."""
    packet_type = first >> 4
    if packet_type in (0, PacketType.AUTH):
        return MalformedPacket(f"packet type {packet_type} is reserved")
    return MalformedPacket(f"{PacketType(packet_type).name} with flags {first & 0x0F:04b}")  # [MQTT-2.2.2-2]


def is_connect_5(data: bytes, at: int) -> bool:
    """Whether the packet that begins at `data[at]` is a CONNECT of MQTT 5.0, legal or not, as far as it is there."""
    length = data[at + 1 : at + 5]
    start = at + 2 + next((number for number, group in enumerate(length) if group < 0x80), 4)
    return data[at : at + 1] == b"\x10" and data[start : start + 7] == b"\0\4MQTT\5"


def read(packet_type: int, flags: int, body: bytes | memoryview, version: int) -> Packet:
    """The packet whose fixed header says `packet_type` and `flags` and whose other bytes are `body`.

    `version` is the protocol level of the connection; a CONNECT brings its own. Raises MQTTError, and nothing else,
    for bytes that are not a legal packet of that version.
    """
    first = packet_type << 4 | flags
    if first not in FIRST_BYTES[version]:
        raise refusal(first)
    data = bytes(body)
    if packet_type == PacketType.PUBLISH:
        return publish(flags, data, 0, len(data), version)
    return READERS[packet_type](Cursor(data), version)


def publish(flags: int, data: bytes, at: int, end: int, version: int) -> Publish:
    """The PUBLISH whose body is `data[at:end]` and whose `flags` are legal. Raises MQTTError.

    Takes offsets and reads by hand what a Cursor would read: no packet is as frequent.
    """
    start = at + 2
    if start > end:
        raise MalformedPacket("a PUBLISH without topic")
    at = start + (data[at] << 8 | data[at + 1])
    if at > end:
        raise MalformedPacket("the topic runs past the end of the packet")
    raw = data[start:at]
    if b"+" in raw or b"#" in raw:
        raise ProtocolViolation("the topic name contains a wildcard")  # [MQTT-3.3.2-2]
    topic = wire.decode(raw)
    packet_id = 0
    qos = flags >> 1 & 3
    if qos:
        if at + 2 > end:
            raise MalformedPacket("a PUBLISH without packet identifier")
        packet_id = data[at] << 8 | data[at + 1]
        if not packet_id:
            raise ProtocolViolation("the packet identifier is 0")  # [MQTT-2.3.1-1]
        at += 2
    found: Properties = {}
    if version == V5:
        cursor = Cursor(data, at, end)
        found = properties.read(cursor, _PUBLISH)
        at = cursor.at
    if not topic and Prop.TOPIC_ALIAS not in found:
        raise ProtocolViolation("the topic name is empty")  # [MQTT-4.7.3-1]
    return Publish(topic, data[at:end], qos, flags & 1 == 1, flags & 8 == 8, packet_id, found)


def _connect(cursor: Cursor, version: int) -> Packet:
    """CONNECT, whose name and level say how the rest is read.

    In MQTT 3.1 the reserved flag and will bits without the will flag are not checked, and a user name or password
    that a flag announces may be missing at the end.
    """
    name = cursor.string()
    if name not in _LEVELS:
        raise ProtocolViolation("the protocol name is neither MQTT nor MQIsdp")  # [MQTT-3.1.2-1]
    level = cursor.byte()
    if level not in _LEVELS[name]:
        raise MQTTError(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"{name} with protocol level {level}")  # [MQTT-3.1.2-2]
    flags = cursor.byte()
    has_will, will_qos, will_retain = flags & 0x04, flags >> 3 & 3, flags & 0x20 != 0
    has_name, has_password = flags & 0x80, flags & 0x40
    if level != V31:
        if flags & 0x01:
            raise MalformedPacket("the reserved flag of CONNECT is set")  # [MQTT-3.1.2-3]
        if not has_will and flags & 0x38:
            raise MalformedPacket("will QoS or will retain without a will")  # [MQTT-3.1.2-13], [MQTT-3.1.2-15]
    if has_will and will_qos == 3:
        raise MalformedPacket("a will with QoS 3")  # [MQTT-3.1.2-14]
    if has_password and not has_name and level != V5:
        raise MalformedPacket("a password without a user name")  # [MQTT-3.1.2-22]
    packet = Connect("", level, flags & 0x02 != 0, cursor.two_bytes())
    if level == V5:
        packet.properties = properties.read(cursor, PacketType.CONNECT)
    packet.client_id = cursor.string()
    if has_will:
        found = properties.read(cursor, properties.WILL) if level == V5 else {}
        topic = cursor.string()
        check_name(topic)
        packet.will = Will(topic, cursor.binary(), will_qos, will_retain, found)
    if has_name and (level != V31 or cursor.left):
        packet.username = cursor.string()
    if has_password and (level != V31 or cursor.left):
        packet.password = cursor.binary()
    cursor.done()
    return packet


def _reason(cursor: Cursor, packet_type: PacketType) -> Reason:
    code = cursor.byte()
    reason = REASONS[packet_type].get(code)
    if reason is None:
        raise ProtocolViolation(f"{packet_type.name} with reason code 0x{code:02X}")
    return reason


def _connack(cursor: Cursor, version: int) -> Packet:
    flags = cursor.byte()
    if version == V31:
        flags = 0  # a reserved byte there
    if flags & 0xFE:
        raise MalformedPacket("CONNACK with reserved flags")
    found: Properties = {}
    if version == V5:
        reason = _reason(cursor, PacketType.CONNACK)
        found = properties.read(cursor, PacketType.CONNACK)
    else:
        code = cursor.byte()
        if code >= len(_CONNACK_REASONS):
            raise ProtocolViolation(f"CONNACK with return code {code}")
        reason = _CONNACK_REASONS[code]
    cursor.done()
    if flags and reason:
        raise ProtocolViolation("CONNACK that refuses, with session present")  # [MQTT-3.2.2-4]
    return Connack(flags == 1, reason, found)


def _packet_id(cursor: Cursor) -> int:
    packet_id = cursor.two_bytes()
    if not packet_id:
        raise ProtocolViolation("the packet identifier is 0")  # [MQTT-2.3.1-1]
    return packet_id


def _acknowledgement(packet_type: PacketType, make: type[Acknowledgement]) -> _Reader:
    def reader(cursor: Cursor, version: int) -> Packet:
        packet = make(_packet_id(cursor))
        # In 5.0 reason and properties may be left out from the end.
        if version == V5 and cursor.left:
            packet.reason = _reason(cursor, packet_type)
            if cursor.left:
                packet.properties = properties.read(cursor, packet_type)
        cursor.done()
        return packet

    return reader


def _subscribe(cursor: Cursor, version: int) -> Packet:
    packet_id = _packet_id(cursor)
    found = properties.read(cursor, PacketType.SUBSCRIBE) if version == V5 else {}
    identifiers = found.get(Prop.SUBSCRIPTION_IDENTIFIER)
    identifier = identifiers[0] if isinstance(identifiers, list) and isinstance(identifiers[0], int) else 0
    filters: list[tuple[str, Subscription]] = []
    while cursor.left:
        topic = cursor.string()
        options = cursor.byte()
        check_filter(topic, version)
        filters.append((topic, _subscription(topic, options, identifier, version)))
    if not filters:
        raise ProtocolViolation("SUBSCRIBE without a topic filter")  # [MQTT-3.8.3-3]
    return Subscribe(packet_id, filters, found)


def _subscription(topic: str, options: int, identifier: int, version: int) -> Subscription:
    qos = options & 3
    if version != V5:
        if options > 2:
            raise MalformedPacket(f"SUBSCRIBE with QoS byte 0x{options:02X}")  # [MQTT-3.8.3-4]
        return Subscription(qos)
    if options & 0xC0:
        raise MalformedPacket("SUBSCRIBE with reserved options")  # [MQTT-3.8.3-5] of 5.0
    handling = options >> 4
    if qos == 3 or handling == 3:
        raise ProtocolViolation("SUBSCRIBE with QoS 3 or retain handling 3")
    no_local = options & 0x04 != 0
    if no_local and split_share(topic)[0]:
        raise ProtocolViolation("a shared subscription with no local")  # [MQTT-3.8.3-4] of 5.0
    return Subscription(qos, no_local, options & 0x08 != 0, handling, identifier)


def _suback(cursor: Cursor, version: int) -> Packet:
    packet_id = _packet_id(cursor)
    found = properties.read(cursor, PacketType.SUBACK) if version == V5 else {}
    reasons: list[Reason] = []
    while cursor.left:
        reason = _reason(cursor, PacketType.SUBACK)
        if version != V5 and reason > Reason.UNSPECIFIED_ERROR:
            raise ProtocolViolation(f"SUBACK with return code 0x{int(reason):02X}")  # [MQTT-3.9.3-2]
        reasons.append(reason)
    if not reasons:
        raise ProtocolViolation("SUBACK without a return code")
    return Suback(packet_id, reasons, found)


def _unsubscribe(cursor: Cursor, version: int) -> Packet:
    packet_id = _packet_id(cursor)
    found = properties.read(cursor, PacketType.UNSUBSCRIBE) if version == V5 else {}
    filters: list[str] = []
    while cursor.left:
        topic = cursor.string()
        check_filter(topic, version)
        filters.append(topic)
    if not filters:
        raise ProtocolViolation("UNSUBSCRIBE without a topic filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, filters, found)


def _unsuback(cursor: Cursor, version: int) -> Packet:
    packet = Unsuback(_packet_id(cursor))
    if version == V5:
        packet.properties = properties.read(cursor, PacketType.UNSUBACK)
        while cursor.left:
            packet.reasons.append(_reason(cursor, PacketType.UNSUBACK))
        if not packet.reasons:
            raise ProtocolViolation("UNSUBACK without a reason code")
    cursor.done()
    return packet


def _pingreq(cursor: Cursor, version: int) -> Packet:
    cursor.done()
    return Pingreq()


def _pingresp(cursor: Cursor, version: int) -> Packet:
    cursor.done()
    return Pingresp()


def _disconnect(cursor: Cursor, version: int) -> Packet:
    packet = Disconnect()
    if version == V5 and cursor.left:
        packet.reason = _reason(cursor, PacketType.DISCONNECT)
        if cursor.left:
            packet.properties = properties.read(cursor, PacketType.DISCONNECT)
    cursor.done()
    return packet


def _auth(cursor: Cursor, version: int) -> Packet:
    packet = Auth()
    if cursor.left:
        packet.reason = _reason(cursor, PacketType.AUTH)
        packet.properties = properties.read(cursor, PacketType.AUTH)
    cursor.done()
    if Prop.AUTHENTICATION_METHOD not in packet.properties:
        raise ProtocolViolation("AUTH without an authentication method")
    return packet


#: Packet type -> reader of a body that stands in a Cursor, for a protocol version. PUBLISH needs its flags: `publish`.
READERS: dict[int, _Reader] = {
    PacketType.CONNECT: _connect,
    PacketType.CONNACK: _connack,
    PacketType.PUBACK: _acknowledgement(PacketType.PUBACK, Puback),
    PacketType.PUBREC: _acknowledgement(PacketType.PUBREC, Pubrec),
    PacketType.PUBREL: _acknowledgement(PacketType.PUBREL, Pubrel),
    PacketType.PUBCOMP: _acknowledgement(PacketType.PUBCOMP, Pubcomp),
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: _pingreq,
    PacketType.PINGRESP: _pingresp,
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}
