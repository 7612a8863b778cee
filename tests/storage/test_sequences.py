"""Sequences against a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.storage.sequences import Sequences


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80))
def test_like_a_set(steps: list[tuple[bool, int]]) -> None:
    sequences, plain, last = Sequences(), set[int](), 0
    for adds, number in steps:
        if adds:
            low = last + 1 + number % 3
            last = low + number // 10
            sequences.append(low, last)
            plain.update(range(low, last + 1))
        else:
            assert sequences.remove(number) == (number in plain)
            plain.discard(number)
        assert len(sequences) == len(plain)
        runs = sequences.runs
        assert [each for low, high in runs for each in range(low, high + 1)] == sorted(plain)
        assert sequences.after(number) == min((each for each in plain if each > number), default=None)
    other = sequences.copy()
    other.append(last + 1)
    assert len(sequences) == len(plain)


def test_a_long_queue_is_one_run() -> None:
    """A session with a million queued messages costs its account no memory."""
    sequences = Sequences()
    for number in range(1, 100_001):
        sequences.append(number)
    for number in range(1, 50_001):
        sequences.remove(number)
    assert sequences.runs == [(50_001, 100_000)]
