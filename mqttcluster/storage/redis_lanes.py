"""The two lanes to other nodes: `Casts` for what may be lost, `Links` for what may not.

Both collect what is said in one turn of the reactor and send it as one parcel per receiver. A link's parcels are
numbered per receiver from 1, and the next one leaves when the last was answered: after an answer that was lost the same
number is sent again, and the receiver drops what it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mqttcluster.storage.envelopes import Item, encode, pack
from mqttcluster.storage.redis_members import NodeKeys
from mqttcluster.storage.redis_writer import Call, run_script
from mqttcluster.storage.shared import Forward, RunForward, Shared

#: A parcel is closed when it has so many bytes; one envelope may be larger.
PARCEL = 64 * 1024
#: How many parcels may wait in a link in Redis, and how many bytes here before `Links.congested`, or in `Casts`.
BOUND, BACKLOG = 1000, 8 * 1024 * 1024
#: A full link is tried again after so many seconds.
FULL_PAUSE = 0.05

Submit = Callable[[Call], None]


class Casts:
    """At most once, by pub/sub. Past `BACKLOG` bytes that Redis has not taken messages are dropped; `dropped` is told
    how many envelopes [G9]."""

    def __init__(self, sender: str, keys: NodeKeys, submit: Submit, dropped: Callable[[int], None]) -> None:
        self._sender = sender
        self._keys = keys
        self._submit = submit
        self._dropped = dropped
        self._waiting: dict[str, list[bytes]] = {}
        self._backlog = 0

    def add(self, node: str | None, item: Item) -> None:
        """For one node, or for all."""
        if self._backlog > BACKLOG and isinstance(item, (Forward, RunForward, Shared)):
            self._dropped(1)
            return
        channel = self._keys.everybody if node is None else self._keys.channel(node)
        data = encode(item)
        self._backlog += len(data)
        self._waiting.setdefault(channel, []).append(data)

    def flush(self) -> None:
        """Send what has collected."""
        waiting, self._waiting = self._waiting, {}
        for channel, items in waiting.items():
            for part in parts(items):
                over = partial(self._over, sum(map(len, part)))
                self._submit(Call([("PUBLISH", channel, pack(self._sender, part))], repeat=False, over=over))

    def _over(self, size: int) -> None:
        """Redis has taken so many bytes, or they are lost."""
        self._backlog -= size


def parts(items: Sequence[bytes]) -> list[list[bytes]]:
    """Cut into parcels."""
    result: list[list[bytes]] = []
    size = PARCEL
    for item in items:
        if size + len(item) > PARCEL:
            result.append([])
            size = 0
        result[-1].append(item)
        size += len(item)
    return result


@dataclass(slots=True)
class _Link:
    """What waits for one node. `under_way` are those who wait for the parcel with `number`."""

    waiting: deque[tuple[bytes, Deferred[bool]]] = field(default_factory=deque)
    number: int = 0
    parcel: bytes = b""
    under_way: list[Deferred[bool]] = field(default_factory=list)
    size: int = 0
    full: bool = False
    doubtful: bool = False
    since: float = 0.0


class Links:
    """To each node in order, and nothing twice. `doubt` is called when a node seems to be gone: whether it is, the next
    heartbeat tells (`settle`), since a Redis that was emptied answers the same."""

    def __init__(
        self, sender: str, keys: NodeKeys, submit: Submit, clock: IReactorTime, doubt: Callable[[], None], bound: int
    ) -> None:
        self._sender = sender
        self._keys = keys
        self._submit = submit
        self._clock = clock
        self._doubt = doubt
        self._bound = bound
        self._links: dict[str, _Link] = {}
        # Kept for ever: a node that was given up and comes back would take a number that begins again for a repetition.
        self._numbers: dict[str, int] = {}
        self._touched: set[str] = set()
        self._backlog = 0
        self._full = 0
        #: Told of each parcel that was taken: seconds it took, envelopes in it.
        self.observer: Callable[[float, int], None] | None = None

    @property
    def backlog(self) -> int:
        """Bytes that wait to be taken."""
        return self._backlog

    def congested(self) -> bool:
        """Whether whoever feeds the links is to pause: one of them is full, or too much waits."""
        return self._full > 0 or self._backlog > BACKLOG

    def idle(self) -> bool:
        """Whether nothing waits."""
        return not any(link.under_way or link.waiting for link in self._links.values())

    def add(self, node: str, item: Item) -> Deferred[bool]:
        """Fires True when the link has it, False when the node is gone."""
        data = encode(item)
        accepted: Deferred[bool] = Deferred()
        self._links.setdefault(node, _Link()).waiting.append((data, accepted))
        self._touched.add(node)
        self._backlog += len(data)
        return accepted

    def flush(self) -> None:
        """Send what has collected."""
        touched, self._touched = self._touched, set()
        for node in touched:
            self._next(node)

    def doubtful(self) -> list[str]:
        """Nodes that seem to be gone."""
        return [node for node, link in self._links.items() if link.doubtful]

    def settle(self, doubtful: Sequence[str], members: Mapping[str, object]) -> None:
        """`members` were asked for after these nodes had become doubtful."""
        for node in doubtful:
            link = self._links.get(node)
            if link is None:
                continue
            if node not in members:
                self.gone(node)
            elif link.doubtful:
                link.doubtful = False
                self._send(node, link)

    def gone(self, node: str) -> None:
        """Nobody will read this link any more."""
        link = self._links.pop(node, None)
        if link is not None:
            self._backlog -= link.size + sum(len(data) for data, _ in link.waiting)
            self._full -= link.full
            for accepted in [*link.under_way, *(accepted for _, accepted in link.waiting)]:
                accepted.callback(False)

    def all_gone(self) -> None:
        """The sender itself is."""
        for node in list(self._links):
            self.gone(node)

    def _next(self, node: str) -> None:
        link = self._links.get(node)
        if link is None or link.under_way or not link.waiting:
            return
        items: list[bytes] = []
        link.size = 0
        while link.waiting and (not items or link.size + len(link.waiting[0][0]) <= PARCEL):
            data, accepted = link.waiting.popleft()
            items.append(data)
            link.under_way.append(accepted)
            link.size += len(data)
        link.number = self._numbers[node] = self._numbers.get(node, 0) + 1
        link.parcel = pack(self._sender, items)
        link.since = self._clock.seconds()
        self._send(node, link)

    def _send(self, node: str, link: _Link) -> None:
        if self._links.get(node) is not link:
            return
        keys = (self._keys.alive(node), self._keys.link(node))
        command = run_script("link", keys, link.number, link.parcel, self._bound)

        def answered(answers: Sequence[Any], sent: float) -> None:
            self._answered(node, link, answers[0])

        self._submit(Call([command], answered))

    def _answered(self, node: str, link: _Link, answer: bytes) -> None:
        if self._links.get(node) is not link:
            return
        self._full += (answer == b"FULL") - link.full
        link.full = answer == b"FULL"
        if link.full:
            self._clock.callLater(FULL_PAUSE, self._send, node, link)
        elif answer == b"GONE":
            link.doubtful = True
            self._doubt()
        else:
            accepted, link.under_way = link.under_way, []
            self._backlog -= link.size
            link.size, link.parcel = 0, b""
            if self.observer is not None:
                self.observer(self._clock.seconds() - link.since, len(accepted))
            self._next(node)
            for each in accepted:
                each.callback(True)
