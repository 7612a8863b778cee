"""Message expiry: what is left of it on the way, and what becomes of messages that nobody gets any more."""

from __future__ import annotations

from mqttcluster.core.message import Message
from mqttcluster.mqtt.packets import Connect, Puback, Publish, Subscribe, Subscription
from mqttcluster.mqtt.properties import Prop
from tests.broker.playbook import World, only_publishes, payloads, payloads_of, take_all
from tests.conformance.v5.stage import (
    connect,
    durable,
    finish,
    say,
    subscribe,
    will,
)


def left(packet: Publish) -> object:
    return packet.properties.get(Prop.MESSAGE_EXPIRY_INTERVAL)


def queue_of(world: World, client_id: str) -> int:
    """How many messages the store has for a session."""
    return len(world.store.inner._sessions[client_id].queue)


def test_the_interval_counts_down_in_the_queue(world: World) -> None:
    """Whole seconds that the message has waited are taken off; at once it is what the publisher has said."""
    guest, live = durable(world), connect(world, "live")
    subscribe(guest, "t", qos=1)
    subscribe(live, "t", qos=1)
    guest.drop()
    say(world, "t", b"x", 1, message_expiry_interval=100)
    assert [left(packet) for packet in only_publishes(live.packets())] == [100]
    world.advance(30)
    guest = durable(world, present=True)
    assert [left(packet) for packet in only_publishes(guest.packets())] == [70]


def test_an_expired_delivery_is_forgotten_in_the_store(world: World) -> None:
    """It is not sent, counted once, and gone for good; what is behind it comes."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    guest.drop()
    say(world, "t", b"short", 1, message_expiry_interval=5)
    say(world, "t", b"two", 2, message_expiry_interval=5)
    say(world, "t", b"long", 1, message_expiry_interval=50)
    say(world, "t", b"ever", 1)
    world.advance(6)
    guest = durable(world, present=True)
    found = only_publishes(guest.packets())
    assert [packet.payload for packet in found] == [b"long", b"ever"]
    assert world.broker.metrics.dropped["expired"] == 2
    finish(guest, *found)
    assert queue_of(world, "c") == 0
    guest.drop()
    assert only_publishes(durable(world, present=True).packets()) == []
    assert world.broker.metrics.dropped["expired"] == 2


def test_expired_messages_make_room_in_the_window(world: World) -> None:
    """A client that takes one message at a time gets the one that is behind many that have expired."""
    guest = durable(world, receive_maximum=1)
    subscribe(guest, "t", qos=1)
    say(world, "t", b"first", 1)
    for number in range(20):
        say(world, "t", b"%d" % number, 1, message_expiry_interval=5)
    say(world, "t", b"last", 1)
    [first] = only_publishes(guest.packets())
    world.advance(5)
    guest.send(Puback(first.packet_id))
    assert payloads(guest) == [b"last"]


def test_what_was_sent_already_does_not_expire(world: World) -> None:
    """After a reconnect it is sent again with DUP, and nothing is left of its time [MQTT-4.3.3-7]."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    say(world, "t", b"x", 2, message_expiry_interval=5)
    assert payloads(guest) == [b"x"]
    guest.drop()
    world.advance(60)
    [again] = only_publishes(durable(world, present=True).packets())
    assert (again.payload, again.dup, left(again)) == (b"x", True, 0)


def test_clients_of_earlier_versions_are_spared_expired_messages(world: World) -> None:
    """They know nothing of expiry, and gain by it all the same."""
    old = world.connect("old", version=4, clean_start=False)
    old.send(Subscribe(1, [("t", Subscription(1))])).packets()
    old.drop()
    say(world, "t", b"short", 1, message_expiry_interval=5)
    say(world, "t", b"long", 1, message_expiry_interval=50)
    world.advance(10)
    peer = world.peer(4).send(Connect("old", 4, clean_start=False))
    found = only_publishes(peer.packets())
    assert [(packet.payload, packet.properties) for packet in found] == [(b"long", {})]


