"""A broker without sockets: what a test sends, what comes back, and a clock that the test turns.

::

    world = World()
    alice = world.connect("alice")                      # CONNECT sent, CONNACK 0 read
    alice.send(Subscribe(1, [("a/b", Subscription(1))]))
    assert alice.packets() == [Suback(1, [Reason.GRANTED_QOS_1])]

`Peer.send` takes packets, bytes, or hex text ("C0 00"). `Peer.packets()` is what arrived since the last call,
`Peer.bytes()` the same undecoded. `Peer.closed` tells whether the broker has closed the connection. `numbered`,
`payloads` and `take_all` are for tests that count messages.
`World.hold()` makes the store keep its answers back until `World.answer()`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mqttcluster.broker.broker import Broker
from mqttcluster.broker.client import Client
from mqttcluster.broker.settings import Settings
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import (
    Connack,
    Connect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
)
from mqttcluster.mqtt.writers import encode
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.memory import MemoryStore

START = 1_700_000_000.0
#: The tests run a second time without the fast lane (.ci/run).
NO_FAST_LANE = os.environ.get("TEST_NO_FAST_LANE", "") != ""


class HeldStore:
    """A store whose answers the test can keep back, or turn into failures."""

    def __init__(self, store: Any) -> None:
        self.inner = store
        self.holding = False
        self.failing = False
        self._waiting: deque[tuple[Deferred[Any], Deferred[Any]]] = deque()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(*args: Any, **kwargs: Any) -> Deferred[Any]:
            outer: Deferred[Any] = Deferred()
            if self.failing:
                outer.errback(StoreError("the disk is full"))
                return outer
            inner = method(*args, **kwargs)
            if self.holding:
                self._waiting.append((inner, outer))
            else:
                inner.chainDeferred(outer)
            return outer

        return call

    def answer(self, count: int | None = None) -> None:
        """Let the oldest `count` answers go, all by default; what they bring forth is held again."""
        for _ in range(len(self._waiting) if count is None else count):
            inner, outer = self._waiting.popleft()
            inner.chainDeferred(outer)

    @property
    def waiting(self) -> int:
        """How many answers are kept back."""
        return len(self._waiting)

    def release_all(self) -> None:
        """Hold nothing any more. What is asked meanwhile is answered behind what was asked before, as a store does."""
        while self._waiting:
            self.answer()
        self.holding = False


class Peer:
    """One connection, seen from the client's end."""

    def __init__(self, world: World, version: int = 4) -> None:
        self.world = world
        self.version = version
        self.closed = False
        self.aborted = False
        self.reading = True
        self._arrived = b""
        self._decoder = Decoder(version=version)
        self.client: Client | None = world.broker.connect(self, "192.0.2.1:4711", True)
        if self.client is None:
            self.closed = True

    # what the broker sees as its transport

    def write(self, data: bytes) -> None:
        assert not self.closed, f"written after close: {data.hex(' ')}"
        self._arrived += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    # what a test does

    def send(self, *parts: Packet | bytes | str) -> Peer:
        """Send packets, bytes or hex text in one chunk."""
        assert self.client is not None
        self.client.data_received(b"".join(map(self._encoded, parts)))
        self.world.settle()
        return self

    def _encoded(self, part: Packet | bytes | str) -> bytes:
        if isinstance(part, str):
            return bytes.fromhex(part)
        return part if isinstance(part, bytes) else encode(part, self.version)

    def bytes(self) -> bytes:
        """What arrived since the last look."""
        arrived, self._arrived = self._arrived, b""
        return arrived

    def put_back(self, data: bytes) -> None:
        """Have `bytes` or `packets` return this first."""
        self._arrived = data + self._arrived

    def packets(self) -> list[Packet]:
        """The same, decoded. Bytes of an unfinished packet stay for the next look."""
        self._decoder.receive(self.bytes())
        found = []
        while (packet := self._decoder.next_packet()) is not None:
            found.append(packet)
        return found

    def alive(self) -> bool:
        """Whether the broker still answers PINGREQ on this connection. Reads everything that came before."""
        if self.closed:
            return False
        self.send(Pingreq())
        return not self.closed and any(isinstance(packet, Pingresp) for packet in self.packets())

    def drop(self) -> None:
        """The network connection breaks."""
        assert self.client is not None
        self.client.connection_lost("connection lost")
        self.closed = True
        self.world.settle()

    def stop_taking(self) -> None:
        """The network takes no more output for this peer."""
        assert self.client is not None
        self.client.pause_writing()

    def take_again(self) -> None:
        """The network takes output again."""
        assert self.client is not None
        self.client.resume_writing()
        self.world.settle()


