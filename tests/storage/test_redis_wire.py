"""Coming back to a Redis that was lost."""

from __future__ import annotations

import random
from threading import Event
from typing import Any

from mqttcluster.storage.redis_cluster import connections
from mqttcluster.storage.redis_wire import LONGEST_PAUSE, Attempts


class Clockwork(Event):
    """Waits for nothing, and remembers how long it should have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> Any:
        assert timeout is not None
        self.pauses.append(timeout)


def test_pauses_grow_to_a_bound_and_keep_out_of_step() -> None:
    """A node that is cut off once every 200 ms and tries again after exactly a second is cut off for ever."""
    clockwork = Clockwork()
    attempts = Attempts(clockwork)
    for _ in range(60):
        attempts.failed()
    late = clockwork.pauses[20:]
    assert all(LONGEST_PAUSE / 2 <= pause <= LONGEST_PAUSE for pause in late)
    assert len({round(pause % 0.2, 2) for pause in late}) > 5
    assert max(clockwork.pauses[:3]) < LONGEST_PAUSE / 2
    attempts.worked()
    attempts.failed()
    assert clockwork.pauses[-1] < LONGEST_PAUSE / 2


def test_the_pauses_leave_the_random_numbers_of_others_alone() -> None:
    """Who seeds `random` gets the same numbers again, whatever becomes of a Redis meanwhile; and nodes that are seeded
    alike do not come back in step."""
    clockwork = Clockwork()
    before = random.getstate()
    Attempts(clockwork).failed()
    assert clockwork.pauses
    assert random.getstate() == before


def test_a_node_may_reconnect_for_ever() -> None:
    """There is no number of lost connections after which it has to be started anew."""
    connect = connections("redis://127.0.0.1:1/0", 1.0)
    made = [connect() for _ in range(1000)]
    assert len({id(connection) for connection in made}) == 1000
