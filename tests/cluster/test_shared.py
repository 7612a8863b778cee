"""Shared subscriptions over several nodes: each message reaches one of a group, whoever comes, goes, or is killed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from tests.cluster.nodes import Cluster, at_once
from tests.support import wire
from tests.support.persistent import Peer, Publisher, Pump
from tests.support.wire import Address, Packet, Published, Wire, WireError, string

#: A session of MQTT 5.0 that outlives its connection by this many seconds.
EXPIRY = 1000


def connect(client_id: str, expiry: int) -> bytes:
    """CONNECT of MQTT 5.0; without expiry it starts clean."""
    head = string("MQTT") + bytes((5, 0x00 if expiry else 0x02, 0, 0))
    return wire.frame(0x10, head + b"\x05\x11" + expiry.to_bytes(4, "big") + string(client_id))


def subscribe(packet_id: int, topic_filter: str, qos: int) -> bytes:
    return wire.frame(0x82, packet_id.to_bytes(2, "big") + b"\0" + string(topic_filter) + bytes((qos,)))


def published(packet: Packet) -> Published:
    """A PUBLISH of MQTT 5.0 without long properties."""
    body, qos = packet.body, packet[0] >> 1 & 3
    end = 2 + int.from_bytes(body[:2], "big")
    packet_id = int.from_bytes(body[end : end + 2], "big") if qos else 0
    at = end + (2 if qos else 0)
    assert body[at] < 0x80
    payload = body[at + 1 + body[at] :]
    return Published(body[2:end].decode(), payload, qos, packet_id, bool(packet[0] & 1), bool(packet[0] & 8))


class Member(Peer):
    """A client of MQTT 5.0 with one shared subscription. `received` is what its application has seen."""

    def __init__(self, client_id: str, share: str, qos: int, clean: bool = False, acknowledges: bool = True) -> None:
        super().__init__(client_id, clean=clean)
        self.share, self.qos = share, qos
        self.acknowledges = acknowledges
        self.received: list[Published] = []
        self.subscribed = False
        self._held: set[int] = set()

    def connect(self, address: Address) -> None:
        connection = Wire(address)
        connection.send(connect(self.client_id, 0 if self.clean else EXPIRY))
        packet = connection.packet()
        assert (packet.type, packet.body[0], packet.body[1]) == (wire.CONNACK, self.known, 0), packet.hex(" ")
        if not self.known:
            self.subscribed = False
            self._held.clear()
        self.known = not self.clean
        first, self._framer, self.socket = connection.rest(), connection.framer, connection.socket
        self.socket.setblocking(False)
        if not self.subscribed:
            self.send(subscribe(1, self.share, self.qos))
        for each in first:
            self.heard(each)

    @property
    def idle(self) -> bool:
        """No QoS 2 exchange is half done."""
        return not self._held

    def heard(self, packet: Packet) -> None:
        if packet.type == wire.SUBACK:
            assert packet[-1] == self.qos, packet.hex(" ")
            self.subscribed = True
        elif packet.type == wire.PUBREL:
            self._held.discard(packet.packet_id)
            self.send(wire.pubcomp(packet.packet_id))
        elif packet.type == wire.PUBLISH:
            self._take(published(packet))
        elif packet.type != wire.DISCONNECT:
            raise WireError(f"{self.client_id}: unexpected {packet.hex(' ')}")

    def _take(self, message: Published) -> None:
        if message.qos < 2 or message.packet_id not in self._held:
            self.received.append(message)
        if message.qos == 2:
            self._held.add(message.packet_id)
        if message.qos and self.acknowledges:
            self.send((wire.puback if message.qos == 1 else wire.pubrec)(message.packet_id))

    def go(self) -> None:
        """DISCONNECT, and take what is still on its way."""
        self.send(wire.DISCONNECT_PACKET)
        self.acknowledges = False
        while self.socket is not None:
            self.socket.settimeout(wire.PATIENCE)
            self.read()
        self.acknowledges = True

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.received]


def everything(members: Iterable[Member]) -> Counter[bytes]:
    """How often each payload was received, by all of them together."""
    return Counter(payload for member in members for payload in member.payloads)


def started(nodes: Cluster, *members: Member) -> Pump:
    """Connect each member to the next node; back when all have subscribed."""
    for number, member in enumerate(members):
        member.connect(nodes[number % len(nodes.nodes)].address)
    pump = Pump(*members)
    pump.until(lambda: all(member.subscribed for member in members))
    return pump


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("clean", [False, True], ids=["durable", "clean"])
def test_each_message_reaches_one_of_the_group(two_nodes: Cluster, qos: int, clean: bool) -> None:
    """Members at two nodes, a publisher at one of them: all get their part, nothing comes twice, nothing is lost."""
    topic = f"each/{qos}/{clean}"
    members = [Member(f"{topic}/{n}", f"$share/g/{topic}", qos, clean) for n in range(4)]
    pump = started(two_nodes, *members)
    wanted = [b"%d" % number for number in range(40)]
    with two_nodes[0].wire().connect("writer") as writer:
        for number, payload in enumerate(wanted, 1):
            writer.publish(topic, payload, qos, number)
    pump.until(lambda: sum(everything(members).values()) >= len(wanted))
    assert everything(members) == Counter(wanted)
    assert [len(member.received) for member in members] == [10, 10, 10, 10]
    pump.until(lambda: all(member.idle for member in members))
    for member in members:
        member.go()


@pytest.mark.parametrize("clean", [False, True], ids=["durable", "clean"])
def test_a_member_of_a_killed_node(cluster: Callable[..., Cluster], clean: bool) -> None:
    """A member has messages unacknowledged when its node is killed. A clean one is gone for good: the other one gets
    them. A durable one gets them itself when it is back, and the other one what is published meanwhile."""
    nodes = cluster(2)
    lost = Member("lost", "$share/g/t", 1, clean, acknowledges=False)
    stays = Member("stays", "$share/g/t", 1)
    pump = started(nodes, stays, lost)
    before, after = ([b"%d" % number for number in range(at, at + 20)] for at in (0, 20))
    with nodes[0].wire().connect("writer") as writer:
        for number, payload in enumerate(before, 1):
            writer.publish("t", payload, 1, number)
        pump.until(lambda: len(stays.received) + len(lost.received) == len(before))
        nodes[1].kill()
        Pump(lost).drain()
        for number, payload in enumerate(after, 1):
            writer.publish("t", payload, 1, number)
    lost.received.clear()
    lost.acknowledges = True
    if not clean:
        lost.connect(nodes[0].address)
    pump.until(lambda: set(stays.payloads) | set(lost.payloads) == {*before, *after})
    assert set(after) <= set(stays.payloads) | set(lost.payloads)
    assert (not lost.received) == clean


def test_a_member_of_a_node_that_is_stopped(cluster: Callable[..., Cluster]) -> None:
    """SIGTERM: what its clean members have not acknowledged is with others before it has gone, at QoS 1, and at QoS 2
    what had not been sent."""
    nodes = cluster(2, options=["--max-inflight", "5"])
    leaves = [Member(f"leaves{qos}", f"$share/g/{qos}", qos, True, acknowledges=False) for qos in (1, 2)]
    started(nodes, leaves[0])
    started(nodes, leaves[1])
    wanted = [b"%d" % number for number in range(20)]
    with nodes[1].wire().connect("writer") as writer:
        for qos in (1, 2):
            for number, payload in enumerate(wanted, 1):
                writer.publish(f"{qos}", payload, qos, number)
    Pump(*leaves).until(lambda: all(len(member.received) == 5 for member in leaves))
    stays = [Member(f"stays{qos}", f"$share/g/{qos}", qos) for qos in (1, 2)]
    for member in stays:
        member.connect(nodes[1].address)
    pump = Pump(*stays)
    pump.until(lambda: all(member.subscribed for member in stays))
    nodes[0].stop()
    Pump(*leaves).drain()
    pump.until(lambda: (len(stays[0].received), len(stays[1].received)) == (20, 15))
    assert sorted(stays[0].payloads) == sorted(wanted)
    assert sorted(leaves[1].payloads + stays[1].payloads) == sorted(wanted)


@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_misses_anything(cluster: Callable[..., Cluster], seed: int) -> None:
    """10,000 messages for two groups at three nodes, while members leave and come back elsewhere and a node is killed.
    At QoS 1 none is lost; at QoS 2 each comes once. A clean session takes to its grave what it may have been sent at
    QoS 2 [MQTT-4.8.2], so no such member is at the node that is killed."""
    nodes = cluster(3)
    chance = random.Random(seed)
    killed = chance.randrange(3)
    others = [number for number in range(3) if number != killed]
    publishers = [Publisher(f"publisher{qos}{n}", f"load/{qos}/{n}", qos, []) for qos in (1, 2) for n in range(3)]
    kept = [Member(f"durable{qos}{n}", f"$share/g/load/{qos}/#", qos) for qos in (1, 2) for n in range(3)]
    clean = [Member(f"clean{qos}{n}", f"$share/g/load/{qos}/#", qos, clean=True) for qos in (1, 2) for n in range(3)]
    members = kept + clean
    pump = Pump(*publishers, *members)
    where: dict[Peer, int] = {}

    def come(peer: Peer) -> None:
        anywhere = [number for number in range(3) if nodes[number].running]
        harmless = [number for number in others if nodes[number].running]
        timid = isinstance(peer, Member) and peer.clean and peer.qos == 2
        where[peer] = chance.choice(harmless if timid else anywhere)
        peer.connect(nodes[where[peer]].address)

    for number, peer in enumerate([*publishers, *members]):
        where[peer] = number % 3
        if isinstance(peer, Member) and peer.clean and peer.qos == 2:
            where[peer] = others[number % 2]
        peer.connect(nodes[where[peer]].address)
    pump.until(lambda: all(member.subscribed for member in members))

    rounds, each = 20, 10_000 // 20 // len(publishers) + 1
    wanted: dict[int, list[bytes]] = {1: [], 2: []}
    for turn in range(rounds):
        for publisher in publishers:
            more = [b"%s %d %d" % (publisher.client_id.encode(), turn, number) for number in range(each)]
            wanted[publisher.qos] += more
            publisher.more(more)
        enough = sum(len(publisher.safe) for publisher in publishers) + chance.randrange(each * len(publishers) // 2)
        pump.until(lambda enough=enough: sum(len(p.safe) for p in publishers) >= enough)  # type: ignore[misc]
        if turn == rounds // 2:
            nodes[killed].kill()
            moving = [peer for peer, number in where.items() if number == killed and peer.socket is not None]
            for peer in moving:
                Pump(peer).drain()
            for peer in moving:
                where[peer] = chance.choice(others)
            at_once(partial(peer.connect, nodes[where[peer]].address) for peer in moving)
        gone = [member for member in members if member.socket is None]
        for member in gone:
            come(member)
        there = [member for member in members if member not in gone]
        for member in chance.sample(there, 3):
            if (member.qos == 1 or not member.clean) and chance.random() < 0.5:
                member.lost()
            else:
                member.go()
    pump.until(lambda: all(publisher.done for publisher in publishers), 120)
    for member in members:
        if member.socket is None:
            come(member)

    def complete() -> bool:
        came = everything(members)
        return all(member.idle for member in members) and all(came[payload] for payload in wanted[1] + wanted[2])

    pump.until(complete, 60)
    twice = {payload for payload, times in everything(m for m in members if m.qos == 2).items() if times > 1}
    assert not twice
