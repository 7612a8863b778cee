"""The same calls, made at random, to the memory store and to the SQLite store: every answer is the same.

Three clients, a handful of packet ids and topics, small queues, a clock that only goes on. Epochs and generations are
those that were given out before, so calls are right, late or wrong by turns. The SQLite store is restarted now and then
(with one epoch per block, so that both count alike).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import succeed

from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage import sqlite_ledger
from mqttcluster.storage.interfaces import NEVER, Orphan, Publication, QueueLimits, StoredWill, Target
from mqttcluster.storage.memory import MemoryStore
from mqttcluster.storage.sqlite import SqliteStore
from tests.storage.driver import PATIENCE, QueueReactor, message, outcome

clients = st.sampled_from("abc")
few = st.integers(1, 6)
some = st.lists(st.integers(1, 12), max_size=4)
expiries = st.sampled_from([0, 5, 20, NEVER])
filters = st.sampled_from(["x", "y", "z", "$share/g/x"])
wills = st.none() | st.builds(
    lambda text, delay: StoredWill(message(text, "will"), delay), st.sampled_from("uvw"), st.sampled_from([0, 0, 3, 9])
)
back = st.sampled_from([0, 0, 0, 0, 1, 2])


class SameAnswers(RuleBasedStateMachine):
    @initialize(drop_oldest=st.booleans())
    def begin(self, drop_oldest: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.limits = QueueLimits(4, drop_oldest)
        self.release_thread = Event()
        self.reactor = QueueReactor()
        self.memory = MemoryStore(self.limits)
        self.sqlite = self.started()
        outcome(self.memory.start(), self.reactor)
        self.now = 0.0
        self.given: dict[str, list[tuple[int, int]]] = {client: [(0, 0)] for client in "abc"}
        self.wills: list[tuple[str, int]] = [("a", 1)]
        self.asked: list[tuple[str, Any, Any]] = []
        self.orphans: list[Orphan] = []

    def started(self) -> SqliteStore:
        store = SqliteStore(str(Path(self.directory.name, "store")), self.reactor, self.limits, synchronous="normal")
        outcome(store.start(), self.reactor)
        return store

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            try:
                self.settle()
            finally:
                outcome(self.sqlite.stop(), self.reactor)
                self.directory.cleanup()

    def ask(self, name: str, *args: Any) -> None:
        """Make a call to both. The answers are compared later."""
        self.hold()
        self.asked.append((name, getattr(self.memory, name)(*args), getattr(self.sqlite, name)(*args)))

    def hold(self) -> None:
        """Hold the thread up until the calls are settled, so that they share a transaction."""
        if not self.asked:
            self.release_thread.clear()
            self.sqlite._worker.submit(self.release_thread.wait, PATIENCE)

    def settle(self) -> None:
        self.release_thread.set()
        for name, first, second in self.asked:
            expected, found = outcome(first, self.reactor), outcome(second, self.reactor)
            if name == "recover":
                for answer in (expected, found):
                    answer.sessions.sort(key=lambda session: session.client_id)
                    answer.retained.sort(key=lambda kept: kept.topic)
            if name == "publish_run":
                expected.queued, found.queued = list(expected.queued), list(found.queued)
            if name == "publish":
                expected.sequences, found.sequences = list(expected.sequences), list(found.sequences)
            assert found == expected, name
            if name == "due":
                self.orphans += expected.orphans
        self.asked.clear()

    def epoch(self, client: str, old: int) -> int:
        return self.given[client][-1 - old % len(self.given[client])][0]

    @rule(client=clients, clean=st.booleans(), expiry=expiries, will=wills, limit=st.integers(0, 5))
    def open(self, client: str, clean: bool, expiry: int, will: StoredWill | None, limit: int) -> None:
        self.ask("open", client, clean, expiry, will, self.now, limit)
        _, first, second = self.asked.pop()
        opened = outcome(first, self.reactor)
        self.asked.append(("open", succeed(opened), second))
        self.given[client].append((opened.epoch, opened.generation))
        self.wills.append((client, opened.epoch))

    @rule(
        client=clients,
        old=back,
        publish_will=st.booleans(),
        sent=st.integers(0, 9),
        expiry=st.none() | expiries,
        grace=st.sampled_from([0, 5]),
    )
    def close(
        self, client: str, old: int, publish_will: bool, sent: int, expiry: int | None, grace: int
    ) -> None:
        self.ask("close", client, self.epoch(client, old), publish_will, sent, self.now, expiry, grace)

    @rule(client=clients, old=back, add=st.dictionaries(filters, st.integers(0, 2)), remove=st.lists(filters))
    def subscribe(self, client: str, old: int, add: dict[str, int], remove: list[str]) -> None:
        wanted = {topic_filter: Subscription(qos) for topic_filter, qos in add.items()}
        self.ask("subscribe", client, self.epoch(client, old), wanted, remove)

    @rule(
        text=st.sampled_from(["", "1", "2"]),
        topic=st.sampled_from("rst"),
        receivers=st.lists(st.tuples(clients, back, st.integers(1, 2)), max_size=5),
        retain=st.booleans(),
        exchange=st.none() | st.tuples(clients, back, few),
        will=st.none() | st.integers(1, 3),
    )
    def publish(
        self,
        text: str,
        topic: str,
        receivers: list[tuple[str, int, int]],
        retain: bool,
        exchange: tuple[str, int, int] | None,
        will: int | None,
    ) -> None:
        publication = Publication(
            message(text, topic, 2),
            [
                Target(client, self.given[client][-1 - old % len(self.given[client])][1], qos)
                for client, old, qos in receivers
            ],
            retain,
            None if exchange is None else (exchange[0], self.epoch(exchange[0], exchange[1]), exchange[2]),
            None if will is None else self.wills[-will % len(self.wills)],
            now=self.now,
        )
        self.ask("publish", publication)

    @rule(
        texts=st.text("123", min_size=1, max_size=7),
        receivers=st.lists(st.tuples(clients, back, st.integers(1, 2)), max_size=3, unique_by=lambda one: one[0]),
    )
    def publish_run(self, texts: str, receivers: list[tuple[str, int, int]]) -> None:
        targets = [
            Target(client, self.given[client][-1 - old % len(self.given[client])][1], qos, identifiers=(old,))
            for client, old, qos in receivers
        ]
        self.ask("publish_run", [message(text, "t", 2) for text in texts], targets, self.now)

    @rule(client=clients, text=st.sampled_from("123"), times=st.integers(1, 4), lasts=st.sampled_from([None, 1.0, 9.0]))
    def fill(self, client: str, text: str, times: int, lasts: float | None) -> None:
        expires_at = None if lasts is None else self.now + lasts
        for _ in range(times):
            target = Target(client, self.given[client][-1][1], 2, identifiers=(times,))
            self.ask("publish", Publication(message(text, expires_at=expires_at), [target], now=self.now))

    def members(self, names: list[tuple[str, int, int]]) -> list[Target]:
        return [
            Target(client, self.given[client][-1 - old % len(self.given[client])][1], qos, share="$share/g/x")
            for client, old, qos in names
        ]

    @rule(
        groups=st.lists(st.lists(st.tuples(clients, back, st.integers(1, 2)), max_size=3), min_size=1, max_size=2),
        exchange=st.none() | st.tuples(clients, back, few),
    )
    def share(self, groups: list[list[tuple[str, int, int]]], exchange: tuple[str, int, int] | None) -> None:
        begun = None if exchange is None else (exchange[0], self.epoch(exchange[0], exchange[1]), exchange[2])
        shares = [self.members(names) for names in groups]
        self.ask("publish", Publication(message("shared", qos=2), exchange=begun, shares=shares, now=self.now))

    @rule(number=st.integers(0, 9), names=st.lists(st.tuples(clients, back, st.integers(1, 2)), max_size=2))
    def hand_on(self, number: int, names: list[tuple[str, int, int]]) -> None:
        if self.orphans:
            orphan = self.orphans[number % len(self.orphans)]
            shares = [self.members(names)]
            self.ask("publish", Publication(orphan.message, shares=shares, orphan=orphan, now=self.now))

    @rule(topic=st.sampled_from("rst"), lasts=st.sampled_from([None, 1.0, 9.0]))
    def retain(self, topic: str, lasts: float | None) -> None:
        expires_at = None if lasts is None else self.now + lasts
        self.ask("publish", Publication(message("kept", topic, expires_at=expires_at), retain=True))

    @rule(topics=st.lists(st.sampled_from("rst"), unique=True))
    def drop_retained(self, topics: list[str]) -> None:
        self.ask("drop_retained", topics, self.now)

    @rule(client=clients, old=back, done=some, received=some, completed=some)
    def acknowledge(self, client: str, old: int, done: list[int], received: list[int], completed: list[int]) -> None:
        self.ask("acknowledge", client, self.epoch(client, old), done, received, completed)

    @rule(client=clients, old=back, packet_ids=st.lists(few, max_size=3))
    def release(self, client: str, old: int, packet_ids: list[int]) -> None:
        self.ask("release", client, self.epoch(client, old), packet_ids)

    @rule(client=clients, old=back, after=st.integers(0, 10), limit=st.integers(1, 5))
    def read(self, client: str, old: int, after: int, limit: int) -> None:
        self.ask("read", client, self.epoch(client, old), after, limit)

    @rule(will=st.integers(1, 3))
    def will_published(self, will: int) -> None:
        self.ask("will_published", *self.wills[-will % len(self.wills)])

    @rule(limit=st.integers(1, 4))
    def due(self, limit: int) -> None:
        self.ask("due", self.now, limit)

    @rule()
    def recover(self) -> None:
        self.ask("recover", self.now)

    @rule(seconds=st.sampled_from([0.5, 3.0, 8.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def compare(self) -> None:
        self.settle()

    @rule()
    def fail(self) -> None:
        """A call that raises: its batch is rolled back and done again."""
        bad = Publication(message("x", "\ud800"), [Target("a", self.given["a"][-1][1], 1)], True)
        self.hold()
        failed = self.sqlite.publish(bad)
        self.asked.append(("fail", succeed(None), failed.addErrback(lambda _: None)))

    @rule()
    def restart(self) -> None:
        """Connections end with the process, so both recover first."""
        self.ask("recover", self.now)
        self.settle()
        outcome(self.sqlite.stop(), self.reactor)
        self.sqlite = self.started()

    @invariant()
    def backlog_is_bounded(self) -> None:
        if len(getattr(self, "asked", ())) > 8:
            self.settle()


@pytest.fixture(autouse=True)
def one_epoch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_ledger, "EPOCHS_RESERVED", 1)


TestSameAnswers = SameAnswers.TestCase
TestSameAnswers.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
