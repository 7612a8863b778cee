"""What MQTT 5.0 promises, between clients of different nodes."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.mqtt.packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.cluster.scenarios.stage import FAST, Node, Peer, Stage

SAID: dict[int, Any] = {
    Prop.PAYLOAD_FORMAT_INDICATOR: 1,
    Prop.CONTENT_TYPE: "text/plain",
    Prop.RESPONSE_TOPIC: "answers",
    Prop.CORRELATION_DATA: b"\x00\x01",
    Prop.USER_PROPERTY: [("b", "1"), ("a", "2"), ("b", "1")],
}


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
    said = {**SAID, Prop.MESSAGE_EXPIRY_INTERVAL: 100}
    writer.send(Publish("t/1", b"x", qos, True, packet_id=1 if qos else 0, properties=said))
    message = reader.receive()
    assert sorted(message.properties.pop(Prop.SUBSCRIPTION_IDENTIFIER)) == [7, 8]  # type: ignore[arg-type, type-var]
    assert message.properties.pop(Prop.MESSAGE_EXPIRY_INTERVAL) in (99, 100)
    assert (message.topic, message.payload, message.qos, message.retain) == ("t/1", b"x", qos, True)
    assert message.properties == SAID
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
    assert [packet.reason for packet in old.until_closed() if isinstance(packet, Disconnect)] == [
        Reason.SESSION_TAKEN_OVER
    ]


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
        stage.until(lambda: stage.is_buried("b"))
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
    will = Will("will", b"gone", 1, properties={**SAID, Prop.WILL_DELAY_INTERVAL: 2})
    connect(a, "mortal", will=will, expiry=60).drop()
    if back:
        connect(b, "mortal", present=True, expiry=60)
    for node in (a, b):
        node.reactor.advance(10)
    if not back:
        message = watcher.take()
        assert message.payload == b"gone"
        assert {prop: message.properties[prop] for prop in SAID} == SAID
        assert Prop.WILL_DELAY_INTERVAL not in message.properties
    stage.end("will")
    assert watcher.take().payload.startswith(b"end of ")
