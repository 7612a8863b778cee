"""Groups with members at several nodes: what the nodes tell each other of who is there, and who gets a message when a
node dies in the middle of it."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Disconnect, Pubcomp, Publish, Pubrec, Pubrel
from mqttcluster.storage.shared import Forward
from tests.cluster.scenarios.stage import FAST, Node, Peer, Stage

SHARE = "$share/g/t"


def member(node: Node, client_id: str, qos: int = 2, clean: bool = True, present: bool = False) -> Peer:
    """A client with a shared subscription, and one of its own for `came`."""
    peer = node.connect(client_id, clean=clean, present=present, version=5)
    return peer if present else peer.subscribe("end", 2).subscribe(SHARE, qos)


def came(stage: Stage, *members: Peer, count: int = 0) -> list[list[bytes]]:
    """What the members get and acknowledge: so many at least, and what else comes before a message that each of the
    nodes sends, which does not come by way of the group and may be faster."""
    stage.until(lambda: sum(isinstance(packet, Publish) for peer in members for packet in peer.peek()) >= count)
    stage.end("end")
    return [peer.take_rest() for peer in members]


def publish(writer: Peer, payload: bytes, dup: bool = False) -> None:
    """A whole exchange with QoS 2."""
    writer.send(Publish("t", payload, 2, dup=dup, packet_id=7))
    writer.expect(Pubrec(7))
    writer.send(Pubrel(7))
    writer.expect(Pubcomp(7))


@pytest.mark.parametrize("clean", [False, True], ids=["durable", "clean"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_members_everywhere_take_turns(stage: Stage, clean: bool, qos: int) -> None:
    """Subscribed at one node means to be in the group at all of them, as soon as SUBACK is there [G5]; and whoever has
    left gets nothing any more."""
    a, b, c = stage.start("a", "b", "c")
    one, two = member(a, "1", clean=clean), member(b, "2", clean=clean)
    writer = c.connect("writer")
    for number in range(4):
        writer.publish("t", b"%d" % number, qos)
    assert sorted(sorted(part) for part in came(stage, one, two, count=4)) == [[b"0", b"2"], [b"1", b"3"]]
    two.unsubscribe(SHARE)
    for number in range(4):
        writer.publish("t", b"%d" % number, qos)
    assert [sorted(part) for part in came(stage, one, two, count=4)] == [[b"0", b"1", b"2", b"3"], []]


def test_who_is_connected_comes_before_who_is_not(stage: Stage) -> None:
    """Wherever he is connected; when nobody is, those who are away have the messages in their sessions."""
    a, b = stage.start("a", "b")
    away = member(a, "away", clean=False)
    away.send(Disconnect()).until_closed()
    there = member(a, "there")
    writer = b.connect("writer")
    for number in range(4):
        writer.publish("t", b"%d" % number, 1)
    assert came(stage, there, count=4) == [[b"0", b"1", b"2", b"3"]]
    there.send(Disconnect()).until_closed()
    a.connect("barrier").subscribe("barrier")
    for number in range(4):
        writer.publish("t", b"%d" % number, 1)
    writer.publish("t", b"lost", 0)
    back = member(b, "away", clean=False, present=True)
    assert [back.take().payload for _ in range(6)][2:] == [b"0", b"1", b"2", b"3"]  # behind what `came` has sent
    assert back.silent()


def test_a_node_that_starts_later_knows_the_group(stage: Stage) -> None:
    """Clean members included, which no session is kept of."""
    a, b = stage.start("a", "b")
    one, two = member(a, "1"), member(b, "2", clean=False)
    [c] = stage.start("c")
    writer = c.connect("writer")
    for number in range(4):
        writer.publish("t", b"%d" % number, 1)
    assert [len(part) for part in came(stage, one, two, count=4)] == [2, 2]


@pytest.mark.parametrize("kept", ["request", "answer"])
@pytest.mark.parametrize("clean", [False, True], ids=["durable", "clean"])
def test_the_publishers_node_dies(stage: Stage, kept: str, clean: bool) -> None:
    """Before or behind the moment when the store has it. The publisher repeats at another node, whose turn it is to
    choose the other member: exactly one gets the message, once [G2]."""
    a, b = stage.start("a", "b")
    one, two = member(b, "1", clean=clean), member(b, "2", clean=clean)
    other = b.connect("other")
    other.publish("t", b"other", 1)  # so the turns of the two nodes differ
    writer = a.connect("writer", clean=False)
    gate = a.store.keep_request("publish") if kept == "request" else a.store.keep_answer("publish")
    writer.send(Publish("t", b"x", 2, packet_id=7))
    stage.until(lambda: gate.reached)
    a.die()
    writer = b.connect("writer", clean=False, present=True)
    publish(writer, b"x", dup=True)
    for _ in range(2):  # nobody may have rung for it; then it comes with the next message
        other.publish("t", b"other", 1)
    first, second = came(stage, one, two, count=4)
    assert sorted(first + second) == [b"other"] * 3 + [b"x"]


def test_the_chosen_one_leaves_before_he_is_told(stage: Stage) -> None:
    """The message is in a clean member's queue, the node that was to ring for it dies, and the member leaves. Somebody
    else gets it; and when the publisher repeats it nobody gets it again."""
    a, b = stage.start("a", "b")
    one = member(b, "1")
    writer = a.connect("writer", clean=False)
    gate = a.store.keep_answer("publish")
    writer.send(Publish("t", b"x", 2, packet_id=7))
    stage.until(lambda: gate.reached)
    a.lanes.fate = lambda envelope: 0
    two = member(b, "2", clean=False)
    one.send(Disconnect())
    assert not one.until_closed()
    assert two.take().payload == b"x"
    a.die()
    writer = b.connect("writer", clean=False, present=True)
    publish(writer, b"x", dup=True)
    assert came(stage, two) == [[]]


def test_a_lost_doorbell_of_a_clean_member(stage: Stage) -> None:
    """Nobody rings for it: it comes with the next message, in order."""
    a, b = stage.start("a", "b")
    one = member(b, "1")
    writer = a.connect("writer")
    a.lanes.fate = lambda envelope: 0 if isinstance(envelope, Forward) else 1
    writer.publish("t", b"1", 1)
    a.lanes.fate = lambda envelope: 1
    writer.publish("t", b"2", 1)
    assert came(stage, one, count=2) == [[b"1", b"2"]]


def test_a_slow_member_at_another_node(stage: Stage) -> None:
    """He acknowledges nothing. The publisher's node cannot see that, and gives him ever less; nothing is lost."""
    a, b = stage.start("a", "b")
    slow, quick = member(b, "slow", 1), member(b, "quick", 1)
    writer = a.connect("writer")
    taken: list[bytes] = []
    for number in range(400):
        writer.publish("t", b"%d" % number, 1)
        for message in quick.arrived():
            assert isinstance(message, Publish)
            quick.acknowledge(message)
            taken.append(message.payload)
    slow.send(Disconnect())
    stuck = [message.payload for message in slow.until_closed() if isinstance(message, Publish)]
    assert 64 <= len(stuck) < 100
    while len(taken) < 400:  # what the slow one had is the other's now
        taken.append(quick.take().payload)
    assert sorted(map(int, taken)) == list(range(400))


