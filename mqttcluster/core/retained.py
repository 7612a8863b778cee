"""The last message of each topic that was published with RETAIN, in memory; the store holds the truth.

A message whose time is over is there until it is taken out; whoever delivers it has a look at its time, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from mqttcluster.core.message import Message
from mqttcluster.mqtt.topics import NameTree


class Retained:
    """Retained messages by topic."""

    def __init__(self) -> None:
        self._tree: NameTree[Message] = NameTree()
        #: How many topics under ``$`` have one; those are the broker's own.
        self._own = 0
        #: Topic -> when its message expires, for those that do.
        self._expiring: dict[str, float] = {}
        #: The same in order, and what is not true any more.
        self._next: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._tree)

    @property
    def of_clients(self) -> int:
        """How many topics have one that a client published."""
        return len(self._tree) - self._own

    def __contains__(self, topic: str) -> bool:
        return self._tree.get(topic) is not None

    def apply(self, message: Message) -> None:
        """Replace what the topic had; an empty payload removes it and is not kept [MQTT-3.3.1-10] [MQTT-3.3.1-11]."""
        if message.topic.startswith("$"):
            self._own += bool(message.payload) - (message.topic in self)
        if message.payload:
            self._tree.set(message.topic, message)
            if message.expires_at is not None:
                self._expires(message.topic, message.expires_at)
                return
        else:
            self._tree.discard(message.topic)
        self._expiring.pop(message.topic, None)

    def _expires(self, topic: str, expires_at: float) -> None:
        self._expiring[topic] = expires_at
        if len(self._next) > 2 * len(self._expiring) + 64:
            self._next = [(at, topic) for topic, at in self._expiring.items()]
            heapify(self._next)
        else:
            heappush(self._next, (expires_at, topic))

    def take_expired(self, now: float, limit: int) -> list[Message]:
        """Remove messages whose time is over, at most `limit`."""
        expired: list[Message] = []
        while self._next and self._next[0][0] <= now and len(expired) < limit:
            expires_at, topic = heappop(self._next)
            message = self._tree.get(topic)
            if self._expiring.get(topic) == expires_at and message is not None:
                expired.append(message)
                self._tree.discard(topic)
                del self._expiring[topic]
        return expired

    def replace(self, messages: Iterable[Message]) -> None:
        """These are all there is, beside those that the broker itself keeps under ``$``. A topic that stays is there
        all the time: somebody may be reading."""
        messages = list(messages)
        topics = {message.topic for message in messages}
        for message in list(self.match("#")):
            if message.topic not in topics:
                self.apply(Message(message.topic, b""))
        for message in messages:
            self.apply(message)

    def get(self, topic: str) -> Message | None:
        """The retained message of one topic."""
        return self._tree.get(topic)

    def match(self, topic_filter: str) -> Iterator[Message]:
        """The retained messages of all topics that a filter matches."""
        return (message for _, message in self._tree.match(topic_filter))

    def search(self, topic_filter: str) -> Iterator[Message | None]:
        """The same, with None now and then while there is nothing to be found."""
        return (found and found[1] for found in self._tree.search(topic_filter))
