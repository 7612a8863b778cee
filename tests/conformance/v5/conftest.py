from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.conformance.v5.stage")

from tests.broker.conftest import world  # noqa: E402
from tests.conformance.v5 import judge  # noqa: E402

__all__ = ["world"]


@pytest.fixture(autouse=True)
def _fair() -> Iterator[None]:
    """No server may do, on any connection of any test, what the judge objects to."""
    judge.FAULTS.clear()
    yield
    assert judge.FAULTS == []
