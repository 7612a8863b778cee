"""A message: what was published, once, whoever gets it."""

from __future__ import annotations

from mqttcluster.mqtt.packets import Properties, Publish
from mqttcluster.mqtt.writers import encode

_NO_PROPERTIES: Properties = {}


class Message:
    """What a publisher said; never changed after it was made.

    `qos` and `retain` are the publisher's. `publisher` is a client id, or '' for the broker itself.
    `expires_at` is an absolute time in seconds, None for never.
    """

    __slots__ = ("_frames", "expires_at", "payload", "properties", "publisher", "qos", "retain", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        publisher: str = "",
        properties: Properties = _NO_PROPERTIES,
        expires_at: float | None = None,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.publisher = publisher
        self.properties = properties
        self.expires_at = expires_at
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    def frame(self, version: int, qos: int, retain: bool, dup: bool = False, packet_id: int = 0) -> bytes:
        """The PUBLISH packet for one receiver. Encoded once per variant; only the packet id differs within one."""
        variant = version << 4 | dup << 3 | qos << 1 | retain
        parts = self._frames.get(variant)
        if parts is None:
            packet = Publish(self.topic, self.payload, qos, retain, dup, 0xFFFF if qos else 0, self.properties)
            frame = encode(packet, version)
            if qos:
                cut = frame.index(b"/" if False else self.topic.encode()) + len(self.topic.encode())
                parts = (frame[:cut], frame[cut + 2 :])
            else:
                parts = (frame, b"")
            self._frames[variant] = parts
        head, tail = parts
        if qos:
            return head + packet_id.to_bytes(2, "big") + tail
        return head

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__ if name != "_frames")

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Message {self.topic!r} qos={self.qos} retain={self.retain} {len(self.payload)} bytes>"
