"""The counters of a node as retained messages under ``$SYS/broker/``, for its own clients."""

from __future__ import annotations

from collections.abc import Callable

from mqttcluster import __version__
from mqttcluster.broker.alone import Alone
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.publishing import Publishing
from mqttcluster.broker.sessions import Sessions
from mqttcluster.core.message import Message
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing

PREFIX = "$SYS/broker/"


class SysTopics:
    """Publishes what has changed since the last round. The messages live in memory only."""

    def __init__(
        self,
        node: str,
        metrics: Metrics,
        sessions: Sessions,
        routing: Routing,
        retained: Retained,
        publishing: Publishing,
        cluster: Alone,
    ) -> None:
        self._retained = retained
        self._publishing = publishing
        self._last: dict[str, str] = {}

        self._values: dict[str, Callable[[], object]] = {
            "version": lambda: f"mqttcluster {__version__}",
            "node": lambda: node,
            "clients/connected": lambda: len(sessions.connected),
            "clients/disconnected": lambda: sessions.offline,
            "clients/total": lambda: len(sessions.connected) + sessions.offline,
            "clients/maximum": lambda: metrics.clients_maximum,
            "clients/takeovers": lambda: metrics.takeovers,
            "connections/refused": lambda: metrics.connections_refused,
            "messages/received": lambda: metrics.messages_received,
            "messages/sent": lambda: metrics.messages_sent,
            "publish/messages/received": lambda: metrics.publish_received,
            "publish/messages/sent": lambda: metrics.publish_sent,
            "publish/messages/dropped": lambda: sum(metrics.dropped.values()),
            "publish/bytes/received": lambda: metrics.publish_bytes_received,
            "publish/bytes/sent": lambda: metrics.publish_bytes_sent,
            "bytes/received": lambda: metrics.bytes_received,
            "bytes/sent": lambda: metrics.bytes_sent,
            "operations/refused": lambda: metrics.operations_refused,
            "wills/published": lambda: metrics.wills_published,
            "subscriptions/count": lambda: len(routing),
            "retained messages/count": lambda: len(retained),
            **cluster.counters(),
        }
        self._started = metrics.started

    def publish(self, now: float) -> None:
        """One round."""
        values = {name: str(value()) for name, value in self._values.items()}
        values["uptime"] = f"{int(now - self._started)} seconds"
        for name, value in values.items():
            if self._last.get(name) != value:
                message = Message(PREFIX + name, value.encode(), 0, retain=False)
                self._retained.apply(message)
                self._publishing.publish_here(message)
        self._last = values
