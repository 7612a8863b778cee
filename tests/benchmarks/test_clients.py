"""What the load counts is true: it sees what is lost, repeated or out of order, and loses no frame of a stream."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from benchmarks import wire
from benchmarks.clients import RING, Publisher, Subscriber, numbered
from benchmarks.links import Link, WebSocketLink

SIZE = 20


class Wire:
    """A link to this test: what the test writes, the link receives."""

    def __init__(self, kind: type[Link] = Link) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.link = kind(server.getsockname()[1])
            self.end, _ = server.accept()
        self.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link.ready()
        self.filled = 0
        fill = self.link.fill

        def counted(view: memoryview) -> int:
            count = fill(view)
            self.filled += count
            return count

        self.link.fill = counted  # type: ignore[method-assign]

    def heard(self, size: int) -> bytes:
        """The next so many bytes from the link, in whatever pieces they come."""
        return self.end.recv(size, socket.MSG_WAITALL)

    def close(self) -> None:
        self.end.close()
        self.link.close()


@pytest.fixture
def plain() -> Iterator[Wire]:
    wire_ = Wire()
    yield wire_
    wire_.close()


@pytest.fixture
def web() -> Iterator[Wire]:
    wire_ = Wire(WebSocketLink)
    yield wire_
    wire_.close()


def frames(numbers: Sequence[int], qos: int) -> bytes:
    return b"".join(
        wire.publish("t", number.to_bytes(2, "big") + bytes(SIZE - 2), qos, 4, number + 1) for number in numbers
    )


def subscriber(link: Link, qos: int) -> Subscriber:
    head = 7 if qos else 5
    return Subscriber(link, head + SIZE, 0x30 | qos << 1, qos, head, head - 2)


def take(wire_: Wire, client: Subscriber | Publisher, data: bytes) -> None:
    """Let the client read all of it, whatever pieces it comes in."""
    sending = threading.Thread(target=wire_.end.sendall, args=(data,))
    sending.start()
    end = wire_.filled + len(data)
    while wire_.filled < end:
        assert select.select([wire_.link.socket], [], [], 60)[0], "the rest does not come"
        client.read()
    sending.join()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_in_order_are_counted(plain: Wire, qos: int) -> None:
    """More messages than there are numbers: none is taken for lost where numbers begin anew."""
    client = subscriber(plain.link, qos)
    numbers = [number % RING for number in range(RING + 50)]
    take(plain, client, frames(numbers[: RING // 2], qos))
    if qos:
        plain.end.recv(1 << 20)
    take(plain, client, frames(numbers[RING // 2 :], qos))
    assert client.received == RING + 50
    assert (client.lost, client.repeated, client.reordered) == (0, 0, 0)


@pytest.mark.parametrize(
    ("numbers", "lost", "repeated", "reordered"),
    [([0, 1, 3, 4], 1, 0, 0), ([0, 1, 1, 2], 0, 1, 0), ([0, 2, 1, 3], 0, 0, 1)],
)
def test_what_is_wrong_is_seen(plain: Wire, numbers: list[int], lost: int, repeated: int, reordered: int) -> None:
    client = subscriber(plain.link, 1)
    take(plain, client, frames(numbers, 1))
    assert (client.lost, client.repeated, client.reordered) == (lost, repeated, reordered)


def test_acknowledgements_name_what_was_received(plain: Wire) -> None:
    """A PUBACK for each message at QoS 1; at QoS 2 a PUBREC for each, and a PUBCOMP for each PUBREL."""
    take(plain, subscriber(plain.link, 1), frames([0, 1, 299], 1))
    assert plain.heard(12) == b"\x40\x02\x00\x01\x40\x02\x00\x02\x40\x02\x01\x2c"
    take(plain, subscriber(plain.link, 2), frames([4], 2) + b"\x62\x02\x00\x09" + frames([5], 2))
    assert plain.heard(12) == b"\x50\x02\x00\x05\x70\x02\x00\x09\x50\x02\x00\x06"


def test_a_publisher_keeps_its_window(plain: Wire) -> None:
    """It stops at the window, and goes on by what is acknowledged."""
    frame = wire.publish("t", bytes(SIZE), 1, 4)
    client = Publisher(plain.link, numbered(frame, 7, 5), len(frame), 1, 10, 0, 4096)
    client.pump()
    client.pump()
    assert client.sent == 10
    assert plain.heard(10 * len(frame)) == frames(range(10), 1)
    take(plain, client, b"".join(b"\x40\x02\x00" + bytes([number]) for number in range(1, 6)))
    client.pump()
    assert (client.acknowledged, client.sent) == (5, 15)


def test_a_publisher_releases_what_was_received(plain: Wire) -> None:
    """QoS 2: PUBREL for each PUBREC, also with a reason, and done by PUBCOMP."""
    frame = wire.publish("t", bytes(SIZE), 2, 4)
    client = Publisher(plain.link, numbered(frame, 7, 5), len(frame), 2, 3, 0, 4096)
    client.pump()
    plain.heard(3 * len(frame))
    take(plain, client, b"\x50\x02\x00\x01\x50\x03\x00\x02\x10\x50\x02\x00\x03")
    assert plain.heard(12) == b"\x62\x02\x00\x01\x62\x02\x00\x02\x62\x02\x00\x03"
    assert client.due == 3
    take(plain, client, b"\x70\x02\x00\x01\x70\x02\x00\x02\x70\x02\x00\x03")
    assert client.due == 0


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_packets_are_found_in_websocket_frames(web: Wire, piece: int) -> None:
    """However frames and packets overlap: pings are passed over, and large frames are read in parts."""
    data = frames(range(100), 0)
    first = b"\x82\x7e\x03\xe8" + data[:1000] + b"\x89\x02hi"
    rest = data[1000:]
    stream = first + b"".join(
        b"\x82" + bytes([len(part)]) + part for part in (rest[at : at + 100] for at in range(0, len(rest), 100))
    )
    client = subscriber(web.link, 0)
    for at in range(0, len(stream), piece):
        web.end.sendall(stream[at : at + piece])
        client.read()
    web.link.socket.setblocking(True)
    while client.received < 100:
        client.read()
    assert client.received == 100
    assert (client.lost, client.repeated, client.reordered) == (0, 0, 0)


def test_an_answer_is_read_from_websocket_frames_of_single_bytes(web: Wire) -> None:
    """Some brokers write a packet in pieces."""
    web.end.sendall(b"\x82\x01\x20\x82\x01\x02\x82\x00\x82\x01\x00\x82\x01\x00")
    web.link.socket.setblocking(True)
    assert web.link.exactly(4) == b"\x20\x02\x00\x00"


def test_a_masked_frame_is_what_it_says() -> None:
    data = bytes(range(256)) * 3
    framed = wire.mask(data)
    assert framed[:2] == b"\x82\xfe"
    key, body = framed[4:8], framed[8:]
    assert bytes(byte ^ key[at % 4] for at, byte in enumerate(body)) == data


def test_the_receive_maximum_of_a_broker_is_found() -> None:
    """Also behind properties of other kinds."""
    properties = b"\x24\x01" + b"\x12" + wire.text("id") + b"\x21\x00\x14"
    assert wire.receive_maximum(wire.packet(0x20, b"\x00\x00" + bytes([len(properties)]) + properties)) == 20
    assert wire.receive_maximum(wire.packet(0x20, b"\x00\x00\x00")) == 65535
