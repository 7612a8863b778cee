"""What a backplane tells its broker: who is there, what the others want and say, and what went wrong.

An event that fails in the broker is logged, and stops nothing that comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from mqttcluster.storage.envelopes import Applied, Item
from mqttcluster.storage.redis_members import Member
from mqttcluster.storage.redis_readers import Parcel
from mqttcluster.storage.shared import (
    BackplaneEvents,
    Envelope,
    NodeInterest,
    RouteChange,
    SessionChange,
)

log = Logger(namespace="mqttcluster.redis")


@dataclass(slots=True)
class Counts:
    """What a backplane has seen go wrong: parcels by channel that were not sent, times that a channel was interrupted,
    gaps in links, items that made no sense, leases that ran out, and how often the state was loaded."""

    casts_dropped: int = 0
    channel_gaps: int = 0
    link_gaps: int = 0
    skipped: int = 0
    lapses: int = 0
    loads: int = 0


class News:
    """Of one `node`, which has a new id when it comes back from the dead. `applied` is called when another node says
    how far it has come with the routes."""

    def __init__(self, applied: Callable[[str, int], None]) -> None:
        self._applied = applied
        self.node = ""
        self.events: BackplaneEvents | None = None
        self.members: dict[str, Member] = {}
        # Nodes that were ever seen and are not known to be gone; and those of which routes were told.
        self._known: set[str] = set()
        self._routed: set[str] = set()
        self.counts = Counts()

    def meet(self, members: Mapping[str, Member]) -> None:
        """These are the members now."""
        self.members = {node: member for node, member in members.items() if node != self.node}
        self._known |= self.members.keys()

    def load(self) -> Deferred[None]:
        """Let the broker read the state. What it was told before may be out of date, so it forgets that first."""
        for node in self._routed | (self._known - self.members.keys()):
            self._tell("gone", node)
        self._routed, self._known = set(), set(self.members)
        self.counts.loads += 1
        assert self.events is not None
        return maybeDeferred(self.events.load)

    def routes(self, origin: str, changes: Sequence[Item]) -> None:
        """Also of this node's own sessions: their changes by all nodes are applied in one order everywhere."""
        for change in changes:
            if isinstance(change, SessionChange) or (isinstance(change, NodeInterest) and origin != self.node):
                self._route(origin, change)
            elif not isinstance(change, NodeInterest):
                self.counts.skipped += 1

    def _route(self, origin: str, change: RouteChange) -> None:
        if origin != self.node:
            self._routed.add(origin)
        self._tell("route", origin, change)

    def gone(self, node: str) -> None:
        """A node is dead or has left."""
        self.members.pop(node, None)
        self._routed.discard(node)
        self._known.discard(node)
        self._tell("gone", node)

    def parcels(self, parcels: Sequence[Parcel]) -> None:
        """What came by a lane."""
        for parcel in parcels:
            if parcel.sender == self.node:
                continue
            if parcel.gap:
                self.counts.link_gaps += 1
                self._tell("gap", parcel.sender)
            for item in parcel.items:
                if isinstance(item, Applied):
                    self._applied(parcel.sender, item.number)
                elif isinstance(item, Envelope):
                    self._tell("received", parcel.sender, item)
                else:
                    self.counts.skipped += 1

    def fenced(self, fenced: bool) -> None:
        """The lease has run out, or is back."""
        self.counts.lapses += fenced
        self._tell("fenced", fenced)

    def reap(self, node: str) -> Deferred[None]:
        """Let the broker clean up after a node."""
        assert self.events is not None
        return self.events.reap(node)

    def evicted(self) -> Deferred[None]:
        """This node is dead for the others. Fires when nothing is left of it; never fails."""
        self.members.clear()
        self._known.clear()
        self._routed.clear()
        assert self.events is not None
        closed = maybeDeferred(self.events.evicted)
        return closed.addErrback(lambda failure: log.failure("connections could not be closed", failure))

    def _tell(self, event: str, *values: object) -> None:
        try:
            getattr(self.events, event)(*values)
        except Exception:
            log.failure("the event {event} failed", event=event)
