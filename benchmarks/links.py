"""Connections that cost little. A link is blocking until `ready`, non-blocking afterwards.

`Link` is TCP, `TlsLink` and `WebSocketLink` what their names say. `enter` opens many at once: while a broker works on
the CONNECTs of some, the next ones are sent.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import wire

TCP, TLS, WEBSOCKET = "tcp", "tls", "ws"
#: Seconds a broker may take for an answer while connections are made.
PATIENCE = 30.0
#: CONNECTs under way at a time: fewer than the connections that any of the brokers lets wait to be accepted.
UNDER_WAY = 40
#: Room for what is received at a time. It is one for all links: what a link has received is dealt with at once.
BUFFER = bytearray(1 << 18)
VIEW = memoryview(BUFFER)
#: Bytes of one TLS record.
_RECORD = 16384


class Refused(Exception):
    """A broker has refused something, or ended a connection."""


class Link:
    """A connection to a port on loopback."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def framed(self, data: bytes) -> bytes:
        """What goes over the wire for these packets."""
        return data

    def send(self, data: memoryview | bytes | bytearray) -> int:
        """How many bytes were taken; 0 while there is no room."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Refused(f"a broker has ended a connection: {error}") from None

    def flush(self) -> bool:
        """Whether everything that `send` has taken is with the system."""
        return True

    def fill(self, view: memoryview) -> int:
        """Receive: how many bytes of packets were written into `view`; 0 if nothing was there."""
        try:
            count = self.socket.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Refused(f"a broker has ended a connection: {error}") from None
        if not count:
            raise Refused("a broker has ended a connection")
        return count

    def pending(self) -> bool:
        """Whether more has been received than `fill` has given, and the socket does not show it."""
        return False

    def exactly(self, size: int) -> bytes:
        """While blocking: the next bytes of packets."""
        data = b""
        while len(data) < size:
            data += VIEW[: self.fill(VIEW[: size - len(data)])]
        return data

    def tell(self, data: bytes) -> None:
        """While blocking: send packets."""
        self.socket.sendall(self.framed(data))

    def answer(self) -> bytes:
        """While blocking: one packet, shorter than 128 bytes."""
        head = self.exactly(2)
        return head + self.exactly(head[1] & 0x7F) if head[1] else head

    def ready(self, send_buffer: int = 0) -> None:
        """From now on, do not block. `send_buffer` is in bytes; the system's default without."""
        if send_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.socket.setblocking(False)

    def close(self) -> None:
        self.socket.close()


