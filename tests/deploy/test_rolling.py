"""A rolling restart of the cluster in deploy/docker-compose.yml, node by node, while its clients are at work."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.cluster.test_haproxy import MQTT, NODES, haproxy
from tests.deploy.composed import Composed
from tests.support.certificates import Certificates
from tests.support.persistent import Peer, Publisher, Subscriber
from tests.support.wire import Address, WireError

__all__ = ["haproxy"]

#: Seconds; only a test that has failed waits as long.
PATIENCE = 200.0
#: What each publisher has to say in each round.
LOT, PAUSE = 10, 0.05


@pytest.fixture
def composed(haproxy: str, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Composed]:
    made = Composed(haproxy, tmp_path_factory.mktemp("composed"), certificates)
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Load:
    """Publishers that always have more to say, and a reader; who loses its connection makes a new one at once."""

    def __init__(self, address: Address, publishers: list[Publisher], reader: Subscriber) -> None:
        self.address, self.publishers, self.reader = address, publishers, reader
        self.peers: list[Peer] = [reader, *publishers]
        self.reconnected = 0
        self._said = dict.fromkeys(publishers, 0)

    def connect(self, peer: Peer) -> None:
        """Try until it is connected. A balancer that has found no node closes the connection."""
        end = time.monotonic() + PATIENCE
        while peer.socket is None:
            try:
                peer.connect(self.address)
            except (WireError, OSError):
                assert time.monotonic() < end, f"{peer.client_id} finds no node"

    def serve(self) -> None:
        """Some time of reading, answering and connecting."""
        for peer in self.peers:
            if peer.socket is None:
                self.connect(peer)
                self.reconnected += 1
        with selectors.DefaultSelector() as selector:
            for peer in self.peers:
                if peer.socket is not None:
                    selector.register(peer.socket, selectors.EVENT_READ, peer)
            for key, _ in selector.select(PAUSE):
                assert isinstance(key.fileobj, socket.socket)
                if key.data.socket is key.fileobj:
                    key.data.read()

    def say_more(self) -> None:
        for publisher in self.publishers:
            if publisher.done and publisher.socket is not None:
                start = self._said[publisher]
                self._said[publisher] += LOT
                publisher.more(b"%d" % number for number in range(start, start + LOT))

    def said(self, publisher: Publisher) -> list[bytes]:
        return [b"%d" % number for number in range(self._said[publisher])]

    @property
    def done(self) -> bool:
        heard = {publisher: set(self.reader.payloads(publisher.topic)) for publisher in self.publishers}
        return self.reader.idle and all(p.done and heard[p] >= set(p.safe) for p in self.publishers)


def test_a_rolling_restart(composed: Composed) -> None:
    """Every node of three is stopped and started again. The clients come back through the balancer each time, and
    every acknowledged message arrives, with QoS 2 exactly once."""
    publishers = [Publisher(f"{qos}-{number}", f"load/{qos}/{number}", qos, []) for qos in (1, 2) for number in "ab"]
    load = Load(composed.address(MQTT), publishers, Subscriber("reader", ("load/#", 2)))
    end = time.monotonic() + PATIENCE
    load.connect(load.reader)
    while not load.reader.subscribed:
        load.serve()
    for publisher in publishers:
        load.connect(publisher)

    failed: list[BaseException] = []

    def restart() -> None:
        assert composed.balancer is not None
        try:
            for name in NODES:
                composed.nodes[name].stop()
                composed.balancer.log.wait_for(f"Server mqtt/{name} is DOWN")
                composed.start_node(name)
                composed.balancer.log.wait_for(f"Server mqtt/{name} is UP")
        except BaseException as error:
            failed.append(error)

    restarting = threading.Thread(target=restart)
    restarting.start()
    quiet_at = time.monotonic()
    while restarting.is_alive():
        load.serve()
        if time.monotonic() >= quiet_at:
            load.say_more()
            quiet_at = time.monotonic() + PAUSE
    restarting.join()
    assert not failed, failed
    while not load.done:
        assert time.monotonic() < end, "not everything has arrived"
        load.serve()

    assert load.reconnected >= 3, "clients were where a node was stopped"
    for publisher in publishers:
        said, heard = load.said(publisher), load.reader.payloads(publisher.topic)
        assert len(said) > 100, "there was load"
        assert publisher.safe == said
        assert (heard if publisher.qos == 2 else list(dict.fromkeys(heard))) == said
    for name in NODES:
        stopped = [line for line in composed.nodes[name].log.since(0) if f"node {name} has stopped" in line]
        assert len(stopped) == 1, "it stopped in order, once"
