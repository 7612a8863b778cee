"""Subscriptions that a client has and that bring nothing any more, because the rules have changed.

Whether a message may still be read is asked for clients that have such subscriptions, and for nobody else.
"""

from __future__ import annotations

from collections.abc import Collection

from mqttcluster.core.routing import Routing, Subscriber
from mqttcluster.mqtt.topics import matches, split_share

#: Topics whose answers are remembered.
CACHED_TOPICS = 1000
LONGEST_CACHED = 256


class Muted:
    """The muted `filters` of one session."""

    __slots__ = ("_known", "_revision", "_routing", "_subscriber", "filters")

    def __init__(self, filters: Collection[str], subscriber: Subscriber, routing: Routing) -> None:
        self.filters = frozenset(filters)
        self._subscriber = subscriber
        self._routing = routing
        self._revision = routing.revision
        self._known: dict[str, bool] = {}

    def without(self, filters: Collection[str]) -> Muted | None:
        """The others; None if there are none."""
        rest = self.filters.difference(filters)
        return Muted(rest, self._subscriber, self._routing) if rest else None

    def reads(self, topic: str) -> bool:
        """Whether another subscription of the session brings `topic`."""
        if self._revision != self._routing.revision:
            self._revision = self._routing.revision
            self._known.clear()
        answer = self._known.get(topic)
        if answer is None:
            filters = self._subscriber.subscriptions
            answer = any(matches(split_share(name)[1], topic) for name in filters if name not in self.filters)
            if len(topic) <= LONGEST_CACHED:
                if len(self._known) >= CACHED_TOPICS:
                    self._known.clear()
                self._known[topic] = answer
        return answer
