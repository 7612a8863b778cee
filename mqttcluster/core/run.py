"""A run: PUBLISH frames of one client that differ in nothing but packet identifier and payload.

A client that publishes much sends runs: the same topic, QoS and length, one behind the other. All frames of a run are
dealt with as one: their bytes are handed on as they came, or translated once for all receivers of one kind, and only
the packet identifiers are patched in. Frames of a run have no RETAIN, no DUP and, in MQTT 5.0, no properties.

Where something needs a `Message`, a run has those, too.
"""

from __future__ import annotations

from struct import unpack

from mqttcluster.core.message import Message
from mqttcluster.mqtt import wire

_IDENTIFIERS = 65535
#: Upper and lower bytes of the packet identifiers of consecutive sequences; twice, for runs past the last identifier.
_UPPER = bytes((number >> 8) for number in range(1, _IDENTIFIERS + 1)) * 2
_LOWER = bytes((number & 0xFF) for number in range(1, _IDENTIFIERS + 1)) * 2


class Run:
    """`count` frames of `stride` bytes each in `data`, written for MQTT 5.0 (`v5`) or for the versions before it.

    `id_at` is the offset in a frame where the topic ends: there is the packet identifier, if there is one.
    """

    __slots__ = (
        "_messages",
        "_variants",
        "count",
        "data",
        "id_at",
        "payload_at",
        "publisher",
        "qos",
        "stride",
        "topic",
        "v5",
    )

    def __init__(self, topic: str, publisher: str, qos: int, v5: bool, data: bytes, stride: int, id_at: int) -> None:
        self.topic = topic
        self.publisher = publisher
        self.qos = qos
        self.v5 = v5
        self.data = data
        self.stride = stride
        self.id_at = id_at
        self.payload_at = id_at + (2 if qos else 0) + v5
        self.count = len(data) // stride
        self._variants: dict[tuple[bool, int], tuple[bytes, int, int]] | None = None
        self._messages: list[Message] | None = None

    @classmethod
    def of_frames(cls, publisher: str, qos: int, v5: bool, data: bytes, stride: int, id_at: int) -> Run:
        """From frames alone. Raises `ValueError` for what cannot be any."""
        if qos > 2 or not stride or not data or len(data) % stride:
            raise ValueError("not a run of frames")
        body = 2
        while data[body - 1 : body] >= b"\x80" and body < 5:
            body += 1
        run = cls(data[body + 2 : id_at].decode(), publisher, qos, v5, data, stride, id_at)
        if not body + 2 < id_at or not run.payload_at <= stride:
            raise ValueError("not a run of frames")
        return run

    def first(self, count: int) -> Run:
        """The first `count` of its messages; they do not hold the others in memory."""
        if count == self.count:
            return self
        data = self.data[: count * self.stride]
        return Run(self.topic, self.publisher, self.qos, self.v5, data, self.stride, self.id_at)

    @property
    def payload_size(self) -> int:
        """Bytes of payload in one frame."""
        return self.stride - self.payload_at

    def frames(self, v5: bool, qos: int) -> tuple[bytes, int, int]:
        """All frames for receivers of this version that get `qos`, the size of one, and where its identifier is. With
        QoS > 0 the identifiers in them have no meaning."""
        if v5 == self.v5 and qos == self.qos:
            return self.data, self.stride, self.id_at
        variants = self._variants
        if variants is None:
            variants = self._variants = {}
        variant = variants.get((v5, qos))
        if variant is None:
            variant = variants[v5, qos] = self._translate(v5, qos)
        return variant

    def _translate(self, v5: bool, qos: int) -> tuple[bytes, int, int]:
        name = wire.string(self.topic)
        behind = b"\0" * ((2 if qos else 0) + v5)
        length = len(name) + len(behind) + self.payload_size
        prefix = b"%c%b%b%b" % (0x30 | qos << 1, wire.varint(length), name, behind)
        frames = prefix + prefix.join(self.payloads())
        return frames, len(prefix) + self.payload_size, len(prefix) - len(behind)

    def numbered(self, v5: bool, qos: int, start: int, count: int, sequence: int) -> bytes:
        """`count` frames (at most 65,535) from number `start` on, with the packet identifiers of the deliveries from
        `sequence` on."""
        frames, stride, id_at = self.frames(v5, qos)
        part = bytearray(frames if count == self.count else frames[start * stride : (start + count) * stride])
        first = (sequence - 1) % _IDENTIFIERS
        part[id_at::stride] = _UPPER[first : first + count]
        part[id_at + 1 :: stride] = _LOWER[first : first + count]
        return bytes(part)

    def identifiers(self) -> tuple[int, ...]:
        """The publisher's packet identifiers. Only with QoS > 0."""
        return unpack(f">{2 * self.count}H", self.acknowledgements())[1::2]

    def acknowledgements(self) -> bytes:
        """PUBACK or PUBREC for all of it, with success."""
        answers = bytearray((b"\x40\x02\0\0" if self.qos == 1 else b"\x50\x02\0\0") * self.count)
        answers[2::4] = self.data[self.id_at :: self.stride]
        answers[3::4] = self.data[self.id_at + 1 :: self.stride]
        return bytes(answers)

    def payloads(self) -> list[bytes]:
        """What was published, in order."""
        data, stride = self.data, self.stride
        return [data[at + self.payload_at : at + stride] for at in range(0, len(data), stride)]

    def messages(self) -> list[Message]:
        """The same as messages, made once."""
        if self._messages is None:
            topic, qos, publisher = self.topic, self.qos, self.publisher
            self._messages = [Message(topic, payload, qos, False, publisher) for payload in self.payloads()]
        return self._messages
