"""A stage for each test of these modules, on a Redis of the module's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.redis_server import RedisServer
from tests.cluster.scenarios.stage import Stage


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), fsync="no")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def stage(redis: RedisServer) -> Iterator[Stage]:
    """An empty Redis, and nodes that are stopped at the end."""
    with redis.client() as client:
        client.flushall()
    stage = Stage(redis)
    yield stage
    stage.close()
