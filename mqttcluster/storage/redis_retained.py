"""What nodes ask to find out whether they know all retained messages [G6]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mqttcluster.core.message import Message
from mqttcluster.storage.records import decode_message
from mqttcluster.storage.redis_calls import Call, Simple
from mqttcluster.storage.redis_pipeline import Request
from mqttcluster.storage.redis_plan import Plan, Slot
from mqttcluster.storage.shared import RetainedChange

#: Changes told in one answer. Who has more to learn asks again.
MOST = 1000


def decode_value(value: bytes) -> tuple[int, Message]:
    """A retained message and its version, from what ``ret`` holds."""
    version, _, record = value.partition(b"|")
    return int(version), decode_message(record)


def since(partition: int, version: int) -> Call[tuple[int, list[RetainedChange]]]:
    def add(plan: Plan) -> Slot:
        names = plan.keys.retained(partition)[:3]
        return plan.command(Request([*names, version, MOST], "since", len(names)))

    return Simple(add, _changes)


def _changes(slot: Slot) -> tuple[int, list[RetainedChange]]:
    _, version, whole, pairs = slot.answer
    changes = [RetainedChange(0, "", None)] if whole else []
    changes += sorted(_told(pairs, int(version)), key=lambda change: change.version)
    return int(version), changes


def _told(pairs: list[Any], version: int) -> list[RetainedChange]:
    changes = []
    for topic, value in zip(pairs[::2], pairs[1::2], strict=True):
        at, message = decode_value(value) if value else (version, None)
        changes.append(RetainedChange(at, topic.decode(), message))
    return changes


class _Dropping(Call[dict[str, int]]):
    def __init__(self, topics: Sequence[str], now: float) -> None:
        super().__init__()
        self._topics = topics
        self._now = now

    def main(self, plan: Plan) -> None:
        self._slots = [plan.retain(topic, b"", expired_by=self._now) for topic in self._topics]

    def finish(self) -> dict[str, int]:
        versions = {topic: int(slot.answer) for topic, slot in zip(self._topics, self._slots, strict=True)}
        return {topic: version for topic, version in versions.items() if version}


def dropping(topics: Sequence[str], now: float) -> Call[dict[str, int]]:
    return _Dropping(topics, now)


class _Versions(Call[Sequence[int]]):
    def main(self, plan: Plan) -> None:
        partitions = range(plan.keys.config.retained_partitions)
        self._slots = [plan.command(Request(("HGET", plan.keys.retained(each)[0], "ver"))) for each in partitions]

    def finish(self) -> Sequence[int]:
        return [int(slot.answer or 0) for slot in self._slots]


def versions() -> Call[Sequence[int]]:
    return _Versions()
