"""A load that costs little: publishers on one node, subscribers on another, in one thread.

Every message is `SIZE` bytes long, and its payload begins with its number. The frames of `RING` messages are encoded
once per pair of clients; what is sent is a slice of them, one `send` for a batch. What is received is cut into frames
by their common length, and the numbers are compared with what is due: each message is counted, and loss, repetition
and wrong order are seen.

The loop is closed: a publisher is never more than `window` messages ahead, at QoS 0 of what its subscriber has
received, at QoS 1 of what was acknowledged or received, whichever is less. So no broker is asked to drop anything.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct, pack

#: Bytes of payload; messages before numbers begin anew (packet ids are the numbers plus one).
SIZE, RING = 100, 10_000
#: A broker that is silent for so long, in seconds, has lost what is still due.
SILENCE = 5.0

_NUMBERS = list(range(RING)) * 2
_PUBACKS = [b"\x40\x02" + identifier.to_bytes(2, "big") for identifier in range(65536)]


@dataclass(slots=True)
class Scenario:
    """`pairs` of one publisher and one subscriber; a `persistent` subscriber's session outlives its connection."""

    name: str
    title: str
    qos: int
    persistent: bool
    pairs: int
    window: int


@dataclass(slots=True)
class Outcome:
    """What one run has seen. `rate` is messages received per second, `generator` the load's own share of a processor;
    `cpu` is processor seconds of the programs, over `messages` messages."""

    rate: float
    messages: int
    cpu: list[float]
    generator: float
    lost: int
    repeated: int
    reordered: int


def _text(text: str) -> bytes:
    data = text.encode()
    return pack(">H", len(data)) + data


def _packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 16384
    low, high = len(body) & 0x7F, len(body) >> 7
    return bytes([kind, low | 0x80, high] if high else [kind, low]) + body


class _Client:
    """One connection."""

    def __init__(self, port: int, client_id: str, clean: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_packet(0x10, _text("MQTT") + bytes([4, 2 if clean else 0, 0, 0]) + _text(client_id)))
        answer = self._read(4)
        if answer[0] != 0x20 or answer[3]:
            raise SystemExit(f"a broker refuses a connection: {answer.hex()}")

    def subscribe(self, topic: str, qos: int) -> None:
        self.socket.sendall(_packet(0x82, pack(">H", 1) + _text(topic) + bytes([qos])))
        answer = self._read(5)
        if answer[0] != 0x90 or answer[4] != qos:
            raise SystemExit(f"a broker refuses a subscription: {answer.hex()}")

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise SystemExit("a broker has closed a connection")
            data += more
        return data

    def close(self) -> None:
        self.socket.sendall(b"\xe0\x00")
        self.socket.close()


