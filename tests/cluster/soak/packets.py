"""CONNECT with limits, wills and expiry, for 3.1.1 and 5.0; and what ends or begins an exchange in 5.0."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.support import wire
from tests.support.wire import string

#: Session expiry of a session that never ends.
NEVER = 0xFFFFFFFF


@dataclass(frozen=True)
class Will:
    topic: str
    payload: bytes
    qos: int
    #: Seconds; 5.0 only.
    delay: int = 0


def connect(level: int, client_id: str, clean: bool, expiry: int, window: int, will: Will | None) -> bytes:
    """`expiry` in seconds and `window`, the receive maximum, count in 5.0 only; a `window` of 0 is none."""
    flags = 0x02 if clean else 0
    head = b""
    if level == 5:
        properties = b"\x11" + struct.pack("!I", expiry)
        if window:
            properties += b"\x21" + struct.pack("!H", window)
        head = bytes([len(properties)]) + properties
    fields = head + string(client_id)
    if will is not None:
        flags |= 0x04 | will.qos << 3
        if level == 5:
            fields += b"\x05\x18" + struct.pack("!I", will.delay)
        fields += string(will.topic) + string(will.payload)
    return wire.frame(0x10, string("MQTT") + struct.pack("!BBH", level, flags, 0) + fields)


def unsubscribe(level: int, packet_id: int, topic_filter: str) -> bytes:
    return wire.frame(0xA2, struct.pack("!H", packet_id) + (b"\0" if level == 5 else b"") + string(topic_filter))


def reason(packet: wire.Packet) -> int:
    """Of PUBACK, PUBREC, PUBREL or PUBCOMP; 0 if there is none."""
    body = packet.body
    return body[2] if len(body) > 2 else 0
