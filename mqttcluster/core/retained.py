"""The last message of each topic that was published with RETAIN, in memory; the store holds the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mqttcluster.core.message import Message
from mqttcluster.mqtt.topics import NameTree


class Retained:
    """Retained messages by topic."""

    def __init__(self) -> None:
        self._tree: NameTree[Message] = NameTree()

    def __len__(self) -> int:
        return len(self._tree)

    def __contains__(self, topic: str) -> bool:
        return self._tree.get(topic) is not None

    def apply(self, message: Message) -> None:
        """Replace what the topic had; an empty payload removes it and is not kept [MQTT-3.3.1-10] [MQTT-3.3.1-11]."""
        if message.payload:
            self._tree.set(message.topic, message)
        else:
            self._tree.discard(message.topic)

    def replace(self, messages: Iterable[Message]) -> None:
        """These are all there is, beside those that the broker itself keeps under ``$``."""
        for message in list(self.match("#")):
            self._tree.discard(message.topic)
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
