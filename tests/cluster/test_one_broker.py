"""Two nodes, one broker: what a client at one node does is there for the clients at the other."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.cluster.nodes import PATIENCE, Cluster
from tests.interop.test_paho import Client, properties
from tests.support import wire
from tests.support.process import Broker


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
@pytest.mark.parametrize("topic_filter", ["one/{}/a", "one/{}/#", "one/+/a"], ids=["exact", "hash", "plus"])
def test_publish_across_nodes(
    two_nodes: Cluster, topic_filter: str, clean: bool, request: pytest.FixtureRequest
) -> None:
    """A message published at one node reaches a subscriber at the other, at the QoS that it was granted, in order."""
    name = request.node.name
    topic = f"one/{name}/a"
    with ExitStack() as stack:
        readers = []
        for granted in range(3):
            reader = stack.enter_context(two_nodes[1].wire())
            reader.connect(f"{name}-{granted}", clean=clean)
            readers.append(reader.subscribe((topic_filter.format(name), granted)))
        writer = stack.enter_context(two_nodes[0].wire()).connect(f"{name}-writer", clean=clean)
        for qos in (0, 1, 2):
            writer.publish(topic, b"%d" % qos, qos)
            for granted, reader in enumerate(readers):
                message = reader.take()
                assert (message.payload, message.qos, message.retain) == (b"%d" % qos, min(qos, granted), False)
        writer.publish(f"elsewhere/{name}", b"", 2)
        writer.publish(topic, b"last", 2)
        for reader in readers:
            assert reader.take().payload == b"last"


def test_subscriptions_end_everywhere(two_nodes: Cluster) -> None:
    """After UNSUBACK, and after the end of a clean session, nothing more comes from the other node."""
    with two_nodes[0].wire() as writer, two_nodes[1].wire() as reader:
        writer.connect("unsub-writer")
        reader.connect("unsub-reader").subscribe(("unsub/a", 1), ("unsub/b", 1))
        reader.send(wire.unsubscribe(2, "unsub/a"))
        reader.expect("B0 02 00 02")
        for qos in (0, 1, 2):
            writer.publish("unsub/a", b"no", qos)
        writer.publish("unsub/b", b"yes", 1)
        assert reader.take().payload == b"yes"
        reader.disconnect()
    with two_nodes[0].wire() as reader:
        reader.connect("unsub-reader", clean=False, present=False).expect_silence()


@pytest.mark.parametrize("qos", [1, 2])
def test_a_session_is_resumed_on_the_other_node(two_nodes: Cluster, qos: int) -> None:
    """Subscriptions, the queue and what was in flight are there at the other node, with the same packet ids."""
    name, topic = f"resume-{qos}", f"resume/{qos}"
    first = two_nodes[0].wire().connect(name, clean=False).subscribe((topic, qos))
    with two_nodes[1].wire() as writer:
        writer.connect(f"{name}-writer")
        writer.publish(topic, b"0", qos)
        writer.publish(topic, b"1", qos)
        sent = [first.expect_published(), first.expect_published()]
        if qos == 2:
            first.send(wire.pubrec(sent[0].packet_id))
            first.expect(wire.pubrel(sent[0].packet_id))
        first.disconnect()
        writer.publish(topic, b"2", qos)
    with two_nodes[1].wire().connect(name, clean=False, present=True) as second:
        if qos == 2:
            second.expect(wire.pubrel(sent[0].packet_id))
            second.send(wire.pubcomp(sent[0].packet_id))
            sent.pop(0)
        for before in sent:
            again = second.take()
            assert (again.payload, again.packet_id, again.dup) == (before.payload, before.packet_id, True)
        # DUP may be set on the last one: the first node closes before the store knows that it has.
        assert second.take().payload == b"2"
        second.expect_silence()
        second.disconnect()
    with two_nodes[0].wire().connect(name, clean=False, present=True) as third:
        third.send(wire.PINGREQ_PACKET)
        while (packet := third.packet()) != wire.PINGRESP_PACKET:
            # The last acknowledgement may still be on its way from the other node; nothing comes as new.
            assert packet[0] >> 4 == 6 or packet.published.dup


def test_a_clean_start_wipes_the_session_everywhere(two_nodes: Cluster) -> None:
    """CleanSession=1 at one node ends what another node kept: subscriptions, queue, and half-done exchanges."""
    with two_nodes[0].wire() as kept:
        kept.connect("wiped", clean=False).subscribe(("wiped/#", 2))
        kept.send(wire.publish("elsewhere", b"", 2, packet_id=7))
        kept.expect(wire.pubrec(7))
        kept.disconnect()
    with two_nodes[0].wire() as writer:
        writer.connect("wiped-writer")
        writer.publish("wiped/a", b"queued", 2)
        with two_nodes[1].wire() as clean:
            clean.connect("wiped", clean=True, present=False)
            clean.expect_silence()
            for qos in (0, 1, 2):
                writer.publish("wiped/a", b"to nobody", qos)
            clean.expect_silence()
            clean.disconnect()
        for node in (two_nodes[0], two_nodes[1]):
            with node.wire().connect("wiped", clean=False, present=node is two_nodes[1]) as again:
                again.expect_silence()
                again.publish("elsewhere", b"", 2, packet_id=7)
                again.disconnect()


def test_a_retained_message_is_the_same_on_all_nodes(two_nodes: Cluster) -> None:
    """Set, replaced and deleted at either node: a new subscriber at either node sees the last state, at once."""
    writers = [two_nodes[number].wire().connect(f"retained-writer{number}") for number in (0, 1)]
    for turn, qos in enumerate((1, 2, 0)):
        topic = f"kept/{turn}"
        steps = [(0, b"old"), (1, b"new"), (0, b"newest"), (1, b""), (0, b"back"), (1, b"")]
        for step, (number, payload) in enumerate(steps):
            writers[number].publish(topic, payload, qos, retain=True)
            if qos == 0:  # what follows is acknowledged behind it
                writers[number].publish(topic, payload, 1, retain=True)
            for at, node in enumerate(two_nodes.nodes):
                for topic_filter in (topic, f"kept/{turn}/#"):
                    with node.wire().connect(f"retained-reader{turn}-{step}-{at}") as reader:
                        reader.subscribe((topic_filter, 2))
                        if payload:
                            message = reader.take()
                            assert (message.topic, message.payload, message.retain) == (topic, payload, True)
                        reader.expect_silence()
    for writer in writers:
        writer.close()


def test_a_will_reaches_subscribers_at_the_other_node(two_nodes: Cluster) -> None:
    """A connection that ends without DISCONNECT leaves its will to subscribers everywhere; one with it, nothing."""
    with two_nodes[1].wire() as reader:
        reader.connect("will-reader").subscribe(("will/#", 2))
        for qos in (0, 1, 2):
            two_nodes[0].wire().connect(f"polite{qos}", will=("will/polite", b"no", qos, False)).disconnect()
            two_nodes[0].wire().connect(f"rude{qos}", will=(f"will/rude{qos}", b"yes", qos, True)).abort()
            message = reader.take()
            assert (message.topic, message.qos, message.retain) == (f"will/rude{qos}", qos, False)
        reader.expect_silence()
    with two_nodes[1].wire() as late:
        late.connect("will-late").subscribe(("will/#", 2))
        assert sorted(late.take().topic for _ in range(3)) == ["will/rude0", "will/rude1", "will/rude2"]
        late.expect_silence()


def test_paho_across_nodes(two_nodes: Cluster) -> None:
    """Paho at both nodes: 300 messages of each QoS arrive once and in order."""
    reader, writer = Client("paho-reader", clean=False), Client("paho-writer", clean=False)
    reader.connect(Broker.host, two_nodes[1].port)
    writer.connect(Broker.host, two_nodes[0].port)
    for qos in (0, 1, 2):
        reader.subscribe(f"paho/{qos}", qos)
    for qos in (0, 1, 2):
        for number in range(300):
            writer.paho.publish(f"paho/{qos}", b"%d" % number, qos)
    messages = reader.take(900)
    for qos in (0, 1, 2):
        came = [int(message.payload) for message in messages if message.topic == f"paho/{qos}"]
        assert came == list(range(300))
    assert all(message.qos == int(message.topic[-1]) for message in messages)
    reader.leave()
    writer.leave()


def test_paho_with_mqtt_5_across_nodes(two_nodes: Cluster) -> None:
    """A session that was made at one node gets at the other, from its queue and live, the messages with their
    properties, by its subscriptions' options and with their identifiers. Whoever is taken over is told so."""

    def connect(client_id: str, node: int, clean: bool = False) -> Client:
        client = Client(client_id, clean, paho.MQTTv5)
        assert client.connect(Broker.host, two_nodes[node].port) == (client_id in known)
        known.add(client_id)
        return client

    def publish(payload: str) -> None:
        more = properties(PacketTypes.PUBLISH, **said)
        writer.paho.publish("paho5/a", payload, 1, retain=True, properties=more).wait_for_publish(PATIENCE)

    known: set[str] = set()
    said = {"ContentType": "text", "UserProperty": [("k", "2"), ("k", "1")], "MessageExpiryInterval": 100_000}
    reader, writer = connect("paho5-reader", 0), connect("paho5-writer", 1)
    for identifier, topic in ((5, "paho5/+"), (6, "paho5/#")):
        reader.paho.subscribe(
            topic,
            options=SubscribeOptions(1, retainAsPublished=True, retainHandling=2),
            properties=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier),
        )
        assert reader.granted.get(timeout=PATIENCE) == [1]
    reader.leave()
    publish("queued")
    reader = connect("paho5-reader", 1)
    publish("live")
    moved = connect("paho5-reader", 0)
    ended: Any = reader.ended.get(timeout=PATIENCE)
    assert ended.value == 0x8E
    publish("from the other node")
    messages = [*reader.messages.queue, *moved.take(1)]
    while messages[-1].payload != b"from the other node":
        messages += moved.take(1)
    assert list(dict.fromkeys(message.payload for message in messages)) == [b"queued", b"live", b"from the other node"]
    for message in messages:
        found = message.properties
        assert found is not None
        assert (found.ContentType, found.UserProperty) == (said["ContentType"], said["UserProperty"])
        assert 0 <= 100_000 - found.MessageExpiryInterval <= PATIENCE
        assert sorted(found.SubscriptionIdentifier) == [5, 6]
        assert message.retain
    moved.leave()
    writer.leave()


def test_mosquitto_across_nodes(two_nodes: Cluster) -> None:
    """Mosquitto's command line clients: a session made at one node gets at the other what was published meanwhile."""

    def run(program: str, node: int, *arguments: str) -> str:
        command = [program, "-h", Broker.host, "-p", str(two_nodes[node].port), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    reader = ("-i", "mosquitto-reader", "-c", "-q", "2", "-t", "mosquitto/+")
    run("mosquitto_sub", 0, *reader, "-E")
    for number in range(3):
        run("mosquitto_pub", number % 2, "-q", str(number), "-t", f"mosquitto/{number}", "-m", f"{number}")
    assert run("mosquitto_sub", 1, *reader, "-C", "2", "-v") == "mosquitto/1 1\nmosquitto/2 2\n"
