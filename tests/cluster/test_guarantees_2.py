"""G5 to G9: subscribed means subscribed, retained converges, wills are kept, Redis may go away, and bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mqttcluster.storage.redis_members import Timing
from tests.cluster.nodes import PATIENCE, Cluster, Cutter, until
from tests.support import wire
from tests.support.persistent import Publisher, Pump, Subscriber, connect_all, numbers
from tests.support.wire import Wire


@pytest.fixture
def three(cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    return cluster(3)


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
def test_g5_subscribed_means_subscribed(two_nodes: Cluster, clean: bool) -> None:
    """SUBSCRIBE at one node and PUBLISH at the other right after SUBACK, 1,000 times in all: never missed."""
    with two_nodes[0].wire() as writer, two_nodes[1].wire() as reader:
        writer.connect("g5-writer", clean=True)
        reader.connect("g5-reader", clean=clean)
        for number in range(500):
            topic = f"g5/{clean}/{number}"
            reader.subscribe((topic if number % 2 else f"g5/{clean}/+/../{number}", 1), (topic, 2))
            writer.publish(topic, b"%d" % number, number % 3)
            assert reader.take().payload == b"%d" % number
            if number % 4 == 0:  # as it was before, for the next round
                reader.send(wire.unsubscribe(3, topic))
                reader.expect("B0 02 00 03")
        reader.expect_silence()


def test_g5_a_frozen_node_that_wakes_up(cluster: Callable[..., Cluster]) -> None:
    """SUBSCRIBE while the other node is frozen: SUBACK comes when that node may not act any more. Woken up, with a
    publish in its socket, it first learns of the subscription: the message is delivered."""
    nodes = cluster(2)
    writer = nodes[0].wire().connect("writer")
    reader = nodes[1].wire().connect("reader")
    writer.expect_silence()
    sleeper = nodes.id(0)
    nodes[0].freeze()
    reader.subscribe(("late", 1))
    assert not nodes.acts(sleeper)
    for qos in (0, 1, 2):
        writer.send(wire.publish("late", b"%d" % qos, qos, qos))
    nodes[0].thaw()
    until(lambda: nodes.buried(sleeper) or nodes.acts(sleeper))
    if nodes.buried(sleeper):  # on a machine that is so busy that nodes are taken for dead
        writer.expect_closed()
        return
    assert sorted(reader.take().payload for _ in range(3)) == [b"0", b"1", b"2"]
    writer.expect(wire.puback(1), wire.pubrec(2))


def test_g6_retained_converges(cluster: Callable[..., Cluster]) -> None:
    """Retained messages set and deleted for the same topics at both nodes at once, while pub/sub is cut: both nodes end
    with the same; and whoever subscribes after an acknowledgement sees what was acknowledged."""
    nodes = cluster(2)
    topics = [f"g6/{number}" for number in range(10)]

    def write(writer: Wire, name: str) -> None:
        for number in range(60):
            for packet_id, topic in enumerate(topics, 1):
                payload = b"" if number % 7 == 3 else f"{name}-{number}".encode()
                writer.send(wire.publish(topic, payload, 1, packet_id, retain=True))
            for packet_id in range(1, len(topics) + 1):
                writer.expect(wire.puback(packet_id))

    # All connect before: while it has no connection to Redis a node lets in nobody.
    writers = [node.wire().connect(f"writer-{node.name}") for node in nodes.nodes]
    readers = [node.wire().connect(f"reader-{node.name}") for node in nodes.nodes]
    with Cutter(nodes.redis), ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, writer, node.name) for writer, node in zip(writers, nodes.nodes)]:
            done.result()
        held = []
        for reader in readers:
            reader.subscribe(("g6/#", 1)).send(wire.PINGREQ_PACKET)
            found = {}
            while (packet := reader.packet()) != wire.PINGRESP_PACKET:
                reader.acknowledge(packet.published)
                found[packet.published.topic] = packet.published.payload
            held.append(found)
            reader.send(wire.unsubscribe(2, "g6/#"))
            reader.expect("B0 02 00 02")
        assert held[0] == held[1]
        for number in range(100):
            topic = f"g6/alone/{number}"
            writers[0].publish(topic, b"%d" % number, 1, retain=True)
            readers[1].send(wire.subscribe(1, (topic if number % 2 else f"g6/+/{number}", 1)))
            # The publisher's node may not have heard of UNSUBSCRIBE, and what it said then may come late, beside the
            # retained one: the last message once more.
            subscribed, seen = False, -1
            while not subscribed or seen != number:
                packet = readers[1].packet()
                if packet.type == wire.SUBACK:
                    assert packet == bytes.fromhex("9003000101")
                    subscribed = True
                else:
                    readers[1].acknowledge(packet.published)
                    assert int(packet.published.payload) in (seen, number - 1, number)
                    seen = int(packet.published.payload)
    for client in (*writers, *readers):
        client.close()


def test_g7_wills_of_a_killed_node(three: Cluster) -> None:
    """SIGKILL of a node with 40 clients: exactly one of two survivors publishes each will, within 10 s. Clients that
    said goodbye leave none; one that comes back elsewhere has its will published once, at that moment."""
    watcher = three[1].wire().connect("watcher", clean=False).subscribe(("wills/#", 2))
    dying = [three[0].wire() for _ in range(41)]
    for number, client in enumerate(dying[:40]):
        client.connect(f"dies{number}", clean=bool(number % 2), will=(f"wills/{number}", b"", number % 3, False))
    three[0].wire().connect("leaves", will=("wills/leaves", b"", 1, False)).disconnect()
    # DISCONNECT has no answer; this one comes behind it.
    dying[40].connect("returns", clean=False, will=("wills/returns", b"", 1, False))
    dead = three.id(0)
    three[0].kill()
    killed = time.monotonic()
    returned = three[2].wire().connect("returns", clean=False, present=True)
    first = watcher.take().topic
    assert first == "wills/returns" or three.buried(dead)
    topics = [first] + [watcher.take().topic for _ in range(40)]
    took = time.monotonic() - killed
    assert sorted(topics) == sorted(["wills/returns", *(f"wills/{number}" for number in range(40))])
    assert Timing().dead_after < 10 - 2  # within 10 s, on a machine that has time for it
    assert took < PATIENCE / 2

    three.until_nothing_is_due()
    for node in (three[1], three[2]):  # what either had still to say comes before this
        with node.wire().connect("marker") as marker:
            marker.publish("wills/marker", b"", 2)
    assert [watcher.take().topic for _ in range(2)] == ["wills/marker"] * 2
    watcher.expect_silence()
    returned.expect_silence()
    for client in dying:
        client.close()


def test_g8_a_lost_redis_is_a_pause(cluster: Callable[..., Cluster]) -> None:
    """redis-server is stopped for 5 s under load and started again with its data: no client loses its connection, QoS 0
    flows between clients of one node, a new client is told "server unavailable", and afterwards everything that was
    acknowledged is there, once and in order where that was promised. One node may be back before the other, so no more
    is published than the queue of a session holds, 1,000 messages."""
    nodes = cluster(2)
    publishers = [Publisher(f"publisher{qos}", f"load/{qos}", qos, numbers(0, 200), level=3 + qos) for qos in (1, 2)]
    readers = [Subscriber("clean", ("load/#", 2), clean=True, level=5), Subscriber("kept", ("load/#", 2))]
    local = nodes[0].wire().connect("local").subscribe(("local", 0))
    everybody = connect_all(publishers, nodes[0].address, readers, nodes[1].address)
    everybody.until(lambda: all(len(reader.received) >= 50 for reader in readers))
    nodes.redis.stop()
    stopped = time.monotonic()
    for publisher in publishers:
        publisher.more(numbers(200, 400))
    with nodes[0].wire() as neighbour:
        neighbour.send(wire.connect("neighbour"))
        neighbour.expect("20 02 00 03")
    turn = 0
    while time.monotonic() < stopped + 5:
        local.publish("local", b"%d" % turn)
        assert local.expect_published().payload == b"%d" % turn
        turn += 1
        Pump(*everybody.peers).until(lambda: True)
        time.sleep(0.1)
    nodes.redis.start()
    everybody.until(lambda: all(publisher.done for publisher in publishers))
    wanted = numbers(0, 400)
    for publisher in publishers:
        assert publisher.safe == wanted

    def complete(reader: Subscriber) -> bool:
        return all(reader.has(f"load/{qos}", wanted) for qos in (1, 2))

    everybody.until(lambda: all(map(complete, readers)))
    for reader in readers:
        assert reader.once("load/1") == wanted
        assert reader.payloads("load/2") == wanted
    with nodes[1].wire().connect("afterwards").subscribe(("after", 1)) as reader:
        local.publish("after", b"", 1)
        assert reader.take().topic == "after"


@pytest.mark.parametrize("kind", ["clean", "kept"])
def test_g9_a_slow_consumer_stalls_nobody(cluster: Callable[..., Cluster], kind: str) -> None:
    """A subscriber at one node that never reads: publishers at the other node get all their acknowledgements, its
    neighbour all messages, and the memory of both nodes stays within bounds."""
    nodes = cluster(2)
    count, size = 3000, 10_000
    slow = nodes[1].wire()
    slow.connect("slow", clean=kind == "clean").subscribe(("flood/#", 2))
    neighbour = Subscriber("neighbour", ("flood/+", 1), clean=True)
    neighbour.connect(nodes[1].address)
    payloads = [(b"%d " % number).ljust(size, b".") for number in range(count)]
    publisher = Publisher("publisher", "flood/1", 1, payloads, window=50)
    everybody = Pump(publisher, neighbour)
    everybody.until(lambda: neighbour.subscribed)
    before = [node.memory() for node in nodes.nodes]
    publisher.connect(nodes[0].address)
    everybody.until(lambda: publisher.done and len(neighbour.received) >= count)
    assert neighbour.payloads("flood/1") == payloads
    zero = nodes[0].wire().connect("zero")
    for payload in payloads:
        zero.send(wire.publish("flood/0", payload))
    zero.expect_silence()
    for node, held in zip(nodes.nodes, before):
        # all of it would be 60 MB; 1,000 messages may be queued for a clean session
        assert node.memory() - held < 40_000_000, f"{node.name} has grown"
    with nodes[1].wire().connect("other").subscribe(("other", 1)) as other:
        zero.publish("other", b"", 1)
        assert other.take().topic == "other"
    slow.close()
    zero.close()
