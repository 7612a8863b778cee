"""What a cluster needs beside `IStore`: a store that nodes share, and a backplane that carries word between them.

Nodes act on what they know of each other's subscriptions (*routes*) only while they hold a *lease*. A node whose lease
has run out is *fenced*: it reads no clients and acknowledges nothing until it has caught up. A node that stays silent
for longer is *buried*: others take over what it held. Both by the store's clock.

Two lanes lead from node to node. The *channel* carries QoS 0: at most once, nothing is repeated. The *link* carries
QoS 1 and 2: numbered, resumed after a reconnect, in order; what was accepted is handed on unless its receiver is dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred

from mqttcluster.core.message import Message
from mqttcluster.core.run import Run
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import IStore, KeptSession


@dataclass(slots=True)
class RetainedChange:
    """One change of a retained message, in the order of the store. `message` is None for a removal."""

    version: int
    topic: str
    message: Message | None


class ISharedStore(IStore, Protocol):
    """A store that several nodes use at once. Every open, close and due names this node as its owner."""

    @property
    def node(self) -> str:
        """The id of this node; settable, for a node that was buried goes on under a new one."""

    @node.setter
    def node(self, node: str) -> None: ...

    def ready(self) -> bool:
        """Whether the store has answered when it was asked last."""

    def reap(self, node: str, now: float) -> Deferred[list[KeptSession]]:
        """End every connection that the dead `node` still owns, as if it had been lost. Other nodes may do the same at
        the same time. Answers kept sessions whose subscriptions the other nodes may not know; they are to be
        announced."""

    def announced(self, client_id: str, epoch: int) -> Deferred[bool]:
        """The subscriptions of this session are known to the other nodes. False: stale."""

    def retained_versions(self) -> Deferred[Sequence[int]]:
        """The version of the last change, per partition of the topics."""

    def retained_partition(self, topic: str) -> int:
        """The partition that a topic name, or a filter without wildcards, falls in."""

    def retained_since(self, partition: int, version: int) -> Deferred[tuple[int, list[RetainedChange]]]:
        """The changes after `version`, in order, and the version they lead to. A list that begins with a change of
        version 0 is the whole partition: whatever it does not name is not retained any more."""


@dataclass(slots=True)
class NodeInterest:
    """A node's interest in one filter has changed: `bits` as in `core.interest`, 0 for none any more."""

    topic_filter: str
    bits: int


@dataclass(slots=True)
class SessionChange:
    """The subscriptions of a durable session have changed under the owner of `epoch`; word from an earlier owner that
    comes late changes nothing. `whole`: `add` is all there is. `gone`: the session ended. `online`: it is connected to
    the node that tells. Not `durable`: it ends with its connection, and `add` are its shared subscriptions only.
    """

    client_id: str
    generation: int
    add: Mapping[str, Subscription] = field(default_factory=dict)
    remove: Sequence[str] = ()
    whole: bool = False
    gone: bool = False
    epoch: int = 0
    online: bool = False
    durable: bool = True


RouteChange = NodeInterest | SessionChange


@dataclass(slots=True)
class Doorbell:
    """A durable session's queue has a new entry: the owner named by `epoch` may deliver it. Of a run it has the first
    `count` messages, from `sequence` on."""

    client_id: str
    epoch: int
    sequence: int
    qos: int
    retain: bool = False
    identifiers: tuple[int, ...] = ()
    count: int = 1


@dataclass(slots=True)
class Forward:
    """A message for another node. `match`: for its clean sessions, by its own routes; `doorbells`: for durable
    sessions.

    `exchange` is that of `Published`: receivers refuse what they have seen of the same publisher.
    """

    message: Message
    match: bool = True
    doorbells: Sequence[Doorbell] = ()
    exchange: tuple[str, int, int] | None = None


@dataclass(slots=True)
class Shared:
    """A message for one member of the group `share`, at QoS 0."""

    message: Message
    share: str
    client_id: str


@dataclass(slots=True)
class RunForward:
    """The same for a run of messages."""

    run: Run
    match: bool = True
    doorbells: Sequence[Doorbell] = ()


@dataclass(slots=True)
class Take:
    """A client has connected to the sender: close its connection with an epoch below `epoch`, then answer `Given`."""

    client_id: str
    epoch: int


@dataclass(slots=True)
class Given:
    """The answer to `Take`: nothing more comes from the old connection."""

    client_id: str
    epoch: int


@dataclass(slots=True)
class RetainedHint:
    """A retained message has changed."""

    partition: int
    change: RetainedChange


Envelope = Forward | Shared | RunForward | Take | Given | RetainedHint


class BackplaneEvents(Protocol):
    """What a backplane tells its node, always in the reactor thread and in order."""

    def load(self) -> Deferred[None]:
        """The position in the routes is remembered: now read the state of the store. Changes follow when this fires."""

    def route(self, node: str, change: RouteChange) -> None:
        """A change, made by `node`. Changes may repeat what `load` has read."""

    def gone(self, node: str) -> None:
        """`node` is dead or has left: drop its routes; look whether it left queue entries without a doorbell. Also told
        of a node that is there, before `load` is asked for once more: its routes come anew."""

    def reap(self, node: str) -> Deferred[None]:
        """This node has claimed the clean-up after `node`: release its sessions. It is tried again if this fails."""

    def received(self, node: str, envelope: Envelope) -> None:
        """An envelope from `node`."""

    def gap(self, node: str) -> None:
        """Envelopes from `node` were lost: look at every queue."""

    def fenced(self, fenced: bool) -> None:
        """True: the lease has run out; act on nothing until it is back."""

    def evicted(self) -> Deferred[None]:
        """The others have buried this node while it was away: close all connections and forget every route. When this
        fires the backplane joins again as a new node."""


class IBackplane(Protocol):
    """Presence, routes and lanes between the nodes of a cluster."""

    @property
    def node(self) -> str:
        """The id of this node: its name and a random suffix, new at each start."""

    def start(self, events: BackplaneEvents) -> Deferred[None]:
        """Join; fires when this node is live. While the store is away this waits."""

    def stop(self) -> Deferred[None]:
        """Leave, so that nobody has to wait for this node to be found dead."""

    def valid(self) -> bool:
        """Whether the lease holds at this very moment. To be asked before acting on routes, and before
        acknowledging."""

    def announce(self, changes: Sequence[RouteChange]) -> Deferred[None]:
        """Tell all nodes. Fires when each node that was a member as the change was written has applied it, or can act
        no more: its lease has run out. Changes are applied everywhere in the order of the calls."""

    def members(self) -> Sequence[str]:
        """The other nodes, joining or live."""

    def cast(self, node: str, envelope: Envelope) -> None:
        """By channel: at most once."""

    def cast_all(self, envelope: Envelope) -> None:
        """By channel, to all other nodes."""

    def link(self, node: str, envelope: Envelope) -> Deferred[bool]:
        """By link. Fires True when the link has accepted it; False: that node is gone."""

    def congested(self) -> bool:
        """Whether too much waits in the links: who feeds them pauses until this is over [G9]."""
