"""Who is in the cluster: the keys of nodes, and how a member and a grave are written.

All times are those of Redis, in ms. A member's lease runs until `until`; `applied` is the number of the last route it
acts on. A node is *buried* when it has been silent for longer than its lease and a while; from then on it has a grave,
until a day after somebody has cleaned up after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mqttcluster.storage.redis_wire import Command
from mqttcluster.storage.redis_writer import run_script


@dataclass(frozen=True, slots=True)
class Timing:
    """In seconds. `lease`: how long a sign of life lets a node act. `dead_after`: how long a silent node is waited for.
    `beat`: how often a sign of life is given. `stale`: how far a node may be behind with the routes."""

    lease: float = 2.5
    dead_after: float = 6.0
    beat: float = 0.5
    stale: float = 1.0


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the others see it."""

    until: int
    live: bool
    applied: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What Redis answers to a sign of life. `behind`: the lease was not renewed, as too many routes are not applied."""

    behind: bool
    live: bool
    now: int
    head: int
    members: dict[str, Member]
    graves: dict[str, str]


class NodeKeys:
    """The names of the keys, for a prefix. A tag in braces keeps together what one script touches."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.config = f"{prefix}{{c}}:cfg"
        self.nodes = f"{prefix}{{c}}:nodes"
        self.routes = f"{prefix}{{c}}:routes"
        self.graves = f"{prefix}{{c}}:graves"
        self.everybody = f"{prefix}{{all}}:ch"

    def alive(self, node: str) -> str:
        """Is there while the node takes envelopes."""
        return f"{self._prefix}{{n:{node}}}:alive"

    def link(self, node: str) -> str:
        """The stream of envelopes for the node."""
        return f"{self._prefix}{{n:{node}}}:in"

    def want(self, node: str) -> str:
        """The hash of the node's interest: filter to bits."""
        return f"{self._prefix}{{n:{node}}}:want"

    def channel(self, node: str) -> str:
        """The pub/sub channel of the node."""
        return f"{self._prefix}{{n:{node}}}:ch"

    def beat(self, run: str, node: str, timing: Timing, join: bool, loaded: bool, applied: int) -> Command:
        """A sign of life; its answer is for `heartbeat`."""
        return run_script(
            "beat",
            (self.config, self.nodes, self.routes, self.graves),
            *(run, node, round(1000 * timing.lease), int(join), int(loaded), applied, round(1000 * timing.stale), "v1"),
        )

    def bury(self, run: str, node: str, timing: Timing, claimer: str, at_once: bool, finished: bool) -> Command:
        """Declare `node` dead, or clean-up after it finished. Answers CLAIMED or OK if the claimer's word counted."""
        silence = round(1000 * (timing.dead_after - timing.lease))
        keys = (self.config, self.nodes, self.routes, self.graves)
        return run_script("bury", keys, run, node, silence, claimer, int(at_once), int(finished))


def heartbeat(answer: Sequence[Any]) -> Heartbeat | str:
    """Read the answer to `NodeKeys.beat`: a heartbeat, or 'LOST', or 'DEAD'."""
    state, *rest = answer
    if state in (b"LOST", b"DEAD"):
        return "LOST" if state == b"LOST" else "DEAD"
    live, now, head, nodes, graves = rest
    return Heartbeat(state == b"BEHIND", live == b"live", now, head, members(nodes), read_graves(graves))


def members(flat: Sequence[bytes]) -> dict[str, Member]:
    """Read the hash of nodes."""
    result = {}
    for node, record in zip(flat[::2], flat[1::2], strict=True):
        until, state, applied = record.split(b" ", 3)[:3]
        result[node.decode()] = Member(int(until), state == b"live", int(applied))
    return result


def read_graves(flat: Sequence[bytes]) -> dict[str, str]:
    """Those that are not cleaned up yet, each with the node that has claimed it."""
    graves = {}
    for node, record in zip(flat[::2], flat[1::2], strict=True):
        claimer = record.partition(b" ")[2].decode()
        if claimer != "done":
            graves[node.decode()] = claimer
    return graves
