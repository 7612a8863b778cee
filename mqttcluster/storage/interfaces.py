"""What a store promises. Every implementation passes tests/storage/contract.py.

Order. Calls take effect in the order they are made, and their Deferreds fire in that order.
Durability. When a Deferred fires with a result, its effect survives whatever the store claims to survive
(sqlite: SIGKILL of the process; memory: nothing). A call is atomic: all of its effects, or none.
Failure. A Deferred fails with `StoreError` when the store cannot say that the call took effect. Nothing else is raised.
Epochs. Whoever opens a session gets an epoch, larger than all before it. Calls that name an older epoch change nothing
and answer `stale`, however late they arrive [G3]. An epoch is over when its connection was closed or taken over.
Sessions without expiry. One that was opened anew with expiry 0 has an epoch and perhaps a will, nothing else: targets
that name it are GONE, and calls in its name check the epoch and keep nothing. One that was resumed with expiry 0 is
a whole session until its connection ends. So is, from then on, one that subscribes to a shared filter (`$share/…`); its
sequences begin behind `FIRST_SHARED`.
Shared subscriptions. What was queued for a session as a member of a group, and not acknowledged when the session ends,
becomes an *orphan*, due until it is published for somebody else; but not what was or may have been sent at QoS 2, which
nobody else may get [MQTT-4.8.2].
Arguments belong to the store once they were handed in (collections are read at once, a `Publication` may be read
later); answers belong to the caller.
Time. `now` is seconds since 1970, handed in by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from twisted.internet.defer import Deferred

from mqttcluster.core.message import Delivery, Message
from mqttcluster.mqtt.packets import Subscription

#: Session expiry: the session never ends by itself (MQTT 3.1.1 CleanSession=0).
NEVER = 0xFFFFFFFF

#: Bytes of messages in one answer: with the one that exceeds them a read of a queue ends.
READ_BYTES = 1024 * 1024


#: Is told of each batch of calls when it was answered: seconds, calls, and how many of them failed.
BatchObserver = Callable[[float, int, int], None]


class StoreError(Exception):
    """The store cannot do what it was asked; the text names the store and the cure."""


@dataclass(slots=True)
class StoredWill:
    """A will and how long (seconds) to wait with it after the connection ended."""

    message: Message
    delay: int = 0


@dataclass(slots=True)
class Opened:
    """The answer to `IStore.open`: the session as its new owner finds it.

    `queue` holds the first entries (as `IStore.read` answers them), `last` is the sequence of the newest entry ever
    queued. Entries up to `sent` may have been sent before and go out with DUP.
    `released` are sequences, ascending, whose PUBREC was stored and whose PUBCOMP was not: PUBREL is sent again for
    them.
    `inbound` are packet ids of QoS 2 messages received and not released.
    `wiped` is the generation of the kept session that this open ended, 0 for none.

    In a store that nodes share: `previous` is (node, epoch) of a connection that this open took over, None for none;
    `unannounced` tells that the last owner may have stored subscriptions which the other nodes do not know.
    """

    epoch: int
    generation: int
    present: bool
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    queue: list[Delivery] = field(default_factory=list)
    last: int = 0
    sent: int = 0
    released: list[int] = field(default_factory=list)
    inbound: set[int] = field(default_factory=set)
    wiped: int = 0
    previous: tuple[str, int] | None = None
    unannounced: bool = False


class Closed(Enum):
    """What became of a session when its connection ended."""

    KEPT = "kept"
    ENDED = "ended"
    STALE = "stale"


@dataclass(slots=True)
class Target:
    """One session that a message is to be queued for. `generation` tells two sessions of one client id apart. `share`
    is the shared subscription that it comes through, '' for none."""

    client_id: str
    generation: int
    qos: int
    retain: bool = False
    identifiers: tuple[int, ...] = ()
    share: str = ""


#: In `Published.sequences`: the session is not there any more, or its queue is full and the message was dropped.
GONE, FULL = 0, -1


@dataclass(frozen=True, slots=True)
class Orphan:
    """A message that was queued for a member of the group `share`, whose session has ended. Named by the session and
    the sequence in its queue; `low` is the lowest sequence that the session has left."""

    client_id: str
    generation: int
    sequence: int
    share: str
    message: Message
    low: int = 0


@dataclass(slots=True)
class Chosen:
    """Who of a group has got the message: a sequence as in `Published.sequences`, GONE or FULL if it is nobody.

    In a store that nodes share: `owner` is as in `Published.owners`, `waiting` how many are in his queue now."""

    target: Target
    sequence: int
    owner: tuple[str, int] = ("", 0)
    waiting: int = 0


@dataclass(slots=True)
class Publication:
    """One publish as the store sees it.

    `retain` set: the message becomes its topic's retained message; an empty payload removes what was there.
    `exchange` is (client id, epoch, packet id) of an inbound QoS 2 publish by a session that outlives its connection:
    while that id is not released, the same exchange changes nothing a second time.
    `origin` is (client id, epoch) of the connection that a message to be retained comes from, if it has no exchange. In
    a store that nodes share nothing is changed if that client has a newer connection: by that it may have retained
    something newer, and have said this again.
    `will` is (client id, epoch) of the due will that this message is. It takes effect once, however often it is
    published. In a store that nodes share it stays due until `IStore.will_published`, so that another node goes on with
    it if this one dies; a store with one node may forget it with this stroke.
    `shares` has for each group that is to get the message its members as targets, in the order in which they are to be
    tried: the first that is there and has room gets it. An exchange, a will or an orphan that is published again goes
    to the member that was chosen the first time, as long as its session is there, and to nobody else if that has got
    it.
    `orphan` is what this message was up to now; it is removed with the same stroke.
    `now` (seconds since 1970) is when this is: where the queue of an offline session is full, the first message in it
    that has expired by then, and was not sent, makes room.
    """

    message: Message
    targets: Sequence[Target] = ()
    retain: bool = False
    exchange: tuple[str, int, int] | None = None
    will: tuple[str, int] | None = None
    origin: tuple[str, int] | None = None
    shares: Sequence[Iterable[Target]] = ()
    orphan: Orphan | None = None
    now: float = 0.0


@dataclass(slots=True)
class PublishedRun:
    """The answer to `IStore.publish_run`: per target the sequence of the first message, and for how many from the first
    on there was room (their sequences follow each other); (GONE, 0), or (FULL, 0) if there was none. `owners` as in
    `Published`."""

    queued: Sequence[tuple[int, int]] = ()
    owners: Sequence[tuple[str, int]] = ()


@dataclass(slots=True)
class Published:
    """The answer to a `Publication`: one number per target (a sequence, GONE or FULL).

    `chosen` tells who got it of the groups; groups of which somebody had it already are left out.

    `repeated`: the exchange was known, or the will or orphan was published before; nothing was changed.
    `stale`: the exchange, or the origin, named an old epoch; nothing was changed.

    In a store that nodes share: `owners` has (node, epoch) per target, ('', 0) for one that is offline. A known
    exchange, or a will that is still due, is not `repeated` but done again, and targets that have the message already
    answer GONE; `exchange` is then (publisher, number, lowest number still open), by which receivers without a queue
    tell a repetition.
    `version` is that of the retained message, 0 for none. `again`: it was known, whoever of the groups was chosen
    then.
    """

    sequences: Sequence[int] = ()
    repeated: bool = False
    stale: bool = False
    owners: Sequence[tuple[str, int]] = ()
    exchange: tuple[str, int, int] | None = None
    version: int = 0
    chosen: Sequence[Chosen] = ()
    again: bool = False


@dataclass(slots=True)
class KeptSession:
    """A session that outlives its connection, as a starting node learns of it.

    In a store that nodes share: `epoch` is that of its last owner, `node` that owner while it is connected, '' offline.
    Not `durable`: it has shared subscriptions and ends with its connection."""

    client_id: str
    generation: int
    subscriptions: dict[str, Subscription]
    epoch: int = 0
    node: str = ""
    durable: bool = True


@dataclass(slots=True)
class Recovered:
    """What a starting node finds: kept sessions and retained messages."""

    sessions: list[KeptSession] = field(default_factory=list)
    retained: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class Due:
    """What housekeeping has to do now: wills to publish, as (client id, epoch, message), sessions that have
    expired, and orphans to be published for others of their groups."""

    wills: list[tuple[str, int, Message]] = field(default_factory=list)
    expired: list[tuple[str, int]] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)


@dataclass(slots=True)
class QueueLimits:
    """How much a store keeps for one session. `drop_oldest` applies to sessions that are offline, and never to
    what may have been sent; otherwise the newest message is dropped."""

    messages: int = 1000
    drop_oldest: bool = False


@runtime_checkable
class IObserved(Protocol):
    """A store that works in batches, and lets them be counted."""

    @property
    def backlog(self) -> int:
        """Calls that wait for their answer."""

    def observe(self, observer: BatchObserver) -> None:
        """Tell `observer` of each batch, in the reactor's thread."""


