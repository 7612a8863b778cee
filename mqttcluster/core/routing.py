"""Who gets a message: subscriptions of all sessions in one tree, shared ones in a second, what other nodes want in a
third, and the answers for topics seen a moment ago."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.run import Run
from mqttcluster.core.shares import Group
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import TopicTree, split_share

#: Topics whose receivers are remembered; past it the memory starts anew. Longer topics are not remembered.
CACHED_TOPICS = 50_000
LONGEST_CACHED = 256

#: An empty set is no singleton.
_NONE: frozenset[str] = frozenset()


def levels(topic: str) -> int:
    """How many levels a topic name or filter has."""
    return topic.count("/") + 1


class Outlet(Protocol):
    """What takes deliveries while a client is connected, under the epoch of its ownership."""

    @property
    def epoch(self) -> int: ...

    @property
    def room(self) -> int:
        """How many messages the client takes now."""

    @property
    def full(self) -> bool:
        """Whether the client takes its output more slowly than it comes."""

    def wait(self, proceed: Callable[[], None]) -> bool:
        """Call `proceed` when the client has taken output. False: it has taken none since somebody gave up waiting."""

    def give_up(self) -> None:
        """Somebody has waited in vain."""

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        """A message that no store holds for this session, with the flag and Subscription Identifiers to send."""

    def takes_runs(self, identifiers: tuple[int, ...], size: int) -> bool:
        """Whether frames of about `size` bytes can be handed over as runs, and need not be made one by one."""

    def deliver_run(self, run: Run, qos: int, identifiers: tuple[int, ...]) -> int:
        """Messages that no store holds for this session. Returns how many were delivered one by one."""

    def arrived(self, delivery: Delivery) -> None:
        """A message that the store holds for this session."""

    def arrived_run(self, run: Run, qos: int, sequence: int, count: int, identifiers: tuple[int, ...]) -> None:
        """The first `count` messages of a run, which the store holds for this session from `sequence` on."""


class Subscriber:
    """A session as the tree knows it, connected or not.

    `generation` tells two sessions of one client id apart. `outlet` is None while the client is
    not connected to this node. `node` is another node where it is connected, as far as that is known: of sessions with
    shared subscriptions; '' for none. `backlog` is how much waited for it there when one of its groups was last served,
    and `promised` how much is on its way into its queue because of its groups.
    """

    __slots__ = (
        "backlog",
        "client_id",
        "durable",
        "epoch",
        "generation",
        "levels",
        "node",
        "outlet",
        "promised",
        "shares",
        "subscriptions",
    )

    def __init__(self, client_id: str, generation: int, durable: bool) -> None:
        self.client_id = client_id
        self.generation = generation
        self.durable = durable
        #: The latest owner whose word on the subscriptions is known.
        self.epoch = 0
        self.outlet: Outlet | None = None
        self.node = ""
        self.backlog = 0
        self.promised = 0
        self.subscriptions: dict[str, Subscription] = {}
        #: Those of them that are shared, by their whole filter.
        self.shares: frozenset[str] = _NONE
        #: Topic levels of all of them: what they cost the tree.
        self.levels = 0


class Receiver(NamedTuple):
    """One session that a topic reaches, and what its matching subscriptions ask for together: the highest QoS
    [MQTT-3.3.5-1], the retain flag as it was published if one of them wants it, all their identifiers.

    `no_local`: one of them is not for what this very client publishes; `own` is what remains then, None for nothing.
    """

    subscriber: Subscriber
    qos: int
    retain_as_published: bool = False
    identifiers: tuple[int, ...] = ()
    no_local: bool = False
    own: Receiver | None = None


def combine(subscriber: Subscriber, subscriptions: Sequence[Subscription]) -> Receiver:
    """One receiver from the subscriptions of a session that match the same topic; at least one."""
    others = [subscription for subscription in subscriptions if not subscription.no_local]
    no_local = len(others) < len(subscriptions)
    return Receiver(
        subscriber,
        max(subscription.qos for subscription in subscriptions),
        any(subscription.retain_as_published for subscription in subscriptions),
        tuple(subscription.identifier for subscription in subscriptions if subscription.identifier),
        no_local,
        combine(subscriber, others) if no_local and others else None,
    )


class Matched:
    """The answer for one topic. `receivers` is for everybody who has no no-local subscription to it; of each of the
    `groups` one member gets the message, too."""

    __slots__ = ("_no_local", "groups", "receivers")

    def __init__(self, receivers: tuple[Receiver, ...], groups: tuple[Group, ...] = ()) -> None:
        self.receivers = receivers
        self.groups = groups
        self._no_local = {receiver.subscriber.client_id for receiver in receivers if receiver.no_local}

    def receivers_of(self, publisher: str) -> tuple[Receiver, ...]:
        """Who gets what `publisher` (a client id, '' for the broker) publishes [MQTT-3.8.3-3]."""
        if publisher not in self._no_local:
            return self.receivers
        found = []
        for receiver in self.receivers:
            own = receiver.own if receiver.no_local and receiver.subscriber.client_id == publisher else receiver
            if own is not None:
                found.append(own)
        return tuple(found)


class Routing:
    """The subscriptions of all sessions known here, and the interest of other nodes as bits of `core.interest`.

    `revision` grows with every change.
    """

    def __init__(self) -> None:
        self._tree: TopicTree[Subscriber, Subscription] = TopicTree()
        self._shared: TopicTree[Group, None] = TopicTree()
        self._groups: dict[str, Group] = {}
        self._cache: dict[str, Matched] = {}
        self._nodes: TopicTree[str, int] = TopicTree()
        self._nodes_cache: dict[str, tuple[tuple[str, int], ...]] = {}
        self._interest: dict[str, dict[str, int]] = {}
        self.revision = 0

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return len(self._tree) + sum(map(len, self._groups.values()))

    def subscribe(self, subscriber: Subscriber, topic_filter: str, subscription: Subscription) -> None:
        """Add a subscription, or replace the one with the same filter [MQTT-3.8.4-3]."""
        share, inner = split_share(topic_filter)
        if topic_filter not in subscriber.subscriptions:
            subscriber.levels += levels(topic_filter)
        if share:
            group = self._groups.get(topic_filter)
            if group is None:
                group = self._groups[topic_filter] = Group(topic_filter)
                self._shared.add(inner, group, None)
            group.join(subscriber, subscription)
            subscriber.shares |= {topic_filter}
        else:
            self._tree.add(topic_filter, subscriber, subscription)
        subscriber.subscriptions[topic_filter] = subscription
        self._changed()

    def unsubscribe(self, subscriber: Subscriber, topic_filter: str) -> bool:
        """Remove a subscription. False: there was none with these very characters [MQTT-3.10.4-1]."""
        if subscriber.subscriptions.pop(topic_filter, None) is None:
            return False
        if topic_filter in subscriber.shares:
            subscriber.shares -= {topic_filter}
            group = self._groups[topic_filter]
            group.leave(subscriber)
            if not len(group):
                del self._groups[topic_filter]
                self._shared.remove(split_share(topic_filter)[1], group)
        else:
            self._tree.remove(topic_filter, subscriber)
        subscriber.levels -= levels(topic_filter)
        self._changed()
        return True

    def forget(self, subscriber: Subscriber) -> None:
        """The session has ended."""
        for topic_filter in list(subscriber.subscriptions):
            self.unsubscribe(subscriber, topic_filter)

    def restore(self, subscriber: Subscriber, subscriptions: Iterable[tuple[str, Subscription]]) -> None:
        """Put back what a store remembers."""
        for topic_filter, subscription in subscriptions:
            self.subscribe(subscriber, topic_filter, subscription)

    def match(self, topic: str, publisher: str = "") -> tuple[Receiver, ...]:
        """The sessions that a message of `publisher` to `topic` reaches, each once."""
        return (self._cache.get(topic) or self.matched(topic)).receivers_of(publisher)

    def matched(self, topic: str) -> Matched:
        """The sessions that `topic` reaches; the same object until `revision` grows."""
        matched = self._cache.get(topic)
        if matched is None:
            found: dict[Subscriber, list[Subscription]] = {}
            for subscriber, subscription in self._tree.match(topic):
                found.setdefault(subscriber, []).append(subscription)
            groups = tuple(group for group, _ in self._shared.match(topic)) if self._groups else ()
            matched = Matched(tuple(combine(*item) for item in found.items()), groups)
            if len(topic) <= LONGEST_CACHED:
                if len(self._cache) >= CACHED_TOPICS:
                    self._cache.clear()
                self._cache[topic] = matched
        return matched

    def group(self, share: str) -> Group | None:
        """The members of one shared subscription, None if there are none."""
        return self._groups.get(share)

    def set_interest(self, node: str, topic_filter: str, bits: int) -> None:
        """What another node wants of one filter, 0 for nothing any more."""
        interest = self._interest.setdefault(node, {})
        if bits:
            interest[topic_filter] = bits
            self._nodes.add(topic_filter, node, bits)
        elif interest.pop(topic_filter, 0):
            self._nodes.remove(topic_filter, node)
        self.revision += 1
        self._nodes_cache.clear()

    def forget_node(self, node: str) -> None:
        """Another node wants nothing any more."""
        for topic_filter in list(self._interest.get(node, ())):
            self.set_interest(node, topic_filter, 0)
        self._interest.pop(node, None)

    def forget_nodes(self) -> None:
        """What other nodes want is not known any more."""
        for node in list(self._interest):
            self.forget_node(node)

    def count_nodes(self) -> int:
        """How many filters other nodes want, counted per node."""
        return len(self._nodes)

    def nodes(self, topic: str) -> tuple[tuple[str, int], ...]:
        """The other nodes that want `topic`, each once with the bits of all its matching filters."""
        if not self._interest:
            return ()
        nodes = self._nodes_cache.get(topic)
        if nodes is None:
            wanted: dict[str, int] = {}
            for node, bits in self._nodes.match(topic):
                wanted[node] = wanted.get(node, 0) | bits
            nodes = tuple(wanted.items())
            if len(topic) <= LONGEST_CACHED:
                if len(self._nodes_cache) >= CACHED_TOPICS:
                    self._nodes_cache.clear()
                self._nodes_cache[topic] = nodes
        return nodes

    def clear(self) -> None:
        """Forget everything."""
        self._tree = TopicTree()
        self._shared = TopicTree()
        self._groups = {}
        self._nodes = TopicTree()
        self._interest.clear()
        self._nodes_cache.clear()
        self._changed()

    def _changed(self) -> None:
        self.revision += 1
        if self._cache:
            self._cache.clear()
