"""The batch worker, with a backend that keeps a diary."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.worker import BatchWorker
from tests.storage.driver import PATIENCE, QueueReactor, outcome


class Diary:
    """A backend that writes down what happens to it, and fails where it is told to."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.failing: set[str] = set()
        self.threads: set[int] = set()

    def note(self, what: str) -> str:
        self.threads.add(threading.get_ident())
        self.entries.append(what)
        if what in self.failing:
            raise OSError(f"{what} is broken")
        return what

    def connect(self) -> None:
        self.note("connect")

    def begin(self) -> None:
        self.note("begin")

    def prepare(self) -> None:
        self.note("prepare")

    def commit(self) -> None:
        self.note("commit")

    def rollback(self) -> None:
        self.note("rollback")

    def close(self) -> None:
        self.note("close")


class Bench:
    """A started worker whose thread can be held up, so that calls queue up behind."""

    def __init__(self, most: int = 1000) -> None:
        self.diary = Diary()
        self.reactor = QueueReactor()
        self.worker = BatchWorker("bench", self.diary, self.reactor, most)
        outcome(self.worker.start(), self.reactor)
        self.answers: list[Any] = []

    def hold(self) -> Callable[[], None]:
        """Occupy the thread until the returned function is called. Its batch is not in the diary."""
        entered, leave = threading.Event(), threading.Event()

        def wait() -> None:
            entered.set()
            leave.wait(PATIENCE)
            self.diary.entries.clear()

        self.worker.submit(wait).addErrback(lambda _: None)  # its transaction may be told to fail
        assert entered.wait(PATIENCE)
        return leave.set

    def submit(self, *names: str) -> None:
        for name in names:
            self.worker.submit(self.diary.note, name).addBoth(self.answers.append)

    def run(self) -> list[Any]:
        """Wait until everything is answered."""
        while self.worker.backlog:
            self.reactor.turn()
        return ["failed" if isinstance(each, Failure) and each.check(StoreError) else each for each in self.answers]

    def stop(self) -> None:
        outcome(self.worker.stop(), self.reactor)


def test_what_has_queued_up_is_one_transaction() -> None:
    bench = Bench()
    release = bench.hold()
    bench.submit("a", "b", "c")
    assert bench.worker.backlog == 4
    release()
    assert bench.run() == ["a", "b", "c"]
    assert bench.diary.entries == ["prepare", "commit", "begin", "a", "b", "c", "prepare", "commit"]
    assert bench.worker.backlog == 0
    bench.stop()


def test_batches_are_bounded() -> None:
    bench = Bench(most=2)
    release = bench.hold()
    bench.submit("a", "b", "c")
    release()
    assert bench.run() == ["a", "b", "c"]
    assert bench.diary.entries[2:] == ["begin", "a", "b", "prepare", "commit", "begin", "c", "prepare", "commit"]
    bench.stop()


def test_an_observer_is_told_of_each_batch() -> None:
    """How many calls shared it, how many of them failed, and how long it took; before any of them is answered."""
    bench = Bench()
    told: list[tuple[int, int, int]] = []

    def observe(seconds: float, calls: int, failures: int) -> None:
        assert seconds > 0
        told.append((calls, failures, len(bench.answers)))

    bench.worker.observer = observe
    release = bench.hold()
    bench.diary.failing.add("b")
    bench.submit("a", "b", "c")
    release()
    bench.run()
    assert told == [(1, 0, 0), (3, 1, 0)]
    bench.stop()


def test_a_call_that_fails_takes_nothing_with_it() -> None:
    bench = Bench()
    release = bench.hold()
    bench.diary.failing.add("b")
    bench.submit("a", "b", "c")
    release()
    assert bench.run() == ["a", "failed", "c"]
    assert bench.diary.entries[2:] == [
        *["begin", "a", "b", "rollback"],
        *["begin", "a", "prepare", "commit"],
        *["begin", "b", "rollback"],
        *["begin", "c", "prepare", "commit"],
    ]
    assert str(bench.answers[1].value) == "bench: failed (OSError: b is broken)"
    bench.stop()


@pytest.mark.parametrize("step", ["begin", "prepare", "commit"])
def test_a_transaction_that_fails_fails_all_its_calls(step: str) -> None:
    """Nobody is told that something is safe which may not be; the next batch is a new chance."""
    bench = Bench()
    release = bench.hold()
    bench.submit("a", "b")
    release()
    assert bench.run() == ["a", "b"]
    bench.answers.clear()
    release = bench.hold()
    bench.submit("a", "b", "c")
    bench.diary.failing.update({step, "rollback"})
    release()
    assert bench.run() == ["failed"] * 3
    bench.diary.failing.clear()
    bench.answers.clear()
    bench.submit("d")
    assert bench.run() == ["d"]
    bench.stop()


def test_everything_fires_in_the_reactor_thread_and_runs_in_one_other() -> None:
    bench = Bench()
    fired: list[int] = []
    for name in "abc":
        bench.worker.submit(bench.diary.note, name).addCallback(lambda _: fired.append(threading.get_ident()))
    bench.run()
    bench.stop()
    assert set(fired) == {threading.get_ident()}
    assert len(bench.diary.threads) == 1
    assert threading.get_ident() not in bench.diary.threads


def test_an_answer_that_raises_in_its_callback_harms_no_other() -> None:
    bench = Bench()
    release = bench.hold()

    def broken(_: object) -> None:
        raise ZeroDivisionError

    bench.worker.submit(bench.diary.note, "a").addCallback(broken).addErrback(bench.answers.append)
    bench.submit("b")
    release()
    assert bench.run()[1:] == ["b"]
    bench.stop()


def test_a_cancelled_call_harms_no_other() -> None:
    bench = Bench()
    release = bench.hold()
    bench.submit("a")
    cancelled: Deferred[str] = bench.worker.submit(bench.diary.note, "b")
    cancelled.addErrback(lambda _: None)
    cancelled.cancel()
    bench.submit("c")
    release()
    assert bench.run() == ["a", "c"]
    bench.stop()


def test_stop_finishes_what_was_asked() -> None:
    bench = Bench()
    release = bench.hold()
    bench.submit("a", "b")
    stopped = bench.worker.stop()
    bench.submit("late")
    again = bench.worker.stop()
    release()
    outcome(stopped, bench.reactor)
    outcome(again, bench.reactor)
    assert bench.run() == ["failed", "a", "b"]
    assert bench.diary.entries[-3:] == ["prepare", "commit", "close"]


def test_it_can_be_started_again() -> None:
    bench = Bench()
    with pytest.raises(StoreError):
        outcome(bench.worker.start(), bench.reactor)
    bench.stop()
    outcome(bench.worker.start(), bench.reactor)
    bench.submit("a")
    assert bench.run() == ["a"]
    bench.stop()


def test_what_cannot_connect_refuses_everything() -> None:
    diary, reactor = Diary(), QueueReactor()
    diary.failing.add("connect")
    worker = BatchWorker("bench", diary, reactor)
    started = worker.start()
    calls = [worker.submit(diary.note, name) for name in "ab"]
    stopped = worker.stop()
    for deferred in (started, *calls):
        with pytest.raises(StoreError, match="connect is broken"):
            outcome(deferred, reactor)
    assert outcome(stopped, reactor) is None
    assert worker.backlog == 0
    assert diary.entries == ["connect"]


def test_a_close_that_fails_is_told() -> None:
    bench = Bench()
    bench.diary.failing.add("close")
    with pytest.raises(StoreError, match="close is broken"):
        bench.stop()
