"""CONNECT to CONNACK, and what happens to the session when a connection ends.

`Sessions.open` reads as the agenda of a CONNECT. Two connections with one client id may be under way at once: the
later one wins, here by `_opening`, in the store by the order of the calls [G3].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.broker.admission import Admission
from mqttcluster.broker.alone import Alone
from mqttcluster.broker.auth import Authenticator, Authorizer
from mqttcluster.broker.authorization import forbidden
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.settings import Settings
from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.routing import Outlet, Routing, Subscriber
from mqttcluster.core.run import Run
from mqttcluster.core.session import Session
from mqttcluster.mqtt.packets import Connect, Subscription
from mqttcluster.mqtt.reasons import MQTTError, Reason
from mqttcluster.storage.interfaces import Closed, IStore, KeptSession, Opened, StoreError
from mqttcluster.storage.shared import Doorbell, SessionChange

if TYPE_CHECKING:
    from mqttcluster.broker.client import Client

log = Logger(namespace="mqttcluster.sessions")


class _End(NamedTuple):
    """The end of a connection, as `IStore.close` takes it, and the generation of its session."""

    client_id: str
    epoch: int
    publish_will: bool
    sent: int
    now: float
    expiry: int | None = None
    grace: float = 0.0
    generation: int = 0


def whole(client_id: str, generation: int, epoch: int, subscriptions: Mapping[str, Subscription]) -> SessionChange:
    """All subscriptions of a session, as its owner of `epoch` has them."""
    return SessionChange(client_id, generation, subscriptions, whole=True, epoch=epoch)


class Sessions:
    """The sessions this node knows: connected clients, and subscribers that may be offline."""

    def __init__(
        self,
        store: IStore,
        routing: Routing,
        settings: Settings,
        metrics: Metrics,
        authenticator: Authenticator,
        authorizer: Authorizer,
        cluster: Alone,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._routing = routing
        self._settings = settings
        self._metrics = metrics
        self._admission = Admission(settings, authenticator, authorizer)
        self._authorizer = authorizer
        #: Client id -> the connection that owns the session now.
        self.connected: dict[str, Client] = {}
        #: Client id -> the latest connection whose `IStore.open` is under way.
        self._opening: dict[str, Client] = {}
        #: Of those: client ids that messages were queued for meanwhile, and epochs of later owners elsewhere.
        self._rung: set[str] = set()
        self._overtaken: dict[str, int] = {}
        #: Client id -> the end of a connection that the store has failed to take note of.
        self._untold: dict[str, _End] = {}
        #: Client id -> what fires when the store has answered to the end of its last connection.
        self._telling: dict[str, Deferred[None]] = {}
        #: Durable sessions, connected or not, and clean ones while connected.
        self.subscribers: dict[str, Subscriber] = {}

    def restore(self, sessions: Sequence[KeptSession]) -> None:
        """What the store keeps, as this node starts or after it has lost touch with the others."""
        there = {kept.client_id: kept for kept in sessions}
        for client in list(self.connected.values()):
            kept, outlet = there.get(client.client_id), client.outlet
            if outlet is None or not outlet.session.stored:
                continue
            if kept is None or kept.epoch < outlet.epoch:
                client.session_lost()  # forgotten by the store
            elif kept.epoch > outlet.epoch:
                self._metrics.takeovers += 1
                client.taken_over()
        for subscriber in list(self.subscribers.values()):
            elsewhere = subscriber.durable or subscriber.node
            if elsewhere and subscriber.outlet is None and subscriber.client_id not in there:
                self.forget(subscriber)
        for kept in sessions:
            change = whole(kept.client_id, kept.generation, kept.epoch, kept.subscriptions)
            change.online, change.durable = bool(kept.node), kept.durable
            self.changed(change, kept.node)

    async def open(self, client: Client, connect: Connect) -> bool | None:
        """Give the client its session. Returns Session Present; None if the connection is not wanted any more.

        Raises `MQTTError` with the reason for CONNACK.
        """
        if not await self._cluster.will_act():
            raise MQTTError(Reason.SERVER_UNAVAILABLE, "the store that the cluster shares does not answer")
        if client.ended:
            return None
        will = await self._admission.admit(client, connect)
        if client.ended:
            return None
        client_id, terms = client.client_id, client.terms
        self._take_over(client_id)
        now = client.broker.clock.seconds()  # not before the older's end, or its will seems to be waiting still
        self._opening[client_id] = client
        if client_id in self._untold:  # before this open, or a will that DISCONNECT discarded comes to life
            self._tell(self._untold.pop(client_id))
        try:
            opened = await self._store.open(client_id, connect.clean_start, terms.expiry, will, now, self.most_read)
        except StoreError as error:
            if self._opening.get(client_id) is client:
                self._opened(client_id)
            log.error("store failed on open for {client_id}: {error}", client_id=client_id, error=error)
            raise MQTTError(Reason.SERVER_UNAVAILABLE, "the store failed") from error
        judging = Deferred.fromCoroutine(self._forbidden(client, opened))
        waited = not judging.called  # and messages may have been queued meanwhile
        muted = await judging
        if opened.previous is not None:
            await self._cluster.take(client_id, opened.epoch, opened.previous[0])
        if self._opening.get(client_id) is not client:
            # If the later connection gets the session this is stale; if it fails nobody has the session any more.
            self._tell(_End(client_id, opened.epoch, False, opened.sent, now, generation=opened.generation))
            return None
        rung = waited or opened.previous is not None or client_id in self._rung
        overtaken = self._overtaken.get(client_id, 0) > opened.epoch
        self._opened(client_id)
        if overtaken:
            client.taken_over()
            return None
        durable = terms.expiry != 0 or opened.present
        subscriber = self._subscriber(client_id, opened, durable)
        subscriber.outlet = client.attach(self._session(client_id, opened, durable, terms.window), subscriber)
        if muted and client.outlet is not None:
            client.outlet.mute(muted)
        client.succeeds = opened.present or opened.wiped > 0 or opened.previous is not None
        self.connected[client_id] = client
        self._cluster.attached(subscriber)
        if rung:
            client.look()
        if client.ended:
            self.detach(client)
            await self.close(client, publish_will=False, now=now)
            return None
        self._metrics.clients_maximum = max(self._metrics.clients_maximum, len(self.connected))
        return opened.present

    async def _forbidden(self, client: Client, opened: Opened) -> set[str]:
        """Subscriptions of an earlier connection that this client may not have, by the rules of now."""
        permissions = client.receiving.permissions
        while opened.subscriptions:
            term = permissions.term
            assert client.identity is not None
            found = await forbidden(self._authorizer, client.identity, opened.subscriptions)
            if term == permissions.term:
                return found
        return set()

    @property
    def offline(self) -> int:
        """How many durable sessions are not connected to this node."""
        return sum(subscriber.outlet is None and subscriber.durable for subscriber in self.subscribers.values())

    @property
    def look_ahead(self) -> int:
        """How many deliveries of a durable session are taken into memory as they come, beside those in flight."""
        return max(2 * self._settings.max_inflight, 64)

    @property
    def most_read(self) -> int:
        """How many are read from its queue at once: each read waits for the store's commit before it."""
        return max(8 * self._settings.max_inflight, 64)

    def _take_over(self, client_id: str) -> None:
        """The newer connection wins; the older is closed [MQTT-3.1.4-2]."""
        older = self.connected.get(client_id) or self._opening.get(client_id)
        if older is not None:
            self._metrics.takeovers += 1
            older.taken_over()

    def _opened(self, client_id: str) -> None:
        """No connection of this client id is on its way to its session any more."""
        self._opening.pop(client_id, None)
        self._rung.discard(client_id)
        self._overtaken.pop(client_id, None)

    def ring(self, bell: Doorbell, message: Message) -> None:
        """Another node has queued a message for a session that this node owns, or is about to."""
        outlet = self._answers(bell)
        if outlet is not None:
            outlet.arrived(Delivery(bell.sequence, message, bell.qos, bell.retain, bell.identifiers))

    def ring_run(self, bell: Doorbell, run: Run) -> None:
        """The same for a run."""
        outlet = self._answers(bell)
        if outlet is not None:
            outlet.arrived_run(run, bell.qos, bell.sequence, bell.count, bell.identifiers)

    def _answers(self, bell: Doorbell) -> Outlet | None:
        """Where the bell is for; None: nowhere any more, or not yet, and then it is remembered."""
        if bell.client_id in self._opening:
            self._rung.add(bell.client_id)
            return None
        subscriber = self.subscribers.get(bell.client_id)
        outlet = subscriber.outlet if subscriber is not None else None
        return outlet if outlet is not None and outlet.epoch == bell.epoch else None

    def give_way(self, client_id: str, epoch: int) -> Deferred[None]:
        """Another node owns this session under a higher epoch. Fires when nothing of the connection here is under
        way any more [G3]."""
        if client_id in self._opening:
            self._overtaken[client_id] = max(epoch, self._overtaken.get(client_id, 0))
        client = self.connected.get(client_id)
        if client is None or client.outlet is None or client.outlet.epoch >= epoch:
            return self._told(client_id)  # before the other node publishes a will that DISCONNECT has discarded
        self._metrics.takeovers += 1
        client.taken_over()
        return client.idle()

    def _subscriber(self, client_id: str, opened: Opened, durable: bool) -> Subscriber:
        subscriber = self.subscribers.get(client_id)
        if subscriber is not None and (not opened.present or subscriber.generation != opened.generation):
            self._routing.forget(subscriber)
            subscriber.outlet = None
            subscriber = None
        if opened.wiped:
            self._cluster.announce(SessionChange(client_id, opened.wiped, gone=True))
        change = whole(client_id, opened.generation, opened.epoch, opened.subscriptions)
        if subscriber is None:
            subscriber = self.subscribers[client_id] = Subscriber(client_id, opened.generation, durable)
        subscriber.durable = durable
        self.changed(change)
        if opened.unannounced:
            self._cluster.announce_session(change, opened.epoch)
        return subscriber

    def _session(self, client_id: str, opened: Opened, durable: bool, window: int) -> Session:
        settings = self._settings
        max_queued = self.look_ahead if durable else settings.max_queued
        session = Session(client_id, opened.epoch, durable, window, max_queued)
        # Another node may have stored such a message for some of its receivers only. If it comes again it is published
        # again, and who has it refuses it [G2].
        inbound = () if self._cluster.others else opened.inbound
        session.restore(opened.queue, opened.last, opened.sent, inbound)
        if opened.inbound:
            session.unreleased = frozenset(opened.inbound)
        for sequence in opened.released:
            session.inflight.restore_received(sequence)
        return session

    def detach(self, client: Client) -> None:
        """The connection has ended or is being taken over: no more deliveries go to it."""
        outlet = client.outlet
        if outlet is None:
            return
        if self.connected.get(client.client_id) is client:
            del self.connected[client.client_id]
        subscriber = outlet.subscriber
        if subscriber.outlet is outlet:
            subscriber.outlet, subscriber.node = None, ""
            self._cluster.detached(subscriber)
            if not subscriber.durable:
                self.forget(subscriber)

    def close(
        self, client: Client, publish_will: bool, now: float, grace: float = 0.0, expiry: int | None = None
    ) -> Deferred[object]:
        """Tell the store that the connection has ended. Fires when it knows, or has failed; never fails."""
        assert client.outlet is not None
        session, generation = client.outlet.session, client.outlet.subscriber.generation
        return self._tell(
            _End(session.client_id, session.epoch, publish_will, session.sent, now, expiry, grace, generation)
        )

    def _tell(self, end: _End) -> Deferred[object]:
        def told(closed: Closed) -> None:
            known = self.subscribers.get(end.client_id)
            if closed is Closed.ENDED and known is not None and known.durable and known.generation == end.generation:
                self.expired(end.client_id, end.generation)  # it was resumed, or told to end with this connection

        def failed(failure: Failure) -> None:
            self._untold[end.client_id] = end
            log.error("store failed on close for {client_id}: {error}", client_id=end.client_id, error=failure.value)

        closing = self._store.close(
            end.client_id, end.epoch, end.publish_will, end.sent, end.now, end.expiry, end.grace
        )
        telling = self._telling[end.client_id] = closing.addCallbacks(told, failed)

        def finished(_: object) -> None:
            if self._telling.get(end.client_id) is telling:
                del self._telling[end.client_id]

        return telling.addCallback(finished)

    def _told(self, client_id: str) -> Deferred[None]:
        """Fires when the store has answered to the end of the last connection of this client id, if it was told."""
        answered: Deferred[None] = Deferred()
        if client_id in self._telling:
            self._telling[client_id].addCallback(lambda _: answered.callback(None))
        else:
            answered.callback(None)
        return answered

    async def tell_again(self) -> None:
        """Tell the store of connections that ended while it failed. What has come since then makes it stale [G3]."""
        for client_id in list(self._untold):
            if client_id in self._untold:
                await self._tell(self._untold.pop(client_id))
                if client_id in self._untold:
                    return

    def forget(self, subscriber: Subscriber) -> None:
        """A session has ended."""
        self._routing.forget(subscriber)
        if self.subscribers.get(subscriber.client_id) is subscriber:
            del self.subscribers[subscriber.client_id]

    def expired(self, client_id: str, generation: int) -> None:
        """The store has ended a session."""
        gone = SessionChange(client_id, generation, gone=True)
        self.changed(gone)
        self._cluster.announce(gone)

    def node_gone(self, node: str) -> None:
        """Nobody is connected to that node any more."""
        for subscriber in [subscriber for subscriber in self.subscribers.values() if subscriber.node == node]:
            subscriber.node = ""
            if not subscriber.durable and subscriber.outlet is None:
                self.forget(subscriber)

    def changed(self, change: SessionChange, node: str = "") -> None:
        """Another node tells of a session, maybe for the second time. Its connection here, if there is one, is about to
        be taken over."""
        client_id, subscriber = change.client_id, self.subscribers.get(change.client_id)
        newer = subscriber is not None and subscriber.generation < change.generation
        same = subscriber is not None and subscriber.generation == change.generation
        if subscriber is not None and (newer or (same and change.gone)):
            if subscriber.outlet is not None:
                self._cluster.detached(subscriber)
            self.forget(subscriber)
            subscriber = None
        if change.gone or (subscriber is not None and not same):
            return
        if subscriber is None:
            subscriber = self.subscribers[client_id] = Subscriber(client_id, change.generation, change.durable)
        if change.epoch < subscriber.epoch:
            return
        subscriber.epoch = change.epoch
        subscriber.node = node if change.online else ""
        remove = set(change.remove)
        if change.whole:
            known = subscriber.subscriptions.keys() if change.durable else subscriber.shares
            remove.update(known - change.add.keys())
        for topic_filter in remove:
            before = subscriber.subscriptions.get(topic_filter)
            self._routing.unsubscribe(subscriber, topic_filter)
            self._recount(subscriber, topic_filter, before)
        for topic_filter, subscription in change.add.items():
            before = subscriber.subscriptions.get(topic_filter)
            self._routing.subscribe(subscriber, topic_filter, subscription)
            self._recount(subscriber, topic_filter, before)

    def _recount(self, subscriber: Subscriber, topic_filter: str, before: Subscription | None) -> None:
        if subscriber.outlet is not None:
            self._cluster.changed(subscriber, topic_filter, before)

    def clear(self) -> None:
        """Forget everything; there are no connections any more."""
        self.connected.clear()
        self._opening.clear()
        self._rung.clear()
        self._overtaken.clear()
        self._untold.clear()
        self._telling.clear()
        self.subscribers.clear()
