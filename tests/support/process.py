"""A broker as a real process, watched through its log.

Readiness, ports and faults are read from the log line by line; nothing here waits for a time to pass. Every process is
ended by its own process id.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tests.support.ports import free_port
from tests.support.wire import PATIENCE, Wire

#: Words that no healthy broker writes.
FAULTS = re.compile(r"Traceback|Unhandled")

TCP, WEBSOCKET, TLS, UNIX = "tcp", "websocket", "tls", "unix"


class Recipe(Protocol):
    """How to start one kind of broker."""

    #: Listeners it can offer, a subset of TCP, WEBSOCKET, TLS, UNIX.
    offers: frozenset[str]

    def command(self, run: Path, ports: Mapping[str, int | str]) -> Sequence[str]:
        """The command line. `run` is its directory; `ports` has the listeners wanted, with their ports or paths."""

    def ready(self, line: str) -> Mapping[str, int | str]:
        """The listeners that this log line says are open, with their ports or paths."""


class Log:
    """Lines as they come, from one process or several in turn."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()

    def __str__(self) -> str:
        return "\n".join(self.since(0))

    def add(self, line: str) -> None:
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def since(self, number: int) -> list[str]:
        """The lines from `number` on."""
        with self._changed:
            return self.lines[number:]

    def more(self, number: int, seconds: float) -> bool:
        """Wait until there are more than `number` lines; false after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.lines) > number, seconds)

    def wait_for(self, pattern: str, deadline: float = PATIENCE, since: int = 0) -> str:
        """The first line, past or future, from number `since` on, in which the regular expression is found."""
        expression, seen, end = re.compile(pattern), since, time.monotonic() + deadline
        while True:
            lines = self.since(seen)
            for line in lines:
                if expression.search(line):
                    return line
            seen += len(lines)
            assert self.more(seen, end - time.monotonic()), f"no line matches {pattern!r} in:\n{self}"


class Process:
    """One process; what it writes goes to `log`, line by line."""

    def __init__(self, command: Sequence[str], run: Path, log: Log | None = None) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("MQTTCLUSTER_")}
        if os.environ.get("TEST_NO_FAST_LANE"):  # .ci/run runs the tests that publish much a second time, without it
            env["MQTTCLUSTER_NO_FAST_LANE"] = "true"
        self._popen = subprocess.Popen(
            list(command),
            cwd=run,
            env={**env, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._popen.pid
        self.log = log if log is not None else Log()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in output:
                self.log.add(line.decode(errors="replace").rstrip("\n"))

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def wait(self, deadline: float = PATIENCE) -> int:
        """Its exit code, once it has ended by itself and its last line is in the log."""
        code = self._popen.wait(deadline)
        self._reader.join(20)
        return code

    def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        self._popen.kill()
        self.wait()

    def terminate(self, deadline: float = PATIENCE) -> int | None:
        """SIGTERM; the exit code, or None if it had to be killed after `deadline` seconds."""
        self._popen.terminate()
        try:
            return self.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Broker:
    """A broker process that can be killed and started again, with the same store on the same ports.

    `ports` maps each listener to its port (or path); `log` has what all its processes wrote.
    """

    host = "127.0.0.1"

    def __init__(self, recipe: Recipe, run: Path, listeners: Sequence[str] = (TCP, WEBSOCKET)) -> None:
        self.recipe = recipe
        self.run = run
        self.ports: dict[str, int | str] = {
            name: str(run / "mqtt.sock") if name == UNIX else free_port()
            for name in listeners
            if name in recipe.offers
        }
        self.log = Log()
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.ports[TCP])

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def wire(self) -> Wire:
        """A new connection over TCP."""
        return Wire(self.address)

    def start(self, deadline: float = 2 * PATIENCE) -> None:
        """Start it, and return when every listener is open. Fails with its log after `deadline` seconds."""
        seen, waiting, end = len(self.log.lines), set(self.ports), time.monotonic() + deadline
        process = self._process = Process(self.recipe.command(self.run, self.ports), self.run, self.log)
        while waiting:
            lines = self.log.since(seen)
            seen += len(lines)
            for line in lines:
                opened = self.recipe.ready(line)
                self.ports.update(opened)
                waiting -= opened.keys()
            left = end - time.monotonic()
            if waiting and not self.log.more(seen, min(left, 0.5)) and (left <= 0 or not process.running):
                ended = "has not opened" if process.running else "ended before it opened"
                self.kill()
                raise AssertionError(f"the broker {ended} {sorted(waiting)}; its log:\n{self.log}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def stop(self) -> None:
        """SIGTERM, as an orderly shutdown; fails if it does not end by that, or had ended before."""
        process, self._process = self._process, None
        if process is None:
            return
        if not process.running:
            raise AssertionError(f"the broker had ended by itself, code {process.wait()}; its log:\n{self.log}")
        code = process.terminate()
        # twistd passes on the signal that ended it, to whoever waits.
        assert code in (0, -signal.SIGTERM), f"the broker ended with code {code} on SIGTERM; its log:\n{self.log}"

    def restart(self) -> None:
        """Start it again, on the same store and the same ports."""
        self.kill()
        self.start()

    def faults(self, since: int = 0) -> list[str]:
        """Log lines, from number `since` on, that tell of a fault."""
        return [line for line in self.log.since(since) if FAULTS.search(line)]
