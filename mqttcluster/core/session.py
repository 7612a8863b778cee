"""What a connected client is owed: its queue, its window, its open exchanges. Lives as long as the connection.

Two kinds of session share this class.

A *durable* session outlives its connection. Its queue is in the store; here is only a look-ahead. The store numbers
the deliveries, `cursor` is the highest number taken into memory and `tail` the highest one known to exist. A delivery
that arrives with the next number while there is room is taken at once, anything else is read from the store later.

A *clean* session is all here, numbers included; past `max_queued` the newest message is dropped.

Retained messages that a subscription asked for wait in `feed` by topic and are looked up when there is room, so a
subscription that matches a million of them costs no queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from mqttcluster.core.inflight import Inflight
from mqttcluster.core.message import Delivery, Message, packet_id


class Session:
    """The state of one client while it is connected.

    `window` is how many deliveries may be in flight. `max_queued` bounds `queue`: the whole queue of a clean session,
    the look-ahead of a durable one.
    """

    __slots__ = (
        "_sent_before",
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
        "suspicious",
        "tail",
        "window",
    )

    def __init__(self, client_id: str, epoch: int, durable: bool, window: int, max_queued: int) -> None:
        self.client_id = client_id
        self.epoch = epoch
        self.durable = durable
        self.window = window
        self.max_queued = max_queued
        self.queue: deque[Delivery] = deque()
        self.inflight = Inflight()
        #: Packet ids of QoS 2 messages from the client that wait for PUBREL.
        self.inbound: set[int] = set()
        #: Topic -> granted QoS, once per subscription that asked, of retained messages still to be sent.
        self.feed: dict[str, tuple[int, ...]] = {}
        self.cursor = 0
        self.tail = 0
        self.sent = 0
        self.reading = False
        #: The store may hold more than `tail` says.
        self.suspicious = False
        self._sent_before = 0

    def restore(self, queue: Sequence[Delivery], limit: int, last: int, sent: int, inbound: Iterable[int]) -> None:
        """Go on from what the store knows. `queue` was read with `limit`; up to `sent` goes out with DUP."""
        self.queue.extend(queue)
        self.cursor = queue[-1].sequence if len(queue) >= limit else last
        self.tail = last
        self.sent = self._sent_before = sent
        self.inbound.update(inbound)

    def offer(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...] = ()) -> bool:
        """Queue a message for a clean session. False: the queue is full and the message is dropped."""
        if len(self.queue) >= self.max_queued:
            return False
        self.cursor += 1
        self.queue.append(Delivery(self.cursor, message, qos, retain, identifiers))
        return True

    def arrived(self, delivery: Delivery) -> None:
        """The store has queued a delivery for this durable session."""
        sequence = delivery.sequence
        if sequence <= self.cursor:
            return
        if sequence == self.cursor + 1 and not self.reading and len(self.queue) < self.max_queued:
            self.cursor = sequence
            self.queue.append(delivery)
        self.tail = max(self.tail, sequence)

    def wants_read(self) -> bool:
        """Whether the store holds deliveries that now have room here."""
        more = self.tail > self.cursor or self.suspicious
        return more and not self.reading and len(self.queue) * 2 <= self.max_queued

    def was_read(self, deliveries: Sequence[Delivery], limit: int, tail: int) -> None:
        """What the store answered to a read past `cursor` that was asked for when `tail` was the highest known."""
        self.reading = False
        self.queue.extend(deliveries)
        if len(deliveries) < limit:
            self.cursor = max(self.cursor, tail)
        if deliveries:
            self.cursor = max(self.cursor, deliveries[-1].sequence)

    def next_delivery(self) -> tuple[Delivery, bool] | None:
        """The next delivery to send and whether it is a resend; None while the window is full or nothing waits.

        An identifier that is still in flight after 65,535 messages is waited for [MQTT-2.3.1-4].
        """
        if not self.queue or len(self.inflight) >= self.window:
            return None
        delivery = self.queue[0]
        if packet_id(delivery.sequence) in self.inflight:
            return None
        self.queue.popleft()
        self.inflight.sent(delivery)
        again = delivery.sequence <= self._sent_before
        self.sent = max(self.sent, delivery.sequence)
        return delivery, again
