"""A Redis of each module's own, and nodes on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.redis_server import RedisServer
from tests.storage.nodes import World
from tests.storage.redis_nodes import Node, Nodes


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), fsync="no") as server:
        yield server


@pytest.fixture
def nodes(redis: RedisServer) -> Iterator[Nodes]:
    """Stores on an empty Redis, which are stopped at the end."""
    redis.empty()
    nodes = Nodes(redis)
    yield nodes
    nodes.stop()


@pytest.fixture
def a(nodes: Nodes) -> Node:
    return nodes.make("a")


@pytest.fixture
def b(nodes: Nodes, a: Node) -> Node:
    return nodes.make("b")


@pytest.fixture
def world() -> World:
    return World()
