"""What the storage tests share: a store that is asked and answers at once, and a reactor for its thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mqttcluster.core.message import Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import (
    NEVER,
    Closed,
    Due,
    IStore,
    Opened,
    Publication,
    Published,
    PublishedRun,
    Recovered,
    StoredWill,
    Target,
)

#: Longer than anything takes; only a test that has failed waits for it.
PATIENCE = 60


class QueueReactor:
    """The thread's side of a reactor; the test is the reactor's thread and runs what was asked for."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        self._asked.put((callable, args))

    def turn(self) -> None:
        """Wait for one call and run it."""
        callable, args = self._asked.get(timeout=PATIENCE)
        callable(*args)


def outcome(deferred: Deferred[Any], reactor: QueueReactor) -> Any:
    """The result of a Deferred; its exception is raised."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    while not results:
        reactor.turn()
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


class Driver:
    """A store whose calls return their results. `restart`, if given, is what happens after each call."""

    def __init__(self, store: IStore, reactor: QueueReactor, restart: Callable[[IStore], IStore] | None = None) -> None:
        self.store = store
        self.reactor = reactor
        self.restart = restart

    def wait(self, deferred: Deferred[Any]) -> Any:
        result = outcome(deferred, self.reactor)
        if self.restart is not None:
            self.store = self.restart(self.store)
        return result

    def open(
        self,
        client_id: str = "c",
        clean: bool = False,
        expiry: int = NEVER,
        will: StoredWill | None = None,
        now: float = 0.0,
        limit: int = 1000,
    ) -> Opened:
        answer: Opened = self.wait(self.store.open(client_id, clean, expiry, will, now, limit))
        return answer

    def close(
        self,
        client_id: str,
        epoch: int,
        publish_will: bool = True,
        sent: int = 0,
        now: float = 0.0,
        expiry: int | None = None,
        grace: float = 0.0,
    ) -> Closed:
        answer: Closed = self.wait(self.store.close(client_id, epoch, publish_will, sent, now, expiry, grace))
        return answer

    def subscribe(
        self, client_id: str, epoch: int, add: Mapping[str, Subscription], remove: Iterable[str] = ()
    ) -> bool:
        answer: bool = self.wait(self.store.subscribe(client_id, epoch, add, remove))
        return answer

    def publish(self, message: Message, *targets: Target, **fields: Any) -> Published:
        answer: Published = self.wait(self.store.publish(Publication(message, targets, **fields)))
        answer.sequences = list(answer.sequences)
        answer.chosen = tuple(answer.chosen)
        return answer

    def publish_run(self, messages: Sequence[Message], *targets: Target, now: float = 0.0) -> PublishedRun:
        answer: PublishedRun = self.wait(self.store.publish_run(messages, targets, now))
        answer.queued, answer.owners = list(answer.queued), list(answer.owners)
        return answer

    def acknowledge(
        self,
        client_id: str,
        epoch: int,
        done: Iterable[int] = (),
        received: Iterable[int] = (),
        completed: Iterable[int] = (),
    ) -> bool:
        answer: bool = self.wait(self.store.acknowledge(client_id, epoch, done, received, completed))
        return answer

    def release(self, client_id: str, epoch: int, *packet_ids: int) -> bool:
        answer: bool = self.wait(self.store.release(client_id, epoch, packet_ids))
        return answer

    def read(self, client_id: str, epoch: int, after: int = 0, limit: int = 1000) -> list[Delivery]:
        answer: list[Delivery] = self.wait(self.store.read(client_id, epoch, after, limit))
        return answer

    def drop_retained(self, topics: Iterable[str], now: float) -> dict[str, int]:
        answer: dict[str, int] = self.wait(self.store.drop_retained(topics, now))
        return answer

    def will_published(self, client_id: str, epoch: int) -> None:
        self.wait(self.store.will_published(client_id, epoch))

    def due(self, now: float, limit: int = 1000) -> Due:
        answer: Due = self.wait(self.store.due(now, limit))
        return answer

    def recover(self, now: float = 0.0) -> Recovered:
        answer: Recovered = self.wait(self.store.recover(now))
        return answer


def message(payload: bytes | str = b"", topic: str = "t", qos: int = 1, **fields: Any) -> Message:
    return Message(topic, payload.encode() if isinstance(payload, str) else payload, qos, **fields)


def to(opened: Opened, client_id: str = "c", qos: int = 1, **fields: Any) -> Target:
    return Target(client_id, opened.generation, qos, **fields)
