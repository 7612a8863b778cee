"""A message, and a delivery: that message for one session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mqttcluster.mqtt.packets import Properties
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.writers import publish_parts

_NO_PROPERTIES: Properties = {}
#: Encoded forms of one message that are kept, each with the payload in it.
MOST_VARIANTS = 16
_Variant = Any

#: Sequences of a clean session's deliveries begin with 1; those that come through shared subscriptions, and are kept in
#: the store meanwhile, are above this. Their packet identifiers begin in the middle, so that they seldom meet.
FIRST_SHARED = 65535 * 2**24 + 32767


class Message:
    """What a publisher said; never changed after it was made.

    `qos` and `retain` are the publisher's. `publisher` is a client id, or '' for the broker itself.
    `expires_at` is an absolute time in seconds, None for never. `properties` are to be forwarded as they are; the
    Message Expiry Interval is among them only while the message is a will that is not published yet.
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
        self._frames: dict[_Variant, tuple[bytes, bytes]] = {}

    def published(self, now: float) -> Message:
        """A will as it is published: its Message Expiry Interval begins."""
        interval = self.properties.get(Prop.MESSAGE_EXPIRY_INTERVAL)
        if not isinstance(interval, int):
            return self
        properties = {prop: value for prop, value in self.properties.items() if prop != Prop.MESSAGE_EXPIRY_INTERVAL}
        return Message(self.topic, self.payload, self.qos, self.retain, self.publisher, properties, now + interval)

    def left(self, now: float) -> int | None:
        """Seconds until it expires, as they are sent; None for never."""
        # A second is still whole when a thousandth of it has gone by in this broker.
        return None if self.expires_at is None else max(0, int(self.expires_at - now + 0.999))

    def expired(self, now: float) -> bool:
        """Whether nobody is to get it any more who has not got it yet."""
        return self.expires_at is not None and self.expires_at <= now

    def frame(
        self,
        version: int,
        qos: int,
        retain: bool,
        dup: bool = False,
        packet_id: int = 0,
        identifiers: tuple[int, ...] = (),
        left: int | None = None,
        alias: int = 0,
        known: bool = False,
    ) -> bytes:
        """The PUBLISH packet for one receiver, encoded once per variant; only the packet id differs within one.

        What follows it is for MQTT 5.0: Subscription Identifiers, the seconds that are left, and a Topic Alias, in the
        place of the topic if it is `known` to the receiver.
        """
        variant: _Variant = version << 4 | dup << 3 | qos << 1 | retain
        if identifiers or left is not None or alias:
            variant = variant, identifiers, left, alias, known
        parts = self._frames.get(variant)
        if parts is None:
            properties, topic = self.properties, "" if known else self.topic
            if identifiers or left is not None or alias:
                properties = dict(properties)
                if left is not None:
                    properties[Prop.MESSAGE_EXPIRY_INTERVAL] = left
                if identifiers:
                    properties[Prop.SUBSCRIPTION_IDENTIFIER] = list(identifiers)
                if alias:
                    properties[Prop.TOPIC_ALIAS] = alias
            parts = publish_parts(topic, self.payload, qos, retain, dup, properties, version)
            if len(self._frames) >= MOST_VARIANTS:
                self._frames.clear()
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
        return 1 + (self.sequence - 1) % 65535


def packet_id(sequence: int) -> int:
    """1 to 65535, then 1 again."""
    return 1 + (sequence - 1) % 65535
