"""The SQLite store against the contract; what survives; files that are not to be touched."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure

from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import IStore, Publication, QueueLimits, StoredWill, StoreError
from mqttcluster.storage.sqlite import SqliteStore
from tests.storage.contract import Contract, LastingContract, Make
from tests.storage.driver import Driver, QueueReactor, message, outcome, to


class TestSqlite(Contract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        reactor = QueueReactor()
        made: list[Driver] = []

        def make(limits: QueueLimits | None = None) -> Driver:
            driver = Driver(SqliteStore(str(tmp_path / f"store{len(made)}"), reactor, limits), reactor)
            outcome(driver.store.start(), reactor)
            made.append(driver)
            return driver

        yield make
        for driver in made:
            outcome(driver.store.stop(), reactor)


class TestSqliteRestarted(LastingContract):
    """What was answered is there after a restart: the store is stopped and started again after each call."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        reactor = QueueReactor()
        made: list[Driver] = []

        def make(limits: QueueLimits | None = None) -> Driver:
            path = str(tmp_path / f"store{len(made)}")

            def started(before: IStore | None = None) -> IStore:
                if before is not None:
                    outcome(before.stop(), reactor)
                store = SqliteStore(path, reactor, limits, synchronous="normal")
                outcome(store.start(), reactor)
                return store

            made.append(Driver(started(), reactor, started))
            return made[-1]

        yield make
        for driver in made:
            outcome(driver.store.stop(), reactor)


def open_store(path: Path, **options: Any) -> Driver:
    reactor = QueueReactor()
    driver = Driver(SqliteStore(str(path), reactor, **options), reactor)
    outcome(driver.store.start(), reactor)
    return driver


def stop(driver: Driver) -> None:
    outcome(driver.store.stop(), driver.reactor)


def refusal(path: Path) -> str:
    """What `start` says about a file that it does not take."""
    reactor = QueueReactor()
    store = SqliteStore(str(path), reactor)
    waiting = store.due(0.0, 1)
    with pytest.raises(StoreError) as caught:
        outcome(store.start(), reactor)
    with pytest.raises(StoreError):
        outcome(waiting, reactor)
    with pytest.raises(StoreError):
        outcome(store.due(0.0, 1), reactor)
    outcome(store.stop(), reactor)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert text.count(str(path)) == 1
    return text


def fill(driver: Driver) -> None:
    """Some of everything."""
    kept = driver.open("kept", expiry=1000, will=StoredWill(message("will", "will"), 30))
    driver.subscribe("kept", kept.epoch, {f"a/{number}": Subscription(1) for number in range(200)})
    for number in range(50):
        driver.publish(
            message(b"%d" % number * 500, qos=2), to(kept, "kept", qos=2), exchange=("kept", kept.epoch, number + 1)
        )
    driver.acknowledge("kept", kept.epoch, done=[1, 2], received=[3])
    driver.publish(message("r", "retained", retain=True), retain=True)
    gone = driver.open("gone", clean=True, expiry=0, will=StoredWill(message("gone", "will")))
    driver.close("gone", gone.epoch, now=1.0)


def check_filled(driver: Driver) -> None:
    found = driver.recover(now=10.0)
    assert [(each.client_id, len(each.subscriptions)) for each in found.sessions] == [("kept", 200)]
    assert [each.topic for each in found.retained] == ["retained"]
    assert [(client_id, each.payload) for client_id, _, each in driver.due(40.0).wills] == [
        ("gone", b"gone"),
        ("kept", b"will"),
    ]
    kept = driver.open("kept", now=50.0)
    assert kept.present
    assert [entry.sequence for entry in kept.queue] == list(range(4, 51))
    assert kept.queue[0].message.payload == b"3" * 500
    assert (kept.last, kept.sent, kept.released, kept.inbound) == (50, 50, [3], set(range(1, 51)))


