"""From a publish to its receivers.

A publish is *planned* when it arrives: its receivers are looked up once. What must outlive this node is handed to the
store: QoS 1 and 2 for durable sessions, retained messages, QoS 2 exchanges of durable publishers. The receivers get
the message when the store has answered and the publisher's earlier publishes are through, then the publisher gets its
acknowledgement. So order holds per publisher [G4], and what is acknowledged is safe [G1].

QoS 0 goes to its receivers at once. A retained message is looked at a second time when the store has answered: who
subscribed in between has read the old retained value and gets the new one as a live message [G6].

In a cluster a publish has receivers on other nodes, too: `broker.cluster` sends them word when the store has answered,
and the acknowledgement waits for it where nothing but that word holds the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twisted.internet.defer import Deferred, succeed

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.metrics import Metrics
from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Receiver, Routing, Subscriber
from mqttcluster.storage.interfaces import FULL, GONE, IStore, Publication, Published, Target


class Plan:
    """One publish under way. `queued` receivers wait for the store's numbers, `live` ones only for their turn; `nodes`
    are other nodes that want it, with their interest."""

    __slots__ = (
        "_told",
        "exchange",
        "live",
        "message",
        "nodes",
        "owners",
        "publication",
        "queued",
        "receivers",
        "revision",
        "sequences",
        "stale",
    )

    def __init__(
        self, message: Message, receivers: Sequence[Receiver], nodes: Sequence[tuple[str, int]], revision: int
    ) -> None:
        self.message = message
        self.receivers = receivers
        self.nodes = nodes
        self._told: set[str] = set()
        self.revision = revision
        self.owners: list[tuple[str, int]] = []
        self.exchange: tuple[str, int, int] | None = None
        self.live: list[tuple[Subscriber, Target]] = []
        self.queued: list[tuple[Subscriber, Target]] = []
        self.sequences: list[int] = []
        self.publication: Publication | None = None
        self.stale = False

    def add(self, receivers: Iterable[Receiver]) -> list[Target]:
        """Sort receivers into those that the store serves and the others. Returns the former as targets."""
        message = self.message
        targets = []
        for receiver in receivers:
            subscriber, qos = receiver.subscriber, min(message.qos, receiver.qos)
            retain = message.retain and receiver.retain_as_published
            target = Target(subscriber.client_id, subscriber.generation, qos, retain, receiver.identifiers)
            if qos and subscriber.durable:
                self.queued.append((subscriber, target))
                targets.append(target)
            elif subscriber.outlet is not None:
                self.live.append((subscriber, target))
        return targets

    def look_at_nodes(self, nodes: Sequence[tuple[str, int]]) -> None:
        """What other nodes want now; those that have been told already are left out."""
        wanted = dict(self.nodes)
        for node, bits in nodes:
            if node not in self._told:
                wanted[node] = wanted.get(node, 0) | bits
        self.nodes = tuple(wanted.items())

    def take_nodes(self) -> Sequence[tuple[str, int]]:
        """The nodes to be told, once."""
        nodes, self.nodes = self.nodes, ()
        self._told.update(node for node, _ in nodes)
        return nodes


class Publishing:
    """Plans, stores and delivers publishes."""

    def __init__(
        self,
        store: IStore,
        routing: Routing,
        retained: Retained,
        metrics: Metrics,
        max_retained: int,
        cluster: Alone,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._routing = routing
        self._retained = retained
        self._metrics = metrics
        self._max_retained = max_retained

    def plan(
        self,
        message: Message,
        exchange: tuple[str, int, int] | None = None,
        will: tuple[str, int] | None = None,
    ) -> Plan:
        """Look up the receivers. `plan.publication` is what the store must take first, None for nothing."""
        routing, topic = self._routing, message.topic
        plan = Plan(message, routing.match(topic, message.publisher), routing.nodes(topic), routing.revision)
        targets = plan.add(plan.receivers)
        retain = message.retain and self._may_retain(message)
        if targets or retain or exchange or will:
            plan.publication = Publication(message, targets, retain, exchange, will)
        if message.qos == 0 and not will:  # a will that the store does not take yet is tried again [MQTT-3.1.2-10]
            self._send_now(plan)
        return plan

    def publish_here(self, message: Message) -> None:
        """A QoS 0 message of this node for its own clients."""
        plan = Plan(message, self._match(message), (), self._routing.revision)
        plan.add(plan.receivers)
        self._deliver_live(plan)

    def _match(self, message: Message) -> Sequence[Receiver]:
        return self._routing.match(message.topic, message.publisher)

    def _may_retain(self, message: Message) -> bool:
        if len(self._retained) < self._max_retained or message.topic in self._retained or not message.payload:
            return True
        self._metrics.dropped["retained_full"] += 1
        return False

    def store(self, plan: Plan) -> Deferred[None]:
        """Hand the publication to the store. Fires when the plan may be completed; fails with `StoreError`."""
        assert plan.publication is not None
        return self._store.publish(plan.publication).addCallback(self._stored, plan)

    def _stored(self, answer: Published, plan: Plan) -> Deferred[None]:
        publication = plan.publication
        assert publication is not None
        plan.stale = answer.stale
        if answer.stale or answer.repeated:
            plan.live.clear()
            plan.queued.clear()
            plan.nodes = ()
            return succeed(None)
        self._numbered(answer, plan)
        if not self._cluster.first(answer.exchange):
            plan.live.clear()
        if publication.retain:
            self._cluster.retain(plan.message, answer.version)
            if plan.revision != self._routing.revision:
                return self._second_look(plan)
        return succeed(None)

    def _numbered(self, answer: Published, plan: Plan) -> None:
        plan.sequences.extend(answer.sequences)
        plan.owners.extend(answer.owners or [("", 0)] * len(answer.sequences))
        plan.exchange = plan.exchange or answer.exchange

    def _second_look(self, plan: Plan) -> Deferred[None]:
        known = {receiver.subscriber for receiver in plan.receivers}
        added = [receiver for receiver in self._match(plan.message) if receiver.subscriber not in known]
        targets = plan.add(added)
        plan.look_at_nodes(self._routing.nodes(plan.message.topic))
        if not targets:
            return succeed(None)
        return self._store.publish(Publication(plan.message, targets)).addCallback(self._numbered, plan)

    def complete(self, plan: Plan) -> Deferred[None] | None:
        """Give the message to its receivers. What this answers is to be waited for before the acknowledgement."""
        waiting = None
        if not plan.message.qos:
            self._send_now(plan)
        else:
            if plan.live:
                self._deliver_live(plan)
            if plan.nodes or any(node for node, _ in plan.owners):
                waiting = self._cluster.forward(plan)
        for (subscriber, target), sequence, (_, epoch) in zip(plan.queued, plan.sequences, plan.owners, strict=True):
            if sequence == FULL:
                self._metrics.dropped["queue_full"] += 1
            elif sequence != GONE and subscriber.outlet is not None and epoch in (0, subscriber.outlet.epoch):
                delivery = Delivery(sequence, plan.message, target.qos, target.retain, target.identifiers)
                subscriber.outlet.arrived(delivery)
        return waiting

    def _send_now(self, plan: Plan) -> None:
        if plan.live:
            self._deliver_live(plan)
        if plan.nodes:
            self._cluster.cast(plan.message, plan.take_nodes())

    def _deliver_live(self, plan: Plan) -> None:
        message = plan.message
        for subscriber, target in plan.live:
            outlet = subscriber.outlet
            if outlet is not None:
                outlet.deliver(message, target.qos, target.retain, target.identifiers)
        plan.live.clear()
