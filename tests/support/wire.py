"""MQTT as bytes, and a blocking client of MQTT 3.1 and 3.1.1 that sends and expects them.

Nothing here imports mqttcluster: a fault in its encoder must not hide itself. Deadlines are failure bounds only.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

#: Seconds; only a test that has failed waits as long. Others may use the processors meanwhile.
PATIENCE = 60.0

#: (host, port) or the path of a UNIX socket.
Address = tuple[str, int] | str

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE = 1, 2, 3, 4, 5, 6, 7, 8
SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 9, 10, 11, 12, 13, 14


class WireError(AssertionError):
    """The broker did something else than the test expected."""


class ClosedByBroker(WireError):
    """The connection ended while a packet was expected."""


class NothingCame(WireError):
    """The deadline passed while something was expected."""


def raw(data: bytes | str) -> bytes:
    """Bytes as they are; text is read as hexadecimal, spaces allowed."""
    return bytes.fromhex(data) if isinstance(data, str) else data


def string(text: str | bytes) -> bytes:
    """A string or binary field: two length bytes, then the content."""
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("!H", len(content)) + content


def frame(first: int, body: bytes = b"") -> bytes:
    """A packet: first byte, remaining length, body."""
    length, size = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        size.append(low | (0x80 if length else 0))
        if not length:
            return bytes([first]) + bytes(size) + body


def connect(
    client_id: str = "",
    clean: bool = True,
    keep_alive: int = 0,
    will: tuple[str, bytes, int, bool] | None = None,
    username: str | None = None,
    password: bytes | None = None,
    level: int = 4,
) -> bytes:
    """CONNECT. `will` is (topic, payload, QoS, retain); `level` 3 is MQTT 3.1, 4 is 3.1.1, 5 is 5.0; there, if not
    `clean`, the session never expires."""
    flags, fields = 0x02 if clean else 0x00, string(client_id)
    if level == 5:
        fields = (b"\0" if clean else b"\x05\x11\xff\xff\xff\xff") + fields
    if will is not None:
        topic, message, qos, retain = will
        flags |= 0x04 | qos << 3 | retain << 5
        fields += b"\0" if level == 5 else b""
        fields += string(topic) + string(message)
    if username is not None:
        flags |= 0x80
        fields += string(username)
    if password is not None:
        flags |= 0x40
        fields += string(password)
    name = string("MQIsdp" if level == 3 else "MQTT")
    return frame(0x10, name + struct.pack("!BBH", level, flags, keep_alive) + fields)


def publish(
    topic: str,
    payload: bytes = b"",
    qos: int = 0,
    packet_id: int = 0,
    retain: bool = False,
    dup: bool = False,
    level: int = 4,
) -> bytes:
    identifier = struct.pack("!H", packet_id) if qos else b""
    if level == 5:
        identifier += b"\0"
    return frame(0x30 | dup << 3 | qos << 1 | retain, string(topic) + identifier + payload)


def subscribe(packet_id: int, *filters: tuple[str, int], level: int = 4) -> bytes:
    body = b"".join(string(name) + bytes([qos]) for name, qos in filters)
    return frame(0x82, struct.pack("!H", packet_id) + (b"\0" if level == 5 else b"") + body)


def unsubscribe(packet_id: int, *filters: str) -> bytes:
    return frame(0xA2, struct.pack("!H", packet_id) + b"".join(map(string, filters)))


def puback(packet_id: int) -> bytes:
    return struct.pack("!BBH", 0x40, 2, packet_id)


def pubrec(packet_id: int) -> bytes:
    return struct.pack("!BBH", 0x50, 2, packet_id)


def pubrel(packet_id: int) -> bytes:
    return struct.pack("!BBH", 0x62, 2, packet_id)


def pubcomp(packet_id: int) -> bytes:
    return struct.pack("!BBH", 0x70, 2, packet_id)


PINGREQ_PACKET, PINGRESP_PACKET, DISCONNECT_PACKET = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"


@dataclass(frozen=True)
class Published:
    """A PUBLISH as it came from the broker; `packet_id` is 0 for QoS 0."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    retain: bool
    dup: bool


class Packet(bytes):
    """One whole packet."""

    @property
    def type(self) -> int:
        return self[0] >> 4

    @property
    def body(self) -> bytes:
        start = 2
        while self[start - 1] & 0x80:
            start += 1
        return self[start:]

    @property
    def packet_id(self) -> int:
        """Of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK."""
        return int.from_bytes(self.body[:2], "big")

    @property
    def published(self) -> Published:
        return self.published_at(4)

    def published_at(self, level: int) -> Published:
        """The message; at level 5 without its properties, which are less than 128 bytes."""
        if self.type != PUBLISH:
            raise WireError(f"not a PUBLISH: {self.hex(' ')}")
        body, qos = self.body, self[0] >> 1 & 3
        end = 2 + int.from_bytes(body[:2], "big")
        packet_id = int.from_bytes(body[end : end + 2], "big") if qos else 0
        payload = body[end + 2 :] if qos else body[end:]
        if level == 5:
            payload = payload[1 + payload[0] :]
        return Published(body[2:end].decode(), payload, qos, packet_id, bool(self[0] & 1), bool(self[0] & 8))


