"""A stage for each test of these modules, on a Redis of the module's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.redis_server import RedisServer
from tests.cluster.scenarios.stage import Stage
from tests.storage.conftest import redis

__all__ = ["redis", "stage"]


@pytest.fixture
def stage(redis: RedisServer) -> Iterator[Stage]:
    """An empty Redis, and nodes that are stopped at the end."""
    redis.empty()
    stage = Stage(redis)
    yield stage
    stage.close()