def only_publishes(packets: Iterable[Packet]) -> list[Publish]:
    """Those that are messages."""
    return [packet for packet in packets if isinstance(packet, Publish)]


def payloads_of(packets: Iterable[Packet]) -> list[bytes]:
    """Of those that are messages."""
    return [message.payload for message in only_publishes(packets)]


def payloads(peer: Peer) -> list[bytes]:
    """Of the messages that have come; other packets are dropped."""
    return payloads_of(peer.packets())


def numbered(count: int, qos: int, topic: str = "t", first: int = 1) -> list[Publish]:
    """Messages whose payloads are their packet ids."""
    return [Publish(topic, b"%d" % n, qos, packet_id=n if qos else 0) for n in range(first, first + count)]


def take_all(peer: Peer) -> list[Publish]:
    """Messages until no more come. What has come together is acknowledged together, QoS 2 to the end; other packets are
    dropped."""
    taken: list[Publish] = []
    while found := only_publishes(peer.packets()):
        taken += found
        received = [Pubrec(message.packet_id) for message in found if message.qos == 2]
        peer.send(*[Puback(message.packet_id) for message in found if message.qos == 1], *received)
        peer.send(*[Pubcomp(packet.packet_id) for packet in received])
    return taken


class World:
    """A broker on a memory store, a clock, and the peers that connect to it."""

    def __init__(
        self,
        store: Any = None,
        authenticator: Any = None,
        authorizer: Any = None,
        methods: Sequence[Any] = (),
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        settings.setdefault("sys_interval", 0)
        settings.setdefault("no_fast_lane", NO_FAST_LANE)
        self.settings = Settings(**settings)
        self.store = HeldStore(store or MemoryStore())
        self.broker = Broker(
            self.store,  # type: ignore[arg-type]
            self.settings,
            self.clock,
            authenticator,
            authorizer,
            methods=methods,
        )
        self.failures: list[Any] = []
        self.broker.start().addErrback(self.failures.append)
        assert not self.failures, self.failures

    def peer(self, version: int = 4) -> Peer:
        """A network connection on which nothing was sent yet."""
        return Peer(self, version)

    def connect(self, client_id: str = "", version: int = 4, present: bool = False, **fields: Any) -> Peer:
        """A client that has sent CONNECT and read its CONNACK. `fields` are those of `Connect`."""
        peer = Peer(self, version)
        peer.send(Connect(client_id, version, **fields))
        connack = encode(Connack(present), version)
        arrived = peer.bytes()
        assert arrived[: len(connack)] == connack, f"no CONNACK with session present {present}: {arrived.hex(' ')}"
        peer._arrived = arrived[len(connack) :]
        return peer

    def restart(self, crash: bool = True) -> World:
        """A new broker on the same store: after a crash, or after an orderly stop. Old peers are of no use any more."""
        if not crash:
            self.broker.stop()
            self.settle()
        again = World.__new__(World)
        again.clock, again.settings, again.store, again.failures = self.clock, self.settings, self.store, []
        again.broker = Broker(self.store, self.settings, self.clock)  # type: ignore[arg-type]
        again.broker.start().addErrback(again.failures.append)
        assert not again.failures, again.failures
        again.settle()
        return again

    def settle(self) -> None:
        """Let everything run that is due now."""
        self.clock.advance(0)
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """Turn the clock."""
        self.clock.advance(seconds)
        self.settle()

    def hold(self) -> None:
        """Keep the store's answers back from now on."""
        self.store.holding = True

    def answer(self, count: int | None = None) -> None:
        """Let the oldest `count` answers go, all by default."""
        self.store.answer(count)
        self.settle()

    def release(self) -> None:
        """Let all answers go, and hold no more."""
        self.store.release_all()
        self.settle()
