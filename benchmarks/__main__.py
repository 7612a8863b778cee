"""Measure this broker beside others.

    python -m benchmarks --list                                   what there is
    python -m benchmarks --scenario qos0-1-1 --peer mqttcluster --peer mosquitto
    python -m benchmarks --install --rounds 5 --seconds 2 --save  everything, into RESULTS.md

Brokers take turns within each scenario, in several rounds; the medians count.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks import peers as brokers
from benchmarks import report
from benchmarks.goals import OWN
from benchmarks.peers import HERE, PEERS, ROOT, Broker, Peer, Site
from benchmarks.programs import Failed, Usage
from benchmarks.scenarios import BY_NAME, CLUSTER, SCENARIOS, Scenario, quick

#: Seconds a measurement may take, beyond those that count.
LIMIT = 120.0
#: Seconds before those that count; in a cluster more has to get going.
WARM, WARM_CLUSTER = 0.4, 0.8


class House:
    """The brokers that run, each in a directory of its own."""

    def __init__(self, base: Path) -> None:
        self._base, self._count = base, 0
        self._running: dict[tuple[str, str, bool], Broker] = {}
        self._key, self._certificate = brokers.make_certificate(base)

    def get(self, peer: Peer, scenario: Scenario) -> Broker:
        """The broker for this scenario; it is started if it does not run."""
        key = (peer.name, scenario.where, scenario.durable)
        if key not in self._running:
            self._count += 1
            run = self._base / str(self._count)
            run.mkdir()
            site = Site(run, self._key, self._certificate, scenario.durable)
            start = peer.cluster if scenario.where == CLUSTER else peer.start
            assert start is not None
            self._running[key] = start(site)
        return self._running[key]

    def drop(self, broker: Broker) -> None:
        """Stop it; the next one starts anew."""
        self._running = {key: other for key, other in self._running.items() if other is not broker}
        broker.stop()

    def quiet(self) -> None:
        """Wait until none of them has anything to do."""
        Usage([program.pid for broker in self._running.values() for program in broker.programs]).settle()

    def close(self) -> None:
        for broker in list(self._running.values()):
            self.drop(broker)


def lacks(peer: Peer, scenario: Scenario, version: int) -> str:
    """Why the scenario is not for this broker; empty if it is."""
    if scenario.where == CLUSTER and peer.cluster is None:
        return "it is not run as a cluster here"
    if scenario.transport not in peer.transports:
        return f"no {scenario.transport} here"
    if scenario.qos > peer.qos:
        return f"no QoS {scenario.qos}"
    if version not in peer.versions:
        return "no MQTT 5.0" if version == 5 else "no MQTT 3.1.1"
    return ""


def request(scenario: Scenario, broker: Broker, options: argparse.Namespace, run: str) -> dict[str, Any]:
    """What `worker` is asked."""
    arguments = quick(scenario) if options.quick else dict(scenario.arguments)
    pids = [program.pid for program in broker.programs]
    arguments.update(run=run, version=options.version, pids=pids)
    ports = broker.ports[scenario.transport]
    if scenario.kind in ("flow", "paced", "held"):
        warm = 0.05 if options.quick else WARM_CLUSTER if scenario.where == CLUSTER else WARM
        arguments.update(ports=ports, warm=warm, seconds=options.seconds)
    else:
        arguments["port"] = ports[0]
        if scenario.kind == "connects":
            arguments.setdefault("transport", scenario.transport)
    return {"kind": scenario.kind, "arguments": arguments}


def measure(question: dict[str, Any], limit: float) -> dict[str, Any]:
    """Ask a worker; `failed` in its answer says what went wrong."""
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(question)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {limit:.0f} s"}
    if done.returncode:
        return {"failed": f"the load has ended:\n{done.stderr}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def run_all(
    scenarios: Sequence[Scenario], peers: Sequence[Peer], options: argparse.Namespace, say: Any
) -> list[dict[str, Any]]:
    """Every measurement: scenario, peer, round, and what came of it."""
    runs: list[dict[str, Any]] = []
    total = len(scenarios) * len(peers) * options.rounds
    number = 0
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        house = House(base)
        stack.callback(house.close)
        # Ctrl-C ends the measuring and not the report.
        stack.enter_context(suppress(KeyboardInterrupt))
        for scenario in scenarios:
            gone: set[str] = set()
            for turn in range(options.rounds):
                for peer in peers:
                    number += 1
                    why = lacks(peer, scenario, options.version)
                    if why or peer.name in gone:
                        if not turn:
                            runs.append({"scenario": scenario.name, "peer": peer.name, "round": turn, "lacks": why})
                        continue
                    result = _once(house, scenario, peer, options, f"{number:04}")
                    runs.append({"scenario": scenario.name, "peer": peer.name, "round": turn, **result})
                    if "failed" in result:
                        gone.add(peer.name)
                    say(f"{number:3}/{total} {scenario.name:25} {peer.name:12} {report.brief(scenario, result)}")
            if not options.quick:
                house.close()
    return runs


def _once(house: House, scenario: Scenario, peer: Peer, options: argparse.Namespace, run: str) -> dict[str, Any]:
    try:
        broker = house.get(peer, scenario)
    except Failed as error:
        return {"failed": str(error)}
    if not options.quick:
        house.quiet()
    result = measure(request(scenario, broker, options, run), LIMIT + 2 * options.seconds)
    ended = [program.name for program in broker.programs if not program.runs()]
    if ended:
        result = {"failed": f"{', '.join(ended)} has ended"}
    if "failed" in result:
        result["log"] = broker.last_words()
    # A broker that still has to deliver would be slow in the next round.
    if (scenario.fresh and not options.quick) or "failed" in result or result["lost"] is None:
        house.drop(broker)
    return result


def chosen(options: argparse.Namespace, say: Any) -> list[Peer]:
    """The brokers asked for that are there."""
    there = [brokers.own("baseline", options.baseline.resolve())] if options.baseline else []
    for peer in PEERS:
        if options.peer and peer.name not in options.peer:
            continue
        missing = peer.missing()
        if missing:
            say(f"without {peer.name}: {missing}")
        else:
            there.append(peer)
    return there


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = {"nargs": "+", "action": "extend", "metavar": "NAME", "default": []}
    parser.add_argument("--scenario", choices=list(BY_NAME), help="only these", **names)  # type: ignore[arg-type]
    parser.add_argument("--peer", choices=[p.name for p in PEERS], help="only these", **names)  # type: ignore[arg-type]
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each time (1)")
    parser.add_argument("--version", type=int, choices=(4, 5), default=4, help="protocol level: 4 is MQTT 3.1.1 (4)")
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=HERE,
        metavar="DIRECTORY",
        help="write RESULTS.md, results.json and results.svg, into this directory if no other is given",
    )
    parser.add_argument(
        "--baseline", type=Path, metavar="DIRECTORY", help="another checkout of this broker, to measure beside"
    )
    parser.add_argument("--install", action="store_true", help="install aedes (npm) and amqtt (pip) in here first")
    parser.add_argument("--quick", action="store_true", help="small numbers, once: only to see whether it works")
    parser.add_argument("--list", action="store_true", help="tell what can be measured, and end")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, min(options.seconds, 0.1)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 1 if this broker failed or lost what it had acknowledged."""
    options = parse(sys.argv[1:] if arguments is None else arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if options.install:
        brokers.install()
    # The brokers are stopped, too, when this command is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:25} {scenario.title} ({scenario.where})")
        for peer in PEERS:
            print(f"{peer.name:25} {peer.missing() or peer.version()}")
        return 0
    scenarios = [scenario for scenario in SCENARIOS if not options.scenario or scenario.name in options.scenario]
    peers = chosen(options, say)
    about = {
        "command": " ".join(["python -m benchmarks", *(sys.argv[1:] if arguments is None else arguments)]),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "version": options.version,
        "machine": report.machine(),
        "brokers": {peer.name: {"version": peer.version(), "remarks": peer.remarks} for peer in peers},
    }
    if any(scenario.where == CLUSTER for scenario in scenarios):
        about["redis"] = brokers.redis_version()
    runs = run_all(scenarios, peers, options, say)
    result = {**about, "figures": report.summary(runs), "runs": runs}
    print(report.table(result))
    print(report.goals(result))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        report.save(result, options.save)
    bad = report.defects(runs, OWN)
    for line in bad:
        say(line)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