class Framer:
    """Cuts a byte stream into packets."""

    def __init__(self) -> None:
        self.buffer = b""

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that `data` completed."""
        self.buffer += data
        packets: list[Packet] = []
        start = 0
        while True:
            at, length, shift = start + 1, 0, 0
            while at < len(self.buffer):
                length |= (self.buffer[at] & 0x7F) << shift
                shift += 7
                at += 1
                if not self.buffer[at - 1] & 0x80:
                    break
            else:
                break
            if at + length > len(self.buffer):
                break
            packets.append(Packet(self.buffer[start : at + length]))
            start = at + length
        self.buffer = self.buffer[start:]
        return packets


class Wire:
    """A connection that says exactly what it is told, and fails when the broker says something else.

    `deadline` (seconds) bounds each wait. Use it as a context manager: leaving it closes the socket without DISCONNECT.
    """

    def __init__(self, address: Address, deadline: float = PATIENCE) -> None:
        self.deadline = deadline
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(deadline)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout=deadline)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.framer = Framer()
        self._packets: list[Packet] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close without DISCONNECT."""
        self.socket.close()

    def abort(self) -> None:
        """Reset the connection, as a machine does that lost its power and comes back."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def disconnect(self) -> None:
        """DISCONNECT, and wait for the broker to close: what it does about the end of a connection has begun."""
        self.send(DISCONNECT_PACKET)
        self.expect_closed()
        self.close()

    def send(self, *data: bytes | str) -> None:
        """Send bytes, or text as hexadecimal."""
        self.socket.settimeout(self.deadline)
        self.socket.sendall(b"".join(map(raw, data)))

    def packet(self) -> Packet:
        """The next packet."""
        end = time.monotonic() + self.deadline
        while not self._packets:
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise NothingCame(f"nothing for {self.deadline} s") from None
            except ConnectionError as error:
                raise ClosedByBroker(str(error)) from None
            if not data:
                raise ClosedByBroker(f"closed after {self.framer.buffer.hex(' ') or 'nothing'}")
            self._packets += self.framer.feed(data)
        return self._packets.pop(0)

    def rest(self) -> list[Packet]:
        """Whole packets that came and were not asked for yet; an unfinished one stays in `framer`."""
        rest, self._packets = self._packets, []
        return rest

    def expect(self, *packets: bytes | str) -> None:
        """The next packets are exactly these."""
        for expected in map(raw, packets):
            got = self.packet()
            if got != expected:
                raise WireError(f"expected {expected.hex(' ')}, got {got.hex(' ')}")

    def expect_among(self, packet: bytes) -> None:
        """This packet comes; what comes before it is kept for later."""
        before: list[Packet] = []
        while (got := self.packet()) != packet:
            before.append(got)
        self._packets = before + self._packets

    def expect_published(self) -> Published:
        """The next packet is a PUBLISH."""
        return self.packet().published

    def take(self) -> Published:
        """Receive one message and finish its exchange."""
        message = self.expect_published()
        self.acknowledge(message)
        return message

    def expect_closed(self) -> None:
        """The broker closes, and sends nothing before it."""
        try:
            got = self.packet()
        except ClosedByBroker:
            if self.framer.buffer:
                raise
            return
        raise WireError(f"expected the end of the connection, got {got.hex(' ')}")

    def expect_silence(self) -> None:
        """Nothing was on its way: a PINGREQ is answered by PINGRESP before anything else comes."""
        self.send(PINGREQ_PACKET)
        self.expect(PINGRESP_PACKET)

    def connect(self, client_id: str = "", *, present: bool = False, **options: object) -> Wire:
        """CONNECT (see `connect` above for `options`) and expect to be accepted; `present` is Session Present."""
        self.send(connect(client_id, **options))  # type: ignore[arg-type]
        self.expect(bytes([0x20, 2, present, 0]))
        return self

    def subscribe(self, *filters: tuple[str, int], packet_id: int = 1) -> Wire:
        """SUBSCRIBE and expect every filter to be granted as asked for."""
        self.send(subscribe(packet_id, *filters))
        self.expect(frame(0x90, struct.pack("!H", packet_id) + bytes(qos for _, qos in filters)))
        return self

    def publish(self, topic: str, payload: bytes = b"", qos: int = 0, packet_id: int = 1, retain: bool = False) -> None:
        """PUBLISH, and the whole exchange that its QoS asks for."""
        self.send(publish(topic, payload, qos, packet_id, retain))
        if qos == 1:
            self.expect(puback(packet_id))
        elif qos == 2:
            self.expect(pubrec(packet_id))
            self.send(pubrel(packet_id))
            self.expect(pubcomp(packet_id))

    def acknowledge(self, message: Published) -> None:
        """The receiver's whole half of the exchange."""
        if message.qos == 1:
            self.send(puback(message.packet_id))
        elif message.qos == 2:
            self.send(pubrec(message.packet_id))
            self.expect_among(pubrel(message.packet_id))
            self.send(pubcomp(message.packet_id))
