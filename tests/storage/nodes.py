"""Several backplanes in one process, each with a reactor of its own that a test can stop as SIGSTOP stops a process."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mqttcluster.core.message import Message
from mqttcluster.storage.redis_backplane import RedisBackplane
from mqttcluster.storage.redis_members import Timing
from mqttcluster.storage.redis_readers import StreamReader
from mqttcluster.storage.shared import (
    BackplaneEvents,
    Envelope,
    Forward,
    IBackplane,
    NodeInterest,
    RouteChange,
    SessionChange,
)

#: Seconds; only a test that has failed waits so long.
PATIENCE = 60.0
#: How long one turn of the world waits for something to happen.
TURN = 0.01
#: Everything five times as fast as in earnest.
FAST = Timing(lease=0.6, dead_after=1.5, beat=0.1, stale=0.25)
#: For tests in which no lease is to run out, however slow the machine.
LASTING = Timing(lease=60.0, dead_after=120.0, beat=0.1, stale=30.0)


class World:
    """Where the reactors of all nodes run, in the test's own thread."""

    def __init__(self) -> None:
        self.asked: SimpleQueue[tuple[Side, Callable[..., object], tuple[object, ...]]] = SimpleQueue()
        self.sides: list[Side] = []

    def turn(self) -> None:
        """Run what is due."""
        try:
            side, call, args = self.asked.get(timeout=TURN)
            side.run(call, args)
            while True:
                side, call, args = self.asked.get_nowait()
                side.run(call, args)
        except Empty:
            pass
        for side in self.sides:
            side.catch_up()

    def until(self, happened: Callable[[], object], patience: float = PATIENCE) -> None:
        """Run until it has happened; fail if it does not."""
        end = monotonic() + patience
        while not happened():
            assert monotonic() < end, "what the test waits for does not happen"
            self.turn()

    def rest(self, seconds: float) -> None:
        """Let everything go on for a while: to show that something does not happen."""
        end = monotonic() + seconds
        while monotonic() < end:
            self.turn()

    def wait(self, deferred: Deferred[Any]) -> Any:
        """The result of a Deferred; its exception is raised."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.until(lambda: results)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]


class Side(Clock):
    """The reactor of one node. Stopped, it runs nothing; what was asked for meanwhile runs after. `hold` holds back
    only the calls that it is true for."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._seen = monotonic()
        self._held: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.stopped = False
        self.hold: Callable[[Callable[..., object]], bool] = lambda call: False
        world.sides.append(self)

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        self._world.asked.put((self, callable, args))

    def run(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.stopped or self.hold(call):
            self._held.append((call, args))
        else:
            call(*args)

    def catch_up(self) -> None:
        now = monotonic()
        if not self.stopped:
            self.advance(now - self._seen)
        self._seen = now

    def stop(self) -> None:
        """Like SIGSTOP."""
        self.stopped = True

    def resume(self) -> None:
        """Like SIGCONT; also ends `hold`."""
        self.stopped = False
        self.hold = lambda call: False
        held, self._held = self._held, []
        for call, args in held:
            call(*args)


def reads(call: Callable[..., object]) -> bool:
    """For `Side.hold`: what a node's reader of routes and link hands over."""
    return isinstance(getattr(call, "__self__", None), StreamReader)


class Recorder(BackplaneEvents):
    """A node's memory of what its backplane said. `log` has everything in order."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.interest: dict[tuple[str, str], int] = {}
        self.sessions: list[SessionChange] = []
        self.loading: Deferred[None] = succeed(None)
        self.reaping: Callable[[str], Deferred[None]] = lambda node: succeed(None)
        self.evicting: Deferred[None] = succeed(None)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """What was told under this name, without it."""
        return [entry[1:] for entry in self.log if entry[0] == name]

    def load(self) -> Deferred[None]:
        self.log.append(("load",))
        return self.loading

    def route(self, node: str, change: RouteChange) -> None:
        self.log.append(("route", node, change))
        if isinstance(change, NodeInterest):
            self.interest[node, change.topic_filter] = change.bits
        else:
            self.sessions.append(change)

    def gone(self, node: str) -> None:
        self.log.append(("gone", node))
        self.interest = {key: bits for key, bits in self.interest.items() if key[0] != node}

    def reap(self, node: str) -> Deferred[None]:
        self.log.append(("reap", node))
        return self.reaping(node)

    def received(self, node: str, envelope: Envelope) -> None:
        self.log.append(("received", node, envelope))

    def gap(self, node: str) -> None:
        self.log.append(("gap", node))

    def fenced(self, fenced: bool) -> None:
        self.log.append(("fenced", fenced))

    def evicted(self) -> Deferred[None]:
        self.log.append(("evicted",))
        self.interest.clear()
        return self.evicting

    def payloads(self, node: str | None = None) -> list[bytes]:
        """What `node` has forwarded, or anybody."""
        return [
            envelope.message.payload
            for sender, envelope in self.named("received")
            if isinstance(envelope, Forward) and node in (None, sender)
        ]


class Node:
    """A backplane with its reactor and its recorder."""

    def __init__(self, world: World, backplane: IBackplane, side: Side) -> None:
        self.world = world
        self.side = side
        self.backplane = backplane
        self.events = Recorder()

    @property
    def id(self) -> str:
        return self.backplane.node

    def start(self) -> Node:
        self.world.wait(self.backplane.start(self.events))
        return self

    def announce(self, *changes: RouteChange) -> None:
        self.world.wait(self.backplane.announce(changes))


class Cluster:
    """Nodes that share a Redis. At the end those that still run are stopped."""

    def __init__(self, world: World, url: str, prefix: str) -> None:
        self.world = world
        self.url = url
        self.prefix = prefix
        self.nodes: list[Node] = []
        self._dead: list[Node] = []

    def node(self, name: str = "", start: bool = True, timing: Timing = FAST, **options: Any) -> Node:
        side = Side(self.world)
        name = name or f"node{len(self.nodes)}"
        backplane = RedisBackplane(self.url, side, name, prefix=self.prefix, timing=timing, **options)
        node = Node(self.world, backplane, side)
        self.nodes.append(node)
        return node.start() if start else node

    def abandon(self, node: Node) -> None:
        """It dies: nothing of it runs any more."""
        node.side.stop()
        self.nodes.remove(node)
        self._dead.append(node)

    def close(self) -> None:
        for node in self.nodes:
            node.side.resume()
        for stopped in [node.backplane.stop() for node in self.nodes]:
            self.world.wait(stopped)
        # Nobody hears the threads of the dead, and nobody tells them that it is over: they would look for this Redis
        # for as long as the process of the tests lives.
        for node in self._dead:
            backplane: Any = node.backplane
            for thread in (backplane._streams, backplane._channels, backplane._writer):
                thread.stop()


def forward(number: int, size: int = 0) -> Forward:
    return Forward(Message("t", b"%d" % number + b"." * size, 1))
