"""Deadlines of many, with one timer.

Every connection has a deadline at any time: for its CONNECT, for its silence, for its end. A timer of the reactor for
each of them would be a tenth of what an idle connection costs. One that is not wanted any more stays in the heap as a
few bytes until its time has come, or until most of the heap is of that kind.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Mortal(Protocol):
    """Somebody with a deadline."""

    def due(self) -> None:
        """The deadline has come."""


#: When, a number that makes entries differ, and who; nobody if it is not wanted any more.
Deadline = list[Any]

#: Unwanted entries that are let be.
SPARE = 1000


class Deadlines:
    """`clock` is the reactor, or a `Clock` in tests."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._heap: list[Deadline] = []
        self._numbers = count()
        self._unwanted = 0
        self._timer: IDelayedCall | None = None
        self._next = 0.0

    def at(self, when: float, who: Mortal) -> Deadline:
        """Call `who.due()` at a time of the clock, in seconds."""
        deadline: Deadline = [when, next(self._numbers), who]
        heappush(self._heap, deadline)
        if self._timer is None or when < self._next:
            self._set()
        return deadline

    def forget(self, deadline: Deadline) -> None:
        """Call nobody, if that has not been done yet."""
        if deadline[2] is not None:
            deadline[2] = None
            self._unwanted += 1
            if self._unwanted > SPARE and self._unwanted * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2] is not None]
                heapify(self._heap)
                self._unwanted = 0

    def _set(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._heap:
            self._next = self._heap[0][0]
            self._timer = self._clock.callLater(max(self._next - self._clock.seconds(), 0), self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        try:
            while self._heap and self._heap[0][0] <= now:
                deadline = heappop(self._heap)
                who, deadline[2] = deadline[2], None
                if who is None:
                    self._unwanted -= 1
                else:
                    who.due()
        finally:  # whatever happens to one, the others are due in their time
            if self._timer is None:
                self._set()
