"""The memory store against the contract."""

from __future__ import annotations

import pytest

from mqttcluster.storage.interfaces import QueueLimits
from mqttcluster.storage.memory import MemoryStore
from tests.storage.contract import Contract, Make
from tests.storage.driver import Driver, QueueReactor, message, outcome


def make_memory(limits: QueueLimits | None = None) -> Driver:
    driver = Driver(MemoryStore(limits), QueueReactor())
    outcome(driver.store.start(), driver.reactor)
    return driver


class TestMemory(Contract):
    @pytest.fixture
    def make(self) -> Make:
        return make_memory

    def test_nothing_survives_but_the_epoch(self) -> None:
        """An epoch that came back would let a stale connection write into a new session."""
        store = make_memory()
        before = store.open()
        store.publish(message("x", retain=True), retain=True)
        outcome(store.store.stop(), store.reactor)
        outcome(store.store.start(), store.reactor)
        found = store.recover()
        assert (found.sessions, found.retained) == ([], [])
        assert store.open().epoch > before.epoch
