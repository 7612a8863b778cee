"""A subscriber's queue in the store, and the word that rings for it: lost, doubled, late, or never sent.

The scenarios 1 to 4, 9 and 10 of the table in this package.
"""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel
from mqttcluster.storage.shared import Forward, Take
from tests.cluster.scenarios.stage import FAST, Node, Stage


def asleep(node: Node, client_id: str, topic_filter: str) -> None:
    """A subscriber whose session goes on without it."""
    node.connect(client_id, clean=False).subscribe(topic_filter).send(Disconnect()).until_closed()


def test_node_dies_before_it_hears_that_the_message_is_stored(stage: Stage) -> None:
    """No PUBACK has come: the publisher repeats at another node, and the subscriber that was offline has the message,
    twice if need be, not never."""
    a, b = stage.start("a", "b")
    asleep(a, "reader", "t")
    writer = a.connect("writer")
    answer = a.store.keep_answer("publish")
    writer.send(Publish("t", b"1", 1, packet_id=1))
    stage.until(lambda: answer.reached)
    a.die()
    assert not writer.arrived()
    reader = b.connect("reader", clean=False, present=True)
    assert reader.take().payload == b"1"
    with_dup = Publish("t", b"1", 1, dup=True, packet_id=1)
    writer = b.connect("writer")
    writer.send(with_dup)
    writer.expect(Puback(1))
    writer.publish("t", b"end")
    assert reader.take_until(b"end") == [b"1"]


def test_node_dies_before_it_rings(stage: Stage) -> None:
    """The message is stored, nobody told the subscriber's node, and nothing more is published: it comes when the
    publisher's node is found dead."""
    a, b = stage.start("a", "b", timing=FAST)
    reader = b.connect("reader", clean=False).subscribe("t")
    writer = a.connect("writer")
    a.lanes.fate = lambda envelope: None
    writer.publish("t", b"1")
    a.die()
    assert reader.silent()
    assert reader.take().payload == b"1"
    assert reader.silent()


def test_doorbell_lost_and_the_next_one_doubled(stage: Stage) -> None:
    """Word of the first message is lost, that of the others comes twice: the subscriber gets all, once, in order."""
    a, b = stage.start("a", "b")
    reader = b.connect("reader", clean=False).subscribe("t")
    writer = a.connect("writer")
    a.lanes.fate = lambda envelope: 0
    writer.publish("t", b"5")
    a.lanes.fate = lambda envelope: 2
    writer.publish("t", b"6")
    assert reader.take().payload == b"5"
    assert reader.take().payload == b"6"
    writer.publish("t", b"7")
    assert reader.take().payload == b"7"
    writer.publish("t", b"end")
    assert reader.take_until(b"end") == []


@pytest.mark.parametrize("old_owner", ["hears that it is", "does not hear of it"])
def test_session_moves_while_the_doorbell_goes_to_its_old_node(stage: Stage, old_owner: str) -> None:
    """The new node has the message from the queue, once. What the old connection was sent, if it was still there,
    cannot be acknowledged on it."""
    a, b, c = stage.start("a", "b", "c")
    old = b.connect("reader", clean=False).subscribe("t")
    writer = a.connect("writer")
    a.lanes.fate = lambda envelope: None if isinstance(envelope, Forward) else 1
    writer.send(Publish("t", b"1", 1, packet_id=1))
    writer.expect(Puback(1))
    if old_owner == "does not hear of it":
        c.lanes.fate = lambda envelope: None if isinstance(envelope, Take) else 1
    new = c.connect("reader", clean=False, present=True)
    a.lanes.release()
    if old_owner == "does not hear of it":
        old.send(Puback(old.receive().packet_id))
    assert old.until_closed() == []
    first = new.take()
    assert (first.payload, first.packet_id) == (b"1", 1)
    writer.publish("t", b"end")
    assert new.take_until(b"end") == []


@pytest.mark.parametrize("kept", ["request", "answer"])
def test_owner_dies_while_pubrec_is_on_its_way_to_the_store(stage: Stage, kept: str) -> None:
    """PUBREL was not sent, for nobody knows whether the store has it. If it has not, the next node sends the message
    again under the same packet id, marked as a repetition; if it has, PUBREL. Either way the application sees one."""
    a, b = stage.start("a", "b", timing=FAST)
    reader = a.connect("reader", clean=False).subscribe("t")
    writer = b.connect("writer")
    writer.publish("t", b"1", 2)
    first = reader.receive()
    gate = a.store.keep_request("acknowledge") if kept == "request" else a.store.keep_answer("acknowledge")
    reader.send(Pubrec(first.packet_id))
    stage.until(lambda: gate.reached)
    assert reader.silent(), "PUBREL has left too early"
    a.die()
    again = b.connect("reader", clean=False, present=True)
    if kept == "request":
        again.expect(Publish("t", b"1", 2, dup=True, packet_id=first.packet_id))
        again.send(Pubrec(first.packet_id))
    again.expect(Pubrel(first.packet_id))
    again.send(Pubcomp(first.packet_id))
    writer.publish("t", b"end", 2)
    assert again.take_until(b"end") == []


def test_owner_dies_before_pubcomp_is_stored(stage: Stage) -> None:
    """PUBREL has left and PUBCOMP has come: the next node sends PUBREL once more, and the message not at all."""
    a, b = stage.start("a", "b", timing=FAST)
    reader = a.connect("reader", clean=False).subscribe("t")
    writer = b.connect("writer")
    writer.publish("t", b"1", 2)
    first = reader.receive()
    reader.send(Pubrec(first.packet_id))
    reader.expect(Pubrel(first.packet_id))
    gate = a.store.keep_request("acknowledge")
    reader.send(Pubcomp(first.packet_id))
    stage.until(lambda: gate.reached)
    a.die()
    again = b.connect("reader", clean=False, present=True)
    again.expect(Pubrel(first.packet_id))
    again.send(Pubcomp(first.packet_id))
    writer.publish("t", b"end", 2)
    assert again.take_until(b"end") == []

