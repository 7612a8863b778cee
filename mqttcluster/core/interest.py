"""What this node wants from the others: one entry per filter, however many of its clients have it.

`LIVE`: somebody connected here has the filter. `LINKED`: somebody connected here has it and no queue in the store
serves QoS 1 and 2 for it: a clean session, or a durable one that was granted QoS 0. Other nodes are told of changes
only.
"""

from __future__ import annotations

LIVE, LINKED = 1, 2


class Interest:
    """Counts of the connected subscribers of this node, by filter."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}
        self._changed: dict[str, int] = {}

    def add(self, topic_filter: str, linked: bool) -> None:
        """A connected session has this filter now."""
        self._count(topic_filter, 1, 1 if linked else 0)

    def remove(self, topic_filter: str, linked: bool) -> None:
        """It has it no more."""
        self._count(topic_filter, -1, -1 if linked else 0)

    def _count(self, topic_filter: str, live: int, linked: int) -> None:
        before = self._counts.get(topic_filter, (0, 0))
        after = (before[0] + live, before[1] + linked)
        if after[0]:
            self._counts[topic_filter] = after
        else:
            self._counts.pop(topic_filter, None)
        if _bits(before) != _bits(after):
            # What was announced last stays the measure: two changes that cancel each other need no word.
            announced = self._changed.setdefault(topic_filter, _bits(before))
            if announced == _bits(after):
                del self._changed[topic_filter]

    def take_changes(self) -> list[tuple[str, int]]:
        """Filters whose bits differ from what was taken last, with their bits now."""
        changes = [(topic_filter, self.bits(topic_filter)) for topic_filter in self._changed]
        self._changed.clear()
        return changes

    def bits(self, topic_filter: str) -> int:
        """The bits of one filter, 0 for none."""
        return _bits(self._counts.get(topic_filter, (0, 0)))

    def everything(self) -> list[tuple[str, int]]:
        """All filters with their bits, for a node that starts anew."""
        return [(topic_filter, _bits(counts)) for topic_filter, counts in self._counts.items()]


def _bits(counts: tuple[int, int]) -> int:
    return (LIVE if counts[0] else 0) | (LINKED if counts[1] else 0)
