"""Floor 2: every store against one contract."""

import pytest

pytest.register_assert_rewrite("tests.storage.contract")
