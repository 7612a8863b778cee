"""Packet -> bytes: one function per packet type, found through `WRITERS`.

Writers raise ValueError for a packet that no legal bytes stand for (a topic beyond 65535 bytes, packet id 0, a reason
that has no code in the version): that is a mistake of the caller, never of the peer. Before MQTT 5.0 properties are
left out and reasons translated; in 5.0 the shortest legal form is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqttcluster.mqtt import properties, wire
from mqttcluster.mqtt.packets import (
    V5,
    V31,
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
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import CONNACK_V3, Reason
from mqttcluster.mqtt.topics import valid_name

_PUBLISH = PacketType.PUBLISH


def encode(packet: Packet, version: int) -> bytes:
    """The whole `packet`, fixed header included, for a connection of protocol `version`. Raises ValueError."""
    return WRITERS[type(packet)](packet, version)


def publish_parts(
    topic: str, payload: bytes, qos: int, retain: bool, dup: bool, properties: Properties, version: int
) -> tuple[bytes, bytes]:
    """A PUBLISH without its packet id, cut in two where the id belongs; Remaining Length counts the id already.

    The frame is ``head + packet_id.to_bytes(2, "big") + tail`` with QoS > 0; with QoS 0 it is the head, and the tail
    is empty. Written once, it serves all receivers of one message with these options. Raises ValueError.
    """
    if not 0 <= qos <= 2 or (dup and not qos):
        raise ValueError(f"a PUBLISH with QoS {qos} and DUP {dup}")
    if not topic and not (version == V5 and Prop.TOPIC_ALIAS in properties):
        raise ValueError("a PUBLISH needs a topic")
    name = wire.string(topic)
    first = 0x30 | dup << 3 | qos << 1 | retain
    tail = _properties(properties, _PUBLISH, version) + payload if version == V5 else payload
    if not qos:
        return b"%c%b%b%b" % (first, wire.varint(len(name) + len(tail)), name, tail), b""
    return b"%c%b%b" % (first, wire.varint(len(name) + 2 + len(tail)), name), tail


def _properties(found: Properties, place: int, version: int) -> bytes:
    return properties.write(found, place) if version == V5 else b""


def _frame(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + wire.varint(len(body)) + body


def _id(packet_id: int) -> bytes:
    if not 0 < packet_id <= 0xFFFF:
        raise ValueError(f"{packet_id} is no packet identifier")
    return packet_id.to_bytes(2, "big")


def _connect(packet: Connect, version: int) -> bytes:
    version = packet.version  # a CONNECT says its own, whatever the decoder of the connection is set to
    if not 0 <= packet.keep_alive <= 0xFFFF:
        raise ValueError(f"a keep alive of {packet.keep_alive} seconds")
    flags = packet.clean_start << 1
    parts = [wire.string(packet.client_id)]
    will = packet.will
    if will is not None:
        if not valid_name(will.topic) or not 0 <= will.qos <= 2:
            raise ValueError(f"a will with QoS {will.qos} for the topic {will.topic!r}")
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        parts += (
            _properties(will.properties, properties.WILL, version),
            wire.string(will.topic),
            wire.binary(will.payload),
        )
    if packet.username is not None:
        flags |= 0x80
        parts.append(wire.string(packet.username))
    if packet.password is not None:
        if packet.username is None and version != V5:
            raise ValueError("a password without a user name")  # [MQTT-3.1.2-22]
        flags |= 0x40
        parts.append(wire.binary(packet.password))
    return _frame(
        0x10,
        wire.string("MQIsdp" if version == V31 else "MQTT"),
        bytes((version, flags)),
        packet.keep_alive.to_bytes(2, "big"),
        _properties(packet.properties, PacketType.CONNECT, version),
        *parts,
    )


def _connack(packet: Connack, version: int) -> bytes:
    present = packet.session_present and not packet.reason  # [MQTT-3.2.2-4]
    if version == V5:
        return _frame(0x20, bytes((present, packet.reason)), properties.write(packet.properties, PacketType.CONNACK))
    code = CONNACK_V3.get(packet.reason)
    if code is None:
        raise ValueError(f"{packet.reason.label} has no return code before MQTT 5.0")  # [MQTT-3.2.2-6]
    return bytes((0x20, 2, present and version != V31, code))


def _publish(packet: Publish, version: int) -> bytes:
    head, tail = publish_parts(
        packet.topic, packet.payload, packet.qos, packet.retain, packet.dup, packet.properties, version
    )
    return head + _id(packet.packet_id) + tail if packet.qos else head


def _acknowledgement(packet_type: PacketType, flags: int) -> Callable[[_Acknowledgement, int], bytes]:
    first = packet_type << 4 | flags

    def writer(packet: _Acknowledgement, version: int) -> bytes:
        packet_id = _id(packet.packet_id)
        if version != V5:
            return bytes((first, 2)) + packet_id
        return _frame(first, packet_id, _outcome(packet.reason, packet.properties, packet_type))

    return writer


def _outcome(reason: Reason, found: Properties, packet_type: PacketType) -> bytes:
    """Reason and properties in the shortest form: both are left out when they say nothing."""
    if found:
        return bytes((reason,)) + properties.write(found, packet_type)
    return bytes((reason,)) if reason else b""


def _subscribe(packet: Subscribe, version: int) -> bytes:
    if not packet.filters:
        raise ValueError("a SUBSCRIBE needs a topic filter")  # [MQTT-3.8.3-3]
    identifiers = packet.properties.get(Prop.SUBSCRIPTION_IDENTIFIER) or [0]
    parts = [_id(packet.packet_id), _properties(packet.properties, PacketType.SUBSCRIBE, version)]
    for topic, asked in packet.filters:
        options = asked.qos
        if version == V5:
            if [asked.identifier] != identifiers:
                raise ValueError("a subscription identifier travels in the properties of SUBSCRIBE")
            options |= asked.no_local << 2 | asked.retain_as_published << 3 | asked.retain_handling << 4
        parts += (wire.string(topic), bytes((options,)))
    return _frame(0x82, *parts)


def _suback(packet: Suback, version: int) -> bytes:
    if version == V5:
        codes = bytes(packet.reasons)
    else:
        # MQTT 3.1 has no code for failure; one that reads only the two QoS bits takes 0x80 for QoS 0.
        codes = bytes(min(reason, Reason.UNSPECIFIED_ERROR) for reason in packet.reasons)  # [MQTT-3.9.3-2]
    return _frame(0x90, _id(packet.packet_id), _properties(packet.properties, PacketType.SUBACK, version), codes)


def _unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    if not packet.filters:
        raise ValueError("an UNSUBSCRIBE needs a topic filter")  # [MQTT-3.10.3-2]
    found = _properties(packet.properties, PacketType.UNSUBSCRIBE, version)
    return _frame(0xA2, _id(packet.packet_id), found, *map(wire.string, packet.filters))


def _unsuback(packet: Unsuback, version: int) -> bytes:
    codes = bytes(packet.reasons) if version == V5 else b""
    return _frame(0xB0, _id(packet.packet_id), _properties(packet.properties, PacketType.UNSUBACK, version), codes)


def _pingreq(packet: Pingreq, version: int) -> bytes:
    return b"\xc0\x00"


def _pingresp(packet: Pingresp, version: int) -> bytes:
    return b"\xd0\x00"


def _disconnect(packet: Disconnect, version: int) -> bytes:
    if version != V5:
        return b"\xe0\x00"
    return _frame(0xE0, _outcome(packet.reason, packet.properties, PacketType.DISCONNECT))


def _auth(packet: Auth, version: int) -> bytes:
    if version != V5:
        raise ValueError("AUTH came with MQTT 5.0")
    return _frame(0xF0, bytes((packet.reason,)), properties.write(packet.properties, PacketType.AUTH))


_Acknowledgement = Puback | Pubrec | Pubrel | Pubcomp

#: Packet class -> its writer, which takes the packet and the protocol version.
WRITERS: dict[type[Any], Callable[[Any, int], bytes]] = {
    Connect: _connect,
    Connack: _connack,
    Publish: _publish,
    Puback: _acknowledgement(PacketType.PUBACK, 0),
    Pubrec: _acknowledgement(PacketType.PUBREC, 0),
    Pubrel: _acknowledgement(PacketType.PUBREL, 2),
    Pubcomp: _acknowledgement(PacketType.PUBCOMP, 0),
    Subscribe: _subscribe,
    Suback: _suback,
    Unsubscribe: _unsubscribe,
    Unsuback: _unsuback,
    Pingreq: _pingreq,
    Pingresp: _pingresp,
    Disconnect: _disconnect,
    Auth: _auth,
}
