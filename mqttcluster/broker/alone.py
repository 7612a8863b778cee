"""A node without others: the null object in the place of `broker.cluster.Cluster`, and what the two have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed

from mqttcluster.core.message import Message
from mqttcluster.core.retained import Retained
from mqttcluster.core.routing import Subscriber
from mqttcluster.core.run import Run
from mqttcluster.core.shares import Member
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.shared import Doorbell, SessionChange

if TYPE_CHECKING:
    from mqttcluster.broker.publishing import Plan


class Alone:
    """Nobody to tell, nobody to wait for. `others`: there may be nodes that clients can go to."""

    others = False

    def __init__(self, retained: Retained) -> None:
        self._retained = retained

    async def start(self, recover: Callable[[], Awaitable[None]]) -> None:
        """`recover` reads what the store holds; when this returns clients may be served."""
        await recover()

    async def stop(self) -> None:
        """Leave the others, in good order."""

    @property
    def node(self) -> str:
        """The id of this node among the others, '' without any."""
        return ""

    def may_act(self) -> bool:
        """Whether this node may act on its routes and acknowledge."""
        return True

    async def will_act(self) -> bool:
        """The same, but a node that is about to have its lease back waits for it. False: the store is away."""
        return True

    def congested(self) -> bool:
        """Whether other nodes do not take what they are sent: QoS 1 and 2 publishes are to wait."""
        return False

    def away(self) -> bool:
        """Whether it is the store that keeps this node from acting."""
        return False

    def attached(self, subscriber: Subscriber) -> None:
        """A session with these subscriptions is connected here now."""

    def detached(self, subscriber: Subscriber) -> None:
        """It is not any more. To be called before its subscriptions are forgotten."""

    def changed(self, subscriber: Subscriber, topic_filter: str, before: Subscription | None) -> None:
        """A connected session has subscribed or unsubscribed; `before` is what it had, the routing has what is now."""

    def announce(self, *sessions: SessionChange) -> Deferred[None]:
        """Tell what has changed. Fires when every other node acts on it, or cannot act any more [G5]."""
        return succeed(None)

    def announce_session(self, change: SessionChange, epoch: int) -> Deferred[None]:
        """The same for a durable session owned by this node; then the store is told that everybody knows."""
        return self.announce(change)

    def cast(
        self, message: Message, nodes: Sequence[tuple[str, int]], exchange: tuple[str, int, int] | None = None
    ) -> None:
        """QoS 0, to every node where somebody is connected for it. Wills have an `exchange`."""

    def cast_run(self, run: Run, nodes: Sequence[str]) -> None:
        """A run at QoS 0, to these nodes."""

    def link_run(
        self, run: Run, nodes: Sequence[str], doorbells: Mapping[str, Sequence[Doorbell]]
    ) -> Deferred[None] | None:
        """A run at QoS 1 or 2 by link, to these nodes and to owners of queues, by node. None: there is nothing to wait
        for."""
        return None

    def cast_shared(self, message: Message, members: Sequence[Member]) -> None:
        """QoS 0, to members of groups that are connected to other nodes."""

    def forward(self, plan: Plan) -> Deferred[None] | None:
        """QoS 1 and 2 by link. None: there is nothing to wait for."""
        return None

    def first(self, exchange: tuple[str, int, int] | None) -> bool:
        """Whether receivers without a queue are still to get this QoS 2 exchange."""
        return True

    def retain(self, message: Message, version: int) -> None:
        """The store has given a retained message of this node its place."""
        self._retained.apply(message)

    async def check_retained(self, filters: Sequence[str]) -> None:
        """Fires when everything that was retained before this call is here, as far as `filters` see it."""

    def nodes(self) -> int:
        """How many nodes there are, this one included."""
        return 1

    def counters(self) -> dict[str, Callable[[], object]]:
        """Figures of the whole cluster, by $SYS topic."""
        return {}

    def take(self, client_id: str, epoch: int, node: str) -> Deferred[None]:
        """Ask the old owner to let go of a session, and wait for it, though not for long [G3]."""
        return succeed(None)
