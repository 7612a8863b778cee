"""Where a session's deliveries leave while its client is connected.

QoS 0 is sent at once, or dropped when the client does not take its output. QoS 1 and 2 go through the session's queue
and window. What the client acknowledges is the matter of `broker.receipts`, retained messages for new subscriptions
that of `broker.feed`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.python.failure import Failure

from mqttcluster.broker.feed import Feed
from mqttcluster.broker.metrics import Metrics, lane
from mqttcluster.broker.muted import Muted
from mqttcluster.broker.receipts import Receipts
from mqttcluster.broker.sender import Sender
from mqttcluster.broker.terms import Terms
from mqttcluster.core.framing import Framing
from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing, Subscriber
from mqttcluster.core.run import Run
from mqttcluster.core.session import Session
from mqttcluster.mqtt.packets import V5
from mqttcluster.storage.interfaces import IStore

#: How many bytes a frame may gain when it is written for another version.
TRANSLATED = 8


class Outlet:
    """The deliveries of one connected client. `store_lost` is told when the store fails, `overtaken` when it says that
    the session has another owner."""

    __slots__ = (
        "_framing",
        "_lane",
        "_max_queued",
        "_metrics",
        "_most_read",
        "_routing",
        "_sender",
        "_store",
        "_store_lost",
        "_v5",
        "closed",
        "feed",
        "muted",
        "now",
        "receipts",
        "session",
        "subscriber",
    )

    def __init__(
        self,
        session: Session,
        subscriber: Subscriber,
        sender: Sender,
        terms: Terms,
        now: Callable[[], float],
        store: IStore,
        retained: Retained,
        routing: Routing,
        metrics: Metrics,
        most_read: int,
        max_queued: int,
        store_lost: Callable[[Failure], None],
        overtaken: Callable[[], None],
    ) -> None:
        self.session = session
        self.subscriber = subscriber
        self._sender = sender
        #: The time.
        self.now = now
        self._framing = Framing(terms.version, terms.largest, terms.aliases)
        self._lane = lane(terms.version)
        self._v5 = terms.version == V5
        self._store = store
        self._metrics = metrics
        self._routing = routing
        self._most_read = most_read
        self._max_queued = max_queued
        self._store_lost = store_lost
        self.closed = False
        #: Subscriptions that the rules do not allow any more, None for none.
        self.muted: Muted | None = None
        self.feed = Feed(self, sender, store, retained, routing, store_lost)
        self.receipts = Receipts(session, sender, terms, store, store_lost, overtaken)
        sender.before_flush = self.pump

    @property
    def epoch(self) -> int:
        """The number of this ownership of the session."""
        return self.session.epoch

    @property
    def room(self) -> int:
        """How many messages the client takes now: what is left of its window, if its buffer has room."""
        session = self.session
        if not self._sender.has_room or session.tail > session.cursor:
            return 0
        return session.window - session.queued - len(session.inflight)

    @property
    def full(self) -> bool:
        """Whether the client takes its output more slowly than it comes."""
        return self._sender.full

    def wait(self, proceed: Callable[[], None]) -> bool:
        """Call `proceed` when the client has taken output. False: it has taken none since somebody gave up waiting."""
        sender = self._sender
        if sender.progress:
            if sender.waiting is None:
                sender.waiting = {}
            sender.waiting[proceed] = None
        return sender.progress

    def give_up(self) -> None:
        """Somebody has waited in vain."""
        self._sender.progress = False

    # -- deliveries

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        """A message that no store holds for this session, with the flag and Subscription Identifiers to send."""
        session = self.session
        if not self.may_read(message.topic):
            self.dropped("forbidden")
            return
        while session.feed and message.topic in session.feed:
            self.feed.send_one(message.topic)
        self.hand_out(message, qos, retain, identifiers)

    def hand_out(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        """The same, for one that nothing in the feed comes before."""
        if qos:
            self._offer(message, qos, retain, identifiers)
        else:
            self._send_now(message, retain, identifiers)

    def may_read(self, topic: str) -> bool:
        """Whether the client may have what is published there."""
        return self.muted is None or self.muted.reads(topic)

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count messages that the client does not get."""
        self._metrics.dropped[reason] += count

    def takes_runs(self, identifiers: tuple[int, ...], size: int) -> bool:
        """Whether frames of about `size` bytes can be handed over as runs, and need not be made one by one."""
        return self._plain(identifiers) and (not self._v5 or self._framing.takes(size + TRANSLATED))

    def _plain(self, identifiers: tuple[int, ...]) -> bool:
        session = self.session
        return not (identifiers or session.feed or session.sharing or self.muted)

    def deliver_run(self, run: Run, qos: int, identifiers: tuple[int, ...]) -> int:
        """Messages that no store holds for this session, at `qos`. Returns how many were delivered one by one."""
        session, sender = self.session, self._sender
        if not self._plain(identifiers) or not self._takes(run, qos):
            for message in run.messages():
                self.deliver(message, qos, False, identifiers)
            return run.count
        if qos:
            dropped = run.count - session.offer_run(run, qos)
            if dropped:
                self._metrics.dropped["queue_full"] += dropped
            sender.mark()
        elif sender.full:
            self._metrics.dropped["send_buffer"] += run.count
        else:
            self._count_sent(0, run.count, run.payload_size)
            sender.send(run.frames(self._v5, 0)[0], run.count)
        return 0

    def arrived_run(self, run: Run, qos: int, sequence: int, count: int, identifiers: tuple[int, ...]) -> None:
        """The store holds the first `count` messages of a run for this session, from `sequence` on."""
        session = self.session
        known = sequence <= max(session.cursor, session.sent_before)
        if identifiers or self.muted or known or not self._takes(run, qos):
            for number, message in enumerate(run.messages()[:count], sequence):
                session.arrived(Delivery(number, message, qos, False, identifiers))
        else:
            session.arrived_run(run, qos, sequence, count)
        self._sender.mark()

    def mute(self, filters: Collection[str]) -> None:
        """The client may not have these subscriptions any more, and all its others. What they have brought and what is
        not sent is dropped."""
        self.muted = Muted(filters, self.subscriber, self._routing) if filters else None
        if self.muted is not None:
            self.session.unfold_runs()  # each is looked at as it is sent

    def _count_sent(self, qos: int, count: int, size: int) -> None:
        self._metrics.publish_sent_by[self._lane + qos] += count
        self._metrics.publish_bytes_sent_by[self._lane + qos] += count * size

    def _takes(self, run: Run, qos: int) -> bool:
        """Whether this client takes such frames as they are."""
        return not self._v5 or self._framing.takes(run.frames(True, qos)[1])

    def arrived(self, delivery: Delivery) -> None:
        """The store holds a message for this session."""
        self.session.arrived(delivery)
        self._sender.mark()

    def _send_now(self, message: Message, retain: bool, identifiers: tuple[int, ...]) -> None:
        if self._sender.full:
            self._metrics.dropped["send_buffer"] += 1
            return
        frame = self._framing.frame(message, 0, retain, self.now(), identifiers=identifiers)
        if frame is None:
            self._metrics.dropped["too_large"] += 1
        else:
            self._count_sent(0, 1, len(message.payload))
            self._sender.send(frame)

    def _offer(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        if self.session.offer(message, qos, retain, identifiers):
            self._sender.mark()
        else:
            self._metrics.dropped["queue_full"] += 1

    def resume(self) -> None:
        """Send again what an earlier connection left open, the exchanges past PUBREC first [MQTT-4.4.0-1]."""
        self.receipts.resume()
        self._sender.mark()

    def pump(self) -> bool:
        """Send what window and network allow, and fetch what the store still holds. True: there is more to be done,
        for only the network's bound stopped it, or there is new room."""
        if self.closed:
            return False
        session = self.session
        dropped = self._send_queue()
        if session.feed:
            self.feed.send()
            dropped |= self._send_queue()
        if dropped:
            self.receipts.store()
        if session.wants_read():
            self._read()
            dropped |= not session.reading  # a store may answer at once
        return dropped or not self._sender.has_room

    def _send_run(self) -> bool:
        """Whether there was something to be sent."""
        following = self.session.next_of_runs()
        if following is None:
            return False
        run, qos, start, count, sequence = following
        self._count_sent(qos, count, run.payload_size)
        self._sender.send(run.numbered(self._v5, qos, start, count, sequence), count)
        return True

    def _send_queue(self) -> bool:
        """True: something was given up, which has made room."""
        session, sender, dropped = self.session, self._sender, False
        while sender.has_room:
            following = session.next_delivery()
            if following is None:
                if self._send_run():
                    continue
                break
            delivery, again = following
            frame = self._frame(delivery, again)
            if frame is None:
                dropped = True
            else:
                self._count_sent(delivery.qos, 1, len(delivery.message.payload))
                sender.send(frame)
        return dropped

    def _frame(self, delivery: Delivery, again: bool) -> bytes | None:
        """The packet; None for a delivery that is given up as if it had been sent and acknowledged."""
        message, now, frame = delivery.message, self.now(), None
        if not again and message.expired(now):  # else the client may have begun to receive it [MQTT-4.3.3-7] of 5.0
            reason = "expired"
        elif self.muted is not None and not self.muted.reads(message.topic):
            reason = "forbidden"
        else:
            qos, retain, identifiers = delivery.qos, delivery.retain, delivery.identifiers
            frame = self._framing.frame(message, qos, retain, now, again, delivery.packet_id, identifiers)
            reason = "too_large"  # [MQTT-3.1.2-25] of 5.0
        if frame is None:
            self.dropped(reason)
            del self.session.inflight.unacknowledged[delivery.packet_id]
            self.receipts.done(delivery)
        return frame

    def _read(self) -> None:
        session, tail, suspicious = self.session, self.session.tail, self.session.suspicious
        session.reading, session.suspicious = True, False

        def was_read(deliveries: list[Delivery]) -> None:
            session.was_read(deliveries, tail)
            if suspicious and deliveries:
                session.suspicious = True  # there may be more
            if not self.closed:
                self._sender.mark()

        reading = self._store.read(session.client_id, session.epoch, session.cursor, self._most_read)
        reading.addCallbacks(was_read, self._store_lost)

    def look(self) -> None:
        """The store may hold deliveries that nobody told of."""
        self.session.suspicious = True
        self._sender.mark()

    # -- the end

    def close(self) -> None:
        """The connection has ended."""
        if self.closed:
            return
        self.receipts.store()
        self.closed = self.receipts.closed = True
        self.feed.close(self._max_queued)
