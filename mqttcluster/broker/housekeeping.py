"""What is due: wills to publish, offline sessions that have expired.

The store knows what is due; housekeeping asks it once a second, and at once when a connection has ended. A will stays
due until the publish that carries it is stored, so a crash in between repeats it, and the store refuses the second.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.publishing import Publishing
from mqttcluster.broker.sessions import Sessions
from mqttcluster.core.message import Message
from mqttcluster.storage.interfaces import Due, IStore

log = Logger(namespace="mqttcluster.housekeeping")

INTERVAL = 1.0
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
        looking.addErrback(self._failed).addCallback(self._looked)

    def _looked(self, _: object) -> None:
        self._looking = None
        if self._again:
            self.look()

    def _failed(self, failure: Failure) -> None:
        log.error("housekeeping failed, it will be tried again: {error}", error=failure.value)

    async def _look(self) -> None:
        await self._sessions.tell_again()
        while True:
            due: Due = await self._store.due(self._clock.seconds(), BATCH)
            for client_id, epoch, message in due.wills:
                await self._publish_will(client_id, epoch, message)
            for client_id, generation in due.expired:
                self._sessions.expired(client_id, generation)
            if len(due.wills) < BATCH and len(due.expired) < BATCH:
                return

    async def _publish_will(self, client_id: str, epoch: int, message: Message) -> None:
        plan = self._publishing.plan(message, will=(client_id, epoch))
        await self._publishing.store(plan)
        self._publishing.complete(plan)
        self._metrics.wills_published += 1
