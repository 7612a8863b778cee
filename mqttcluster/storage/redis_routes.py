"""What this node announces, and who has yet to apply it: the barrier behind every SUBACK [G5].

One batch of changes is under way at a time, what comes meanwhile forms the next. Redis answers a batch with its number
and the members at that very moment. A batch is done when none of these can act on older routes any more: each has
applied it, or is buried, or its lease has run out by Redis's clock. A node that was joining then is not waited for: it
becomes live only after it has applied everything up to that number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred

from mqttcluster.storage.envelopes import encode, pack
from mqttcluster.storage.redis_members import Member, NodeKeys, members
from mqttcluster.storage.redis_wire import Command
from mqttcluster.storage.redis_writer import Call, run_script
from mqttcluster.storage.shared import NodeInterest, RouteChange

#: The largest number of changes in one batch, but for an announcement that is larger by itself.
BATCH = 1000


@dataclass(slots=True)
class _Announcement:
    changes: Sequence[RouteChange]
    items: Sequence[bytes]
    done: Deferred[None] = field(default_factory=Deferred)


@dataclass(slots=True)
class _Written:
    """A batch with its number, and the nodes that have not applied it."""

    number: int
    announcements: Sequence[_Announcement]
    nodes: set[str]


class Announcements:
    """`lost` is called with LOST or DEAD when Redis does not know this cluster, or this node, any more; `met` with the
    members that an answer has told of."""

    def __init__(
        self,
        keys: NodeKeys,
        submit: Callable[[Call], None],
        lost: Callable[[str], None],
        met: Callable[[dict[str, Member]], None],
    ) -> None:
        self._keys = keys
        self._submit = submit
        self._lost = lost
        self._met = met
        self._waiting: list[_Announcement] = []
        self._under_way: list[_Announcement] = []
        self._written: list[_Written] = []
        self._node = ""
        self._run = ""
        self._term = 0
        #: What the others know of this node's interest, or soon will.
        self.interest: dict[str, int] = {}

    def add(self, changes: Sequence[RouteChange]) -> Deferred[None]:
        """Announce with the next `flush`. Fires when everybody who may act has applied the changes.

        Raises `ValueError` for a change that cannot be told."""
        items = list(map(encode, changes))
        for change in changes:
            if isinstance(change, NodeInterest):
                if change.bits:
                    self.interest[change.topic_filter] = change.bits
                else:
                    self.interest.pop(change.topic_filter, None)
        announcement = _Announcement(changes, items)
        self._waiting.append(announcement)
        return announcement.done

    @property
    def is_open(self) -> bool:
        """Whether announcements may be written."""
        return bool(self._run)

    def open(self, node: str, run: str) -> None:
        """This node is a member, under this name, of the cluster of this run: announcements may be written."""
        self._node, self._run = node, run

    def close(self) -> None:
        """Hold announcements back until `open`. Whatever is not done is going to be announced again: that Redis may
        have lost it."""
        self._term += 1
        self._run = ""
        written = [announcement for batch in self._written for announcement in batch.announcements]
        self._waiting = written + self._under_way + self._waiting
        self._written, self._under_way = [], []

    def repeat_interest(self, written: Iterable[str]) -> None:
        """Announce this node's whole interest once more, before what waits: the Redis may have forgotten some. It has
        these filters, perhaps against this node's will."""
        bits = dict.fromkeys(written, 0) | self.interest
        changes: list[RouteChange] = [NodeInterest(name, number) for name, number in bits.items()]
        pieces = [changes[at : at + BATCH] for at in range(0, len(changes), BATCH)]
        self._waiting[:0] = [_Announcement(piece, list(map(encode, piece))) for piece in pieces]

    def forget_interest(self) -> None:
        """The node has lost all its clients, and goes on under a new name."""
        self.interest.clear()
        for announcement in self._waiting:
            announcement.changes = [c for c in announcement.changes if not isinstance(c, NodeInterest)]
            announcement.items = list(map(encode, announcement.changes))

    def flush(self) -> None:
        """Write what has collected, unless something is being written."""
        if not self._run or self._under_way or not self._waiting:
            return
        changes: list[RouteChange] = []
        items: list[bytes] = []
        while self._waiting and (not changes or len(changes) + len(self._waiting[0].changes) <= BATCH):
            announcement = self._waiting.pop(0)
            changes.extend(announcement.changes)
            items.extend(announcement.items)
            self._under_way.append(announcement)
        term = self._term

        def answered(answers: Sequence[Any], sent: float) -> None:
            if term == self._term:
                self._answered(answers[-1])

        keys = (self._keys.config, self._keys.nodes, self._keys.routes)
        parcel = pack(self._node, items)
        commands = [*self._wants(changes), run_script("announce", keys, self._run, self._node, parcel)]
        self._submit(Call(commands, answered))

    def _wants(self, changes: Sequence[RouteChange]) -> list[Command]:
        """The interest is kept for nodes that join later, and is there before it is announced."""
        final = {change.topic_filter: change.bits for change in changes if isinstance(change, NodeInterest)}
        key = self._keys.want(self._node)
        there = [value for name, bits in final.items() if bits for value in (name, bits)]
        gone = [name for name, bits in final.items() if not bits]
        commands: list[Command] = []
        if there:
            commands.append(("HSET", key, *there))
        if gone:
            commands.append(("HDEL", key, *gone))
        return commands

    def _answered(self, answer: Sequence[Any]) -> None:
        if answer[0] != b"OK":
            self._lost(answer[0].decode())
            return
        _, number, now, flat = answer
        present = members(flat)
        nodes = {node for node, member in present.items() if node != self._node and member.live and member.until >= now}
        batch = _Written(number, self._under_way, nodes)
        self._under_way = []
        self._written.append(batch)
        self._met(present)
        self.check(now, present)
        self.flush()

    def applied(self, node: str, number: int) -> None:
        """A node says how far it has come."""
        for batch in self._written:
            if batch.number <= number:
                batch.nodes.discard(node)
        self._release()

    def buried(self, node: str) -> None:
        """A node will never act again."""
        for batch in self._written:
            batch.nodes.discard(node)
        self._release()

    def idle(self) -> bool:
        """Whether everything is written that was announced."""
        return not (self._waiting or self._under_way)

    def check(self, now: int, present: Mapping[str, Member]) -> None:
        """Look again at those who are waited for."""
        for batch in self._written:
            batch.nodes = {
                node
                for node in batch.nodes
                if (member := present.get(node))
                and member.live
                and member.until >= now
                and member.applied < batch.number
            }
        self._release()

    def awaited(self) -> set[str]:
        """The nodes that somebody waits for."""
        return {node for batch in self._written for node in batch.nodes}

    def _release(self) -> None:
        done = [batch for batch in self._written if not batch.nodes]
        if done:
            self._written = [batch for batch in self._written if batch.nodes]
            for batch in done:
                for announcement in batch.announcements:
                    announcement.done.callback(None)
