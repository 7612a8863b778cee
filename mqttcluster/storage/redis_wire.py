"""One connection to Redis for one thread, and the loop in which a thread keeps one.

Nothing is retried or reconnected behind anybody's back: after any trouble the connection is given up, and its owner
begins again with a new one, knowing that it may have met another process, and that the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from threading import Event
from typing import Any

from redis.exceptions import RedisError, ResponseError

from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.redis_cluster import Connection

#: A command and its arguments.
Command = Sequence[bytes | str | int | float]

#: Pauses between attempts to reach a Redis that is away, in seconds: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0

#: Of its own: a program around the broker may seed the one that all share, and be surprised by who else draws from it.
_random = Random()

#: What a connection fails with.
TROUBLE = (RedisError, StoreError, OSError)


class Wire:
    """A connection, used by one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Any = connection
        self._connection.connect()

    def execute_command(self, *command: bytes | str | int | float) -> Any:
        """Run one command. Raises `RedisError`, also for an answer that is an error."""
        self._connection.send_command(*command)
        return self._connection.read_response()

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Run several at one stroke, in order. An error of one of them is in its place among the answers."""
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(self._connection.read_response())
            except ResponseError as problem:
                answers.append(problem)
        return answers

    def send(self, *command: bytes | str) -> None:
        """Send a command whose answers are read one by one."""
        self._connection.send_command(*command)

    def wait(self, seconds: float) -> bool:
        """Whether there is something to read, now or before the time is over."""
        return bool(self._connection.can_read(seconds))

    def read(self) -> Any:
        """The next answer."""
        return self._connection.read_response()

    def close(self) -> None:
        self._connection.disconnect()


class Attempts:
    """Pauses that grow while nothing works, each with a part left to chance: nodes that have lost the same Redis should
    not all come back in the same moment, nor one of them always in step with whatever cuts it off. `stopping` cuts them
    short."""

    def __init__(self, stopping: Event) -> None:
        self._stopping = stopping
        self._pause = FIRST_PAUSE

    def worked(self) -> None:
        self._pause = FIRST_PAUSE

    def failed(self) -> None:
        """Wait before the next attempt."""
        self._stopping.wait(_random.uniform(self._pause / 2, self._pause))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def keep(
    connect: Callable[[], Connection],
    stopping: Event,
    serve: Callable[[Wire], None],
    lost: Callable[[Exception], None],
) -> None:
    """Until `stopping`: serve on a connection, and tell of each that was `lost`, or could not be made."""
    attempts = Attempts(stopping)
    while not stopping.is_set():
        wire = None
        try:
            wire = Wire(connect())
            attempts.worked()
            serve(wire)
        except TROUBLE as problem:
            if not stopping.is_set():
                lost(problem)
                attempts.failed()
        finally:
            if wire is not None:
                wire.close()
