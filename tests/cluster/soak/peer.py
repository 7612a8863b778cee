"""One client id: its connections, both halves of its protocol state, and what it noted in its book.

A `Peer` keeps its side of the protocol over any number of connections. Two of them may be open at once, at two nodes:
the one whose CONNACK came last is the client, the other one is only listened to.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator

from tests.cluster.soak import packets
from tests.cluster.soak.books import FOREVER, Book, Life, Sent, Testament
from tests.cluster.soak.line import Line
from tests.cluster.soak.packets import Will
from tests.cluster.soak.world import World
from tests.support import wire
from tests.support.wire import Packet, Published

#: Reasons of DISCONNECT and CONNACK that a client of 5.0 may see here: node stops, taken over; from a node that was
#: taken for dead while it had something to store for the client; busy, elsewhere.
STOPS, TAKEN_OVER, LOST = 0x8B, 0x8E, 0x80
TRY_AGAIN = {3, 0x88, 0x89, 0x8B, 0x9C}


class Peer:
    """`expiry` counts for 5.0; in 3.1.1 a session lives for ever or, at 0, with its connection. `window` is the
    receive maximum, 0 for none. `lazy` clients acknowledge after a moment."""

    def __init__(
        self, world: World, book: Book, seed: int, name: str, level: int, expiry: int, window: int = 0
    ) -> None:
        self.world, self.book, self.name, self.level = world, book, name, level
        self.window = window if level == 5 else 0
        self.expiry = expiry
        self.chance = random.Random(f"{name} {seed}")
        self.lazy = self.chance.random() < 0.4
        self.connections = 0
        self.line: Line | None = None
        self.lives: list[Life] = []
        #: Filter -> QoS, as the client wants it now.
        self.wanted: dict[str, int] = {}
        #: Packet id -> message without acknowledgement, None when only PUBCOMP is missing; in sending order.
        self.open: dict[int, Sent | None] = {}
        self._held: dict[int, tuple[str, bytes]] = {}
        self._requests: dict[int, tuple[str, bool]] = {}
        self._next_id = 0
        #: Whether the broker has the session: nobody knows after a CONNECT without an answer.
        self._known: bool | None = False
        self._offline_since = 0.0
        #: A clean start that has no CONNACK yet is tried again until it has one.
        self._starting_anew = False
        #: When CONNECT was sent, and on which connection.
        self._tried: list[tuple[float, Line]] = []
        self.retired: list[Line] = []
        #: The last that was said and heard, for whoever looks into a violation.
        self.trace: deque[str] = deque(maxlen=3000)

    # -- connections ---------------------------------------------------------------------------------------------

    @property
    def durable(self) -> bool:
        return self.expiry > 0

    @property
    def life(self) -> Life:
        return self.lives[-1]

    def note(self, line: Line, text: str) -> None:
        self.trace.append(f"{time.monotonic() - self.world.began:8.2f} {line.number} {text}")

    def wrong(self, text: str) -> None:
        self.world.violation(f"{self.name}: {text}")

    @property
    def doubtful(self) -> bool:
        """Whether the session may have expired, and may as well have been opened anew without this side knowing."""
        away = time.monotonic() - self._offline_since if self._offline_since else 0
        tried = any(when > self._offline_since for when, _ in self._tried)
        return self.durable and self.expiry != packets.NEVER and self.level == 5 and tried and away > self.expiry - 2

    async def connect(self, node: int, clean: bool = False, will: Will | None = None) -> bool:
        """Whether a CONNACK came. The connection before it stays until then, and is not closed by this side."""
        testament = Testament(will, self.name, node, 0, self.expiry) if will is not None else None
        self._starting_anew |= clean
        line = Line(self, node, self._starting_anew or not self.durable, testament)
        try:
            await asyncio.get_running_loop().create_connection(lambda: line, *self.world.nodes[node].address)
        except OSError:
            return False
        now = time.monotonic()
        self._tried = [(when, which) for when, which in self._tried if when > now - 60] + [(now, line)]
        for earlier in self._testaments():
            earlier.tried = earlier.tried or now
        if testament is not None:
            self.book.wills.append(testament)
        if line.clean or self._known is False:
            self._known = None
        try:
            await asyncio.wait_for(asyncio.shield(line.accepted), 12)
        except asyncio.TimeoutError:
            line.cut()
        return bool(line.accepted.done() and line.accepted.result())

    def _testaments(self) -> Iterator[Testament]:
        for testament in reversed(self.book.wills):
            if testament.client == self.name:
                yield testament

    def _welcome(self, line: Line, packet: Packet) -> None:
        present, code = packet.body[0] & 1, packet.body[1]
        if code:
            if code not in TRY_AGAIN:
                self.wrong(f"CONNACK {code:#x}")
            line.left = True
            return
        now = time.monotonic()
        if line.clean and present:
            self.wrong("Session Present after a clean start")
        elif not line.clean:
            expected = self._known
            if expected and self.level == 5 and self.expiry != packets.NEVER and self._offline_since:
                away = now - self._offline_since
                quiet = not self.world.disturbed(None, self._offline_since - 10, now)
                if away > self.expiry + 2:
                    expected = False if quiet else None
                elif away > self.expiry - 1 or not quiet:
                    expected = None
            if expected is not None and bool(present) != expected:
                self.wrong(f"Session Present is {present} at {self.world.nodes[line.node].name}")
        old, self.line = self.line, line
        for testament in self._testaments():
            if testament is not line.will and not testament.resumed:
                testament.resumed, testament.present = now, bool(present)
        if line.will is not None:
            line.will.accepted = now
        if old is not None:
            self._retire(old, now)
        # A session of which no CONNACK told may have been there already: then nothing is known of it.
        if not present or not self.life.durable:
            # In 3.1.1 what starts clean ends with its connection.
            self.lives.append(Life(self.durable and not (line.clean and self.level == 4), now))
            self._held.clear()
            for message in self.open.values():
                if message is not None:
                    message.lost = True
            self.open.clear()
        self._known, self._offline_since = self.life.durable, 0.0
        self._starting_anew &= not line.clean
        self._requests.clear()
        line.accepted.set_result(True)
        again = []
        for packet_id, message in self.open.items():
            if message is None:
                again.append(wire.pubrel(packet_id))
            else:
                again.append(self._packet(message, packet_id, dup=True))
        line.send(b"".join(again))
        for topic_filter, qos in self.wanted.items():
            spans = self.life.subscriptions.get(topic_filter)
            if not spans or spans[-1][1] != FOREVER:
                self.subscribe(topic_filter, qos)

    def _retire(self, line: Line, now: float) -> None:
        line.retired = now
        self.retired.append(line)
        if line.will is not None and not line.will.ended:
            line.will.ended = now

    def ended(self, line: Line) -> None:
        now = time.monotonic()
        if line.will is not None and not line.will.ended:
            line.will.ended = now
        if line is not self.line:
            return
        self.line = None
        self._offline_since = now
        self._requests.clear()
        if not self.life.durable:
            for message in self.open.values():
                if message is not None:
                    message.lost = True
            self.open.clear()
            self._known = False
            for spans in self.life.subscriptions.values():
                spans[-1][1] = min(spans[-1][1], line.began)
        taken = any(which is not line and when > now - 20 for when, which in self._tried)
        if not line.left and not taken and not self.world.disturbed(line.node, now - 8, now, "kill|drain|freeze$"):
            self.wrong(f"{self.world.nodes[line.node].name} closed its connection")

    async def leave(self) -> None:
        """DISCONNECT, and wait for the broker to close."""
        if (line := self.line) is None:
            return
        if line.will is not None:
            line.will.waived = time.monotonic()
        line.left = True
        line.flush()
        line.send(wire.DISCONNECT_PACKET)
        try:
            await asyncio.wait_for(line.closed.wait(), 5)
        except asyncio.TimeoutError:
            line.cut()
            await line.closed.wait()

    # -- what comes ----------------------------------------------------------------------------------------------

    def heard(self, line: Line, packet: Packet) -> None:
        kind = packet.type
        if kind == wire.CONNACK:
            self._welcome(line, packet)
        elif kind == wire.DISCONNECT and self.level == 5:
            code = packet.body[0] if packet.body else 0
            now = time.monotonic()
            buried = code == LOST and self.world.disturbed(line.node, now - 3, now, "freeze$")
            if code not in (STOPS, TAKEN_OVER, 0x9C) and not buried:
                self.wrong(f"DISCONNECT {code:#x} from {self.world.nodes[line.node].name}")
        elif line.retired:
            late = time.monotonic() - line.retired
            calm = not self.world.disturbed(None, line.retired - 4, line.retired + late)
            if kind == wire.PUBLISH and late > 0.5 and calm:
                self.wrong(f"a message {late:.2f} s after it had connected elsewhere")
        elif line is not self.line:
            if line.left or kind == wire.PUBLISH:
                self.wrong(f"{packet[:40].hex(' ')} without a session")
        elif kind == wire.PUBLISH:
            self._take(line, packet.published_at(self.level))
        elif kind == wire.PUBREL:
            self._held.pop(packet.packet_id, None)
            line.answer(wire.pubcomp(packet.packet_id))
        elif kind in (wire.PUBACK, wire.PUBREC, wire.PUBCOMP):
            self._acknowledged(line, packet)
        elif kind in (wire.SUBACK, wire.UNSUBACK):
            self._answered(packet)
        elif kind == wire.PINGRESP:
            self.pong()
        else:
            self.wrong(f"unexpected {packet[:40].hex(' ')}")

    def _take(self, line: Line, message: Published) -> None:
        if message.qos:
            line.unanswered.add(message.packet_id)
            if self.window and len(line.unanswered) > self.window:
                self.wrong(f"{len(line.unanswered)} messages in flight, receive maximum {self.window}")
            line.answer((wire.puback if message.qos == 1 else wire.pubrec)(message.packet_id))
        if message.qos == 2:
            if held := self._held.get(message.packet_id):
                if held != (message.topic, message.payload):
                    self.wrong(f"packet id {message.packet_id} of {held[0]} is used for {message.topic}")
                return
            self._held[message.packet_id] = message.topic, message.payload
        self.book.received += 1
        self.shown(message)

    def shown(self, message: Published) -> None:
        """An application sees this."""

    def pong(self) -> None:
        """PINGRESP came."""

    def _acknowledged(self, line: Line, packet: Packet) -> None:
        packet_id, kind, failed = packet.packet_id, packet.type, packets.reason(packet) >= 0x80
        message = self.open.get(packet_id)
        if packet_id not in self.open or (message is None) != (kind == wire.PUBCOMP and packet_id in self.open):
            if kind == wire.PUBREC and packet_id in self.open:  # it was said again
                line.send(wire.pubrel(packet_id))
            else:
                self.wrong(f"an acknowledgement for nothing: {packet.hex(' ')}")
            return
        if message is not None:
            if (kind == wire.PUBACK) != (message.qos == 1):
                self.wrong(f"the wrong acknowledgement: {packet.hex(' ')}")
            if failed:
                message.lost = True
                self.world.say(f"{self.name}: {message.topic} {message.number} is refused")
            else:
                message.acked = time.monotonic()
            if kind == wire.PUBREC and not failed:
                self.open[packet_id] = None
                line.send(wire.pubrel(packet_id))
                return
        del self.open[packet_id]

    def _answered(self, packet: Packet) -> None:
        request = self._requests.pop(packet.packet_id, None)
        if request is None:
            self.wrong(f"an answer to nothing: {packet.hex(' ')}")
            return
        topic_filter, subscribed = request
        if not subscribed:
            return
        if packet[-1] >= 0x80:
            self.wrong(f"SUBACK {packet[-1]:#x} for {topic_filter}")
            return
        spans = self.life.subscriptions.setdefault(topic_filter, [])
        if topic_filter in self.wanted and (not spans or spans[-1][1] != FOREVER):
            spans.append([time.monotonic(), FOREVER])

    # -- what is said --------------------------------------------------------------------------------------------

    def _packet_id(self) -> int:
        while True:
            self._next_id = self._next_id % 65535 + 1
            if self._next_id not in self.open and self._next_id not in self._requests:
                return self._next_id

    def subscribe(self, topic_filter: str, qos: int) -> None:
        """Wish for it, now and after each reconnect."""
        self.wanted[topic_filter] = qos
        if self.line is not None:
            packet_id = self._packet_id()
            self._requests[packet_id] = topic_filter, True
            self.line.send(wire.subscribe(packet_id, (topic_filter, qos), level=self.level))

    def unsubscribe(self, topic_filter: str) -> None:
        if self.line is None or any(topic_filter == name for name, _ in self._requests.values()):
            return
        del self.wanted[topic_filter]
        if spans := self.life.subscriptions.get(topic_filter):
            spans[-1][1] = min(spans[-1][1], time.monotonic())
        packet_id = self._packet_id()
        self._requests[packet_id] = topic_filter, False
        self.line.send(packets.unsubscribe(self.level, packet_id, topic_filter))

    def publish(self, topic: str, qos: int, retain: bool = False, empty: bool = False) -> None:
        """Only while connected."""
        assert self.line is not None
        number = self.book.next_number(topic)
        message = Sent(topic, qos, number, retain, empty, self.line.number, time.monotonic())
        self.book.add(message)
        packet_id = 0
        if qos:
            packet_id = self._packet_id()
            self.open[packet_id] = message
        self.line.send(self._packet(message, packet_id, dup=False))

    def _packet(self, message: Sent, packet_id: int, dup: bool) -> bytes:
        payload = b"" if message.empty else (b"%d " % message.number).ljust(10 + message.number % 97 * 5, b".")
        return wire.publish(message.topic, payload, message.qos, packet_id, message.retain, dup, self.level)
