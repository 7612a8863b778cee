"""Redis with a replica, and one address for whichever of them is the master: haproxy, as docs/cluster.md sets it up.

The nodes know that address only. A Kubernetes service that follows the master looks the same to them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from tests.cluster.nodes import PATIENCE, Cluster, come_back, expect_nothing, until
from tests.cluster.redis_server import RedisServer
from tests.cluster.test_haproxy import haproxy
from tests.support.brokers import ROOT
from tests.support.persistent import Publisher, Pump, Subscriber, connect_all, numbers
from tests.support.ports import free_port
from tests.support.process import Process

__all__ = ["haproxy"]


def config(port: int, first: int, second: int) -> str:
    """What docs/cluster.md gives, with the addresses of this test."""
    after = (ROOT / "docs" / "cluster.md").read_text().partition("HAProxy does that")[2]
    found = re.search(r"\n\n((?:    .*\n)+)", after)
    assert found is not None
    text = textwrap.dedent(found[1])
    assert text.startswith("listen redis\n")
    for theirs, ours in (
        ("bind :6379", f"bind 127.0.0.1:{port}"),
        ("10.0.0.1:6379", f"127.0.0.1:{first}"),
        ("10.0.0.2:6379", f"127.0.0.1:{second}"),
    ):
        assert text.count(theirs) == 1, f"{theirs} is not in\n{text}"
        text = text.replace(theirs, ours)
    return text


class Pair:
    """A master, its replica, and the balancer. `Cluster` makes the master, so it comes last."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._balancer: Process | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.replica = RedisServer(directory, fsync="no")
        self.replica.start()

    def join(self, master: RedisServer) -> None:
        """The replica has what the master has, and the balancer has found the master."""
        with master.client() as client:
            client.execute_command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(master.port))
        until(lambda: caught_up(master, self.replica))
        path = self._directory / "haproxy.cfg"
        path.write_text(config(self.port, master.port, self.replica.port))
        self._balancer = Process([self._program, "-db", "-f", str(path)], self._directory)
        until(self._leads_to_the_master)

    def _leads_to_the_master(self) -> bool:
        assert self._balancer is not None
        assert self._balancer.running, f"haproxy has ended:\n{self._balancer.log}"
        try:
            with redis.Redis.from_url(self.url, protocol=2, socket_timeout=PATIENCE) as client:
                return bool(client.info("replication")["role"] == "master")
        except (RedisError, OSError):
            return False

    def stop(self) -> None:
        if self._balancer is not None:
            self._balancer.kill()
        self.replica.stop()


@pytest.fixture
def pair(haproxy: str, tmp_path: Path) -> Iterator[Pair]:
    (tmp_path / "pair").mkdir()
    pair = Pair(haproxy, tmp_path / "pair")
    yield pair
    pair.stop()


def state(server: RedisServer) -> dict[str, Any]:
    with server.client() as client:
        answer: dict[str, Any] = client.info("replication")
    return answer


def caught_up(master: RedisServer, replica: RedisServer) -> bool:
    """Whether the replica has all that the master has been told by now."""
    wanted, has = state(master)["master_repl_offset"], state(replica)
    return has.get("master_link_status") == "up" and has["slave_repl_offset"] >= wanted


def numbers_given(server: RedisServer) -> dict[str, tuple[int, int]]:
    """For each client id the epoch and the number of the last message in its queue."""
    found = {}
    with server.client() as client:
        for key in client.scan_iter("mc:{p*}:s:*", count=1000):
            epoch, last = client.hmget(key, "epoch", "seq")
            found[key.decode().rpartition(":")[2]] = int(epoch), int(last or 0)
    return found


