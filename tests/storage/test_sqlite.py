"""The SQLite store against the contract; what survives; files that are not to be touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttcluster.storage.interfaces import IStore, QueueLimits
from mqttcluster.storage.sqlite import SqliteStore
from tests.storage.contract import Contract, Make
from tests.storage.driver import Driver, QueueReactor, outcome


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


class TestSqliteRestarted(Contract):
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
