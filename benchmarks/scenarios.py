"""What is measured. `SCENARIOS` is the table; `quick` makes one small, for a look whether it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.flow import IN, MANY, OUT

ALONE, CLUSTER = "one broker", "two nodes on one Redis"


@dataclass(frozen=True)
class Metric:
    """A figure of a result: its `key`, its unit, how it is written, and whether more is better."""

    key: str
    unit: str
    form: str = "{:,.0f}"
    more: bool = True


RATE = Metric("rate", "messages/s")
SHARE = Metric("share", "of the rate with 10", "{:.0%}")
PROCESSOR = Metric("cpu", "µs of processor per message", "{:.1f}", False)
CONNECTS = Metric("rate", "connections/s")
BYTES = Metric("bytes", "bytes each", "{:,.0f}", False)


@dataclass(frozen=True)
class Scenario:
    """One row of the table. `kind` and `arguments` are for `worker`; `metric` is what brokers are compared by.

    `fresh`: each measurement needs a broker that was just started. `durable`: the broker keeps sessions on disk.
    """

    name: str
    title: str
    kind: str = "flow"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric = RATE
    where: str = ALONE
    fresh: bool = False
    durable: bool = False

    @property
    def qos(self) -> int:
        return int(self.arguments.get("qos", 1 if self.kind in ("retained", "queue", "sessions") else 0))

    @property
    def transport(self) -> str:
        return str(self.arguments.get("transport", "tcp"))


def _pairs(count: int, **more: Any) -> dict[str, Any]:
    return {"publishers": count, "subscribers": count, **more}


def _cluster(name: str, title: str, qos: int, persistent: bool, pairs: int, ahead: int) -> Scenario:
    """Closed loop: a publisher stays at most `ahead` messages ahead of its subscriber, and of acknowledgements."""
    load = _pairs(pairs, qos=qos, persistent=persistent, ahead=ahead, window=ahead, numbered=True)
    return Scenario(name, title, arguments=load, where=CLUSTER, durable=persistent)


#: Publishers with acknowledgements: unacknowledged messages, and messages ahead of the subscriber.
_ACKNOWLEDGED = {"window": 100, "ahead": 500}

SCENARIOS = (
    Scenario("qos0-1-1", "QoS 0, 1 → 1"),
    Scenario("qos0-1-100", "QoS 0, 1 → 100", arguments={"shape": OUT, "subscribers": 100}),
    Scenario("qos0-50-1", "QoS 0, 50 → 1 by a wildcard", arguments={"shape": IN, "publishers": 50}),
    Scenario("qos0-50-50", "QoS 0, 50 → 50 pairs", arguments=_pairs(50)),
    Scenario("qos1-1-1", "QoS 1, 1 → 1", arguments={"qos": 1, **_ACKNOWLEDGED}),
    Scenario("qos1-20-20", "QoS 1, 20 → 20 pairs", arguments=_pairs(20, qos=1, **_ACKNOWLEDGED)),
    Scenario("qos2-1-1", "QoS 2, 1 → 1", arguments={"qos": 2, **_ACKNOWLEDGED}),
    Scenario("qos2-20-20", "QoS 2, 20 → 20 pairs", arguments=_pairs(20, qos=2, **_ACKNOWLEDGED)),
    Scenario("ws-1-1", "WebSocket, QoS 0, 1 → 1", arguments={"transport": "ws"}),
    Scenario("ws-50-50", "WebSocket, QoS 0, 50 → 50 pairs", arguments=_pairs(50, transport="ws")),
    Scenario("tls-1-1", "TLS, QoS 0, 1 → 1", arguments={"transport": "tls"}),
    _cluster("cluster-qos0-1-1", "two nodes, QoS 0, 1 → 1", 0, False, 1, 2000),
    _cluster("cluster-qos0-20-20", "two nodes, QoS 0, 20 → 20 pairs", 0, False, 20, 100),
    _cluster("cluster-qos1-1-1", "two nodes, QoS 1, 1 → 1", 1, False, 1, 500),
    _cluster("cluster-qos1-20-20", "two nodes, QoS 1, 20 → 20 pairs", 1, False, 20, 50),
    _cluster("cluster-persistent-1-1", "two nodes, QoS 1, persistent, 1 → 1", 1, True, 1, 500),
    _cluster("cluster-persistent-20-20", "two nodes, QoS 1, persistent, 20 → 20 pairs", 1, True, 20, 50),
    Scenario("bytes-16", "16 bytes, QoS 0, 1 → 1", arguments={"size": 16}),
    Scenario("bytes-64k", "64 KiB, QoS 0, 1 → 1", arguments={"size": 65536}),
    Scenario("qos0-1-1000", "QoS 0, 1 → 1,000", arguments={"shape": OUT, "subscribers": 1000}),
    Scenario(
        "wildcards",
        "QoS 0, 10,000 topics, 1,000 wildcard subscriptions",
        arguments={"shape": MANY, "subscribers": 10},
    ),
    Scenario(
        "subscriptions",
        "QoS 0, 1 → 1, beside 100,000 subscriptions",
        "held",
        {"held_subscriptions": 100_000},
        SHARE,
        fresh=True,
    ),
    Scenario(
        "connections",
        "QoS 0, 1 → 1, beside 10,000 connections",
        "held",
        {"held_connections": 10_000},
        SHARE,
        fresh=True,
    ),
    Scenario("paced", "20,000/s, QoS 0, 200 pairs", "paced", _pairs(200, pace=20_000.0), PROCESSOR),
    Scenario("connects", "10,000 clients connect", "connects", {"count": 10_000}, CONNECTS, fresh=True),
    Scenario("idle", "memory of an idle connection", "connects", {"count": 10_000}, BYTES, fresh=True),
    Scenario(
        "ws-idle",
        "memory of an idle WebSocket",
        "connects",
        {"count": 10_000, "transport": "ws"},
        BYTES,
        fresh=True,
    ),
    Scenario("sessions", "memory of a persistent session", "sessions", {"count": 10_000}, BYTES, fresh=True),
    Scenario("retained", "100,000 retained messages to one #", "retained", {"count": 100_000}, fresh=True),
    Scenario("queue", "20,000 queued messages, QoS 1", "queue", {"count": 20_000}, durable=True),
    Scenario(
        "persistent-1-1",
        "QoS 1, persistent, 1 → 1",
        arguments={"qos": 1, "persistent": True, **_ACKNOWLEDGED},
        durable=True,
    ),
    Scenario(
        "persistent-20-20",
        "QoS 1, persistent, 20 → 20 pairs",
        arguments=_pairs(20, qos=1, persistent=True, **_ACKNOWLEDGED),
        durable=True,
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

#: What `quick` has instead, where there is more.
_QUICK = {
    "publishers": 4,
    "subscribers": 10,
    "held_subscriptions": 200,
    "held_connections": 50,
    "count": 100,
    "pace": 1000.0,
    "window": 20,
    "ahead": 50,
}


def quick(scenario: Scenario) -> dict[str, Any]:
    """The scenario's arguments with small numbers."""
    small = {name: min(value, _QUICK[name]) if name in _QUICK else value for name, value in scenario.arguments.items()}
    if "publishers" in small and "subscribers" in small:
        small["subscribers"] = small["publishers"]
    return small
