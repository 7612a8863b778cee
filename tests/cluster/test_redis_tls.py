"""Nodes that reach Redis over TLS, with certificates that both sides check."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.redis_store import RedisStore
from tests.cluster.nodes import PATIENCE, Cluster
from tests.cluster.redis_server import RedisServer, server_program
from tests.storage.driver import QueueReactor, outcome
from tests.support.certificates import Certificates
from tests.support.persistent import Publisher, Subscriber, connect_all


@pytest.fixture
def program_with_tls(tmp_path: Path) -> None:
    """Some builds of Redis have no TLS. The others miss the certificate."""
    command = [server_program(), "--port", "0", "--tls-port", "1"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if "Failed to configure TLS" not in answer.stdout:
        pytest.skip("this redis-server has no TLS")


@pytest.mark.usefixtures("program_with_tls")
def test_a_redis_that_cannot_be_trusted(tmp_path: Path, certificates: Certificates) -> None:
    """A node does not start on a Redis whose certificate is of an authority it does not know, or has another name; nor
    on one that wants a certificate of the node."""
    server = RedisServer(tmp_path, ["--bind", "127.0.0.1", "127.0.0.2"], fsync="no", tls=certificates)
    server.start()
    reactor = QueueReactor()
    elsewhere = server.url.replace("127.0.0.1", "127.0.0.2")
    try:
        for url, what in (
            (server.url.partition("?")[0], "certificate verify failed"),
            (elsewhere, "IP address mismatch"),
            (server.url.partition("&")[0], "does not answer"),
        ):
            store = RedisStore(url, reactor, "node", patience=0.2)
            with pytest.raises(StoreError, match=what):
                outcome(store.start(), reactor)
        store = RedisStore(f"{elsewhere}&ssl_check_hostname=false", reactor, "node")
        outcome(store.start(), reactor)
        outcome(store.stop(), reactor)
    finally:
        server.stop()


@pytest.mark.usefixtures("program_with_tls")
def test_two_nodes(cluster: Callable[..., Cluster]) -> None:
    """All lanes between the nodes go over TLS, also when Redis was away for a moment: connections stay, and what was
    acknowledged arrives, at QoS 2 exactly once."""
    nodes = cluster(2, tls=True)
    assert nodes.redis.url.startswith("rediss://")
    publishers = [Publisher(f"publisher{qos}", f"load/{qos}", qos, []) for qos in (1, 2)]
    readers = [Subscriber("kept", ("load/#", 2)), Subscriber("clean", ("load/#", 2), clean=True)]
    everybody = connect_all(publishers, nodes[0].address, readers, nodes[1].address)

    def complete(reader: Subscriber, wanted: list[bytes]) -> bool:
        return all(reader.has(p.topic, wanted) for p in publishers)

    for turn in range(2):
        wanted = [b"%d" % number + b"." * 5000 for number in range(200 * turn + 200)]
        for publisher in publishers:
            publisher.more(wanted[-200:])
        everybody.until(lambda turn=turn: all(len(p.safe) > 200 * turn + 50 for p in publishers))  # type: ignore[misc]
        if not turn:
            nodes.redis.stop()
            nodes.redis.start()
        everybody.until(lambda: all(publisher.done for publisher in publishers))
        everybody.until(lambda wanted=wanted: all(complete(reader, wanted) for reader in readers))  # type: ignore[misc]
    for reader in readers:
        assert reader.socket is not None, f"{reader.client_id} was disconnected"
        assert reader.once("load/1") == wanted
        assert reader.payloads("load/2") == wanted
    with nodes[0].wire().connect("zero") as zero, nodes[1].wire().connect("one").subscribe(("zero", 0)) as one:
        zero.publish("zero", b"by pub/sub")
        assert one.expect_published().payload == b"by pub/sub"
