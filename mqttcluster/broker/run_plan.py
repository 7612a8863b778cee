"""A run that cannot be handed on at once: the store is to take it first, or what its publisher sent before."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.metrics import Metrics
from mqttcluster.core.routing import Receiver
from mqttcluster.core.run import Run
from mqttcluster.storage.interfaces import GONE, IStore, PublishedRun, Target
from mqttcluster.storage.shared import Doorbell


class RunPlan:
    """Of `receivers` those get the run that the store serves, and those that are connected when it is planned; `nodes`
    are other nodes with receivers that the store does not serve."""

    __slots__ = ("_answer", "_cluster", "_metrics", "_nodes", "_receivers", "_targets", "run")

    def __init__(
        self, run: Run, receivers: Sequence[Receiver], nodes: Sequence[str], cluster: Alone, metrics: Metrics
    ) -> None:
        self.run = run
        self._receivers = [
            receiver
            for receiver in receivers
            if receiver.subscriber.outlet is not None or (receiver.subscriber.durable and min(run.qos, receiver.qos))
        ]
        self._nodes = nodes
        self._cluster = cluster
        self._metrics = metrics
        self._targets = [
            Target(receiver.subscriber.client_id, receiver.subscriber.generation, qos, False, receiver.identifiers)
            for receiver in receivers
            if (qos := min(run.qos, receiver.qos)) and receiver.subscriber.durable
        ]
        self._answer = PublishedRun()

    def store(self, store: IStore, now: float) -> Deferred[None]:
        """Hand it to the store. Fires when it may be completed; fails with `StoreError`."""

        def stored(answer: PublishedRun) -> None:
            self._answer = answer

        return store.publish_run(self.run.messages(), self._targets, now).addCallback(stored)

    def complete(self) -> Deferred[None] | None:
        """Give the messages to their receivers. What this answers is to be waited for before the acknowledgements."""
        run, answer = self.run, self._answer
        owners = answer.owners or [("", 0)] * len(answer.queued)
        bells: dict[str, Doorbell] = {}
        elsewhere: dict[str, list[Doorbell]] = {}
        for target, (first, count), (node, epoch) in zip(self._targets, answer.queued, owners):
            if first != GONE:
                self._metrics.dropped["queue_full"] += run.count - count
            if not count:
                continue
            bell = Doorbell(target.client_id, epoch, first, target.qos, False, target.identifiers, count)
            if node and node != self._cluster.node:
                elsewhere.setdefault(node, []).append(bell)
            else:
                bells[target.client_id] = bell
        waiting = None
        if self._nodes or elsewhere:
            waiting = self._cluster.link_run(run, self._nodes, elsewhere)
        for receiver in self._receivers:
            subscriber, qos = receiver.subscriber, min(run.qos, receiver.qos)
            outlet = subscriber.outlet
            if outlet is None:
                continue
            if not (qos and subscriber.durable):
                outlet.deliver_run(run, qos, receiver.identifiers)
                continue
            here = bells.get(subscriber.client_id)
            if here is not None and here.epoch in (0, outlet.epoch):
                outlet.arrived_run(run, here.qos, here.sequence, here.count, here.identifiers)
        return waiting
