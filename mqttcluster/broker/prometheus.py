"""The figures of a node for Prometheus.

Nothing is kept here: whoever asks pays for one look at the counters and the connected clients. Names, kinds and help
texts are those of `metric_table`; a figure that is not in the table cannot be shown.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import twisted
from mqttcluster import __version__
from mqttcluster.broker.metric_table import BY_NAME, COUNTER
from mqttcluster.broker.metrics import VERSIONS, Histogram, by_lane
from mqttcluster.storage.interfaces import IObserved

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker

#: A figure, or figures by the values of their labels.
Figures = float | Iterable[tuple[tuple[str, ...], float]]


class Links(Protocol):
    """What a backplane tells of its lanes; `counts` as in `storage.redis_news`."""

    @property
    def backlog(self) -> int: ...

    @property
    def counts(self) -> Any: ...


class NodeCollector(Collector):
    """One node's figures. `not_ready` is what its readiness is judged by; `links` the backplane, if there is one;
    `certificates_end` tells when the first certificate ends (seconds since 1970), None without TLS."""

    def __init__(
        self,
        broker: Broker,
        not_ready: Callable[[], Iterable[str]],
        links: Links | None = None,
        certificates_end: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._not_ready = not_ready
        self._links = links
        self._certificates_end = certificates_end

    def describe(self) -> Iterable[Family]:
        """Nothing: a registry would compare it with what others collect, and there are no others of these names."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Every metric of the table, in its order."""
        figures = {name: value for part in self._parts() for name, value in part.items()}
        for name in BY_NAME:
            value = figures[name]
            if value is not None:
                yield _family(name, value)

    def _parts(self) -> Iterator[Mapping[str, Figures | Histogram | None]]:
        yield self._node()
        yield self._connections()
        yield self._who()
        yield self._messages()
        yield self._store()
        yield self._cluster()

    def _node(self) -> Mapping[str, Figures | Histogram | None]:
        broker, metrics = self._broker, self._broker.metrics
        versions = (__version__, platform.python_version(), str(twisted.__version__))
        results = [((file, "done" if done else "failed"), count) for (file, done), count in metrics.reloads.items()]
        return {
            "mqttcluster_node_info": [((broker.settings.node, *versions), 1)],
            "mqttcluster_ready": not list(self._not_ready()),
            "mqttcluster_reactor_lag_seconds": metrics.reactor_lag,
            "mqttcluster_reloads_total": results,
            "mqttcluster_last_reload_successful": not metrics.reload_failed,
            "mqttcluster_certificate_expiry_timestamp_seconds": self._certificates_end(),
        }

    def _connections(self) -> Mapping[str, Figures]:
        broker, metrics = self._broker, self._broker.metrics
        sessions = broker.sessions
        versions = dict.fromkeys(VERSIONS.values(), 0)
        for client in sessions.connected.values():
            versions[VERSIONS[client.version]] += 1
        connected = len(sessions.connected)
        return {
            "mqttcluster_connections": len(broker.clients),
            "mqttcluster_max_connections": broker.settings.max_connections,
            "mqttcluster_connections_accepted_total": metrics.connections_accepted,
            "mqttcluster_connections_refused_total": _by_one(metrics.refused),
            "mqttcluster_clients_connected": _by_one(versions),
            "mqttcluster_sessions": [
                (("connected",), connected),
                (("offline",), sessions.offline),
            ],
            "mqttcluster_takeovers_total": metrics.takeovers,
            "mqttcluster_subscriptions": len(broker.routing),
        }

    def _who(self) -> Mapping[str, Figures | Histogram]:
        metrics = self._broker.metrics
        return {
            "mqttcluster_authentications_total": _by_one(metrics.authentications),
            "mqttcluster_authentication_seconds": metrics.authentication_seconds,
            "mqttcluster_authorization_failures_total": _by_one(metrics.authorization_failures),
            "mqttcluster_operations_refused_total": _by_one(metrics.operations),
        }

    def _messages(self) -> Mapping[str, Figures]:
        metrics = self._broker.metrics
        queued = inflight = 0
        for client in self._broker.sessions.connected.values():
            if client.outlet is not None:
                session = client.outlet.session
                queued += session.queued + max(session.tail - session.cursor, 0)
                inflight += len(session.inflight)
        return {
            "mqttcluster_packets_received_total": metrics.messages_received,
            "mqttcluster_packets_sent_total": metrics.messages_sent,
            "mqttcluster_received_bytes_total": metrics.bytes_received,
            "mqttcluster_sent_bytes_total": metrics.bytes_sent,
            "mqttcluster_publish_received_total": _by_lane(metrics.publish_received_by),
            "mqttcluster_publish_sent_total": _by_lane(metrics.publish_sent_by),
            "mqttcluster_publish_received_bytes_total": _by_lane(metrics.publish_bytes_received_by),
            "mqttcluster_publish_sent_bytes_total": _by_lane(metrics.publish_bytes_sent_by),
            "mqttcluster_messages_dropped_total": _by_one(metrics.dropped),
            "mqttcluster_wills_published_total": metrics.wills_published,
            "mqttcluster_queued_messages": queued,
            "mqttcluster_inflight_messages": inflight,
            "mqttcluster_retained_messages": len(self._broker.retained),
        }

    def _store(self) -> Mapping[str, Figures | Histogram]:
        broker, metrics = self._broker, self._broker.metrics
        store = broker.store
        return {
            "mqttcluster_store_up": not broker.store_trouble(),
            "mqttcluster_store_batch_seconds": metrics.store_batch_seconds,
            "mqttcluster_store_batch_calls": metrics.store_batch_calls,
            "mqttcluster_store_backlog_calls": store.backlog if isinstance(store, IObserved) else 0,
            "mqttcluster_store_failures_total": metrics.store_failures,
        }

    def _cluster(self) -> Mapping[str, Figures | Histogram]:
        broker, metrics, links = self._broker, self._broker.metrics, self._links
        counts = links.counts if links is not None else None
        return {
            "mqttcluster_cluster_nodes": broker.cluster.nodes(),
            "mqttcluster_routes": broker.routing.count_nodes(),
            "mqttcluster_fenced": not broker.cluster.may_act(),
            "mqttcluster_fenced_total": counts.lapses if counts else 0,
            "mqttcluster_link_seconds": metrics.link_seconds,
            "mqttcluster_link_parcel_envelopes": metrics.link_parcel_envelopes,
            "mqttcluster_link_backlog_bytes": links.backlog if links is not None else 0,
            "mqttcluster_link_gaps_total": counts.link_gaps if counts else 0,
            "mqttcluster_channel_gaps_total": counts.channel_gaps if counts else 0,
            "mqttcluster_channel_dropped_total": counts.casts_dropped if counts else 0,
        }


def _by_one(figures: Mapping[str, int]) -> list[tuple[tuple[str, ...], float]]:
    return [((value,), figure) for value, figure in figures.items()]


def _by_lane(figures: list[int]) -> list[tuple[tuple[str, ...], float]]:
    return [((version, str(qos)), figure) for version, qos, figure in by_lane(figures)]


def _family(name: str, value: Figures | Histogram) -> Family:
    metric = BY_NAME[name]
    labels = tuple(metric.labels)
    if isinstance(value, Histogram):
        buckets = [("+Inf" if bound == inf else str(bound), float(count)) for bound, count in value.buckets()]
        histogram = HistogramMetricFamily(name, metric.help)
        histogram.add_metric((), buckets, value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = kind(name, metric.help, labels=labels)
    for values, figure in [((), value)] if isinstance(value, (int, float)) else value:
        family.add_metric(values, float(figure))
    return family


class Exposition:
    """What `/metrics` answers: a node's figures and those of its process."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def __call__(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text, as the client's Accept header wants it."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)
