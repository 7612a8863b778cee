"""What a broker keeps: retained messages for who subscribes later, and the queue of a client that is away."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any

from benchmarks import wire
from benchmarks.links import TCP, VIEW, Entry, Link, Refused, enter
from benchmarks.programs import Usage

WINDOW = 100
SIZE = 100
#: A broker that is silent for so long, in seconds, has nothing more to give.
SILENCE = 10.0


def _fill(port: int, run: str, version: int, frames: Callable[[int], bytes], count: int) -> float:
    """Publish messages at QoS 1 and wait for all acknowledgements. Seconds it took. `frames`: of their numbers."""
    entry = Entry(f"f-{run}", port)
    [link] = enter([entry], TCP, version)
    window = min(WINDOW, entry.window)
    began = time.monotonic()
    sent = acknowledged = 0
    rest = b""
    while acknowledged < count:
        if window - (sent - acknowledged) >= window // 2:
            last = min(count, acknowledged + window)
            link.tell(b"".join(frames(number) for number in range(sent, last)))
            sent = last
        # A broker that collects small packets waits for this system's acknowledgement before it sends the next ones.
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        data = rest + bytes(VIEW[: link.fill(VIEW)])
        at = 0
        for first, _, end in wire.split(data, len(data)):
            acknowledged += first == wire.PUBACK
            at = end
        rest = data[at:]
    took = time.monotonic() - began
    link.tell(wire.DISCONNECT)
    link.close()
    return took


class _Reader:
    """Takes messages at QoS 1 of topics with a prefix, and notes the numbers that their payloads begin with."""

    def __init__(self, link: Link, prefix: bytes) -> None:
        self._link, self._prefix = link, prefix
        self._rest = self._replies = b""
        self.seen: set[int] = set()
        self.repeated = 0

    def read(self) -> None:
        data = self._rest + bytes(VIEW[: self._link.fill(VIEW)])
        last, replies = 0, []
        for first, start, end in wire.split(data, len(data)):
            last = end
            if first & 0xF0 != 0x30:
                continue
            at = start + 2 + int.from_bytes(data[start : start + 2], "big")
            if first & 0x06:
                replies.append(b"\x40\x02" + data[at : at + 2])
            if not data.startswith(self._prefix, start + 2):
                continue  # what the broker has to say of itself
            number = int.from_bytes(data[end - SIZE : end - SIZE + 4], "big")
            self.repeated += number in self.seen
            self.seen.add(number)
        self._rest = data[last:]
        self._replies += b"".join(replies)
        if self._replies:
            self._replies = self._replies[self._link.send(self._replies) :]


def _collect(link: Link, reader: _Reader, count: int) -> float:
    """Read until all are there or nothing comes any more. When the last one came."""
    poll = select.epoll()
    poll.register(link.socket.fileno(), select.EPOLLIN)
    heard = time.monotonic()
    while len(reader.seen) < count and time.monotonic() - heard < SILENCE:
        if poll.poll(0.05):
            reader.read()
            heard = time.monotonic()
    poll.close()
    return heard


def _payload(number: int) -> bytes:
    return number.to_bytes(4, "big") + b"." * (SIZE - 4)


def _result(count: int, took: float, filling: float, reader: _Reader, usage: Usage) -> dict[str, Any]:
    return {
        "rate": count / took,
        "seconds": took,
        "filling": count / filling,
        **usage.end().per(count, took),
        "lost": count - len(reader.seen),
        "repeated": reader.repeated,
        "reordered": 0,
    }


def retained(port: int, run: str, version: int, count: int, pids: list[int]) -> dict[str, Any]:
    """`count` retained messages for a new subscription to `#`: how many of them it gets per second."""

    def frame(number: int) -> bytes:
        topic = f"retained/{run}/{number // 1000:03}/{number % 1000:03}"
        return wire.publish(topic, _payload(number), 1, version, number % 60000 + 1, retain=True)

    filling = _fill(port, run, version, frame, count)
    usage = Usage(pids)
    usage.settle()
    [link] = enter([Entry(f"r-{run}", port)], TCP, version)
    reader = _Reader(link, b"retained/")
    usage.begin()
    began = time.monotonic()
    # What is retained may come before the SUBACK.
    link.tell(wire.subscribe(["#"], 1, version))
    link.ready()
    took = _collect(link, reader, count) - began
    return _result(count, took, filling, reader, usage)


def queue(port: int, run: str, version: int, count: int, pids: list[int]) -> dict[str, Any]:
    """`count` messages at QoS 1 for a session whose client is away: how many it gets per second when it is back."""
    topic = f"queue/{run}"
    entry = Entry(f"q-{run}", port, False, [topic], 1)
    [link] = enter([entry], TCP, version)
    link.tell(wire.DISCONNECT)
    link.close()

    def frame(number: int) -> bytes:
        return wire.publish(topic, _payload(number), 1, version, number % 60000 + 1)

    filling = _fill(port, run, version, frame, count)
    usage = Usage(pids)
    usage.settle()
    usage.begin()
    began = time.monotonic()
    back = Entry(f"q-{run}", port, False)
    [link] = enter([back], TCP, version)
    link.ready()
    reader = _Reader(link, b"queue/")
    took = _collect(link, reader, count) - began
    result = _result(count, took, filling, reader, usage)
    link.close()
    if not reader.seen:
        raise Refused("a broker has kept nothing")
    for gone in enter([Entry(f"q-{run}", port)], TCP, version):
        gone.close()
    return result
