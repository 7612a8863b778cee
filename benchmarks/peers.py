"""The programs that are measured: a Redis, and two nodes of each broker on it.

A `Program` is one process with its processor time. `start_redis` starts a private Redis; each entry of `PEERS` starts
two nodes of one broker on it. All listen on loopback, on free ports, and are stopped by their process ids.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AEDES = Path(__file__).resolve().with_name("aedes")
TICK = os.sysconf("SC_CLK_TCK")


class Program:
    """One process that has said `ready` (a regular expression; its first group is the port). `port` if it is known."""

    def __init__(self, name: str, command: Sequence[str], run: Path, ready: str, port: int = 0) -> None:
        self.name = name
        path = self._log = run / f"{name}.log"
        env = {key: value for key, value in os.environ.items() if not key.startswith("MQTTCLUSTER_")}
        with path.open("wb") as log:
            self._process = subprocess.Popen(
                list(command), cwd=run, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        found, end = None, time.monotonic() + 30
        while found is None:
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise SystemExit(f"{name} has not started; its log:\n{path.read_text(errors='replace')}")
            time.sleep(0.05)
            found = re.search(ready, path.read_text(errors="replace"))
        self.port = port or int(found[1])

    def cpu(self) -> float:
        """Processor seconds used so far, in all threads."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICK

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(slots=True)
class Peer:
    """A broker: its `name`, its `version`, and how to start the node with a number on a Redis."""

    name: str
    version: Callable[[], str]
    start: Callable[[int, Program, Path], Program]


def start_redis(run: Path) -> Program:
    """A Redis that keeps nothing on disk."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Program("redis", command, run, "(?i)ready to accept connections", port)


def redis_version() -> str:
    return _first_number(["redis-server", "--version"])


def _start_mqttcluster(number: int, redis: Program, run: Path) -> Program:
    # This checkout, and not a copy that may be installed.
    twistd = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from twisted.scripts.twistd import run; run()"
    command = [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "mqttcluster"]
    command += ["--node", f"n{number}", "--listen", "tcp:0:interface=127.0.0.1", "--websocket", "none"]
    command += ["--store", f"redis://127.0.0.1:{redis.port}/0"]
    return Program(f"mqttcluster-{number}", command, run, r"listening for MQTT\b.* on \S+:(\d+)")


def _mqttcluster_version() -> str:
    found = re.search(r'__version__ = "(.+)"', (ROOT / "mqttcluster" / "__init__.py").read_text())
    assert found is not None
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return f"{found[1]} ({commit.stdout.strip() or 'no git'}), Python {sys.version.split()[0]}"


def _start_aedes(number: int, redis: Program, run: Path) -> Program:
    _install_aedes()
    command = ["node", str(AEDES / "node.mjs"), str(redis.port)]
    return Program(f"aedes-{number}", command, run, r"listening on (\d+)")


def _install_aedes() -> None:
    """Into its directory, unless what its package.json asks for is there."""
    wanted, stamp = AEDES / "package.json", AEDES / "node_modules" / ".installed"
    with wanted.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes():
            command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--silent"]
            subprocess.run(command, cwd=AEDES, check=True)
            stamp.write_bytes(wanted.read_bytes())


def _aedes_version() -> str:
    asked = re.findall(r'"([\w-]+)": "([\d.]+)"', (AEDES / "package.json").read_text())
    return ", ".join(f"{name} {version}" for name, version in asked) + f", Node {_first_number(['node', '--version'])}"


def _first_number(command: Sequence[str]) -> str:
    output = subprocess.run(list(command), capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", output)
    return found[0] if found else output.strip()


PEERS = (
    Peer("mqttcluster", _mqttcluster_version, _start_mqttcluster),
    Peer("aedes", _aedes_version, _start_aedes),
)
