"""What MQTT 5.0 adds to sessions, messages and wills is on the disk: it is there after SIGKILL of a real broker."""

from __future__ import annotations

from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.interop.test_paho import DEADLINE, Client, Make, make, properties
from tests.support.process import Broker

__all__ = ["make"]

SAID = {
    "PayloadFormatIndicator": 1,
    "ContentType": "text/\u00e4",
    "ResponseTopic": "answers",
    "CorrelationData": bytes(range(256)),
    "UserProperty": [("k", "2"), ("", ""), ("k", "1")],
}
IDENTIFIER = 70_000


def client(make: Make, broker: Broker, name: str, *, keep: bool = False, present: bool = False) -> Client:
    """A connected client of MQTT 5.0."""
    found = make(name, clean=not keep, version=paho.MQTTv5)
    assert found.connect(broker.host, broker.port) is present
    return found


def subscribe(found: Client, topic: str, **options: Any) -> None:
    more = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=IDENTIFIER)
    found.paho.subscribe(topic, options=SubscribeOptions(2, **options), properties=more)
    assert found.granted.get(timeout=DEADLINE) == [2]


def said_in(message: paho.MQTTMessage) -> dict[str, Any]:
    """The properties that a publisher had given."""
    assert message.properties is not None
    return {name: getattr(message.properties, name) for name in SAID}


@pytest.mark.rule5(
    *("MQTT-3.1.2-23", "MQTT-4.1.0-1", "MQTT-4.5.0-1", "MQTT-3.3.1-5", "MQTT-3.3.1-13", "MQTT-3.8.3-3"),
    *("MQTT-3.3.2-6", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "N5-49"),
)
def test_sessions_and_messages(broker: Broker, make: Make) -> None:
    """A queued and a retained message keep all their properties, a subscription its options and its identifier."""
    absent = client(make, broker, "absent", keep=True)
    subscribe(absent, "t/+", noLocal=True, retainAsPublished=True)
    absent.leave()
    publisher = client(make, broker, "publisher")
    more = properties(PacketTypes.PUBLISH, MessageExpiryInterval=1000, **SAID)
    publisher.paho.publish("t/a", "text", 2, retain=True, properties=more).wait_for_publish(DEADLINE)
    publisher.paho.publish("t/b", "plain", 1).wait_for_publish(DEADLINE)
    broker.kill()
    broker.start()

    absent = client(make, broker, "absent", keep=True, present=True)
    first, second = sorted(absent.take(2), key=lambda message: message.topic)  # QoS 2 is told of at its PUBREL
    assert (first.topic, first.payload, first.qos, first.retain) == ("t/a", b"text", 2, True)
    assert said_in(first) == SAID
    assert first.properties is not None
    assert first.properties.SubscriptionIdentifier == [IDENTIFIER]
    assert 900 < first.properties.MessageExpiryInterval <= 1000
    assert (second.topic, second.payload, second.qos, second.retain) == ("t/b", b"plain", 1, False)
    absent.publish("t/a", b"mine", 1)  # No Local holds
    other = client(make, broker, "other")
    other.publish("t/a", b"theirs", 1)
    assert absent.take(1)[0].payload == b"theirs"

    subscribe(other, "t/a")
    [kept] = other.take(1)
    assert (kept.payload, kept.retain) == (b"text", True)
    assert said_in(kept) == SAID
    for each in (absent, other):
        each.leave()


@pytest.mark.rule5("MQTT-3.1.2-8", "MQTT-3.1.3-10", "N5-37", "N5-39")
@pytest.mark.parametrize("waiting", [True, False], ids=["while it waits", "while connected"])
def test_a_will_with_a_delay(broker: Broker, make: Make, waiting: bool) -> None:
    """It is published after the restart, with its properties, when its delay is over."""
    absent = client(make, broker, "absent", keep=True)
    subscribe(absent, "will")
    absent.leave()
    mortal = make("mortal", clean=False, version=paho.MQTTv5)
    more = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=2, **SAID)
    mortal.paho.will_set("will", "gone", 1, properties=more)
    mortal.connect(broker.host, broker.port)
    if waiting:
        mortal.vanish()
    broker.kill()
    broker.start()
    watcher = client(make, broker, "absent", keep=True, present=True)
    [message] = watcher.take(1)
    assert (message.payload, message.qos) == (b"gone", 1)
    assert said_in(message) == SAID
    watcher.leave()
