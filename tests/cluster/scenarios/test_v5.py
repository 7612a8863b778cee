"""What only MQTT 5.0 has, between nodes: expiry, and what travels with a delivery."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import V5, Disconnect, Properties, Puback, Publish, Suback, Subscribe, Subscription, Will
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.storage.shared import Envelope, Forward, RetainedHint
from tests.cluster.scenarios.stage import FAST, Node, Peer, Stage

EXPIRY = Prop.MESSAGE_EXPIRY_INTERVAL
FILTERS = {"room/+": 7, "#": 268_435_455}


def retain(writer: Peer, topic: str, payload: bytes, **seconds: int) -> None:
    """A retained message with QoS 1."""
    properties = {EXPIRY: seconds["expiry"]} if seconds else {}
    writer.send(Publish(topic, payload, 1, True, packet_id=9, properties=dict(properties)))
    answer = writer.packet()
    assert isinstance(answer, Puback)


def held(node: Node) -> dict[str, bytes]:
    return {message.topic: message.payload for message in node.broker.retained.match("#")}


def stored(stage: Stage) -> set[str]:
    """The topics for which Redis holds a retained message."""
    with stage.redis.client() as client:
        return {topic.decode() for number in range(16) for topic in client.hkeys(f"mc:{{r{number}}}:ret")}


@pytest.mark.parametrize("heard", [True, False], ids=["word of it arrives", "word of it is lost"])
def test_retained_message_expires_as_another_takes_its_place(stage: Stage, heard: bool) -> None:
    """Its time is over and a node is about to remove it, as a newer one is set at the other node: the newer one stays,
    at all nodes; what nobody has replaced is gone."""
    a, b = stage.start("a", "b")
    if not heard:
        for node in (a, b):
            node.lanes.fate = lambda envelope: 0 if isinstance(envelope, RetainedHint) else 1
    early, late = a.connect("early", version=V5), b.connect("late", version=V5)
    for topic in ("t", "u", "v"):
        retain(early, topic, b"old", expiry=5)
    stage.until(lambda: len(held(b)) == 3)
    dropping = a.store.keep_request("drop_retained")
    a.reactor.advance(5)
    stage.until(lambda: dropping.reached)
    retain(late, "t", b"new")
    retain(late, "u", b"newer", expiry=1000)
    dropping.open()
    left = {"t": b"new", "u": b"newer"}
    stage.until(lambda: stored(stage) == set(left))
    stage.until(lambda: held(a) == held(b) == left)
    for node in (a, b):
        reader = node.connect(f"reader-{node.name}", version=V5)
        reader.send(Subscribe(1, [("#", Subscription(1))]))
        reader.expect(Suback(1, [Reason(1)]))
        assert {message.topic: message.payload for message in (reader.take(), reader.take())} == left
        assert reader.silent()


def subscribe(reader: Peer) -> None:
    """To `FILTERS` with their identifiers, with retain as published and without retained messages."""
    for topic_filter, identifier in FILTERS.items():
        wanted = Subscription(1, retain_as_published=True, retain_handling=2, identifier=identifier)
        properties = {Prop.SUBSCRIPTION_IDENTIFIER: [identifier]}
        reader.send(Subscribe(1, [(topic_filter, wanted)], dict(properties)))
        reader.expect(Suback(1, [Reason(1)]))


def told(message: Publish) -> tuple[bytes, bool, set[object], object]:
    """What of a message its receiver has to do with."""
    properties = dict(message.properties)
    identifiers = properties.pop(Prop.SUBSCRIPTION_IDENTIFIER)
    assert isinstance(identifiers, list)
    return message.payload, message.retain, set(identifiers), before_expiry(properties)


def before_expiry(properties: Properties) -> Properties:
    """With the thousand seconds that a message has, whatever the test has used of them."""
    left = properties.get(EXPIRY)
    return {**properties, EXPIRY: 1000} if isinstance(left, int) and 900 < left <= 1000 else properties


@pytest.mark.parametrize("rung", [True, False], ids=["word of it arrives", "word of it is lost"])
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
def test_what_travels_with_a_delivery(stage: Stage, clean: bool, rung: bool) -> None:
    """A subscriber at another node sees properties, retain flag and subscription identifiers, whether the message comes
    from the envelope or from the queue; and once more, with DUP, at a third node, where its older connection is told
    why it ends."""
    a, b, c = stage.start("a", "b", "c")
    reader = b.connect("reader", clean=clean, version=V5)
    subscribe(reader)
    writer = a.connect("writer", version=V5)
    if not rung and not clean:
        kept: list[Envelope] = []

        def first_is_lost(envelope: Envelope) -> int:
            lost = isinstance(envelope, Forward) and not kept
            kept.append(envelope)
            return 0 if lost else 1

        a.lanes.fate = first_is_lost
    properties = {Prop.CONTENT_TYPE: "text", Prop.USER_PROPERTY: [("k", "1"), ("k", "2")], EXPIRY: 1000}
    for number, retained in ((1, True), (2, False)):
        message = Publish("room/1", b"%d" % number, 1, retained, packet_id=number, properties=dict(properties))
        writer.send(message)
        writer.expect(Puback(number))
    wanted = [(b"%d" % number, number == 1, set(FILTERS.values()), properties) for number in (1, 2)]
    assert [told(reader.receive()) for _ in range(2)] == wanted
    if not clean:
        moved = c.connect("reader", clean=False, present=True, version=V5)
        again = [moved.take(), moved.take()]
        assert [message.dup for message in again] == [True, True]
        assert [told(message) for message in again] == wanted
        [goodbye] = reader.until_closed()
        assert isinstance(goodbye, Disconnect)
        assert goodbye.reason is Reason.SESSION_TAKEN_OVER
        writer.send(Publish("room/2", b"3", 1, packet_id=3))
        assert told(moved.take()) == (b"3", False, set(FILTERS.values()), {})


def test_delayed_will_outlives_its_node(stage: Stage) -> None:
    """The node of a client with a Will Delay dies. Back in time, the client has no will published; the other client's
    is, when its delay is over, by another node, and with its properties."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    watcher = b.connect("watcher", version=V5).subscribe("will/#")
    for name in ("back", "away"):
        properties = {Prop.WILL_DELAY_INTERVAL: 30, Prop.CONTENT_TYPE: name, EXPIRY: 1000}
        will = Will(f"will/{name}", name.encode(), 1, properties=dict(properties))
        a.connect(name, clean=False, version=V5, will=will)
    a.die()
    stage.until(lambda: stage.is_buried(a.id))
    c.connect("back", clean=False, present=True, version=V5)
    for node in (b, c):
        node.reactor.advance(31)
    message = watcher.take()
    assert message.payload == b"away"
    assert before_expiry(message.properties) == {Prop.CONTENT_TYPE: "away", EXPIRY: 1000}
    stage.end("will/end")
    assert watcher.take_rest() == []
