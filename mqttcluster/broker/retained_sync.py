"""Retained messages of a cluster: every node holds all of them, changed in the order of the store [G6].

Each partition of the topics has a version that grows with every change. A change with the next version is applied at
once; a later one shows that changes are missing, and they are read from the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.core.message import Message
from mqttcluster.core.retained import Retained
from mqttcluster.mqtt.topics import has_wildcard
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.shared import ISharedStore, RetainedChange

log = Logger(namespace="mqttcluster.retained")


class RetainedSync:
    """Keeps `retained` in step with the store."""

    def __init__(self, store: ISharedStore, retained: Retained) -> None:
        self._store = store
        self._retained = retained
        self._versions: dict[int, int] = {}
        self._catching_up: dict[int, Deferred[None]] = {}

    def loaded(self, versions: Sequence[int]) -> None:
        """`retained` holds at least everything up to these versions."""
        self._versions = dict(enumerate(versions))

    def apply(self, partition: int, change: RetainedChange) -> None:
        """A change, of this node or another; also doubled, late, or out of order."""
        known = self._versions.get(partition, 0)
        if change.version == known + 1 and partition not in self._catching_up:
            self._take(partition, change)
        elif change.version > known:
            self.catch_up(partition)

    def _take(self, partition: int, change: RetainedChange) -> None:
        self._retained.apply(change.message or Message(change.topic, b""))
        self._versions[partition] = change.version

    async def check(self, filters: Sequence[str]) -> None:
        """Fires when everything that was retained before this call is here, as far as `filters` see it. Fails with
        `StoreError`."""
        versions = await self._store.retained_versions()
        if any(has_wildcard(topic_filter) for topic_filter in filters):
            partitions = set(range(len(versions)))
        else:
            partitions = {self._store.retained_partition(topic_filter) for topic_filter in filters}
        in_vain = 0
        while behind := [p for p in partitions if versions[p] > self._versions.get(p, 0)]:
            before = [self._versions.get(p, 0) for p in behind]
            await DeferredList([self.catch_up(p) for p in behind])
            if before == [self._versions.get(p, 0) for p in behind]:
                in_vain += 1  # once may be: a read that was under way was too early
                if in_vain > 1:
                    raise StoreError("retained messages could not be read")

    def catch_up(self, partition: int) -> Deferred[None]:
        """Read what is missing. Fires when it is here; never fails."""
        waiting: Deferred[None] = Deferred()
        under_way = self._catching_up.get(partition)
        if under_way is None:
            under_way = self._catching_up[partition] = Deferred()
            reading = self._store.retained_since(partition, self._versions.get(partition, 0))
            reading.addCallback(self._caught_up, partition).addErrback(self._failed)
            reading.addCallback(self._done, partition)
        under_way.addCallback(lambda _: waiting.callback(None))
        return waiting

    def _caught_up(self, answer: tuple[int, list[RetainedChange]], partition: int) -> None:
        version, changes = answer
        if changes and changes[0].version == 0:
            named = {change.topic for change in changes}
            for message in list(self._retained.match("#")):
                if message.topic not in named and self._store.retained_partition(message.topic) == partition:
                    self._retained.apply(Message(message.topic, b""))
        for change in changes:
            self._retained.apply(change.message or Message(change.topic, b""))
        self._versions[partition] = max(version, self._versions.get(partition, 0))

    def _failed(self, failure: Failure) -> None:
        log.error("cannot read retained messages, it will be tried again: {error}", error=failure.value)

    def _done(self, _: object, partition: int) -> None:
        self._catching_up.pop(partition).callback(None)

    def compare(self) -> Deferred[None]:
        """To be called now and then: a hint may have been lost."""
        return Deferred.fromCoroutine(self.check(["#"])).addErrback(self._failed)

