"""Integers, strings and lengths as MQTT puts them into bytes.

Writing: `string`, `binary`, `varint` return bytes and raise ValueError for what no packet can hold.
Reading: a `Cursor` walks over the body of one packet and raises MalformedPacket for what is not there.
"""

from __future__ import annotations

from mqttcluster.mqtt.reasons import MalformedPacket

#: The largest Variable Byte Integer, and so the largest Remaining Length, in bytes.
MAX_VARINT = 268_435_455
#: The largest string or binary field, in bytes of its encoded form.
MAX_FIELD = 65_535


def varint(value: int) -> bytes:
    """`value` as a Variable Byte Integer, in the fewest bytes [MQTT-1.5.5-1]. ValueError if it does not fit four."""
    if 0 <= value < 0x80:
        return bytes((value,))
    if 0x80 <= value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} does not fit a variable byte integer")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def binary(value: bytes) -> bytes:
    """`value` behind its two-byte length. ValueError beyond 65535 bytes."""
    size = len(value)
    if size > MAX_FIELD:
        raise ValueError(f"a field of {size} bytes is longer than {MAX_FIELD}")
    return size.to_bytes(2, "big") + value


def string(value: str) -> bytes:
    """`value` as UTF-8 behind its two-byte length.

    ValueError beyond 65535 bytes, for a surrogate [MQTT-1.5.3-1] and for U+0000 [MQTT-1.5.3-2].
    """
    if "\0" in value:
        raise ValueError("a string must not contain U+0000")
    return binary(value.encode("utf-8"))


def decode(raw: bytes) -> str:
    """The text of a string field. MalformedPacket if it is no UTF-8 or contains U+0000.

    Python's strict decoder refuses surrogates, overlong forms and values beyond U+10FFFF [MQTT-1.5.3-1] and keeps
    U+FEFF wherever it stands [MQTT-1.5.3-3]. U+0000 is refused in MQTT 3.1, too: a text that was let in would be
    forwarded to clients that must close on it [MQTT-1.5.3-2].
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedPacket("a string is not UTF-8") from None
    if "\0" in text:
        raise MalformedPacket("a string contains U+0000")
    return text


class Cursor:
    """A position in `data`, which is read up to `end`. Every read that runs past the end raises MalformedPacket."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    def _advance(self, size: int) -> int:
        """Step over `size` bytes and return where they begin."""
        start = self.at
        if start + size > self.end:
            raise MalformedPacket("a field runs past the end of the packet")
        self.at = start + size
        return start

    @property
    def left(self) -> int:
        """How many bytes are not read yet."""
        return self.end - self.at

    def byte(self) -> int:
        return self.data[self._advance(1)]

    def two_bytes(self) -> int:
        start = self._advance(2)
        return self.data[start] << 8 | self.data[start + 1]

    def four_bytes(self) -> int:
        start = self._advance(4)
        return int.from_bytes(self.data[start : start + 4], "big")

    def varint(self) -> int:
        """A Variable Byte Integer of MQTT 5.0: at most four bytes, and no more than needed [MQTT-1.5.5-1]."""
        value = self.byte()
        if value < 0x80:
            return value
        value &= 0x7F
        for shift in (7, 14, 21):
            group = self.byte()
            value |= (group & 0x7F) << shift
            if group < 0x80:
                if group == 0:
                    raise MalformedPacket("a variable byte integer is longer than needed")
                return value
        raise MalformedPacket("a variable byte integer has more than four bytes")

    def binary(self) -> bytes:
        size = self.two_bytes()
        start = self._advance(size)
        return self.data[start : start + size]

    def string(self) -> str:
        return decode(self.binary())

    def done(self) -> None:
        """Raise MalformedPacket if bytes are left."""
        if self.at != self.end:
            raise MalformedPacket("bytes are left behind the last field")
