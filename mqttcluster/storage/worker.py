"""A thread that owns a connection to a database, and turns whatever has queued up into one transaction.

While one batch is being committed the next one collects, so load makes batches larger, not transactions more::

    reactor:  submit ─► [ call, call, call ] ◄─ one batch ─ thread:  begin  call call call  prepare  commit
    reactor:  Deferreds fire, in the order of submission  ◄─ one callFromThread ─┘

A call that raises takes nothing with it: the transaction is rolled back and each call of the batch gets one of its own.
A commit that fails fails its whole batch; whoever asked cannot know and must not acknowledge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from mqttcluster.storage.interfaces import BatchObserver, StoreError

P = ParamSpec("P")
T = TypeVar("T")


class FromThread(Protocol):
    """The part of a reactor that a thread may use."""

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        """Run it in the reactor's thread, after what was asked before."""


class Backend(Protocol):
    """What the thread works on. All methods run in the thread; any of them may raise.

    `prepare` writes what the calls have left in memory; it is the last step that may be undone for one call's sake.
    After `rollback` everything is as it was at `begin`, also in memory.
    """

    def connect(self) -> None: ...
    def begin(self) -> None: ...
    def prepare(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class _Call:
    """`function` is None for the last one, which stops the thread."""

    function: Callable[[], Any] | None = None
    answer: Deferred[Any] = field(default_factory=Deferred)


class BatchWorker:
    """Runs calls on a `Backend`, many at one stroke. To be used from the reactor's thread.

    `name` begins the text of every `StoreError`; `most` bounds the calls of one batch.
    """

    def __init__(self, name: str, backend: Backend, reactor: FromThread, most: int = 1000) -> None:
        self._name = name
        self._backend = backend
        self._reactor = reactor
        self._most = most
        self._calls: SimpleQueue[_Call] | None = None
        self._stopped: Deferred[None] | None = None
        self._backlog = 0
        #: Told of each batch, in the reactor's thread.
        self.observer: BatchObserver | None = None

    @property
    def backlog(self) -> int:
        """How many calls wait for their answer. Whoever feeds the worker pauses while this is too high."""
        return self._backlog

    def start(self) -> Deferred[None]:
        """Connect. Calls may be submitted at once; they fail if this fails, with the same `StoreError`."""
        if self._calls is not None:
            return fail(StoreError(f"{self._name}: is started already"))
        self._calls = SimpleQueue()
        self._stopped = None
        started: Deferred[None] = Deferred()
        Thread(target=self._run, args=(self._calls, started), name=self._name, daemon=True).start()
        return started

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run the function in the thread. The Deferred fires when its effect is committed, or fails with `StoreError`.

        The function may run a second time, after a rollback, so all that it changes must be the backend's."""
        if self._calls is None:
            return fail(StoreError(f"{self._name}: is not started"))
        call = _Call(partial(function, *args, **kwargs))
        self._backlog += 1
        self._calls.put(call)
        return call.answer

    def stop(self) -> Deferred[None]:
        """Finish what was submitted, then disconnect."""
        if self._calls is not None:
            call = _Call()
            self._stopped = call.answer
            self._calls.put(call)
            self._calls = None
        if self._stopped is None:
            return succeed(None)
        again: Deferred[None] = Deferred()
        self._stopped.chainDeferred(again)
        return again

    # In the reactor's thread, asked for by the worker's

    def _refused(self, calls: SimpleQueue[_Call], started: Deferred[None], problem: StoreError) -> None:
        """`connect` has failed, and the thread has ended."""
        if self._calls is calls:
            self._calls = None
        started.errback(problem)
        while not calls.empty():
            call = calls.get()
            if call.function is None:
                call.answer.callback(None)
            else:
                self._backlog -= 1
                call.answer.errback(problem)

    def _answer(self, batch: Sequence[_Call], outcomes: Sequence[Any], seconds: float) -> None:
        if self.observer is not None:
            self.observer(seconds, len(batch), sum(isinstance(outcome, StoreError) for outcome in outcomes))
        for call, outcome in zip(batch, outcomes, strict=True):
            self._backlog -= 1
            if isinstance(outcome, StoreError):
                call.answer.errback(outcome)
            else:
                call.answer.callback(outcome)

    # In the worker's thread

    def _run(self, calls: SimpleQueue[_Call], started: Deferred[None]) -> None:
        try:
            self._backend.connect()
        except Exception as problem:
            self._reactor.callFromThread(self._refused, calls, started, self._failure(problem))
            return
        self._reactor.callFromThread(started.callback, None)
        last: _Call | None = None
        while last is None:
            batch, last = self._collect(calls)
            if batch:
                begin = perf_counter()
                outcomes = self._together(batch)
                self._reactor.callFromThread(self._answer, batch, outcomes, perf_counter() - begin)
        try:
            self._backend.close()
        except Exception as problem:
            self._reactor.callFromThread(last.answer.errback, self._failure(problem))
        else:
            self._reactor.callFromThread(last.answer.callback, None)

    def _collect(self, calls: SimpleQueue[_Call]) -> tuple[list[_Call], _Call | None]:
        """Wait for a call, then take what else is there. The second value is the call that stops the thread."""
        batch: list[_Call] = []
        call = calls.get()
        try:
            while call.function is not None:
                batch.append(call)
                if len(batch) == self._most:
                    return batch, None
                call = calls.get_nowait()
        except Empty:
            return batch, None
        return batch, call

    def _together(self, batch: Sequence[_Call]) -> list[Any]:
        """Run the calls in one transaction. Returns a result or a `StoreError` for each."""
        try:
            self._backend.begin()
            outcomes = [call.function() for call in batch if call.function is not None]
            self._backend.prepare()
        except Exception as problem:
            self._rollback()
            if len(batch) == 1:
                return [self._failure(problem)]
            return [outcome for call in batch for outcome in self._together((call,))]
        try:
            self._backend.commit()
        except Exception as problem:
            self._rollback()
            return [self._failure(problem) for _ in batch]
        return outcomes

    def _rollback(self) -> None:
        try:
            self._backend.rollback()
        except Exception:
            return  # the calls have failed already, for a reason that says more

    def _failure(self, problem: Exception) -> StoreError:
        if isinstance(problem, StoreError) and str(problem).startswith(self._name):
            return problem
        text = str(problem) if isinstance(problem, StoreError) else f"failed ({type(problem).__name__}: {problem})"
        error = StoreError(f"{self._name}: {text}")
        error.__cause__ = problem
        return error
