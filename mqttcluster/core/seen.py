"""Which QoS 2 exchanges of a publisher have been delivered here already, for receivers without a queue in the store.

A publisher may repeat an exchange from another node. Its exchanges are numbered; below `low` all are over, so what is
remembered of one publisher is bounded by what it may have in flight.
"""

from __future__ import annotations

from collections import OrderedDict

#: Publishers remembered; the one that was silent for longest is forgotten first.
PUBLISHERS = 10_000
#: Numbers remembered of one publisher that does not say which are over.
NUMBERS = 1000


class Seen:
    """Numbers of exchanges, by publisher."""

    def __init__(self) -> None:
        self._publishers: OrderedDict[str, tuple[int, set[int]]] = OrderedDict()

    def first(self, publisher: str, number: int, low: int) -> bool:
        """Whether this exchange is new here. It is not a second time."""
        known, numbers = self._publishers.get(publisher, (0, set()))
        if number < known or number in numbers:
            return False
        if low > known:
            numbers = {n for n in numbers if n >= low}
            known = low
        numbers.add(number)
        if len(numbers) > NUMBERS:
            numbers.remove(min(numbers))
        self._publishers[publisher] = (known, numbers)
        self._publishers.move_to_end(publisher)
        if len(self._publishers) > PUBLISHERS:
            self._publishers.popitem(last=False)
        return True
