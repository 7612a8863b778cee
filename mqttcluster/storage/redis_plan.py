"""What goes to Redis in one pipeline: the operations of many calls, sorted by partition.

Each partition gets one call of ``partition.lua`` (or ``retain.lua``) with all of its operations in the order they were
added, so a large batch costs Redis few calls, and nothing that one node asks of a session overtakes anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mqttcluster.storage.interfaces import QueueLimits, StoreError
from mqttcluster.storage.redis_keys import Keys
from mqttcluster.storage.redis_pipeline import Pipeline, Request, refused


class Slot:
    """Where the answer to one operation will be: `answer` for good, `read` beside it. Asking raises what went wrong."""

    __slots__ = ("_answer", "_error", "_read")

    def __init__(self) -> None:
        self._answer: Any = None
        self._read: Any = None
        self._error: StoreError | None = None

    @property
    def answer(self) -> Any:
        self.check()
        return self._answer

    @property
    def read(self) -> Any:
        self.check()
        return self._read

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def fill(self, answer: Any, read: Any, error: StoreError | None) -> None:
        self._answer, self._read, self._error = answer, read, error


@dataclass(slots=True)
class _Acknowledgement:
    """Acknowledgements of one connection that are carried out together."""

    epoch: int
    slot: Slot
    lists: tuple[list[int], list[int], list[int]]


class _Partition:
    """The operations for one partition of the sessions."""

    def __init__(self, keys: Keys, number: int) -> None:
        self._keys = keys
        self._number = number
        self._names = keys.common(number)
        self._sessions: dict[str, int] = {}
        self._messages: list[bytes] = []
        self._indexes: dict[int, int] = {}
        self._operations: list[tuple[object, ...] | _Acknowledgement] = []
        self._sessions_of: list[int] = []
        self._slots: list[Slot] = []
        self._acknowledged: dict[int, _Acknowledgement] = {}

    def session(self, client_id: str) -> int:
        """The number of this session in the script's keys."""
        number = self._sessions.get(client_id)
        if number is None:
            number = self._sessions[client_id] = len(self._sessions) + 1
            self._names += self._keys.session(self._number, client_id)
        return number

    def message(self, record: bytes) -> int:
        """The number of this record in the script's arguments. The same bytes object goes there once."""
        index = self._indexes.get(id(record))
        if index is None:
            self._messages.append(record)
            index = self._indexes[id(record)] = len(self._messages)
        return index

    def add(self, letter: str, *arguments: object) -> Slot:
        slot = Slot()
        self._slots.append(slot)
        self._operations.append((letter, len(arguments), *arguments))
        return slot

    def add_for(self, letter: str, client_id: str, *arguments: object) -> Slot:
        """Add an operation on a session."""
        number = self.session(client_id)
        self._acknowledged.pop(number, None)
        return self.add(letter, number, *arguments)

    def acknowledge(self, client_id: str, epoch: int, lists: Sequence[Iterable[int]]) -> Slot:
        """Add to the acknowledgement before, unless something else happened to this session in between."""
        number = self.session(client_id)
        before = self._acknowledged.get(number)
        if before is None or before.epoch != epoch:
            before = self._acknowledged[number] = _Acknowledgement(epoch, Slot(), ([], [], []))
            self._slots.append(before.slot)
            self._sessions_of.append(number)
            self._operations.append(before)
        for known, new in zip(before.lists, lists, strict=True):
            known.extend(new)
        return before.slot

    def request(self, batch: int, limits: QueueLimits, now: float) -> Request:
        arguments: list[object] = [batch, limits.messages, int(limits.drop_oldest), repr(now), len(self._messages)]
        arguments += self._messages
        sessions = iter(self._sessions_of)
        for operation in self._operations:
            if isinstance(operation, _Acknowledgement):
                length = 5 + sum(map(len, operation.lists))
                arguments += ("a", length, next(sessions), operation.epoch)
                for sequences in operation.lists:
                    arguments.append(len(sequences))
                    arguments += sequences
            else:
                arguments += operation
        return Request([*self._names, *arguments], "partition", len(self._names))

    def fill(self, request: Request) -> None:
        fill(self._slots, request, request.reply[1:] if request.error is None else None)


class _Retained:
    """The changes for one partition of the topics."""

    def __init__(self, keys: Keys, number: int) -> None:
        self._names = keys.retained(number)
        self._arguments: list[object] = []
        self._slots: list[Slot] = []

    def add(self, topic: str, record: bytes, who: str, x: object, low: object, now: str) -> Slot:
        slot = Slot()
        self._slots.append(slot)
        self._arguments += (topic, record, who, x, low, now)
        return slot

    def request(self, batch: int, limits: QueueLimits, now: float) -> Request:
        return Request([*self._names, batch, *self._arguments], "retain", len(self._names))

    def fill(self, request: Request) -> None:
        versions = request.reply[1] if request.error is None else None
        fill(self._slots, request, None if versions is None else (versions, versions))


def fill(slots: Sequence[Slot], request: Request, answers: Sequence[Sequence[Any]] | None) -> None:
    if answers is None:
        for slot in slots:
            slot.fill(None, None, request.error)
        return
    for slot, answer, read in zip(slots, answers[0], answers[1], strict=True):
        if answer == b"ERR":
            text = read.decode(errors="replace") if isinstance(read, bytes) else "it was repeated"
            slot.fill(None, None, refused(text))
        else:
            slot.fill(answer, read, None)


class Plan:
    """Operations to be carried out together. `batch` is the number that makes the plan happen once, also when it is
    sent again; it grows with each plan of a node."""

    def __init__(self, keys: Keys, limits: QueueLimits) -> None:
        self.keys = keys
        #: When this is, for queues that are full of what has expired; seconds since 1970.
        self.now = 0.0
        self._limits = limits
        self._partitions: dict[int, _Partition] = {}
        self._retained: dict[int, _Retained] = {}
        self._commands: list[tuple[Request, Slot]] = []

    def __bool__(self) -> bool:
        return bool(self._partitions or self._retained or self._commands)

    def partition(self, number: int) -> _Partition:
        partition = self._partitions.get(number)
        if partition is None:
            partition = self._partitions[number] = _Partition(self.keys, number)
        return partition

    def of(self, client_id: str) -> _Partition:
        """The partition of this client id."""
        return self.partition(self.keys.partition(client_id))

    def retain(
        self,
        topic: str,
        record: bytes,
        who: str = "",
        x: object = "",
        low: object = "",
        expired_by: float | None = None,
    ) -> Slot:
        """Set what is retained for `topic`, or remove it if `record` is empty; `expired_by`: only what has expired by
        then. Answers the new version."""
        number = self.keys.retained_partition(topic)
        retained = self._retained.get(number)
        if retained is None:
            retained = self._retained[number] = _Retained(self.keys, number)
        return retained.add(topic, record, who, x, low, "" if expired_by is None else repr(expired_by))

    def command(self, request: Request) -> Slot:
        """A command that only reads."""
        slot = Slot()
        self._commands.append((request, slot))
        return slot

    def carry_out(self, pipeline: Pipeline, node: str, batch: int) -> None:
        """Send everything, retained messages first, and fill the slots."""
        parts: list[_Partition | _Retained] = [*self._retained.values(), *self._partitions.values()]
        requests = [part.request(batch, self._limits, self.now) for part in parts]
        pipeline.run(node, requests + [request for request, _ in self._commands])
        for part, request in zip(parts, requests, strict=True):
            part.fill(request)
        for request, slot in self._commands:
            slot.fill(request.reply, None, request.error)
