"""The benchmark command runs, with small numbers and this broker alone. No time is asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scenarios import SCENARIOS, Scenario

# All scenarios run before the first test: half a minute on two cores that others use, too.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command has written its results, every scenario once."""
    directory = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--peer", "mqttcluster", "--save", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (directory / "results.json").exists(), done.stderr
    # The exit code says what the tests here find one by one.
    result = json.loads((directory / "results.json").read_text())
    assert (done.returncode == 0) == all("failed" not in run for run in result["runs"]), done.stderr
    return directory


@pytest.fixture(scope="module")
def runs(saved: Path) -> dict[str, dict[str, Any]]:
    result = json.loads((saved / "results.json").read_text())
    return {run["scenario"]: run for run in result["runs"]}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_runs_and_nothing_is_lost(scenario: Scenario, runs: dict[str, dict[str, Any]]) -> None:
    """Messages come through, each once and in order; at QoS 0 a broker under full load may drop some."""
    run = runs[scenario.name]
    assert "failed" not in run, run["failed"]
    assert run["rate"] > 0
    assert (run["repeated"], run["reordered"]) == (0, 0)
    if scenario.qos:
        assert run["lost"] == 0


def test_results_are_written_as_page_data_and_picture(saved: Path) -> None:
    """RESULTS.md names every scenario, and the picture has a bar for each."""
    page, picture = (saved / "RESULTS.md").read_text(), (saved / "results.svg").read_text()
    for scenario in SCENARIOS:
        assert scenario.title in page
        assert scenario.title in picture.replace("&gt;", ">")
    assert picture.count("<rect") == len(SCENARIOS) + 1
