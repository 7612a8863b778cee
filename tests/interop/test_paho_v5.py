"""Eclipse Paho for Python, and what only MQTT 5.0 has."""

from __future__ import annotations

import queue
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.interop.test_paho import COUNT, DEADLINE, Client, Make, make, properties
from tests.support.process import Broker

__all__ = ["make"]

V5 = paho.MQTTv5
NOBODY = 0x10


def client(make: Make, broker: Broker, name: str, clean: bool = True, **more: Any) -> Client:
    """A connected client; `more` are properties of its CONNECT."""
    found = make(name, clean=clean, version=V5, **more)
    found.connect(broker.host, broker.port)
    return found


def subscribe(found: Client, topic: str, qos: int = 1, identifier: int = 0, **options: Any) -> None:
    """With options by Paho's own names."""
    more = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier) if identifier else None
    found.paho.subscribe(topic, options=SubscribeOptions(qos, **options), properties=more)
    assert found.granted.get(timeout=DEADLINE) == [qos]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_of_a_message(shared_broker: Broker, make: Make, qos: int) -> None:
    """All of them reach the subscriber, user properties in their order, with the subscription's identifier."""
    topic = f"paho5/properties/{qos}"
    both = client(make, shared_broker, f"paho5p{qos}")
    subscribe(both, topic, qos, identifier=268_435_455)
    said = {
        "PayloadFormatIndicator": 1,
        "MessageExpiryInterval": 1000,
        "ContentType": "text/\u00e4",
        "ResponseTopic": "answers",
        "CorrelationData": bytes(range(256)),
        "UserProperty": [("k", "2"), ("", ""), ("k", "1")],
    }
    both.paho.publish(topic, "text", qos, properties=properties(PacketTypes.PUBLISH, **said))
    [message] = both.take(1)
    found = message.properties
    assert found is not None
    assert {name: getattr(found, name) for name in said} == said
    assert found.SubscriptionIdentifier == [268_435_455]
    both.leave()


def test_a_will_with_properties(shared_broker: Broker, make: Make) -> None:
    """It carries them, and its delay is over when its session is."""
    watcher = client(make, shared_broker, "paho5watcher")
    subscribe(watcher, "paho5/will")
    mortal = make("paho5mortal", version=V5)
    said = {"ContentType": "text", "UserProperty": [("k", "v")], "WillDelayInterval": 100}
    mortal.paho.will_set("paho5/will", "gone", 1, properties=properties(PacketTypes.WILLMESSAGE, **said))
    mortal.connect(shared_broker.host, shared_broker.port)
    mortal.vanish()
    [message] = watcher.take(1)
    assert message.payload == b"gone"
    assert message.properties is not None
    assert (message.properties.ContentType, message.properties.UserProperty) == ("text", [("k", "v")])
    watcher.leave()


def test_reasons(shared_broker: Broker, make: Make) -> None:
    """PUBACK tells that nobody is subscribed, UNSUBACK that nothing was there, DISCONNECT that another one came."""
    one = client(make, shared_broker, "paho5reasons")
    codes: queue.Queue[int] = queue.Queue()
    one.paho.on_publish = lambda c, u, mid, code, p: codes.put(code.value)
    one.paho.on_unsubscribe = lambda c, u, mid, reasons, p: codes.put(reasons[0].value)
    for qos in (1, 2):
        one.paho.publish("paho5/nobody", b"x", qos)
    one.paho.unsubscribe("paho5/nothing")
    found = sorted(codes.get(timeout=DEADLINE) for _ in range(3))
    # Paho tells of PUBCOMP at QoS 2.
    assert found == [0, NOBODY, 0x11]
    two = client(make, shared_broker, "paho5reasons")
    ended: Any = one.ended.get(timeout=DEADLINE)
    assert ended.value == 0x8E
    two.leave()