class TestSurvival:
    """G1: what was acknowledged is there after the process was killed."""

    def test_after_a_restart(self, tmp_path: Path) -> None:
        driver = open_store(tmp_path / "store")
        fill(driver)
        stop(driver)
        driver = open_store(tmp_path / "store")
        check_filled(driver)
        stop(driver)

    def test_epochs_go_on_after_a_restart(self, tmp_path: Path) -> None:
        """Clients without anything to keep use epochs up, too, and a stale one must never match again."""
        driver = open_store(tmp_path / "store")
        before = [driver.open(f"c{number}", clean=True, expiry=0).epoch for number in range(5)]
        stop(driver)
        driver = open_store(tmp_path / "store")
        assert driver.open("c", clean=True, expiry=0).epoch > max(before)
        stop(driver)

    def test_files_as_they_are_at_some_moment(self, tmp_path: Path) -> None:
        """The files of a running store, as a power cut would leave them."""
        driver = open_store(tmp_path / "store")
        fill(driver)
        for name in ("store", "store-wal"):
            shutil.copy(tmp_path / name, tmp_path / name.replace("store", "copy"))
        driver.open("later")
        stop(driver)
        driver = open_store(tmp_path / "copy")
        check_filled(driver)
        stop(driver)

    def test_a_killed_process(self, tmp_path: Path) -> None:
        """Every publish that was answered before SIGKILL is in the queue, in order, each once."""
        script = """
import sys
from mqttcluster.storage.interfaces import Publication
from mqttcluster.storage.sqlite import SqliteStore
from tests.storage.driver import Driver, QueueReactor, message, outcome, to
reactor = QueueReactor()
driver = Driver(SqliteStore(sys.argv[1], reactor), reactor)
outcome(driver.store.start(), reactor)
kept = driver.open("kept")
number = 0
def publish(answer=None):
    global number
    if answer is not None:
        sys.stdout.write(f"{answer.sequences[0]}\\n")
        sys.stdout.flush()
    number += 1
    driver.store.publish(Publication(message(str(number)), [to(kept, "kept")])).addCallback(publish)
for _ in range(20):
    publish()
while True:
    reactor.turn()
"""
        root = Path(__file__).parents[2]
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True, cwd=root
        )
        assert child.stdout is not None
        answered = [int(child.stdout.readline()) for _ in range(300)]
        child.send_signal(signal.SIGKILL)
        answered += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        child.wait()
        driver = open_store(tmp_path / "store", limits=QueueLimits(1_000_000))
        driver.recover()
        queue = driver.open("kept", limit=1_000_000).queue
        stop(driver)
        assert answered == list(range(1, len(answered) + 1))
        assert len(queue) >= len(answered)
        assert [(each.sequence, each.message.payload) for each in queue] == [
            (number, str(number).encode()) for number in range(1, len(queue) + 1)
        ]

    def test_nothing_is_left_of_messages_that_are_done(self, tmp_path: Path) -> None:
        """A message goes with the last queue that names it, and what a wiped or expired session had goes with it."""
        driver = open_store(tmp_path / "store", limits=QueueLimits(messages=3, drop_oldest=True))
        a, b = driver.open("a", expiry=10), driver.open("b", expiry=10)
        c = driver.open("c", expiry=10)
        for number in range(8):
            driver.publish(
                message(str(number), qos=2), to(a, "a"), to(b, "b"), to(c, "c"), exchange=("c", c.epoch, number)
            )
        driver.subscribe("c", c.epoch, {"x": Subscription(1)})
        driver.acknowledge("a", a.epoch, done=[1], received=[2, 3])
        driver.acknowledge("a", a.epoch, completed=[2, 3])
        driver.open("b", clean=True)
        driver.close("c", c.epoch, sent=1)
        driver.publish(message("dropped"), to(c, "c"))
        driver.due(1000.0)
        driver.publish(message("nobody"), to(b, "b"))
        driver.open("will", clean=True, expiry=0, will=StoredWill(message("w")))
        stop(driver)
        with closing(sqlite3.connect(tmp_path / "store")) as connection:
            left = {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("message", "queue", "subscription", "released", "inbound", "session")
            }
        assert left == {"message": 0, "queue": 0, "subscription": 0, "released": 0, "inbound": 0, "session": 3}

    def test_a_client_with_nothing_to_keep_costs_no_disk(self, tmp_path: Path) -> None:
        driver = open_store(tmp_path / "store")
        driver.open("first", clean=True, expiry=0)
        size = (tmp_path / "store-wal").stat().st_size
        for number in range(200):
            opened = driver.open(f"c{number}", clean=True, expiry=0)
            driver.close(f"c{number}", opened.epoch)
        assert (tmp_path / "store-wal").stat().st_size == size
        stop(driver)