def test_a_clean_member_at_a_node_that_dies(stage: Stage) -> None:
    """What he has not acknowledged goes to others; his node's death is enough for that."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    lost, stays = member(a, "lost", 1), member(b, "stays", 1)
    writer = c.connect("writer")
    for number in range(6):
        writer.publish("t", b"%d" % number, 1)
    mine = [lost.receive().payload for _ in range(3)]
    a.die()
    assert sorted(stays.take().payload for _ in range(6)) == [b"%d" % number for number in range(6)]
    assert len(mine) == 3
    writer.publish("t", b"6", 1)
    assert stays.take().payload == b"6"


def test_a_member_that_moves(stage: Stage) -> None:
    """A durable member is where it connected last; what comes meanwhile waits for it. A clean one begins anew, and what
    it left comes to it by way of the group."""
    a, b = stage.start("a", "b")
    for clean in (False, True):
        old = member(a, f"moves{clean}", 1, clean)
        writer = a.connect("writer")
        writer.publish("t", b"1", 1)
        assert old.receive().payload == b"1"
        new = member(b, f"moves{clean}", 1, clean, present=not clean)
        if clean:
            old.until_closed()
            writer.publish("t", b"2", 1)
            assert new.take_until(b"2") in ([], [b"1"])
        else:
            assert new.take().payload == b"1"
            writer.publish("t", b"2", 1)
            assert new.take().payload == b"2"
            new.unsubscribe(SHARE)
        new.send(Disconnect()).until_closed()
