"""Retained messages in memory: what is there, and what goes when its time is over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.core.message import Message
from mqttcluster.core.retained import Retained

topics = st.sampled_from(["a", "a/b", "c"])


def test_messages_go_when_their_time_is_over() -> None:
    """Those that were replaced or removed in time do not count, those that never expire stay."""
    retained = Retained()
    for topic, expires_at in (("a", 3.0), ("b", 2.0), ("c", None), ("d", 1.0), ("e", 1.0), ("f", 1.0), ("g", 9.0)):
        retained.apply(Message(topic, b"1", expires_at=expires_at))
    retained.apply(Message("d", b"2", expires_at=5.0))
    retained.apply(Message("e", b"2"))
    retained.apply(Message("f", b""))
    assert retained.take_expired(0.9, 10) == []
    assert [message.topic for message in retained.take_expired(3.0, 1)] == ["b"]
    assert [message.topic for message in retained.take_expired(3.0, 10)] == ["a"]
    assert retained.take_expired(3.0, 10) == []
    assert sorted(message.topic for message in retained.match("#")) == ["c", "d", "e", "g"]
    retained.replace([Message("h", b"1", expires_at=4.0)])
    assert [message.topic for message in retained.take_expired(99.0, 10)] == ["h"]


def test_all_is_read_anew_while_somebody_reads() -> None:
    """Who is being sent the retained messages gets those that stay, and none that were removed."""
    retained = Retained()
    for topic in ("a/1", "a/2", "b/1", "c/1", "d"):
        retained.apply(Message(topic, b"1"))
    reading = retained.match("#")
    seen = {next(reading).topic}
    there = {"a/1", "a/2", "b/1", "d"}
    retained.replace([Message(topic, b"2") for topic in sorted(there)])
    assert {message.topic for message in reading} | seen == there | seen
    assert {message.topic for message in retained.match("#")} == there


@given(st.lists(st.tuples(topics, st.none() | st.integers(0, 9), st.booleans()), max_size=300), st.integers(0, 9))
def test_whatever_was_applied(changes: list[tuple[str, int | None, bool]], now: int) -> None:
    """What is left is what has not expired; what is remembered of expiries stays in proportion."""
    retained, wanted = Retained(), {}
    for topic, expires_at, there in changes:
        message = Message(topic, b"x" if there else b"", expires_at=expires_at)
        retained.apply(message)
        wanted[topic] = message
    wanted = {topic: message for topic, message in wanted.items() if message.payload}
    expired = retained.take_expired(now, 10)
    assert {message.topic for message in expired} == {m.topic for m in wanted.values() if m.expired(now)}
    left = sorted(retained.match("#"), key=lambda message: message.topic)
    assert left == [m for _, m in sorted(wanted.items()) if not m.expired(now)]
    assert len(retained._next) <= 70


def test_a_topic_that_changes_all_the_time() -> None:
    """Costs no more memory than one that does not."""
    retained = Retained()
    for number in range(10_000):
        retained.apply(Message("t", b"x", expires_at=float(number)))
    assert len(retained._next) < 100
    assert [message.expires_at for message in retained.take_expired(10_000.0, 9)] == [9999.0]
