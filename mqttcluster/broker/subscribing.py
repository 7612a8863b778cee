"""SUBSCRIBE and UNSUBSCRIBE.

A subscription of a durable session is stored before SUBACK. In the very moment it enters the routing the retained
messages that match are noted, and publishes that complete from then on are routed to it: none is missed in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.auth import Authorizer
from mqttcluster.broker.settings import Settings
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing
from mqttcluster.mqtt.packets import V31, Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from mqttcluster.mqtt.reasons import MQTTError, Reason
from mqttcluster.storage.interfaces import IStore, StoreError

if TYPE_CHECKING:
    from mqttcluster.broker.client import Client


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
    ) -> None:
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
        new: set[str] = set()
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
        for topic_filter, subscription in granted:  # the session has them, even if its connection has ended meanwhile
            self._routing.subscribe(outlet.subscriber, topic_filter, subscription)
        if outlet.closed:
            return
        client.send_packet(Suback(packet.packet_id, reasons))
        for topic_filter, subscription in granted:
            outlet.feed(self._retained.match(topic_filter), subscription.qos)

    async def unsubscribe(self, client: Client, packet: Unsubscribe) -> None:
        """Remove the subscriptions whose filters are equal, character by character, and answer in any case."""
        outlet = client.outlet
        assert outlet is not None
        present = [f for f in packet.filters if f in outlet.subscriber.subscriptions]
        if present and not await self._store_changes(client, {}, present):
            return
        reasons = [
            Reason.SUCCESS
            if self._routing.unsubscribe(outlet.subscriber, topic_filter)
            else Reason.NO_SUBSCRIPTION_EXISTED
            for topic_filter in packet.filters
        ]
        if outlet.closed:
            return
        if outlet.session.feed:
            outlet.unfeed()
        client.send_packet(Unsuback(packet.packet_id, reasons))

    def _decide(self, client: Client, topic_filter: str, new: set[str]) -> Reason:
        """`new` collects the filters of one packet that the session does not have yet."""
        assert client.identity is not None
        assert client.outlet is not None
        settings = self._settings
        if topic_filter.count("/") >= settings.max_topic_levels:
            return Reason.TOPIC_FILTER_INVALID
        if not self._authorizer.may_subscribe(client.identity, topic_filter):
            return Reason.NOT_AUTHORIZED
        present = client.outlet.subscriber.subscriptions
        if topic_filter not in present and topic_filter not in new:
            if len(present) + len(new) >= settings.max_subscriptions:
                return Reason.QUOTA_EXCEEDED
            new.add(topic_filter)
        return Reason.SUCCESS

    async def _store_changes(self, client: Client, add: dict[str, Subscription], remove: list[str]) -> bool:
        """False: the session has moved on, this connection is not its owner any more."""
        assert client.outlet is not None
        session = client.outlet.session
        if not session.durable:
            return True
        try:
            return await self._store.subscribe(session.client_id, session.epoch, add, remove)
        except StoreError as error:
            raise MQTTError(Reason.UNSPECIFIED_ERROR, f"the store failed: {error}") from error
