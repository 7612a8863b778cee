"""Throughput from one node to another, beside two aedes nodes on the same Redis in the same run.

    python benchmarks/cluster.py            # prints the figures
    python benchmarks/cluster.py --save     # and writes them to cluster.json and RESULTS.md
    python benchmarks/cluster.py --only qos0 --peer mqttcluster --repeat 1 --seconds 1

Peers take turns in each scenario, and the whole is repeated; the medians count. `load` says what is offered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from load import Outcome, Scenario, measure
from peers import PEERS, Peer, Program, redis_version, start_redis

HERE = Path(__file__).resolve().parent
WARM = 0.5
SCENARIOS = (
    Scenario("qos0", "QoS 0, 1 → 1", 0, False, 1, 2000),
    Scenario("qos0-pairs", "QoS 0, 20 → 20 pairs", 0, False, 20, 100),
    Scenario("qos1", "QoS 1, clean, 1 → 1", 1, False, 1, 500),
    Scenario("qos1-pairs", "QoS 1, clean, 20 → 20 pairs", 1, False, 20, 50),
    Scenario("persistent", "QoS 1, persistent, 1 → 1", 1, True, 1, 500),
    Scenario("persistent-pairs", "QoS 1, persistent, 20 → 20 pairs", 1, True, 20, 50),
)


@contextmanager
def started(peers: Sequence[Peer]) -> Iterator[dict[str, list[Program]]]:
    """A Redis, and two nodes of each peer on it: peer → node A, node B, Redis."""
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))

        def add(program: Program) -> Program:
            stack.callback(program.stop)
            return program

        redis = add(start_redis(run))
        programs = {}
        for peer in peers:
            nodes = [add(peer.start(number, redis, run)) for number in (1, 2)]
            programs[peer.name] = [*nodes, redis]
        yield programs


def run_all(peers: Sequence[Peer], scenarios: Sequence[Scenario], repeat: int, seconds: float) -> list[dict[str, Any]]:
    """One row for each scenario and peer, made of the medians of `repeat` runs."""
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    with started(peers) as programs:
        for turn in range(repeat + 1):
            for scenario in scenarios:
                for peer in peers:
                    measured = programs[peer.name]
                    ports = [program.port for program in measured[:2]]
                    run = f"{turn}{SCENARIOS.index(scenario)}"
                    # The first turn only warms the brokers up.
                    outcome = measure(
                        scenario,
                        ports,
                        run,
                        WARM,
                        seconds if turn else WARM,
                        lambda measured=measured: [program.cpu() for program in measured],
                    )
                    if turn:
                        outcomes.setdefault((scenario.name, peer.name), []).append(outcome)
                    print(f"{scenario.name:17} {peer.name:12} {_brief(outcome)}", file=sys.stderr)
                    if outcome.lost or outcome.repeated or outcome.reordered:
                        for program in measured:
                            print(f"-- {program.name}:\n{program.last_words()}", file=sys.stderr)
    return [_row(scenario, peer, outcomes[scenario.name, peer.name]) for scenario in scenarios for peer in peers]


def _brief(outcome: Outcome) -> str:
    cpu = " + ".join(f"{1e6 * used / max(outcome.messages, 1):.1f}" for used in outcome.cpu)
    wrong = f"lost {outcome.lost}, repeated {outcome.repeated}, reordered {outcome.reordered}"
    return f"{outcome.rate:9,.0f}/s  {cpu} µs  load {outcome.generator:.0%}  {wrong}"


def _row(scenario: Scenario, peer: Peer, runs: Sequence[Outcome]) -> dict[str, Any]:
    """Processor time in microseconds per message."""
    cpu = [[1e6 * run.cpu[at] / max(run.messages, 1) for run in runs] for at in range(3)]
    return {
        "scenario": scenario.name,
        "peer": peer.name,
        "rate": round(median(run.rate for run in runs)),
        "rates": [round(run.rate) for run in runs],
        "cpu_a": round(median(cpu[0]), 1),
        "cpu_b": round(median(cpu[1]), 1),
        "cpu_redis": round(median(cpu[2]), 1),
        "cpu": round(median(map(sum, zip(*cpu, strict=True))), 1),
        "generator": round(median(run.generator for run in runs), 2),
        "lost": sum(run.lost for run in runs),
        "repeated": sum(run.repeated for run in runs),
        "reordered": sum(run.reordered for run in runs),
    }


def table(rows: Sequence[dict[str, Any]], scenarios: Sequence[Scenario]) -> str:
    """Markdown. The last column says how many times the throughput of the peer in the same scenario."""
    names = {scenario.name: scenario.title for scenario in scenarios}
    rates = {(row["scenario"], row["peer"]): row["rate"] for row in rows}
    lines = [
        "| | broker | messages/s | times aedes | µs CPU per message: all | node A | node B | Redis | load's CPU | lost, repeated, reordered |",  # noqa: E501
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        other = rates.get((row["scenario"], "aedes"))
        times = f"{row['rate'] / other:.1f}" if other and row["peer"] != "aedes" else ""
        cells = [names[row["scenario"]], row["peer"], f"{row['rate']:,}", times]
        cells += [str(row[key]) for key in ("cpu", "cpu_a", "cpu_b", "cpu_redis")]
        cells += [f"{row['generator']:.0%}", f"{row['lost']}, {row['repeated']}, {row['reordered']}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": os.cpu_count(),
        "processor": model[1] if model else platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def save(result: dict[str, Any], figures: str) -> None:
    """Into cluster.json, and into the section of RESULTS.md that this command owns."""
    (HERE / "cluster.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    where = result["machine"]
    lines = [
        f"`{result['command']}`, {result['date']}, {result['repeat']} runs of {result['seconds']:g} s each, medians.",
        f"{where['cores']} cores of {where['processor']}, {where['system']}, shared by brokers, Redis and load;",
        f"load average before the run {where['load_before']}.",
        "",
        *(f"- {name}: {version}" for name, version in result["versions"].items()),
        "",
        figures,
    ]
    path, mark = HERE / "RESULTS.md", "cluster"
    begin, end = f"<!-- {mark}: made by {mark}.py -->", f"<!-- end of {mark} -->"
    head, found, rest = path.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"RESULTS.md has no place for {mark}")
    path.write_text(head + "\n".join([begin, "", *lines, "", end]) + tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", choices=[s.name for s in SCENARIOS], action="append")
    parser.add_argument("--peer", metavar="NAME", choices=[peer.name for peer in PEERS], action="append")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    peers = [peer for peer in PEERS if not options.peer or peer.name in options.peer]
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/cluster.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "repeat": options.repeat,
        "seconds": options.seconds,
        "machine": machine(),
        "versions": {peer.name: peer.version() for peer in peers} | {"Redis": redis_version()},
        "scenarios": [asdict(scenario) for scenario in scenarios],
    }
    result["rows"] = run_all(peers, scenarios, options.repeat, options.seconds)
    figures = table(result["rows"], scenarios)
    print(figures)
    if options.save:
        save(result, figures)
    if any(row["lost"] or row["repeated"] or row["reordered"] for row in result["rows"]):
        raise SystemExit("messages were lost, repeated or out of order")


if __name__ == "__main__":
    main()
