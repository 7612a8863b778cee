"""A Redis server of its own for a test: on a free port of the loopback interface, with its data in a directory."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

#: Seconds; only a test that has failed waits as long.
PATIENCE = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A process of redis-server. Stopped and started again it keeps its port and its data (an append-only file).

    `fsync` is Redis's ``appendfsync``; with "always" nothing that was acknowledged is lost by `kill`.
    """

    def __init__(self, directory: Path, options: Sequence[str] = (), fsync: str = "always") -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not on the PATH"
        self.directory = directory
        self.port = free_port()
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--daemonize", "no", *options),
        ]
        self._password = options[options.index("--requirepass") + 1] if "--requirepass" in options else ""
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def url(self) -> str:
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def client(self) -> Any:
        """A connection for the test itself, which answers what Redis answers."""
        return redis.Redis.from_url(self.url, protocol=2, socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        """Start, with the data that is there, and wait until it answers."""
        assert self._process is None, "started already"
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = monotonic() + PATIENCE
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except (RedisError, OSError):
                    assert self._process.poll() is None, (self.directory / "redis.log").read_text()
                    assert monotonic() < end, "redis-server does not answer"
                    sleep(0.02)

    def stop(self) -> None:
        """End it in an orderly way. It may be started again."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self.resume()
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    def snapshot(self) -> Path:
        """Copy the data as it is now, for `go_back_to`."""
        copy = Path(tempfile.mkdtemp(dir=self.directory, prefix="snapshot"))
        shutil.copytree(self.directory / "appendonlydir", copy / "appendonlydir")
        return copy

    def go_back_to(self, snapshot: Path) -> None:
        """Kill it and start it with the data of then: it has forgotten what it acknowledged since."""
        self.kill()
        shutil.rmtree(self.directory / "appendonlydir")
        shutil.copytree(snapshot / "appendonlydir", self.directory / "appendonlydir")
        self.start()

    def pause(self) -> None:
        """It is there and does nothing, until `resume`."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        if self._paused and self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self._paused = False
