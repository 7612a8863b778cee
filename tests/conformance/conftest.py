from __future__ import annotations

from tests.broker.conftest import world

__all__ = ["world"]
