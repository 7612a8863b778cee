"""Publishers and subscribers that keep their half of a session over any crash of the broker.

They know exactly what was acknowledged and what was received, which is what a crash test has to compare. `Pump` drives
any number of them in one thread, so a test can kill the broker after the n-th acknowledgement and nothing else moves
meanwhile.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from tests.support import wire
from tests.support.wire import PATIENCE, Address, Framer, Packet, Published, Wire, WireError


def numbers(start: int, end: int) -> list[bytes]:
    """Payloads, in order."""
    return [b"%d" % number for number in range(start, end)]


class Peer:
    """A client with a persistent session, which the broker has already if it is `known`; or with a `clean` one.
    `level` 4 is MQTT 3.1.1, 5 is 5.0."""

    def __init__(self, client_id: str, known: bool = False, clean: bool = False, level: int = 4) -> None:
        self.client_id = client_id
        self.level = level
        self.known = known
        self.clean = clean
        self.socket: socket.socket | None = None
        self._framer = Framer()
        self._first: list[Packet] = []

    def connect(self, address: Address) -> None:
        """CONNECT; the broker must know a persistent session exactly if it acknowledged it before."""
        connection = Wire(address)
        connection.send(wire.connect(self.client_id, clean=self.clean, level=self.level))
        if self.level == 5:
            answer = connection.packet()
            if answer.type != wire.CONNACK or answer.body[:2] != bytes([self.known, 0]):
                raise WireError(f"{self.client_id}: unexpected {answer.hex(' ')}")
        else:
            connection.expect(bytes([0x20, 2, self.known, 0]))
        self.known = not self.clean
        self._first = connection.rest()
        self._framer = connection.framer
        self.socket = connection.socket
        self.socket.setblocking(False)
        self.connected()
        for packet in self._first:
            self.heard(packet)

    def connected(self) -> None:
        """Do what a reconnected client owes first."""

    def heard(self, packet: Packet) -> None:
        """Deal with a packet that came."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Send, or notice that the connection is gone."""
        if self.socket is None:
            return
        try:
            self.socket.setblocking(True)
            self.socket.settimeout(PATIENCE)
            self.socket.sendall(data)
            self.socket.setblocking(False)
        except ConnectionError:
            self.lost()

    def read(self) -> None:
        """Take what came; notice an end."""
        assert self.socket is not None
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.lost()
            return
        for packet in self._framer.feed(data):
            self.heard(packet)

    def lost(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def leave(self) -> None:
        """DISCONNECT; the session stays."""
        self.send(wire.DISCONNECT_PACKET)
        self.lost()


class Publisher(Peer):
    """Publishes `payloads` to `topic` in order, at most `window` unacknowledged and at least `burst` at once, and sends
    again after a reconnect.

    `safe` has the payloads whose PUBACK or PUBREC came, in that order.
    """

    def __init__(
        self,
        client_id: str,
        topic: str,
        qos: int,
        payloads: Iterable[bytes],
        window: int = 20,
        level: int = 4,
        burst: int = 1,
    ) -> None:
        super().__init__(client_id, level=level)
        self.topic, self.qos, self.window, self.burst = topic, qos, window, burst
        self.safe: list[bytes] = []
        self._waiting = deque(payloads)
        self._next_id = 1
        #: Packet id -> payload not yet acknowledged, None when only PUBCOMP is missing; in sending order.
        self._open: dict[int, bytes | None] = {}

    @property
    def done(self) -> bool:
        return not self._waiting and not self._open

    def more(self, payloads: Iterable[bytes]) -> None:
        """Publish these, too."""
        self._waiting.extend(payloads)
        self._fill()

    def connected(self) -> None:
        again = [
            wire.pubrel(packet_id)
            if payload is None
            else wire.publish(self.topic, payload, self.qos, packet_id, dup=True, level=self.level)
            for packet_id, payload in self._open.items()
        ]
        self.send(b"".join(again))
        self._fill()

    def _fill(self) -> None:
        if self.socket is None or self.window - len(self._open) < self.burst:
            return
        burst = []
        while self._waiting and len(self._open) < self.window:
            payload, packet_id = self._waiting.popleft(), self._next_id
            self._next_id = packet_id % 65535 + 1
            self._open[packet_id] = payload
            burst.append(wire.publish(self.topic, payload, self.qos, packet_id, level=self.level))
        if burst:
            self.send(b"".join(burst))

    def heard(self, packet: Packet) -> None:
        packet_id = packet.packet_id
        if packet_id not in self._open:
            raise WireError(f"{self.client_id}: an acknowledgement for nothing: {packet.hex(' ')}")
        payload = self._open[packet_id]
        if packet.type == wire.PUBACK and self.qos == 1 and payload is not None:
            self.safe.append(payload)
            del self._open[packet_id]
        elif packet.type == wire.PUBREC and self.qos == 2:
            if payload is not None:
                self.safe.append(payload)
                self._open[packet_id] = None
            self.send(wire.pubrel(packet_id))
        elif packet.type == wire.PUBCOMP and self.qos == 2 and payload is None:
            del self._open[packet_id]
        else:
            raise WireError(f"{self.client_id}: unexpected {packet.hex(' ')}")
        self._fill()


class Subscriber(Peer):
    """Receives and acknowledges; `received` has every delivery that an application would see, in order.

    It subscribes at its first connection; `subscribed` is true once SUBACK came.
    """

    def __init__(
        self, client_id: str, *filters: tuple[str, int], known: bool = False, clean: bool = False, level: int = 4
    ) -> None:
        super().__init__(client_id, known, clean, level)
        self._filters = filters
        self.received: list[Published] = []
        #: QoS 2 packet ids received and not released: a PUBLISH with one of them is the same message again.
        self._held: set[int] = set()
        self.subscribed = not filters

    def connected(self) -> None:
        if not self.subscribed:
            self.send(wire.subscribe(1, *self._filters, level=self.level))

    @property
    def idle(self) -> bool:
        """No QoS 2 exchange is half done."""
        return not self._held

    def heard(self, packet: Packet) -> None:
        if packet.type == wire.SUBACK:
            self.subscribed = True
        elif packet.type == wire.PUBREL:
            self._held.discard(packet.packet_id)
            self.send(wire.pubcomp(packet.packet_id))
        else:
            message = packet.published_at(self.level)
            if message.qos == 1:
                self.received.append(message)
                self.send(wire.puback(message.packet_id))
            elif message.qos == 2:
                if message.packet_id not in self._held:
                    self._held.add(message.packet_id)
                    self.received.append(message)
                self.send(wire.pubrec(message.packet_id))
            else:
                raise WireError(f"{self.client_id}: QoS 0 where more was asked for")

    def payloads(self, topic: str) -> list[bytes]:
        """What came on one topic, in order."""
        return [message.payload for message in self.received if message.topic == topic]

    def once(self, topic: str) -> list[bytes]:
        """The same without the repeats that QoS 1 allows."""
        return list(dict.fromkeys(self.payloads(topic)))

    def has(self, topic: str, payloads: Iterable[bytes]) -> bool:
        """Whether each of these came, and no QoS 2 exchange is half done."""
        return self.idle and set(self.payloads(topic)) >= set(payloads)


class Pump:
    """Moves bytes for several peers until a condition holds."""

    def __init__(self, *peers: Peer) -> None:
        self.peers = peers

    def until(self, condition: Callable[[], bool], deadline: float = PATIENCE) -> None:
        """Serve the connected peers until `condition`; fail after `deadline` seconds or without connections."""
        end = time.monotonic() + deadline
        while not condition():
            live = [peer for peer in self.peers if peer.socket is not None]
            left = end - time.monotonic()
            if not live or left <= 0:
                raise WireError("every connection was lost" if not live else f"not reached within {deadline} s")
            with selectors.DefaultSelector() as selector:
                for peer in live:
                    assert peer.socket is not None
                    selector.register(peer.socket, selectors.EVENT_READ, peer)
                for key, _ in selector.select(left):
                    if key.data.socket is not None:
                        key.data.read()
                    if condition():
                        return

    def drain(self) -> None:
        """The broker is dead: take what it had sent before, until every connection has ended."""
        for peer in self.peers:
            while peer.socket is not None:
                peer.socket.settimeout(PATIENCE)
                peer.read()

    def drop(self) -> None:
        """The broker is dead: lose what it had sent before and nobody read."""
        for peer in self.peers:
            peer.lost()


def connect_all(
    publishers: Sequence[Publisher], source: Address, readers: Sequence[Subscriber], target: Address
) -> Pump:
    """The readers connect to `target`; when all have subscribed the publishers connect to `source`, and begin."""
    everybody = Pump(*publishers, *readers)
    for reader in readers:
        reader.connect(target)
    everybody.until(lambda: all(reader.subscribed for reader in readers))
    for publisher in publishers:
        publisher.connect(source)
    return everybody
