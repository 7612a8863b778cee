"""A store of dictionaries: the contract in its shortest form. Survives nothing.

Every call runs to its end before it returns, so its Deferred has already fired. Read `open`, `_disconnect` and
`publish`; the rest follows from them.

A session is *lasting* if it has a queue: it was opened with an expiry, or resumed, or has subscribed to a shared
filter. One that is not has an epoch and perhaps a will, and nothing is ever queued for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from itertools import islice
from math import inf
from operator import itemgetter
from typing import Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from mqttcluster.core.message import FIRST_SHARED, Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import is_shared
from mqttcluster.storage.interfaces import (
    FULL,
    GONE,
    NEVER,
    READ_BYTES,
    Chosen,
    Closed,
    Due,
    KeptSession,
    Opened,
    Orphan,
    Publication,
    Published,
    PublishedRun,
    QueueLimits,
    Recovered,
    StoredWill,
    StoreError,
    Target,
)
from mqttcluster.storage.sequences import in_a_row

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Session:
    """`epoch` is that of the present connection, or of the last one while `online` is false."""

    client_id: str
    generation: int
    lasting: bool
    epoch: int = 0
    online: bool = True
    expiry: int = 0
    expires_at: float = inf
    will: StoredWill | None = None
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    queue: dict[int, Delivery] = field(default_factory=dict)
    #: Sequence -> shared subscription, of what is queued and came through one.
    shares: dict[int, str] = field(default_factory=dict)
    last: int = 0
    sent: int = 0
    released: set[int] = field(default_factory=set)
    inbound: set[int] = field(default_factory=set)

    def over(self, now: float) -> bool:
        """Whether a new connection finds nothing to go on with."""
        return self.expiry == 0 if self.online else self.expires_at <= now


@dataclass(slots=True)
class _DueWill:
    """A will whose connection has ended; `at` is when it is to be published."""

    at: float
    message: Message


def _fired(method: Callable[Concatenate[MemoryStore, P], T], /) -> Callable[Concatenate[MemoryStore, P], Deferred[T]]:
    """Wrap the answer of `method` into a Deferred that has already fired."""

    @wraps(method)
    def call(self: MemoryStore, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if not self._running:
            return fail(StoreError("memory: the store is not started"))
        return succeed(method(self, *args, **kwargs))

    return call


def _beginning(entries: Iterable[Delivery]) -> list[Delivery]:
    """As much as is read at once."""
    found, size = [], 0
    for entry in entries:
        found.append(entry)
        size += len(entry.message.payload)
        if size >= READ_BYTES:
            break
    return found


class MemoryStore:
    """`IStore` for tests, and for brokers whose sessions need not outlive the process."""

    def __init__(self, limits: QueueLimits | None = None) -> None:
        self._limits = limits or QueueLimits()
        self._running = False
        self._epoch = 0
        self._sessions: dict[str, _Session] = {}
        self._wills: dict[tuple[str, int], _DueWill] = {}
        #: Client id -> epoch of a connection that was ended with grace.
        self._graced: dict[str, int] = {}
        self._retained: dict[str, Message] = {}
        self._orphans: dict[tuple[int, int], Orphan] = {}

    @property
    def backlog(self) -> int:
        """Calls not answered yet: never any."""
        return 0

    # A store's life

    def start(self) -> Deferred[None]:
        self._running = True
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Forget everything but the last epoch, which must never come back."""
        self._running = False
        self._sessions.clear()
        self._wills.clear()
        self._graced.clear()
        self._retained.clear()
        self._orphans.clear()
        return succeed(None)

    @_fired
    def recover(self, now: float) -> Recovered:
        for session in [session for session in self._sessions.values() if session.online]:
            session.sent = session.last
            self._disconnect(session, True, now)
        kept = [
            KeptSession(session.client_id, session.generation, dict(session.subscriptions))
            for session in self._sessions.values()
        ]
        return Recovered(kept, list(self._retained.values()))

    # Connections

    @_fired
    def open(self, client_id: str, clean: bool, expiry: int, will: StoredWill | None, now: float, limit: int) -> Opened:
        self._epoch += 1
        self._cancel_graced(client_id, now)
        session, wiped, present = self._sessions.get(client_id), 0, False
        if session is not None:
            present = not clean and not session.over(now)
            self._settle_will(session, present, now)
            if present and session.online:
                session.sent = session.last  # the old connection may have sent anything
            elif not present:
                wiped = session.generation if session.lasting else 0
                self._orphan(session, session.last if session.online else session.sent)
        if session is None or not present:
            session = self._sessions[client_id] = _Session(client_id, generation=self._epoch, lasting=expiry > 0)
        session.epoch, session.online, session.expiry, session.will = self._epoch, True, expiry, will
        return Opened(
            epoch=session.epoch,
            generation=session.generation,
            present=present,
            subscriptions=dict(session.subscriptions),
            queue=_beginning(islice(session.queue.values(), limit)),
            last=session.last,
            sent=session.sent,
            released=sorted(session.released),
            inbound=set(session.inbound),
            wiped=wiped,
        )

    def _cancel_graced(self, client_id: str, now: float) -> None:
        """The client has come back in time to a node that did not send it away."""
        key = client_id, self._graced.pop(client_id, 0)
        if key in self._wills and self._wills[key].at > now:
            del self._wills[key]

    def _settle_will(self, session: _Session, goes_on: bool, now: float) -> None:
        """A new connection ends the wait of the last one's will: cancelled if the session goes on, else due."""
        key = session.client_id, session.epoch
        if session.online:
            if session.will is not None and not (goes_on and session.will.delay):
                self._wills[key] = _DueWill(now, session.will.message)
        elif key in self._wills and self._wills[key].at > now:
            if goes_on:
                del self._wills[key]
            else:
                self._wills[key].at = now

    @_fired
    def close(
        self,
        client_id: str,
        epoch: int,
        publish_will: bool,
        sent: int,
        now: float,
        expiry: int | None = None,
        grace: float = 0.0,
    ) -> Closed:
        session = self._owned(client_id, epoch)
        if session is None:
            if not publish_will:
                self._wills.pop((client_id, epoch), None)
            return Closed.STALE
        if expiry is not None and session.expiry:
            session.expiry = expiry
        session.sent = min(max(session.sent, sent), session.last)
        return self._disconnect(session, publish_will, now, grace)

    def _disconnect(self, session: _Session, publish_will: bool, now: float, grace: float = 0.0) -> Closed:
        if session.will is not None and publish_will:
            at = now + max(min(session.will.delay, session.expiry), grace)
            if grace:
                self._graced[session.client_id] = session.epoch
            self._wills[session.client_id, session.epoch] = _DueWill(at, session.will.message)
        session.online, session.will = False, None
        if session.expiry == 0:
            self._end(session)
            return Closed.ENDED
        session.expires_at = inf if session.expiry == NEVER else now + session.expiry
        return Closed.KEPT

    def _end(self, session: _Session) -> None:
        self._orphan(session, session.sent)
        del self._sessions[session.client_id]

    def _orphan(self, session: _Session, sent: int) -> None:
        """Keep for others of their groups what this session leaves behind. QoS 2 up to `sent` is nobody else's."""
        for sequence, share in session.shares.items():
            delivery = session.queue.get(sequence)
            if delivery is not None and (delivery.qos == 1 or sequence > sent):
                self._orphans[session.generation, sequence] = Orphan(
                    session.client_id, session.generation, sequence, share, delivery.message
                )

    def _owned(self, client_id: str, epoch: int) -> _Session | None:
        """The session if `epoch` is that of its present connection, None if the caller is stale."""
        session = self._sessions.get(client_id)
        return session if session is not None and session.online and session.epoch == epoch else None

    # What a connection does

    @_fired
    def subscribe(
        self, client_id: str, epoch: int, add: Mapping[str, Subscription], remove: Iterable[str] = ()
    ) -> bool:
        session = self._owned(client_id, epoch)
        if session is not None and not session.lasting and any(map(is_shared, add)):
            session.lasting, session.last = True, FIRST_SHARED
        if session is not None and session.lasting:
            for topic_filter in remove:
                session.subscriptions.pop(topic_filter, None)
            session.subscriptions.update(add)
        return session is not None

    @_fired
    def publish(self, publication: Publication) -> Published:
        message = publication.message
        if publication.exchange is not None:
            client_id, epoch, packet_id = publication.exchange
            publisher = self._owned(client_id, epoch)
            if publisher is None:
                return Published(stale=True)
            if packet_id in publisher.inbound:
                return Published(repeated=True)
        if publication.will is not None and not self._forget_will(*publication.will):
            return Published(repeated=True)
        orphan = publication.orphan
        if orphan is not None and self._orphans.pop((orphan.generation, orphan.sequence), None) is None:
            return Published(repeated=True)
        # Nothing was changed so far, and nothing fails from here on.
        if publication.exchange is not None and publisher is not None and publisher.lasting:
            publisher.inbound.add(packet_id)
        if publication.retain and message.payload:
            self._retained[message.topic] = message
        elif publication.retain:
            self._retained.pop(message.topic, None)
        now = publication.now
        sequences = [self._enqueue(message, target, now) for target in publication.targets]
        return Published(sequences, chosen=tuple(self._choose(message, group, now) for group in publication.shares))

    @_fired
    def publish_run(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> PublishedRun:
        return PublishedRun(
            [in_a_row([self._enqueue(message, target, now) for message in messages]) for target in targets]
        )

    def _choose(self, message: Message, group: Iterable[Target], now: float) -> Chosen:
        """Queue for the first member that takes it."""
        nobody, target = GONE, Target("", 0, 0)
        for target in group:
            sequence = self._enqueue(message, target, now)
            if sequence > 0:
                return Chosen(target, sequence)
            nobody = min(nobody, sequence)
        return Chosen(target, nobody)

    def _enqueue(self, message: Message, target: Target, now: float) -> int:
        session = self._sessions.get(target.client_id)
        if session is None or session.generation != target.generation or not session.lasting:
            return GONE
        if len(session.queue) >= self._limits.messages:
            dropped = None if session.online else self._dispensable(session, now)
            if dropped is None:
                return FULL
            del session.queue[dropped]
            session.shares.pop(dropped, None)
        session.last += 1
        session.queue[session.last] = Delivery(
            session.last, message, target.qos, target.retain, tuple(target.identifiers)
        )
        if target.share:
            session.shares[session.last] = target.share
        return session.last

    def _dispensable(self, session: _Session, now: float) -> int | None:
        """The sequence that makes room in a full queue."""
        unsent = [entry for entry in session.queue.values() if entry.sequence > session.sent]
        expired = next((entry.sequence for entry in unsent if entry.message.expired(now)), None)
        return expired or (unsent[0].sequence if unsent and self._limits.drop_oldest else None)

    @_fired
    def drop_retained(self, topics: Iterable[str], now: float) -> dict[str, int]:
        expired = [topic for topic in topics if topic in self._retained and self._retained[topic].expired(now)]
        for topic in expired:
            del self._retained[topic]
        return dict.fromkeys(expired, 0)

    @_fired
    def acknowledge(
        self,
        client_id: str,
        epoch: int,
        done: Iterable[int] = (),
        received: Iterable[int] = (),
        completed: Iterable[int] = (),
    ) -> bool:
        session = self._owned(client_id, epoch)
        if session is None:
            return False
        for sequence in done:
            session.queue.pop(sequence, None)
            session.shares.pop(sequence, None)
        for sequence in received:
            session.shares.pop(sequence, None)
            if session.queue.pop(sequence, None) is not None:
                session.released.add(sequence)
        session.released.difference_update(completed)
        return True

    @_fired
    def release(self, client_id: str, epoch: int, packet_ids: Iterable[int]) -> bool:
        session = self._owned(client_id, epoch)
        if session is None:
            return False
        session.inbound.difference_update(packet_ids)
        return True

    @_fired
    def read(self, client_id: str, epoch: int, after: int, limit: int) -> list[Delivery]:
        session = self._owned(client_id, epoch)
        if session is None:
            return []
        return _beginning(islice((entry for sequence, entry in session.queue.items() if sequence > after), limit))

    # Housekeeping

    @_fired
    def will_published(self, client_id: str, epoch: int) -> None:
        self._forget_will(client_id, epoch)

    def _forget_will(self, client_id: str, epoch: int) -> bool:
        """False: it is not there."""
        if self._graced.get(client_id) == epoch:
            del self._graced[client_id]
        return self._wills.pop((client_id, epoch), None) is not None

    @_fired
    def due(self, now: float, limit: int) -> Due:
        over = [session for session in self._sessions.values() if not session.online and session.over(now)]
        over = sorted(over, key=lambda session: (session.expires_at, session.client_id))[:limit]
        for session in over:  # its will is due: it never waits longer than the session lasts
            self._end(session)
        wills = sorted((will.at, *key) for key, will in self._wills.items() if will.at <= now)[:limit]
        return Due(
            [(client_id, epoch, self._wills[client_id, epoch].message) for _, client_id, epoch in wills],
            [(session.client_id, session.generation) for session in over],
            [orphan for _, orphan in sorted(self._orphans.items(), key=itemgetter(0))[:limit]],
        )
