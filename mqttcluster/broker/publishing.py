"""From a publish to its receivers.

A publish is *planned* when it arrives: its receivers are looked up once. What must outlive this node is handed to the
store: QoS 1 and 2 for durable sessions, retained messages, QoS 2 exchanges of durable publishers. The receivers get
the message when the store has answered and the publisher's earlier publishes are through, then the publisher gets its
acknowledgement. So order holds per publisher [G4], and what is acknowledged is safe [G1].

QoS 0 goes to its receivers at once. A retained message is looked at a second time when the store has answered: who
subscribed in between has read the old retained value and gets the new one as a live message [G6]. So other nodes are
told of it only then, at QoS 0, too; and QoS 0 that the same publisher sends meanwhile queues up *behind* it [G4].

Of each group with a matching shared subscription one member gets the message. At QoS 0 he is chosen here; at QoS 1 and
2 the store takes the first of those whom this node names that is there and has room. When a session ends, what it had
of its groups comes here again as an *orphan*, for somebody else [MQTT-4.8.2].

In a cluster a publish has receivers on other nodes, too: `broker.cluster` sends them word when the store has answered,
and the acknowledgement waits for it where nothing but that word holds the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.metrics import Metrics
from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Receiver, Routing, Subscriber
from mqttcluster.core.shares import Group, Member, SharePolicy
from mqttcluster.storage.interfaces import (
    FULL,
    GONE,
    Chosen,
    IStore,
    Orphan,
    Publication,
    Published,
    StoreError,
    Target,
)

T = TypeVar("T")

#: Retained messages that are removed at one stroke when their time is over.
EXPIRED_AT_ONCE = 1000


class Candidates:
    """Members of a group as targets of a message, in the order in which they are to be tried."""

    __slots__ = ("_members", "_message")

    def __init__(self, message: Message, members: Sequence[Member]) -> None:
        self._message = message
        self._members = members

    def __iter__(self) -> Iterator[Target]:
        message = self._message
        for member in self._members:
            subscriber, wanted = member.subscriber, member.subscription
            yield Target(
                subscriber.client_id,
                subscriber.generation,
                min(message.qos, wanted.qos),
                message.retain and wanted.retain_as_published,
                (wanted.identifier,) if wanted.identifier else (),
                member.share,
            )


class Plan:
    """One publish under way. `queued` receivers wait for the store's numbers, `live` ones only for their turn; `nodes`
    are other nodes that want it, with their interest; `picked` are members of groups that get it at QoS 0."""

    __slots__ = (
        "exchange",
        "live",
        "message",
        "nodes",
        "owners",
        "picked",
        "promised",
        "publication",
        "queued",
        "receivers",
        "revision",
        "sequences",
        "shared",
        "stale",
    )

    def __init__(
        self, message: Message, receivers: Sequence[Receiver], nodes: Sequence[tuple[str, int]], revision: int
    ) -> None:
        self.message = message
        self.receivers = receivers
        self.nodes = nodes
        self.revision = revision
        self.owners: list[tuple[str, int]] = []
        self.exchange: tuple[str, int, int] | None = None
        self.live: list[tuple[Subscriber, Target]] = []
        self.queued: list[tuple[Subscriber, Target]] = []
        self.sequences: list[int] = []
        self.picked: list[Member] = []
        #: To whom of the groups the store is asked to give it.
        self.promised: list[Subscriber] = []
        #: Somebody has a shared subscription to it.
        self.shared = False
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

    def choose(self, members: Sequence[Member]) -> Candidates | None:
        """One of these is to get the message. None: it is chosen; else the store does it."""
        message = self.message
        for member in members:
            if min(message.qos, member.subscription.qos):
                member.subscriber.promised += 1
                self.promised.append(member.subscriber)
                return Candidates(message, [member for member in members if member.subscription.qos])
            if member.online:
                self.picked.append(member)
                break
        return None

    def look_at_nodes(self, nodes: Sequence[tuple[str, int]]) -> None:
        """What other nodes want now, beside what they wanted before."""
        wanted = dict(self.nodes)
        for node, bits in nodes:
            wanted[node] = wanted.get(node, 0) | bits
        self.nodes = tuple(wanted.items())


class Publishing:
    """Plans, stores and delivers publishes. `now` tells the time."""

    def __init__(
        self,
        store: IStore,
        routing: Routing,
        retained: Retained,
        metrics: Metrics,
        max_retained: int,
        cluster: Alone,
        now: Callable[[], float],
        share_policy: SharePolicy = SharePolicy.ROUND_ROBIN,
    ) -> None:
        self._now = now
        self._share_policy = share_policy
        #: The sessions that are known, by client id.
        self.subscribers: Mapping[str, Subscriber] = {}
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
        behind: bool = False,
        epoch: int = 0,
    ) -> Plan:
        """Look up the receivers. `plan.publication` is what the store must take first, None for nothing. `epoch` is
        that of the connection it comes from.

        QoS 0 is on its way when this returns, as far as it need not wait; not if it is `behind` other QoS 0 of its
        publisher: then it is to be completed in its turn."""
        routing, topic = self._routing, message.topic
        matched = routing.matched(topic)
        plan = Plan(message, matched.receivers_of(message.publisher), routing.nodes(topic), routing.revision)
        plan.shared = bool(matched.groups)
        if not (message.qos or message.retain or plan.shared or will or behind):
            for receiver in plan.receivers:  # at once, and there is nothing to be remembered
                outlet = receiver.subscriber.outlet
                if outlet is not None:
                    outlet.deliver(message, 0, False, receiver.identifiers)
            self._cast(plan)
            return plan
        targets = plan.add(plan.receivers)
        shares = self._share(plan, matched.groups) if plan.shared else ()
        retain = message.retain and self._may_retain(message)
        if targets or shares or retain or exchange or will:
            origin = (message.publisher, epoch) if retain and epoch and exchange is None else None
            plan.publication = Publication(
                message, targets, retain, exchange, will, origin=origin, shares=shares, now=self._now()
            )
        if message.qos == 0 and not will and not behind:  # a will that is not stored is tried again [MQTT-3.1.2-10]
            self._deliver_live(plan)
            if plan.publication is None:
                self._cast(plan)
        return plan

    def _share(self, plan: Plan, groups: Iterable[Group]) -> list[Candidates]:
        """Choose a member of each group. Returns those among whom the store is to choose."""
        chosen = [plan.choose(group.order(self._share_policy)) for group in groups]
        return [candidates for candidates in chosen if candidates is not None]

    def give(self, message: Message, share: str, client_id: str) -> None:
        """A message from another node for this member of a group, at QoS 0; if it is not connected here any more, for
        another one that is."""
        group = self._routing.group(share)
        members = [member for member in group.order(self._share_policy) if member.local] if group is not None else []
        members.sort(key=lambda member: member.subscriber.client_id != client_id)
        for member in members[:1]:
            _pick(message, member)

    def hand_on(self, orphan: Orphan) -> Deferred[None]:
        """Give a message of a session that has ended to somebody else of its group. Fires when it is safe."""
        plan = Plan(orphan.message, (), (), self._routing.revision)
        group = self._routing.group(orphan.share)
        shares = self._share(plan, [group]) if group is not None else ()
        plan.publication = Publication(orphan.message, shares=shares, orphan=orphan, now=self._now())
        return self.store(plan).addCallback(lambda _: self.complete(plan))

    async def drop_expired(self) -> None:
        """Retained messages whose time is over make room for others."""
        now = self._now()
        while expired := self._retained.take_expired(now, EXPIRED_AT_ONCE):
            try:
                removed = await self._store.drop_retained([message.topic for message in expired], now)
            except StoreError:
                for message in expired:
                    if message.topic not in self._retained:
                        self._retained.apply(message)
                raise
            for topic, version in removed.items():
                self._cluster.retain(Message(topic, b""), version)

    def publish_here(self, message: Message) -> None:
        """A QoS 0 message of this node for its own clients."""
        plan = Plan(message, self._match(message), (), self._routing.revision)
        plan.add(plan.receivers)
        for group in self._routing.matched(message.topic).groups:
            plan.choose([member for member in group.order(self._share_policy) if member.local])
        self._deliver_live(plan)

    def _match(self, message: Message) -> Sequence[Receiver]:
        return self._routing.match(message.topic, message.publisher)

    def _may_retain(self, message: Message) -> bool:
        room = self._retained.of_clients < self._max_retained
        if room or message.topic in self._retained or not message.payload:
            return True
        self._metrics.dropped["retained_full"] += 1
        return False

    def store(self, plan: Plan) -> Deferred[None]:
        """Hand the publication to the store. Fires when the plan may be completed; fails with `StoreError`."""
        assert plan.publication is not None
        storing = self._store.publish(plan.publication)
        if plan.promised:
            storing.addBoth(_answered, plan)
        return storing.addCallback(self._stored, plan)

    def _stored(self, answer: Published, plan: Plan) -> Deferred[None] | None:
        publication = plan.publication
        assert publication is not None
        plan.stale = answer.stale
        if answer.stale or answer.repeated:
            plan.live.clear()
            plan.queued.clear()
            plan.picked.clear()
            plan.nodes = ()
            return None
        self._numbered(answer, plan)
        if not self._cluster.first(answer.exchange):
            plan.live.clear()
        if answer.again:
            plan.picked.clear()
        if publication.retain:
            self._cluster.retain(plan.message, answer.version)
            if plan.revision != self._routing.revision:
                return self._second_look(plan)
        return None

    def _numbered(self, answer: Published, plan: Plan) -> None:
        plan.sequences.extend(answer.sequences)
        plan.owners.extend(answer.owners or [("", 0)] * len(answer.sequences))
        plan.exchange = plan.exchange or answer.exchange
        for chosen in answer.chosen:
            subscriber = self._member(chosen)
            subscriber.backlog = chosen.waiting
            plan.queued.append((subscriber, chosen.target))
            plan.sequences.append(chosen.sequence)
            plan.owners.append(chosen.owner)

    def _member(self, chosen: Chosen) -> Subscriber:
        client_id, generation = chosen.target.client_id, chosen.target.generation
        subscriber = self.subscribers.get(client_id)
        if subscriber is None or subscriber.generation != generation:
            subscriber = Subscriber(client_id, generation, durable=False)
        return subscriber

    def _second_look(self, plan: Plan) -> Deferred[None] | None:
        known = {receiver.subscriber for receiver in plan.receivers}
        added = [receiver for receiver in self._match(plan.message) if receiver.subscriber not in known]
        targets = plan.add(added)
        plan.look_at_nodes(self._routing.nodes(plan.message.topic))
        if not targets:
            return None
        publication = Publication(plan.message, targets, now=self._now())
        return self._store.publish(publication).addCallback(self._numbered, plan)

    def complete(self, plan: Plan) -> Deferred[None] | None:
        """Give the message to its receivers. What this answers is to be waited for before the acknowledgement."""
        waiting = None
        if plan.live or plan.picked:
            self._deliver_live(plan)
        if not plan.message.qos:
            self._cast(plan)
        elif plan.nodes or any(node for node, _ in plan.owners):
            waiting = self._cluster.forward(plan)
        for (subscriber, target), sequence, (_, epoch) in zip(plan.queued, plan.sequences, plan.owners, strict=True):
            if sequence == FULL:
                self._metrics.dropped["queue_full"] += 1
            elif sequence != GONE and subscriber.outlet is not None and epoch in (0, subscriber.outlet.epoch):
                delivery = Delivery(sequence, plan.message, target.qos, target.retain, target.identifiers)
                subscriber.outlet.arrived(delivery)
        return waiting

    def _cast(self, plan: Plan) -> None:
        if plan.nodes:
            self._cluster.cast(plan.message, plan.nodes, plan.exchange)

    def _deliver_live(self, plan: Plan) -> None:
        message = plan.message
        for subscriber, target in plan.live:
            outlet = subscriber.outlet
            if outlet is not None:
                outlet.deliver(message, target.qos, target.retain, target.identifiers)
        plan.live.clear()
        if plan.picked:
            self._cluster.cast_shared(message, [member for member in plan.picked if not _pick(message, member)])
            plan.picked.clear()


def _answered(answer: T, plan: Plan) -> T:
    for subscriber in plan.promised:
        subscriber.promised -= 1
    return answer


def _pick(message: Message, member: Member) -> bool:
    """Deliver at QoS 0. False: the member is not connected here."""
    outlet, wanted = member.subscriber.outlet, member.subscription
    if outlet is None:
        return False
    identifiers = (wanted.identifier,) if wanted.identifier else ()
    outlet.deliver(message, 0, message.retain and wanted.retain_as_published, identifiers)
    return True
