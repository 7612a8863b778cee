"""Every metric of a node, in one table.

From it come what `/metrics` shows (`mqttcluster.broker.prometheus`) and docs/metrics.md (`mqttcluster.metricdoc`).
Names follow Prometheus: a counter ends in ``_total``, times are seconds, sizes bytes. No label takes a value that a
client chooses. The metrics of the process (``process_...``, ``python_gc_...``) are those of prometheus-client itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

#: Bounds of buckets: seconds, and how many things went together.
LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIZE = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


@dataclass(frozen=True)
class Metric:
    """One line of the table. `labels` gives for each label what its values are; `buckets` are those of a histogram."""

    name: str
    kind: str
    group: str
    help: str
    labels: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


_NODE, _CONNECTIONS, _WHO = "Node", "Connections and sessions", "Who may do what"
_MESSAGES, _STORE, _CLUSTER = "Messages", "Store", "Cluster"

_BY = {"version": "`3.1`, `3.1.1`, `5.0`", "qos": "`0`, `1`, `2`"}
_RESULT = "`done`, `failed`"

METRICS: tuple[Metric, ...] = (
    Metric(
        "mqttcluster_node_info",
        GAUGE,
        _NODE,
        "1; its labels say what runs",
        {"node": "the name of the node", "version": "of mqttcluster", "python": "version", "twisted": "version"},
    ),
    Metric("mqttcluster_ready", GAUGE, _NODE, "1 while `/readyz` says that new clients are welcome, else 0"),
    Metric(
        "mqttcluster_reactor_lag_seconds",
        HISTOGRAM,
        _NODE,
        "how much later than asked for a timer of the reactor ran, measured twice a second",
        buckets=LATENCY,
    ),
    Metric(
        "mqttcluster_reloads_total",
        COUNTER,
        _NODE,
        "what was read again after SIGHUP; `objects` are authenticators and authorizers from outside",
        {"file": "`passwords`, `scram`, `acl`, `certificates`, `objects`", "result": _RESULT},
    ),
    Metric(
        "mqttcluster_last_reload_successful",
        GAUGE,
        _NODE,
        "0 while the files on disk differ from those in force because they could not be used, else 1",
    ),
    Metric(
        "mqttcluster_certificate_expiry_timestamp_seconds",
        GAUGE,
        _NODE,
        "when the first of the certificates that the listeners show ends, seconds since 1970; not there without TLS",
    ),
    Metric(
        "mqttcluster_connections", GAUGE, _CONNECTIONS, "network connections, those that have not sent CONNECT included"
    ),
    Metric("mqttcluster_max_connections", GAUGE, _CONNECTIONS, "how many connections this node takes"),
    Metric("mqttcluster_connections_accepted_total", COUNTER, _CONNECTIONS, "network connections taken"),
    Metric(
        "mqttcluster_connections_refused_total",
        COUNTER,
        _CONNECTIONS,
        "connections refused, by the reason that CONNACK gives; `too_many_connections` is refused without CONNACK",
        {"reason": "`too_many_connections`, or the name of a reason code in lower case"},
    ),
    Metric(
        "mqttcluster_clients_connected",
        GAUGE,
        _CONNECTIONS,
        "clients whose CONNECT was accepted, by protocol version",
        {"version": _BY["version"]},
    ),
    Metric(
        "mqttcluster_sessions",
        GAUGE,
        _CONNECTIONS,
        "sessions that this node knows; in a cluster, the offline ones of all nodes",
        {"state": "`connected`, `offline`"},
    ),
    Metric("mqttcluster_takeovers_total", COUNTER, _CONNECTIONS, "sessions taken over by another connection"),
    Metric("mqttcluster_subscriptions", GAUGE, _CONNECTIONS, "subscriptions of the sessions that this node knows"),
    Metric(
        "mqttcluster_authentications_total",
        COUNTER,
        _WHO,
        "answers of the authenticators: `error` raised, `timeout` took too long, `busy` had too many waiting",
        {"result": "`allowed`, `denied`, `error`, `timeout`, `busy`"},
    ),
    Metric(
        "mqttcluster_authentication_seconds",
        HISTOGRAM,
        _WHO,
        "time from CONNECT to the answer of the authenticators",
        buckets=LATENCY,
    ),
    Metric(
        "mqttcluster_authorization_failures_total",
        COUNTER,
        _WHO,
        "questions that an authorizer did not answer, refused for that",
        {"reason": "`error`, `timeout`"},
    ),
    Metric(
        "mqttcluster_operations_refused_total",
        COUNTER,
        _WHO,
        "what clients asked for and may not do; `delivery` is a subscription that a reload of the rules stopped",
        {"operation": "`publish`, `subscribe`, `will`, `delivery`"},
    ),
    Metric("mqttcluster_packets_received_total", COUNTER, _MESSAGES, "control packets of every type from clients"),
    Metric("mqttcluster_packets_sent_total", COUNTER, _MESSAGES, "control packets of every type to clients"),
    Metric("mqttcluster_received_bytes_total", COUNTER, _MESSAGES, "bytes from clients, without TLS and WebSocket"),
    Metric("mqttcluster_sent_bytes_total", COUNTER, _MESSAGES, "bytes to clients, without TLS and WebSocket"),
    Metric("mqttcluster_publish_received_total", COUNTER, _MESSAGES, "PUBLISH packets from clients", _BY),
    Metric("mqttcluster_publish_sent_total", COUNTER, _MESSAGES, "PUBLISH packets to clients", _BY),
    Metric("mqttcluster_publish_received_bytes_total", COUNTER, _MESSAGES, "payload bytes from clients", _BY),
    Metric("mqttcluster_publish_sent_bytes_total", COUNTER, _MESSAGES, "payload bytes to clients", _BY),
    Metric(
        "mqttcluster_messages_dropped_total",
        COUNTER,
        _MESSAGES,
        "messages that a receiver did not get: its queue was full (`queue_full`), it did not take its output"
        " (`send_buffer`), it takes no packet of that size (`too_large`), the message had expired (`expired`), a reload"
        " of the rules has stopped the subscription (`forbidden`), or it is yet to subscribe and there were too many"
        " retained messages (`retained_full`)",
        {"reason": "`queue_full`, `send_buffer`, `too_large`, `expired`, `forbidden`, `retained_full`"},
    ),
    Metric("mqttcluster_wills_published_total", COUNTER, _MESSAGES, "wills published by this node"),
    Metric(
        "mqttcluster_queued_messages",
        GAUGE,
        _MESSAGES,
        "messages that wait for clients connected to this node, in memory or in the store; what waits for sessions"
        " that are offline is not counted",
    ),
    Metric(
        "mqttcluster_inflight_messages",
        GAUGE,
        _MESSAGES,
        "messages sent to clients connected to this node and not completely acknowledged",
    ),
    Metric(
        "mqttcluster_retained_messages", GAUGE, _MESSAGES, "topics with a retained message, those of `$SYS` included"
    ),
    Metric("mqttcluster_store_up", GAUGE, _STORE, "1 while the store answers, else 0"),
    Metric(
        "mqttcluster_store_batch_seconds",
        HISTOGRAM,
        _STORE,
        "how long a batch took in the store: a transaction of SQLite, or pipelines of Redis. Nothing for `memory:`",
        buckets=LATENCY,
    ),
    Metric(
        "mqttcluster_store_batch_calls",
        HISTOGRAM,
        _STORE,
        "how many calls shared a batch",
        buckets=SIZE,
    ),
    Metric("mqttcluster_store_backlog_calls", GAUGE, _STORE, "calls that wait for the store's answer"),
    Metric("mqttcluster_store_failures_total", COUNTER, _STORE, "calls that the store could not carry out"),
    Metric("mqttcluster_cluster_nodes", GAUGE, _CLUSTER, "live nodes that this node knows, itself included"),
    Metric("mqttcluster_routes", GAUGE, _CLUSTER, "topic filters that other nodes want, counted per node"),
    Metric("mqttcluster_fenced", GAUGE, _CLUSTER, "1 while this node may not act on its routes, else 0"),
    Metric("mqttcluster_fenced_total", COUNTER, _CLUSTER, "how often the lease of this node has run out"),
    Metric("mqttcluster_link_seconds", HISTOGRAM, _CLUSTER, "time until a link took a parcel", buckets=LATENCY),
    Metric(
        "mqttcluster_link_parcel_envelopes", HISTOGRAM, _CLUSTER, "how many envelopes shared a parcel", buckets=SIZE
    ),
    Metric("mqttcluster_link_backlog_bytes", GAUGE, _CLUSTER, "envelopes that wait for the links to take them"),
    Metric("mqttcluster_link_gaps_total", COUNTER, _CLUSTER, "times that envelopes of a link were missing"),
    Metric("mqttcluster_channel_gaps_total", COUNTER, _CLUSTER, "times that the channel for QoS 0 was interrupted"),
    Metric(
        "mqttcluster_channel_dropped_total",
        COUNTER,
        _CLUSTER,
        "QoS 0 messages, or parcels of them, not sent to other nodes because Redis was away or too slow",
    ),
)

BY_NAME = {metric.name: metric for metric in METRICS}
