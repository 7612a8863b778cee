"""The calls of `IStore` as operations on Redis.

A call takes part in up to two plans, one after the other: `first` asks what must be known or recorded before anything
happens, `main` does it; and in `more` if what these have answered asks for it. The calls of a batch share the plans,
each adding its part in the order of the calls. Most have a `main` only. `finish` makes the answer.

*Exchange*: the publisher's partition is told first (`first`), then the receivers' partitions (`main`), each naming the
exchange's number. If the node dies in between, the publisher sends again, finds its number, and receivers that have the
message refuse it. *Will*: likewise, numbered by its epoch; it is removed by a call of its own, when all receivers have
it, so that another node goes on if this one dies in between. *Retained*, without an exchange: first comes the question
whether its publisher has a newer connection. Who of a group gets a message: `redis_shares`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from mqttcluster.core.message import FIRST_SHARED, Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import is_shared
from mqttcluster.storage.interfaces import (
    GONE,
    Closed,
    Opened,
    Orphan,
    Publication,
    Published,
    PublishedRun,
    StoredWill,
    StoreError,
    Target,
)
from mqttcluster.storage.records import (
    decode_message,
    decode_subscription,
    encode_message,
    encode_subscription,
)
from mqttcluster.storage.redis_plan import Plan, Slot
from mqttcluster.storage.redis_shares import Choices, Number, decode_head, encode_head, queue

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

    def more(self, plan: Plan) -> None:
        """Add what is to be done after what was done last."""

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
        self._choices = Choices(publication.shares)
        self._number: Number = ("", "", "")
        self._rewriting: Slot | None = None
        self._again = False
        self._struck_off = publication.orphan is None
        if publication.targets or publication.retain or publication.shares:
            self._record = encode_message(publication.message)
            targets = len(publication.targets) + len(publication.shares)
            self.size = len(self._record) * min(targets + 1, 16) + 100 * targets
        self._begun: Slot | None = None
        self._guarded: Slot | None = None
        self._waiting: Slot | None = None
        self._retained: Slot | None = None
        self._queued: list[Slot] = []
        self._answer: Published | None = None
        self._exchange: tuple[str, int, int] | None = None
        if publication.exchange is not None:
            client_id, _, packet_id = publication.exchange
            self.needs = client_id, (client_id, packet_id)
        if publication.origin is not None:
            self.needs += publication.origin[:1]
        if publication.will is not None:
            self.needs += publication.will[:1]
            self._due = publication.will[0], will_name(*publication.will)
        if publication.orphan is not None:
            self._due = publication.orphan.client_id, orphan_name(publication.orphan)

    def first(self, plan: Plan) -> None:
        if self._publication.origin is not None:
            client_id, epoch = self._publication.origin
            self._guarded = plan.of(client_id).add_for("g", client_id, epoch)
        self._put_on_record(plan, anew=False)

    def _put_on_record(self, plan: Plan, anew: bool) -> None:
        """Who of the groups is to get it; and that it is there at all."""
        choices = self._choices.encode()
        if self._publication.exchange is not None:
            client_id, epoch, packet_id = self._publication.exchange
            self._begun = plan.of(client_id).add_for("b", client_id, epoch, packet_id, choices, int(anew))
        if self._publication.will is not None or self._publication.orphan is not None:
            client_id, name = self._due
            if self._publication.message.qos < 2:
                choices = b""  # once or more
            self._waiting = plan.of(client_id).add("w", name, choices, int(anew))

    def main(self, plan: Plan) -> None:
        publication = self._publication
        plan.now = max(plan.now, publication.now)
        if self._guarded is not None and not self._guarded.answer:
            self._answer = Published(stale=True)
            return
        if self._begun is not None:
            begun = self._begun.answer
            if not begun:
                self._answer = Published(stale=True)
                return
            assert publication.exchange is not None
            if begun[0] != b"0":
                who = f"{begun[2].decode()}:{publication.exchange[0]}"
                self._number = who, begun[0], begun[1]
                self._exchange = who, int(begun[0]), int(begun[1])
            if begun[3]:
                self._again = True
                self._choices.go_on(begun[4])
        if self._waiting is not None:
            there, before = self._waiting.answer
            if not there:
                self._answer = Published(repeated=True)
                return
            if publication.will is not None and self._exchange is None:
                client_id, epoch = publication.will
                self._number = f"w:{client_id}", epoch, ""
                self._exchange = f"w:{client_id}", epoch, 0
            elif publication.orphan is not None and publication.message.qos == 2:
                orphan = publication.orphan
                self._number = f"h:{orphan.generation}:{orphan.client_id}", orphan.sequence, orphan.low
            if before:
                self._choices.go_on(before)
        if publication.retain:
            record = self._record if publication.message.payload else b""
            self._retained = plan.retain(publication.message.topic, record, *self._number)
        for target in publication.targets:
            self._queued.append(queue(plan, "q", target, self._record, self._number))
        self._choices.enqueue(plan, self._record, self._number)

    def more(self, plan: Plan) -> None:
        if self._answer is not None:
            return
        plan.now = max(plan.now, self._publication.now)
        if self._rewriting is not None:
            slot, self._rewriting = self._rewriting, None
            if not slot.answer:
                self._answer = Published(stale=True)
            elif not slot.answer[0]:
                self._answer = Published(repeated=True)
            else:
                self._choices.enqueue(plan, self._record, self._number)
        elif self._choices.look():
            if self._number[0]:
                self._put_on_record(plan, anew=True)
                self._rewriting = self._begun or self._waiting
            else:
                self._choices.enqueue(plan, self._record, self._number)
        elif not self._struck_off:
            self._struck_off = True
            plan.of(self._due[0]).add("v", self._due[1])

    def finish(self) -> Published:
        if self._answer is not None:
            return self._answer
        answers = [slot.answer for slot in self._queued]
        return Published(
            sequences=[GONE if answer[0] == b"-2" else int(answer[0]) for answer in answers],
            owners=tuple((answer[1].decode(), int(answer[2])) for answer in answers),
            exchange=self._exchange,
            version=int(self._retained.answer) if self._retained is not None else 0,
            chosen=self._choices.result(),
            again=self._again,
        )


class PublishRun(Call[PublishedRun]):
    """`IStore.publish_run`."""

    def __init__(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> None:
        super().__init__()
        self._records = [encode_message(message) for message in messages]
        self._targets = targets
        self._now = now
        self._slots: list[Slot] = []
        # As much as its messages would be one by one: Redis has as much to do.
        self.size = sum(map(len, self._records)) * min(len(targets) + 1, 16) + 100 * len(targets) * len(messages)

    def main(self, plan: Plan) -> None:
        plan.now = max(plan.now, self._now)
        for target in self._targets:
            partition = plan.of(target.client_id)
            numbers = [partition.message(record) for record in self._records]
            head = encode_head(target)
            self._slots.append(
                partition.add_for("m", target.client_id, target.generation, head, len(numbers), *numbers)
            )

    def finish(self) -> PublishedRun:
        answers = [slot.answer for slot in self._slots]
        return PublishedRun(
            [(int(first), int(count)) for first, count, _, _ in answers],
            tuple((owner.decode(), int(epoch)) for _, _, owner, epoch in answers),
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
    first = FIRST_SHARED if any(map(is_shared, add)) else ""
    arguments = (epoch, first, len(gone), *gone, len(added), *added)
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


def striking_off(client_id: str, epoch: int) -> Call[None]:
    """A will that has been published."""
    return Simple(
        lambda plan: plan.of(client_id).add("v", will_name(client_id, epoch)), lambda slot: slot.check(), client_id
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


def orphan_name(orphan: Orphan) -> str:
    """The name of an orphan in ``due`` and ``wills``."""
    return f"o{orphan.generation}-{orphan.sequence}-{orphan.low}:{orphan.client_id}"


def decode_orphan(name: str, record: bytes) -> Orphan:
    numbers, _, client_id = name[1:].partition(":")
    generation, sequence, low = map(int, numbers.split("-"))
    at = 2 + int.from_bytes(record[:2], "big")
    share = decode_head(record[2:at])[3]
    return Orphan(client_id, generation, sequence, share, decode_message(record[at:]), low)


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
        qos, retain, identifiers, _ = decode_head(head)
        deliveries.append(Delivery(sequence, decode_message(record), qos, retain, identifiers))
    return deliveries
