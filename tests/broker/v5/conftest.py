from __future__ import annotations

from tests.broker.conftest import world
from tests.conformance.v5.conftest import *  # noqa: F403

__all__ = ["world"]
