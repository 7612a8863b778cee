"""PUBLISH packets as one connection is to get them: in its version, no larger than it takes, and with topic aliases
where they save bytes."""

from __future__ import annotations

from mqttcluster.core.message import Message
from mqttcluster.mqtt.decoder import LARGEST_PACKET
from mqttcluster.mqtt.packets import V5

#: Bytes of a Topic Alias in a packet: a shorter topic is sent as it is.
ALIAS_SIZE = 3
#: Topics that are remembered to have come once, for each alias there is.
CANDIDATES = 4


class Aliases:
    """Topic aliases towards a client.

    A topic gets one when it comes for the second time, for one that comes once would only cost bytes. When all are in
    use, the topic that was not sent for longest loses its own.
    """

    __slots__ = ("_known", "_most", "_seen")

    def __init__(self, most: int) -> None:
        self._most = most
        #: Topic -> alias, in the order of last use.
        self._known: dict[str, int] = {}
        #: Topics that have come once.
        self._seen: dict[str, None] = {}

    def find(self, topic: str) -> tuple[int, bool]:
        """The alias to send with `topic`, and whether the client knows it already; 0 for none."""
        alias = self._known.pop(topic, 0)
        if alias:
            self._known[topic] = alias
            return alias, True
        if topic in self._seen:
            if len(self._known) < self._most:
                return len(self._known) + 1, False
            return next(iter(self._known.values())), False
        if len(topic) > ALIAS_SIZE:
            if len(self._seen) >= CANDIDATES * self._most:
                del self._seen[next(iter(self._seen))]
            self._seen[topic] = None
        return 0, False

    def told(self, topic: str, alias: int) -> None:
        """The client has been sent this topic together with this alias."""
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._seen.pop(topic, None)
        self._known[topic] = alias


class Framing:
    """What a connection takes: protocol `version`, packets of at most `largest` bytes, and that many `aliases`."""

    __slots__ = ("_aliases", "_largest", "_version")

    def __init__(self, version: int, largest: int = LARGEST_PACKET, aliases: int = 0) -> None:
        self._version = version
        self._largest = largest
        self._aliases = Aliases(aliases) if aliases else None

    def takes(self, size: int) -> bool:
        """Whether frames of `size` bytes that are written for its version are good for this connection as they are."""
        return size <= self._largest and self._aliases is None

    def frame(
        self,
        message: Message,
        qos: int,
        retain: bool,
        now: float,
        dup: bool = False,
        packet_id: int = 0,
        identifiers: tuple[int, ...] = (),
    ) -> bytes | None:
        """The packet; None for one that is larger than the connection takes [MQTT-3.1.2-24] of 5.0."""
        if self._version != V5:
            return message.frame(self._version, qos, retain, dup, packet_id)
        if self._aliases is None:
            frame = message.frame(V5, qos, retain, dup, packet_id, identifiers, message.left(now))
            return frame if len(frame) <= self._largest else None
        alias, known = self._aliases.find(message.topic)
        frame = message.frame(V5, qos, retain, dup, packet_id, identifiers, message.left(now), alias, known)
        if len(frame) > self._largest:
            return None
        if alias and not known:
            self._aliases.told(message.topic, alias)
        return frame
