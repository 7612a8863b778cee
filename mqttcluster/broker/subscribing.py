"""SUBSCRIBE and UNSUBSCRIBE.

A subscription of a durable session is stored before SUBACK. In the very moment it enters the routing the retained
messages that match are noted, and publishes that complete from then on are routed to it: none is missed in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.auth import Authorizer
from mqttcluster.broker.settings import Settings
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing, levels
from mqttcluster.mqtt.packets import V31, Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from mqttcluster.mqtt.reasons import MQTTError, Reason
from mqttcluster.storage.interfaces import IStore, StoreError
from mqttcluster.storage.shared import SessionChange

if TYPE_CHECKING:
    from mqttcluster.broker.client import Client
    from mqttcluster.broker.outlet import Outlet


#: How long the search for retained messages goes on in one reactor turn, counted in messages found; a while in vain,
#: and each filter, count as many.
EFFORT_PER_TURN = 2000
VAIN_EFFORT = 100


#: A session's filters may have so many levels on average: memory and matching are paid by the level.
LEVELS_PER_SUBSCRIPTION = 8


@dataclass(slots=True)
class _New:
    """Filters of one packet that the session does not have yet."""

    filters: set[str] = field(default_factory=set)
    levels: int = 0


class Subscribing:
    """Answers SUBSCRIBE and UNSUBSCRIBE."""

    def __init__(
        self,
        store: IStore,
        routing: Routing,
        retained: Retained,
        settings: Settings,
        authorizer: Authorizer,
        cluster: Alone,
        clock: IReactorTime,
    ) -> None:
        self._clock = clock
        self._cluster = cluster
        self._store = store
        self._routing = routing
        self._retained = retained
        self._settings = settings
        self._authorizer = authorizer

    async def subscribe(self, client: Client, packet: Subscribe) -> None:
        """Decide each filter, store, route, answer, then send retained messages.

        A packet with several filters has the effect of one packet for each [MQTT-3.8.4-4].
        """
        granted: list[tuple[str, Subscription]] = []
        reasons: list[Reason] = []
        new = _New()
        for topic_filter, subscription in packet.filters:
            reason = self._decide(client, topic_filter, new)
            if reason is Reason.SUCCESS:
                granted.append((topic_filter, subscription))
                reason = Reason(subscription.qos)
            else:
                client.refused("subscribe", topic_filter)
                if client.version == V31:  # MQTT 3.1 has no code for a refusal
                    reason = Reason.SUCCESS
            reasons.append(reason)
        if granted and not await self._store_changes(client, dict(granted), []):
            return
        outlet = client.outlet
        assert outlet is not None
        generation = outlet.subscriber.generation
        change = SessionChange(outlet.session.client_id, generation, dict(granted), epoch=outlet.epoch)
        for topic_filter, subscription in granted:  # the session has them, even if its connection has ended meanwhile
            before = outlet.subscriber.subscriptions.get(topic_filter)
            self._routing.subscribe(outlet.subscriber, topic_filter, subscription)
            if not outlet.closed:
                self._cluster.changed(outlet.subscriber, topic_filter, before)
        await self._announce(client, change)
        await self._check_retained([topic_filter for topic_filter, _ in granted])
        if outlet.closed:
            return
        client.send_packet(Suback(packet.packet_id, reasons))
        await self._feed(outlet, granted)

    async def unsubscribe(self, client: Client, packet: Unsubscribe) -> None:
        """Remove the subscriptions whose filters are equal, character by character, and answer in any case."""
        outlet = client.outlet
        assert outlet is not None
        present = [f for f in packet.filters if f in outlet.subscriber.subscriptions]
        if present and not await self._store_changes(client, {}, present):
            return
        reasons = []
        for topic_filter in packet.filters:
            before = outlet.subscriber.subscriptions.get(topic_filter)
            self._routing.unsubscribe(outlet.subscriber, topic_filter)
            if before is not None and not outlet.closed:
                self._cluster.changed(outlet.subscriber, topic_filter, before)
            reasons.append(Reason.NO_SUBSCRIPTION_EXISTED if before is None else Reason.SUCCESS)
        # nobody has to have heard of it before UNSUBACK: what still comes is not delivered
        generation = outlet.subscriber.generation
        change = SessionChange(outlet.session.client_id, generation, {}, present, epoch=outlet.epoch)
        self._announce(client, change)
        if outlet.closed:
            return
        if outlet.session.feed:
            outlet.unfeed()
        client.send_packet(Unsuback(packet.packet_id, reasons))

    async def _feed(self, outlet: Outlet, granted: list[tuple[str, Subscription]]) -> None:
        """Note the retained messages that match. A long search is done in turns with everybody else's work [G9]; what
        changes meanwhile is delivered live, for the subscriptions are in force."""
        effort = 0
        for topic_filter, subscription in granted:
            for message in chain(self._retained.search(topic_filter), [None]):
                effort += VAIN_EFFORT if message is None else 1
                if effort >= EFFORT_PER_TURN:
                    effort = 0
                    await deferLater(self._clock, 0)
                if outlet.closed:
                    return
                if message is not None:
                    outlet.feed(message.topic, subscription.qos)

    def _decide(self, client: Client, topic_filter: str, new: _New) -> Reason:
        assert client.identity is not None
        assert client.outlet is not None
        settings = self._settings
        if topic_filter.count("/") >= settings.max_topic_levels:
            return Reason.TOPIC_FILTER_INVALID
        if not self._authorizer.may_subscribe(client.identity, topic_filter):
            return Reason.NOT_AUTHORIZED
        subscriber = client.outlet.subscriber
        if topic_filter not in subscriber.subscriptions and topic_filter not in new.filters:
            many = len(subscriber.subscriptions) + len(new.filters) >= settings.max_subscriptions
            deep = subscriber.levels + new.levels >= settings.max_subscriptions * LEVELS_PER_SUBSCRIPTION
            if many or deep:
                return Reason.QUOTA_EXCEEDED
            new.filters.add(topic_filter)
            new.levels += levels(topic_filter)
        return Reason.SUCCESS

    def _announce(self, client: Client, change: SessionChange) -> Deferred[None]:
        """Fires when every other node knows; a durable session's owner then need not say it again."""
        outlet = client.outlet
        assert outlet is not None
        if not outlet.session.durable:
            return self._cluster.announce()
        return self._cluster.announce_session(change, outlet.epoch)

    async def _check_retained(self, filters: list[str]) -> None:
        try:
            await self._cluster.check_retained(filters)
        except StoreError as error:
            raise MQTTError(Reason.UNSPECIFIED_ERROR, f"the store failed: {error}") from error

    async def _store_changes(self, client: Client, add: dict[str, Subscription], remove: list[str]) -> bool:
        """False: the session has moved on, this connection is not its owner any more and is closed."""
        assert client.outlet is not None
        session = client.outlet.session
        if not session.durable:
            return True
        try:
            current = await self._store.subscribe(session.client_id, session.epoch, add, remove)
        except StoreError as error:
            raise MQTTError(Reason.UNSPECIFIED_ERROR, f"the store failed: {error}") from error
        if not current:
            client.taken_over()
        return current
