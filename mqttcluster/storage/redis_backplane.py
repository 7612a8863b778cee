"""The backplane of nodes that share a Redis: membership and lease, tied to the routes and the lanes.

Three threads do the reading and writing (`redis_writer`, `redis_readers`); everything is decided here, in the reactor's
thread::

    first connection ─► JOIN: a sign of life, remember the last route ─► listen to the channels ─► load the store's
    state, and what the other nodes want ─► follow the routes from there on ─► signs of life, until Redis says: live
    live ─► lease run out ─► fenced, until a sign of life is answered with live again
    routes trimmed before they were read, another Redis process ─► JOIN again, connections stay
    Redis emptied ─► found the cluster anew ─► JOIN again, and wait for a lease: somebody may still act on what was
    buried by the others ─► all connections closed ─► JOIN under a new name

Whatever happens on the way counts for one *term*; answers and routes of an older term are ignored.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.storage.envelopes import Applied
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.redis_burials import Burials
from mqttcluster.storage.redis_cluster import connections
from mqttcluster.storage.redis_lanes import BOUND, Casts, Links
from mqttcluster.storage.redis_lease import Lease, boottime
from mqttcluster.storage.redis_members import Heartbeat, NodeKeys, Timing, heartbeat
from mqttcluster.storage.redis_news import News
from mqttcluster.storage.redis_readers import Batch, ChannelReader, StreamReader
from mqttcluster.storage.redis_routes import Announcements
from mqttcluster.storage.redis_writer import Call, Meeting, Writer
from mqttcluster.storage.shared import BackplaneEvents, Envelope, IBackplane, NodeInterest, RouteChange
from mqttcluster.storage.worker import FromThread

log = Logger(namespace="mqttcluster.redis")

#: Seconds without an answer after which a connection to Redis is given up.
TIMEOUT = 5.0
#: How often `stop` looks whether everything has been handed over, in seconds.
STOP_INTERVAL = 0.02


class RedisBackplane(IBackplane):
    """`name` is the node's name, the same at each start; its id is new at each. `clock` is the reactor if not given.

    The partitions are those of the store. Raises `StoreError` for a URL that says nothing."""

    def __init__(
        self,
        url: str,
        reactor: FromThread,
        name: str,
        clock: IReactorTime | None = None,
        prefix: str = "mc:",
        timing: Timing = Timing(),  # noqa: B008
        *,
        partitions: int = 16,
        retained_partitions: int = 16,
        bound: int = BOUND,
        boottime: Callable[[], float] = boottime,
    ) -> None:
        self._reactor = reactor
        self._clock = clock or cast(IReactorTime, reactor)
        self._name = name
        self._keys = NodeKeys(prefix)
        self._timing = timing
        self._bound = bound
        self._boottime = boottime
        self._connect = connections(url, TIMEOUT)
        self._writer = Writer(self._connect, prefix, (partitions, retained_partitions), reactor, boottime)
        self._writer.met = self._met
        self._writer.refused = self._refused
        self._writer.dropped = self._dropped
        self._news = News(self._has_applied)
        self._announcements = Announcements(self._keys, self._writer.submit, self._lost, self._news.meet)
        self._burials = Burials(self._keys, timing, self._writer.submit, self._clock, self._news.reap)
        self._started: Deferred[None] | None = None
        self._ended: list[Deferred[None]] = []
        self._stopping = False
        self._timer: IDelayedCall | None = None
        self._flush_asked = False
        self._run = self._server = ""
        self._term = 0
        self._first = True
        self._evicting = False
        #: The id of the Redis process whose channels are heard, "" while none are; and who waits for that to be the
        #: one that is written to.
        self._heard = ""
        self._when_heard: list[Callable[[], None]] = []
        self._lease = Lease(boottime, self._fenced)
        self._beating = False
        self.counts = self._news.counts
        self._observer: Callable[[float, int], None] | None = None
        self._be_somebody()

    def _be_somebody(self) -> None:
        """Take a new id, and what goes with it."""
        self._node = f"{self._name}-{secrets.token_hex(4)}"
        self._news.node = self._node
        self._casts = Casts(self._node, self._keys, self._writer.submit, self._dropped)
        self._links = Links(self._node, self._keys, self._writer.submit, self._clock, self._beat, self._bound)
        self._links.observer = self._observer
        keys = self._keys
        self._streams = StreamReader(
            self._connect, self._reactor, self._read, keys.routes, keys.link(self._node)
        )
        self._channels = ChannelReader(
            self._connect, self._reactor, self._hear, (keys.channel(self._node), keys.everybody), self._listening
        )
        self._joined = self._loaded = False
        self._heard = ""
        self._applied = self._head = 0

    # -- IBackplane

    @property
    def node(self) -> str:
        return self._node

    def start(self, events: BackplaneEvents) -> Deferred[None]:
        self._news.events = events
        self._started = Deferred()
        self._ended.append(self._writer.start())
        return self._started

    def stop(self) -> Deferred[None]:
        if self._started is None or self._stopping:
            return succeed(None)
        self._stopping = True
        self._go_on()
        stopped: Deferred[None] = Deferred()
        self._leave_when_idle(stopped, self._boottime() + self._timing.lease)
        return stopped

    def valid(self) -> bool:
        return self._lease.valid()

    def announce(self, changes: Sequence[RouteChange]) -> Deferred[None]:
        done = self._announcements.add(changes)
        self._flush_soon()
        return done.addCallback(self._can_hear)

    def members(self) -> Sequence[str]:
        return list(self._news.members)

    def cast(self, node: str, envelope: Envelope) -> None:
        self._casts.add(node, envelope)
        self._flush_soon()

    def cast_all(self, envelope: Envelope) -> None:
        self._casts.add(None, envelope)
        self._flush_soon()

    def link(self, node: str, envelope: Envelope) -> Deferred[bool]:
        if self._stopping:
            return succeed(False)
        accepted = self._links.add(node, envelope)
        self._flush_soon()
        return accepted

    def congested(self) -> bool:
        return self._links.congested()

    @property
    def backlog(self) -> int:
        """Bytes that wait for the links to take them."""
        return self._links.backlog

    def observe(self, observer: Callable[[float, int], None]) -> None:
        """Tell `observer` of each parcel that a link has taken: seconds, and envelopes in it."""
        self._observer = self._links.observer = observer

    def _flush_soon(self) -> None:
        """Whatever is said in this turn leaves together."""
        if not self._flush_asked:
            self._flush_asked = True
            self._reactor.callFromThread(self._flush)

    def _flush(self) -> None:
        self._flush_asked = False
        if not self._evicting:
            self._announcements.flush()
            self._casts.flush()
            self._links.flush()

    # -- joining

    def _met(self, meeting: Meeting) -> None:
        """There is a new connection, perhaps to another Redis process, or to other data."""
        run, server = self._run, self._server
        self._run, self._server = meeting.run, meeting.server
        if self._stopping or self._evicting:
            return
        if server and meeting.server != server:
            self._streams.reconnect()
        if self._heard == meeting.server:
            self._go_on()
        elif self._heard:
            self._channels.reconnect()
        if not run:
            self._read_for_myself()
            self._join()
        elif meeting.run != run:
            self._join_again(self._timing.lease)
        elif meeting.server != server or not self._announcements.is_open:
            self._join_again()

    def _refused(self, problem: StoreError) -> None:
        """A Redis was reached, and is of no use. Fatal at the start; later it may get better."""
        if self._started is not None and not self._started.called and not self._run and not self._stopping:
            self._stopping = True
            self._leave(Deferred())
            self._started.errback(problem)

    def _read_for_myself(self) -> None:
        self._ended += [self._streams.start(), self._channels.start()]

    def _join_again(self, wait: float = 0.0) -> None:
        """This Redis may have forgotten what was said last, so say it again. `wait` is how long somebody may act on
        what nobody knows any more."""
        self._announcements.close()
        self._join(wait, True)

    def _join(self, wait: float = 0.0, repeat: bool = False) -> None:
        self._lease.lapse()
        self._term += 1
        self._loaded, self._applied = False, 0
        self._streams.follow(self._term, None)
        term, node = self._term, self._node

        def answered(answers: Sequence[Any], sent: float) -> None:
            if term == self._term:
                beat = heartbeat(answers[2])
                if isinstance(beat, str):
                    self._lost(beat)
                    return
                if repeat:
                    self._announcements.repeat_interest(name.decode() for name in answers[1])
                self._entered(beat, wait)

        beat = self._keys.beat(self._run, node, self._timing, True, False, 0)
        commands = [("SET", self._keys.alive(node), self._run), ("HKEYS", self._keys.want(node)), beat]
        self._writer.submit(Call(commands, answered))

    def _entered(self, beat: Heartbeat, wait: float) -> None:
        """The others know this node, and the position in the routes is fixed."""
        self._joined = True
        self._news.meet(beat.members)
        self._burials.open(self._node, self._run)
        if self._first:
            self._first = False
            names = [*beat.members, *beat.graves]
            self._burials.bury(
                node for node in names if node != self._node and node.rpartition("-")[0] == self._name
            )
        self._tick()
        self._clock.callLater(wait, self._begin, self._term, beat.head)

    def _begin(self, term: int, position: int) -> None:
        """Whoever may act by routes is a member that announcements wait for."""
        if term == self._term:
            self._announcements.open(self._node, self._run)
            self._announcements.flush()
            self._load(term, position)

    def _load(self, term: int, position: int) -> None:
        if term != self._term or self._stopping:
            return
        if self._heard != self._server:
            self._when_heard.append(partial(self._load, term, position))
            return
        self._news.load().addCallbacks(
            self._ask_wants, self._not_loaded, callbackArgs=(term, position), errbackArgs=(term, position)
        )

    def _not_loaded(self, failure: Failure, term: int, position: int) -> None:
        log.error("the state could not be loaded, it will be tried again: {error}", error=failure.value)
        self._clock.callLater(self._timing.beat, self._load, term, position)

    def _ask_wants(self, _: None, term: int, position: int) -> None:
        """Now what the others want: it was written before it was announced, so nothing is missing from here on."""
        if term != self._term or self._stopping:
            return
        nodes = self.members()

        def answered(answers: Sequence[Any], sent: float) -> None:
            if term == self._term and not self._stopping:
                for node, flat in zip(nodes, answers, strict=True):
                    pairs = zip(flat[::2], flat[1::2], strict=True)
                    self._news.routes(node, [NodeInterest(name.decode(), int(bits)) for name, bits in pairs])
                self._follow(position)

        self._writer.submit(Call([("HGETALL", self._keys.want(node)) for node in nodes], answered))

    def _follow(self, position: int) -> None:
        self._loaded, self._applied = True, position
        self._streams.follow(self._term, position)
        self._burials.ready()
        self._beat()

    # -- the lease

    def _tick(self) -> None:
        """Give a sign of life, and see whether the last one still counts."""
        self._lease.look()
        self._beat()
        self._tick_in(self._timing.beat)

    def _tick_in(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._lease.held:
            seconds = min(seconds, self._lease.remaining())
        self._timer = self._clock.callLater(seconds, self._tick)

    def _beat(self) -> None:
        if self._beating or not self._joined or self._evicting:
            return
        self._beating = True
        term, applied, doubtful = self._term, self._applied, self._links.doubtful()

        def answered(answers: Sequence[Any], sent: float) -> None:
            self._beating = False
            if term == self._term and self._joined:
                beat = heartbeat(answers[0])
                if isinstance(beat, str):
                    self._lost(beat)
                elif self._loaded and beat.head < applied:
                    self._join_again()
                else:
                    self._beaten(beat, sent, doubtful)

        command = self._keys.beat(self._run, self._node, self._timing, False, self._loaded, applied)
        self._writer.submit(Call([command], answered))

    def _beaten(self, beat: Heartbeat, sent: float, doubtful: Sequence[str]) -> None:
        self._news.meet(beat.members)
        self._head = beat.head
        if not beat.live:
            self._lease.lapse()
            self._beat_if_caught_up()
        elif not beat.behind:
            self._lease.renew(sent + self._timing.lease)
        if self._lease.held:
            if self._started is not None and not self._started.called:
                self._started.callback(None)
            self._links.settle(doubtful, beat.members)
            if self._lease.steady() >= self._timing.dead_after:
                self._burials.look(beat)
        self._announcements.check(beat.now, beat.members)
        awaited = [beat.members[node].until for node in self._announcements.awaited() if node in beat.members]
        if awaited:
            self._tick_in(min(self._timing.beat, max(0, min(awaited) - beat.now) / 1000 + 0.005))

    def _fenced(self, fenced: bool) -> None:
        if not self._stopping:
            self._news.fenced(fenced)

    def _beat_if_caught_up(self) -> None:
        """A node that has lapsed, or joins, is live as soon as it has applied what there is."""
        if not self._lease.held and self._loaded and self._applied >= self._head:
            self._beat()

    # -- lost

    def _lost(self, reason: str) -> None:
        """Redis does not know this cluster (LOST), or this node (DEAD), any more."""
        self._lease.lapse()
        self._announcements.close()
        if reason == "DEAD":
            self._evict()
        else:
            log.error("Redis has been emptied; founding the cluster anew")
            self._term += 1
            self._joined = self._loaded = False
            self._writer.renew()

    def _evict(self) -> None:
        if self._evicting or self._stopping:
            return
        log.error("the others have buried this node, {node}", node=self._node)
        self._evicting = True
        self._joined = self._loaded = False
        self._term += 1
        self._streams.stop()
        self._channels.stop()
        self._writer.submit(Call([("DEL", *self._own_keys())]))
        self._news.evicted().addCallback(self._return)

    def _return(self, _: None) -> None:
        """Nothing of the old life is left; begin a new one."""
        self._links.all_gone()
        self._announcements.forget_interest()
        self._evicting = False
        if not self._stopping:
            self._be_somebody()
            self._read_for_myself()
            self._join()

    def _own_keys(self) -> tuple[str, ...]:
        return self._keys.alive(self._node), self._keys.link(self._node), self._keys.want(self._node)

    # -- leaving

    def _leave_when_idle(self, stopped: Deferred[None], deadline: float) -> None:
        busy = self._joined and not (self._links.idle() and self._announcements.idle())
        if busy and self._boottime() < deadline:
            self._clock.callLater(STOP_INTERVAL, self._leave_when_idle, stopped, deadline)
        else:
            self._leave(stopped)

    def _leave(self, stopped: Deferred[None]) -> None:
        """Bury oneself. The grave has a claimer who is not there, so one of the others looks what was left behind."""
        self._lease.lapse()
        self._term += 1
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._joined:
            command = self._keys.bury(self._run, self._node, self._timing, self._node, True, False)
            self._writer.submit(Call([command, ("DEL", *self._own_keys())]))
        self._joined = False
        self._links.all_gone()
        for thread in (self._streams, self._channels, self._writer):
            thread.stop()
        DeferredList(self._ended).addCallback(lambda _: stopped.callback(None))

    # -- what is read

    def _read(self, batch: Batch) -> None:
        """From the link and the routes."""
        self._hear(batch)
        if batch.term != self._term or not self._loaded:
            return
        origins = set()
        for delta in batch.deltas:
            self._applied = delta.number
            origins.add(delta.origin)
            if delta.gone == self._node:
                self._beat()
            elif delta.gone:
                self._links.gone(delta.gone)
                self._announcements.buried(delta.gone)
                self._news.gone(delta.gone)
            self._news.routes(delta.origin, delta.changes)
        for origin in origins - {self._node}:
            self._casts.add(origin, Applied(self._applied))
            self._flush_soon()
        if batch.hole:
            log.error("routes were trimmed before they were read; loading the state again")
            self._join()
        else:
            self._beat_if_caught_up()

    def _hear(self, batch: Batch) -> None:
        """From a lane."""
        self.counts.skipped += batch.skipped
        if not self._evicting:
            self._news.parcels(batch.parcels)

    def _has_applied(self, node: str, number: int) -> None:
        """Another node acts on the routes up to `number`."""
        self._announcements.applied(node, number)

    def _listening(self, server: str) -> None:
        """The channels of this Redis process are heard from now on, or of none."""
        self._heard = server
        if not server:
            self.counts.channel_gaps += 1
        elif server != self._server:
            self._writer.renew()
        else:
            self._go_on()

    def _go_on(self) -> None:
        waiting, self._when_heard = self._when_heard, []
        for call in waiting:
            call()

    def _can_hear(self, _: None) -> Deferred[None] | None:
        """What others do because of an announcement must be heard here [G5]."""
        if self._heard == self._server or self._stopping:
            return None
        heard: Deferred[None] = Deferred()
        self._when_heard.append(partial(heard.callback, None))
        return heard

    def _dropped(self, number: int) -> None:
        self.counts.casts_dropped += number
