"""What MQTT 5.0 promises, between clients of different nodes."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.mqtt.packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Properties,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.storage.shared import Envelope, Forward, RetainedHint
from tests.cluster.scenarios.stage import FAST, Node, Peer, Stage

SAID: dict[int, Any] = {
    Prop.PAYLOAD_FORMAT_INDICATOR: 1,
    Prop.CONTENT_TYPE: "text/plain",
    Prop.RESPONSE_TOPIC: "answers",
    Prop.CORRELATION_DATA: b"\x00\x01",
    Prop.USER_PROPERTY: [("b", "1"), ("a", "2"), ("b", "1")],
}

EXPIRY = Prop.MESSAGE_EXPIRY_INTERVAL
#: Overlapping filters, and the identifiers of their subscriptions.
FILTERS = {"room/+": 7, "#": 268_435_455}


def connect(
    node: Node, client_id: str, present: bool = False, will: Will | None = None, expiry: int | None = None
) -> Peer:
    """A client of MQTT 5.0 with Clean Start 0, and the session expiry if one is given."""
    peer = node.peer(V5)
    peer.name = client_id
    properties: dict[int, Any] = {} if expiry is None else {Prop.SESSION_EXPIRY_INTERVAL: expiry}
    peer.send(Connect(client_id, V5, clean_start=False, will=will, properties=properties))
    answer = peer.packet()
    assert isinstance(answer, Connack)
    assert (answer.session_present, answer.reason) == (present, Reason.SUCCESS)
    return peer


def subscribe(peer: Peer, topic_filter: str, qos: int, identifier: int) -> None:
    wanted = Subscription(qos, retain_as_published=True, identifier=identifier)
    peer.send(Subscribe(9, [(topic_filter, wanted)], {Prop.SUBSCRIPTION_IDENTIFIER: [identifier]}))
    assert peer.packet() == Suback(9, [Reason(qos)])


def known(node: Node, client_id: str) -> bool:
    """Whether the node still routes for this session."""
    return client_id in node.broker.sessions.subscribers


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("kept", [False, True], ids=["clean", "kept"])
def test_everything_a_message_says_arrives(stage: Stage, kept: bool, qos: int) -> None:
    """Properties in their order, what is left of the time, the flag as it was published, the subscriber's own
    identifiers; a client of 3.1.1 gets what its version can carry."""
    a, b = stage.start("a", "b")
    reader = connect(b, "reader", expiry=60 if kept else 0)
    subscribe(reader, "t/+", qos, 7)
    subscribe(reader, "t/1", qos, 8)
    old = b.connect("old").subscribe("t/1", qos)
    writer = connect(a, "writer")
    said = {**SAID, EXPIRY: 1000}
    writer.send(Publish("t/1", b"x", qos, True, packet_id=1 if qos else 0, properties=said))
    message = reader.receive()
    assert sorted(message.properties.pop(Prop.SUBSCRIPTION_IDENTIFIER)) == [7, 8]  # type: ignore[arg-type, type-var]
    assert (message.topic, message.payload, message.qos, message.retain) == ("t/1", b"x", qos, True)
    assert before_expiry(message.properties) == said
    plain = old.receive()
    assert (plain.topic, plain.payload, plain.qos, plain.retain, plain.properties) == ("t/1", b"x", qos, False, {})


def test_a_publisher_is_told_that_nobody_listens(stage: Stage) -> None:
    """PUBACK 0x10 if there is nobody in the whole cluster, 0x00 if there is somebody at another node."""
    a, b = stage.start("a", "b")
    b.connect("reader").subscribe("t", 1)
    writer = connect(a, "writer")
    for topic, reason in (("t", Reason.SUCCESS), ("u", Reason.NO_MATCHING_SUBSCRIBERS)):
        writer.send(Publish(topic, b"x", 1, packet_id=1))
        assert writer.packet() == Puback(1, reason)


def test_a_session_is_taken_over_by_another_node(stage: Stage) -> None:
    """The older connection hears 0x8E."""
    a, b = stage.start("a", "b")
    old = connect(a, "mover", expiry=60)
    connect(b, "mover", present=True, expiry=60)
    assert old.until_closed() == []
    assert old.goodbye is not None
    assert old.goodbye.reason is Reason.SESSION_TAKEN_OVER


@pytest.mark.parametrize("how", ["no expiry at the second connect", "disconnect with expiry 0", "node dies"])
def test_a_resumed_session_that_ends_with_its_connection(stage: Stage, how: str) -> None:
    """While it lasts every node routes for it; then no node does any more."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    first = connect(a, "s", expiry=60)
    subscribe(first, "t", 1, 1)
    first.drop()
    second = connect(b, "s", present=True, expiry=60 if how == "disconnect with expiry 0" else None)
    writer = connect(c, "writer")
    writer.publish("t", b"x")
    assert second.take().payload == b"x"
    if how == "node dies":
        b.die()
        stage.until(lambda: stage.is_buried(b.id))
    elif how == "disconnect with expiry 0":
        second.send(Disconnect(properties={Prop.SESSION_EXPIRY_INTERVAL: 0}))
    else:
        second.drop()
    stage.until(lambda: not any(known(node, "s") for node in (a, b, c) if node.alive))
    connect(a, "s")


