"""Connections that are read in a row: sockets as they are, and a reactor that only remembers what it was asked."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from mqttcluster.broker.output import MUCH, Output
from mqttcluster.net.gather import ENOUGH, PAUSE, RATE, SILENCE, WINDOW, Gather, Pace


class Line:
    """One connection: what is written at `far` it reads, and it writes down what happens."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.stage = stage
        self.name = name
        self.then: Callable[[], None] = lambda: None
        self.received = 1

    def fileno(self) -> int:
        return self.near.fileno()

    def doRead(self) -> Exception | None:
        data = self.near.recv(1000)
        if not data:
            return CONNECTION_DONE
        self.stage.happened.append(f"{self.name} reads {data.decode()}")
        self.stage.output.begin_turn()
        self.stage.output.mark(self)
        try:
            self.then()
        finally:
            self.stage.output.end_turn(self.received)
        return None

    def flush(self) -> None:
        self.stage.happened.append(f"{self.name} writes")

    def readConnectionLost(self, reason: Failure) -> None:
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        assert reason.check(ConnectionDone, ConnectionLost, ZeroDivisionError)
        self.stage.happened.append(f"{self.name} is lost: {reason.type.__name__}")
        self.stage.gather.removeReader(self)
        self.stage.gather.removeWriter(self)


class Stage:
    """A gathering of connections whose clock stands still, and what has happened, in order."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.reactor = MemoryReactorClock()  # type: ignore[no-untyped-call]
        self.output = Output(lambda call: self.reactor.callLater(0, call))
        self.pauses: list[float] = []
        self.gather = Gather(self.reactor, self.output, self.reactor, self.pauses.append)
        self.lines: list[Line] = []

    def line(self, name: str) -> Line:
        line = Line(self, name)
        self.lines.append(line)
        self.gather.addReader(line)
        return line

    def turn(self) -> list[str]:
        """What happens when the reactor finds that there is something."""
        self.happened.clear()
        self.gather.doRead()
        return list(self.happened)

    def round(self, lines: list[Line], seconds: float) -> None:
        """Each of them says something and is heard by itself, so many seconds after the one before."""
        for line in lines:
            self.reactor.advance(seconds)
            line.far.send(b"x")
            self.turn()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    for line in stage.lines:
        line.near.close()
        line.far.close()


def test_all_are_read_and_then_all_is_written(stage: Stage) -> None:
    """Several that have something share one turn; who has nothing is left alone."""
    a, b, _ = stage.line("a"), stage.line("b"), stage.line("c")
    a.far.send(b"1")
    b.far.send(b"2")
    happened = stage.turn()
    assert sorted(happened[:2]) == ["a reads 1", "b reads 2"]
    assert sorted(happened[2:]) == ["a writes", "b writes"]
    assert stage.turn() == []
    assert stage.gather in stage.reactor.getReaders()
    assert a not in stage.reactor.getReaders()


def test_much_is_written_at_once(stage: Stage) -> None:
    """What comes of many bytes does not wait for those who are read next."""
    lines = [stage.line(name) for name in "ab"]
    for line in lines:
        line.received = MUCH
        line.far.send(b"1")
    happened = stage.turn()
    first, second = (line[0] for line in happened[::2])
    assert happened == [f"{first} reads 1", f"{first} writes", f"{second} reads 1", f"{second} writes"]


def test_a_reader_pauses_and_goes_on(stage: Stage) -> None:
    """Nothing is read meanwhile, and nothing is lost."""
    a = stage.line("a")
    stage.gather.removeReader(a)
    a.far.send(b"1")
    assert stage.turn() == []
    stage.gather.addReader(a)
    stage.gather.addReader(a)
    assert stage.turn() == ["a reads 1", "a writes"]


def test_the_other_side_closes(stage: Stage) -> None:
    """What it has sent before is read; then the connection ends, once."""
    a = stage.line("a")
    a.far.send(b"1")
    a.far.close()
    assert stage.turn() == ["a reads 1", "a writes"]
    assert stage.turn() == ["a is lost: ConnectionDone"]
    assert stage.turn() == []


def fails() -> None:
    raise ZeroDivisionError


def test_an_error_ends_only_the_one_that_has_it(stage: Stage) -> None:
    """A connection that is broken, or whose reading fails, costs the others nothing."""
    a, b, c = stage.line("a"), stage.line("b"), stage.line("c")
    a.then = fails
    b.doRead = lambda: CONNECTION_LOST  # type: ignore[method-assign]
    for line in (a, b, c):
        line.far.send(b"1")
    happened = stage.turn()
    assert "a is lost: ZeroDivisionError" in happened
    assert "b is lost: ConnectionLost" in happened
    assert "c reads 1" in happened
    assert "c writes" in happened


def test_a_connection_that_another_one_closes_is_not_read(stage: Stage) -> None:
    """As in a takeover: the new connection's CONNECT closes the old one, which has something, too."""
    a, b = stage.line("a"), stage.line("b")
    a.then = lambda: stage.gather.removeReader(b)
    b.then = lambda: stage.gather.removeReader(a)
    for line in (a, b):
        line.far.send(b"1")
    assert len([line for line in stage.turn() if "reads" in line]) == 1


