"""Every numbered statement that binds us has a test that names it, and docs/conformance.md says which."""

from __future__ import annotations

import pytest

from tests.support import conformance
from tests.support.conformance import STANDARDS, Proofs, Rule, Standard

BY_VERSION = pytest.mark.parametrize("standard", STANDARDS, ids=lambda standard: standard.version)


@pytest.fixture(scope="module")
def found() -> dict[str, Proofs]:
    return conformance.collect_apart()


@BY_VERSION
def test_every_rule_has_a_test(standard: Standard, found: dict[str, Proofs]) -> None:
    """Whoever asks how a rule is kept finds a test, or the reason why there is none."""
    assert conformance.unproven(standard.rules(), found[standard.mark]) == []
    assert conformance.contradicted(standard.rules(), found[standard.mark]) == []


@BY_VERSION
def test_marks_name_rules_of_the_standard(standard: Standard, found: dict[str, Proofs]) -> None:
    """A misspelt id would claim a proof that nobody finds."""
    rules = {**standard.rules(), **standard.unnumbered()}
    assert conformance.unknown(rules, found[standard.mark]) == {}


def test_the_page_is_fresh(found: dict[str, Proofs]) -> None:
    """docs/conformance.md is what the generator writes now."""
    stale = conformance.PAGE.read_text() != conformance.page(found)
    assert not stale, "run python -m tests.support.conformance"


@pytest.mark.parametrize(("version", "count"), [("3.1.1", 141), ("5.0", 251)])
def test_the_lists_are_whole(version: str, count: int) -> None:
    """All statements are there, and each says whom it binds."""
    [standard] = [standard for standard in STANDARDS if standard.version == version]
    rules = standard.rules()
    assert len(rules) == count
    assert {rule.binds for rule in rules.values()} == {"server", "client", "both"}


def test_gaps_are_found() -> None:
    """The checks above can fail: a rule without a test, an unknown id, and an excuse that is none are reported."""
    rules = {"A-1": Rule("text", "server"), "A-2": Rule("text", "client", "reason"), "A-3": Rule("text", "both")}
    proofs = {"A-2": ["t.py::test"], "A-3": ["t.py::test"], "B-1": ["t.py::test"]}
    assert conformance.unproven(rules, proofs) == ["A-1"]
    assert conformance.contradicted(rules, proofs) == ["A-2"]
    assert conformance.unknown(rules, proofs) == {"B-1": ["t.py::test"]}
