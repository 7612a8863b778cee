"""The writing thread, on connections that break after the commands have left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as Lost

from mqttcluster.storage.redis_writer import Call, Meeting, Writer
from tests.storage.driver import QueueReactor, outcome


class Wires:
    """Connections to a Redis that takes every command. After the first `cut` pipelines it gives no answer."""

    def __init__(self, cut: int) -> None:
        self.cut = cut
        self.made = 0
        self.pipelines: list[list[Sequence[object]]] = []

    def __call__(self) -> Any:
        self.made += 1
        return _Connection(self)


class _Connection:
    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._answers: list[Any] = []

    def connect(self) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def send_command(self, *args: Any, check_health: bool = True) -> None:
        if args[0] == "INFO":
            self._answers.append(f"redis_version:7.0.0\nredis_mode:standalone\nrun_id:{self._wires.made}")
        else:
            self._answers.append([b"1", b"run", b"16", b"16"])

    def pack_commands(self, commands: Iterable[Sequence[object]]) -> Any:
        return list(commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if command:
            self._wires.pipelines.append(command)
        self._answers += [b"OK"] * len(command)

    def read_response(self) -> Any:
        answer = self._answers.pop(0)
        if answer == b"OK" and len(self._wires.pipelines) <= self._wires.cut:
            raise Lost("cut")
        return answer


def test_after_an_unknown_outcome_only_what_may_be_repeated_is() -> None:
    """QoS 0 never comes twice because a connection to Redis broke; what must arrive is sent until it has."""
    wires, reactor = Wires(cut=2), QueueReactor()
    writer = Writer(wires, "mc:", (16, 16), reactor, lambda: 0.0)
    dropped: list[int] = []
    met: list[Meeting] = []
    answers: list[tuple[int, Sequence[Any]]] = []
    writer.dropped, writer.met = dropped.append, met.append
    for number in range(3):
        writer.submit(Call([("LINK", number)], lambda got, _, number=number: answers.append((number, got))))
        writer.submit(Call([("PUBLISH", number)], repeat=False))
    ended = writer.start()
    while len(answers) < 3:
        reactor.turn()
    assert wires.pipelines == [
        [command for number in range(3) for command in (("LINK", number), ("PUBLISH", number))],
        [("LINK", number) for number in range(3)],
        [("LINK", number) for number in range(3)],
    ]
    assert answers == [(number, [b"OK"]) for number in range(3)]
    assert dropped == [3]
    assert [meeting.server for meeting in met] == ["1", "2", "3"]
    writer.stop()
    outcome(ended, reactor)
