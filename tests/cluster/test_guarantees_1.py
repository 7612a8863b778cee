"""G1 to G4: nothing that was acknowledged is lost, exactly once stays so, one owner, and order; across nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.nodes import Cluster, Cutter, expect_nothing, until
from tests.support import wire
from tests.support.persistent import Publisher, Pump, Subscriber, numbers
from tests.support.wire import PATIENCE, Wire


@pytest.mark.parametrize("killed", ["publisher's node", "subscriber's node", "another node"])
def test_g1_acknowledged_means_safe(cluster: Callable[..., Cluster], killed: str) -> None:
    """SIGKILL of a node in the very moment of an acknowledgement: sessions that were online or offline get it all."""
    nodes = cluster(3)
    at, refuge = {"publisher's node": (0, 2), "subscriber's node": (1, 0), "another node": (2, 0)}[killed]
    publishers = [Publisher(f"publisher{qos}", f"load/{qos}", qos, numbers(0, 400), level=3 + qos) for qos in (1, 2)]
    online = Subscriber("online", ("load/#", 2), level=5)
    offline = Subscriber("offline", ("load/+", 2))
    everybody = Pump(*publishers, online, offline)
    online.connect(nodes[1].address)
    offline.connect(nodes[2].address)
    everybody.until(lambda: online.subscribed and offline.subscribed)
    offline.leave()
    for publisher in publishers:
        publisher.connect(nodes[0].address)
    everybody.until(lambda: len(publishers[0].safe) >= 100 and len(publishers[1].safe) >= 100)

    nodes[at].kill()
    victims = {0: publishers, 1: [online], 2: []}[at]
    Pump(*victims).drop()
    for victim in victims:
        victim.connect(nodes[refuge].address)
    everybody.until(lambda: all(publisher.done for publisher in publishers))
    offline.connect(nodes[refuge].address)
    safe = [publisher.safe for publisher in publishers]
    assert safe == [numbers(0, 400), numbers(0, 400)]

    def complete(reader: Subscriber) -> bool:
        return all(reader.has(p.topic, p.safe) for p in publishers)

    everybody.until(lambda: complete(online) and complete(offline))
    for reader in (online, offline):
        assert reader.once("load/1") == publishers[0].safe
        assert reader.payloads("load/2") == publishers[1].safe
        nodes.settled(reader.client_id)
        reader.leave()
        expect_nothing(nodes[refuge], reader.client_id)
    nodes.start()


@pytest.mark.parametrize("level", [4, 5])
def test_g2_exactly_once_while_sessions_move(cluster: Callable[..., Cluster], level: int) -> None:
    """A subscriber moves 50 times between three nodes under QoS 2 traffic, a publisher 25 times: every message comes
    exactly once and in order. Some moves find the old connection open, some closed."""
    nodes = cluster(3)
    staying = Publisher("staying", "moves/staying", 2, [])
    moving = Publisher("moving", "moves/moving", 2, [], level=5)
    reader = Subscriber("reader", ("moves/#", 2), level=level)
    everybody = Pump(staying, moving, reader)
    reader.connect(nodes[0].address)
    everybody.until(lambda: reader.subscribed)
    staying.connect(nodes[1].address)
    moving.connect(nodes[2].address)
    left_open = []
    published = 0
    for turn in range(50):
        staying.more(numbers(published, published + 30))
        moving.more(numbers(published, published + 30))
        published += 30
        half = len(reader.received) + 15 + turn % 20
        everybody.until(lambda half=half: len(reader.received) >= half)  # type: ignore[misc]
        movers = [reader, moving] if turn % 2 else [reader]
        for peer in movers:
            if turn % 3:
                assert peer.socket is not None
                left_open.append(peer.socket)
                peer.socket = None
            peer.lost()
            peer.connect(nodes[(turn + 1 + (peer is moving)) % 3].address)
    everybody.until(lambda: staying.done and moving.done and reader.idle and len(reader.received) >= 2 * published)
    assert reader.payloads("moves/staying") == numbers(0, published)
    assert reader.payloads("moves/moving") == numbers(0, published)
    for old in left_open:  # each was closed by its node
        old.settimeout(PATIENCE)
        try:
            while old.recv(65536):
                pass
        except ConnectionResetError:
            pass
        old.close()
    nodes.settled("reader")
    reader.leave()
    expect_nothing(nodes[0], "reader")


def test_g2_owner_killed_between_pubrec_and_pubrel(cluster: Callable[..., Cluster]) -> None:
    """SIGKILL of the publisher's node after PUBREC: the publisher repeats PUBLISH at another node, and there is one
    message. SIGKILL of the subscriber's node after its PUBREC: the new node sends PUBREL, never the message again."""
    nodes = cluster(3)
    reader = nodes[1].wire().connect("reader", clean=False).subscribe(("once", 2))
    with nodes[1].wire().connect("asleep", clean=False).subscribe(("once", 2)) as asleep:
        asleep.disconnect()
    writer = nodes[0].wire().connect("writer", clean=False)
    writer.send(wire.publish("once", b"first", 2, packet_id=10))
    writer.expect(wire.pubrec(10))
    nodes[0].kill()
    with nodes[2].wire().connect("writer", clean=False, present=True) as writer:
        writer.send(wire.publish("once", b"first", 2, packet_id=10, dup=True))
        writer.expect(wire.pubrec(10))
        writer.send(wire.pubrel(10))
        writer.expect(wire.pubcomp(10))
        writer.publish("once", b"second", 2, packet_id=10)

    first, second = reader.expect_published(), reader.expect_published()
    assert (first.payload, second.payload) == (b"first", b"second")
    reader.send(wire.pubrec(first.packet_id))
    reader.expect(wire.pubrel(first.packet_id))
    nodes[1].kill()
    nodes[0].start()
    with nodes[0].wire().connect("reader", clean=False, present=True) as reader:
        packets = [reader.packet(), reader.packet()]
        assert wire.pubrel(first.packet_id) in packets
        [again] = [packet.published for packet in packets if packet.type == wire.PUBLISH]
        assert (again.payload, again.packet_id, again.dup) == (b"second", second.packet_id, True)
        reader.send(wire.pubcomp(first.packet_id))
        reader.acknowledge(again)
        reader.expect_silence()
    with nodes[2].wire().connect("asleep", clean=False, present=True) as asleep:
        assert [asleep.take().payload for _ in range(2)] == [b"first", b"second"]
        asleep.expect_silence()


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
def test_g3_one_owner(cluster: Callable[..., Cluster], clean: bool) -> None:
    """A client id that connects at one node after the other has one connection, the last; each older one is closed."""
    nodes = cluster(3)
    older: Wire | None = None
    for turn in range(30):
        newer = nodes[turn % 3].wire()
        newer.connect("only", clean=clean, present=bool(turn) and not clean)
        if older is not None:
            older.expect_closed()
        newer.subscribe((f"only/{turn}", 1))
        older = newer
    assert older is not None
    with nodes[0].wire().connect("writer") as writer:
        for turn in (28, 29):
            writer.publish(f"only/{turn}", b"%d" % turn, 1)
    assert older.take().payload == (b"29" if clean else b"28")
    if not clean:
        assert older.take().payload == b"29"
    older.expect_silence()
    nodes.settled("only")

    # Many at once, at all nodes: each gets CONNACK or is closed, and in the end one of them is the owner.
    rivals = [nodes[number % 3].wire() for number in range(12)]
    for rival in rivals:
        rival.send(wire.connect("only", clean=clean))
    older.expect_closed()
    alive = list(rivals)

    def settled() -> bool:
        for rival in list(alive):
            try:
                rival.send(wire.PINGREQ_PACKET)
                while rival.packet() != wire.PINGRESP_PACKET:
                    pass
            except (wire.ClosedByBroker, ConnectionError):
                alive.remove(rival)
        return len(alive) <= 1

    until(settled)
    assert len(alive) == 1
    [owner] = alive
    owner.send(wire.subscribe(9, ("only/end", 1)))
    owner.expect("90 03 00 09 01")
    with nodes[1].wire().connect("writer") as writer:
        writer.publish("only/end", b"end", 1)
    assert owner.take().payload == b"end"
    for rival in rivals:
        rival.close()


