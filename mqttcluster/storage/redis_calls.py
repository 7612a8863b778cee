"""The calls of `IStore` as operations on Redis.

A call takes part in up to three plans, one after the other: `first` asks what must be known or recorded before anything
happens, `main` does it, `last` clears up. The calls of a batch share the plans, each adding its part in the order of
the calls. Most have a `main` only. `finish` makes the answer.

*Exchange*: the publisher's partition is told first (`first`), then the receivers' partitions (`main`), each naming the
exchange's number. If the node dies in between, the publisher sends again, finds its number, and receivers that have the
message refuse it. *Will*: likewise, numbered by its epoch; it is removed (`last`) when all receivers have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from mqttcluster.core.message import Delivery
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import (
    Closed,
    Opened,
    Publication,
    Published,
    StoredWill,
    StoreError,
)
from mqttcluster.storage.records import (
    decode_identifiers,
    decode_message,
    decode_subscription,
    encode_identifiers,
    encode_message,
    encode_subscription,
)
from mqttcluster.storage.redis_plan import Plan, Slot

T = TypeVar("T")


class Call(Generic[T]):
    """A call on its way. `result` is its answer once `settle` was called.

    `needs` names what `first` asks for, and `changes` what is changed so that `first` of a later call would have to see
    it: client ids, and (client id, packet id) of inbound exchanges. `size` is about how many bytes it sends."""

    needs: tuple[object, ...] = ()
    changes: tuple[object, ...] = ()
    size = 100

    def __init__(self) -> None:
        self._outcome: T | StoreError | None = None

    def first(self, plan: Plan) -> None:
        """Add what is to be asked before."""

    def main(self, plan: Plan) -> None:
        """Add what is to be done."""

    def last(self, plan: Plan) -> None:
        """Add what is to be done after that."""

    def finish(self) -> T:
        """The answer. Raises `StoreError`."""
        raise NotImplementedError

    def settle(self) -> None:
        """The plans were carried out."""
        try:
            self._outcome = self.finish()
        except StoreError as problem:
            self._outcome = problem

    def fail(self, problem: StoreError) -> None:
        self._outcome = problem

    def result(self) -> T:
        """The answer. Raises `StoreError`."""
        if isinstance(self._outcome, StoreError):
            raise self._outcome
        return self._outcome  # type: ignore[return-value]


class Simple(Call[T]):
    """A call of one operation: `add` adds it to a plan, `decode` makes the answer."""

    def __init__(self, add: Callable[[Plan], Slot], decode: Callable[[Slot], T], *changes: object) -> None:
        super().__init__()
        self._add = add
        self._decode = decode
        self.changes = changes

    def main(self, plan: Plan) -> None:
        self._slot = self._add(plan)

    def finish(self) -> T:
        return self._decode(self._slot)


class Publish(Call[Published]):
    """`IStore.publish`."""

    def __init__(self, publication: Publication) -> None:
        super().__init__()
        self._publication = publication
        self._record = b""
        if publication.targets or publication.retain:
            self._record = encode_message(publication.message)
            self.size = len(self._record) * min(len(publication.targets) + 1, 16) + 100 * len(publication.targets)
        self._begun: Slot | None = None
        self._waiting: Slot | None = None
        self._retained: Slot | None = None
        self._queued: list[Slot] = []
        self._answer: Published | None = None
        self._exchange: tuple[str, int, int] | None = None
        if publication.exchange is not None:
            client_id, _, packet_id = publication.exchange
            self.needs = client_id, (client_id, packet_id)
        if publication.will is not None:
            self.needs += publication.will[:1]
            self.changes = publication.will[:1]

    def first(self, plan: Plan) -> None:
        if self._publication.exchange is not None:
            client_id, epoch, packet_id = self._publication.exchange
            self._begun = plan.of(client_id).add_for("b", client_id, epoch, packet_id)
        if self._publication.will is not None:
            client_id, epoch = self._publication.will
            self._waiting = plan.of(client_id).add("w", will_name(client_id, epoch))

    def main(self, plan: Plan) -> None:
        publication = self._publication
        number: tuple[str, object, object] = ("", "", "")
        if self._begun is not None:
            begun = self._begun.answer
            if not begun:
                self._answer = Published(stale=True)
                return
            assert publication.exchange is not None
            if begun[0] != b"0":
                who = f"{begun[2].decode()}:{publication.exchange[0]}"
                number = who, begun[0], begun[1]
                self._exchange = who, int(begun[0]), int(begun[1])
        if self._waiting is not None:
            if not self._waiting.answer:
                self._answer = Published(repeated=True)
                return
            assert publication.will is not None
            if self._exchange is None:
                client_id, epoch = publication.will
                number = f"w:{client_id}", epoch, ""
                self._exchange = f"w:{client_id}", epoch, 0
        if publication.retain:
            record = self._record if publication.message.payload else b""
            self._retained = plan.retain(publication.message.topic, record, *number)
        for target in publication.targets:
            partition = plan.of(target.client_id)
            head = bytes((target.qos | target.retain << 2,)) + (encode_identifiers(target.identifiers) or b"")
            message = partition.message(self._record)
            self._queued.append(partition.add_for("q", target.client_id, target.generation, head, message, *number))

    def last(self, plan: Plan) -> None:
        if self._publication.will is not None and self._answer is None:
            for slot in self._queued:
                _ = slot.answer  # a will stays due until all of its receivers have it
            client_id, epoch = self._publication.will
            self._removed = plan.of(client_id).add("v", will_name(client_id, epoch))

    def finish(self) -> Published:
        if self._answer is not None:
            return self._answer
        if self._publication.will is not None:
            _ = self._removed.answer
        answers = [slot.answer for slot in self._queued]
        return Published(
            sequences=[int(answer[0]) for answer in answers],
            owners=tuple((answer[1].decode(), int(answer[2])) for answer in answers),
            exchange=self._exchange,
            version=int(self._retained.answer) if self._retained is not None else 0,
        )


def opening(client_id: str, clean: bool, expiry: int, will: StoredWill | None, now: float, limit: int) -> Call[Opened]:
    record = b"" if will is None else encode_message(will.message)
    delay = 0 if will is None else will.delay
    arguments = (int(clean), expiry, record, delay, repr(now), limit)
    return Simple(lambda plan: plan.of(client_id).add_for("o", client_id, client_id, *arguments), _opened, client_id)


def _opened(slot: Slot) -> Opened:
    epoch, generation, present, last, sent, wiped, node, before, unannounced = slot.answer
    opened = Opened(
        epoch=int(epoch),
        generation=int(generation),
        present=bool(present),
        last=int(last),
        sent=int(sent),
        wiped=int(wiped),
        previous=(node.decode(), int(before)) if node else None,
        unannounced=bool(unannounced),
    )
    if slot.read:
        subscriptions, released, inbound, queue = slot.read
        opened.subscriptions = decode_subscriptions(subscriptions)
        opened.released = sorted(int(sequence) for sequence in released)
        opened.inbound = {int(packet_id) for packet_id in inbound}
        opened.queue = decode_queue(queue)
        if opened.queue:  # this batch was sent twice, and something was queued in between
            opened.last = max(opened.last, opened.queue[-1].sequence)
    return opened


def closing(
    client_id: str, epoch: int, publish_will: bool, sent: int, now: float, expiry: int | None, grace: float
) -> Call[Closed]:
    arguments = (epoch, int(publish_will), sent, repr(now), "" if expiry is None else expiry, repr(grace))
    return Simple(
        lambda plan: plan.of(client_id).add_for("c", client_id, client_id, *arguments),
        lambda slot: Closed[slot.answer.decode()],
        client_id,
    )


def subscribing(client_id: str, epoch: int, add: Mapping[str, Subscription], remove: Iterable[str]) -> Call[bool]:
    gone = tuple(remove)
    added = [part for name, wanted in add.items() for part in (name, encode_subscription(wanted))]
    arguments = (epoch, len(gone), *gone, len(added), *added)
    return Simple(lambda plan: plan.of(client_id).add_for("s", client_id, client_id, *arguments), _done)


def announcing(client_id: str, epoch: int) -> Call[bool]:
    return Simple(lambda plan: plan.of(client_id).add_for("n", client_id, client_id, epoch), _done)


def acknowledging(
    client_id: str, epoch: int, done: tuple[int, ...], received: tuple[int, ...], completed: tuple[int, ...]
) -> Call[bool]:
    return Simple(lambda plan: plan.of(client_id).acknowledge(client_id, epoch, (done, received, completed)), _done)


def releasing(client_id: str, epoch: int, packet_ids: tuple[int, ...]) -> Call[bool]:
    return Simple(
        lambda plan: plan.of(client_id).add_for("r", client_id, epoch, len(packet_ids), *packet_ids),
        _done,
        *((client_id, packet_id) for packet_id in packet_ids),
    )


def reading(client_id: str, epoch: int, after: int, limit: int) -> Call[list[Delivery]]:
    return Simple(
        lambda plan: plan.of(client_id).add_for("e", client_id, epoch, after, limit),
        lambda slot: decode_queue(slot.read),
    )


def _done(slot: Slot) -> bool:
    return bool(slot.answer)


def will_name(client_id: str, epoch: int) -> str:
    """The name of a will in ``due`` and ``wills``."""
    return f"{epoch}:{client_id}"


def decode_subscriptions(pairs: list[bytes]) -> dict[str, Subscription]:
    """From filter and record in turn."""
    parts = iter(pairs)
    return {
        topic_filter.decode(): decode_subscription(record) for topic_filter, record in zip(parts, parts, strict=True)
    }


def decode_queue(entries: list[Any]) -> list[Delivery]:
    """From stream entries: the id is the sequence, the field's name the head, its value the message."""
    deliveries = []
    for entry_id, (head, record) in entries:
        sequence = int(entry_id.partition(b"-")[0])
        flags = head[0]
        identifiers = decode_identifiers(head[1:])
        deliveries.append(Delivery(sequence, decode_message(record), flags & 0x03, bool(flags & 0x04), identifiers))
    return deliveries
