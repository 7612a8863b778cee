"""A message, and a delivery: that message for one session."""

from __future__ import annotations

from dataclasses import dataclass

from mqttcluster.mqtt.packets import Properties
from mqttcluster.mqtt.writers import publish_parts

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
        """The PUBLISH packet for one receiver, encoded once per variant; only the packet id differs within one."""
        variant = version << 4 | dup << 3 | qos << 1 | retain
        parts = self._frames.get(variant)
        if parts is None:
            parts = publish_parts(self.topic, self.payload, qos, retain, dup, self.properties, version)
            self._frames[variant] = parts
        if qos:
            return b"%b%b%b" % (parts[0], packet_id.to_bytes(2, "big"), parts[1])
        return parts[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__ if name != "_frames")

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Message {self.topic!r} qos={self.qos} retain={self.retain} {len(self.payload)} bytes>"


@dataclass(slots=True)
class Delivery:
    """A message that one session is owed at QoS 1 or 2.

    `sequence` counts the deliveries of a session from 1 and is never used twice.
    `qos` is the granted one: min(published, subscribed). `retain` is the flag to send.
    `identifiers` are the Subscription Identifiers of MQTT 5.0.
    """

    sequence: int
    message: Message
    qos: int
    retain: bool = False
    identifiers: tuple[int, ...] = ()

    @property
    def packet_id(self) -> int:
        """The packet identifier follows from the sequence, so that a resend needs no bookkeeping [MQTT-2.3.1-4]."""
        return packet_id(self.sequence)


def packet_id(sequence: int) -> int:
    """1 to 65535, then 1 again."""
    return 1 + (sequence - 1) % 65535