def test_who_waits_to_write_is_read_by_the_reactor(stage: Stage) -> None:
    """It sees both at once: an error, and what is to be read before it."""
    a = stage.line("a")
    stage.gather.addWriter(a)
    assert set(stage.reactor.getReaders()) == {stage.gather, a}
    assert stage.reactor.getWriters() == [a]
    a.far.send(b"1")
    assert stage.turn() == []
    stage.gather.removeReader(a)
    assert stage.reactor.getReaders() == [stage.gather]
    stage.gather.addReader(a)
    assert set(stage.reactor.getReaders()) == {stage.gather, a}
    stage.gather.removeWriter(a)
    assert stage.reactor.getReaders() == [stage.gather]
    assert stage.reactor.getWriters() == []
    assert stage.turn() == ["a reads 1", "a writes"]


def test_it_ends_while_it_waits_to_write(stage: Stage) -> None:
    """Nobody is asked for it any more."""
    a = stage.line("a")
    stage.gather.addWriter(a)
    a.connectionLost(Failure(ConnectionLost()))
    assert stage.reactor.getReaders() == [stage.gather]
    assert stage.reactor.getWriters() == []
    a.far.send(b"1")
    assert stage.turn() == []


def test_a_descriptor_is_used_again(stage: Stage) -> None:
    """The system gives the number of a closed connection to a new one, which is read."""
    a = stage.line("a")
    number = a.fileno()
    stage.gather.removeReader(a)
    a.near.close()
    b = stage.line("b")
    assert b.fileno() == number
    b.far.send(b"1")
    assert stage.turn() == ["b reads 1", "b writes"]


def test_a_port_accepts_and_closes(stage: Stage) -> None:
    """The connections are read here. The port itself is the reactor's, before it is adopted and until it closes."""
    port = Port(0, Factory.forProtocol(Protocol), interface="127.0.0.1", reactor=stage.reactor)  # type: ignore[no-untyped-call]
    port.startListening()  # type: ignore[no-untyped-call]
    stage.gather.adopt(port)
    with socket.create_connection(("127.0.0.1", port.getHost().port)) as far:
        port.doRead()
        [reader] = stage.gather._readers.values()
        assert reader.getPeer().port == far.getsockname()[1]
    stage.turn()
    assert stage.gather._readers == {}
    port.loseConnection()
    stage.reactor.advance(0)
    assert stage.reactor.getReaders() == [stage.gather]


def test_the_reactor_ends(stage: Stage) -> None:
    """It tells the connections that it knows of; these are told from here."""
    stage.line("a")
    stage.gather.connectionLost(Failure(ConnectionDone()))
    assert stage.happened == ["a is lost: ConnectionDone"]


def test_many_that_come_quickly_are_waited_for(stage: Stage) -> None:
    """It pauses before it looks, until there is silence."""
    lines = [stage.line(str(number)) for number in range(WINDOW)]
    stage.round(lines, 0.5 / RATE)
    assert stage.pauses == []
    stage.round(lines[:3], 0.5 / RATE)
    assert stage.pauses == [PAUSE] * 3
    stage.round(lines[:1], SILENCE)
    assert stage.pauses == [PAUSE] * 3


@pytest.mark.parametrize(
    ("different", "seconds", "at_once"),
    [(WINDOW // 2, 0.5 / RATE, 1), (WINDOW, 2 / RATE, 1), (WINDOW, 0.5 / RATE, ENOUGH)],
    ids=["few clients", "slowly", "many at once"],
)
def test_nobody_is_waited_for(different: int, seconds: float, at_once: int) -> None:
    """Clients in conversation, messages that come one by one and a broker that has enough to do are not held up."""
    pace, now = Pace(), 0.0
    for number in range(0, 4 * WINDOW, at_once):
        ready = [((number + one) % different, 1) for one in range(at_once)]
        pace.read(ready, now)
        assert not pace.waits(now)
        now += seconds * at_once