def test_retained_messages_count_down(world: World) -> None:
    """Whoever subscribes gets what is left of the time, and nothing when it is over."""
    say(world, "t", b"kept", 1, retain=True, message_expiry_interval=60)
    world.advance(20)
    guest = connect(world, "a")
    subscribe(guest, "t", qos=1)
    [message] = only_publishes(guest.packets())
    assert (message.retain, left(message)) == (True, 40)
    world.advance(41)
    late = connect(world, "b")
    subscribe(late, "t", qos=1)
    assert payloads(late) == []


def test_a_will_expires_from_its_publication_on(world: World) -> None:
    """The interval does not run while the will waits for its delay."""
    guest = durable(world, "absent")
    subscribe(guest, "will", qos=1)
    guest.drop()
    mortal = durable(world, "m", will=will(qos=1, will_delay_interval=30, message_expiry_interval=10))
    mortal.drop()
    for _ in range(31):
        world.advance(1)
    world.advance(5)
    [message] = only_publishes(durable(world, "absent", present=True).packets())
    assert left(message) in (4, 5, 6)
    assert Prop.WILL_DELAY_INTERVAL not in message.properties


def test_the_seconds_that_are_left() -> None:
    """A message that was a moment on its way still has the time its publisher gave it; one that is over has none."""
    message = Message("t", b"", expires_at=1000.0)
    times = (990.0, 990.0004, 990.5, 991.0, 999.9, 1000.0, 2000.0)
    assert [message.left(now) for now in times] == [10, 10, 10, 9, 1, 0, 0]
    assert [message.expired(now) for now in (999.9, 1000.0)] == [False, True]
    assert Message("t", b"").left(1.0) is None


def test_encoded_forms_do_not_pile_up() -> None:
    """A message that waits for long is encoded for each second that goes by, and remembers a few of them only."""
    message = Message("t", b"x" * 100, 1, expires_at=10_000.0)
    for second in range(1000):
        frame = message.frame(5, 1, False, packet_id=1, left=message.left(float(second)))
        assert frame.endswith(b"x" * 100)
    assert len(message._frames) < 50


def test_expired_retained_messages_make_room() -> None:
    """They are removed from the store, also while it fails now and then, and count no more; a newer one stays."""
    world = World(max_retained=3)
    for topic in ("a", "b", "c"):
        say(world, topic, b"old", 1, retain=True, message_expiry_interval=5)
    say(world, "c", b"new", 1, retain=True, message_expiry_interval=50)
    say(world, "d", b"too many", 1, retain=True)
    assert world.broker.metrics.dropped["retained_full"] == 1
    world.store.failing = True
    world.advance(6)
    world.store.failing = False
    world.advance(1)
    assert list(world.store.inner._retained) == ["c"]
    say(world, "d", b"kept", 1, retain=True)
    say(world, "e", b"kept", 1, retain=True)
    guest = connect(world, "guest")
    subscribe(guest, "#", qos=1)
    assert sorted(payloads(guest)) == [b"kept", b"kept", b"new"]
    again = world.restart()
    again.advance(60)
    assert sorted(message.topic for message in again.broker.retained.match("#")) == ["d", "e"]


def test_a_queue_full_of_expired_messages(world: World) -> None:
    """A client that was away for long gets what came last, not nothing."""
    guest = durable(world)
    subscribe(guest, "t", qos=1)
    guest.drop()
    limit = world.store.inner._limits.messages
    for number in range(limit):
        say(world, "t", b"%d" % number, 1, **({} if number % 2 else {"message_expiry_interval": 5}))
    say(world, "t", b"in vain", 1)
    world.advance(6)
    for text in (b"x", b"y"):
        say(world, "t", text, 1)
    assert queue_of(world, "c") == limit
    guest = durable(world, present=True)
    assert payloads_of(take_all(guest)) == [*(b"%d" % number for number in range(1, limit, 2)), b"x", b"y"]
