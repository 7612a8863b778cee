"""The store that nodes share: Redis, one connection, one thread.

From the top: `RedisStore` hands each call to the thread (`worker`); `_Backend` sorts the calls of a batch into plans
(`redis_plan`); a plan goes out as one pipeline (`redis_pipeline`), with one script call per partition (``lua/``).
`redis_calls` and `redis_rounds` say what each call is made of.

Redis away is a pause [G8]: calls wait, and are sent again in order until they are answered or the store is stopped.
`ready` tells whether it is worth asking; `backlog` is how many calls wait.

What survives is up to Redis: what it acknowledged and then forgot (``appendfsync everysec``, a failover) is lost, but
no number is given out twice. Times are the callers' clocks, so the nodes' clocks must agree to a second or so.

An epoch is about the time in microseconds since 1970, a version of a retained message likewise: both need 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from time import time_ns
from typing import TypeVar

from twisted.internet.defer import Deferred

from mqttcluster.core.message import Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import (
    BatchObserver,
    Closed,
    Due,
    KeptSession,
    Opened,
    Publication,
    Published,
    PublishedRun,
    QueueLimits,
    Recovered,
    StoredWill,
    StoreError,
    Target,
)
from mqttcluster.storage.redis_calls import (
    Call,
    Publish,
    PublishRun,
    acknowledging,
    announcing,
    closing,
    opening,
    reading,
    releasing,
    striking_off,
    subscribing,
)
from mqttcluster.storage.redis_cluster import connections, redacted
from mqttcluster.storage.redis_keys import Keys
from mqttcluster.storage.redis_pipeline import Pipeline
from mqttcluster.storage.redis_plan import Plan
from mqttcluster.storage.redis_retained import dropping, since, versions
from mqttcluster.storage.redis_rounds import Alone, Rounds
from mqttcluster.storage.shared import RetainedChange
from mqttcluster.storage.worker import BatchWorker, FromThread

T = TypeVar("T")

#: Bytes that go out in one pipeline; a single call may be larger.
MOST_BYTES = 8 * 1024 * 1024


class RedisStore:
    """`ISharedStore` in the Redis at `url`. `node` is this node's id, never used by another, nor by an earlier life of
    this one. `timeout` is how long (seconds) an answer may take before the connection is given up, `patience` how long
    `start` waits for Redis. `reactor` is where the Deferreds fire; the methods are called in its thread.

    A `Publication` must not be changed after it was handed in.
    """

    def __init__(
        self,
        url: str,
        reactor: FromThread,
        node: str,
        limits: QueueLimits | None = None,
        prefix: str = "mc:",
        timeout: float = 5.0,
        patience: float = 5.0,
    ) -> None:
        self._backend = _Backend(url, node, limits or QueueLimits(), prefix, timeout, patience)
        self._worker = BatchWorker(redacted(url), self._backend, reactor)

    @property
    def node(self) -> str:
        """The id that connections are opened under. A node that was declared dead goes on with a new one."""
        return self._backend.node

    @node.setter
    def node(self, node: str) -> None:
        self._backend.node = node

    @property
    def backlog(self) -> int:
        """Calls that wait for their answer. The broker stops reading from clients while there are too many [G9]."""
        return self._worker.backlog

    def observe(self, observer: BatchObserver) -> None:
        """Tell `observer` of each batch."""
        self._worker.observer = observer

    def ready(self) -> bool:
        """Whether Redis has answered when it was asked last. While it has not, nobody new should be let in [G8]."""
        return self._backend.pipeline.answering

    def start(self) -> Deferred[None]:
        return self._worker.start()

    def stop(self) -> Deferred[None]:
        self._backend.pipeline.stop()
        return self._worker.stop()

    def _ask(self, make: Callable[[], Call[T]]) -> Deferred[T]:
        return self._worker.submit(self._backend.add, make).addCallback(Call.result)

    # IStore

    def recover(self, now: float) -> Deferred[Recovered]:
        """Kept sessions and retained messages of the whole cluster. The first time after `start`, connections that this
        node's id still owns are ended before."""
        return self._ask(lambda: Alone(lambda rounds: self._backend.recover(rounds, now)))

    def open(
        self, client_id: str, clean: bool, expiry: int, will: StoredWill | None, now: float, limit: int
    ) -> Deferred[Opened]:
        return self._ask(lambda: opening(client_id, clean, expiry, will, now, limit))

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
        return self._ask(lambda: closing(client_id, epoch, publish_will, sent, now, expiry, grace))

    def subscribe(
        self, client_id: str, epoch: int, add: Mapping[str, Subscription], remove: Iterable[str] = ()
    ) -> Deferred[bool]:
        added, removed = dict(add), tuple(remove)
        return self._ask(lambda: subscribing(client_id, epoch, added, removed))

    def publish(self, publication: Publication) -> Deferred[Published]:
        return self._ask(lambda: Publish(publication))

    def publish_run(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> Deferred[PublishedRun]:
        return self._ask(lambda: PublishRun(messages, targets, now))

    def drop_retained(self, topics: Iterable[str], now: float) -> Deferred[dict[str, int]]:
        named = tuple(topics)
        return self._ask(lambda: dropping(named, now))

    def acknowledge(
        self,
        client_id: str,
        epoch: int,
        done: Iterable[int] = (),
        received: Iterable[int] = (),
        completed: Iterable[int] = (),
    ) -> Deferred[bool]:
        lists = tuple(done), tuple(received), tuple(completed)
        return self._ask(lambda: acknowledging(client_id, epoch, *lists))

    def release(self, client_id: str, epoch: int, packet_ids: Iterable[int]) -> Deferred[bool]:
        released = tuple(packet_ids)
        return self._ask(lambda: releasing(client_id, epoch, released))

    def read(self, client_id: str, epoch: int, after: int, limit: int) -> Deferred[list[Delivery]]:
        return self._ask(lambda: reading(client_id, epoch, after, limit))

    def will_published(self, client_id: str, epoch: int) -> Deferred[None]:
        return self._ask(lambda: striking_off(client_id, epoch))

    def due(self, now: float, limit: int) -> Deferred[Due]:
        return self._ask(lambda: Alone(lambda rounds: rounds.due(now, limit)))

    # ISharedStore

    def reap(self, node: str, now: float) -> Deferred[list[KeptSession]]:
        return self._ask(lambda: Alone(lambda rounds: rounds.reap(node, now)))

    def announced(self, client_id: str, epoch: int) -> Deferred[bool]:
        return self._ask(lambda: announcing(client_id, epoch))

    def retained_versions(self) -> Deferred[Sequence[int]]:
        return self._ask(versions)

    def retained_partition(self, topic: str) -> int:
        return self._backend.pipeline.keys.retained_partition(topic)

    def retained_since(self, partition: int, version: int) -> Deferred[tuple[int, list[RetainedChange]]]:
        return self._ask(lambda: since(partition, version))


class _Backend:
    """`worker.Backend`: a batch is a list of calls, carried out by `commit`."""

    def __init__(self, url: str, node: str, limits: QueueLimits, prefix: str, timeout: float, patience: float) -> None:
        self.node = node
        self.pipeline = Pipeline(prefix)
        self._url = url
        self._limits = limits
        self._timeout = timeout
        self._patience = patience
        # A number that was used before, perhaps by an earlier process, would be taken for a repetition.
        self._batches = count(time_ns() // 1000)
        self._calls: list[Call[object]] = []
        self._recovered = False

    # In the worker's thread

    def connect(self) -> None:
        self._recovered = False
        self.pipeline.open(connections(self._url, self._timeout), self._patience)

    def begin(self) -> None:
        self._calls = []

    def add(self, make: Callable[[], Call[T]]) -> Call[T]:
        """Take a call into the batch. Raises `ValueError` for what cannot be stored."""
        call = make()
        self._calls.append(call)  # type: ignore[arg-type]
        return call

    def prepare(self) -> None:
        """Nothing to do: what may fail for one call's sake was done by `add`."""

    def commit(self) -> None:
        for group in _groups(self._calls):
            try:
                self._carry_out_group(group)
            except StoreError as problem:
                for call in group:
                    call.fail(problem)

    def rollback(self) -> None:
        self._calls = []

    def close(self) -> None:
        self.pipeline.close()

    def recover(self, rounds: Rounds, now: float) -> Recovered:
        if not self._recovered:
            rounds.release(self.node, now)
            self._recovered = True
        return rounds.recover()

    def _carry_out_group(self, group: Sequence[Call[object]]) -> None:
        going = list(group)
        if isinstance(group[0], Alone):
            group[0].run(Rounds(self._keys, self._plan, self._carry_out))
        else:
            for add in (_first, _main):
                plan = self._plan()
                going = [call for call in going if _added(add, call, plan)]
                if plan:
                    self._carry_out(plan)
            while going:
                plan = self._plan()
                going = [call for call in going if _added(_more, call, plan)]
                if not plan:
                    break
                self._carry_out(plan)
        for call in going:
            call.settle()

    def _keys(self) -> Keys:
        return self.pipeline.keys

    def _plan(self) -> Plan:
        return Plan(self.pipeline.keys, self._limits)

    def _carry_out(self, plan: Plan) -> None:
        plan.carry_out(self.pipeline, self.node, next(self._batches))


def _first(call: Call[object], plan: Plan) -> None:
    call.first(plan)


def _main(call: Call[object], plan: Plan) -> None:
    call.main(plan)


def _more(call: Call[object], plan: Plan) -> None:
    call.more(plan)


def _added(add: Callable[[Call[object], Plan], None], call: Call[object], plan: Plan) -> bool:
    """Let the call add its part. False: what it was answered before has failed, and so has the call."""
    try:
        add(call, plan)
    except StoreError as problem:
        call.fail(problem)
        return False
    return True


def _groups(calls: Sequence[Call[object]]) -> Iterable[list[Call[object]]]:
    """Calls that may share plans: what one of them asks first is not changed by an earlier one."""
    group: list[Call[object]] = []
    changed: set[object] = set()
    size = 0
    for call in calls:
        alone = isinstance(call, Alone) or bool(group and isinstance(group[-1], Alone))
        if group and (alone or not changed.isdisjoint(call.needs) or size + call.size > MOST_BYTES):
            yield group
            group, changed, size = [], set(), 0
        group.append(call)
        size += call.size
        changed.update(call.changes)
    if group:
        yield group
