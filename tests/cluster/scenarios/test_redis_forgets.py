"""Redis is started again without its last second.

The scenario 19 of the table in this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttcluster.mqtt.packets import Connack, Connect, Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.storage.shared import Take
from tests.cluster.redis_server import RedisServer
from tests.cluster.scenarios.stage import Node, Peer, Stage


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One that writes everything down at once, so that a test can say what is lost."""
    with RedisServer(tmp_path) as server:
        yield server


def all_is_acknowledged(stage: Stage) -> None:
    with stage.redis.client() as client:
        stage.until(lambda: not any(client.xlen(key) for key in client.scan_iter("mc:*:q:*")))


def come_back(stage: Stage, node: Node, client_id: str, version: int = 4) -> tuple[Peer, bool]:
    """Connect, as soon as the node lets in anybody. Also returns whether the session was there."""
    while True:
        peer = node.peer(version)
        peer.send(Connect(client_id, version, clean_start=False))
        answer = peer.packet()
        assert isinstance(answer, Connack)
        if answer.reason is Reason.SUCCESS:
            return peer, answer.session_present
        assert answer.reason is Reason.SERVER_UNAVAILABLE
        peer.until_closed()


def test_deliveries_go_on_when_redis_has_forgotten_some(stage: Stage) -> None:
    """Deliveries and exchanges that Redis has forgotten were half done. Their acknowledgements are answered, and what
    is published afterwards is new to everybody: it comes, once, under packet ids that are not in use."""
    a, b = stage.start("a", "b")
    reader = b.connect("reader", clean=False).subscribe("t")
    connected = b.connect("connected").subscribe("t")
    writer = a.connect("writer", clean=False)
    writer.publish("t", b"before", 2)
    assert reader.take().payload == b"before"
    all_is_acknowledged(stage)
    snapshot = stage.redis.snapshot()
    for number in range(4):
        writer.publish("t", b"%d" % number, 2)
    writer.send(Publish("t", b"open", 2, packet_id=5))
    writer.expect(Pubrec(5))
    came = [reader.receive() for _ in range(5)]
    assert [message.payload for message in came] == [b"0", b"1", b"2", b"3", b"open"]
    reader.send(Pubrec(came[1].packet_id))
    reader.expect(Pubrel(came[1].packet_id))
    reader.acknowledge(came[0])
    stage.redis.go_back_to(snapshot)

    writer.send(Pubrel(5))
    writer.expect(Pubcomp(5))
    writer.send(Publish("t", b"after", 2, packet_id=5))
    writer.expect(Pubrec(5))
    writer.send(Pubrel(5))
    writer.expect(Pubcomp(5))
    in_use = {message.packet_id for message in came[1:]}
    for number in range(4):
        writer.publish("t", b"after %d" % number, 1)
    reader.send(Pubcomp(came[1].packet_id))
    for message in came[2:]:
        reader.send(Pubrec(message.packet_id))
    finished = {came[0].packet_id, came[1].packet_id}
    new: list[bytes] = []
    while len(new) < 5:
        packet = reader.packet()
        if isinstance(packet, Pubrel):
            finished.add(packet.packet_id)
            reader.send(Pubcomp(packet.packet_id))
        else:
            assert isinstance(packet, Publish)
            assert packet.packet_id not in in_use - finished
            assert not packet.dup
            new.append(packet.payload)
            if packet.qos == 1:
                reader.send(Puback(packet.packet_id))
            else:
                reader.send(Pubrec(packet.packet_id))
    assert new == [b"after", *(b"after %d" % number for number in range(4))]
    assert connected.take_until(b"after 3")[-4:] == new[:4]


def test_session_is_taken_over_while_redis_is_started_again(stage: Stage) -> None:
    """The old node was stopped, and finds out by what it reads anew from Redis: its client is told that another
    connection has the session [G3]."""
    a, b = stage.start("a", "b")
    old = a.connect("kept", clean=False)
    a.stop()
    b.lanes.fate = lambda envelope: 0 if isinstance(envelope, Take) else 1
    new = b.connect("kept", clean=False, present=True)
    stage.redis.stop()
    stage.redis.start()
    a.resume()
    assert old.until_closed() == []
    assert old.goodbye is not None
    assert old.goodbye.reason is Reason.SESSION_TAKEN_OVER
    stage.until(b.lanes.valid)
    assert new.silent()


@pytest.mark.parametrize("was", ["not there", "offline", "at the other node", "at the same node"])
def test_session_goes_on_when_redis_has_forgotten_its_connection(stage: Stage, was: str) -> None:
    """Redis has forgotten that a client is connected: it knows an older state of its session, or none. The client,
    which only listens, gets what is published afterwards: on its connection, or on the next, if this one is closed."""
    a, b = stage.start("a", "b")
    old = None
    if was != "not there":
        old = (a if was == "at the other node" else b).connect("reader", clean=False).subscribe("t")
        if was == "offline":
            old.send(Disconnect()).until_closed()
    writer = a.connect("writer", clean=False)
    writer.publish("t", b"before")
    snapshot = stage.redis.snapshot()
    reader = b.connect("reader", clean=False, present=was != "not there")
    if was == "not there":
        reader.subscribe("t")
    writer.publish("t", b"lost")
    while reader.take().payload != b"lost":
        pass
    all_is_acknowledged(stage)
    stage.redis.go_back_to(snapshot)

    writer.publish("t", b"after")
    while True:
        if reader.is_over():
            reader, present = come_back(stage, b, "reader")
            if not present:
                assert was == "not there"
                reader.subscribe("t")
                writer.publish("t", b"after")
        elif reader.take().payload == b"after":
            break
    writer.publish("t", b"end")
    while reader.take().payload != b"end":
        pass


@pytest.mark.parametrize("forgotten", ["connection", "subscription", "nothing"])
def test_a_clean_member_of_a_group_that_redis_has_forgotten(stage: Stage, forgotten: str) -> None:
    """Its queue is in Redis, or not there any more: it goes on, or its connection is closed and it can join anew."""
    a, b = stage.start("a", "b")
    writer = a.connect("writer")
    snapshots = {"connection": stage.redis.snapshot()}
    member = b.connect("member", version=5)
    snapshots["subscription"] = stage.redis.snapshot()
    member.subscribe("$share/g/t", 1)
    snapshots["nothing"] = stage.redis.snapshot()
    writer.publish("t", b"lost")
    assert member.take().payload == b"lost"
    all_is_acknowledged(stage)
    stage.redis.go_back_to(snapshots[forgotten])

    writer.publish("t", b"after")
    if forgotten != "nothing":
        assert member.is_over()
        member, present = come_back(stage, b, "member", version=5)
        assert not present
        member.subscribe("$share/g/t", 1)
        writer.publish("t", b"after")
    assert member.take().payload == b"after"
