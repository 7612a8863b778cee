"""One WebSocket connection: the protocol of the real transport and, after the handshake, the transport of the wrapped
protocol. `handshake` opens it, `frames` reads and writes its frames, `outgoing` knows whether it takes output.

How a connection goes:

    HANDSHAKE --accepted--> OPEN --our Close--> CLOSING --client's Close--> ENDING --> LOST
        |                    |                     |                          ^
        +----refused---------+--client's Close, broken rule-------------------+

*The wrapped protocol* is built and connected when the handshake is done, and sees a stream: bytes of binary frames, as
they come, all of one chunk together; frames and messages have no meaning for it. Each `write` is one binary frame.

*Backpressure, incoming.* `pauseProducing` stops reading and handing on. What was already received stays here: at most
what the transport had read at once (64 KiB).

*Ending.* `loseConnection` sends Close 1000 after what was written and waits for the client's Close; everything else the
client sends is dropped. A registered producer does not delay it. A client that breaks a rule gets a Close with the code
that says so, then the connection ends. Whatever way it ends, after `close_timeout` it is aborted. `abortConnection` is
immediate. The wrapped protocol hears `connectionLost` when the real connection is gone, and only if it was connected;
the reason is the real one, or ``BrokenRule`` or ``Silent`` where that was the cause.

*Pings.* An open connection is pinged once in `ping_interval` (`pings`), whatever else goes on: a proxy that has read
nothing from us for a while cuts it, however much the client says. Browsers answer without the page's help, even for a
hidden tab. A client of which nothing has come between two pings is aborted. That is not asked of one that is not being
read, nor of one that still has earlier output to read.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IAddress, IDelayedCall, ITransport
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from mqttcluster.net.frames import Ended, Frames
from mqttcluster.net.handshake import Accepted, Handshake, Refused, refuse
from mqttcluster.net.interfaces import Producer, Transport
from mqttcluster.net.outgoing import Outgoing
from mqttcluster.net.stream import describe

if TYPE_CHECKING:
    from mqttcluster.net.websocket import WebSocketFactory

_log = Logger()

_NORMAL = 1000


class _State(enum.Enum):
    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    ENDING = enum.auto()
    LOST = enum.auto()


class BrokenRule(Exception):
    """The client has broken a rule of WebSocket and was sent away with the close code `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the client broke a rule of WebSocket, close code {code}")
        self.code = code


class Silent(Exception):
    """Nothing has come from the client between two pings."""

    def __init__(self, interval: float) -> None:
        super().__init__(f"the client has not answered a ping for {interval:g} s")


class WebSocketProtocol(StreamProtocol):
    """One connection. Towards the wrapped protocol it is a transport, with what the real one has beyond it."""

    disconnecting = False

    def __init__(self, factory: WebSocketFactory, addr: IAddress | None) -> None:
        self._owner = factory
        self._addr = addr
        self._state = _State.HANDSHAKE
        self._handshake: Handshake | None = Handshake(factory.rules)
        self._waiting = False
        self._timer: IDelayedCall | None = None
        self._wrapped: Any = None
        self._pending: list[bytes] = []  # rarely two; an empty deque takes 760 bytes
        self._paused = False
        self._reading = True
        self._delivering = False
        self._delivery: IDelayedCall | None = None
        self._slot: int | None = None
        self._pinged = False
        self._cause: Exception | None = None

    # What the real transport calls.

    def makeConnection(self, transport: ITransport) -> None:
        directlyProvides(self, providedBy(transport))  # so that a TLS connection can be told from others
        super().makeConnection(transport)  # type: ignore[no-untyped-call]

    def connectionMade(self) -> None:
        self._real = cast(Transport, self.transport)
        self._outgoing = Outgoing(self._real)
        if self._owner.waiting >= self._owner.room():
            _log.info("refused a connection from {peer}: too many connections", peer=describe(self._real.getPeer()))
            self._handshake = None
            self.abortConnection()
            return
        self._waiting = True
        self._owner.waiting += 1
        self._real.registerProducer(self._outgoing, True)
        self._start_timer(self._owner.handshake_timeout, self._handshake_late)

    def dataReceived(self, data: bytes) -> None:
        if self._handshake is not None:
            answer = self._handshake.receive(data)
            if isinstance(answer, Accepted):
                self._accept(answer)
            elif answer is not None:
                self._refuse(answer)
        elif self._state in (_State.OPEN, _State.CLOSING):
            self._pinged = False
            self._pending.append(data)
            self._deliver()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._leave(_State.LOST)
        self.connected = 0
        self._end_handshake()
        self._pending.clear()
        self._stop_timer()
        _cancel(self._delivery)
        self._outgoing.stopProducing()
        wrapped, self._wrapped = self._wrapped, None
        if wrapped is not None:
            wrapped.connectionLost(Failure(self._cause) if self._cause is not None else reason)

    # The handshake.

    def _accept(self, accepted: Accepted) -> None:
        wrapped = self._owner.wrapped.buildProtocol(self._addr)
        if wrapped is None:
            self._refuse(refuse(HTTPStatus.SERVICE_UNAVAILABLE, "No more connections are accepted at the moment."))
            return
        self._end_handshake()
        self._stop_timer()
        self._frames = Frames(accepted.deflate)
        self._outgoing.begin(self._frames)
        self._state = _State.OPEN
        self._real.write(accepted.response)
        self._wrapped = wrapped
        self._slot = self._owner.pings.join(self)
        wrapped.makeConnection(self)
        if accepted.rest and self._state in (_State.OPEN, _State.CLOSING):
            self._pending.append(accepted.rest)
            self._deliver()

    def _refuse(self, refused: Refused) -> None:
        _log.debug(
            "handshake from {peer} refused with {status}: {reason}",
            peer=self._real.getPeer(),
            status=refused.status,
            reason=refused.reason,
        )
        self._end_handshake()
        self._real.write(refused.response)
        self._end()

    def _end_handshake(self) -> None:
        self._handshake = None
        if self._waiting:
            self._waiting = False
            self._owner.waiting -= 1

    def _handshake_late(self) -> None:
        self._refuse(refuse(HTTPStatus.REQUEST_TIMEOUT, "The request took too long to arrive."))

    # Reading.

    def _deliver(self) -> None:
        """Hand on what is pending until the wrapped protocol pauses."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._pending and not self._paused and self._state in (_State.OPEN, _State.CLOSING):
                received = self._frames.receive(self._next_chunk())
                if received.payload and self._state is _State.OPEN:
                    self._wrapped.dataReceived(received.payload)
                for ping in received.pings:
                    self._outgoing.pong(ping)
                if received.ended is not None:
                    self._ended(received.ended)
        finally:
            self._delivering = False
        self._set_reading()

    def _next_chunk(self) -> bytes:
        chunk = self._pending.pop(0)
        step = self._frames.step
        if step is not None and len(chunk) > step:
            self._pending.insert(0, chunk[step:])
            return chunk[:step]
        return chunk

    def _ended(self, ended: Ended) -> None:
        if self._state is _State.OPEN:
            self._real.write(self._frames.close(ended.code))
        if self._state in (_State.OPEN, _State.CLOSING):
            if not ended.clean:
                self._cause = BrokenRule(ended.code)
                _log.debug("closing WebSocket of {peer} with {code}", peer=self._real.getPeer(), code=ended.code)
            self._end()

    def _set_reading(self) -> None:
        """Make the real transport read, or not, as it is wanted now."""
        if self._state not in (_State.OPEN, _State.CLOSING):
            return
        wanted = not self._paused and not self._pending
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._pinged = False  # what it has answered meanwhile is still to be read
                self._real.resumeProducing()
            else:
                self._real.pauseProducing()

    def _deliver_later(self) -> None:
        """Deliver in a turn of its own: the caller may be in the middle of something."""
        if self._delivery is None and not self._delivering:
            self._delivery = self._owner.clock.callLater(0, self._deliver_now)

    def _deliver_now(self) -> None:
        self._delivery = None
        try:
            self._deliver()
        except Exception:
            # As a reactor does with an exception out of dataReceived.
            _log.failure("a protocol over WebSocket failed; its connection is dropped")
            self.abortConnection()

    # Pings.

    def turn(self) -> None:
        """Ping the client, unless it is to be given up."""
        if self._outgoing.full:
            # It has enough to answer for; and what was sent before may be slow, and is still on its way.
            self._pinged = False
        elif self._pinged and self._reading:
            self._cause = Silent(self._owner.ping_interval)
            self.abortConnection()
        else:
            self._pinged = True
            self._real.write(self._frames.ping())

    # Ending.

    def _leave(self, state: _State) -> None:
        """No data goes out any more, nor pings and their answers."""
        self._state = state
        self.disconnecting = True
        self._outgoing.end()
        if self._slot is not None:
            self._owner.pings.leave(self, self._slot)
            self._slot = None

    def _end(self) -> None:
        """End the real connection after what was written."""
        if self._state is not _State.CLOSING:  # then it is being timed already
            self._start_timer(self._owner.close_timeout, self._real.abortConnection)
        self._leave(_State.ENDING)
        self._pending.clear()
        if not self._reading:  # TLS ends with words from both sides
            self._reading = True
            self._real.resumeProducing()
        self._real.unregisterProducer()  # a transport that has paused its producer would wait for it
        self._real.loseConnection()

    def _start_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._owner.clock.callLater(seconds, then)

    def _stop_timer(self) -> None:
        _cancel(self._timer)
        self._timer = None

    # The transport of the wrapped protocol.

    def write(self, data: bytes) -> None:
        """Send `data` as one binary frame [MQTT-6.0.0-1]. It is dropped once the end has begun."""
        if data and self._state is _State.OPEN:
            self._real.write(self._frames.binary(data))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send all of `data` as one binary frame."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send Close 1000 after what was written and wait for the client's Close, at most `close_timeout` seconds."""
        if self._state is not _State.OPEN:
            return
        self._real.write(self._frames.close(_NORMAL))
        self._leave(_State.CLOSING)
        self._start_timer(self._owner.close_timeout, self._real.abortConnection)
        self.resumeProducing()  # the client's Close is still to be read

    def abortConnection(self) -> None:
        """End the connection now."""
        if self._state is not _State.LOST:
            self._leave(_State.ENDING)
            self._pending.clear()
            self._real.abortConnection()

    def registerProducer(self, producer: Producer, streaming: bool) -> None:
        """Have `producer` paused while the transport's buffer is full. ValueError for a pull producer."""
        self._outgoing.register(producer, streaming)

    def unregisterProducer(self) -> None:
        self._outgoing.unregister()

    def pauseProducing(self) -> None:
        """Stop reading and handing on; a protocol that is closing has nothing to pause."""
        if self._state is _State.OPEN:
            self._paused = True
            self._set_reading()

    def resumeProducing(self) -> None:
        """Go on; what is pending is handed on in another reactor turn."""
        self._paused = False
        if self._pending:
            self._deliver_later()
        elif not self._delivering:
            self._set_reading()

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IAddress:
        """Where the TCP connection comes from. Headers of proxies are not believed."""
        return self._real.getPeer()

    def getHost(self) -> IAddress:
        return self._real.getHost()

    def __getattr__(self, name: str) -> Any:
        # What only some transports have: getPeerCertificate, setTcpNoDelay, ...
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.transport, name)


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
