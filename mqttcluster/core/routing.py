"""Who gets a message: subscriptions of all sessions in one tree, and the answers for topics seen a moment ago."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from mqttcluster.core.message import Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import TopicTree

#: Topics whose receivers are remembered; past it the memory starts anew.
CACHED_TOPICS = 10_000


class Outlet(Protocol):
    """What takes deliveries while a client is connected."""

    def deliver(self, message: Message, qos: int) -> None:
        """A message that no store holds for this session."""

    def arrived(self, delivery: Delivery) -> None:
        """A message that the store holds for this session."""


class Subscriber:
    """A session as the tree knows it, connected or not.

    `generation` tells two sessions of one client id apart. `outlet` is None while the client is
    not connected to this node.
    """

    __slots__ = ("client_id", "durable", "generation", "outlet", "subscriptions")

    def __init__(self, client_id: str, generation: int, durable: bool) -> None:
        self.client_id = client_id
        self.generation = generation
        self.durable = durable
        self.outlet: Outlet | None = None
        self.subscriptions: dict[str, Subscription] = {}


class Receiver(NamedTuple):
    """One session that a topic reaches, and the highest QoS among its matching subscriptions [MQTT-3.3.5-1]."""

    subscriber: Subscriber
    qos: int


class Routing:
    """The subscriptions of this node. `revision` grows with every change."""

    def __init__(self) -> None:
        self._tree: TopicTree[Subscriber, Subscription] = TopicTree()
        self._cache: dict[str, tuple[Receiver, ...]] = {}
        self.revision = 0

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return len(self._tree)

    def subscribe(self, subscriber: Subscriber, topic_filter: str, subscription: Subscription) -> None:
        """Add a subscription, or replace the one with the same filter [MQTT-3.8.4-3]."""
        self._tree.add(topic_filter, subscriber, subscription)
        subscriber.subscriptions[topic_filter] = subscription
        self._changed()

    def unsubscribe(self, subscriber: Subscriber, topic_filter: str) -> bool:
        """Remove a subscription. False: there was none with these very characters [MQTT-3.10.4-1]."""
        if subscriber.subscriptions.pop(topic_filter, None) is None:
            return False
        self._tree.remove(topic_filter, subscriber)
        self._changed()
        return True

    def forget(self, subscriber: Subscriber) -> None:
        """The session has ended."""
        for topic_filter in list(subscriber.subscriptions):
            self.unsubscribe(subscriber, topic_filter)

    def restore(self, subscriber: Subscriber, subscriptions: Iterable[tuple[str, Subscription]]) -> None:
        """Put back what a store remembers."""
        for topic_filter, subscription in subscriptions:
            self.subscribe(subscriber, topic_filter, subscription)

    def match(self, topic: str) -> tuple[Receiver, ...]:
        """The sessions that `topic` reaches, each once."""
        receivers = self._cache.get(topic)
        if receivers is None:
            best: dict[Subscriber, int] = {}
            for subscriber, subscription in self._tree.match(topic):
                best[subscriber] = max(best.get(subscriber, 0), subscription.qos)
            receivers = tuple(Receiver(subscriber, qos) for subscriber, qos in best.items())
            if len(self._cache) >= CACHED_TOPICS:
                self._cache.clear()
            self._cache[topic] = receivers
        return receivers

    def _changed(self) -> None:
        self.revision += 1
        if self._cache:
            self._cache.clear()