class _Pair:
    """A publisher and its subscriber."""

    def __init__(self, scenario: Scenario, ports: Sequence[int], run: str, number: int) -> None:
        self._qos, self._window = scenario.qos, scenario.window
        self._port = ports[1]
        self._client_id = f"s-{run}-{number:02}"
        self._persistent = scenario.persistent
        topic = f"bench/{run}/{number:02}"
        self.subscriber = _Client(ports[1], self._client_id, not scenario.persistent)
        self.subscriber.subscribe(topic, scenario.qos)
        self.publisher = _Client(ports[0], f"p-{run}-{number:02}", True)
        before = 2 + len(_text(topic)) + (2 if scenario.qos else 0)
        rest = b"." * (SIZE - 4)
        if scenario.qos:
            bodies = (_text(topic) + pack(">HI", 1 + number, number) + rest for number in range(RING))
        else:
            bodies = (_text(topic) + pack(">I", number) + rest for number in range(RING))
        ring = b"".join(_packet(0x30 | scenario.qos << 1, body) for body in bodies)
        self._size = before + SIZE
        assert len(ring) == RING * self._size, "a remaining length takes one byte"
        self._ring = memoryview(ring)
        self._frame = Struct(f">{before - 2}xHI{SIZE - 4}x" if scenario.qos else f">{before}xI{SIZE - 4}x")
        self._rest, self._acknowledgements = b"", 0
        self._unsent: memoryview | bytes = b""
        self.sent = self.acknowledged = self.received = self.expected = 0
        self.lost = self.repeated = self.reordered = 0
        # A whole window fits, also of acknowledgements, so a send is seldom cut short.
        self.publisher.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * self._window * self._size)
        for client in (self.publisher, self.subscriber):
            client.socket.setblocking(False)

    def due(self) -> int:
        """How many messages are still to come."""
        return self.sent - self.expected

    def publish(self) -> None:
        """Send as much as the window has room for."""
        if not self.send():
            return
        through = self.expected if not self._qos else min(self.expected, self.acknowledged)
        room = self._window - (self.sent - through)
        # Few large sends, and not one small one for each acknowledgement.
        if room * 4 < self._window:
            return
        start = self.sent % RING
        count = min(room, RING - start)
        self._unsent = self._ring[start * self._size : (start + count) * self._size]
        self.sent += count
        self.send()

    def send(self) -> bool:
        """Send the rest of what was to be sent. Whether there is none."""
        if self._unsent:
            try:
                self._unsent = self._unsent[self.publisher.socket.send(self._unsent) :]
            except BlockingIOError:
                return False
        return not self._unsent

    def acknowledgements(self) -> None:
        """The publisher has something to read: PUBACKs of 4 bytes each."""
        data = self.publisher.socket.recv(1 << 18)
        if not data:
            raise SystemExit("a broker has closed a publisher's connection")
        self._acknowledgements += len(data)
        self.acknowledged = self._acknowledgements // 4

    def messages(self) -> None:
        """The subscriber has something to read."""
        data = self.subscriber.socket.recv(1 << 18)
        if not data:
            raise SystemExit("a broker has closed a subscriber's connection")
        data = self._rest + data if self._rest else data
        count = len(data) // self._size
        whole = count * self._size
        self._rest = data[whole:]
        frames = list(self._frame.iter_unpack(memoryview(data)[:whole]))
        if self._qos:
            self.subscriber.socket.sendall(b"".join([_PUBACKS[frame[0]] for frame in frames]))
        numbers = [frame[-1] for frame in frames]
        self.received += count
        start = self.expected % RING
        if numbers == _NUMBERS[start : start + count]:
            self.expected += count
        else:
            self._look_closely(numbers)

    def _look_closely(self, numbers: Sequence[int]) -> None:
        """Some are not the next ones. A number up to half a ring ahead is new, any other was there before."""
        for number in numbers:
            ahead = (number - self.expected) % RING
            if ahead < RING // 2:
                self.lost += ahead
                self.expected += ahead + 1
            elif self.lost:
                self.lost -= 1  # held for lost, and only late
                self.reordered += 1
            else:
                self.repeated += 1

    def close(self) -> None:
        """End the connections, and the session."""
        for client in (self.publisher, self.subscriber):
            client.socket.setblocking(True)
            client.close()
        if self._persistent:
            _Client(self._port, self._client_id, True).close()


def measure(
    scenario: Scenario, ports: Sequence[int], run: str, warm: float, seconds: float, cpu: Callable[[], list[float]]
) -> Outcome:
    """Publish to `ports[0]`, subscribe at `ports[1]`: `warm` seconds, then `seconds` that count, then until everything
    has come. `run` makes names that no other run has; `cpu` tells the processor seconds of the programs so far."""
    pairs = [_Pair(scenario, ports, run, number) for number in range(scenario.pairs)]
    selector = selectors.DefaultSelector()
    for pair in pairs:
        selector.register(pair.publisher.socket, selectors.EVENT_READ, (pair, pair.acknowledgements))
        selector.register(pair.subscriber.socket, selectors.EVENT_READ, (pair, pair.messages))

    def turn(publishing: bool) -> bool:
        """Whether anything has come."""
        ready = selector.select(0.05)
        for key, _ in ready:
            key.data[1]()
        if publishing:
            for pair in {id(key.data[0]): key.data[0] for key, _ in ready}.values() if ready else pairs:
                pair.publish()
        return bool(ready)

    def go_on(until: float) -> None:
        while time.monotonic() < until:
            turn(True)

    for pair in pairs:
        pair.publish()
    go_on(time.monotonic() + warm)
    count, before, own, began = _received(pairs), cpu(), time.process_time(), time.monotonic()
    go_on(began + seconds)
    took, after, own = time.monotonic() - began, cpu(), time.process_time() - own
    count = _received(pairs) - count

    heard = time.monotonic()
    while any(pair.due() for pair in pairs) and time.monotonic() - heard < SILENCE:
        for pair in pairs:
            pair.send()
        if turn(False):
            heard = time.monotonic()
    outcome = Outcome(
        rate=count / took,
        messages=count,
        cpu=[late - early for late, early in zip(after, before, strict=True)],
        generator=own / took,
        lost=sum(pair.lost + pair.due() for pair in pairs),
        repeated=sum(pair.repeated for pair in pairs),
        reordered=sum(pair.reordered for pair in pairs),
    )
    selector.close()
    for pair in pairs:
        pair.close()
    return outcome


def _received(pairs: Sequence[_Pair]) -> int:
    return sum(pair.received for pair in pairs)
