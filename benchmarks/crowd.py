"""Many clients that do nothing: how fast they connect, and what each of them costs in memory."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import wire
from benchmarks.links import Entry, enter
from benchmarks.programs import Usage, memory


def connects(port: int, run: str, transport: str, version: int, count: int, pids: list[int]) -> dict[str, Any]:
    """Connect `count` clients, of which all stay. Connections per second, and bytes of memory for each.

    Processor time is given per connection.
    """
    usage = Usage(pids)
    usage.settle()
    before = sum(map(memory, pids))
    usage.begin()
    began = time.monotonic()
    links = enter((Entry(f"c-{run}-{n}", port) for n in range(count)), transport, version)
    took = time.monotonic() - began
    used = usage.end()
    usage.settle()
    after = sum(map(memory, pids))
    for link in links[:: max(1, count // 100)]:
        link.tell(wire.PINGREQ)
        assert link.exactly(2) == b"\xd0\x00", "a connection does not live"
    result = {"rate": count / took, "bytes": (after - before) / count, **used.per(count, took)}
    return {**result, "lost": 0, "repeated": 0, "reordered": 0}


def sessions(port: int, run: str, version: int, count: int, pids: list[int]) -> dict[str, Any]:
    """Bytes of memory for each of `count` sessions that outlive their connections, with one subscription each."""
    usage = Usage(pids)
    usage.settle()
    before = sum(map(memory, pids))
    usage.begin()
    began = time.monotonic()
    for first in range(0, count, 500):
        entries = [
            Entry(f"o-{run}-{n}", port, False, [f"sessions/{run}/{n}"], 1)
            for n in range(first, min(first + 500, count))
        ]
        for link in enter(entries, "tcp", version):
            link.tell(wire.DISCONNECT)
            link.close()
    took = time.monotonic() - began
    used = usage.end()
    usage.settle()
    after = sum(map(memory, pids))
    result = {"rate": count / took, "bytes": (after - before) / count, **used.per(count, took)}
    return {**result, "lost": 0, "repeated": 0, "reordered": 0}
