"""A QoS 2 message that is repeated from another node."""

from __future__ import annotations

from mqttcluster.core.seen import Seen


def test_an_exchange_is_new_once() -> None:
    """A repetition is refused, also when newer exchanges came in between, and also below the lowest open one."""
    seen = Seen()
    assert seen.first("p", 1, 1)
    assert not seen.first("p", 1, 1)
    assert seen.first("p", 3, 1)
    assert seen.first("p", 2, 1)
    assert not seen.first("p", 3, 3)
    assert seen.first("p", 4, 4)
    assert not seen.first("p", 3, 1)
    assert seen.first("q", 3, 1)
