"""A node that is told to stop while its clients are at work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.cluster.nodes import Cluster
from tests.support.persistent import Publisher, Pump, Subscriber


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_wills_of_clients_that_go_elsewhere(cluster: Callable[..., Cluster]) -> None:
    """SIGTERM: who connects to another node in time is not reported dead, with a clean session or a kept one; who
    stays away is, once."""
    nodes = cluster(2)
    with ThreadPoolExecutor(1) as pool, nodes[1].wire().connect("watcher").subscribe(("will/#", 1)) as watcher:
        mortal = [
            nodes[0].wire().connect(name, clean=clean, will=(f"will/{name}", b"gone", 1, False))
            for name, clean in (("clean", True), ("kept", False), ("lost", True))
        ]
        stopping = pool.submit(nodes[0].stop)
        for client in mortal:
            client.expect_closed()
        back = [
            nodes[1].wire().connect("clean", will=("will/clean", b"gone", 1, False)),
            nodes[1].wire().connect("kept", clean=False, present=True),
        ]
        stopping.result()
        died = watcher.expect_published()
        assert died.topic == "will/lost"
        watcher.acknowledge(died)
        watcher.expect_silence()
        for client in back:
            client.expect_silence()
            client.disconnect()
        watcher.expect_silence()


def test_a_drain_under_load(cluster: Callable[..., Cluster]) -> None:
    """Nothing that was acknowledged is lost, and QoS 2 stays exactly once, when the node of publishers and subscribers
    is told to stop and they go on elsewhere."""
    nodes = cluster(2)
    publishers = [Publisher(f"publisher{qos}", f"load/{qos}", qos, numbers(600)) for qos in (1, 2)]
    reader = Subscriber("reader", ("load/#", 2))
    everybody = Pump(*publishers, reader)
    reader.connect(nodes[0].address)
    everybody.until(lambda: reader.subscribed)
    for publisher in publishers:
        publisher.connect(nodes[0].address)
    everybody.until(lambda: all(len(publisher.safe) >= 100 for publisher in publishers))

    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(nodes[0].stop)
        everybody.drop()
        for client in (reader, *publishers):
            client.connect(nodes[1].address)
        everybody.until(lambda: all(publisher.done for publisher in publishers))
        everybody.until(lambda: all(reader.has(p.topic, p.safe) for p in publishers))
        stopping.result()
    assert reader.once("load/1") == publishers[0].safe == numbers(600)
    assert reader.payloads("load/2") == publishers[1].safe == numbers(600)
    everybody.drop()
