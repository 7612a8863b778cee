"""The outgoing half of a WebSocket: who is told when the transport is full, and pongs that wait.

`Outgoing` is the producer that the real transport knows. Whoever registers as a producer is paused and resumed with it.
A push producer is needed; a pull producer is refused with ValueError.

While the transport is full, only the latest ping is remembered and answered later, as RFC 6455 allows in 5.5.3: pings
of a client that does not read cost nothing. Reading is not stopped for that, because a client that waits to write
before it reads would wait for ever.
"""

from __future__ import annotations

from mqttcluster.net.frames import Frames
from mqttcluster.net.interfaces import Producer, Transport


class Outgoing:
    """Of one connection, from `begin` to `end`; before and after that nobody is told and nothing is answered."""

    __slots__ = ("_frames", "_ping", "_producer", "_real", "full")

    def __init__(self, real: Transport) -> None:
        self._real = real
        self._frames: Frames | None = None
        self._producer: Producer | None = None
        self._ping: bytes | None = None
        #: Whether the transport takes no more for the moment.
        self.full = False

    def begin(self, frames: Frames) -> None:
        """The handshake is done."""
        self._frames = frames

    def end(self) -> None:
        """Nothing more is to be sent. A producer still hears when the connection is gone."""
        self._frames = None

    def pong(self, payload: bytes) -> None:
        """Answer a ping, or the last of many once the client has read what it got."""
        if self.full:
            self._ping = payload
        elif self._frames is not None:
            self._real.write(self._frames.pong(payload))

    def register(self, producer: Producer, streaming: bool) -> None:
        """As a transport's `registerProducer`."""
        if not streaming:
            raise ValueError("a WebSocket needs a push (streaming) producer")
        if self._producer is not None:
            raise RuntimeError("another producer is registered already")
        if self._frames is None:
            producer.stopProducing()
            return
        self._producer = producer
        if self.full:
            producer.pauseProducing()

    def unregister(self) -> None:
        """As a transport's `unregisterProducer`."""
        self._producer = None

    # What the real transport says of its buffer

    def pauseProducing(self) -> None:
        self.full = True
        if self._producer is not None and self._frames is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self.full = False
        ping, self._ping = self._ping, None
        if ping is not None:
            self.pong(ping)
        # The pong may have filled it again.
        if self._producer is not None and self._frames is not None and not self.full:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
