"""Redis and the nodes, and what is done to them: each fault is logged with its times."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.nodes import Cluster, Node
from tests.support import certificates

#: What no healthy node writes, beside what `Node.faults` looks for.
TROUBLE = re.compile(r"#(error|critical)\]|[Ff]ailure")
#: What they do write while Redis is away, and when they were taken for dead.
EXPECTED = re.compile(
    r"Redis is away|Redis does not answer|the store is away|cannot read retained messages"
    r"|taken this one for dead|buried this node|declared this one dead"
)
#: How long after a fault something may still be due to it: burial and what follows, seconds.
AFTERMATH = 10.0
#: A node may grow by so much, bytes.
GROWTH = 100_000_000
REDIS = -1


@dataclass
class Fault:
    kind: str
    #: Index of the node, or REDIS.
    victim: int
    began: float
    ended: float = float("inf")


class World:
    """`count` nodes on a Redis that keeps what it acknowledged. Times are those of `time.monotonic`."""

    def __init__(self, directory: Path, count: int, seed: int, say: Callable[[str], None]) -> None:
        (directory / "certificates").mkdir()
        options = ["--max-queued", "100000"]
        self.cluster = Cluster(count, directory, certificates.make(directory / "certificates"), options, "always")
        self.faults: list[Fault] = []
        self.violations: list[str] = []
        self.began = time.monotonic()
        self._say = say
        self._chance = random.Random(f"faults {seed}")
        self._busy: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: pid -> bytes it held when it was first looked at, and at most.
        self.memory: dict[int, tuple[str, int, int]] = {}
        self._kinds: dict[str, tuple[int, Callable[[int, float], Awaitable[None]]]] = {
            "kill": (3, self._kill),
            "drain": (3, self._drain),
            "freeze": (6, self._freeze),
            "cut redis connections": (5, self._cut),
            "freeze redis": (2, self._freeze_redis),
            "restart redis": (2, self._restart_redis),
        }

    @property
    def nodes(self) -> list[Node]:
        return self.cluster.nodes

    def start(self) -> None:
        self.cluster.start()

    def say(self, text: str) -> None:
        self._say(f"{time.monotonic() - self.began:8.2f}  {text}")

    def violation(self, text: str) -> None:
        self.violations.append(text)
        self.say(f"VIOLATION  {text}")

    def disturbed(self, victim: int | None, start: float, end: float, kinds: str = "") -> bool:
        """Whether a fault of this node (None: any), or of Redis, touched the time between; `kinds` is a regular
        expression of those that count."""
        return any(
            fault.began <= end and fault.ended >= start and re.search(kinds, fault.kind)
            for fault in self.faults
            if victim is None or fault.victim in (victim, REDIS)
        )

    async def storm(self, seconds: float, gap: float) -> None:
        """Faults, on average one every `gap` seconds, several at a time; back when the last has ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._chance.expovariate(1 / gap)))
            kinds, weights = zip(*((kind, weight) for kind, (weight, _) in self._kinds.items()))
            kind = self._chance.choices(kinds, weights)[0]
            victim = REDIS if "redis" in kind else self._chance.randrange(len(self.nodes))
            pause = self._chance.uniform(0.5, 8)
            if victim not in self._busy and end > time.monotonic():
                self._busy.add(victim)
                task = asyncio.create_task(self._do(kind, victim, pause))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _do(self, kind: str, victim: int, pause: float) -> None:
        name = "redis" if victim == REDIS else self.nodes[victim].name
        fault = Fault(kind, victim, time.monotonic())
        self.faults.append(fault)
        self.say(f"{kind} {name} {pause:.1f}")
        try:
            await self._kinds[kind][1](victim, pause)
        except Exception as error:
            self.violation(f"{kind} {name}: {error}"[:2000])
        fault.ended = time.monotonic()
        self.say(f"{kind} {name} is over")
        self._busy.discard(victim)

    async def _kill(self, victim: int, pause: float) -> None:
        node = self.nodes[victim]
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(pause if pause > 2 else 0)
        await self._start(node)

    async def _drain(self, victim: int, pause: float) -> None:
        node = self.nodes[victim]
        await asyncio.to_thread(node.stop)
        await asyncio.sleep(pause if pause > 4 else 0)
        await self._start(node)

    async def _start(self, node: Node) -> None:
        """As a supervisor does: a node that finds no Redis ends, and is started again."""
        while True:
            began = time.monotonic()
            try:
                return await asyncio.to_thread(node.start)
            except AssertionError:
                if not self.disturbed(REDIS, began - 1, time.monotonic()):
                    raise
                self.say(f"{node.name} has not started, while Redis was away")

    async def _freeze(self, victim: int, pause: float) -> None:
        self.nodes[victim].freeze()
        await asyncio.sleep(pause)
        self.nodes[victim].thaw()

    async def _cut(self, _victim: int, pause: float) -> None:
        def cut() -> None:
            with self.cluster.redis.client() as client:
                for each in kinds:
                    client.execute_command("CLIENT", "KILL", "TYPE", each, "SKIPME", "yes")

        kinds = ("normal", "pubsub") if pause > 6 else ("pubsub",) if pause > 3 else ("normal",)
        await asyncio.to_thread(cut)

    async def _freeze_redis(self, _victim: int, pause: float) -> None:
        self.cluster.redis.pause()
        await asyncio.sleep(pause)
        self.cluster.redis.resume()

    async def _restart_redis(self, _victim: int, pause: float) -> None:
        redis = self.cluster.redis
        await asyncio.to_thread(redis.kill if pause > 6 else redis.stop)
        await asyncio.sleep(pause / 2 if pause > 2 else 0)
        await asyncio.to_thread(redis.start)

    async def watch_memory(self) -> None:
        """Look now and then what the nodes hold."""
        while True:
            await asyncio.sleep(2)
            for node in self.nodes:
                try:
                    pid, held = node.pid, node.memory()
                except (AssertionError, OSError):
                    continue
                name, first, most = self.memory.get(pid, (node.name, held, held))
                self.memory[pid] = name, first, max(most, held)
                if held > first + GROWTH >= most:
                    self.violation(f"{node.name} has grown from {first >> 20} to {held >> 20} MiB")

    def look_into_logs(self) -> None:
        for node in self.nodes:
            for line in node.log.since(0):
                if TROUBLE.search(line) and not EXPECTED.search(line):
                    self.violation(f"log of {node.name}: {line}")
            for line in node.faults():
                self.violation(f"log of {node.name}: {line}")

    def save(self, directory: Path) -> None:
        """Write the nodes' logs."""
        for node in self.nodes:
            (directory / f"{node.name}.log").write_text(str(node.log) + "\n")

    def stop(self) -> None:
        self.cluster.redis.resume()
        try:
            self.cluster.stop()
        except Exception as error:
            self.violation(f"at the end: {error}"[:2000])
