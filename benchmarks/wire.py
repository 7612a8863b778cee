"""The bytes a load needs: packets of MQTT 3.1.1 (`version` 4) and 5.0 (`version` 5), frames of a WebSocket client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import pack, unpack_from

PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"
PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70
_MASK = b"\x37\xfa\x21\x3d"


def text(value: str) -> bytes:
    data = value.encode()
    return pack(">H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """A packet with its fixed header."""
    return bytes([first]) + _length(len(body)) + body


def _length(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | 0x80 if number else low)
        if not number:
            return bytes(out)


def connect(client_id: str, version: int, clean: bool, keep_alive: int = 600) -> bytes:
    """CONNECT. Without `clean` the session is kept: an hour in version 5, as long as the broker likes in version 4."""
    properties = b"" if version < 5 else b"\x00" if clean else b"\x05\x11" + pack(">I", 3600)
    head = text("MQTT") + bytes([version, 0x02 if clean else 0x00]) + pack(">H", keep_alive)
    return packet(0x10, head + properties + text(client_id))


def receive_maximum(connack: bytes) -> int:
    """How many unacknowledged messages the broker takes, by the properties of a CONNACK of version 5."""
    end, at = 5 + connack[4], 5
    sizes = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
    while at < end:
        name = connack[at]
        if name == 0x21:
            return int(unpack_from(">H", connack, at + 1)[0])
        at += 1
        at += sizes[name] if name in sizes else 2 + int(unpack_from(">H", connack, at)[0])
        if name == 0x26:
            at += 2 + int(unpack_from(">H", connack, at)[0])
    return 65535


def subscribe(filters: Sequence[str], qos: int, version: int, identifier: int = 1) -> bytes:
    properties = b"\x00" if version == 5 else b""
    body = b"".join(text(name) + bytes([qos]) for name in filters)
    return packet(0x82, pack(">H", identifier) + properties + body)


def publish(topic: str, payload: bytes, qos: int, version: int, identifier: int = 1, retain: bool = False) -> bytes:
    properties = b"\x00" if version == 5 else b""
    number = pack(">H", identifier) if qos else b""
    return packet(0x30 | qos << 1 | retain, text(topic) + number + properties + payload)


def split(data: bytes | bytearray | memoryview, end: int) -> Iterator[tuple[int, int, int]]:
    """The whole packets in ``data[:end]``: first byte, start of the body, end of the body."""
    at = 0
    while end - at >= 2:
        body, shift, length = at + 1, 0, 0
        while True:
            if body >= end:
                return
            byte = data[body]
            body += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if body + length > end:
            return
        yield data[at], body, body + length
        at = body + length


def mask(data: bytes) -> bytes:
    """One binary frame of a WebSocket client. The mask is always the same: what is measured does not look at it."""
    size = len(data)
    if size < 126:
        head = bytes([0x82, 0x80 | size])
    elif size < 65536:
        head = b"\x82\xfe" + pack(">H", size)
    else:
        head = b"\x82\xff" + pack(">Q", size)
    key = int.from_bytes((_MASK * (size // 4 + 1))[:size], "big")
    return head + _MASK + (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")


def upgrade(port: int) -> bytes:
    """The request that opens a WebSocket for MQTT."""
    lines = [
        "GET /mqtt HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIGJlbmNobWFyayBpcw==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: mqtt",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
