"""The default store: one SQLite file, one thread, group commit.

Three parts: `sqlite_file` opens the file, `worker` collects calls into transactions, `sqlite_ledger` carries the calls
out. Here they are put together; every method hands its arguments to the thread.

What survives is told in `sqlite_file`. The file keeps its size when messages are gone; the space is used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.defer import Deferred

from mqttcluster.core.message import Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import (
    BatchObserver,
    Closed,
    Due,
    Opened,
    Publication,
    Published,
    PublishedRun,
    QueueLimits,
    Recovered,
    StoredWill,
    Target,
)
from mqttcluster.storage.sqlite_file import Synchronous
from mqttcluster.storage.sqlite_ledger import Ledger
from mqttcluster.storage.worker import BatchWorker, FromThread


class SqliteStore:
    """`IStore` in the file `path`. `reactor` is where the Deferreds fire; the methods are called in its thread.

    A `Publication` must not be changed after it was handed in.
    """

    def __init__(
        self,
        path: str,
        reactor: FromThread,
        limits: QueueLimits | None = None,
        synchronous: Synchronous = "full",
    ) -> None:
        self._ledger = Ledger(path, limits or QueueLimits(), synchronous)
        self._worker = BatchWorker(path, self._ledger, reactor)

    @property
    def backlog(self) -> int:
        """Calls that wait for their answer. The broker stops reading from clients while there are too many [G9]."""
        return self._worker.backlog

    def observe(self, observer: BatchObserver) -> None:
        """Tell `observer` of each batch."""
        self._worker.observer = observer

    def start(self) -> Deferred[None]:
        return self._worker.start()

    def stop(self) -> Deferred[None]:
        return self._worker.stop()

    def recover(self, now: float) -> Deferred[Recovered]:
        return self._worker.submit(self._ledger.recover, now)

    def open(
        self, client_id: str, clean: bool, expiry: int, will: StoredWill | None, now: float, limit: int
    ) -> Deferred[Opened]:
        return self._worker.submit(self._ledger.open, client_id, clean, expiry, will, now, limit)

    def close(
        self,
        client_id: str,
        epoch: int,
        publish_will: bool,
        sent: int,
        now: float,
        expiry: int | None = None,
        grace: float = 0.0,
    ) -> Deferred[Closed]:
        return self._worker.submit(self._ledger.close_session, client_id, epoch, publish_will, sent, now, expiry, grace)

    def subscribe(
        self, client_id: str, epoch: int, add: Mapping[str, Subscription], remove: Iterable[str] = ()
    ) -> Deferred[bool]:
        return self._worker.submit(self._ledger.subscribe, client_id, epoch, dict(add), tuple(remove))

    def publish(self, publication: Publication) -> Deferred[Published]:
        return self._worker.submit(self._ledger.publish, publication)

    def publish_run(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> Deferred[PublishedRun]:
        return self._worker.submit(self._ledger.publish_run, tuple(messages), tuple(targets), now)

    def drop_retained(self, topics: Iterable[str], now: float) -> Deferred[dict[str, int]]:
        return self._worker.submit(self._ledger.drop_retained, tuple(topics), now)

    def acknowledge(
        self,
        client_id: str,
        epoch: int,
        done: Iterable[int] = (),
        received: Iterable[int] = (),
        completed: Iterable[int] = (),
    ) -> Deferred[bool]:
        return self._worker.submit(
            self._ledger.acknowledge, client_id, epoch, tuple(done), tuple(received), tuple(completed)
        )

    def release(self, client_id: str, epoch: int, packet_ids: Iterable[int]) -> Deferred[bool]:
        return self._worker.submit(self._ledger.release, client_id, epoch, tuple(packet_ids))

    def read(self, client_id: str, epoch: int, after: int, limit: int) -> Deferred[list[Delivery]]:
        return self._worker.submit(self._ledger.read, client_id, epoch, after, limit)

    def will_published(self, client_id: str, epoch: int) -> Deferred[None]:
        return self._worker.submit(self._ledger.will_published, client_id, epoch)

    def due(self, now: float, limit: int) -> Deferred[Due]:
        return self._worker.submit(self._ledger.due, now, limit)
