"""What the other nodes say, and what this one does then: the `BackplaneEvents` of a broker.

Routes change the routing, news of durable sessions the sessions. An envelope brings a message to receivers here, or
rings the bell of a session whose queue has it. Whatever may have been lost is made good by a look at the queues.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mqttcluster.broker.sessions import whole
from mqttcluster.storage.shared import (
    Envelope,
    Forward,
    Given,
    ISharedStore,
    NodeInterest,
    RouteChange,
    RunForward,
    Shared,
    Take,
)

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker
    from mqttcluster.broker.cluster import Cluster

log = Logger(namespace="mqttcluster.cluster")


class Heard:
    """`cluster` is this node among the others, for what they are to be told then; `recover` takes up what the store
    holds."""

    def __init__(
        self, broker: Broker, cluster: Cluster, store: ISharedStore, recover: Callable[[], Awaitable[None]]
    ) -> None:
        self._broker = broker
        self._cluster = cluster
        self._store = store
        self._recover = recover

    def load(self) -> Deferred[None]:
        """Read sessions and retained messages from the store."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        self._store.node = self._cluster.node
        self._broker.routing.forget_nodes()
        versions = await self._store.retained_versions()
        await self._recover()
        self._cluster.retained.loaded(versions)
        # What has changed meanwhile may have been here already, and is not in what was read.
        await self._cluster.retained.check(["#"])

    def route(self, node: str, change: RouteChange) -> None:
        """Another node's clients want something else than before, or a durable session has changed."""
        if node == self._cluster.node:
            return
        if isinstance(change, NodeInterest):
            self._broker.routing.set_interest(node, change.topic_filter, change.bits)
        else:
            self._broker.sessions.changed(change, node)

    def gone(self, node: str) -> None:
        """A node is dead or has left. It may have queued messages without ringing for them."""
        self._broker.routing.forget_node(node)
        self._broker.sessions.node_gone(node)
        self._look_at_queues()

    def gap(self, node: str) -> None:
        """Envelopes were lost: the queues have the truth."""
        log.error("envelopes from {node} were lost; reading every queue", node=node)
        self._look_at_queues()

    def _look_at_queues(self) -> None:
        for client in list(self._broker.sessions.connected.values()):
            client.look()

    def reap(self, node: str) -> Deferred[None]:
        """Release the sessions of a dead node."""
        return Deferred.fromCoroutine(self._reap(node))

    async def _reap(self, node: str) -> None:
        broker = self._broker
        unannounced = await self._store.reap(node, broker.clock.seconds())
        changes = [whole(kept.client_id, kept.generation, kept.epoch, kept.subscriptions) for kept in unannounced]
        for change in changes:
            broker.sessions.changed(change)
        await self._cluster.announce(*changes)
        broker.housekeeping.look()

    def received(self, node: str, envelope: Envelope) -> None:
        """An envelope has come."""
        if isinstance(envelope, RunForward):
            self._forwarded_run(envelope)
        elif isinstance(envelope, Forward):
            self._forwarded(envelope)
        elif isinstance(envelope, Shared):
            self._broker.publishing.give(envelope.message, envelope.share, envelope.client_id)
        elif isinstance(envelope, Take):
            idle = self._broker.sessions.give_way(envelope.client_id, envelope.epoch)
            self._cluster.takeover.give(node, envelope, idle)
        elif isinstance(envelope, Given):
            self._cluster.takeover.given(envelope)
        else:
            self._cluster.retained.apply(envelope.partition, envelope.change)

    def _forwarded_run(self, forward: RunForward) -> None:
        run = forward.run
        if forward.match:
            for receiver in self._broker.routing.match(run.topic, run.publisher):
                subscriber, qos = receiver.subscriber, min(run.qos, receiver.qos)
                if subscriber.outlet is not None and not (qos and subscriber.durable):
                    subscriber.outlet.deliver_run(run, qos, receiver.identifiers)
        for bell in forward.doorbells:
            self._broker.sessions.ring_run(bell, run)

    def _forwarded(self, forward: Forward) -> None:
        message = forward.message
        if forward.match and self._cluster.first(forward.exchange):
            for receiver in self._broker.routing.match(message.topic, message.publisher):
                subscriber, qos = receiver.subscriber, min(message.qos, receiver.qos)
                if subscriber.outlet is not None and not (qos and subscriber.durable):
                    retain = message.retain and receiver.retain_as_published
                    subscriber.outlet.deliver(message, qos, retain, receiver.identifiers)
        for bell in forward.doorbells:
            self._broker.sessions.ring(bell, message)

    def fenced(self, fenced: bool) -> None:
        """The lease has run out, or is back."""
        self._cluster.fence(fenced)

    def evicted(self) -> Deferred[None]:
        """The others took this node for dead. Its sessions are theirs now."""
        log.error("the other nodes have taken this one for dead; closing all connections")
        self._broker.abandon()
        self._cluster.forgotten()
        return succeed(None)
