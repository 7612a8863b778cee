"""The Redis store against the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import GONE, QueueLimits
from mqttcluster.storage.redis_store import RedisStore
from tests.cluster.redis_server import RedisServer
from tests.storage.contract import Contract, Make, payloads
from tests.storage.driver import Driver, QueueReactor, message, outcome, to


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), fsync="no")
    server.start()
    yield server
    server.stop()


class TestRedis(Contract):
    @pytest.fixture
    def make(self, server: RedisServer) -> Iterator[Make]:
        with server.client() as client:
            client.flushall()
        reactor = QueueReactor()
        made: list[Driver] = []

        def make(limits: QueueLimits | None = None) -> Driver:
            driver = Driver(RedisStore(server.url, reactor, "node", limits, prefix=f"mc{len(made)}:"), reactor)
            outcome(driver.store.start(), reactor)
            made.append(driver)
            return driver

        yield make
        for driver in made:
            outcome(driver.store.stop(), reactor)
