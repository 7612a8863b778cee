"""Subscribing at one node while another joins, is stopped, or is about to retain something.

The scenarios 13 to 16 of the table in this package.
"""

from __future__ import annotations

from itertools import count

import pytest

from mqttcluster.mqtt.packets import Pingreq, Pingresp, Puback, Publish, Pubrec, Suback, Subscribe, Subscription
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.storage.shared import Envelope, RetainedHint
from tests.cluster.scenarios.stage import PATIENT, Stage
from tests.storage.nodes import reads


def test_subscribe_while_another_node_joins(stage: Stage) -> None:
    """A node joins and is interrupted between two of its steps, at each of them in turn. Meanwhile clients of another
    node subscribe. Once they have SUBACK and the new node serves clients, what is published there reaches them."""
    [b] = stage.start("b")
    clean = b.connect("clean")
    kept = b.connect("kept", clean=False)
    interrupted = 0
    with stage.redis.client() as client:

        def written() -> int:
            return int(client.hget("mc:{c}:cfg", "rn") or 0)

        for steps in count():
            node = stage.node("a", PATIENT)
            node.reactor.left = steps
            live: list[None] = []
            node.broker.start().addCallback(live.append)
            stage.until(lambda live=live, node=node: live or node.reactor.stopped)  # type: ignore[misc]
            if live:
                break
            interrupted += 1
            before = written()
            for reader in (clean, kept):
                reader.send(Subscribe(1, [(f"{steps}", Subscription(1))]))
            stage.until(lambda before=before: written() > before)  # type: ignore[misc]
            node.resume()
            for reader in (clean, kept):
                reader.expect(Suback(1, [Reason(1)]))
            stage.until(lambda live=live: live)  # type: ignore[misc]
            writer = node.connect("writer")
            writer.publish(f"{steps}", b"%d" % steps)
            for reader in (clean, kept):
                assert reader.take().payload == b"%d" % steps
            stage.leave(node)
    assert interrupted > 10


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
def test_subscribe_while_another_node_is_stopped(stage: Stage, clean: bool) -> None:
    """SUBACK comes when the stopped node may not act any more, and not before. Going on, with publishes in a client's
    socket, it learns of the subscription first: they are delivered."""
    a, b = stage.start("a", "b", timing=PATIENT)
    writer = a.connect("writer")
    reader = b.connect("reader", clean=clean)
    a.stop()
    reader.subscribe("t")
    assert stage.lease_is_over(a)
    for qos in (0, 1, 2):
        writer.send(Publish("t", b"%d" % qos, qos, packet_id=qos))
    a.resume()
    assert sorted(reader.take().payload for _ in range(3)) == [b"0", b"1", b"2"]
    writer.expect(Puback(1), Pubrec(2))


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
@pytest.mark.parametrize("company", [False, True], ids=["alone", "not the first"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_subscribe_while_a_retained_publish_is_on_its_way(stage: Stage, qos: int, company: bool, clean: bool) -> None:
    """A retained publish has looked up its receivers and is not stored yet; a client of another node subscribes and
    gets the old value. It gets the new one, too, whether or not that node had a subscriber for it before; and that
    one gets it once."""
    a, b = stage.start("a", "b")
    writer = a.connect("writer")
    writer.publish("t", b"old", 1, retain=True)
    neighbour = b.connect("neighbour").subscribe("+") if company else None
    gate = a.store.keep_request("publish")
    writer.send(Publish("t", b"new", qos, retain=True, packet_id=qos and 2))
    stage.until(lambda: gate.reached)
    reader = b.connect("reader", clean=clean)
    reader.subscribe("t")
    first = reader.take()
    assert (first.payload, first.retain) == (b"old", True)
    gate.open()
    if qos:
        writer.expect(Puback(2) if qos == 1 else Pubrec(2))
    stage.until(lambda: [message.payload for message in a.broker.retained.match("t")] == [b"new"])
    writer.send(Publish("t", b"end", qos, packet_id=qos and 3))
    assert reader.take_until(b"end") == [b"new"]
    if neighbour is not None:
        assert neighbour.take().payload == b"old"
        assert neighbour.take_until(b"end") == [b"new"]


def test_qos_0_behind_a_retained_publish_that_is_on_its_way(stage: Stage) -> None:
    """QoS 0 of one publisher stays in order at other nodes, for who subscribes meanwhile, too."""
    a, b = stage.start("a", "b")
    early, writer = b.connect("early").subscribe("t"), a.connect("writer")
    gate = a.store.keep_request("publish")
    writer.send(*(Publish("t", b"%d" % number, retain=number % 3 == 0) for number in range(7)))
    stage.until(lambda: gate.reached)
    late = b.connect("late").subscribe("t")
    gate.open()
    writer.send(Publish("t", b"end"))
    for reader in (early, late):
        assert reader.take_until(b"end") == [b"%d" % number for number in range(7)]


@pytest.mark.parametrize("topic_filter", ["#", "room/+", "exact"])
def test_subscribe_when_word_of_a_retained_message_was_lost(stage: Stage, topic_filter: str) -> None:
    """Retained messages are set, changed and removed at one node and nobody hears of it. Whoever subscribes at another
    right after the acknowledgement sees what is there."""

    def unheard(envelope: Envelope) -> int:
        return 0 if isinstance(envelope, RetainedHint) else 1

    a, b = stage.start("a", "b")
    a.lanes.fate = unheard
    writer = a.connect("writer")
    reader = b.connect("reader")
    there: dict[str, bytes] = {}
    for turn in range(40):
        topic = f"room/{turn % 7}"
        payload = b"" if turn % 3 == 2 else b"%d" % turn
        writer.publish(topic, payload, 1 + turn % 2, retain=True)
        there.pop(topic, None)
        if payload:
            there[topic] = payload
        name = topic if topic_filter == "exact" else topic_filter
        wanted = there if topic_filter != "exact" else {topic: payload} if payload else {}
        reader.send(Subscribe(1, [(name, Subscription(0))]))
        packets = [*reader.until(Suback(1, [Reason(0)])), *reader.send(Pingreq()).until(Pingresp())]
        retained = [packet for packet in packets if isinstance(packet, Publish) and packet.retain]
        assert len(retained) == len(wanted)
        assert {message.topic: message.payload for message in retained} == wanted
        reader.unsubscribe(name)


@pytest.mark.parametrize("topic_filter", ["t", "$share/g/t"])
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
def test_unsubscribe_while_another_node_does_not_hear_of_it(stage: Stage, clean: bool, topic_filter: str) -> None:
    """After UNSUBACK nothing that is published later comes, from no node [MQTT-3.10.4-2]. Where it would, for it goes
    into a queue that all nodes write to, UNSUBACK waits until the node that reads no routes may not act any more."""
    a, b = stage.start("a", "b", timing=PATIENT)
    reader = b.connect("reader", clean=clean).subscribe("end").subscribe(topic_filter)
    writer = a.connect("writer")
    a.reactor.hold = reads
    reader.unsubscribe(topic_filter)
    if not clean or topic_filter != "t":
        assert not a.lanes.valid()
        a.resume()
    writer.publish("t", b"no")
    a.resume()
    writer.publish("end", b"end")
    assert reader.take_until(b"end") == []