class TlsLink(Link):
    """TLS; nobody looks at the certificate."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = self.socket = context.wrap_socket(self.socket)
        self._stuck = b""

    def send(self, data: memoryview | bytes | bytearray) -> int:
        if not self.flush():
            return 0
        # A record that has found no room is to be offered again as it was; so it counts as sent.
        self._stuck = bytes(data[:_RECORD])
        self.flush()
        return min(len(data), _RECORD)

    def flush(self) -> bool:
        while self._stuck:
            try:
                self._stuck = self._stuck[self._tls.send(self._stuck) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return False
            except OSError as error:
                raise Refused(f"a broker has ended a connection: {error}") from None
        return True

    def fill(self, view: memoryview) -> int:
        count = 0
        try:
            while count < len(view):
                more = self._tls.recv_into(view[count:])
                if not more:
                    raise Refused("a broker has ended a connection")
                count += more
                if self._tls.gettimeout() != 0:
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            raise Refused(f"a broker has ended a connection: {error}") from None
        return count

    def pending(self) -> bool:
        return bool(self._tls.pending())


class WebSocketLink(Link):
    """A WebSocket. `opened` reads the answer to the upgrade; then packets may be sent."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.socket.sendall(wire.upgrade(port))
        self._raw = bytearray()  # received, and not looked at
        self._due = 0  # bytes of the frame's payload that are still to come
        self._packets = True  # whether they are packets, and not a ping's

    def opened(self) -> None:
        while b"\r\n\r\n" not in self._raw:
            more = self.socket.recv(4096)
            if not more:
                raise Refused("a broker has ended a connection")
            self._raw += more
        head, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise Refused(f"a broker refuses a WebSocket: {head!r}")
        self._raw = bytearray(rest)

    def framed(self, data: bytes) -> bytes:
        return wire.mask(data)

    def fill(self, view: memoryview) -> int:
        raw = self._raw
        blocking = self.socket.gettimeout() != 0
        while True:
            if not self._parts():
                try:
                    more = self.socket.recv(len(BUFFER) // 2)
                except BlockingIOError:
                    return 0
                except OSError as error:
                    raise Refused(f"a broker has ended a connection: {error}") from None
                if not more:
                    raise Refused("a broker has ended a connection")
                raw += more
            count = self._unframe(view)
            if count or not blocking:
                return count

    def _parts(self) -> bool:
        """Whether what was received has something to give."""
        return bool(self._raw) and (self._due > 0 or self._header() is not None)

    def _header(self, at: int = 0) -> tuple[int, int, int] | None:
        """The opcode, where the payload starts, and its length; None while the header is not complete."""
        raw = self._raw
        if len(raw) - at < 2:
            return None
        size, start = raw[at + 1], at + 2
        if size == 126:
            start, size = at + 4, int.from_bytes(raw[at + 2 : at + 4], "big")
        elif size == 127:
            start, size = at + 10, int.from_bytes(raw[at + 2 : at + 10], "big")
        return (raw[at] & 0x0F, start, size) if len(raw) >= start else None

    def _unframe(self, view: memoryview) -> int:
        """Move payloads from `_raw` into `view`."""
        raw, at, count, room = self._raw, 0, 0, len(view)
        end = len(raw)
        while True:
            if not self._due:
                header = self._header(at)
                if header is None:
                    break
                opcode, at, self._due = header
                if opcode == 8:
                    raise Refused("a broker has closed a WebSocket")
                self._packets = opcode < 8
                continue
            take = min(self._due, end - at)
            if self._packets:
                take = min(take, room - count)
                view[count : count + take] = raw[at : at + take]
                count += take
            if not take:
                break
            at += take
            self._due -= take
        del raw[:at]
        return count

    def pending(self) -> bool:
        return self._parts()


_LINKS: dict[str, type[Link]] = {TCP: Link, TLS: TlsLink, WEBSOCKET: WebSocketLink}


@dataclass(slots=True)
class Entry:
    """A client to connect, and what it subscribes; `window` becomes what the broker's CONNACK allows."""

    client_id: str
    port: int
    clean: bool = True
    filters: Sequence[str] = ()
    qos: int = 0
    window: int = 65535


def enter(entries: Iterable[Entry], transport: str, version: int, depth: int = UNDER_WAY) -> list[Link]:
    """Connect them all, and subscribe. `depth` are under way at a time."""
    links: list[Link] = []
    started: deque[tuple[Link, Entry]] = deque()
    asked: deque[tuple[Link, Entry]] = deque()

    def ask() -> None:
        link, entry = started.popleft()
        if isinstance(link, WebSocketLink):
            link.opened()
        link.tell(wire.connect(entry.client_id, version, entry.clean))
        asked.append((link, entry))

    def accept() -> None:
        link, entry = asked.popleft()
        answer = link.exactly(4)
        if version == 5:
            answer += link.exactly(answer[1] - 2)
        if answer[0] != 0x20 or answer[3]:
            raise Refused(f"a broker refuses a connection: {answer.hex()}")
        if version == 5:
            entry.window = wire.receive_maximum(answer)
        links.append(link)
        if entry.filters:
            subscribe(link, entry.filters, entry.qos, version)

    for entry in entries:
        started.append((_LINKS[transport](entry.port), entry))
        # A WebSocket takes one round trip more.
        if len(started) > (depth // 2 if transport == WEBSOCKET else 0):
            ask()
        if len(asked) > (depth // 2 if transport == WEBSOCKET else depth):
            accept()
    while started:
        ask()
    while asked:
        accept()
    return links


def subscribe(link: Link, filters: Sequence[str], qos: int, version: int) -> None:
    """Subscribe, 100 filters in a packet, and wait until all are granted as asked."""
    parts = [filters[at : at + 100] for at in range(0, len(filters), 100)]
    for identifier, part in enumerate(parts, 1):
        link.tell(wire.subscribe(part, qos, version, identifier))
        answer = link.answer()
        if answer[0] != 0x90 or answer[-len(part) :] != bytes([qos]) * len(part):
            raise Refused(f"a broker refuses a subscription: {answer.hex()}")
