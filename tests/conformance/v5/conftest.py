from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.conftest import world
from tests.conformance.v5 import judge

__all__ = ["world"]


@pytest.fixture(autouse=True)
def _fair() -> Iterator[None]:
    """No server may do, on any connection of any test, what the judge objects to."""
    judge.FAULTS.clear()
    yield
    assert judge.FAULTS == []
