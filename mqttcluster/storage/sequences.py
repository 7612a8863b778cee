"""Which sequences of a session are still queued, without a row read from anywhere.

Sequences are given out without gaps and mostly acknowledged in order, so what is left is one or a few runs of
neighbouring numbers, however long the queue is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


class Sequences:
    """A set of growing numbers, kept as runs. `runs` are pairs (lowest, highest), in order."""

    __slots__ = ("_count", "_high", "_low")

    def __init__(self) -> None:
        self._low: list[int] = []
        self._high: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def runs(self) -> list[tuple[int, int]]:
        return list(zip(self._low, self._high, strict=True))

    def copy(self) -> Sequences:
        other = Sequences()
        other._low, other._high, other._count = self._low.copy(), self._high.copy(), self._count
        return other

    def append(self, low: int, high: int | None = None) -> None:
        """Add `low`, or all from `low` to `high`; they are larger than what is there."""
        high = low if high is None else high
        if self._high and self._high[-1] == low - 1:
            self._high[-1] = high
        else:
            self._low.append(low)
            self._high.append(high)
        self._count += high - low + 1

    def remove(self, sequence: int) -> bool:
        """Take one out. False: it is not there."""
        at = bisect_right(self._low, sequence) - 1
        if at < 0 or self._high[at] < sequence:
            return False
        low, high = self._low[at], self._high[at]
        if low == high:
            del self._low[at], self._high[at]
        elif sequence == low:
            self._low[at] += 1
        elif sequence == high:
            self._high[at] -= 1
        else:
            self._low.insert(at + 1, sequence + 1)
            self._high.insert(at, sequence - 1)
        self._count -= 1
        return True

    def after(self, sequence: int) -> int | None:
        """The lowest one above `sequence`."""
        at = bisect_right(self._high, sequence)
        return max(self._low[at], sequence + 1) if at < len(self._low) else None


def in_a_row(answers: Sequence[int]) -> tuple[int, int]:
    """What became of a run, from the answers for its messages: as `PublishedRun` has it. Behind one that was not queued
    none was."""
    return answers[0], sum(answer > 0 for answer in answers)
