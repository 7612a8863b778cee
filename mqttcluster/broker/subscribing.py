"""SUBSCRIBE and UNSUBSCRIBE.

A subscription of a durable session is stored before SUBACK. In the very moment it enters the routing the retained
messages that match are noted, and publishes that complete from then on are routed to it: none is missed in between.

A shared subscription (`core.shares`) is stored and told to the other nodes also for a clean session, whose queue for it
is in the store from then on. It brings no retained messages. Before MQTT 5.0 `$share/…` is a filter like any other; no
topic begins so, and it is granted and left at that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.auth import Authorizer
from mqttcluster.broker.authorization import permission
from mqttcluster.broker.settings import Settings
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing, levels
from mqttcluster.mqtt.packets import V5, V31, Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import MQTTError, Reason
from mqttcluster.mqtt.topics import is_shared
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


def asks_for_retained(topic_filter: str, subscription: Subscription, before: Subscription | None) -> bool:
    """Whether a subscription in the place of `before` is to bring retained messages [MQTT-3.3.1-9] of 5.0."""
    if is_shared(topic_filter) or subscription.retain_handling == 2:
        return False
    return subscription.retain_handling == 0 or before is None


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
        remark = ""
        new = _New()
        term = client.receiving.permissions.term
        self._check_available(client, packet)
        for topic_filter, subscription in packet.filters:
            if subscription.qos > self._settings.max_qos:
                subscription = replace(subscription, qos=self._settings.max_qos)  # [MQTT-3.2.2-10] of 5.0
            reason = await self._decide(client, topic_filter, new)
            if reason is Reason.SUCCESS:
                if client.version >= V5 or not is_shared(topic_filter):
                    granted.append((topic_filter, subscription))
                reason = Reason(subscription.qos)
            else:
                client.refused("subscribe", topic_filter)
                remark = remark or reason.label
                if client.version == V31:  # MQTT 3.1 has no code for a refusal
                    reason = Reason.SUCCESS
            reasons.append(reason)
        if client.ended:  # an authorizer took its time
            return
        if granted and not await self._store_changes(client, dict(granted), []):
            return
        outlet = client.outlet
        assert outlet is not None
        change = _change(outlet, dict(granted), [])
        asking: list[tuple[str, Subscription]] = []
        for topic_filter, subscription in granted:  # the session has them, even if its connection has ended meanwhile
            before = outlet.subscriber.subscriptions.get(topic_filter)
            if asks_for_retained(topic_filter, subscription, before):
                asking.append((topic_filter, subscription))
            self._routing.subscribe(outlet.subscriber, topic_filter, subscription)
            if not outlet.closed:
                self._cluster.changed(outlet.subscriber, topic_filter, before)
        if outlet.muted is not None:
            outlet.muted = outlet.muted.without([topic_filter for topic_filter, _ in granted])
        if term != client.receiving.permissions.term:  # the rules have changed meanwhile
            await client.broker.recheck(client)
        await self._announce(client, change)
        await self._check_retained([topic_filter for topic_filter, _ in asking])
        if outlet.closed:
            return
        client.send_packet(Suback(packet.packet_id, reasons), remark)
        await self._feed(outlet, asking)

    async def unsubscribe(self, client: Client, packet: Unsubscribe) -> None:
        """Remove the subscriptions whose filters are equal, character by character, and answer in any case."""
        outlet = client.outlet
        assert outlet is not None
        withdrawn = await self.withdraw(client, packet.filters)
        if withdrawn is None:
            return
        reasons, over = withdrawn
        await over
        if not outlet.closed:
            client.send_packet(Unsuback(packet.packet_id, reasons))

    async def withdraw(self, client: Client, filters: Sequence[str]) -> tuple[list[Reason], Deferred[None]] | None:
        """Remove subscriptions. Answers for each filter whether there was one, and what fires when nothing more comes
        for them [MQTT-3.10.4-2]; None if the session has moved on."""
        outlet = client.outlet
        assert outlet is not None
        present = [f for f in filters if f in outlet.subscriber.subscriptions]
        if present and not await self._store_changes(client, {}, present):
            return None
        reasons = []
        for topic_filter in filters:
            before = outlet.subscriber.subscriptions.get(topic_filter)
            self._routing.unsubscribe(outlet.subscriber, topic_filter)
            if before is not None and not outlet.closed:
                self._cluster.changed(outlet.subscriber, topic_filter, before)
            reasons.append(Reason.NO_SUBSCRIPTION_EXISTED if before is None else Reason.SUCCESS)
        change = _change(outlet, {}, present)
        announced = self._announce(client, change)
        if outlet.session.feed and not outlet.closed:
            outlet.feed.unsubscribed()
        # Who has not heard of it may still put messages into the queue. What comes otherwise is looked at here.
        queued = present and (change.durable or change.remove)
        return reasons, announced if queued else succeed(None)

    def _check_available(self, client: Client, packet: Subscribe) -> None:
        """What CONNACK says not to be there must not be asked for. Before MQTT 5.0 it is refused filter by filter."""
        if client.version != V5:
            return
        settings = self._settings
        if settings.no_subscription_identifiers and packet.properties.get(Prop.SUBSCRIPTION_IDENTIFIER):
            raise MQTTError(Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, "a subscription identifier")
        for topic_filter, _ in packet.filters:
            reason = self._missing(topic_filter)
            if reason is not None:
                raise MQTTError(reason, f"a subscription to {topic_filter!r}")

    def _missing(self, topic_filter: str) -> Reason | None:
        """What this filter takes that this broker is told not to have."""
        settings = self._settings
        if settings.no_shared_subscriptions and is_shared(topic_filter):
            return Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        if settings.no_wildcard_subscriptions and ("+" in topic_filter or "#" in topic_filter):
            return Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED
        return None

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
                    outlet.feed.add(message.topic, subscription)

    async def _decide(self, client: Client, topic_filter: str, new: _New) -> Reason:
        assert client.identity is not None
        assert client.outlet is not None
        settings = self._settings
        if topic_filter.count("/") >= settings.max_topic_levels:
            return Reason.TOPIC_FILTER_INVALID
        missing = self._missing(topic_filter)
        if missing is not None:
            return missing
        if not await permission(self._authorizer.may_subscribe(client.identity, topic_filter)):
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
        if not (change.durable or change.add or change.remove):
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
            add, remove = _only_shared(add, remove)
            if not (add or remove):
                return True
        try:
            current = await self._store.subscribe(session.client_id, session.epoch, add, remove)
        except StoreError as error:
            raise MQTTError(Reason.UNSPECIFIED_ERROR, f"the store failed: {error}") from error
        if not current:
            client.taken_over()
        elif any(map(is_shared, add)):
            session.share()
        return current


def _only_shared(add: Mapping[str, Subscription], remove: Sequence[str]) -> tuple[dict[str, Subscription], list[str]]:
    return {name: add[name] for name in filter(is_shared, add)}, list(filter(is_shared, remove))


def _change(outlet: Outlet, add: dict[str, Subscription], remove: list[str]) -> SessionChange:
    """What the other nodes are to know."""
    session, durable = outlet.session, outlet.session.durable
    if not durable:
        add, remove = _only_shared(add, remove)
    generation, online = outlet.subscriber.generation, not outlet.closed
    return SessionChange(
        session.client_id, generation, add, remove, epoch=outlet.epoch, online=online, durable=durable
    )