@pytest.mark.parametrize("back", [True, False])
def test_a_will_waits_for_its_client_wherever_it_comes(stage: Stage, back: bool) -> None:
    """A will with a delay is not published if the client comes back at another node in time; else it is, with its
    properties."""
    a, b = stage.start("a", "b")
    watcher = connect(a, "watcher")
    subscribe(watcher, "will", 1, 1)
    will = Will("will", b"gone", 1, properties={**SAID, Prop.WILL_DELAY_INTERVAL: 100})
    connect(a, "mortal", will=will, expiry=1000).drop()
    with stage.redis.client() as client:
        stage.until(lambda: any(client.exists(f"mc:{{p{number}}}:wills") for number in range(16)))
    if back:
        connect(b, "mortal", present=True, expiry=1000)
    for node in (a, b):
        node.reactor.advance(200)
    if not back:
        message = watcher.take()
        assert message.payload == b"gone"
        assert {prop: message.properties[prop] for prop in SAID} == SAID
        assert Prop.WILL_DELAY_INTERVAL not in message.properties
    stage.end("will")
    assert watcher.take().payload.startswith(b"end of ")


def retain(writer: Peer, topic: str, payload: bytes, **seconds: int) -> None:
    """A retained message with QoS 1."""
    properties: Properties = {EXPIRY: seconds["expiry"]} if seconds else {}
    writer.send(Publish(topic, payload, 1, True, packet_id=9, properties=properties))
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
        retain(early, topic, b"old", expiry=100)
    stage.until(lambda: len(held(b)) == 3)
    dropping = a.store.keep_request("drop_retained")
    a.reactor.advance(100)
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
    for topic_filter, identifier in FILTERS.items():
        subscribe(reader, topic_filter, 1, identifier)
    writer = a.connect("writer", version=V5)
    if not rung and not clean:
        kept: list[Envelope] = []

        def first_is_lost(envelope: Envelope) -> int:
            lost = isinstance(envelope, Forward) and not kept
            kept.append(envelope)
            return 0 if lost else 1

        a.lanes.fate = first_is_lost
    properties: Properties = {
        Prop.CONTENT_TYPE: "text",
        Prop.USER_PROPERTY: [("k", "1"), ("k", "2")],
        EXPIRY: 1000,
    }
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
        assert reader.until_closed() == []
        assert reader.goodbye is not None
        assert reader.goodbye.reason is Reason.SESSION_TAKEN_OVER
        writer.send(Publish("room/2", b"3", 1, packet_id=3))
        assert told(moved.take()) == (b"3", False, set(FILTERS.values()), {})


def test_delayed_will_outlives_its_node(stage: Stage) -> None:
    """The node of a client with a Will Delay dies. Back in time, the client has no will published; the other client's
    is, when its delay is over, by another node, and with its properties."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    watcher = b.connect("watcher", version=V5).subscribe("will/#")
    for name in ("back", "away"):
        properties: Properties = {Prop.WILL_DELAY_INTERVAL: 30, Prop.CONTENT_TYPE: name, EXPIRY: 1000}
        will = Will(f"will/{name}", name.encode(), 1, properties=properties)
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
