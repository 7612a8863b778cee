"""A QoS 2 publisher that moves between nodes in the middle of its exchange: each receiver has the message exactly once.

The scenarios 5 to 8 of the table in this package. The receivers are of each kind: two durable sessions in different
partitions of the store, one of them offline, and connections without a queue at the publisher's old node, at its new
one, and at a third.
"""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Disconnect, Pubcomp, Publish, Pubrec, Pubrel
from mqttcluster.storage.interfaces import Publication
from mqttcluster.storage.shared import Forward
from tests.cluster.scenarios.stage import FAST, Node, Peer, Stage


class Receivers:
    """`offline` and `online` are durable, the others clean: one at each node."""

    def __init__(self, *nodes: Node) -> None:
        last = nodes[-1]
        last.connect("offline", clean=False).subscribe("t").send(Disconnect()).until_closed()
        self._last = last
        self.online = last.connect("online", clean=False).subscribe("t")
        self.clean = [node.connect(f"clean-{node.name}").subscribe("t") for node in nodes]

    def check(self, *wanted: bytes) -> None:
        """These are all there are, each once, in any order."""
        self._last.stage.end("t")
        offline = self._last.connect("offline", clean=False, present=True)
        for peer in [self.online, offline, *self.clean]:
            if not peer.closed:
                assert sorted(peer.take_rest()) == sorted(wanted), peer


def start(writer: Peer, payload: bytes, packet_id: int, dup: bool = False) -> None:
    writer.send(Publish("t", payload, 2, dup=dup, packet_id=packet_id))


def finish(writer: Peer, packet_id: int) -> None:
    writer.expect(Pubrec(packet_id))
    writer.send(Pubrel(packet_id))
    writer.expect(Pubcomp(packet_id))


def publish_half(stage: Stage, node: Node, publication: Publication) -> None:
    """Redis gets the part of it that is for one of the receivers, as if the connection had broken behind that."""
    half = Publication(publication.message, list(publication.targets)[:1], exchange=publication.exchange)
    stage.world.wait(node.store.inner.publish(half))


def test_node_dies_with_half_of_the_receivers_served(stage: Stage) -> None:
    """The publisher repeats at another node: who has the message gets no second one, who has not gets it."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    receivers = Receivers(a, b, c)
    writer = a.connect("writer", clean=False)
    gate = a.store.keep_request("publish")
    start(writer, b"7", 7)
    stage.until(lambda: gate.reached)
    publish_half(stage, a, gate.arguments[0])
    a.die()
    writer = b.connect("writer", clean=False, present=True)
    start(writer, b"7", 7, dup=True)
    finish(writer, 7)
    receivers.check(b"7")


@pytest.mark.parametrize("links", ["sent", "held"])
def test_node_dies_with_all_receivers_served(stage: Stage, links: str) -> None:
    """The same when the store had all of it, and the connections at other nodes had theirs, or had not."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    receivers = Receivers(a, b, c)
    writer = a.connect("writer", clean=False)
    if links == "held":
        a.lanes.fate = lambda envelope: None
        start(writer, b"7", 7)
        stage.until(lambda: a.lanes.held)
    else:
        start(writer, b"7", 7)
        stage.until(lambda: len(receivers.clean[1].peek()) == 1)
    a.die()
    writer = b.connect("writer", clean=False, present=True)
    start(writer, b"7", 7, dup=True)
    finish(writer, 7)
    receivers.check(b"7")


@pytest.mark.parametrize("had", ["asked nothing", "half", "the answer", "links held"])
def test_node_is_stopped_and_wakes_when_all_is_over(stage: Stage, had: str) -> None:
    """The publisher's old node goes on where it was stopped, after PUBCOMP at the new one. What it still does comes
    too late: nobody gets the message twice, and its receivers, who got it from the new node, not either."""
    a, b, c = stage.start("a", "b", "c")
    receivers = Receivers(a, b, c)
    old = a.connect("writer", clean=False)
    gate = a.store.keep_answer("publish") if had == "the answer" else a.store.keep_request("publish")
    if had == "links held":
        gate.open()
        a.lanes.fate = lambda envelope: None if isinstance(envelope, Forward) else 1
    start(old, b"7", 7)
    stage.until(lambda: a.lanes.held if had == "links held" else gate.reached)
    if had == "half":
        publish_half(stage, a, gate.arguments[0])
    a.stop()
    writer = b.connect("writer", clean=False, present=True)
    start(writer, b"7", 7, dup=True)
    finish(writer, 7)
    start(writer, b"8", 7)
    finish(writer, 7)
    a.resume()
    gate.open()
    a.lanes.release()
    assert Pubrec(7) not in old.until_closed()
    receivers.check(b"7", b"8")


@pytest.mark.parametrize("reached", ["half", "all"])
def test_something_new_is_sent_before_the_old_one_is_repeated(stage: Stage, reached: str) -> None:
    """After the move the publisher sends a new message first, then repeats the old one: both arrive, once."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    receivers = Receivers(a, b, c)
    writer = a.connect("writer", clean=False)
    gate = a.store.keep_request("publish") if reached == "half" else a.store.keep_answer("publish")
    start(writer, b"7", 7)
    stage.until(lambda: gate.reached)
    if reached == "half":
        publish_half(stage, a, gate.arguments[0])
    a.die()
    writer = b.connect("writer", clean=False, present=True)
    start(writer, b"8", 8)
    writer.expect(Pubrec(8))
    start(writer, b"7", 7, dup=True)
    writer.expect(Pubrec(7))
    writer.send(Pubrel(8), Pubrel(7))
    writer.expect(Pubcomp(8), Pubcomp(7))
    receivers.check(b"7", b"8")


def test_release_comes_late_and_the_packet_id_is_in_use_again(stage: Stage) -> None:
    """PUBREL is under way at the old node while the publisher moves, finishes, and uses the packet id for a new
    message. The late release does not free it: the new message, repeated at a third node, still arrives once."""
    a, b, c = stage.start("a", "b", "c")
    receivers = Receivers(a, b, c)
    old = a.connect("writer", clean=False)
    start(old, b"7", 7)
    old.expect(Pubrec(7))
    gate = a.store.keep_request("release")
    old.send(Pubrel(7))
    stage.until(lambda: gate.reached)
    a.stop()
    writer = b.connect("writer", clean=False, present=True)
    writer.send(Pubrel(7))
    writer.expect(Pubcomp(7))
    start(writer, b"new 7", 7)
    writer.expect(Pubrec(7))
    a.resume()
    gate.open()
    assert Pubcomp(7) not in old.until_closed()
    writer.drop()
    writer = c.connect("writer", clean=False, present=True)
    start(writer, b"new 7", 7, dup=True)
    finish(writer, 7)
    receivers.check(b"7", b"new 7")