class IStore(Protocol):
    """Sessions, queues, retained messages and wills."""

    def start(self) -> Deferred[None]:
        """Open the store. Fails with `StoreError` and touches nothing if it is damaged, newer, or not writable. Calls
        may be made before this has fired; they fail if it does."""

    def stop(self) -> Deferred[None]:
        """Finish what was asked, then close. Calls after this fail with `StoreError`."""

    def recover(self, now: float) -> Deferred[Recovered]:
        """For a store with one node: end the connections of an earlier life as if they had been lost (their wills
        become due, sessions without expiry end, the others are offline from `now`), and tell what is there."""

    def open(
        self, client_id: str, clean: bool, expiry: int, will: StoredWill | None, now: float, limit: int
    ) -> Deferred[Opened]:
        """Own the session of `client_id`, taking it over if somebody else does (the old will becomes due, unless the
        session goes on and the will has a delay: then it is cancelled). A will that waits for its delay is cancelled by
        resuming and due by wiping. `clean`, a session without expiry, or an expired one: start anew. `expiry` is
        seconds; 0 ends the session with its connection, `NEVER` keeps it. At most `limit` queue entries are
        answered."""

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
        """The connection has ended. `publish_will`: a will becomes due after its delay or when the session ends,
        whichever is first; else it is dropped. `sent` is the highest sequence sent so far; `expiry` replaces that of
        `open`, unless that was 0 [MQTT-3.14.2-2].

        A connection that was taken over has no session to end. Its client may have said goodbye before: without
        `publish_will`, a will that was left for it is dropped as long as nobody has begun to publish it
        [MQTT-3.14.4-3].

        `grace` (seconds) is for a node that leaves and whose client comes back elsewhere: the will is due no earlier
        than that, and whatever becomes of the session, an `open` of this client id cancels it until then."""

    def subscribe(
        self, client_id: str, epoch: int, add: Mapping[str, Subscription], remove: Iterable[str] = ()
    ) -> Deferred[bool]:
        """Change the subscriptions of a session that outlives its connection, or the shared ones of any session;
        `remove` comes before `add`. False: stale, nothing done."""

    def publish(self, publication: Publication) -> Deferred[Published]:
        """Queue, retain and record one message, at one stroke [G1]."""

    def drop_retained(self, topics: Iterable[str], now: float) -> Deferred[dict[str, int]]:
        """Remove what is retained for these topics, as far as it has expired. Answers the topics of which that was so;
        in a store that nodes share with the version of the removal, else with 0."""

    def publish_run(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> Deferred[PublishedRun]:
        """Queue messages of one publisher, in order, for the same targets, at one stroke [G1]. They are plain: not
        retained, without expiry, no targets of groups."""

    def acknowledge(
        self,
        client_id: str,
        epoch: int,
        done: Iterable[int] = (),
        received: Iterable[int] = (),
        completed: Iterable[int] = (),
    ) -> Deferred[bool]:
        """Sequences of deliveries: `done` (PUBACK, or refused) are forgotten; `received` (PUBREC) lose their message
        and keep their number; `completed` (PUBCOMP) lose that, too. False: stale, nothing done. Unknown sequences are
        ignored."""

    def release(self, client_id: str, epoch: int, packet_ids: Iterable[int]) -> Deferred[bool]:
        """PUBREL came for these inbound QoS 2 packet ids; each may be used anew. False: stale, nothing done."""

    def read(self, client_id: str, epoch: int, after: int, limit: int) -> Deferred[list[Delivery]]:
        """The first queue entries with a sequence larger than `after`, in order: at most `limit`, and not beyond
        `READ_BYTES`. None only if there are no more. Stale: none."""

    def will_published(self, client_id: str, epoch: int) -> Deferred[None]:
        """Everybody has this will, or will get it whatever happens to this node: it is not due any more."""

    def due(self, now: float, limit: int) -> Deferred[Due]:
        """Wills whose time has come and orphans (they stay due until published), and sessions whose expiry has passed:
        those are ended by this call, and their waiting wills become due. At most `limit` of each."""
