"""Nodes that freeze, die, or start late; and what their clients and everybody else's notice of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from mqttcluster.core.message import Message
from mqttcluster.storage.interfaces import QueueLimits
from mqttcluster.storage.records import encode_message
from mqttcluster.storage.redis_cluster import connections
from mqttcluster.storage.redis_pipeline import Pipeline
from mqttcluster.storage.redis_plan import Plan
from tests.cluster.nodes import DEAD_AFTER, PATIENCE, Cluster, Node, at_once, come_back, until
from tests.cluster.redis_server import RedisServer
from tests.support import wire
from tests.support.persistent import Publisher, Pump, Subscriber, numbers
from tests.support.wire import Packet, Wire


def until_closed(client: Wire) -> Iterator[Packet]:
    """What comes until the broker closes."""
    while True:
        try:
            packet = client.packet()
        except wire.ClosedByBroker:
            return
        yield packet


@pytest.mark.parametrize("seconds", [3, 20])
def test_an_old_owner_that_wakes_up(cluster: Callable[..., Cluster], seconds: float) -> None:
    """The owner of a session is frozen, the session moves, the old owner goes on: nothing that was waiting on the old
    connection changes the session, and that connection is closed. Its other clients notice nothing, if they were not
    taken for dead meanwhile."""
    nodes = cluster(2)
    sleeper = nodes.id(0)
    old = nodes[0].wire().connect("moves", clean=False).subscribe(("to/moves", 2), ("stays", 1))
    other = nodes[0].wire().connect("stays", clean=False).subscribe(("to/other", 1))
    watcher = nodes[1].wire().connect("watcher", clean=False).subscribe(("from/#", 2))
    with nodes[1].wire().connect("writer") as writer:
        writer.publish("to/moves", b"first", 1)
        writer.publish("to/moves", b"second", 2)
        sent = [old.expect_published(), old.expect_published()]
        nodes[0].freeze()
        frozen = time.monotonic()
        # All of this waits in the old owner's socket.
        old.send(wire.puback(sent[0].packet_id), wire.pubrec(sent[1].packet_id))
        old.send(wire.unsubscribe(8, "stays"), wire.subscribe(9, ("never", 1)))
        old.send(wire.publish("from/moves", b"stale", 2, packet_id=5))
        other.send(wire.publish("from/other", b"waited", 1, packet_id=6))
        new = nodes[1].wire().connect("moves", clean=False, present=True)
        again = [new.expect_published(), new.expect_published()]
        assert [(m.payload, m.packet_id, m.dup) for m in again] == [(m.payload, m.packet_id, True) for m in sent]
        new.publish("from/moves", b"fresh", 2, packet_id=5)
        assert watcher.take().payload == b"fresh"
        time.sleep(max(0.0, frozen + seconds - time.monotonic()))  # this is what is tested
        nodes[0].thaw()

        for packet in until_closed(old):
            assert packet.type not in (wire.SUBACK, wire.UNSUBACK, wire.PUBREC)
        until(lambda: nodes.buried(sleeper) or nodes.acts(sleeper))
        if nodes.buried(sleeper):  # after the shorter time only on a machine that is very busy
            other.expect_closed()
            other = come_back(nodes[0], "stays")
        else:
            assert seconds < DEAD_AFTER
            other.expect(wire.puback(6))
            message = watcher.take()
            assert (message.topic, message.payload) == ("from/other", b"waited")
        writer.publish("to/other", b"", 1)
        assert other.take().topic == "to/other"
        for message in again:
            new.acknowledge(message)
        writer.publish("never", b"", 1)
        writer.publish("stays", b"", 1)
        assert new.take().topic == "stays"
        new.expect_silence()
        nodes.settled("moves")
        new.disconnect()
    watcher.expect_silence()
    with nodes[0].wire().connect("moves", clean=False, present=True) as back:
        back.expect_silence()
    for each in (other, watcher):
        each.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_nodes_are_killed_under_load(cluster: Callable[..., Cluster], seed: int) -> None:
    """Three times a node is killed under load, any of three. Sessions are online and offline, at all nodes, and their
    clients go on at another node at once. What was acknowledged arrives, in order, at QoS 2 exactly once."""
    nodes = cluster(3)
    chance = random.Random(seed)
    rounds = 3
    wanted = numbers(0, 100 * rounds)
    publishers = [Publisher(f"publisher{qos}{n}", f"load/{qos}/{n}", qos, []) for qos in (1, 2) for n in range(2)]
    online = [Subscriber(f"online{number}", ("load/#", 2)) for number in range(3)]
    offline = [Subscriber(f"offline{number}", (f"load/+/{number}", 2)) for number in range(2)]
    everybody = Pump(*publishers, *online, *offline)
    where = {peer: number % 3 for number, peer in enumerate(everybody.peers)}
    for peer, number in where.items():
        peer.connect(nodes[number].address)
    everybody.until(lambda: all(reader.subscribed for reader in (*online, *offline)))
    for reader in offline:
        reader.leave()

    for turn in range(rounds):
        for publisher in publishers:
            publisher.more(wanted[100 * turn : 100 * turn + 100])
        enough = sum(len(publisher.safe) for publisher in publishers) + chance.randrange(50, 350)
        everybody.until(lambda enough=enough: sum(len(p.safe) for p in publishers) >= enough)  # type: ignore[misc]
        killed = chance.randrange(3)
        nodes[killed].kill()
        moving = [peer for peer in (*publishers, *online) if where[peer] == killed]
        for peer in moving:
            chance.choice([Pump(peer).drain, Pump(peer).drop])()
            where[peer] = (killed + chance.choice([1, 2])) % 3
        # Each waits a second for the owner that is dead.
        at_once(partial(peer.connect, nodes[where[peer]].address) for peer in moving)
        back = offline[turn % 2]
        if turn > 0:
            back.connect(nodes[(killed + 1) % 3].address)
            where[back] = (killed + 1) % 3
        everybody.until(lambda: all(publisher.done for publisher in publishers))
        nodes[killed].start()
        if turn > 0:
            back.leave()
            back.lost()
    for publisher in publishers:
        assert publisher.safe == wanted
    for number, reader in enumerate(offline):
        reader.connect(nodes[number].address)

    def complete(reader: Subscriber) -> bool:
        mine = [p for p in publishers if reader in online or p.topic.endswith(str(offline.index(reader)))]
        return all(reader.has(p.topic, wanted) for p in mine)

    everybody.until(lambda: all(map(complete, (*online, *offline))))
    for reader in (*online, *offline):
        for publisher in publishers:
            came = reader.payloads(publisher.topic)
            if came and publisher.qos == 1:
                came = list(dict.fromkeys(came))
            assert came in ([], wanted)


def test_the_owner_and_then_its_reaper_are_killed(cluster: Callable[..., Cluster]) -> None:
    """A node with 300 wills is killed, and then another that may be publishing them: the third publishes the rest. Each
    comes once."""
    nodes = cluster(3)
    watcher = nodes[2].wire().connect("watcher", clean=False).subscribe(("wills/#", 2))
    dying = [nodes[0].wire() for _ in range(300)]
    for number, client in enumerate(dying):
        client.send(wire.connect(f"dies{number}", will=(f"wills/{number}", b"", 2, False)))
    for client in dying:
        client.expect("20 02 00 00")
    nodes[0].kill()
    first = watcher.take().topic
    nodes[1].kill()
    came = [first] + [watcher.take().topic for _ in range(299)]
    assert sorted(came) == sorted(f"wills/{number}" for number in range(300))
    nodes.until_nothing_is_due()
    watcher.expect_silence()
    for client in dying:
        client.close()


def retain(redis: RedisServer, count: int, size: int) -> None:
    """Put retained messages into Redis as nodes do, but faster."""
    pipeline = Pipeline("mc:")
    pipeline.open(connections(redis.url, PATIENCE), PATIENCE)
    try:
        for start in range(0, count, 5000):
            plan = Plan(pipeline.keys, QueueLimits())
            for number in range(start, min(start + 5000, count)):
                topic = f"many/{number % 100}/{number}"
                plan.retain(topic, encode_message(Message(topic, b"%d" % number + b"." * size, 1, True)), "", "", "")
            plan.carry_out(pipeline, "test", start + 1)
    finally:
        pipeline.close()


def test_a_node_that_starts_with_many_retained_messages(cluster: Callable[..., Cluster]) -> None:
    """100,000 retained messages are in Redis: a node that starts serves its first client within seconds, and answers
    wildcard subscriptions from its memory, not from Redis."""
    nodes = cluster(1)
    nodes[0].stop()
    retain(nodes.redis, 100_000, 100)
    began = time.monotonic()
    nodes[0].start()
    reader = nodes[0].wire().connect("reader").subscribe(("many/7/+", 0))
    found = {reader.expect_published().topic for _ in range(1000)}
    assert time.monotonic() - began < PATIENCE
    assert found == {f"many/7/{number}" for number in range(7, 100_000, 100)}

    def sent() -> int:
        with nodes.redis.client() as client:
            return int(client.info("stats")["total_net_output_bytes"])

    before = sent()
    reader.subscribe(("many/#", 0))
    for _ in range(100_000):
        assert reader.expect_published().retain
    reader.expect_silence()
    assert sent() - before < 1_000_000  # the messages have 12 MB
    reader.disconnect()


def test_a_node_far_behind_with_retained_messages(cluster: Callable[..., Cluster]) -> None:
    """A node was frozen, and pub/sub cut, while one topic's retained message changed 5,000 times. Whoever subscribes
    there, once it is awake, gets the last."""
    nodes = cluster(2)
    sleeper = nodes.id(1)
    reader = nodes[1].wire().connect("reader")
    with nodes[0].wire().connect("writer") as writer, nodes[0].wire().connect("elsewhere") as elsewhere:
        writer.publish("one", b"first", 1, retain=True)
        reader.subscribe(("one", 1))
        assert reader.take().payload == b"first"
        reader.send(wire.unsubscribe(2, "one"))
        reader.expect("B0 02 00 02")
        elsewhere.subscribe(("gone/#", 1))
        nodes[1].freeze()
        with nodes.redis.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        for start in range(0, 5000, 100):
            payloads = numbers(start, start + 100)
            writer.send(*(wire.publish("one", payload, 1, n, retain=True) for n, payload in enumerate(payloads, 1)))
            writer.expect(*(wire.puback(n) for n in range(1, 101)))
        reader.send(wire.subscribe(3, ("one", 1)))
        nodes[1].thaw()
        until(lambda: nodes.buried(sleeper) or nodes.acts(sleeper))
        if nodes.buried(sleeper):  # the publisher has taken longer than a node may be silent
            reader.expect_closed()
            reader = come_back(nodes[1], "reader", present=False)
            reader.send(wire.subscribe(3, ("one", 1)))
        reader.expect("90 03 00 03 01")
        assert reader.take().payload == b"4999"
    reader.close()


def publish_until_taken(node: Node, topic: str, payload: bytes) -> None:
    """What a publisher does: one that is disconnected without an acknowledgement comes again."""
    end = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < end
        client = node.wire()
        client.send(wire.connect("publisher"))
        try:
            if client.packet() == bytes.fromhex("20 02 00 00"):
                client.publish(topic, payload, 1)
                client.close()
                return
        except wire.ClosedByBroker:
            pass


def test_redis_is_emptied(cluster: Callable[..., Cluster]) -> None:
    """FLUSHALL under two nodes with clients: clean sessions go on where they are. A client with a durable session is
    disconnected, since that is gone, and told so when it comes back; what is acknowledged from then on reaches both."""
    nodes = cluster(2)
    durable = nodes[0].wire().connect("durable", clean=False).subscribe(("t", 1))
    clean = nodes[1].wire().connect("clean").subscribe(("t", 1))
    with nodes.redis.client() as client:
        client.flushall()
    durable.expect_closed()
    durable = come_back(nodes[0], "durable", present=False).subscribe(("t", 1))
    publish_until_taken(nodes[1], "t", b"afterwards")
    for reader in (durable, clean):
        assert reader.take().payload == b"afterwards"
        reader.close()


def test_a_node_is_stopped_while_redis_is_away(cluster: Callable[..., Cluster]) -> None:
    """SIGTERM ends it all the same, after some seconds. To the others it is as if it had been killed: its sessions go
    on."""
    nodes = cluster(2)
    kept = nodes[0].wire().connect("kept", clean=False).subscribe(("kept", 1))
    nodes.redis.stop()
    nodes[0].stop()
    kept.expect_closed()
    nodes.redis.start()
    with come_back(nodes[1], "kept") as kept:
        kept.publish("kept", b"afterwards", 1)
        assert kept.take().payload == b"afterwards"


def test_a_node_that_is_stopped_leaves_at_once(cluster: Callable[..., Cluster]) -> None:
    """SIGTERM: the others need not wait for the lease or the death of a node that has left, and its sessions go on."""
    nodes = cluster(2)
    kept = nodes[0].wire().connect("kept", clean=False).subscribe(("kept", 1))
    nodes[0].stop()
    kept.expect_closed()
    assert not any(member.startswith("n0-") for member in nodes.members())
    with nodes[1].wire().connect("writer") as writer:
        writer.publish("kept", b"meanwhile", 1)
    with nodes[1].wire().connect("kept", clean=False, present=True) as kept:
        assert kept.take().payload == b"meanwhile"
    nodes.start()
    until(lambda: len(nodes.members()) == 2)
