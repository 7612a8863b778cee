"""Publishers and subscribers that cost little.

What is sent was encoded before: a ring of frames of one length, and what is sent is a slice of it, one `send` for a
batch. What is received is counted by its length. At QoS 1 and 2, and where it is asked for, each message carries a
number, and the numbers of a whole batch are compared at once; loss, repetition and wrong order are seen.
Nothing here costs more than some ten nanoseconds per message, but for QoS 2 and WebSocket (under a microsecond).
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import wire
from benchmarks.links import BUFFER, VIEW, Link

#: Messages before numbers begin anew. A packet identifier is the number plus one.
RING = 10_000
_HIGH = bytes(number >> 8 for number in range(RING)) * 3
_LOW = bytes(number & 0xFF for number in range(RING)) * 3
_IDS_HIGH = bytes(number + 1 >> 8 for number in range(RING))
_IDS_LOW = bytes(number + 1 & 0xFF for number in range(RING))


def joined(frames: Sequence[bytes]) -> bytes:
    """A ring of frames of one length."""
    ring = b"".join(frames)
    assert len(ring) == len(frames) * len(frames[0]), "frames have one length"
    return ring


def numbered(frame: bytes, at: int, identifier: int | None, count: int = RING) -> bytes:
    """A ring: the frame with number after number at `at`, and with identifiers if there is a place for them."""
    ring, size = bytearray(frame * count), len(frame)
    ring[at::size], ring[at + 1 :: size] = _HIGH[:count], _LOW[:count]
    if identifier is not None:
        ring[identifier::size], ring[identifier + 1 :: size] = _IDS_HIGH[:count], _IDS_LOW[:count]
    return bytes(ring)


def answers(kind: int, high: bytes | bytearray, low: bytes | bytearray) -> bytes:
    """PUBACKs, or what else is four bytes long, for these identifiers."""
    count = len(high)
    out = bytearray(4 * count)
    out[0::4], out[1::4], out[2::4], out[3::4] = bytes([kind]) * count, b"\x02" * count, high, low
    return bytes(out)


class Publisher:
    """Sends frames of `size` bytes from a ring, as fast as the broker reads them, or as acknowledgements and its
    subscriber let it.

    `window`: messages without acknowledgement at QoS 1 and 2. `ahead`: messages that `subscriber` has not received
    yet; no limit with 0. `batch`: bytes sent at a time.
    """

    def __init__(self, link: Link, ring: bytes, size: int, qos: int, window: int, ahead: int, batch: int) -> None:
        self.link, self._ring, self._size, self._qos = link, memoryview(ring), size, qos
        self._window, self._ahead, self._batch = window, ahead, max(1, batch // size) * size
        self._bytes = 0  # sent so far
        self._allowed = 0  # how far it may go
        self._replies: bytes = b""  # PUBRELs there was no room for
        self._rest = b""
        self.acknowledged = 0
        self.forgiven = 0
        self.subscriber: Subscriber | None = None
        self.stopped = False

    @property
    def sent(self) -> int:
        """Messages sent whole."""
        return self._bytes // self._size

    @property
    def due(self) -> int:
        """Acknowledgements still to come."""
        return self.sent - self.acknowledged if self._qos else 0

    @property
    def limited(self) -> bool:
        """Whether it waits for others than the socket."""
        return bool(self._qos or self._ahead)

    @property
    def blocked(self) -> bool:
        """Whether it waits for room in the socket."""
        return bool(self._replies) or self._bytes < self._allowed or not self.link.flush()

    def pump(self) -> None:
        """Send what may be sent."""
        if self._replies:
            self._replies = self._replies[self.link.send(self._replies) :]
            if self._replies:
                return
        if not self.limited:
            if not self.stopped:
                self._send(self._batch)
            return
        if self._bytes == self._allowed and not self.stopped:
            sent = self.sent
            room = self._window - (sent - self.acknowledged) if self._qos else self._ahead
            least = self._window if self._qos else self._ahead
            if self._ahead and self.subscriber is not None:
                room = min(room, self._ahead - (sent - self.subscriber.received - self.forgiven))
            # Few large sends, and not one small one for each acknowledgement.
            if room * 4 < least:
                return
            self._allowed += room * self._size
        while self._bytes < self._allowed and self._send(self._allowed - self._bytes):
            pass

    def _send(self, most: int) -> int:
        start = self._bytes % len(self._ring)
        count = self.link.send(self._ring[start : start + most])
        self._bytes += count
        return count

    def stop(self) -> None:
        """Begin nothing new; `pump` until not `blocked` ends what was begun."""
        self.stopped = True
        if not self.limited:
            self._allowed = -(-self._bytes // self._size) * self._size

    def finish(self) -> None:
        """After `stop`: send the rest of what was begun."""
        if self._replies:
            self.pump()
        elif self._bytes < self._allowed:
            self._send(self._allowed - self._bytes)

    def forgive(self) -> None:
        """What was not received by now is lost; do not wait for it."""
        if self.subscriber is not None:
            self.forgiven = self.sent - self.subscriber.received

    def read(self) -> int:
        """The link has something to read: acknowledgements. How many."""
        total = 0
        while True:
            start = len(self._rest)
            VIEW[:start] = self._rest
            count = self.link.fill(VIEW[start:])
            total += count
            if count:
                self._acknowledge(start + count)
            if not self.link.pending():
                return total // 4

    def _acknowledge(self, end: int) -> None:
        whole = end // 4
        lengths = BUFFER[1 : whole * 4 : 4]
        kinds = BUFFER[0 : whole * 4 : 4]
        if lengths.count(2) != whole:
            self._slowly(end)
            return
        self._rest = bytes(VIEW[whole * 4 : end])
        if self._qos == 1:
            self.acknowledged += kinds.count(wire.PUBACK)
        elif self._qos == 2:
            done = kinds.count(wire.PUBCOMP)
            self.acknowledged += done
            if done == whole:
                return None
            high, low = BUFFER[2 : whole * 4 : 4], BUFFER[3 : whole * 4 : 4]
            if done:
                pairs = [at for at in range(whole) if kinds[at] == wire.PUBREC]
                high, low = bytearray(high[at] for at in pairs), bytearray(low[at] for at in pairs)
            self._reply(answers(wire.PUBREL, high, low))
        return None

    def _slowly(self, end: int) -> None:
        """Packets of various lengths, as with reason codes."""
        data, last = bytes(VIEW[:end]), 0
        replies = []
        for first, start, stop in wire.split(data, end):
            last = stop
            if stop - start > 2 and data[start + 2] >= 0x80:
                raise AssertionError(f"a broker refuses a message: {data[start + 2]:#x}")
            if first == (wire.PUBACK if self._qos == 1 else wire.PUBCOMP):
                self.acknowledged += 1
            elif first == wire.PUBREC:
                replies.append(b"\x62\x02" + data[start : start + 2])
        self._rest = data[last:]
        self._reply(b"".join(replies))

    def _reply(self, data: bytes) -> None:
        # In the middle of a frame nothing else can be sent.
        if self._replies or self._bytes % self._size:
            self._held(data)
            return
        taken = self.link.send(data) if data else 0
        self._replies = data[taken:]

    def _held(self, data: bytes) -> None:
        if self._bytes % self._size and not self._replies:
            # The frame first: it was begun.
            start = self._bytes % len(self._ring)
            rest = bytes(self._ring[start : start + self._size - start % self._size])
            self._bytes += len(rest)
            self._replies = rest + data
        else:
            self._replies += data


class Subscriber:
    """Counts messages of `size` bytes, and acknowledges them.

    `number` is where a message's number stands in a frame, `identifier` its packet identifier; without a number
    messages are only counted.
    """

    def __init__(self, link: Link, size: int, first: int, qos: int, number: int | None, identifier: int) -> None:
        self.link, self._size, self._first, self._qos = link, size, first, qos
        self._number, self._identifier = number, identifier
        self._rest = b""
        self._bytes = 0
        self._replies = b""
        self._numbered = 0
        self.expected = 0
        self.lost = self.repeated = self.reordered = 0
        self.pump_after: Publisher | None = None

    @property
    def received(self) -> int:
        return self._bytes // self._size if self._number is None else self._numbered

    def whole(self) -> bool:
        """Whether everything received were messages of the length expected."""
        return not self._bytes % self._size

    def read(self) -> int:
        """The link has something to read. How many messages, about."""
        total = 0
        while True:
            if self._number is None:
                count = self.link.fill(VIEW)
                if count and not self._bytes % self._size and BUFFER[0] != self._first:
                    raise AssertionError(f"a broker sends something else than messages: {bytes(VIEW[:8]).hex()}")
                self._bytes += count
            else:
                start = len(self._rest)
                VIEW[:start] = self._rest
                count = self.link.fill(VIEW[start:])
                if count:
                    self._take(start + count)
            total += count
            if not self.link.pending():
                break
        if self.pump_after is not None and not self.pump_after.stopped:
            self.pump_after.pump()
        return total // self._size

    def _take(self, end: int) -> None:
        assert self._number is not None
        size = self._size
        whole = end // size
        stop = whole * size
        if self._qos == 2 or BUFFER[0:stop:size].count(self._first) != whole:
            self._slowly(end)
            return
        self._rest = bytes(VIEW[stop:end])
        if self._qos:
            at = self._identifier
            self.reply(answers(wire.PUBACK, BUFFER[at:stop:size], BUFFER[at + 1 : stop : size]))
        at = self._number
        self._check(BUFFER[at:stop:size], BUFFER[at + 1 : stop : size])

    def _slowly(self, end: int) -> None:
        """Packets of various kinds."""
        number, identifier, size = self._number, self._identifier, self._size
        assert number is not None
        data, last = bytes(VIEW[:end]), 0
        high, low = bytearray(), bytearray()
        replies = []
        head = b"\x40\x02" if self._qos == 1 else b"\x50\x02"
        while end - last >= 4:
            kind = data[last]
            if kind & 0xF0 == 0x30:
                if end - last < size:
                    break
                at = last + number
                high.append(data[at])
                low.append(data[at + 1])
                at = last + identifier
                if self._qos:
                    replies.append(head + data[at : at + 2])
                last += size
            elif kind == wire.PUBREL:
                replies.append(b"\x70\x02" + data[last + 2 : last + 4])
                last += 2 + data[last + 1]
            else:
                raise AssertionError(f"a broker sends something else than messages: {data[last : last + 8].hex()}")
        self._rest = data[last:]
        self.reply(b"".join(replies))
        self._check(high, low)

    def _check(self, high: bytes | bytearray, low: bytes | bytearray) -> None:
        count = len(high)
        self._numbered += count
        start = self.expected % RING
        if high == _HIGH[start : start + count] and low == _LOW[start : start + count]:
            self.expected += count
            return
        for number in (a << 8 | b for a, b in zip(high, low)):
            # Up to half a ring ahead is new, any other was there before.
            ahead = (number - self.expected) % RING
            if ahead < RING // 2:
                self.lost += ahead
                self.expected += ahead + 1
            elif self.lost:
                self.lost -= 1  # held for lost, and only late
                self.reordered += 1
            else:
                self.repeated += 1

    def reply(self, data: bytes = b"") -> None:
        """Send acknowledgements, and what there was no room for before."""
        data = self._replies + data
        if data:
            self._replies = data[self.link.send(data) :]