@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_with_a_small_receive_maximum(shared_broker: Broker, make: Make, qos: int) -> None:
    """A hundred messages arrive in order, a few at a time."""
    topic = f"paho5/flow/{qos}"
    both = client(make, shared_broker, f"paho5flow{qos}", ReceiveMaximum=3)
    subscribe(both, topic, qos)
    sender = client(make, shared_broker, f"paho5flowsender{qos}")
    expected = [b"%d" % n for n in range(COUNT)]
    for payload in expected:
        sender.paho.publish(topic, payload, qos)
    assert [message.payload for message in both.take(COUNT)] == expected
    sender.leave()
    both.leave()


def test_aliases_from_a_client(shared_broker: Broker, make: Make) -> None:
    """A topic that was named once need not be named again."""
    both = client(make, shared_broker, "paho5alias")
    assert both.agreed is not None
    assert both.agreed.TopicAliasMaximum >= 2
    subscribe(both, "paho5/alias/+")
    for number, topic in ((1, "paho5/alias/a"), (2, "paho5/alias/b"), (1, ""), (2, ""), (1, "")):
        both.paho.publish(topic, b"x", 1, properties=properties(PacketTypes.PUBLISH, TopicAlias=number))
    assert [message.topic[-1] for message in both.take(5)] == list("ababa")
    both.leave()


def test_options_of_a_subscription(shared_broker: Broker, make: Make) -> None:
    """No Local, Retain As Published and Retain Handling do what they say."""
    both, other = client(make, shared_broker, "paho5options"), client(make, shared_broker, "paho5other")
    other.publish("paho5/options", b"kept", 1, retain=True)
    subscribe(both, "paho5/options", noLocal=True, retainAsPublished=True, retainHandling=2)
    both.publish("paho5/options", b"mine", 1, retain=True)
    other.publish("paho5/options", b"theirs", 1, retain=True)
    [message] = both.take(1)
    assert (message.payload, message.retain) == (b"theirs", True)
    subscribe(both, "paho5/options", retainHandling=0)
    [message] = both.take(1)
    assert (message.payload, message.retain) == (b"theirs", True)
    subscribe(both, "paho5/options", retainHandling=1)
    both.publish("paho5/options", b"", 1, retain=True)
    [message] = both.take(1)
    assert (message.payload, message.retain) == (b"", False)
    for each in (both, other):
        each.leave()


def test_a_client_without_a_name_gets_one(shared_broker: Broker, make: Make) -> None:
    """CONNACK tells it, and the session is found under it."""
    nameless = client(make, shared_broker, "", clean=False)
    assert nameless.agreed is not None
    name = nameless.agreed.AssignedClientIdentifier
    subscribe(nameless, "paho5/nameless")
    nameless.leave()
    sender = client(make, shared_broker, "paho5sender")
    sender.publish("paho5/nameless", b"x", 1)
    again = make(name, clean=False, version=V5)
    assert again.connect(shared_broker.host, shared_broker.port)
    assert again.take(1)[0].payload == b"x"
    for each in (sender, again):
        each.leave()


def test_a_shared_subscription(shared_broker: Broker, make: Make) -> None:
    """Three clients share a hundred messages: all arrive, each once, and everybody has some."""
    members = [client(make, shared_broker, f"paho5member{n}") for n in range(3)]
    for member in members:
        subscribe(member, "$share/paho5/paho5/shared")
        subscribe(member, "paho5/shared/end")
    sender = client(make, shared_broker, "paho5sharer")
    expected = [b"%d" % n for n in range(COUNT)]
    for payload in expected:
        sender.publish("paho5/shared", payload, 1)
    sender.publish("paho5/shared/end", b"end", 1)
    found: list[bytes] = []
    for member in members:
        had: list[bytes] = []
        while (message := member.take(1)[0]).payload != b"end":
            had.append(message.payload)
        assert had
        found += had
        member.leave()
    assert sorted(found) == sorted(expected)
    sender.leave()
