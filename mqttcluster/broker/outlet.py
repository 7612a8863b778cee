"""Where a session's deliveries leave while its client is connected, and where their acknowledgements arrive.

QoS 0 is sent at once, or dropped when the client does not take its output. QoS 1 and 2 go through the session's queue
and window. A durable session's acknowledgements are stored once a turn; PUBREL leaves after its PUBREC is on
record [G2]. Retained messages for a new subscription wait in the session's feed and are looked up when they are sent,
so that a newer value is never followed by an older one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.sender import Sender
from mqttcluster.core.message import Delivery, Message, packet_id
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing, Subscriber
from mqttcluster.core.session import Session
from mqttcluster.mqtt.packets import Puback, Pubcomp, Pubrec, Pubrel
from mqttcluster.storage.interfaces import FULL, GONE, IStore, Publication, Published, Target

#: Retained messages of one client that are on their way into the store's queue at any moment.
FEED_BATCH = 32
#: How often one retained message may wait for the same client, which subscribes again and does not take it.
FEED_COPIES = 16


class Outlet:
    """The deliveries of one connected client. `store_lost` is told when the store fails, `overtaken` when it says that
    the session has another owner."""

    __slots__ = (
        "_completed",
        "_done",
        "_feeding",
        "_look_ahead",
        "_max_queued",
        "_metrics",
        "_overtaken",
        "_received",
        "_recording",
        "_retained",
        "_routing",
        "_sender",
        "_store",
        "_store_lost",
        "_unsubscribed",
        "_version",
        "closed",
        "session",
        "subscriber",
    )

    def __init__(
        self,
        session: Session,
        subscriber: Subscriber,
        sender: Sender,
        version: int,
        store: IStore,
        retained: Retained,
        routing: Routing,
        metrics: Metrics,
        look_ahead: int,
        max_queued: int,
        store_lost: Callable[[Failure], None],
        overtaken: Callable[[], None],
    ) -> None:
        self._overtaken = overtaken
        self.session = session
        self.subscriber = subscriber
        self._sender = sender
        self._version = version
        self._store = store
        self._retained = retained
        self._metrics = metrics
        self._routing = routing
        self._look_ahead = look_ahead
        self._max_queued = max_queued
        self._store_lost = store_lost
        self.closed = False
        self._feeding = 0
        #: Something was unsubscribed since the feed began.
        self._unsubscribed = False
        #: Sequences acknowledged in this turn, by kind of acknowledgement.
        self._done: list[int] = []
        self._received: list[int] = []
        self._completed: list[int] = []
        #: Packet ids whose PUBREC is not yet on record.
        self._recording: set[int] = set()
        sender.before_flush = self.pump

    @property
    def epoch(self) -> int:
        """The number of this ownership of the session."""
        return self.session.epoch

    # -- deliveries

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        """A message that no store holds for this session, with the flag and Subscription Identifiers to send."""
        session = self.session
        while session.feed and message.topic in session.feed:
            self._send_retained(message.topic)
        if qos:
            self._offer(message, qos, retain, identifiers)
        else:
            self._send_now(message, retain, identifiers)

    def arrived(self, delivery: Delivery) -> None:
        """The store holds a message for this durable session."""
        self.session.arrived(delivery)
        self._sender.mark()

    def _send_now(self, message: Message, retain: bool, identifiers: tuple[int, ...]) -> None:
        if self._sender.full:
            self._metrics.dropped["send_buffer"] += 1
        else:
            self._metrics.publish_sent += 1
            self._metrics.publish_bytes_sent += len(message.payload)
            self._sender.send(message.frame(self._version, 0, retain))

    def _offer(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        if self.session.offer(message, qos, retain, identifiers):
            self._sender.mark()
        else:
            self._metrics.dropped["queue_full"] += 1

    def resume(self) -> None:
        """Send again what an earlier connection left open, the exchanges past PUBREC first [MQTT-4.4.0-1]."""
        for identifier in self.session.inflight.received:
            self._sender.send_packet(Pubrel(identifier), self._version)
        self._sender.mark()

    def pump(self) -> bool:
        """Send what window and network allow, and fetch what the store still holds. True: only the network's bound
        stopped it."""
        if self.closed:
            return False
        session = self.session
        self._send_queue()
        if session.feed:
            self._send_feed()
            self._send_queue()
        if session.wants_read():
            self._read()
        return not self._sender.has_room

    def _send_queue(self) -> None:
        session, sender, metrics = self.session, self._sender, self._metrics
        while sender.has_room:
            following = session.next_delivery()
            if following is None:
                return
            delivery, again = following
            message = delivery.message
            metrics.publish_sent += 1
            metrics.publish_bytes_sent += len(message.payload)
            sender.send(message.frame(self._version, delivery.qos, delivery.retain, again, delivery.packet_id))

    def _read(self) -> None:
        session, limit, tail = self.session, self._look_ahead, self.session.tail
        session.reading = True

        def was_read(deliveries: list[Delivery]) -> None:
            session.was_read(deliveries, limit, tail)
            if not self.closed:
                self._sender.mark()

        reading = self._store.read(session.client_id, session.epoch, session.cursor, limit)
        reading.addCallbacks(was_read, self._store_lost)

    def look(self) -> None:
        """The store may hold deliveries that nobody told of."""
        self.session.suspicious = True
        self._sender.mark()

    # -- acknowledgements from the client

    def puback(self, packet: Puback) -> None:
        """QoS 1: the client has it."""
        delivery = self.session.inflight.puback(packet.packet_id)
        if delivery is not None:
            if self.session.durable:
                self._done.append(delivery.sequence)
            self._sender.mark()

    def pubrec(self, packet: Pubrec) -> None:
        """QoS 2: the client has it. An identifier that is not known gets its PUBREL, so that the peer can finish."""
        identifier = packet.packet_id
        delivery = self.session.inflight.pubrec(identifier)
        if delivery is not None and self.session.durable:
            self._received.append(delivery.sequence)
            self._recording.add(identifier)
        elif identifier not in self._recording:
            self._sender.send_packet(Pubrel(identifier), self._version)

    def pubcomp(self, packet: Pubcomp) -> None:
        """QoS 2: the exchange is over."""
        sequence = self.session.inflight.pubcomp(packet.packet_id)
        if sequence:
            if self.session.durable:
                self._completed.append(sequence)
            self._sender.mark()

    def store_acknowledgements(self) -> None:
        """Tell the store, once a turn, what has been acknowledged."""
        done, received, completed = self._done, self._received, self._completed
        if not (done or received or completed):
            return
        self._done, self._received, self._completed = [], [], []
        session = self.session

        def stored(current: bool) -> None:
            self._recording.difference_update(packet_id(sequence) for sequence in received)
            if not current:
                self._overtaken()
            elif not self.closed:
                for sequence in received:  # in the order of the PUBRECs [MQTT-4.6.0-4]
                    self._sender.send_packet(Pubrel(packet_id(sequence)), self._version)

        storing = self._store.acknowledge(session.client_id, session.epoch, done, received, completed)
        storing.addCallbacks(stored, self._store_lost)

    # -- retained messages for new subscriptions

    def feed(self, topic: str, granted: int) -> None:
        """A subscription asks for the retained message of a topic."""
        feed = self.session.feed
        if not feed:
            self._unsubscribed = False
        feed[topic] = (*feed.get(topic, ())[1 - FEED_COPIES :], granted)
        self._sender.mark()

    def unfeed(self) -> None:
        """Subscriptions were removed: what only they asked for is not sent [MQTT-3.10.4-2]."""
        self._unsubscribed = bool(self.session.feed)

    def _send_feed(self) -> None:
        session, sender = self.session, self._sender
        room = min(session.window, session.max_queued)
        while session.feed and sender.has_room and self._feeding < FEED_BATCH and len(session.queue) < room:
            self._send_retained(next(iter(session.feed)))

    def _send_retained(self, topic: str) -> None:
        """Send the present retained message of one topic of the feed for one new subscription [MQTT-3.3.1-8]."""
        feed = self.session.feed
        granted, *others = feed[topic]
        if others:
            feed[topic] = tuple(others)
        else:
            del feed[topic]
        message = self._retained.get(topic)
        if message is None or (self._unsubscribed and not self._is_wanted(topic)):
            return
        qos = min(message.qos, granted)
        if not qos:
            self._send_now(message, True, ())
        elif self.session.durable:
            self._queue_retained(message, qos)
        else:
            self._offer(message, qos, True, ())

    def _is_wanted(self, topic: str) -> bool:
        return any(receiver.subscriber is self.subscriber for receiver in self._routing.match(topic))

    def _queue_retained(self, message: Message, qos: int) -> Deferred[None]:
        target = Target(self.session.client_id, self.subscriber.generation, qos, retain=True)
        self._feeding += 1

        def stored(answer: Published) -> None:
            self._feeding -= 1
            sequence = answer.sequences[0]
            if sequence == FULL:
                self._metrics.dropped["queue_full"] += 1
            elif sequence != GONE and not self.closed:
                self.session.arrived(Delivery(sequence, message, qos, True))
            self._sender.mark()

        return self._store.publish(Publication(message, [target])).addCallbacks(stored, self._store_lost)

    def close(self) -> None:
        """The connection has ended. What a durable session was still to be fed goes into its queue."""
        if self.closed:
            return
        self.store_acknowledgements()
        self.closed = True
        session = self.session
        if session.durable:
            for topic, grants in islice(session.feed.items(), self._max_queued):  # the queue holds no more
                message = self._retained.get(topic)
                for granted in grants:
                    if message is not None and min(message.qos, granted):
                        self._queue_retained(message, min(message.qos, granted))
        session.feed.clear()
