"""What the log is told of a Redis that does not answer."""

from __future__ import annotations

#: Reasons told of one outage; there is one attempt after the other, for as long as it lasts.
MOST = 8


class Outage:
    """One thread's view. Each reason is told once: a Redis that is restarted may be away at first, and then refuse the
    password."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def is_news(self, problem: object) -> bool:
        """Whether the log is to be told of this `problem`."""
        text = str(problem)
        if text in self._told or len(self._told) >= MOST:
            return False
        self._told.add(text)
        return True

    def over(self) -> bool:
        """Redis has answered. Whether it did not before."""
        if not self._told:
            return False
        self._told.clear()
        return True
