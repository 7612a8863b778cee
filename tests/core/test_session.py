"""What a session sends, and when. No store and no socket: both are played by the test."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttcluster.core.message import FIRST_SHARED, Delivery, Message, packet_id
from mqttcluster.core.session import Session


def delivery(sequence: int, qos: int = 1) -> Delivery:
    return Delivery(sequence, Message("t", str(sequence).encode(), qos), qos)


def sent(session: Session) -> list[tuple[int, bool]]:
    """Sequence and DUP of everything the window lets out now."""
    out = []
    while (following := session.next_delivery()) is not None:
        out.append((following[0].sequence, following[1]))
    return out


def test_the_window_bounds_what_is_in_flight() -> None:
    """A client gets no more unacknowledged messages than the window, and the next one for each acknowledgement."""
    session = Session("c", 1, durable=False, window=2, max_queued=10)
    for _ in range(4):
        session.offer(Message("t", b""), 1, False)
    assert sent(session) == [(1, False), (2, False)]
    assert sent(session) == []
    session.inflight.puback(2)
    assert sent(session) == [(3, False)]


def test_a_qos_2_delivery_holds_its_place_until_pubcomp() -> None:
    """PUBREC does not make room in the window, PUBCOMP does."""
    session = Session("c", 1, durable=False, window=1, max_queued=10)
    session.offer(Message("t", b"", 2), 2, False)
    session.offer(Message("t", b"", 2), 2, False)
    assert sent(session) == [(1, False)]
    session.inflight.pubrec(1)
    assert sent(session) == []
    session.inflight.pubcomp(1)
    assert sent(session) == [(2, False)]


def test_a_clean_session_drops_the_newest_past_its_bound() -> None:
    """The queue of a clean session keeps the oldest `max_queued` messages."""
    session = Session("c", 1, durable=False, window=1, max_queued=2)
    assert [session.offer(Message("t", b""), 1, False) for _ in range(3)] == [True, True, False]


def test_a_clean_session_with_a_shared_subscription() -> None:
    """What the store has for it and what only it has are numbered apart, and go out in the order in which they came."""
    session = Session("c", 1, durable=False, window=10, max_queued=10)
    session.offer(Message("t", b""), 1, False)
    session.share()
    session.arrived(delivery(FIRST_SHARED + 1))
    session.offer(Message("t", b""), 1, False)
    session.share()  # once more changes nothing
    session.arrived(delivery(FIRST_SHARED + 2))
    assert sent(session) == [(1, False), (FIRST_SHARED + 1, False), (2, False), (FIRST_SHARED + 2, False)]
    assert len(session.inflight) == 4
    assert [session.keeps(number) for number in (1, FIRST_SHARED + 1)] == [False, True]
    assert session.sent == FIRST_SHARED + 2
    session.arrived(delivery(FIRST_SHARED + 4))
    assert session.wants_read()


@pytest.mark.rule("MQTT-2.3.1-4")
def test_a_packet_identifier_in_flight_is_waited_for() -> None:
    """After 65,535 messages the identifiers start anew; one that is still in flight is not given to a new message."""
    session = Session("c", 1, durable=False, window=100_000, max_queued=10)
    session.offer(Message("t", b"stays"), 1, False)
    assert sent(session) == [(1, False)]
    for sequence in range(2, 65_536):
        session.offer(Message("t", b""), 1, False)
        assert sent(session) == [(sequence, False)]
        session.inflight.puback(packet_id(sequence))
    session.offer(Message("t", b"next"), 1, False)
    assert sent(session) == []
    session.inflight.puback(1)
    assert sent(session) == [(65_536, False)]
    assert packet_id(65_536) == 1


def test_a_resumed_session_repeats_what_was_sent_and_marks_it() -> None:
    """Deliveries up to `sent` go out with DUP, later ones without, all in order."""
    session = Session("c", 2, durable=True, window=10, max_queued=10)
    session.restore([delivery(3), delivery(4), delivery(5)], last=5, sent=4, inbound=())
    assert sent(session) == [(3, True), (4, True), (5, False)]


def test_a_durable_session_reads_what_has_no_room() -> None:
    """Deliveries past the look-ahead are left in the store and read when the client has caught up."""
    session = Session("c", 1, durable=True, window=2, max_queued=2)
    for sequence in range(1, 6):
        session.arrived(delivery(sequence))
    assert sent(session) == [(1, False), (2, False)]
    assert session.wants_read()
    session.reading = True
    session.was_read([delivery(3), delivery(4)], tail=5)
    session.inflight.puback(1)
    session.inflight.puback(2)
    assert sent(session) == [(3, False), (4, False)]
    assert session.wants_read()


def test_a_delivery_that_comes_twice_is_sent_once() -> None:
    """A doubled notice of the same number has no effect."""
    session = Session("c", 1, durable=True, window=5, max_queued=5)
    session.arrived(delivery(1))
    session.arrived(delivery(1))
    assert sent(session) == [(1, False)]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), total=st.integers(1, 60), window=st.integers(1, 5), ahead=st.integers(1, 6))
def test_every_delivery_is_sent_once_and_in_order(seed: int, total: int, window: int, ahead: int) -> None:
    """Whatever is lost or doubled on the way from the store, and however reads and arrivals interleave, a client that
    acknowledges gets every message of its queue once, in order."""
    chance = random.Random(seed)
    session = Session("c", 1, durable=True, window=window, max_queued=ahead)
    store: dict[int, Delivery] = {}
    seen: list[int] = []
    reads: list[tuple[int, int]] = []
    queued = 0

    def turn() -> None:
        seen.extend(sequence for sequence, _ in sent(session))
        if session.wants_read():
            session.reading = True
            reads.append((session.cursor, session.tail))

    def answer() -> None:
        after, tail = reads.pop()
        session.was_read([store[n] for n in sorted(store) if n > after][: chance.randint(1, ahead)], tail)

    for _ in range(4000):
        action = chance.random()
        if action < 0.3 and queued < total:
            queued += 1
            store[queued] = delivery(queued)
            if chance.random() < 0.7 or queued == total:
                session.arrived(store[queued])
        elif action < 0.4 and store:
            session.arrived(store[chance.choice(sorted(store))])
        elif action < 0.7 and reads:
            answer()
        elif session.inflight.unacknowledged:
            done = session.inflight.puback(chance.choice(list(session.inflight.unacknowledged)))
            assert done is not None
            del store[done.sequence]
        turn()
        if queued == total and len(seen) == total:
            break
    else:
        while reads or session.inflight.unacknowledged or session.wants_read():
            if reads:
                answer()
            for identifier in list(session.inflight.unacknowledged):
                done = session.inflight.puback(identifier)
                assert done is not None
                del store[done.sequence]
            turn()
    assert seen == list(range(1, total + 1))
