"""Retained messages on their way to a new subscription.

They wait in the session's feed by topic and are looked up when they are sent, so that a newer value is never followed
by an older one. Those of QoS 1 and 2 for a durable session go through its queue in the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mqttcluster.broker.sender import Sender
from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import FULL, GONE, IStore, Publication, Published, Target

if TYPE_CHECKING:
    from mqttcluster.broker.outlet import Outlet

#: Retained messages of one client that are on their way into the store's queue at any moment.
FEED_BATCH = 32
#: How often one retained message may wait for the same client, which subscribes again and does not take it.
FEED_COPIES = 16


def _identifiers(subscription: Subscription) -> tuple[int, ...]:
    return (subscription.identifier,) if subscription.identifier else ()


class Feed:
    """The feed of one connected client, which leaves through its `outlet`."""

    __slots__ = ("_feeding", "_outlet", "_retained", "_routing", "_sender", "_store", "_store_lost", "_unsubscribed")

    def __init__(
        self,
        outlet: Outlet,
        sender: Sender,
        store: IStore,
        retained: Retained,
        routing: Routing,
        store_lost: Callable[[Failure], None],
    ) -> None:
        self._outlet = outlet
        self._sender = sender
        self._store = store
        self._retained = retained
        self._routing = routing
        self._store_lost = store_lost
        #: How many are on their way into the store.
        self._feeding = 0
        #: Something was unsubscribed since the feed began.
        self._unsubscribed = False

    def add(self, topic: str, subscription: Subscription) -> None:
        """A new subscription asks for the retained message of a topic."""
        session = self._outlet.session
        feed = session.feed
        if not feed:
            self._unsubscribed = False
            feed = session.feed = OrderedDict()  # a dict that loses its oldest entries gets slower with each of them
        feed[topic] = (*feed.get(topic, ())[1 - FEED_COPIES :], subscription)
        self._sender.mark()

    def unsubscribed(self) -> None:
        """Subscriptions were removed: what only they asked for is not sent [MQTT-3.10.4-2]."""
        self._unsubscribed = bool(self._outlet.session.feed)

    def send(self) -> None:
        """As much as there is room for."""
        session, sender = self._outlet.session, self._sender
        room = min(session.window, session.max_queued)
        while session.feed and sender.has_room and self._feeding < FEED_BATCH and session.queued < room:
            self.send_one(next(iter(session.feed)))

    def send_one(self, topic: str) -> None:
        """Send the present retained message of one topic of the feed for one new subscription [MQTT-3.3.1-8]."""
        outlet = self._outlet
        feed = outlet.session.feed
        subscription, *others = feed[topic]
        if others:
            feed[topic] = tuple(others)
        else:
            del feed[topic]
        message = self._retained.get(topic)
        if message is None or message.expired(outlet.now()) or (self._unsubscribed and not self._is_wanted(topic)):
            return
        if not outlet.may_read(topic):
            return
        qos = min(message.qos, subscription.qos)
        if qos and outlet.session.durable:
            self._queue(message, qos, _identifiers(subscription))
        else:
            outlet.hand_out(message, qos, True, _identifiers(subscription))

    def _is_wanted(self, topic: str) -> bool:
        subscriber = self._outlet.subscriber
        return any(receiver.subscriber is subscriber for receiver in self._routing.match(topic))

    def _queue(self, message: Message, qos: int, identifiers: tuple[int, ...]) -> Deferred[None]:
        outlet = self._outlet
        target = Target(outlet.session.client_id, outlet.subscriber.generation, qos, True, identifiers)
        self._feeding += 1

        def stored(answer: Published) -> None:
            self._feeding -= 1
            sequence = answer.sequences[0]
            if sequence == FULL:
                outlet.dropped("queue_full")
            elif sequence != GONE and not outlet.closed:
                outlet.session.arrived(Delivery(sequence, message, qos, True, identifiers))
            self._sender.mark()

        return self._store.publish(Publication(message, [target])).addCallbacks(stored, self._store_lost)

    def close(self, most: int) -> None:
        """The connection has ended. What a durable session was still to be fed goes into its queue, which holds `most`
        messages."""
        outlet = self._outlet
        session = outlet.session
        if session.durable:
            for topic, subscriptions in islice(session.feed.items(), most):
                message = self._retained.get(topic)
                if message is None or message.expired(outlet.now()) or not outlet.may_read(topic):
                    continue
                for subscription in subscriptions:
                    if min(message.qos, subscription.qos):
                        self._queue(message, min(message.qos, subscription.qos), _identifiers(subscription))
        session.feed.clear()
