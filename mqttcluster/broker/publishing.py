"""From a publish to its receivers.

A publish is *planned* when it arrives: its receivers are looked up once. What must outlive this node is handed to the
store: QoS 1 and 2 for durable sessions, retained messages, QoS 2 exchanges of durable publishers. The receivers get
the message when the store has answered and the publisher's earlier publishes are through, then the publisher gets its
acknowledgement. So order holds per publisher [G4], and what is acknowledged is safe [G1].

QoS 0 goes to its receivers at once. A retained message is looked at a second time when the store has answered: who
subscribed in between has read the old retained value and gets the new one as a live message [G6].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twisted.internet.defer import Deferred, succeed

from mqttcluster.broker.metrics import Metrics
from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Receiver, Routing, Subscriber
from mqttcluster.storage.interfaces import FULL, GONE, IStore, Publication, Published, Target


class Plan:
    """One publish under way. `queued` receivers wait for the store's numbers, `live` ones only for their turn."""

    __slots__ = ("live", "message", "publication", "queued", "receivers", "revision", "sequences", "stale")

    def __init__(self, message: Message, receivers: Sequence[Receiver], revision: int) -> None:
        self.message = message
        self.receivers = receivers
        self.revision = revision
        self.live: list[tuple[Subscriber, int]] = []
        self.queued: list[tuple[Subscriber, int]] = []
        self.sequences: list[int] = []
        self.publication: Publication | None = None
        self.stale = False

    def add(self, receivers: Iterable[Receiver]) -> list[Target]:
        """Sort receivers into those that the store serves and the others. Returns the former as targets."""
        message_qos = self.message.qos
        targets = []
        for subscriber, granted in receivers:
            qos = min(message_qos, granted)
            if qos and subscriber.durable:
                self.queued.append((subscriber, qos))
                targets.append(Target(subscriber.client_id, subscriber.generation, qos))
            elif subscriber.outlet is not None:
                self.live.append((subscriber, qos))
        return targets


class Publishing:
    """Plans, stores and delivers publishes."""

    def __init__(
        self, store: IStore, routing: Routing, retained: Retained, metrics: Metrics, max_retained: int
    ) -> None:
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
        plan = Plan(message, self._routing.match(message.topic), self._routing.revision)
        targets = plan.add(plan.receivers)
        retain = message.retain and (len(self._retained) < self._max_retained or message.topic in self._retained)
        if targets or retain or exchange or will:
            plan.publication = Publication(message, targets, retain, exchange, will)
        if message.qos == 0:
            self._deliver_live(plan)
        return plan

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
            return succeed(None)
        plan.sequences.extend(answer.sequences)
        if publication.retain:
            self._retained.apply(plan.message)
            if plan.revision != self._routing.revision:
                return self._second_look(plan)
        return succeed(None)

    def _second_look(self, plan: Plan) -> Deferred[None]:
        known = {receiver.subscriber for receiver in plan.receivers}
        added = [receiver for receiver in self._routing.match(plan.message.topic) if receiver.subscriber not in known]
        targets = plan.add(added)
        if not targets:
            return succeed(None)

        def numbered(answer: Published) -> None:
            plan.sequences.extend(answer.sequences)

        return self._store.publish(Publication(plan.message, targets)).addCallback(numbered)

    def complete(self, plan: Plan) -> None:
        """Give the message to its receivers."""
        if plan.live:
            self._deliver_live(plan)
        for (subscriber, qos), sequence in zip(plan.queued, plan.sequences, strict=True):
            if sequence == FULL:
                self._metrics.dropped["queue_full"] += 1
            elif sequence != GONE and subscriber.outlet is not None:
                subscriber.outlet.arrived(Delivery(sequence, plan.message, qos))

    def _deliver_live(self, plan: Plan) -> None:
        message = plan.message
        for subscriber, qos in plan.live:
            outlet = subscriber.outlet
            if outlet is not None:
                outlet.deliver(message, qos)
        plan.live.clear()
