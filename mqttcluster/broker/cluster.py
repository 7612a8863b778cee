"""This node among the others: whether it may act, what it tells them and what it sends.

A node tells the others which filters its connected clients have (`core.interest`) and how durable sessions change.
Knowing that, the node where a message is published sends one envelope to each node that wants it, and none to the
others. QoS 0 goes by channel, QoS 1 and 2 by link. A durable session is served from its queue in the store; the
envelope only rings its owner's bell.

What they say is the matter of `broker.heard`, a session that moves from node to node that of `broker.takeover`.

While this node is *fenced* (its lease has run out) it reads no clients and acknowledges nothing; `may_act` is asked
once per chunk and before acknowledgements [G5].
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.heard import Heard
from mqttcluster.broker.retained_sync import RetainedSync
from mqttcluster.broker.takeover import Takeover
from mqttcluster.core.interest import LINKED, LIVE, Interest
from mqttcluster.core.message import Message
from mqttcluster.core.routing import Subscriber
from mqttcluster.core.run import Run
from mqttcluster.core.seen import Seen
from mqttcluster.core.shares import Member
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import is_shared
from mqttcluster.storage.shared import (
    Doorbell,
    Forward,
    IBackplane,
    ISharedStore,
    NodeInterest,
    RetainedChange,
    RetainedHint,
    RouteChange,
    RunForward,
    SessionChange,
    Shared,
)

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker
    from mqttcluster.broker.publishing import Plan

log = Logger(namespace="mqttcluster.cluster")

#: How often a fenced node looks whether it may go on, and how often retained versions are compared.
FENCE_INTERVAL = 0.1
COMPARE_INTERVAL = 1.0


def linked(subscriber: Subscriber, subscription: Subscription) -> bool:
    """Whether QoS 1 and 2 for this subscription come by link and not from a queue."""
    return not subscriber.durable or subscription.qos == 0


def _all(waiting: Sequence[Deferred[bool]]) -> Deferred[None] | None:
    if not waiting:
        return None
    if len(waiting) == 1:
        return waiting[0].addCallback(lambda _: None)
    return DeferredList(waiting).addCallback(lambda _: None)


class Cluster(Alone):
    """The broker's side of the backplane."""

    others = True

    def __init__(self, broker: Broker, backplane: IBackplane, store: ISharedStore) -> None:
        super().__init__(broker.retained)
        self._broker = broker
        self._backplane = backplane
        self._store = store
        self.interest = Interest()
        self.seen = Seen()
        self.retained = RetainedSync(store, broker.retained)
        self.takeover = Takeover(backplane, broker.clock)
        self._fenced = True
        #: Those who wait until this node may act, or it is known that the store is away.
        self._coming: list[Deferred[None]] = []
        self._fence_loop = LoopingCall(self._look_at_fence)
        self._fence_loop.clock = broker.clock
        self._compare_loop = LoopingCall(self.retained.compare)
        self._compare_loop.clock = broker.clock

    # -- life

    async def start(self, recover: Callable[[], Awaitable[None]]) -> None:
        """Join; the backplane asks to `load` in between."""
        await self._backplane.start(Heard(self._broker, self, self._store, recover))
        self._compare_loop.start(COMPARE_INTERVAL, now=False)

    async def stop(self) -> None:
        """Leave the others, in good order."""
        for loop in (self._fence_loop, self._compare_loop):
            if loop.running:
                loop.stop()
        await self._backplane.stop()

    @property
    def node(self) -> str:
        """The id of this node, as the others know it."""
        return self._backplane.node

    def may_act(self) -> bool:
        """Whether the lease holds. If not, every client is woken when it does again."""
        if not self._fenced and self._backplane.valid():
            return True
        self._wake_clients_later()
        return False

    async def will_act(self) -> bool:
        """The same, but a node that is about to have its lease back waits for it: it has only been asleep. False: the
        store is away [G8]."""
        while not self.may_act():
            if self.away():
                return False
            coming: Deferred[None] = Deferred()
            self._coming.append(coming)
            await coming
        return True

    def congested(self) -> bool:
        """Whether other nodes do not take what they are sent: QoS 1 and 2 publishes are to wait [G9]."""
        if not self._backplane.congested():
            return False
        self._wake_clients_later()
        return True

    def away(self) -> bool:
        """Whether it is the store that keeps this node from acting, and not that it was asleep itself [G8]."""
        return not self._store.ready()

    def _wake_clients_later(self) -> None:
        if not self._fence_loop.running:
            self._fence_loop.start(FENCE_INTERVAL, now=False)

    def _look_at_fence(self) -> None:
        live = not self._fenced and self._backplane.valid()
        if live or self.away():
            coming, self._coming = self._coming, []
            for waiting in coming:
                waiting.callback(None)
        if live and not self._backplane.congested():
            self._fence_loop.stop()
            for client in [*self._broker.unfinished, *self._broker.clients]:
                client.wake()

    def fence(self, fenced: bool) -> None:
        """The lease has run out, or is back."""
        if fenced != self._fenced:
            log.warn("this node is fenced: it waits for Redis") if fenced else log.info("this node is live")
        self._fenced = fenced
        if fenced:
            self.may_act()

    # -- telling the others

    def attached(self, subscriber: Subscriber) -> None:
        """A session with these subscriptions is connected here now."""
        for topic_filter, subscription in subscriber.subscriptions.items():
            self._count(topic_filter, subscriber, subscription, self.interest.add)
        self.announce(*self._presence(subscriber, online=True))

    def detached(self, subscriber: Subscriber) -> None:
        """It is not any more. To be called before its subscriptions are forgotten."""
        for topic_filter, subscription in subscriber.subscriptions.items():
            self._count(topic_filter, subscriber, subscription, self.interest.remove)
        self.announce(*self._presence(subscriber, online=False))

    def _presence(self, subscriber: Subscriber, online: bool) -> Sequence[SessionChange]:
        """Who has shared subscriptions is known to be connected, or not to be, by all nodes."""
        if not subscriber.shares:
            return ()
        gone, durable = not (online or subscriber.durable), subscriber.durable
        client_id, generation, epoch = subscriber.client_id, subscriber.generation, subscriber.epoch
        return (SessionChange(client_id, generation, gone=gone, epoch=epoch, online=online, durable=durable),)

    def _count(
        self,
        topic_filter: str,
        subscriber: Subscriber,
        subscription: Subscription,
        count: Callable[[str, bool], None],
    ) -> None:
        if not is_shared(topic_filter):  # their members are known one by one
            count(topic_filter, linked(subscriber, subscription))

    def changed(self, subscriber: Subscriber, topic_filter: str, before: Subscription | None) -> None:
        """A connected session has subscribed or unsubscribed; `before` is what it had, the routing has what is now."""
        after = subscriber.subscriptions.get(topic_filter)
        if after is not None:
            self._count(topic_filter, subscriber, after, self.interest.add)
        if before is not None:
            self._count(topic_filter, subscriber, before, self.interest.remove)

    def announce(self, *sessions: SessionChange) -> Deferred[None]:
        """Tell what has changed. Fires when every other node acts on it, or cannot act any more [G5]."""
        changes: list[RouteChange] = [NodeInterest(f, bits) for f, bits in self.interest.take_changes()]
        changes.extend(sessions)
        return self._backplane.announce(changes) if changes else succeed(None)

    def announce_session(self, change: SessionChange, epoch: int) -> Deferred[None]:
        """The same for a session of this node that the store keeps; then the store is told that everybody knows."""

        def known(_: None) -> None:
            self._store.announced(change.client_id, epoch).addErrback(
                lambda failure: log.warn("not noted as announced: {error}", error=failure.value)
            )

        return self.announce(change).addCallback(known)

    def forgotten(self) -> None:
        """The others have dropped all that this node has told."""
        self.interest = Interest()

    # -- messages for the others

    def cast(
        self, message: Message, nodes: Sequence[tuple[str, int]], exchange: tuple[str, int, int] | None = None
    ) -> None:
        """QoS 0, to every node where somebody is connected for it. Wills have an `exchange`."""
        for node, bits in nodes:
            if bits & LIVE:
                self._backplane.cast(node, Forward(message, exchange=exchange))

    def cast_shared(self, message: Message, members: Sequence[Member]) -> None:
        """QoS 0, to members of groups that are connected to other nodes."""
        for member in members:
            envelope = Shared(message, member.share, member.subscriber.client_id)
            self._backplane.cast(member.subscriber.node, envelope)

    def cast_run(self, run: Run, nodes: Sequence[str]) -> None:
        """A run at QoS 0, to these nodes."""
        for node in nodes:
            self._backplane.cast(node, RunForward(run))

    def link_run(
        self, run: Run, nodes: Sequence[str], doorbells: Mapping[str, Sequence[Doorbell]]
    ) -> Deferred[None] | None:
        """A run at QoS 1 or 2 by link: to these nodes, for receivers that have no queue, and to owners of queues, by
        node. As `forward`."""
        waiting = [self._backplane.link(node, RunForward(run, True, doorbells.get(node, ()))) for node in nodes]
        for node, bells in doorbells.items():
            if node not in nodes:
                self._backplane.link(node, RunForward(run, False, bells))
        return _all(waiting)

    def forward(self, plan: Plan) -> Deferred[None] | None:
        """QoS 1 and 2 by link: to nodes with receivers that have no queue, and to owners of queues. The answer must be
        waited for where nothing but the link holds the message [G1]; None: there is nothing to wait for."""
        doorbells: dict[str, list[Doorbell]] = {}
        for (subscriber, target), sequence, (node, epoch) in zip(plan.queued, plan.sequences, plan.owners, strict=True):
            if sequence > 0 and node and node != self._backplane.node:
                bell = Doorbell(subscriber.client_id, epoch, sequence, target.qos, target.retain, target.identifiers)
                doorbells.setdefault(node, []).append(bell)
        waiting: list[Deferred[bool]] = []
        for node, bits in plan.nodes:
            if bits & LINKED:
                forward = Forward(plan.message, True, doorbells.pop(node, ()), plan.exchange)
                waiting.append(self._backplane.link(node, forward))
        for node, bells in doorbells.items():
            self._backplane.link(node, Forward(plan.message, False, bells, plan.exchange))
        return _all(waiting)

    def first(self, exchange: tuple[str, int, int] | None) -> bool:
        """Whether receivers without a queue are still to get this QoS 2 exchange [G2]."""
        return exchange is None or self.seen.first(*exchange)

    async def check_retained(self, filters: Sequence[str]) -> None:
        """Fires when everything that was retained before this call is here, as far as `filters` see it [G6]."""
        await self.retained.check(filters)

    def retain(self, message: Message, version: int) -> None:
        """The store has given a retained message of this node its place."""
        partition = self._store.retained_partition(message.topic)
        change = RetainedChange(version, message.topic, message if message.payload else None)
        self.retained.apply(partition, change)
        self._backplane.cast_all(RetainedHint(partition, change))

    def take(self, client_id: str, epoch: int, node: str) -> Deferred[None]:
        """Ask the old owner to let go of a session, and wait for it, though not for long [G3]."""
        return self.takeover.take(client_id, epoch, node)

    def nodes(self) -> int:
        """How many nodes there are, this one included."""
        return 1 + len(self._backplane.members())

    def counters(self) -> dict[str, Callable[[], object]]:
        """Figures of the whole cluster, as this node sees it."""
        sessions, broker = self._broker.sessions, self._broker
        return {
            "cluster/nodes": self.nodes,
            "cluster/sessions": lambda: sum(subscriber.durable for subscriber in sessions.subscribers.values()),
            "cluster/retained messages": lambda: len(broker.retained),
            "cluster/routes": lambda: broker.routing.count_nodes(),
        }
