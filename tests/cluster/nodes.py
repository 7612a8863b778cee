"""Several real nodes on a real Redis of their own, to be stopped, frozen, killed and started again one by one.

Nothing here is mocked and nothing waits for a time to pass. Deadlines end a test that has failed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

from tests.cluster.redis_server import RedisServer
from tests.support import wire
from tests.support.brokers import Mqttcluster
from tests.support.certificates import Certificates
from tests.support.process import TCP, Broker
from tests.support.wire import PATIENCE, Wire

#: Without a sign of life for this long a node may not act; for this long, it is dead.
LEASE, DEAD_AFTER = 2.5, 6.0


class Node(Broker):
    """One node of a cluster. It may also be frozen: it is there, and does nothing."""

    def __init__(self, name: str, recipe: Mqttcluster, run: Path) -> None:
        super().__init__(recipe, run, (TCP,))
        self.name = name
        self._frozen = False

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        if self._frozen and self.running:
            os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        self.thaw()
        super().stop()

    def kill(self) -> None:
        super().kill()
        self._frozen = False

    def memory(self) -> int:
        """Bytes that the process holds."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


class Cluster:
    """`count` nodes on one Redis. `options` go on each node's command line. `url` is what they are told, if that is not
    the address of the Redis itself; with `tls` that takes TLS only."""

    def __init__(
        self,
        count: int,
        directory: Path,
        certificates: Certificates,
        options: Sequence[str] = (),
        fsync: str = "no",
        url: str = "",
        tls: bool = False,
    ) -> None:
        (directory / "redis").mkdir()
        self.redis = RedisServer(directory / "redis", fsync=fsync, tls=certificates if tls else None)
        self.redis.start()
        self.nodes: list[Node] = []
        self._directory, self._certificates = directory, certificates
        self._options, self._url = options, url or self.redis.url
        self._make(count)

    def _make(self, count: int) -> None:
        for number in range(len(self.nodes), len(self.nodes) + count):
            name = f"n{number}"
            (self._directory / name).mkdir()
            # A client of a test that has failed may never acknowledge what it was sent.
            recipe = Mqttcluster(self._certificates, ["--drain-timeout", "2", *self._options], self._url, name)
            self.nodes.append(Node(name, recipe, self._directory / name))

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    def add(self, count: int) -> None:
        """Start so many more."""
        self._make(count)
        self.start()

    def start(self) -> None:
        """Start the nodes that do not run, all at once."""
        at_once(node.start for node in self.nodes if not node.running)
        for node in self.nodes:
            assert node.running, f"{node.name} has not started; its log:\n{node.log}"

    def stop(self) -> None:
        """Stop everything; fails if a node does not stop, or its log tells of a fault."""
        try:
            at_once(node.stop for node in self.nodes)
        finally:
            for node in self.nodes:
                node.kill()
            self.redis.stop()
        for node in self.nodes:
            assert not node.faults(), f"the log of {node.name} tells of faults:\n{node.log}"

    def members(self) -> list[str]:
        """The ids of the nodes that Redis knows, and that are not buried."""
        with self.redis.client() as client:
            return sorted(name.decode() for name in client.hkeys("mc:{c}:nodes"))

    def id(self, number: int) -> str:
        """The id of a node that is a member."""
        [found] = [member for member in self.members() if member.startswith(f"{self.nodes[number].name}-")]
        return found

    def buried(self, node: str) -> bool:
        """Whether the others have taken the node of this id for dead."""
        with self.redis.client() as client:
            return bool(client.hexists("mc:{c}:graves", node))

    def acts(self, node: str) -> bool:
        """Whether the node of this id has a lease."""
        with self.redis.client() as client:
            seconds, microseconds = client.time()
            record = client.hget("mc:{c}:nodes", node)
        return record is not None and int(record.split()[0]) > 1000 * seconds + microseconds // 1000

    def settled(self, client_id: str) -> None:
        """Until Redis has noted that this client has acknowledged everything. What is not noted yet when it connects
        elsewhere is sent once more."""

        def noted() -> bool:
            with self.redis.client() as client:
                tags = [f"mc:{{p{number}}}" for number in range(16)]
                waiting = any(client.xlen(f"{tag}:q:{client_id}") for tag in tags)
                return not waiting and not client.exists(*(f"{tag}:r:{client_id}" for tag in tags))

        until(noted)

    def until_nothing_is_due(self) -> None:
        """Until no will waits to be published."""

        def nothing() -> bool:
            with self.redis.client() as client:
                return not any(client.exists(f"mc:{{p{number}}}:wills") for number in range(16))

        until(nothing)


def at_once(calls: Iterable[Callable[[], None]]) -> None:
    """Make several calls that wait for processes; raises what the first that failed has raised."""
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


def until(condition: Callable[[], bool], deadline: float = PATIENCE) -> None:
    """Ask until it holds."""
    end = monotonic() + deadline
    while not condition():
        assert monotonic() < end, f"not reached within {deadline} s"
        time.sleep(0.02)


def come_back(node: Node, client_id: str, present: bool = True) -> Wire:
    """Resume a session, if it is `present`, as soon as the node lets in anybody."""
    end = monotonic() + PATIENCE
    while True:
        client = node.wire()
        client.send(wire.connect(client_id, clean=False))
        with contextlib.suppress(wire.ClosedByBroker):  # as it closed all those before
            answer = client.packet()
            if answer == bytes([0x20, 2, present, 0]):
                return client
            assert answer == bytes.fromhex("20 02 00 03")
        assert monotonic() < end
        client.close()
        time.sleep(0.05)


def expect_nothing(node: Node, client_id: str) -> None:
    """No message waits in a session that is `Cluster.settled`."""
    with node.wire().connect(client_id, clean=False, present=True) as client:
        client.expect_silence()


class Cutter:
    """Cuts all connections to Redis at intervals, while it is used as a context manager.

    `socket` becomes readable after each cut and `read` counts it, so a `Pump` can serve this like a client.
    """

    def __init__(self, redis: RedisServer, interval: float = 0.2) -> None:
        self.cuts = 0
        self.socket, self._other = socket.socketpair()
        self._redis = redis
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._cut, daemon=True)

    def __enter__(self) -> Cutter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.socket.close()
        self._other.close()

    def read(self) -> None:
        self.cuts += len(self.socket.recv(100))

    def _cut(self) -> None:
        with self._redis.client() as client:
            while not self._stop.wait(self._interval):
                for kind in ("normal", "pubsub"):
                    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                self._other.send(b".")
