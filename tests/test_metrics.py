"""`/metrics`: what the table promises, a node shows, and nothing else; and the figures are right."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from twisted.internet.task import Clock

from mqttcluster.broker.lag import LagMeter
from mqttcluster.broker.metric_table import BY_NAME, COUNTER, HISTOGRAM, METRICS
from mqttcluster.broker.metrics import Histogram
from mqttcluster.broker.prometheus import Exposition, NodeCollector
from mqttcluster.metricdoc import document
from mqttcluster.mqtt.packets import Connect, Puback, Publish, Subscribe, Subscription
from tests.broker.playbook import World
from tests.support.process import TCP, TLS, Broker
from tests.support.wire import connect

ROOT = Path(__file__).resolve().parents[1]


def families(text: str) -> dict[str, Family]:
    """By the names of the table: those of counters with their ending."""
    found = {}
    for family in text_string_to_metric_families(text):
        found[family.name + ("_total" if family.type == COUNTER else "")] = family
    return found


def test_documentation_is_not_stale() -> None:
    """docs/metrics.md is what `python -m mqttcluster.metricdoc` writes."""
    assert (ROOT / "docs" / "metrics.md").read_text() == document()


def test_names() -> None:
    """As Prometheus wants them, each once, and buckets for histograms only."""
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"mqttcluster_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert bool(metric.buckets) == (metric.kind == HISTOGRAM)


def scrape(broker: Broker) -> str:
    where = broker.log.wait_for(r"listening for probes on").split()[-1]
    with urllib.request.urlopen(f"http://{where}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text: str = answer.read().decode()
        return text


def test_a_real_node_shows_the_table(start_broker: Callable[..., Broker]) -> None:
    """Every metric of the table with its type, its labels and no other values than those told; and none beside them but
    those of the process."""
    options = ("--admin", "tcp:0:interface=127.0.0.1")
    broker = start_broker((TCP, TLS), options)
    with broker.wire().connect("c", clean=False) as client, broker.wire() as refused:
        refused.send(connect("x", level=9))
        client.subscribe(("a", 2))
        for qos in (0, 1, 2):
            client.send(b"")
            with broker.wire().connect("w") as writer:
                writer.publish("a", b"payload", qos)
            client.acknowledge(client.expect_published())
        client.expect_silence()
        found = families(scrape(broker))
    ours = {name: family for name, family in found.items() if name.startswith("mqttcluster")}
    assert ours.keys() == BY_NAME.keys()
    for name, family in ours.items():
        metric = BY_NAME[name]
        assert family.type == metric.kind, name
        assert family.documentation == metric.help, name
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == metric.labels.keys(), name
            for label, value in sample.labels.items():
                told = re.findall(r"`([^`]+)`", metric.labels.get(label, ""))
                if told and label != "reason":
                    assert value in told, (name, label)
    rest = found.keys() - ours.keys()
    assert "process_resident_memory_bytes" in rest
    assert all(name.startswith(("process_", "python_gc_")) for name in rest)
    for name in rest | ours.keys():
        assert f"`{name}`" in document(), name
    value = {name: family.samples[0].value for name, family in ours.items() if len(family.samples) == 1}
    assert value["mqttcluster_ready"] == 1
    assert value["mqttcluster_certificate_expiry_timestamp_seconds"] > 1e9
    assert total(ours["mqttcluster_store_batch_seconds"], "_count") > 0
    assert total(ours["mqttcluster_publish_received_total"]) == 3
    assert total(ours["mqttcluster_publish_received_bytes_total"]) == 21


def total(family: Family, ending: str = "") -> float:
    return sum(sample.value for sample in family.samples if sample.name.endswith(ending))


class Figures:
    """A world and its figures."""

    def __init__(self, **settings: object) -> None:
        self.world = World(**settings)
        self.reasons: list[str] = []
        self.exposition = Exposition(NodeCollector(self.world.broker, lambda: self.reasons))

    def __call__(self, name: str, **labels: str) -> float:
        (figure,) = [
            sample.value
            for family in text_string_to_metric_families(self.exposition("")[1].decode())
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return figure


@pytest.mark.parametrize("no_fast_lane", [False, True])
def test_messages_by_version_and_qos(no_fast_lane: bool) -> None:
    """Each publish counts once on its way in and once for each receiver, with its bytes, on every lane."""
    figure = Figures(no_fast_lane=no_fast_lane)
    world = figure.world
    old, new = world.connect("old", 3), world.peer(5)
    new.send(Connect("new", 5), Subscribe(1, [("#", Subscription(1))]))
    old.send(Subscribe(1, [("#", Subscription(0))]))
    writer = world.connect("w")
    writer.send(*[Publish("a", b"123", 0)] * 5, *[Publish("a", b"12345", 1, packet_id=n) for n in range(1, 4)])
    writer.send(Publish("a", b"1", 2, packet_id=9))

    def by(name: str, version: str) -> list[float]:
        return [figure(f"mqttcluster_publish_{name}_total", version=version, qos=str(qos)) for qos in range(3)]

    assert by("received", "3.1.1") == [5, 3, 1]
    assert by("received_bytes", "3.1.1") == [15, 15, 1]
    assert by("received", "5.0") == [0, 0, 0]
    assert by("sent", "3.1") == [9, 0, 0]
    assert by("sent_bytes", "3.1") == [31, 0, 0]
    assert by("sent", "5.0") == [5, 4, 0]
    assert by("sent", "3.1.1") == [0, 0, 0]
    assert world.broker.metrics.publish_received == 9
    assert figure("mqttcluster_clients_connected", version="5.0") == 1


def test_sessions_and_what_waits() -> None:
    """Who is there, who was, and what has not been acknowledged."""
    figure = Figures(max_inflight=2)
    world = figure.world
    world.connect("offline", clean_start=False).drop()
    reader, writer = world.connect("r", clean_start=False), world.connect("w")
    reader.send(Subscribe(1, [("a", Subscription(1))]))
    writer.send(*[Publish("a", b"x", 1, packet_id=n) for n in range(1, 6)])
    assert figure("mqttcluster_connections") == 2
    assert figure("mqttcluster_sessions", state="connected") == 2
    assert figure("mqttcluster_sessions", state="offline") == 1
    assert figure("mqttcluster_subscriptions") == 1
    assert figure("mqttcluster_inflight_messages") == 2
    assert figure("mqttcluster_queued_messages") == 3
    reader.send(Puback(1), Puback(2), Puback(3), Puback(4), Puback(5))
    assert figure("mqttcluster_inflight_messages") + figure("mqttcluster_queued_messages") == 3
    world.connect("w")
    assert figure("mqttcluster_takeovers_total") == 1


def test_the_store() -> None:
    """A store that does not answer is not up, and the node is not ready; it recovers by itself."""
    figure = Figures()
    world = figure.world
    assert figure("mqttcluster_store_up") == 1
    assert world.broker.not_ready() == []
    world.hold()
    world.advance(1)
    world.advance(5.1)
    assert figure("mqttcluster_store_up") == 0
    assert world.broker.not_ready() == ["the store does not answer"]
    world.release()
    assert world.broker.not_ready() == []
    world.store.failing = True
    world.advance(1)
    assert world.broker.not_ready() == ["the store fails"]
    world.store.failing = False
    world.advance(1)
    assert world.broker.not_ready() == []
    assert figure("mqttcluster_store_up") == 1


def test_ready() -> None:
    """The figure is what the probe is told."""
    figure = Figures()
    assert figure("mqttcluster_ready") == 1
    figure.reasons.append("stopping")
    assert figure("mqttcluster_ready") == 0


def test_histogram() -> None:
    """A value counts for the first bound that is not smaller, and all are counted in the last."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        histogram.observe(value)
    assert histogram.buckets() == [(1.0, 2), (2.0, 3), (float("inf"), 4)]
    assert histogram.total == 10.0


def test_lag() -> None:
    """A reactor that was busy is late by as much."""
    clock, lag = Clock(), Histogram((0.1, 1.0))
    meter = LagMeter(lag, clock)
    meter.start()
    clock.advance(0.5)
    assert lag.counts == [1, 0, 0]
    clock.advance(1.2)
    assert lag.counts == [1, 1, 0]
    assert lag.total == pytest.approx(0.7)
    meter.stop()
    assert clock.getDelayedCalls() == []


def test_all_that_is_in_the_table_is_shown() -> None:
    """The collector goes by the table: it shows each of its lines, in their order."""
    collector: Collector = NodeCollector(World().broker, lambda: ())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    shown = [family.name for family in registry.collect()]
    assert shown == [
        metric.name.removesuffix("_total")
        for metric in METRICS
        if metric.name != "mqttcluster_certificate_expiry_timestamp_seconds"
    ]
