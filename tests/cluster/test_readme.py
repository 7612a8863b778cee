"""The cluster of the README, by its own commands, word for word."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.nodes import until
from tests.support.brokers import ROOT
from tests.support.ports import free_port, keep
from tests.support.process import FAULTS, Process

README = ROOT / "README.md"
REDIS, NODES = "6379", ("18831", "18832")


def commands() -> list[str]:
    """What the section tells to type."""
    section = README.read_text().split("## Run a cluster on this machine\n")[1].split("\n## ")[0]
    [end] = re.findall(r"`([^`\n]+)` ends the nodes", section)
    return [*re.findall(r"```sh\n(.*?)\n```", section, re.DOTALL), end]


def taken(port: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError:
            return True
    return False


def elsewhere(texts: list[str]) -> list[str]:
    """The same commands on other ports. Those of the nodes differ in the last digit."""
    while True:
        redis, first = str(free_port()), str(free_port())[:-1]
        if redis[:-1] != first and not any(taken(first + last) for last in "12"):
            for last in "12":
                keep(int(first + last))
            return [text.replace(REDIS, redis).replace(NODES[0][:-1], first) for text in texts]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A daemon's parent is whoever adopts orphans here, and need not be quick to look after the dead.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_commands(tmp_path: Path) -> None:
    """Redis, two nodes, and a message from one to the other: what the README promises."""
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto's clients are not installed")
    redis, nodes, message, end = commands()
    with README.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # against another run of the tests on this machine
            free = not any(taken(port) for port in (REDIS, *NODES))
        except OSError:
            free = False
        if not free:
            redis, nodes, message = elsewhere([redis, nodes, message])
        _follow(tmp_path, redis, nodes, message, end)


def _follow(directory: Path, redis: str, nodes: str, message: str, end: str) -> None:
    # The README's virtual environment has an installed mqttcluster; this one has this checkout.
    twistd = directory / ".venv" / "bin" / "twistd"
    twistd.parent.mkdir(parents=True)
    here = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    twistd.write_text(f"#!{sys.executable}\n{here}from twisted.scripts.twistd import run\nrun()\n")
    twistd.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MQTTCLUSTER_")}

    server = Process(["bash", "-c", f"exec {redis}"], directory)
    pids: list[int] = []
    logs = [directory / "n1.log", directory / "n2.log"]
    try:
        server.log.wait_for("Ready to accept connections")
        subprocess.run(["bash", "-c", nodes], cwd=directory, env=env, check=True, timeout=60)
        until(lambda: all((directory / f"{name}.pid").exists() for name in ("n1", "n2")))
        pids = [int((directory / f"{name}.pid").read_text()) for name in ("n1", "n2")]
        until(lambda: all(log.exists() and "listening for MQTT" in log.read_text() for log in logs))
        heard = subprocess.run(
            ["bash", "-c", message], cwd=directory, env=env, capture_output=True, text=True, check=True, timeout=60
        )
        assert heard.stdout == "sensors/kitchen 21.5\n"
        subprocess.run(["bash", "-c", end], cwd=directory, env=env, check=True, timeout=60)
        for pid in pids:
            until(lambda pid=pid: gone(pid))  # type: ignore[misc]
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGTERM)
        for pid in pids:
            until(lambda pid=pid: gone(pid))  # type: ignore[misc]
        server.terminate()
    for number, log in enumerate(logs, 1):
        text = log.read_text()
        assert not FAULTS.search(text), text
        assert f"node n{number}, store redis://" in text
        assert len(re.findall("client .* connected from", text)) == 1, "one client at each node"


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)#:]+)\)", README.read_text()))
def test_the_links(name: str) -> None:
    """What the README points at is there."""
    assert (ROOT / name).exists()
