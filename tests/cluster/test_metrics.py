"""What the nodes of a cluster show of each other, and how they answer probes while Redis is away."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.nodes import Cluster, Node, until

ADMIN = ("--admin", "tcp:0:interface=127.0.0.1")


def ask(node: Node, path: str) -> tuple[int, str]:
    """Status and text."""
    where = node.log.wait_for(r"listening for probes on").split()[-1]
    try:
        with urllib.request.urlopen(f"http://{where}/{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures(node: Node) -> dict[str, float]:
    """The figures without labels, by name."""
    text = ask(node, "metrics")[1]
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if not sample.labels}


def test_nodes_links_and_routes(cluster: Callable[..., Cluster]) -> None:
    """Each node counts the others and what they want; a link counts what it was given."""
    nodes = cluster(2, options=ADMIN)
    with nodes[1].wire().connect("r") as reader, nodes[0].wire().connect("w") as writer:
        reader.subscribe(("a/#", 1))
        before = figures(nodes[0])
        for number in range(5):
            writer.publish("a/b", b"%d" % number, 1)
        for _ in range(5):
            reader.acknowledge(reader.expect_published())
        after = figures(nodes[0])
    until(lambda: figures(nodes[0])["mqttcluster_cluster_nodes"] == 2)  # the next sign of life tells
    assert after["mqttcluster_routes"] == 1
    until(lambda: figures(nodes[0])["mqttcluster_fenced"] == 0)
    assert after["mqttcluster_link_seconds_count"] - before["mqttcluster_link_seconds_count"] == 5
    assert after["mqttcluster_link_parcel_envelopes_sum"] - before["mqttcluster_link_parcel_envelopes_sum"] == 5
    assert after["mqttcluster_link_seconds_sum"] > before["mqttcluster_link_seconds_sum"]
    assert after["mqttcluster_store_batch_calls_count"] > 0
    assert after["mqttcluster_link_backlog_bytes"] == 0


def test_probes_while_redis_is_away(cluster: Callable[..., Cluster]) -> None:
    """A node without its Redis lives, wants no clients, and says why; it is ready again by itself."""
    nodes = cluster(1, options=ADMIN)
    assert ask(nodes[0], "readyz") == (200, '{"status": "ok"}\n')
    nodes.redis.stop()
    until(lambda: ask(nodes[0], "readyz")[0] == 503)
    assert json.loads(ask(nodes[0], "readyz")[1])["reasons"] == ["waiting for the store that the cluster shares"]
    assert ask(nodes[0], "healthz")[0] == 200
    found = figures(nodes[0])
    assert found["mqttcluster_store_up"] == found["mqttcluster_ready"] == 0
    assert found["mqttcluster_fenced"] == 1
    nodes.redis.start()
    until(lambda: ask(nodes[0], "readyz")[0] == 200)
    assert figures(nodes[0])["mqttcluster_fenced_total"] >= 1
