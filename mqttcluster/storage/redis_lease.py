"""The lease as its holder sees it: the right to act on routes, until a moment of a clock that never stands still.

The moment is counted from when the sign of life was *sent*, so Redis ends the lease later than its holder does, never
earlier.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def boottime() -> float:
    """Seconds of a clock that goes on while this machine sleeps, or this process is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """`fenced` is told True when the lease is found to have run out, and False when it is back, always in turn. A lease
    begins as one that has run out."""

    def __init__(self, clock: Callable[[], float], fenced: Callable[[bool], None]) -> None:
        self._clock = clock
        self._fenced = fenced
        self._held = False
        self._since = self._deadline = 0.0

    @property
    def held(self) -> bool:
        """Whether it has not been found to have run out."""
        return self._held

    def valid(self) -> bool:
        """Whether it holds at this very moment."""
        return self._held and self._clock() < self._deadline

    def remaining(self) -> float:
        """Seconds until it runs out."""
        return max(0.0, self._deadline - self._clock()) if self._held else 0.0

    def steady(self) -> float:
        """For how many seconds it has held without a lapse."""
        return self._clock() - self._since if self.valid() else 0.0

    def renew(self, deadline: float) -> None:
        """It was granted until then."""
        self.look()
        now = self._clock()
        if now < deadline:
            self._deadline = deadline
            if not self._held:
                self._held, self._since = True, now
                self._fenced(False)

    def look(self) -> None:
        """See whether it has run out."""
        if not self.valid():
            self.lapse()

    def lapse(self) -> None:
        """It holds no more, whatever the clock says."""
        if self._held:
            self._held = False
            self._fenced(True)
