"""Every backplane against the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqttcluster.storage.local_backplane import LocalBackplane
from tests.cluster.redis_server import RedisServer
from tests.storage.backplane_contract import BackplaneContract
from tests.storage.nodes import LASTING, Cluster, Node, Side, World


class TestLocal(BackplaneContract):
    @pytest.fixture
    def lone(self, world: World) -> Node:
        return Node(world, LocalBackplane(), Side(world))


class TestRedis(BackplaneContract):
    @pytest.fixture
    def lone(self, world: World, redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[Node]:
        cluster = Cluster(world, redis.url, f"{request.node.name}:")
        yield cluster.node(start=False, timing=LASTING)
        cluster.close()
