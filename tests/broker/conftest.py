from __future__ import annotations

import pytest

from tests.broker.playbook import World


@pytest.fixture
def world() -> World:
    """A broker without sockets, on a memory store."""
    return World()
