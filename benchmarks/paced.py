"""Messages at a given rate over many pairs, and how long each is under way.

Every millisecond the messages that have become due are sent, one by one, each by the next publisher. A message carries
the time it was sent, of the clock that its receiver reads too.
"""

from __future__ import annotations

import select
import time
from struct import pack_into, unpack_from
from typing import Any

from benchmarks import wire
from benchmarks.flow import Load, topics
from benchmarks.links import VIEW, Entry, Link, enter
from benchmarks.programs import Usage

#: Seconds to wait for the first message, and for what is under way at the end.
PATIENCE = 10.0


class _Receiver:
    """Notes how long each message was under way, in nanoseconds."""

    def __init__(self, link: Link, size: int, stamp: int) -> None:
        self.link, self._size, self._stamp = link, size, stamp
        self._rest = b""
        self.received = 0
        self.delays: list[int] = []

    def read(self) -> None:
        start = len(self._rest)
        VIEW[:start] = self._rest
        end = start + self.link.fill(VIEW[start:])
        now = time.monotonic_ns()
        at, size, stamp, delays = 0, self._size, self._stamp, self.delays
        while end - at >= size:
            delays.append(now - unpack_from(">Q", VIEW, at + stamp)[0])
            at += size
        self.received += at // size
        self._rest = bytes(VIEW[at:end])


def run(load: Load, rate: float) -> dict[str, Any]:
    """Offer `rate` messages per second over the pairs of the load."""
    names, filters = topics(load)
    count = load.publishers
    receiving = enter(
        [Entry(f"s-{load.run}-{n}", load.ports[-1], filters=filters[n]) for n in range(count)],
        load.transport,
        load.version,
    )
    sending = enter([Entry(f"p-{load.run}-{n}", load.ports[0]) for n in range(count)], load.transport, load.version)
    frames = [bytearray(wire.publish(name[0], bytes(load.size), 0, load.version)) for name in names]
    size = len(frames[0])
    stamp = size - load.size
    receivers = {}
    poll = select.epoll()
    for link in receiving:
        link.ready()
        receivers[link.socket.fileno()] = _Receiver(link, size, stamp)
        poll.register(link.socket.fileno(), select.EPOLLIN)
    for link in sending:
        link.ready()
    usage = Usage(load.pids)
    usage.settle()

    offered = missed = 0

    def turn(wait: float) -> bool:
        ready = poll.poll(wait)
        for descriptor, _ in ready:
            receivers[descriptor].read()
        return bool(ready)

    def go_on(seconds: float) -> None:
        nonlocal offered, missed
        began, done = time.monotonic(), 0
        while (now := time.monotonic()) - began < seconds:
            for _ in range(int((now - began) * rate) - done):
                at = offered % count
                frame = frames[at]
                pack_into(">Q", frame, stamp, time.monotonic_ns())
                taken = sending[at].send(frame)
                if taken == size:
                    offered += 1
                elif taken:
                    # Half a message makes the rest of the connection useless; a socket's buffer takes many of these.
                    raise RuntimeError("a send was cut short")
                else:
                    missed += 1
                done += 1
            turn(0.001)

    def received() -> int:
        return sum(receiver.received for receiver in receivers.values())

    go_on(load.warm)
    for receiver in receivers.values():
        receiver.delays.clear()
    before, began = received(), time.monotonic()
    usage.begin()
    go_on(load.seconds)
    while received() == before and time.monotonic() < began + load.seconds + PATIENCE:
        go_on(0.05)
    took = time.monotonic() - began
    used = usage.end()
    messages = received() - before
    delays = sorted(delay for receiver in receivers.values() for delay in receiver.delays)
    end = time.monotonic() + PATIENCE
    while (total := received()) < offered and time.monotonic() < end:
        turn(0.02)
    poll.close()
    return {
        "rate": messages / took,
        "messages": messages,
        **used.per(messages, took),
        "p50": delays[len(delays) // 2] / 1e6 if delays else None,
        "p99": delays[len(delays) * 99 // 100] / 1e6 if delays else None,
        "late": 1 - messages / (rate * took),
        "missed": missed,
        "lost": offered - total,
        "repeated": 0,
        "reordered": 0,
    }
