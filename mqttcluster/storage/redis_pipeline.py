"""One connection to Redis that does not give up: what it was asked to do is done once, however often it is sent.

`Pipeline.run` sends all requests at once and comes back when each has its answer. When Redis is away, busy loading, or
read-only, it waits and sends the same bytes again; the scripts' journals (``lua/journal.lua``) see to it that nothing
is done twice. Only `stop`, data that is gone, or a node that was buried end the waiting.

Whose process is behind a connection is asked once, when it is made. A process that the partitions do not know is made
known to them (``lua/mark.lua``) before anything else, since it may have forgotten the numbers it gave out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from time import monotonic
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from twisted.logger import Logger

from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.outage import Outage
from mqttcluster.storage.redis_cluster import Connection, found, server_id
from mqttcluster.storage.redis_keys import Keys
from mqttcluster.storage.redis_scripts import script

log = Logger(namespace="mqttcluster.redis")

SCRIPTS = ("partition", "retain", "since", "mark")
#: Seconds between two tries to reach Redis: the first and the longest pause.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: Errors that say "not now": some end by themselves, some when somebody has made room or changed a rule.
#: None of them leaves a script half-way. An old Redis gives the code inside of another text.
_NOT_NOW = (ReadOnlyError, OutOfMemoryError, NoPermissionError, ClusterDownError, TryAgainError)
_NOT_NOW_CODES = re.compile(r"\b(READONLY|OOM|MISCONF|BUSY|NOREPLICAS|MASTERDOWN|LOADING)\b")

Reply = Any


@dataclass(slots=True)
class Request:
    """One command. With `script`, `command` is the keys (as many as `keys` says) and the arguments of that script,
    which is also told run, server and node. Afterwards `reply` or `error` is set."""

    command: Sequence[object]
    script: str = ""
    keys: int = 0
    reply: Reply = None
    error: StoreError | None = None


class Lost(StoreError):
    """The data of the cluster is gone."""


class Buried(StoreError):
    """The other nodes hold this one for dead."""


def refused(text: str) -> StoreError:
    return StoreError(f"Redis has refused a command ({text}); if its data was changed by hand, restore a backup")


class _Direct:
    """`Commands` on a connection, one at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute_command(self, *args: Any) -> Any:
        self._connection.send_command(*args, check_health=False)
        return self._connection.read_response()


