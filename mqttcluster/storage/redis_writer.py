"""The thread that writes for a backplane: whatever has queued up becomes one pipeline, in order.

Redis away is a pause: calls stay queued and are made again in order when it is back, so each of them must bear being
made twice. Calls that must not be (`repeat` is False) are dropped and counted instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.outage import Outage
from mqttcluster.storage.redis_cluster import Connection, found, server_id
from mqttcluster.storage.redis_scripts import script
from mqttcluster.storage.redis_wire import TROUBLE, Attempts, Command, Wire
from mqttcluster.storage.worker import FromThread

log = Logger(namespace="mqttcluster.redis")

SCRIPTS = ("beat", "announce", "bury", "link")


def run_script(name: str, keys: Sequence[str], *values: bytes | str | int) -> Command:
    """The command that runs a script of this package."""
    return ("EVALSHA", script(name).sha, len(keys), *keys, *values)


@dataclass(slots=True)
class Call:
    """`answered` is called in the reactor's thread, with an answer per command and the time they were sent. `over` is
    called there when the call was answered, or dropped."""

    commands: Sequence[Command]
    answered: Callable[[Sequence[Any], float], None] | None = None
    repeat: bool = True
    over: Callable[[], None] | None = None


@dataclass(slots=True)
class Meeting:
    """What a new connection has found: the id of the Redis process, and the run of the cluster."""

    server: str
    run: str


class Writer:
    """To be used from the reactor's thread. `boottime` tells seconds, and goes on while the machine sleeps.

    `met` is called for every new connection, before the answers that come over it; `refused` when a Redis was reached
    that cannot be used; `dropped` with the number of calls that were not repeated."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        prefix: str,
        partitions: tuple[int, int],
        reactor: FromThread,
        boottime: Callable[[], float],
    ) -> None:
        self._connect = connect
        self._prefix = prefix
        self._partitions = partitions
        self._reactor = reactor
        self._boottime = boottime
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._stopping = Event()
        self._renew = Event()
        self.met: Callable[[Meeting], None] = lambda meeting: None
        self.refused: Callable[[StoreError], None] = lambda problem: None
        self.dropped: Callable[[int], None] = lambda number: None

    def start(self) -> Deferred[None]:
        """Connect. The Deferred fires when the thread has ended."""
        ended: Deferred[None] = Deferred()
        self.submit(Call(()))
        Thread(target=self._run, args=(ended,), name="mqttcluster-writer", daemon=True).start()
        return ended

    def submit(self, call: Call) -> None:
        self._queue.put(call)

    def renew(self) -> None:
        """Connect anew before the next call, and look what is there."""
        self._renew.set()
        self.submit(Call(()))

    def stop(self) -> None:
        """Make the calls that were submitted, once, then end."""
        self._queue.put(None)

    # In the thread

    def _run(self, ended: Deferred[None]) -> None:
        attempts = Attempts(self._stopping)
        calls: list[Call] = []
        wire: Wire | None = None
        outage = Outage()
        while calls or not self._stopping.is_set():
            self._collect(calls)
            try:
                if wire is None or self._renew.is_set():
                    self._renew.clear()
                    if wire is not None:
                        wire.close()
                    wire = None
                    wire = self._meet()
                calls = self._make(wire, calls)
                attempts.worked()
                if outage.over():
                    log.info("Redis is back")
            except TROUBLE as problem:
                if outage.is_news(problem):
                    log.error("Redis is away, waiting for it: {problem}", problem=problem)
                if isinstance(problem, StoreError):
                    self._reactor.callFromThread(self.refused, problem)
                if wire is not None:
                    wire.close()
                wire = None
                calls = self._keep(calls)
                if self._stopping.is_set():
                    break
                attempts.failed()
        if wire is not None:
            wire.close()
        self._reactor.callFromThread(ended.callback, None)

    def _collect(self, calls: list[Call]) -> None:
        """Add what has queued up; wait for something if there is nothing at all."""
        block = not calls
        while True:
            try:
                call = self._queue.get(block)
            except Empty:
                return
            block = False
            if call is None:
                self._stopping.set()
                return
            calls.append(call)

    def _meet(self) -> Wire:
        wire = Wire(self._connect())
        try:
            server = server_id(wire)
            for name in SCRIPTS:
                wire.execute_command("SCRIPT", "LOAD", script(name).text)
            config = found(wire, self._prefix, *self._partitions)
        except BaseException:
            wire.close()
            raise
        self._reactor.callFromThread(self.met, Meeting(server, config.run))
        return wire

    def _make(self, wire: Wire, calls: list[Call]) -> list[Call]:
        """Make the calls. Raises what one of them met, and leaves the others to be answered."""
        if not calls:
            return calls
        sent = self._boottime()
        answers = wire.pipeline([command for call in calls for command in call.commands])
        done: list[tuple[Call, Sequence[Any]]] = []
        again: list[Call] = []
        trouble: Exception | None = None
        at = 0
        for call in calls:
            part = answers[at : at + len(call.commands)]
            at += len(call.commands)
            problem = next((answer for answer in part if isinstance(answer, Exception)), None)
            if problem is None:
                done.append((call, part))
            else:
                again.append(call)
                trouble = trouble or problem
        self._reactor.callFromThread(self._answer, done, sent)
        calls[:] = again
        if trouble is not None:
            raise trouble
        return calls

    def _keep(self, calls: list[Call]) -> list[Call]:
        kept = [call for call in calls if call.repeat]
        if len(kept) < len(calls):
            self._reactor.callFromThread(self._forget, [call for call in calls if not call.repeat])
        return kept

    # In the reactor's thread, asked for by the thread

    def _answer(self, done: Sequence[tuple[Call, Sequence[Any]]], sent: float) -> None:
        for call, answers in done:
            if call.answered is not None:
                try:
                    call.answered(answers, sent)
                except Exception:
                    log.failure("an answer of Redis could not be used")
            if call.over is not None:
                call.over()

    def _forget(self, calls: Sequence[Call]) -> None:
        self.dropped(len(calls))
        for call in calls:
            if call.over is not None:
                call.over()
