"""The broker of one node: its parts, put together once, and its start and stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.auth import AllowAll, AnonymousOnly, Authenticator, Authorizer
from mqttcluster.broker.authorization import forbidden
from mqttcluster.broker.client import Client
from mqttcluster.broker.cluster import Cluster
from mqttcluster.broker.deadlines import Deadlines
from mqttcluster.broker.fast_lane import FastLane
from mqttcluster.broker.housekeeping import Housekeeping
from mqttcluster.broker.intake import SHARE_OF_A_TURN
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.outlet import Outlet
from mqttcluster.broker.output import Output
from mqttcluster.broker.publishing import Publishing
from mqttcluster.broker.sender import Transport
from mqttcluster.broker.sessions import Sessions
from mqttcluster.broker.settings import Settings
from mqttcluster.broker.subscribing import Subscribing
from mqttcluster.broker.sys_topics import SysTopics
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Routing, Subscriber
from mqttcluster.core.session import Session
from mqttcluster.core.shares import SharePolicy
from mqttcluster.mqtt.topics import is_shared
from mqttcluster.storage.interfaces import IStore
from mqttcluster.storage.shared import IBackplane, ISharedStore

log = Logger(namespace="mqttcluster.broker")

#: Seconds that a client has to come back at another node before its will is published.
GRACE = 10.0
#: Clients sent away at once by a node that stops, and seconds between two lots.
AWAY_AT_ONCE = 200
AWAY_INTERVAL = 0.05
#: Seconds that a broker which stops waits for a store that is away, once nothing is in flight any more.
STORE_PATIENCE = 5.0


class Broker:
    """One node. `clock` is the reactor, or a `Clock` in tests. With a `backplane` it is one of many, and the store must
    be one that they share."""

    def __init__(
        self,
        store: IStore,
        settings: Settings,
        clock: IReactorTime,
        authenticator: Authenticator | None = None,
        authorizer: Authorizer | None = None,
        backplane: IBackplane | None = None,
        metrics: Metrics | None = None,
        methods: Sequence[Any] = (),
    ) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.authorizer = authorizer or AllowAll()
        #: Each an `IAuthenticationMethod`, by its name.
        self.methods = {method.name: method for method in methods}
        self.metrics = metrics or Metrics(clock.seconds())
        self.deadlines = Deadlines(clock)
        self.now = clock.seconds
        self.output = Output(lambda flush: clock.callLater(0, flush))
        self.routing = Routing()
        self.retained = Retained()
        #: All connections, whatever their state.
        self.clients: set[Client] = set()
        #: Clients that are gone, and not all they have published was given to its receivers.
        self.unfinished: set[Client] = set()
        self.cluster: Alone = Alone(self.retained)
        if backplane is not None:
            self.cluster = Cluster(self, backplane, cast(ISharedStore, store))
        self.fast_lane: FastLane | None = None
        if not settings.no_fast_lane:
            self.fast_lane = FastLane(store, self.routing, self.metrics, self.cluster, settings)
        self.publishing = Publishing(
            store,
            self.routing,
            self.retained,
            self.metrics,
            settings.max_retained,
            self.cluster,
            clock.seconds,
            SharePolicy(settings.shared_subscription_policy),
        )
        #: What every client's steps need: bound once, and not once for each of them.
        self.complete, self.may_act = self.publishing.complete, self.cluster.may_act
        self.sessions = Sessions(
            store, self.routing, settings, self.metrics, authenticator or AnonymousOnly(), self.authorizer, self.cluster
        )
        self.publishing.subscribers = self.sessions.subscribers
        self.subscribing = Subscribing(
            store, self.routing, self.retained, settings, self.authorizer, self.cluster, clock
        )
        self.housekeeping = Housekeeping(store, self.publishing, self.sessions, self.metrics, clock, self.cluster)
        self._sys_topics = SysTopics(
            settings.node,
            self.metrics,
            self.sessions,
            self.routing,
            self.retained,
            self.publishing,
            self.cluster,
        )
        self._sys_loop = LoopingCall(lambda: self._sys_topics.publish(clock.seconds()))
        self._sys_loop.clock = clock
        self._started = False
        self._stopping = False

    def start(self) -> Deferred[None]:
        """Open the store and take up what it holds. Fails with `StoreError`."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self.store.start()
        await self.cluster.start(self.recover)
        self._started = True
        self.housekeeping.start()
        if self.settings.sys_interval:
            self._sys_loop.start(self.settings.sys_interval)

    async def recover(self) -> None:
        """Take up what the store holds: durable sessions and retained messages."""
        recovered = await self.store.recover(self.clock.seconds())
        self.sessions.restore(recovered.sessions)
        self.retained.replace(recovered.retained)
        log.info(
            "restored {sessions} sessions and {retained} retained messages",
            sessions=len(recovered.sessions),
            retained=len(recovered.retained),
        )

    def abandon(self) -> None:
        """This node's sessions are not its own any more: close every connection and forget what was known."""
        for client in list(self.clients):
            client.shut_down()
        self.sessions.clear()
        self.routing.clear()

    def stop(self) -> Deferred[None]:
        """Finish what is in flight, close every connection, close the store.

        Alone, the wills of clients that did not say goodbye are published now. In a cluster they have time to come back
        elsewhere first.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        if self._sys_loop.running:
            self._sys_loop.stop()
        others, clients = self.cluster.others, list(self.clients)
        await self._drain(others, clients)
        patience = LoopingCall(self._give_up_a_store_that_is_away)
        patience.clock = self.clock
        patience.start(STORE_PATIENCE, now=False)
        try:
            await self._send_away(others, clients)
            await self.housekeeping.stop()
        finally:
            patience.stop()
        await self.cluster.stop()
        await self.store.stop()

    async def _drain(self, others: bool, clients: Sequence[Client]) -> None:
        """Let them finish what is in flight, but not for ever."""
        drained = DeferredList([client.drain(others) for client in clients], consumeErrors=True)
        drained.addTimeout(self.settings.drain_timeout, self.clock, lambda _, __: log.warn("not all in flight is done"))
        await drained

    async def _send_away(self, others: bool, clients: Sequence[Client]) -> None:
        """Not all at once: they are about to knock at the other nodes."""
        for start in range(0, len(clients), AWAY_AT_ONCE):
            if start:
                await deferLater(self.clock, AWAY_INTERVAL)
            closing = [client.shut_down(GRACE if others else 0.0) for client in clients[start : start + AWAY_AT_ONCE]]
            await DeferredList([d for d in closing if d is not None])

    def _give_up_a_store_that_is_away(self) -> None:
        """What waits for it fails, so that this node can end. To the others it is as if it had been killed."""
        if self.cluster.away():
            log.error("the store is away, what waits for it is given up")
            self.store.stop()

    def store_trouble(self) -> str:
        """Why the store cannot be relied on at the moment, '' if it can."""
        if not self.cluster.may_act():
            return "waiting for the store that the cluster shares"
        return self.housekeeping.store_trouble()

    async def rules_changed(self) -> None:
        """Forget what clients may do, and look at the subscriptions of connected ones anew, in turns with everybody
        else's work."""
        for client in list(self.clients):
            client.receiving.permissions.forget()
        begin = self.clock.seconds()
        for client in list(self.sessions.connected.values()):
            await self.recheck(client)
            if self.clock.seconds() - begin >= SHARE_OF_A_TURN:
                await deferLater(self.clock, 0)
                begin = self.clock.seconds()

    async def recheck(self, client: Client) -> None:
        """Mute the subscriptions that the client may not have any more, and those only."""
        outlet, permissions = client.outlet, client.receiving.permissions
        if outlet is None or outlet.closed or client.identity is None:
            return
        term = permissions.term
        found = await forbidden(self.authorizer, client.identity, outlet.subscriber.subscriptions)
        if outlet.closed or term != permissions.term:
            return
        for topic_filter in found - (outlet.muted.filters if outlet.muted is not None else set()):
            client.refused("delivery", topic_filter)
        shared = [topic_filter for topic_filter in found if is_shared(topic_filter)]
        if shared:  # others of the group are to get what this client may not have
            await self.subscribing.withdraw(client, shared)
        outlet.mute(found)

    def not_ready(self) -> list[str]:
        """Why this node wants no new clients, nothing if it does."""
        reasons = []
        if not self._started:
            reasons.append("starting")
        elif not self._stopping:
            trouble = self.store_trouble()
            if trouble:
                reasons.append(trouble)
        if self._stopping:
            reasons.append("stopping")
        return reasons

    def connect(self, transport: Transport, peer: str, anonymous_allowed: bool) -> Client | None:
        """A connection has been made. None: there are too many, or the broker is stopping; close it."""
        if self._stopping or len(self.clients) >= self.settings.max_connections:
            self.metrics.refuse("too_many_connections")
            log.info("refused a connection from {peer}: too many connections", peer=peer)
            return None
        client = Client(self, transport, peer, anonymous_allowed)
        self.clients.add(client)
        self.metrics.connections_accepted += 1
        return client

    def outlet(self, client: Client, session: Session, subscriber: Subscriber) -> Outlet:
        """What a connected client's deliveries leave through."""
        return Outlet(
            session,
            subscriber,
            client.sender,
            client.terms,
            self.now,
            self.store,
            self.retained,
            self.routing,
            self.metrics,
            self.sessions.most_read,
            self.settings.max_queued,
            client.store_lost,
            client.taken_over,
        )
