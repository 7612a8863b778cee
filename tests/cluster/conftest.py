"""Fixtures for clusters of real nodes.

``cluster``        a function that starts so many nodes on a Redis of their own, for one test
``two_nodes``      two nodes for all tests of a module that do not harm them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Cluster
from tests.support.certificates import Certificates


@pytest.fixture
def cluster(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[..., Cluster]]:
    """A function that starts a cluster: how many nodes, and what `Cluster` takes beside that."""
    clusters: list[Cluster] = []

    def start(count: int, **more: Any) -> Cluster:
        directory = tmp_path / f"cluster{len(clusters)}"
        directory.mkdir()
        made = Cluster(count, directory, certificates, **more)
        clusters.append(made)
        made.start()
        return made

    yield start
    for made in clusters:
        made.stop()


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Cluster]:
    """One cluster for all tests of a module that use names of their own and leave it running."""
    made = Cluster(2, tmp_path_factory.mktemp("two-nodes"), certificates)
    try:
        made.start()
        yield made
    finally:
        made.stop()
