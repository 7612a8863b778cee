"""Many connections read at one stroke.

Twisted's reactor asks the system which sockets have something to read, and calls each of them through several layers.
Where many clients say little each, that and waking up for every message cost more than the messages. `Gather` is one
descriptor in the reactor's poll that stands for all connections: a poll of its own tells which of them have something,
they are read in a row, and what comes of it is sent when all have been read.

Messages that come quickly, each from another client, would find the broker just fallen asleep. While they do, it waits
a moment before it looks, and finds several (`Pace`). A few clients in conversation with the broker are not held up so:
each of their turns would cost that moment.

A connection with output that waits for the network is read by Twisted as usual: so an error is seen together with what
is still to be read before it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime, IReadDescriptor
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mqttcluster.broker.output import Output

log = Logger(namespace="mqttcluster.net")

#: How many connections are read before the reactor looks at everything else.
MOST = 64
#: How long to wait for more, in seconds (the system makes it twice as long), and how many connections with something to
#: read are enough.
PAUSE, ENOUGH = 0.00005, 32
#: After a longer silence (seconds) what comes first is not held up.
SILENCE = 0.002
#: Whether to wait is decided anew after so many readings: two thirds of them have to be of different connections, and
#: come at a rate (per second) of which a pause brings one.
WINDOW, RATE = 128, 10_000


class Pace:
    """Whether it is worth while to wait for more. All times are in seconds, of one clock."""

    __slots__ = ("_began", "_last", "_number", "_quick", "_readings", "_who")

    def __init__(self) -> None:
        self._began = self._last = 0.0
        self._readings = self._number = 0
        self._who: set[int] = set()
        self._quick = False

    def waits(self, now: float) -> bool:
        """Whether to wait for `PAUSE`, if something has come now."""
        return self._quick and self._number < ENOUGH and now - self._last < SILENCE

    def read(self, ready: Sequence[tuple[int, int]], now: float) -> None:
        """These were ready: their descriptors, and what for."""
        self._last, self._number = now, len(ready)
        self._readings += len(ready)
        self._who.update([descriptor for descriptor, _ in ready])
        if self._readings >= WINDOW:
            different = 3 * len(self._who) >= 2 * self._readings
            self._quick = different and self._readings >= RATE * (now - self._began)
            self._began, self._readings = now, 0
            self._who.clear()


@implementer(IReadDescriptor)
class Gather:
    """What the transports of accepted connections take for their reactor; all but reading is the real one's.

    `output` is written when a row of readings is over."""

    def __init__(
        self,
        reactor: Any,
        output: Output,
        clock: IReactorTime | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reactor = reactor
        self._clock: Any = clock or reactor
        self._output = output
        self._sleep = sleep
        self._pace = Pace()
        self._poll = select.epoll()
        self._readers: dict[int, Any] = {}
        #: Those that wait to write; and of them those that read, in the reactor's poll for that time.
        self._writing: set[Any] = set()
        self._elsewhere: set[Any] = set()
        reactor.addReader(self)

    def adopt(self, port: object) -> None:
        """Have the connections read here that this port accepts from now on."""
        if isinstance(port, Port):
            port.reactor = cast(Any, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    # what transports ask of a reactor

    def addReader(self, reader: Any) -> None:
        if reader in self._writing:
            self._elsewhere.add(reader)
            self._reactor.addReader(reader)
        elif self._readers.get(descriptor := reader.fileno()) is not reader:
            self._poll.register(descriptor, select.EPOLLIN)
            self._readers[descriptor] = reader

    def removeReader(self, reader: Any) -> None:
        if self._readers.get(descriptor := reader.fileno()) is reader:
            del self._readers[descriptor]
            self._poll.unregister(descriptor)
        else:  # one of those elsewhere, or the port
            self._elsewhere.discard(reader)
            self._reactor.removeReader(reader)

    def addWriter(self, writer: Any) -> None:
        if writer not in self._writing:
            reads = self._readers.get(writer.fileno()) is writer
            if reads:
                self.removeReader(writer)
            self._writing.add(writer)
            if reads:
                self.addReader(writer)
        self._reactor.addWriter(writer)

    def removeWriter(self, writer: Any) -> None:
        self._reactor.removeWriter(writer)
        if writer in self._writing:
            reads = writer in self._elsewhere
            if reads:
                self.removeReader(writer)
            self._writing.remove(writer)
            if reads:
                self.addReader(writer)

    # what the reactor asks of a descriptor

    def fileno(self) -> int:
        return self._poll.fileno()

    def logPrefix(self) -> str:
        return "connections"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, and tells everybody whom it reads."""
        for reader in list(self._readers.values()):
            reader.connectionLost(reason)

    def doRead(self) -> None:
        """Read whoever has something."""
        if self._pace.waits(self._clock.seconds()):
            self._sleep(PAUSE)
        ready = self._poll.poll(0, MOST)
        self._pace.read(ready, self._clock.seconds())
        readers = self._readers
        self._output.begin_turn()
        try:
            for descriptor, _ in ready:
                reader = readers.get(descriptor)
                if reader is not None:  # the reading of another may have closed it
                    self._read(reader)
        finally:
            self._output.end_turn()

    def _read(self, reader: Any) -> None:
        try:
            why = reader.doRead()
        except Exception as problem:
            log.failure("a connection could not be read")
            why = problem
        if why is not None:
            self.removeReader(reader)
            if isinstance(why, ConnectionDone):
                reader.readConnectionLost(Failure(why))
            else:
                self.removeWriter(reader)
                reader.connectionLost(Failure(why))
