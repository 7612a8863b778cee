"""What a connected client is owed: its queue, its window, its open exchanges. Lives as long as the connection.

Two kinds of session share this class.

A *durable* session outlives its connection. Its queue is in the store; here is only a look-ahead. The store numbers
the deliveries, `cursor` is the highest number taken into memory and `tail` the highest one known to exist. A delivery
that arrives with the next number while there is room is taken at once, anything else is read from the store later.

A *clean* session is all here, numbers included; past `max_queued` the newest message is dropped. Only what comes
through its shared subscriptions is in the store, too, so that somebody else can have it: then the session is *sharing*,
and such deliveries are numbered by the store, above `FIRST_SHARED`.

Retained messages that a subscription asked for wait in `feed` by topic and are looked up when there is room, so a
subscription that matches a million of them costs no queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from mqttcluster.core.inflight import Inflight
from mqttcluster.core.message import FIRST_SHARED, Delivery, Message, packet_id
from mqttcluster.core.run import Run
from mqttcluster.mqtt.packets import Subscription

LAST_IDENTIFIER = 65535
#: An empty set that costs nothing; a session that needs one of its own makes it.
NONE: frozenset[int] = frozenset()


class Part:
    """What still waits of a run: its frames `start` to `end`, whose first has `sequence`."""

    __slots__ = ("end", "qos", "run", "sequence", "start")

    def __init__(self, run: Run, qos: int, end: int, sequence: int) -> None:
        self.run = run
        self.qos = qos
        self.start = 0
        self.end = end
        self.sequence = sequence


class Following(NamedTuple):
    """`number` frames of a run, from frame `start` on, as deliveries from `sequence` on."""

    run: Run
    qos: int
    start: int
    number: int
    sequence: int


class Session:
    """The state of one client while it is connected.

    `window` is how many deliveries may be in flight. `max_queued` bounds `queue`: the whole queue of a clean session,
    the look-ahead of a durable one.
    """

    __slots__ = (
        "_enough",
        "_more",
        "_numbered",
        "client_id",
        "cursor",
        "durable",
        "epoch",
        "feed",
        "inbound",
        "inflight",
        "max_queued",
        "queue",
        "reading",
        "sent",
        "sent_before",
        "sharing",
        "suspicious",
        "tail",
        "unreleased",
        "window",
    )

    def __init__(self, client_id: str, epoch: int, durable: bool, window: int, max_queued: int) -> None:
        self.client_id = client_id
        self.epoch = epoch
        self.durable = durable
        self.window = window
        self.max_queued = max_queued
        #: Empty without being a deque until something is queued: that would be most of what an idle client costs.
        self.queue: deque[Delivery | Part] | tuple[()] = ()
        #: Messages in `queue` beyond one for each of its entries.
        self._more = 0
        #: With more messages than these in `queue` the store is not read.
        self._enough = max_queued // 2
        self.inflight = Inflight()
        #: Packet ids of QoS 2 messages from the client that wait for PUBREL.
        self.inbound: set[int] | frozenset[int] = NONE
        #: Those of them that an earlier connection has left, whether or not they are dealt with here.
        self.unreleased: frozenset[int] = NONE
        #: Topic -> the subscriptions that asked, of retained messages still to be sent.
        self.feed: dict[str, tuple[Subscription, ...]] = {}
        self.cursor = 0
        self.tail = 0
        self.sent = 0
        self.reading = False
        #: The store may hold more than `tail` says.
        self.suspicious = False
        #: An earlier connection may have sent deliveries up to this one: they go out with DUP.
        self.sent_before = 0
        #: The store has a queue for this clean session.
        self.sharing = False
        #: How many deliveries of a clean session were numbered here.
        self._numbered = 0

    @property
    def stored(self) -> bool:
        """Whether the store has a queue for this session."""
        return self.durable or self.sharing

    def keeps(self, sequence: int) -> bool:
        """Whether the store knows this delivery, and is to be told of its acknowledgement."""
        return self.durable or sequence > FIRST_SHARED

    def share(self) -> None:
        """From now on the store has a queue for this session, if it had none."""
        if not self.stored:
            self.sharing = True
            self.cursor = self.tail = FIRST_SHARED

    def restore(self, queue: Sequence[Delivery], last: int, sent: int, inbound: Collection[int]) -> None:
        """Go on from what the store knows. `queue` may be only the beginning; up to `sent` goes out with DUP."""
        self.cursor, self.tail = 0, last
        self.was_read(queue, last)
        self.sent = self.sent_before = sent
        if inbound:
            self.take_in(inbound)

    def take_in(self, identifiers: Iterable[int]) -> None:
        """QoS 2 messages with these packet ids have come."""
        if not isinstance(self.inbound, set):
            self.inbound = set()
        self.inbound.update(identifiers)

    def let_go(self, identifiers: Iterable[int]) -> None:
        """PUBREL has come for them."""
        if isinstance(self.inbound, set):
            self.inbound.difference_update(identifiers)

    def offer(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...] = ()) -> bool:
        """Queue a message for a clean session. False: the queue is full and the message is dropped."""
        if self.queued >= self.max_queued:
            return False
        self._numbered += 1
        self._waiting.append(Delivery(self._numbered, message, qos, retain, identifiers))
        return True

    @property
    def _waiting(self) -> deque[Delivery | Part]:
        if not isinstance(self.queue, deque):
            self.queue = deque()
        return self.queue

    @property
    def queued(self) -> int:
        """How many messages are in `queue`."""
        return len(self.queue) + self._more

    def offer_run(self, run: Run, qos: int) -> int:
        """Queue a run for a clean session. Returns how many of its messages found room; the others, at its end, are
        dropped."""
        count = min(run.count, self.max_queued - self.queued)
        if count > 0:
            self._waiting.append(Part(run.first(count), qos, count, self._numbered + 1))
            self._numbered += count
            self._more += count - 1
        return max(count, 0)

    def unfold_runs(self) -> None:
        """Make single deliveries of what is queued as runs."""
        queue: deque[Delivery | Part] = deque()
        for entry in self.queue:
            if isinstance(entry, Part):
                messages = entry.run.messages()[entry.start : entry.end]
                queue.extend(Delivery(n, message, entry.qos) for n, message in enumerate(messages, entry.sequence))
            else:
                queue.append(entry)
        self.queue, self._more = queue, 0

    def next_of_runs(self) -> Following | None:
        """What may be sent now of the run that is next; it counts as sent. None for nothing."""
        room = self.window - len(self.inflight)
        part = self.queue[0] if self.queue else None
        if not isinstance(part, Part) or room <= 0:
            return None
        first = packet_id(part.sequence)
        count = min(part.end - part.start, room, LAST_IDENTIFIER + 1 - first)
        identifiers = range(first, first + count)
        if part.sequence > LAST_IDENTIFIER and not self.inflight.isdisjoint(identifiers):
            count = next(at for at, identifier in enumerate(identifiers) if identifier in self.inflight)
            if not count:
                return None
            identifiers = identifiers[:count]
        self.inflight.sent_run(identifiers, part.qos, part.sequence if self.keeps(part.sequence) else 0)
        following = Following(part.run, part.qos, part.start, count, part.sequence)
        self.sent = max(self.sent, part.sequence + count - 1)
        part.start += count
        part.sequence += count
        if part.start == part.end:
            self._waiting.popleft()
            self._more -= count - 1
        else:
            self._more -= count
        return following

    def arrived(self, delivery: Delivery) -> None:
        """The store has queued a delivery for this session."""
        sequence = delivery.sequence
        if sequence <= self.cursor:
            return
        if sequence == self.cursor + 1 and not self.reading and self.queued < self.max_queued:
            self.cursor = sequence
            self._waiting.append(delivery)
        self.tail = max(self.tail, sequence)

    def arrived_run(self, run: Run, qos: int, sequence: int, count: int) -> None:
        """The store has queued the first `count` messages of a run, from `sequence` on. What is not taken now is read
        later."""
        if sequence == self.cursor + 1 and not self.reading and self.queued < self.max_queued:
            taken = min(count, self.max_queued - self.queued)
            self._waiting.append(Part(run.first(taken), qos, taken, sequence))
            self._more += taken - 1
            self.cursor += taken
        self.tail = max(self.tail, sequence + count - 1)

    def wants_read(self) -> bool:
        """Whether the store holds deliveries that now have room here."""
        more = self.tail > self.cursor or self.suspicious
        return more and not self.reading and self.queued <= self._enough

    def was_read(self, deliveries: Sequence[Delivery], tail: int) -> None:
        """What the store answered to a read past `cursor` that was asked for when `tail` was the highest known. Only an
        empty answer says that there is no more.

        The next read is due when half of this one is left, so that there is something to be sent meanwhile; large
        messages come in small numbers, and no more of them are held than that."""
        self.reading = False
        if deliveries:
            self._waiting.extend(deliveries)
            self.cursor = max(self.cursor, deliveries[-1].sequence)
        else:
            self.cursor = max(self.cursor, tail)
        self._enough = (len(deliveries) if self.cursor < tail else self.max_queued) // 2

    def next_delivery(self) -> tuple[Delivery, bool] | None:
        """The next delivery to send and whether it is a resend; None while the window is full, nothing waits, or a run
        is next.

        An identifier that is still in flight after 65,535 messages is waited for [MQTT-2.3.1-4].
        """
        queue, inflight = self.queue, self.inflight
        if not isinstance(queue, deque) or not queue or len(inflight) >= self.window:
            return None
        delivery = queue[0]
        if isinstance(delivery, Part):
            return None
        sequence = delivery.sequence
        if packet_id(sequence) in inflight:
            return None
        queue.popleft()
        inflight.sent(delivery)
        if sequence > self.sent:
            self.sent = sequence
        return delivery, sequence <= self.sent_before
