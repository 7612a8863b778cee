"""What is due: wills to publish, offline sessions and retained messages that have expired.

The store knows what is due; housekeeping asks it once a second, and at once when a connection has ended. A will stays
due until it is stored for everybody with a queue and other nodes have accepted it for the rest, so after a crash in
between another node publishes it once more, and whoever has it already refuses the second [G7].
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.publishing import Plan, Publishing
from mqttcluster.broker.sessions import Sessions
from mqttcluster.core.message import Message
from mqttcluster.storage.interfaces import Due, IStore

log = Logger(namespace="mqttcluster.housekeeping")

INTERVAL = 1.0
#: Seconds after which a look that is still under way says that the store does not answer.
PATIENCE = 5.0
#: Wills and sessions dealt with in one round.
BATCH = 100


class Housekeeping:
    """Looks for what is due, one look at a time."""

    def __init__(
        self,
        store: IStore,
        publishing: Publishing,
        sessions: Sessions,
        metrics: Metrics,
        clock: IReactorTime,
        cluster: Alone,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._publishing = publishing
        self._sessions = sessions
        self._metrics = metrics
        self._clock = clock
        self._looking: Deferred[None] | None = None
        self._since = 0.0
        self._trouble = ""
        self._again = False
        self._loop = LoopingCall(self.look)
        self._loop.clock = clock

    def start(self) -> None:
        """Look once a second from now on."""
        self._loop.start(INTERVAL, now=True)

    def stop(self) -> Deferred[None]:
        """One last look, to its end."""
        self._loop.stop()
        self.look()
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        while self._looking is not None:  # what is due now may be for the look behind the one under way
            await self._looking

    def look(self) -> None:
        """Deal with what is due now. A look that is under way looks again."""
        if self._looking is not None:
            self._again = True
            return
        if not self._cluster.may_act():
            return
        self._again = False
        looking = self._looking = Deferred.fromCoroutine(self._look())
        self._since = self._clock.seconds()
        looking.addCallbacks(self._fine, self._failed).addCallback(self._looked)

    def _looked(self, _: object) -> None:
        self._looking = None
        if self._again:
            self.look()

    def store_trouble(self) -> str:
        """Why the store cannot be relied on, '' if it can: it failed last time, or keeps us waiting."""
        if self._looking is not None and self._clock.seconds() - self._since > PATIENCE:
            return "the store does not answer"
        return self._trouble

    def _fine(self, _: None) -> None:
        self._trouble = ""

    def _failed(self, failure: Failure) -> None:
        self._trouble = "the store fails"
        log.error("housekeeping failed, it will be tried again: {error}", error=failure.value)

    async def _look(self) -> None:
        await self._sessions.tell_again()
        await self._publishing.drop_expired()
        while True:
            due: Due = await self._store.due(self._clock.seconds(), BATCH)
            for client_id, generation in due.expired:  # told once
                self._sessions.expired(client_id, generation)
            if (due.wills or due.orphans) and not self._cluster.may_act():
                return  # what this node knows of the others' subscriptions is too old; they stay due
            await self._publish_wills(due.wills)
            await all_of([self._publishing.hand_on(orphan) for orphan in due.orphans])
            if max(len(due.wills), len(due.expired), len(due.orphans)) < BATCH:
                return

    async def _publish_wills(self, wills: Sequence[tuple[str, int, Message]]) -> None:
        """All at once, in order."""
        now = self._clock.seconds()
        plans = [self._publishing.plan(m.published(now), will=(client_id, epoch)) for client_id, epoch, m in wills]
        storing = [self._publishing.store(plan).addCallback(self._complete, plan) for plan in plans]
        await all_of(storing)
        await all_of([self._store.will_published(client_id, epoch) for client_id, epoch, _ in wills])
        self._metrics.wills_published += len(wills)

    def _complete(self, _: None, plan: Plan) -> Deferred[None]:
        return self._publishing.complete(plan) or succeed(None)


async def all_of(waiting: Sequence[Deferred[None]]) -> None:
    """Wait for all of them. Raises what the first one that failed has failed with."""
    for _, result in await DeferredList(waiting, consumeErrors=True):
        if isinstance(result, Failure):
            result.raiseException()
