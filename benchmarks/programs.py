"""A process: started, stopped by its id, and what it uses, read from /proc."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
#: Seconds a program has to start, and to stop.
START, STOP = 40.0, 10.0
#: Ports for listeners lie below those that the system gives to connections. None is given twice.
_PORTS = iter(random.sample(range(18000, 32000), 14000))


def cpu(pid: int) -> float:
    """Processor seconds used so far, in all threads."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICK


def memory(pid: int) -> int:
    """Bytes of memory that are this process's own (its proportional set size)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc has no Pss")


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise Failed("no port is free")


@dataclass(slots=True)
class Used:
    """Processor seconds of each program, and of the load."""

    programs: list[float]
    load: float

    def per(self, messages: int, seconds: float) -> dict[str, Any]:
        """Microseconds per message of all programs and of each; of one processor, the share of programs and load."""
        each = [1e6 * used / max(messages, 1) for used in self.programs]
        return {
            "cpu": sum(each),
            "cpus": each,
            "busy": sum(self.programs) / seconds,
            "load": self.load / seconds,
        }


class Usage:
    """What programs use between `begin` and `end`."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def total(self) -> float:
        """Processor seconds of all programs so far."""
        return sum(map(cpu, self._pids))

    def waiting(self) -> bool:
        """Whether no thread of the programs is at work, or would be if it were given a processor."""
        stats = (path for pid in self._pids for path in Path(f"/proc/{pid}/task").glob("*/stat"))
        return all(stat.read_text().rpartition(")")[2].split()[0] not in "RD" for stat in stats)

    def begin(self) -> None:
        self._before, self._own = [cpu(pid) for pid in self._pids], time.process_time()

    def end(self) -> Used:
        after = [cpu(pid) for pid in self._pids]
        return Used([late - early for late, early in zip(after, self._before)], time.process_time() - self._own)

    def settle(self, most: float = 10.0) -> None:
        """Wait, at most so many seconds, until the programs have nothing to do."""
        end = time.monotonic() + most
        before = self.total()
        while time.monotonic() < end:
            time.sleep(0.1)
            now = self.total()
            if now - before < 0.015 and self.waiting():
                return
            before = now


class Failed(Exception):
    """A program has not started."""


class Program:
    """One process with its log. It has started when `ready` says so."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        run: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        path = self._log = run / f"{name}.log"
        env = {key: value for key, value in os.environ.items() if not key.startswith("MQTTCLUSTER_")}
        env.update(environment or {})
        with path.open("wb") as log:
            self._process = subprocess.Popen(
                list(command), cwd=run, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.pid = self._process.pid
        end = time.monotonic() + START
        try:
            while not ready():
                if self._process.poll() is not None or time.monotonic() > end:
                    raise Failed(f"{name} has not started; its log:\n{self.last_words()}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def runs(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
