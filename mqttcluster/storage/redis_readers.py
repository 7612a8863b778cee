"""The threads that read for a backplane: one the routes and this node's link, one its channels.

Both hand over what they have read in batches, and wait until one batch is dealt with before they hand over the next, so
a slow node holds back its readers and not its memory. Positions are kept here, in memory: after a reconnect the routes
go on where they were. The link is read from its beginning, since another Redis process may be behind with the ids it
gives, and what has come already is known by its sender's number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as Lost
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mqttcluster.storage.envelopes import Item, unpack
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.redis_cluster import Connection, server_id
from mqttcluster.storage.redis_wire import Wire, keep
from mqttcluster.storage.worker import FromThread

log = Logger(namespace="mqttcluster.redis")

#: How long a read waits for something new, in seconds; also how long a thread may take to end.
PATIENCE = 0.25
#: The link is trimmed when this time is over (seconds), or when this many entries have been dealt with.
TRIM_AFTER, TRIM_ENTRIES = 0.1, 1000
#: Entries of a stream, and messages of a channel, in one batch.
BATCH = 100
#: A channel that was silent for so long (seconds) is asked whether it is still there, and has as long for its answer.
SILENCE = 2.0


@dataclass(slots=True)
class Delta:
    """An entry of the routes: what `origin` announced, or that `gone` is buried."""

    number: int
    origin: str
    changes: Sequence[Item] = ()
    gone: str = ""


@dataclass(slots=True)
class Parcel:
    """What came from `sender` by one lane. `gap`: something before it was lost."""

    sender: str
    items: Sequence[Item]
    gap: bool = False


@dataclass(slots=True)
class Batch:
    """What was read at one stroke. `term` is that of the routes, see `StreamReader.follow`; `hole`: the routes go on
    with a number that is not the next, so what is between was trimmed. `skipped` counts items that made no sense."""

    term: int = 0
    deltas: list[Delta] = field(default_factory=list)
    parcels: list[Parcel] = field(default_factory=list)
    hole: bool = False
    skipped: int = 0


class Reader(ABC):
    """A thread that reads and hands over."""

    def __init__(
        self, connect: Callable[[], Connection], reactor: FromThread, deliver: Callable[[Batch], None]
    ) -> None:
        self._connect = connect
        self._reactor = reactor
        self._deliver = deliver
        self._stopping = Event()
        self._handled = Event()
        self._handled.set()
        self._another = Event()

    def start(self) -> Deferred[None]:
        """Begin. The Deferred fires when the thread has ended."""
        ended: Deferred[None] = Deferred()
        Thread(target=self._run, args=(ended,), name=type(self).__name__, daemon=True).start()
        return ended

    def stop(self) -> None:
        """Hand over nothing more, and end soon."""
        self._stopping.set()

    def reconnect(self) -> None:
        """Another Redis process is in charge now: read no more from one that may still be there and hear nothing."""
        self._another.set()

    def _look_for_another(self) -> None:
        if self._another.is_set():
            self._another.clear()
            raise Lost("another Redis process is in charge")

    def _run(self, ended: Deferred[None]) -> None:
        keep(self._connect, self._stopping, self._serve, self._lost)
        self._reactor.callFromThread(ended.callback, None)

    @abstractmethod
    def _serve(self, wire: Wire) -> None:
        """Read until the thread is to end. Raises what the connection fails with."""

    def _lost(self, problem: Exception) -> None:  # noqa: B027
        """The connection is lost, or could not be made: nothing to do for one who goes on where he was."""

    def _hand_over(self, batch: Batch) -> bool:
        """Wait for the last batch, then hand over this one. False: the thread is to end."""
        while not self._handled.wait(PATIENCE):
            if self._stopping.is_set():
                return False
        if self._stopping.is_set():
            return False
        self._handled.clear()
        self._reactor.callFromThread(self._take, batch)
        return True

    def _take(self, batch: Batch) -> None:
        try:
            if not self._stopping.is_set():
                self._deliver(batch)
        except Exception:
            log.failure("what other nodes said could not be dealt with")
        finally:
            self._handled.set()


class StreamReader(Reader):
    """Reads the routes, once told from where, and the link."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        reactor: FromThread,
        deliver: Callable[[Batch], None],
        routes: str,
        link: str,
    ) -> None:
        super().__init__(connect, reactor, deliver)
        self._routes = routes
        self._link = link
        self._lock = Lock()
        self._told = 0
        self._term = 0
        self._position: int | None = None
        self._link_id = b"0-0"
        self._numbers: dict[str, int] = {}
        self._handed = b"0-0"
        self._trimmed_at = 0.0
        self._untrimmed = 0

    def follow(self, term: int, position: int | None) -> None:
        """Read the routes after `position`, or None: do not read them. What was read under an older term comes no more,
        or with that term."""
        with self._lock:
            self._told += 1
            self._term = term
            self._position = position

    def _serve(self, wire: Wire) -> None:
        self._link_id, self._untrimmed = b"0-0", 0
        while not self._stopping.is_set():
            self._look_for_another()
            self._trim(wire)
            with self._lock:
                told, term, position = self._told, self._term, self._position
            keys, ids = [self._link], [self._link_id]
            if position is not None:
                keys.append(self._routes)
                ids.append(b"%d-0" % position)
            block = int(1000 * (TRIM_AFTER if self._untrimmed else PATIENCE))
            answer = wire.execute_command("XREAD", "COUNT", BATCH, "BLOCK", block, "STREAMS", *keys, *ids)
            if answer:
                self._read(told, term, position, {key.decode(): entries for key, entries in answer})

    def _read(self, told: int, term: int, position: int | None, streams: dict[str, list[Any]]) -> None:
        batch = Batch(term)
        link_id = self._link_id
        numbers: dict[str, int] = {}
        for entry_id, fields in streams.get(self._link, ()):
            link_id = entry_id
            self._read_link(batch, _fields(fields), numbers)
        for entry_id, fields in streams.get(self._routes, ()):
            number = int(entry_id.partition(b"-")[0])
            if position is None or number != position + 1:
                batch.hole, position = True, None
                break
            position = number
            self._read_route(batch, number, _fields(fields))
        if not self._hand_over(batch):
            return
        self._link_id = self._handed = link_id
        self._numbers.update(numbers)
        self._untrimmed += len(streams.get(self._link, ()))
        with self._lock:
            if self._told == told:
                self._position = position

    def _read_link(self, batch: Batch, fields: dict[bytes, bytes], numbers: dict[str, int]) -> None:
        try:
            sender, items, skipped = unpack(fields[b"b"])
            number = int(fields[b"n"])
        except (KeyError, ValueError, StoreError) as problem:
            batch.skipped += 1
            log.error("an entry of the link {link} makes no sense: {problem}", link=self._link, problem=problem)
            return
        batch.skipped += skipped
        last = numbers.get(sender, self._numbers.get(sender, 0))
        if number > last:
            numbers[sender] = number
            batch.parcels.append(Parcel(sender, items, number > last + 1))

    def _read_route(self, batch: Batch, number: int, fields: dict[bytes, bytes]) -> None:
        origin, gone = fields.get(b"o", b"").decode(), fields.get(b"g", b"").decode()
        changes: list[Item] = []
        if b"b" in fields:
            try:
                _, changes, skipped = unpack(fields[b"b"])
                batch.skipped += skipped
            except StoreError as problem:
                batch.skipped += 1
                log.error("route {number} makes no sense: {problem}", number=number, problem=problem)
        batch.deltas.append(Delta(number, origin, changes, gone))

    def _trim(self, wire: Wire) -> None:
        """Drop from the link what this node has dealt with. Nobody else does."""
        if not self._untrimmed or not self._handled.is_set():
            return
        now = monotonic()
        if self._untrimmed >= TRIM_ENTRIES or now - self._trimmed_at >= TRIM_AFTER:
            time, _, sequence = self._handed.partition(b"-")
            wire.execute_command("XTRIM", self._link, "MINID", b"%b-%d" % (time, int(sequence) + 1))
            self._untrimmed, self._trimmed_at = 0, now