@pytest.mark.parametrize("burst", [1, 50])
def test_g4_order_while_redis_connections_are_cut(cluster: Callable[..., Cluster], burst: int) -> None:
    """2,000 QoS 1 messages across nodes while all connections to Redis are cut every 200 ms: none is lost, each first
    arrives in order, for a clean session (by link) and a persistent one (by its queue); QoS 2 beside it comes once.
    With bursts publishes come in runs, which are stored and forwarded as one."""
    nodes = cluster(2)
    publishers = [
        Publisher(f"publisher{qos}", f"cut/{qos}", qos, [], window=max(20, 2 * burst), level=6 - qos, burst=burst)
        for qos in (1, 2)
    ]
    readers = [Subscriber("clean", ("cut/#", 2), clean=True), Subscriber("kept", ("cut/#", 2), level=5)]
    everybody = Pump(*publishers, *readers)
    for reader in readers:
        reader.connect(nodes[1].address)
    for publisher in publishers:
        publisher.connect(nodes[0].address)
    everybody.until(lambda: all(reader.subscribed for reader in readers))
    with Cutter(nodes.redis) as cutter:
        pump = Pump(*publishers, *readers, cutter)
        for turn in range(20):
            for publisher in publishers:
                publisher.more(numbers(10_000 + 100 * turn, 10_100 + 100 * turn))  # all of one length
            pump.until(lambda turn=turn: cutter.cuts > turn)  # type: ignore[misc]
        pump.until(lambda: all(publisher.done for publisher in publishers))
    wanted = numbers(10_000, 12_000)
    for publisher in publishers:
        assert publisher.safe == wanted

    def complete(reader: Subscriber) -> bool:
        return all(reader.has(f"cut/{qos}", wanted) for qos in (1, 2))

    everybody.until(lambda: all(map(complete, readers)))
    for reader in readers:
        assert reader.once("cut/1") == wanted
        assert reader.payloads("cut/2") == wanted
        assert all(peer.socket is not None for peer in everybody.peers), "a client lost its connection"
