"""From measurements to figures: medians, the table, RESULTS.md and results.json."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import chart
from benchmarks.goals import GOALS, MOSQUITTO, met, reached
from benchmarks.scenarios import ALONE, BY_NAME, CLUSTER, SCENARIOS, Scenario

#: A load that uses more of its processor than this may have been the limit.
BUSY = 0.85


def machine() -> dict[str, Any]:
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": os.cpu_count(),
        "processor": model[1] if model else platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each scenario and broker: medians, and the lowest and the highest of the figure that counts."""
    rows = []
    for scenario in SCENARIOS:
        peers = dict.fromkeys(run["peer"] for run in runs if run["scenario"] == scenario.name)
        for peer in peers:
            mine = [run for run in runs if run["scenario"] == scenario.name and run["peer"] == peer]
            rows.append({"scenario": scenario.name, "peer": peer, **_medians(scenario, mine)})
    return rows


def _medians(scenario: Scenario, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    good = [run for run in runs if "failed" not in run and "lacks" not in run]
    if not good:
        return {key: run[key] for run in runs for key in ("failed", "lacks") if key in run}
    row: dict[str, Any] = {}
    for key, value in good[0].items():
        values = [run[key] for run in good if run[key] is not None]
        if key in ("lost", "repeated", "reordered"):
            row[key] = sum(values) if len(values) == len(good) else None
        elif isinstance(value, list):
            row[key] = [median(each) for each in zip(*values)]
        elif isinstance(value, (int, float)) and key != "round":
            row[key] = median(values)
    figures = [run[scenario.metric.key] for run in good]
    row.update(lowest=min(figures), highest=max(figures), total=sum(run.get("messages", 0) for run in good))
    failed = [run["failed"] for run in runs if "failed" in run]
    return {**row, "failed_later": failed[0]} if failed else row


def _milliseconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def notes(scenario: Scenario, row: dict[str, Any]) -> str:
    """What else there is to say about a figure."""
    words = []
    if scenario.kind == "paced":
        words.append(f"p50 {_milliseconds(row['p50'])} ms, p99 {_milliseconds(row['p99'])} ms")
        if row["late"] > 0.02:
            words.append(f"only {row['rate']:,.0f}/s of what was offered")
    if scenario.kind == "held":
        words.append(f"{row['rate']:,.0f}/s, with 10 {row['rate_with_10']:,.0f}/s")
    if scenario.kind in ("retained", "queue"):
        words.append(f"in {row['seconds']:.2f} s; stored at {row['filling']:,.0f}/s")
    if scenario.where == CLUSTER:
        words.append("A {:.1f}, B {:.1f}, Redis {:.1f} µs".format(*row["cpus"]))
    if row["lost"] is None:
        words.append("too much under way to count loss")
    for key in ("lost", "repeated", "reordered"):
        if row[key]:
            words.append(f"{key} {row[key]:,}")
    if row["load"] > BUSY:
        words.append("the load was at its limit")
    if "failed_later" in row:
        words.append(f"failed once: {row['failed_later'].splitlines()[0]}")
    return "; ".join(words)


def brief(scenario: Scenario, result: dict[str, Any]) -> str:
    """One line about one measurement."""
    if "failed" in result:
        return f"failed: {result['failed']}\n{result.get('log', '')}"
    metric = scenario.metric
    figure = f"{metric.form.format(result[metric.key])} {metric.unit}"
    return f"{figure}  {result['cpu']:.1f} µs  load {result['load']:.0%}  {notes(scenario, result)}"


def figure(result: dict[str, Any], scenario: str, peer: str, key: str) -> float | None:
    for row in result["figures"]:
        if row["scenario"] == scenario and row["peer"] == peer:
            value: float | None = row.get(key)
            return value
    return None


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = []
    for where in (ALONE, CLUSTER):
        rows = [row for row in result["figures"] if BY_NAME[row["scenario"]].where == where]
        rows = [row for row in rows if not row.get("lacks")]
        if not rows:
            continue
        other = MOSQUITTO if where == ALONE else "aedes"
        lines += [
            "",
            f"| {where} | broker | median | lowest to highest | times {other} | µs CPU | load | |",
            "|---|---|--:|--:|--:|--:|--:|---|",
        ]
        before = ""
        for row in rows:
            scenario = BY_NAME[row["scenario"]]
            title = "" if scenario.name == before else f"{scenario.title} ({scenario.metric.unit})"
            before = scenario.name
            lines.append("| " + " | ".join([title, row["peer"], *_cells(result, scenario, row, other)]) + " |")
    return "\n".join(lines)


def _cells(result: dict[str, Any], scenario: Scenario, row: dict[str, Any], other: str) -> list[str]:
    if "failed" in row:
        return ["failed", "", "", "", "", row["failed"].splitlines()[0]]
    metric = scenario.metric
    value = row[metric.key]
    beside = figure(result, scenario.name, other, metric.key)
    times = f"{value / beside:.2f}" if beside and row["peer"] != other else ""
    span = f"{metric.form.format(row['lowest'])} to {metric.form.format(row['highest'])}"
    return [metric.form.format(value), span, times, f"{row['cpu']:.1f}", f"{row['load']:.0%}", notes(scenario, row)]


def goals(result: dict[str, Any]) -> str:
    """Markdown: what was to be reached, of what was measured."""
    lines = []
    for goal in GOALS:
        value = reached(goal, lambda *key: figure(result, *key))
        if value is not None:
            metric = BY_NAME[goal.scenario].metric
            unit = metric.unit if metric.key == goal.metric else {"p99": "p99 latency", "rate": "rate"}[goal.metric]
            got = f"{value:.2f} times" if goal.beside else goal.form.format(value)
            title = f"{BY_NAME[goal.scenario].title} ({unit})"
            lines.append(f"| {title} | {goal.wanted} | {got} | {'yes' if met(goal, value) else 'no'} |")
    if not lines:
        return ""
    return "\n".join(["", "| | goal | reached | |", "|---|--:|--:|---|", *lines])


def defects(runs: Sequence[dict[str, Any]], peer: str) -> list[str]:
    """What must not happen to this broker: failures, and at QoS 1 and 2 anything lost, repeated or out of order."""
    lines = []
    for run in runs:
        if run["peer"] != peer or "lacks" in run:
            continue
        scenario = BY_NAME[run["scenario"]]
        if "failed" in run:
            lines.append(f"{scenario.name}: {run['failed']}")
            continue
        strict = scenario.qos or scenario.arguments.get("numbered")
        wrong = {key: run[key] for key in ("lost", "repeated", "reordered") if run[key]}
        if wrong and strict:
            lines.append(f"{scenario.name}: " + ", ".join(f"{count} {key}" for key, count in wrong.items()))
    return lines


def save(result: dict[str, Any], directory: Path) -> None:
    """RESULTS.md, results.json and results.svg."""
    (directory / "results.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (directory / "results.svg").write_text(chart.draw(result["figures"]))
    where = result["machine"]
    lines = [
        "# Results",
        "",
        "What is measured and how far it can be trusted: [README.md](README.md). The same as [JSON](results.json).",
        "",
        f"`{result['command']}`, {result['date']}: {result['rounds']} rounds of {result['seconds']:g} s, medians,",
        f"MQTT {'5.0' if result['version'] == 5 else '3.1.1'}. {where['cores']} cores of {where['processor']},",
        f"{where['system']}, shared by brokers and load; load average before the run {where['load_before']}.",
        "",
    ]
    for name, about in result["brokers"].items():
        lines.append(f"- {name} {about['version']}" + (f": {about['remarks']}" if about["remarks"] else ""))
    if "redis" in result:
        lines.append(f"- Redis {result['redis']}")
    lines += ["", "![The figures as bars](results.svg)", table(result)]
    wanted = goals(result)
    if wanted:
        lines += ["", "## Goals", wanted]
    (directory / "RESULTS.md").write_text("\n".join(lines) + "\n")
