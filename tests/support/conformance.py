"""The rules of the standards, the tests that prove them, and docs/conformance.md, which shows both.

    python -m tests.support.conformance          write the page
    python -m tests.support.conformance --json   print which tests prove which rule

A test names what it proves with ``@pytest.mark.rule("MQTT-3.1.0-1", ...)`` for 3.1.1 and ``rule5`` for 5.0. pytest
itself collects the tests, so marks on parameters, classes and modules count as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance.md"

#: Rule id -> the tests that prove it, as ``path::name``, sorted.
Proofs = Mapping[str, list[str]]


@dataclass(frozen=True)
class Rule:
    """A numbered statement in our words. `untestable` is the reason why no test shows it, or ''."""

    text: str
    binds: str
    untestable: str = ""


@dataclass(frozen=True)
class Standard:
    """One version of the standard: the mark that names its rules, and the file that lists them."""

    version: str
    mark: str
    file: Path

    def rules(self) -> dict[str, Rule]:
        """Its numbered rules by id, in the order of the standard."""
        return self._table("rules")

    def unnumbered(self) -> dict[str, Rule]:
        """What it says without a number, by ids of ours."""
        return self._table("unnumbered")

    def _table(self, name: str) -> dict[str, Rule]:
        with self.file.open("rb") as stream:
            table = tomllib.load(stream).get(name, {})
        return {rule: Rule(**fields) for rule, fields in table.items()}


#: The versions whose rules are listed.
STANDARDS = tuple(
    standard
    for standard in (
        Standard(version, mark, ROOT / "tests" / "conformance" / f"rules_{version.replace('.', '_')}.toml")
        for version, mark in (("3.1.1", "rule"), ("5.0", "rule5"))
    )
    if standard.file.exists()
)


class _Collector:
    """A pytest plugin that notes the marks of what was collected."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, set[str]]] = {standard.mark: {} for standard in STANDARDS}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = item.nodeid.partition("[")[0]
            for mark, rules in self.found.items():
                for marker in item.iter_markers(mark):
                    for rule in marker.args:
                        rules.setdefault(rule, set()).add(name)


def collect() -> dict[str, Proofs]:
    """Mark -> rule id -> tests. Runs pytest's collection in this process; fails with its output if that fails."""
    collector, output = _Collector(), io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main(
            ["--collect-only", "-q", f"--rootdir={ROOT}", f"--confcutdir={ROOT}", str(ROOT / "tests")],
            plugins=[collector],
        )
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"the tests cannot be collected:\n{output.getvalue()}")
    return {mark: {rule: sorted(names) for rule, names in rules.items()} for mark, rules in collector.found.items()}


def collect_apart() -> dict[str, Proofs]:
    """As `collect`, in a process of its own, for callers that run inside pytest."""
    command = [sys.executable, "-m", "tests.support.conformance", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def unproven(rules: Mapping[str, Rule], proofs: Proofs) -> list[str]:
    """Rules without a test, and without a reason for that."""
    return [name for name, rule in rules.items() if not rule.untestable and name not in proofs]


def unknown(rules: Mapping[str, Rule], proofs: Proofs) -> dict[str, list[str]]:
    """Ids that marks name and the standard does not have, with the tests."""
    return {name: tests for name, tests in proofs.items() if name not in rules}


def contradicted(rules: Mapping[str, Rule], proofs: Proofs) -> list[str]:
    """Rules that say they cannot be tested and have a test."""
    return [name for name, rule in rules.items() if rule.untestable and name in proofs]


def page(found: Mapping[str, Proofs]) -> str:
    """The whole of docs/conformance.md."""
    lines = [
        "# Conformance",
        "",
        "Each numbered statement of the standard, in our own words, and the tests that show it.",
        "This page is generated: `python -m tests.support.conformance` writes it, and a test fails when it is stale.",
    ]
    for standard in STANDARDS:
        rules, proofs = standard.rules(), found[standard.mark]
        excused = sum(bool(rule.untestable) for rule in rules.values())
        lines += [
            "",
            f"## MQTT {standard.version}",
            "",
            f"{len(rules)} statements: {sum(name in proofs for name in rules)} have tests; "
            f"{excused} cannot be shown by a broker's tests and say why.",
            *_table(rules, proofs),
        ]
        if unnumbered := standard.unnumbered():
            lines += [
                "",
                f"### MQTT {standard.version}: what has no number",
                "",
                "Recommendations, permissions and plain prose, under ids of ours.",
                *_table(unnumbered, proofs),
            ]
    return "\n".join(lines) + "\n"


def _table(rules: Mapping[str, Rule], proofs: Proofs) -> list[str]:
    lines = ["", "| id | rule | binds | tests |", "|---|---|---|---|"]
    for name, rule in rules.items():
        shown = ", ".join(map(_link, proofs.get(name, []))) or f"none. {rule.untestable}".strip()
        lines.append(f"| {name} | {_cell(rule.text)} | {rule.binds} | {_cell(shown)} |")
    return lines


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{Path(path).name}::{name}](../{path})"


def _cell(text: str) -> str:
    return re.sub(r"([|])", r"\\\1", text)


def main(arguments: list[str]) -> int:
    found = collect()
    if arguments == ["--json"]:
        print(json.dumps(found, sort_keys=True))
        return 0
    PAGE.write_text(page(found))
    for standard in STANDARDS:
        for name in unproven(standard.rules(), found[standard.mark]):
            print(f"MQTT {standard.version}: no test proves {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