class Pipeline:
    """Requests in, answers out. All methods but `stop` and the properties belong to one thread."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._connect: Callable[[], Connection] | None = None
        self._connection: Connection | None = None
        self._server = ""
        self._keys: Keys | None = None
        self._stopping = Event()
        self._answering = False
        self._outage = Outage()

    @property
    def answering(self) -> bool:
        """Whether Redis has answered when it was asked last."""
        return self._answering

    @property
    def keys(self) -> Keys:
        assert self._keys is not None, "not opened"
        return self._keys

    def open(self, connect: Callable[[], Connection], patience: float) -> None:
        """Connect, by connections that `connect` makes, and found the cluster if need be. Raises `StoreError` after
        `patience` seconds, or at once if waiting is no cure."""
        self._connect = connect
        self._stopping.clear()
        end = monotonic() + patience
        pause = FIRST_PAUSE
        while True:
            try:
                self._connected()
                return
            except AuthenticationError as problem:
                self._disconnect()
                raise StoreError(f"Redis refuses the user name or password ({problem}); correct them") from problem
            except NoPermissionError as problem:
                self._disconnect()
                raise StoreError(f"this user may not run what the store needs ({problem}); allow it") from problem
            except (RedisError, OSError) as problem:
                self._disconnect()
                if monotonic() >= end or self._stopping.is_set():
                    raise StoreError(f"Redis does not answer ({problem}); start it, or correct the URL") from problem
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def close(self) -> None:
        self._disconnect()
        self._keys = None
        self._answering = False

    def stop(self) -> None:
        """Wait for Redis no longer: what cannot be answered now fails. From any thread."""
        self._stopping.set()

    def run(self, node: str, requests: Sequence[Request]) -> None:
        """Send the requests until each has a reply or an error. Raises `Lost` and `Buried`, and `StoreError` when
        stopped."""
        waiting = list(requests)
        pause = FIRST_PAUSE
        while waiting:
            if self._connection is None and self._stopping.is_set():
                raise StoreError("Redis is away, and the store is being stopped")
            try:
                self._connected()
                again = self._round(node, waiting)
            except (RedisError, OSError) as problem:
                self._disconnect()
                if self._outage.is_news(problem):
                    log.error("Redis is away, what needs it waits: {problem}", problem=str(problem))
                self._answering = False
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if self._outage.over():
                    log.info("Redis answers")
                self._answering = True
                waiting = again

    def _round(self, node: str, requests: Sequence[Request]) -> list[Request]:
        """Send once. Returns the requests that are to be sent again at once."""
        assert self._connection is not None
        commands = [self._command(node, request) for request in requests]
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        again: list[Request] = []
        status = set()
        for request in requests:
            try:
                reply = self._connection.read_response()
            except NoScriptError:
                status.add(b"NOSCRIPT")
                again.append(request)
                continue
            except ResponseError as problem:
                if isinstance(problem, _NOT_NOW) or _NOT_NOW_CODES.search(str(problem)):
                    raise
                request.error = refused(str(problem))
                continue
            if request.script and reply[0] != b"OK":
                status.add(reply[0])
                again.append(request)
            else:
                request.reply = reply
        self._cure(status)
        return again

    def _command(self, node: str, request: Request) -> Sequence[object]:
        if not request.script:
            return request.command
        keys, arguments = request.command[: request.keys], request.command[request.keys :]
        who = self.keys.config.run, self._server, node
        return ("EVALSHA", script(request.script).sha, request.keys, *keys, *who, *arguments)

    def _cure(self, status: set[bytes]) -> None:
        if b"DEAD" in status:
            raise Buried("the other nodes have declared this one dead; it has to join again")
        if b"OLD" in status:
            raise StoreError("another process uses this node's id; give each node its own")
        if b"NOSCRIPT" in status:
            self._load_scripts()
        if b"LOST" in status:
            self._learn_cluster()
        elif b"REGEN" in status:
            self._mark()

    def _connected(self) -> None:
        if self._connection is not None:
            return
        assert self._connect is not None, "not opened"
        connection = self._connect()
        try:
            connection.connect()
            self._server = server_id(_Direct(connection))
            self._connection = connection
            self._load_scripts()
            self._learn_cluster()
        except BaseException:
            self._connection = None
            connection.disconnect()
            raise
        self._answering = True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _load_scripts(self) -> None:
        self._ask([("SCRIPT", "LOAD", script(name).text) for name in SCRIPTS])

    def _learn_cluster(self) -> None:
        """Read what was founded, and make this process known to its partitions. Raises `Lost` if it is not what it
        was."""
        assert self._connection is not None
        before = self._keys.config if self._keys is not None else None
        config = found(_Direct(self._connection), self._prefix)
        if config != before:
            self._keys = Keys(self._prefix, config)
        self._mark()
        if before is not None and before.run != config.run:
            log.error("Redis has lost all data of the cluster: sessions, queues, retained messages; starting anew")
            raise Lost("Redis has lost all data")

    def _mark(self) -> None:
        config = self.keys.config
        for force in (0, 1):
            replies = self._ask(
                [
                    ("EVALSHA", script("mark").sha, 1, mark, config.run, self._server, force)
                    for mark in self.keys.marks()
                ]
            )
            if all(reply[0] == b"OK" for reply in replies):
                return
            # Some partitions are of another life. The founding decides: it may have changed just now.
            assert self._connection is not None
            if found(_Direct(self._connection), self._prefix).run != config.run:
                return self._learn_cluster()

    def _ask(self, commands: Sequence[tuple[object, ...]]) -> list[Any]:
        """Send the commands at once; the first error is raised."""
        connection = self._connection
        assert connection is not None
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies = [self._reply(connection) for _ in commands]
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _reply(self, connection: Connection) -> Any:
        try:
            return connection.read_response()
        except (RedisConnectionError, RedisTimeoutError):
            raise
        except ResponseError as problem:
            return problem
