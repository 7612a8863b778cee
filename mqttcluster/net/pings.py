"""Signs of life for connections that may be silent for long: one timer for all of them.

Balancers and proxies cut a connection on which nothing moves for a while, often a minute; and a browser whose machine
sleeps, or whose network has gone, says nothing at all. So every connection has its turn once in an interval: it is
pinged, and one that has not answered until its next turn is dead.

    ticks      1     2     3    ...   25     1     2
               ├─────┼─────┼──── ─ ────┼─────┼─────┤
    slot 1     turn                          turn          a connection joins the slot whose turn has just been
    slot 2           turn                          turn    and stays there

The slots spread the work, and the memory that a connection takes is its place in a set.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mqttcluster.net.interfaces import Clock

_log = Logger()

#: Turns of the timer in an interval.
SLOTS = 25


class Pinged(Protocol):
    """A connection that takes turns."""

    def turn(self) -> None:
        """An interval has passed since it joined, or since the last turn. It may leave, and others may."""


class Pings:
    """Gives every connection that has joined a turn once in `interval` seconds; never, if that is 0.

    The timer runs only while somebody has joined.
    """

    def __init__(self, interval: float, clock: Clock) -> None:
        self._tick = interval / SLOTS
        self._clock = clock
        self._slots: list[set[Pinged]] = [set() for _ in range(SLOTS)]
        self._now = 0
        self._count = 0
        self._timer: IDelayedCall | None = None

    def join(self, connection: Pinged) -> int:
        """Its slot, to be given back to `leave`. Its first turn comes after an interval, or up to one tick less."""
        self._slots[self._now].add(connection)
        self._count += 1
        if self._timer is None and self._tick:
            self._timer = self._clock.callLater(self._tick, self._next)
        return self._now

    def leave(self, connection: Pinged, slot: int) -> None:
        """It takes no more turns. Each connection that has joined leaves once."""
        self._slots[slot].remove(connection)
        self._count -= 1
        if not self._count and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._timer = self._clock.callLater(self._tick, self._next)
        self._now = (self._now + 1) % SLOTS
        slot = self._slots[self._now]
        for connection in list(slot):
            if connection in slot:
                try:
                    connection.turn()
                except Exception:
                    _log.failure("a connection failed when it was its turn")
