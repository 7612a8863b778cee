"""One write per connection and reactor turn.

Whatever is sent to a client is collected by it; the client puts itself on a list here, and the list is flushed when
the turn ends. A turn is one chunk of bytes from the network, or several small ones that came together (`net.gather`).
Sending that happens outside a turn (a store's answer, a timer) asks for a flush as soon as the reactor is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

log = Logger(namespace="mqttcluster.output")


#: When so many bytes have been received in a turn within a turn, what came of them is written.
MUCH = 16 * 1024


class Flushable(Protocol):
    """Something that has collected output."""

    def flush(self) -> None:
        """Write it."""


class Output:
    """The connections that have something to send. `call_soon` runs a function in a later reactor turn."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: list[Flushable] = []
        self._turns = 0
        self._received = 0
        self._scheduled = False

    def mark(self, client: Flushable) -> None:
        """`client` has output. To be called once until its next flush."""
        self._waiting.append(client)
        if not self._turns and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._soon)

    def begin_turn(self) -> None:
        """Bytes have arrived; `end_turn` follows. There may be turns within."""
        self._turns += 1

    def end_turn(self, received: int = 0) -> None:
        """Write what has been collected. `received` is a number of bytes: within a turn little of them is no reason to
        write yet."""
        self._turns -= 1
        self._received += received
        if not self._turns or self._received >= MUCH:
            self._received = 0
            self.flush()

    def _soon(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write everything; what a flush brings forth is written later."""
        waiting, self._waiting = self._waiting, []
        for client in waiting:
            try:
                client.flush()
            except Exception:  # whatever it is, it must not cost the others their output
                log.failure("cannot send")
