"""One connection of a client."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING

from tests.cluster.soak import packets
from tests.cluster.soak.books import Testament
from tests.support import wire
from tests.support.wire import Framer

if TYPE_CHECKING:
    from tests.cluster.soak.peer import Peer


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, peer: Peer, node: int, clean: bool, will: Testament | None) -> None:
        self.peer, self.node, self.clean, self.will = peer, node, clean, will
        peer.connections += 1
        self.number = peer.connections
        self.began = time.monotonic()
        self.accepted = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        #: When the broker took a newer one; from then on this one does not count.
        self.retired = 0.0
        #: The client has ended it.
        self.left = False
        #: Packet ids received and not answered for good: bounded by the receive maximum.
        self.unanswered: set[int] = set()
        self.answers: deque[bytes] = deque()
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = self.peer
        if self.will is not None:
            self.will.began = time.monotonic()
        peer.note(self, f"> CONNECT to {peer.world.nodes[self.node].name}")
        window, will = peer.window, self.will.will if self.will else None
        transport.write(packets.connect(peer.level, peer.name, self.clean, peer.expiry, window, will))

    def data_received(self, data: bytes) -> None:
        for packet in self._framer.feed(data):
            self.peer.note(self, f"< {packet[:60].hex(' ')}")
            self.peer.heard(self, packet)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()
        self.peer.note(self, f"closed {error or ''}")
        if not self.accepted.done():
            self.accepted.set_result(None)
        self.peer.ended(self)

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self.peer.note(self, f"> {data[:200].hex(' ')}")
            self._transport.write(data)

    def answer(self, data: bytes) -> None:
        """Answers leave in the order of what they answer, now or after a moment."""
        self.answers.append(data)
        if len(self.answers) == 1:
            if self.peer.lazy:
                most = 0.05 if self.peer.window else 0.3
                asyncio.get_running_loop().call_later(self.peer.chance.uniform(0, most), self.flush)
            else:
                self.flush()

    def flush(self) -> None:
        for data in self.answers:
            if data[0] >> 4 in (wire.PUBACK, wire.PUBCOMP):
                self.unanswered.discard(int.from_bytes(data[2:4], "big"))
        if not self.retired:
            self.send(b"".join(self.answers))
        self.answers.clear()

    def cut(self) -> None:
        """RST."""
        self.left = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._transport.abort()

    def read_on(self, on: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.resume_reading if on else self._transport.pause_reading)()