class TestFiles:
    """A file that the store does not take is left as it was."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        path = tmp_path / "store"
        driver = open_store(path)
        fill(driver)
        stop(driver)
        return path

    def refused(self, path: Path) -> str:
        def contents() -> dict[str, bytes]:
            names = (path.name, f"{path.name}-wal", f"{path.name}-journal")
            found = {name: path.with_name(name).read_bytes() for name in names if path.with_name(name).exists()}
            return {name: data for name, data in found.items() if data}

        before = contents()
        text = refusal(path)
        assert contents() == before
        return text

    def test_other_users_cannot_read_it(self, store: Path) -> None:
        assert stat.S_IMODE(store.stat().st_mode) == 0o600

    @pytest.mark.parametrize("size", [1, 20, 99, 100, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 100_000])
    @pytest.mark.parametrize("begin", [b"", b"SQLite format 3\0"])
    def test_something_else(self, tmp_path: Path, begin: bytes, size: int) -> None:
        """Whatever its size: SQLite takes some small files for an empty database."""
        content = (begin + b"a text\n" * size)[:size]
        path = tmp_path / "file"
        path.write_bytes(content)
        assert "is not a store of mqttcluster; choose another path" in self.refused(path)

    def test_a_database_of_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE queue (x)")
        assert "is not a store of mqttcluster; choose another path" in self.refused(path)

    def test_an_empty_file_is_taken(self, tmp_path: Path) -> None:
        """An earlier start may have been killed before it wrote anything."""
        path = tmp_path / "file"
        path.touch()
        stop(open_store(path))

    def test_a_newer_format(self, store: Path) -> None:
        with closing(sqlite3.connect(store)) as connection:
            connection.execute("PRAGMA user_version = 99")
        text = self.refused(store)
        assert "has format 99" in text
        assert "upgrade mqttcluster" in text

    def test_a_cut_off_file(self, store: Path) -> None:
        os.truncate(store, store.stat().st_size // 2)
        assert "is damaged" in self.refused(store)

    @pytest.mark.parametrize("with_journal", [False, True])
    def test_a_file_with_a_hole(self, tmp_path: Path, with_journal: bool) -> None:
        path = tmp_path / "store"
        driver = open_store(path)
        fill(driver)
        stop(driver)
        driver = open_store(path)
        driver.open("more")
        copy = tmp_path / "copy"
        if with_journal:
            shutil.copy(tmp_path / "store-wal", tmp_path / "copy-wal")
        shutil.copy(path, copy)
        stop(driver)
        with copy.open("r+b") as file:
            file.seek(3 * 4096)
            file.write(b"\xaa" * (copy.stat().st_size - 5 * 4096))
        assert "is damaged" in self.refused(copy)

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        text = refusal(tmp_path / "missing" / "store")
        assert "create the directory" in text
        assert not (tmp_path / "missing").exists()

    def test_a_directory(self, tmp_path: Path) -> None:
        assert "is not a file" in refusal(tmp_path)

    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_not_writable(self, what: str) -> None:
        """Also for root, who may write everything: the store is opened as somebody else."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "store")
            stop(open_store(path))
            path.chmod(0o444 if what == "file" else 0o666)
            Path(directory).chmod(0o777 if what == "file" else 0o555)
            root = os.geteuid() == 0
            if root:
                os.seteuid(65534)
            try:
                text = refusal(path)
            finally:
                if root:
                    os.seteuid(0)
                Path(directory).chmod(0o700)
            assert "cannot be written" in text

    def test_in_use_by_another_process(self, store: Path) -> None:
        """Two nodes on one file would lose each other's messages."""
        driver = open_store(store)
        script = """
import sys
from tests.storage.test_sqlite import refusal
from pathlib import Path
print(refusal(Path(sys.argv[1])))
"""
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", script, str(store)], capture_output=True, text=True, cwd=root, check=True
        )
        assert "is in use by another process" in done.stdout
        assert "is in use by another process" in refusal(store)
        check_filled(driver)
        stop(driver)


