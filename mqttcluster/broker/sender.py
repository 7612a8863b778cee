"""The outgoing side of one connection: collect, write once a turn, stop at the bound.

Below the bound everything is accepted. While the network takes no more, output waits here; past `limit` bytes QoS 0
is dropped, deliveries stay in their queue, and the client is not read any more [G9].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.output import Output


class Transport(Protocol):
    """What a client needs of its network connection."""

    def write(self, data: bytes) -> None:
        """Send bytes, or buffer them and ask for a pause."""

    def close(self) -> None:
        """Send what is buffered, then close."""

    def abort(self) -> None:
        """Close now."""

    def pause_reading(self) -> None:
        """Hand on no more bytes until `resume_reading`."""

    def resume_reading(self) -> None:
        """Go on reading."""


class Sender:
    """Output of one connection. `before_flush` may add to it at the last moment; it answers whether it has more.
    `drained` is told when output that was full has been written."""

    __slots__ = (
        "_closed",
        "_frames",
        "_limit",
        "_marked",
        "_metrics",
        "_output",
        "_transport",
        "before_flush",
        "drained",
        "progress",
        "size",
        "waiting",
        "writable",
    )

    def __init__(self, transport: Transport, output: Output, metrics: Metrics, limit: int) -> None:
        self._transport = transport
        self._output = output
        self._metrics = metrics
        self._limit = limit
        self._frames: list[bytes] = []
        self._marked = False
        self._closed = False
        #: Bytes that wait here, not counting the transport's own buffer.
        self.size = 0
        self.writable = True
        #: The network has taken output since somebody has waited for that in vain.
        self.progress = True
        #: To be called when there is room again: publishers that wait for this client a moment.
        self.waiting: dict[Callable[[], None], None] | None = None
        self.before_flush: Callable[[], bool] | None = None
        self.drained: Callable[[], None] | None = None

    @property
    def full(self) -> bool:
        """Whether more waits here than is allowed."""
        return self.size > self._limit

    @property
    def has_room(self) -> bool:
        """Whether deliveries that can wait elsewhere are welcome."""
        return self.writable and self.size <= self._limit

    def send(self, frames: bytes, count: int = 1) -> None:
        """Send one packet, or `count` of them, when the turn ends."""
        if self._closed:
            return
        self._frames.append(frames)
        self.size += len(frames)
        self._metrics.messages_sent += count
        if not self._marked:
            self._marked = True
            self._output.mark(self)

    def mark(self) -> None:
        """Have `before_flush` called when the turn ends."""
        if not self._marked:
            self._marked = True
            self._output.mark(self)

    def flush(self) -> None:
        """Write what has been collected, if the network takes it."""
        more = False
        if self.before_flush is not None:
            self._marked = True
            more = self.before_flush()
        self._marked = False
        if self.writable:
            was_full = self.full
            self._write()
            if more and self.writable:
                self.mark()
            self.progress = True
            if was_full and self.drained is not None:
                self.drained()
            if self.waiting is not None:
                waiting, self.waiting = self.waiting, None
                for proceed in waiting:
                    proceed()

    def close(self) -> None:
        """Write what has been collected, whether or not the network takes it, and close behind it."""
        self._write()
        self._closed = True
        self._transport.close()

    def abandon(self) -> None:
        """The connection is gone; so is what was to be sent."""
        self._closed = True
        self._frames.clear()
        self.size = 0

    def _write(self) -> None:
        if self._frames:
            data = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
            self._frames.clear()
            self.size = 0
            self._metrics.bytes_sent += len(data)
            self._transport.write(data)