class ChannelReader(Reader):
    """Reads the channels. `listening` is called with the id of the Redis process when it is subscribed there, with ""
    when what was said is lost."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        reactor: FromThread,
        deliver: Callable[[Batch], None],
        channels: Sequence[str],
        listening: Callable[[str], None],
    ) -> None:
        super().__init__(connect, reactor, deliver)
        self._channels = channels
        self._listening = listening
        self._subscribed = False

    def _serve(self, wire: Wire) -> None:
        self._another.clear()  # whether this is the right one is seen by its id
        server = server_id(wire)
        wire.send("SUBSCRIBE", *self._channels)
        for _ in self._channels:
            wire.read()
        self._subscribed = True
        self._reactor.callFromThread(self._tell, server)
        heard, asked = monotonic(), 0.0
        while not self._stopping.is_set():
            self._look_for_another()
            if not wire.wait(PATIENCE):
                now = monotonic()
                if not asked and now - heard > SILENCE:
                    wire.send("PING")
                    asked = now
                # This process may have stood still, or dealt with the last batch: what counts is the answer.
                elif asked and now - asked > SILENCE and not wire.wait(0):
                    raise Lost("a channel does not answer")
                continue
            heard, asked = monotonic(), 0.0
            batch = Batch()
            while True:
                self._read(batch, wire.read())
                if len(batch.parcels) >= BATCH or not wire.wait(0):
                    break
            if batch.parcels or batch.skipped:
                self._hand_over(batch)

    def _read(self, batch: Batch, answer: Any) -> None:
        if answer[0] != b"message":
            return
        try:
            sender, items, skipped = unpack(answer[2])
        except StoreError as problem:
            batch.skipped += 1
            log.error("a message of a channel makes no sense: {problem}", problem=problem)
            return
        batch.skipped += skipped
        batch.parcels.append(Parcel(sender, items))

    def _lost(self, problem: Exception) -> None:
        if self._subscribed:
            self._subscribed = False
            self._reactor.callFromThread(self._tell, "")

    def _tell(self, server: str) -> None:
        if not self._stopping.is_set():
            self._listening(server)


def _fields(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=False))