class TestFailures:
    """A call that cannot be carried out harms no other."""

    def test_a_message_that_cannot_be_stored(self, tmp_path: Path) -> None:
        driver = open_store(tmp_path / "store")
        opened = driver.open()
        answers: list[object] = []
        for number in range(20):
            topic = "bad \ud800" if number == 10 else "good"
            deferred = driver.store.publish(Publication(message(str(number), topic), [to(opened)]))
            deferred.addBoth(answers.append)
        while len(answers) < 20:
            driver.reactor.turn()
        failed = answers.pop(10)
        assert isinstance(failed, Failure)
        assert failed.check(StoreError)
        assert [answer.sequences for answer in answers] == [[number] for number in range(1, 20)]  # type: ignore[attr-defined]
        assert driver.open().last == 19
        stop(driver)

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """The publisher gets no PUBACK; when there is room again, everything is as it was and goes on."""
        driver = open_store(tmp_path / "store")
        opened = driver.open(will=StoredWill(message("w")))
        store = driver.store
        assert isinstance(store, SqliteStore)
        outcome(store._worker.submit(lambda: limit_pages(store, 30)), driver.reactor)
        with pytest.raises(StoreError, match="full"):
            driver.publish(
                message(b"x" * 1_000_000, qos=2, retain=True), to(opened), retain=True, exchange=("c", opened.epoch, 1)
            )
        assert driver.publish(message("fits", qos=2), to(opened), exchange=("c", opened.epoch, 1)).sequences == [1]
        outcome(store._worker.submit(lambda: limit_pages(store, 100_000)), driver.reactor)
        assert driver.publish(message(b"x" * 1_000_000), to(opened)).sequences == [2]
        again = driver.open()
        assert [(each.sequence, len(each.message.payload)) for each in again.queue] == [(1, 4), (2, 1_000_000)]
        assert driver.recover().retained == []
        stop(driver)

    def test_a_file_that_cannot_be_written_is_noticed_by_itself(self, tmp_path: Path) -> None:
        """A node whose disk is full is not ready, though nobody has anything for it to store; until there is room."""
        driver = open_store(tmp_path / "store")
        opened = driver.open()
        store = driver.store
        assert isinstance(store, SqliteStore)
        outcome(store._worker.submit(lambda: writable(store, False)), driver.reactor)
        assert driver.due(0).wills == []
        with pytest.raises(StoreError):
            driver.publish(message("x"), to(opened))
        for _ in range(2):
            with pytest.raises(StoreError):
                driver.due(0)
        outcome(store._worker.submit(lambda: writable(store, True)), driver.reactor)
        assert driver.due(0).wills == []
        assert driver.publish(message("x"), to(opened)).sequences == [1]
        stop(driver)


def limit_pages(store: SqliteStore, pages: int) -> None:
    store._ledger._connection.execute(f"PRAGMA max_page_count = {pages}")


def writable(store: SqliteStore, allowed: bool) -> None:
    store._ledger._connection.execute(f"PRAGMA query_only = {int(not allowed)}")
