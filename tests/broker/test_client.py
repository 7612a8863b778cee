"""What a client notices of the order of things."""

from __future__ import annotations

from mqttcluster.mqtt.packets import Puback, Publish, Suback, Subscribe, Subscription
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World


def test_puback_waits_for_the_store(world: World) -> None:
    """A publisher gets its PUBACK, and a durable subscriber the message, when the store has answered [G1]."""
    subscriber = world.connect("s", clean_start=False)
    subscriber.send(Subscribe(1, [("t", Subscription(1))]))
    assert subscriber.packets() == [Suback(1, [Reason.GRANTED_QOS_1])]
    publisher = world.connect("p")
    world.hold()
    publisher.send(Publish("t", b"x", 1, packet_id=7))
    assert publisher.packets() == []
    assert subscriber.packets() == []
    world.answer()
    assert publisher.packets() == [Puback(7)]
    assert subscriber.packets() == [Publish("t", b"x", 1, packet_id=1)]
