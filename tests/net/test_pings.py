"""Pings from the server: a quiet tab is kept by every proxy on the way, and a dead one is noticed."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from twisted.internet.testing import StringTransport
from wsproto.events import Ping
from wsproto.frame_protocol import Opcode

from mqttcluster.net.pings import SLOTS, Pings
from mqttcluster.net.websocket_connection import Silent
from tests.net.websocket_peer import Browser, Wire, binary, frame, request

INTERVAL = 25.0
TICK = INTERVAL / SLOTS
PONG = frame(Opcode.PONG)


def opened(interval: float = INTERVAL) -> Browser:
    return Browser(ping_interval=interval).open()


def pass_time(browser: Browser, seconds: float) -> None:
    """As a reactor does: every timer when it is due."""
    for _ in range(round(seconds / TICK)):
        browser.clock.advance(TICK)


def pings(browser: Browser) -> int:
    events = browser.events()
    assert all(isinstance(event, Ping) for event in events)
    return len(events)


def test_a_quiet_tab_is_pinged_for_ever() -> None:
    """A tab that only answers pings gets one in each interval, and never waits longer; it stays connected."""
    browser = opened()
    for _ in range(10):
        pass_time(browser, INTERVAL)
        assert pings(browser) == 1
        browser.send(PONG)
    assert not browser.aborted
    assert browser.wrapped.chunks == []


def test_a_busy_publisher_is_pinged_too() -> None:
    """A proxy may count only what the broker says. So what the client says puts no ping off."""
    browser = opened()
    for _ in range(4):
        pass_time(browser, INTERVAL / 5)
        browser.send(binary(b"x"))
        assert pings(browser) == 0
    pass_time(browser, INTERVAL / 5)
    assert pings(browser) == 1


def test_a_dead_tab_is_given_up() -> None:
    """A client that says nothing after a ping is disconnected when the next one is due, and the reason says so."""
    browser = opened()
    pass_time(browser, INTERVAL)
    assert pings(browser) == 1
    pass_time(browser, INTERVAL - TICK)
    assert not browser.aborted
    pass_time(browser, TICK)
    assert browser.aborted
    assert browser.answer() == b""
    browser.lose()
    assert browser.wrapped.lost is not None
    assert browser.wrapped.lost.check(Silent)
    assert "not answered a ping for 25 s" in browser.wrapped.lost.getErrorMessage()
    assert not browser.clock.getDelayedCalls()


def test_any_word_is_a_sign_of_life() -> None:
    """A client that does not know about pings, and publishes, is not given up."""
    browser = opened()
    for _ in range(5):
        pass_time(browser, INTERVAL)
        browser.send(binary(b"x"))
    assert not browser.aborted


def test_a_client_that_is_not_read_is_not_given_up() -> None:
    """While the broker has paused reading it cannot hear the answer. The pings go on, for the proxies' sake."""
    browser = opened()
    pass_time(browser, INTERVAL)
    browser.server.pauseProducing()
    pass_time(browser, 3 * INTERVAL)
    assert pings(browser) == 4
    browser.server.resumeProducing()
    pass_time(browser, INTERVAL)
    assert not browser.aborted, "the answer to the last ping had only now the chance to be read"
    pass_time(browser, INTERVAL)
    assert browser.aborted


def test_a_client_with_output_ahead_is_not_given_up() -> None:
    """What was written before the ping may take its time on a slow line."""
    browser = opened()
    pass_time(browser, INTERVAL)
    browser.wire.full()
    pass_time(browser, 4 * INTERVAL)
    assert pings(browser) == 1
    browser.wire.drained()
    pass_time(browser, INTERVAL)
    assert not browser.aborted
    assert pings(browser) == 1


@pytest.mark.parametrize("how", ["server", "client", "rule", "abort", "lost"])
def test_no_pings_after_the_end(how: str) -> None:
    """After a Close no ping may follow, and a connection that has ended leaves no timer behind."""
    browser = opened()
    if how == "server":
        browser.server.loseConnection()
    elif how == "client":
        browser.send(frame(Opcode.CLOSE))
    elif how == "rule":
        browser.send(frame(Opcode.TEXT, b"x"))
    elif how == "abort":
        browser.server.abortConnection()
    if how in ("abort", "lost"):
        browser.lose()
    browser.answer()
    pass_time(browser, 3 * INTERVAL)
    assert browser.answer() == b""
    assert not browser.clock.getDelayedCalls()


def test_none_before_the_handshake_is_done() -> None:
    """Who has not asked for a WebSocket gets no frames."""
    browser = Browser(ping_interval=INTERVAL, handshake_timeout=1000.0)
    pass_time(browser, 3 * INTERVAL)
    assert browser.answer() == b""


def test_they_can_be_turned_off() -> None:
    """With an interval of 0 there are none, and a silent client stays."""
    browser = opened(0)
    pass_time(browser, 100 * INTERVAL)
    assert browser.answer() == b""
    assert not browser.aborted
    browser.server.abortConnection()


class Member:
    """Counts its turns; at one of them it may make others leave."""

    def __init__(self, pings: Pings) -> None:
        self.pings, self.turns, self.slot = pings, 0, pings.join(self)
        self.takes_along: list[Member] = []
        self.fails = False

    def turn(self) -> None:
        self.turns += 1
        while self.takes_along:
            other = self.takes_along.pop()
            other.pings.leave(other, other.slot)
        if self.fails:
            raise RuntimeError("broken on purpose")


def test_one_connection_does_not_cost_another_its_turn() -> None:
    """A connection may end others when it is its turn, and may fail; the rest is served, once in an interval each."""
    browser = Browser(ping_interval=INTERVAL)
    pings = browser.factory.pings
    members = [Member(pings) for _ in range(3)]
    pass_time(browser, INTERVAL / 5)
    later = Member(pings)
    members[0].takes_along = members[2].takes_along = [members[1]]  # whose turn comes first takes it along
    members[0].fails = True
    pass_time(browser, 4 * INTERVAL / 5)
    assert [member.turns for member in (members[0], members[2], later)] == [1, 1, 0]
    assert members[1].turns <= 1
    pass_time(browser, INTERVAL)
    assert [member.turns for member in (members[0], members[2], later)] == [2, 2, 1]
    assert members[1].turns <= 1


def test_what_an_idle_connection_takes() -> None:
    """Ten thousand quiet tabs have to fit: less than 4 KiB each in this layer, and one timer for all of them."""
    browser = Browser(ping_interval=INTERVAL)
    factory, clock = browser.factory, browser.clock
    wires: list[StringTransport] = []

    def connect() -> None:
        wire = Wire()
        wires.append(wire)
        server = factory.buildProtocol(wire.getPeer())
        server.makeConnection(wire)
        server.dataReceived(request())
        wire.clear()

    connect()
    timers = len(clock.getDelayedCalls())
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(200):
            connect()
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] / 200
    finally:
        tracemalloc.stop()
    assert taken < 4096, taken
    assert len(clock.getDelayedCalls()) == timers
