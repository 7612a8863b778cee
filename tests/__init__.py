"""Tests, in the order of the floors; `support` holds what they share."""

import pytest

# Before anything imports it: its assertions are to tell what they compared.
pytest.register_assert_rewrite("tests.conformance.v5.stage")