def test_the_replica_takes_over(pair: Pair, cluster: Callable[..., Cluster]) -> None:
    """The master is killed when it has acknowledged messages that its replica has not, and the replica is promoted.
    Sessions go on without a lost connection; what the replica had arrives, in order, at QoS 2 exactly once, and so does
    all that is published from then on. No number that the master had given out is given out again."""
    nodes = cluster(0, url=pair.url)
    pair.join(nodes.redis)
    nodes.add(2)
    publishers = [Publisher(f"publisher{qos}", f"load/{qos}", qos, numbers(0, 200)) for qos in (1, 2)]
    online = [Subscriber("kept", ("load/#", 2)), Subscriber("clean", ("load/#", 2), clean=True)]
    offline = Subscriber("offline", ("load/#", 2))
    everybody = Pump(*publishers, *online, offline)
    for reader in (*online, offline):
        reader.connect(nodes[1].address)
    everybody.until(lambda: all(reader.subscribed for reader in (*online, offline)))
    offline.leave()
    wanted = numbers(0, 300)
    held = nodes[0].wire().connect("held", clean=False).subscribe(("held", 1))
    moves = nodes[0].wire().connect("moves", clean=False)
    writer = nodes[1].wire().connect("writer")
    for publisher in publishers:
        publisher.connect(nodes[0].address)
    everybody.until(lambda: all(p.done for p in publishers) and all(len(r.received) >= 400 for r in online))
    everybody.until(lambda: all(reader.idle for reader in online))
    until(lambda: caught_up(nodes.redis, pair.replica))

    with pair.replica.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
    for publisher in publishers:
        publisher.more(numbers(200, 250))
    everybody.until(lambda: all(p.done for p in publishers) and all(len(r.received) >= 500 for r in online))
    with writer:
        writer.publish("held", b"old", 1)
        old = held.expect_published()
        moved = come_back(nodes[1], "moves")
        moves.expect_closed()
        opened = come_back(nodes[0], "opened", present=False)
        before = numbers_given(nodes.redis)
        nodes.redis.kill()
        for publisher in publishers:
            publisher.more(numbers(250, 300))

        def complete(reader: Subscriber) -> bool:
            return all(wanted[-1] in reader.payloads(publisher.topic) for publisher in publishers)

        everybody.until(lambda: all(p.done for p in publishers) and all(map(complete, online)))
        everybody.until(lambda: all(reader.idle for reader in online))
        for publisher in publishers:
            assert publisher.safe == wanted
        for reader in online:
            assert reader.socket is not None, f"{reader.client_id} was disconnected"
            assert reader.once("load/1") == wanted
            assert reader.payloads("load/2") == wanted

        for payload in (b"new", b"newer"):
            writer.publish("held", payload, 1)
        held.acknowledge(old)  # until now its packet id was in use, whatever this Redis knows of it
        for payload in (b"new", b"newer"):
            message = held.expect_published()
            assert (message.payload, message.dup) == (payload, False)
            held.acknowledge(message)

    opened.expect_closed()
    moved.expect_closed()
    come_back(nodes[0], "opened", present=False).disconnect()
    come_back(nodes[0], "moves").disconnect()
    offline.connect(nodes[0].address)
    Pump(offline).until(lambda: complete(offline) and offline.idle)
    for qos in (1, 2):
        assert offline.payloads(f"load/{qos}") == numbers(0, 200) + numbers(250, 300)
    after = numbers_given(pair.replica)
    for client_id in ("opened", "moves", "offline"):
        assert after[client_id][0] > max(epoch for epoch, _ in before.values())
    for client_id in ("kept", "held", "offline"):
        assert after[client_id][1] > before[client_id][1] + 50
    for each in (held, opened, moved, moves):
        each.close()


def test_roles_are_changed_under_load(pair: Pair, cluster: Callable[..., Cluster]) -> None:
    """Master and replica change roles by FAILOVER, there and back, while messages are under way: no connection is lost,
    and what was acknowledged arrives, in order, at QoS 2 exactly once."""
    nodes = cluster(0, url=pair.url)
    pair.join(nodes.redis)
    nodes.add(2)
    publishers = [Publisher(f"publisher{qos}", f"load/{qos}", qos, [], level=3 + qos) for qos in (1, 2)]
    readers = [Subscriber("kept", ("load/#", 2)), Subscriber("clean", ("load/#", 2), clean=True, level=5)]
    everybody = connect_all(publishers, nodes[0].address, readers, nodes[1].address)

    def complete(reader: Subscriber, wanted: list[bytes]) -> bool:
        return all(reader.has(p.topic, wanted) for p in publishers)

    for turn, (old, new) in enumerate([(nodes.redis, pair.replica), (pair.replica, nodes.redis)]):
        wanted = numbers(0, 400 * turn + 400)
        for publisher in publishers:
            publisher.more(wanted[-400:])
        everybody.until(lambda turn=turn: all(len(p.safe) > 400 * turn + 50 for p in publishers))  # type: ignore[misc]
        with old.client() as client:
            client.execute_command("FAILOVER", "TO", "127.0.0.1", str(new.port), "TIMEOUT", "10000")
        everybody.until(lambda: all(publisher.done for publisher in publishers))
        everybody.until(lambda wanted=wanted: all(complete(reader, wanted) for reader in readers))  # type: ignore[misc]
        until(lambda old=old, new=new: caught_up(new, old))  # type: ignore[misc]
    for reader in readers:
        assert reader.socket is not None, f"{reader.client_id} was disconnected"
        assert reader.once("load/1") == wanted
        assert reader.payloads("load/2") == wanted
    nodes.settled("kept")
    for reader in readers:
        reader.leave()
    expect_nothing(nodes[0], "kept")
    for publisher in publishers:
        assert publisher.safe == wanted
