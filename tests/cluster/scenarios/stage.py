"""Whole nodes in one process, on a real Redis, each with a reactor that a test stops, kills or steps.

::

    a, b = stage.start("a", "b")                 # two brokers, one cluster
    reader = b.connect("reader").subscribe("t")  # a client: CONNECT, SUBSCRIBE, and their answers
    kept = a.store.keep_answer("publish")        # the next answer to a publish does not arrive
    writer.send(Publish("t", b"1", 1, packet_id=1))
    stage.until(lambda: kept.reached)            # Redis has done it
    a.die()                                      # and nobody was told

Everything but the network to the clients is real: stores, backplanes, their threads, and Redis. `Store` stands between
a broker and its store, `Lanes` between it and its backplane; both let everything pass unless a test says otherwise.
Nothing is timed: what must happen is waited for, what must not happen is looked for after something later has happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import globalLogPublisher

from mqttcluster.broker.broker import Broker
from mqttcluster.broker.settings import Settings
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from mqttcluster.storage.interfaces import NEVER, QueueLimits
from mqttcluster.storage.redis_backplane import RedisBackplane
from mqttcluster.storage.redis_members import Timing, members
from mqttcluster.storage.redis_store import RedisStore
from mqttcluster.storage.shared import Envelope, IBackplane, ISharedStore
from tests.cluster.redis_server import RedisServer
from tests.storage.nodes import FAST, Side
from tests.storage.nodes import World as Reactors

#: For tests in which nobody is to be found dead, however slow the machine.
CALM = Timing(lease=2.5, dead_after=60.0, beat=0.1, stale=1.0)

#: A lease that runs out soon, and nobody found dead after that.
PATIENT = Timing(lease=0.6, dead_after=60.0, beat=0.1, stale=0.25)

#: Clients that speak MQTT 5.0 unless a test says otherwise, so that both versions meet each other everywhere.
NEWER = frozenset(("reader", "online", "kept", "neighbour", "mortal", "clean-a", "clean-c"))

__all__ = ["CALM", "FAST", "PATIENT", "Lanes", "Node", "Peer", "Stage", "Store"]


class Reactor(Side):
    """One node's reactor. Its clock begins now, and jumps on when it was stopped."""

    def __init__(self, world: Reactors) -> None:
        super().__init__(world)
        self.advance(time())
        #: So many calls are still to be run before it stops by itself; None: no end.
        self.left: int | None = None

    def run(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.left is not None and not self.stopped:
            self.stopped = self.left == 0
            self.left -= 1
        super().run(call, args)

    def catch_up(self) -> None:
        if self.stopped:
            return
        now = monotonic()
        self.advance(now - self._seen)
        self._seen = now
        while any(call.getTime() <= self.seconds() for call in self.getDelayedCalls()):
            self.advance(0)

    def resume(self) -> None:
        """What came meanwhile from the network to the clients is looked at first, as unlucky as can be."""
        self.left = None
        self._held.sort(key=lambda held: not isinstance(getattr(held[0], "__self__", None), Peer))
        super().resume()


class Gate:
    """A call of a store that a test holds up, and everything behind it."""

    def __init__(self, name: str, passing: int) -> None:
        self.name = name
        self.passing = passing
        self.closed = False
        #: What the call was asked with.
        self.arguments: tuple[Any, ...] = ()
        self._inner: Deferred[Any] | None = None
        self._behind: list[Callable[[], None]] = []

    def stops(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether this call is held up."""
        if not self.closed and name == self.name:
            self.passing -= 1
            if self.passing < 0:
                self.closed, self.arguments = True, arguments
        return self.closed

    def put(self, going_on: Callable[[], None], inner: Deferred[Any] | None = None) -> None:
        if not self._behind:
            self._inner = inner
        self._behind.append(going_on)

    @property
    def reached(self) -> bool:
        """Whether the call has come as far as it may: it was made or, for an answer, it was answered."""
        return self.closed and (self._inner is None or self._inner.called)

    def open(self) -> None:
        """Let everything go on."""
        self.name, self.closed = "", False
        behind, self._behind = self._behind, []
        for going_on in behind:
            going_on()


class Store:
    """What a broker sees of its `RedisStore`."""

    def __init__(self, inner: RedisStore) -> None:
        self.inner = inner
        self._requests: list[Gate] = []
        self._answers: list[Gate] = []

    def keep_request(self, name: str, passing: int = 0) -> Gate:
        """The next call of this name (after `passing` more) does not reach Redis before the gate opens."""
        self._requests.append(Gate(name, passing))
        return self._requests[-1]

    def keep_answer(self, name: str, passing: int = 0) -> Gate:
        """It does reach Redis, and its answer does not arrive."""
        self._answers.append(Gate(name, passing))
        return self._answers[-1]

    @property
    def node(self) -> str:
        return self.inner.node

    @node.setter
    def node(self, node: str) -> None:
        self.inner.node = node

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not callable(method) or name in ("ready", "retained_partition"):
            return method

        def call(*args: Any, **more: Any) -> Deferred[Any]:
            outer: Deferred[Any] = Deferred()

            def ask() -> None:
                inner = method(*args, **more)
                for gate in self._answers:
                    if gate.stops(name, args):
                        gate.put(lambda: inner.chainDeferred(outer), inner)
                        return
                inner.chainDeferred(outer)

            for gate in self._requests:
                if gate.stops(name, args):
                    gate.put(ask)
                    return outer
            ask()
            return outer

        return call


class Lanes:
    """What a broker sees of its `RedisBackplane`. `fate` says of each envelope how often it arrives; None: later, when
    `release` is called. While `channel_lost`, nothing that leaves by channel arrives, as when Redis has cut it."""

    def __init__(self, inner: RedisBackplane) -> None:
        self.inner = inner
        self.fate: Callable[[Envelope], int | None] = lambda envelope: 1
        self.channel_lost = False
        self._held: list[Callable[[], object]] = []

    @property
    def held(self) -> int:
        """How many envelopes wait."""
        return len(self._held)

    def release(self) -> None:
        """Send what was held, and hold no more."""
        self.fate = lambda envelope: 1
        held, self._held = self._held, []
        for send in held:
            send()

    def cast(self, node: str, envelope: Envelope) -> None:
        if not self.channel_lost:
            self._send(envelope, lambda: self.inner.cast(node, envelope))

    def cast_all(self, envelope: Envelope) -> None:
        if not self.channel_lost:
            self._send(envelope, lambda: self.inner.cast_all(envelope))

    def link(self, node: str, envelope: Envelope) -> Deferred[bool]:
        accepted: Deferred[bool] = Deferred()

        def answered(answer: bool) -> None:
            if not accepted.called:
                accepted.callback(answer)

        if self._send(envelope, lambda: self.inner.link(node, envelope).addCallback(answered)) == 0:
            answered(True)
        return accepted

    def _send(self, envelope: Envelope, send: Callable[[], object]) -> int | None:
        times = self.fate(envelope)
        if times is None:
            self._held.append(send)
        else:
            for _ in range(times):
                send()
        return times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Node:
    """A broker with its reactor, and the connections of its clients."""

    def __init__(self, stage: Stage, name: str, timing: Timing) -> None:
        self.stage = stage
        self.name = name
        self.alive = True
        self.peers: list[Peer] = []
        self.reactor = Reactor(stage.world)
        url, limits = stage.redis.url, QueueLimits(10_000)
        self.store = Store(RedisStore(url, self.reactor, name, limits))
        self.lanes = Lanes(RedisBackplane(url, self.reactor, name, timing=timing))
        self.broker = Broker(
            cast(ISharedStore, self.store),
            Settings(node=name, sys_interval=0, connect_timeout=60.0),
            cast(IReactorTime, self.reactor),
            backplane=cast(IBackplane, self.lanes),
        )

    @property
    def id(self) -> str:
        return self.lanes.inner.node

    def stop(self) -> None:
        """Like SIGSTOP."""
        self.reactor.stop()

    def resume(self) -> None:
        """Like SIGCONT."""
        self.stage.world.turn()  # what was sent until now is in its sockets
        self.reactor.resume()

    def die(self) -> None:
        """Like SIGKILL, as far as anybody else can see: nothing of it ever runs again, its sockets are closed."""
        self.alive = False
        self.stop()
        for peer in self.peers:
            peer.closed = True

    def peer(self, version: int = 4) -> Peer:
        """A network connection on which nothing was sent yet."""
        peer = Peer(self, version)
        self.peers.append(peer)
        return peer

    def connect(
        self, client_id: str, *, clean: bool = True, present: bool = False, will: Will | None = None, version: int = 0
    ) -> Peer:
        """A client that has sent CONNECT and read its CONNACK. A session that is not clean never ends."""
        version = version or (V5 if client_id in NEWER else V311)
        peer = self.peer(version)
        peer.name = client_id
        properties: Properties = {Prop.SESSION_EXPIRY_INTERVAL: NEVER} if version == V5 and not clean else {}
        peer.send(Connect(client_id, version, clean_start=clean, will=will, properties=properties))
        answer = peer.packet()
        assert isinstance(answer, Connack)
        assert (answer.session_present, answer.reason) == (present, Reason.SUCCESS)
        return peer


class Peer:
    """One network connection, from the client's end. It is also the transport that the broker sees."""

    def __init__(self, node: Node, version: int = 4) -> None:
        self.stage = node.stage
        self.node = node
        self._version = version
        self.name = ""
        self.closed = False
        self._reading = True
        self._sent = b""
        self._lost = False
        self._decoder = Decoder(version=version)
        self._arrived: deque[Packet] = deque()
        #: Why the broker closes the connection, if it says so.
        self.goodbye: Disconnect | None = None
        self._client = node.broker.connect(self, "192.0.2.1:4711", True)
        assert self._client is not None

    def __repr__(self) -> str:
        return f"<{self.name!r} at {self.node.name}>"

    # the transport

    def write(self, data: bytes) -> None:
        self._decoder.receive(data)
        while (packet := self._decoder.next_packet()) is not None:
            if isinstance(packet, Disconnect):
                self.goodbye = packet
            else:
                self._arrived.append(packet)

    def close(self) -> None:
        self.closed = True
        self._lose()

    abort = close

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self.node.reactor.callFromThread(self._pass_on)

    def _pass_on(self) -> None:
        if self._reading and self._sent and not self._lost and self._client is not None:
            data, self._sent = self._sent, b""
            self._client.data_received(data)

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self.node.reactor.callFromThread(self._tell_lost)

    def _tell_lost(self) -> None:
        if self._client is not None:
            self._client.connection_lost("connection lost")
            self._client = None

    # the client

    def send(self, *packets: Packet) -> Peer:
        """Send packets in one chunk."""
        self._sent += b"".join(encode(packet, self._version) for packet in packets)
        self.node.reactor.callFromThread(self._pass_on)
        return self

    def drop(self) -> None:
        """The network connection breaks."""
        self.closed = True
        self.node.reactor.callFromThread(self._drop)

    def _drop(self) -> None:
        self._lost = True
        self._tell_lost()

    def packet(self) -> Packet:
        """The next packet."""
        self.stage.until(lambda: self._arrived or self.closed)
        assert self._arrived, "closed by the broker"
        return self._arrived.popleft()

    def arrived(self) -> list[Packet]:
        """What has come and was not asked for yet."""
        packets = list(self._arrived)
        self._arrived.clear()
        return packets

    def peek(self) -> list[Packet]:
        """The same, and it stays there."""
        return list(self._arrived)

    def expect(self, *packets: Packet) -> None:
        """The next packets are exactly these."""
        for packet in packets:
            got = self.packet()
            assert got == packet, got

    def is_over(self) -> bool:
        """Wait for a packet, or the end. True: the broker has closed the connection, and there are no packets."""
        self.stage.until(lambda: self._arrived or self.closed)
        return not self._arrived

    def until_closed(self) -> list[Packet]:
        """Wait until the broker has closed the connection. Returns what came before."""
        self.stage.until(lambda: self.closed)
        return self.arrived()

    def subscribe(self, topic_filter: str, qos: int = 2) -> Peer:
        """SUBSCRIBE and its SUBACK."""
        self.send(Subscribe(1, [(topic_filter, Subscription(qos))]))
        self.expect(Suback(1, [Reason(qos)]))
        return self

    def unsubscribe(self, topic_filter: str) -> None:
        """UNSUBSCRIBE and its UNSUBACK."""
        self.send(Unsubscribe(1, [topic_filter]))
        assert isinstance(self.packet(), Unsuback)

    def publish(self, topic: str, payload: bytes, qos: int = 1, packet_id: int = 1, retain: bool = False) -> None:
        """PUBLISH, and the whole exchange that its QoS asks for."""
        self.send(Publish(topic, payload, qos, retain, packet_id=packet_id if qos else 0))
        if qos == 1:
            self.expect(Puback(packet_id))
        elif qos == 2:
            self.expect(Pubrec(packet_id))
            self.send(Pubrel(packet_id))
            self.expect(Pubcomp(packet_id))

    def receive(self) -> Publish:
        """The next packet, which is a PUBLISH."""
        packet = self.packet()
        assert isinstance(packet, Publish), packet
        return packet

    def take(self) -> Publish:
        """Receive a message and finish its exchange."""
        message = self.receive()
        self.acknowledge(message)
        return message

    def acknowledge(self, message: Publish) -> None:
        """The receiver's whole half of the exchange. What else comes meanwhile is kept."""
        if message.qos == 1:
            self.send(Puback(message.packet_id))
        elif message.qos == 2:
            self.send(Pubrec(message.packet_id))
            self._expect_among(Pubrel(message.packet_id))
            self.send(Pubcomp(message.packet_id))

    def _expect_among(self, packet: Packet) -> None:
        self._arrived.extendleft(reversed(self.until(packet)))

    def until(self, packet: Packet) -> list[Packet]:
        """Wait for this packet. Returns what came before."""
        before: list[Packet] = []
        while (got := self.packet()) != packet:
            before.append(got)
        return before

    def take_until(self, payload: bytes) -> list[bytes]:
        """Take messages up to one with this payload. Returns the payloads before it, in order."""
        taken: list[bytes] = []
        while (message := self.take()).payload != payload:
            taken.append(message.payload)
        return taken

    def take_rest(self) -> list[bytes]:
        """Take messages until each node has said its last (`Stage.end`). Returns the payloads of all others, in order.
        Messages of different nodes may overtake each other."""
        last = {b"end of " + node.name.encode() for node in self.stage.nodes if node.alive}
        taken: list[bytes] = []
        while not last.issubset(taken):
            taken.append(self.take().payload)
        return [payload for payload in taken if payload not in last]

    def silent(self) -> bool:
        """Whether nothing is on its way from this node: PINGREQ is answered before anything else comes."""
        self.send(Pingreq())
        return self.packet() == Pingresp()


class Stage:
    """Nodes on one Redis. `close` stops them all, the dead ones, too, and tells whether something went wrong inside."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.world = Reactors()
        self.nodes: list[Node] = []
        self._faults: list[str] = []
        globalLogPublisher.addObserver(self._observe)  # type: ignore[arg-type]

    def _observe(self, event: dict[str, Any]) -> None:
        failure = event.get("log_failure")
        if failure is not None and "is not started" not in str(failure.value):  # the end of an earlier test
            self._faults.append(f"{event.get('log_format')}: {failure.getTraceback()}")

    def until(self, happened: Callable[[], object]) -> None:
        """Run until it has happened."""
        self.world.until(happened)

    def node(self, name: str, timing: Timing = CALM) -> Node:
        """A node that is not yet started."""
        node = Node(self, name, timing)
        self.nodes.append(node)
        return node

    def start(self, *names: str, timing: Timing = CALM) -> list[Node]:
        """Nodes that are live, and know each other."""
        nodes = [self.node(name, timing) for name in names]
        self.world.wait(gatherResults([node.broker.start() for node in nodes]))
        alive = [node for node in self.nodes if node.alive]
        self.until(lambda: all(len(node.lanes.inner.members()) == len(alive) - 1 for node in alive))
        return nodes

    def end(self, topic: str) -> None:
        """Publish a last message at each node, behind all that was on its way there."""
        for node in self.nodes:
            if node.alive:
                node.connect(f"end-{node.name}").publish(topic, b"end of " + node.name.encode(), 2)

    def leave(self, node: Node) -> None:
        """It is told to stop, and does."""
        self.world.wait(node.broker.stop())
        self.nodes.remove(node)

    def lease_is_over(self, node: Node) -> bool:
        """By the clock of Redis."""
        with self.redis.client() as client:
            seconds, microseconds = client.time()
            flat: Sequence[bytes] = [part for pair in client.hgetall("mc:{c}:nodes").items() for part in pair]
        return members(flat)[node.id].until < int(1000 * seconds + microseconds // 1000)

    def is_buried(self, node: str) -> bool:
        """Whether the node of this id was found dead, and somebody has cleaned up after it."""
        with self.redis.client() as client:
            return b"done" in (client.hget("mc:{c}:graves", node) or b"")

    def close(self) -> None:
        globalLogPublisher.removeObserver(self._observe)  # type: ignore[arg-type]
        stopping: list[Deferred[None]] = []
        for node in self.nodes:
            node.resume()
        for node in self.nodes:
            stopping += [node.lanes.inner.stop(), node.store.inner.stop()]
        for stopped in stopping:
            self.world.wait(stopped)
        assert not self._faults, "\n".join(self._faults)
