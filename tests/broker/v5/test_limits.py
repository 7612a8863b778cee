"""Windows, sizes and quotas that the two ends have told each other, as they show inside the broker."""

from __future__ import annotations

import pytest

from mqttcluster.broker.handlers import HANDLERS
from mqttcluster.core.connection import TRANSITIONS
from mqttcluster.mqtt.packets import (
    Disconnect,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import World, only_publishes, payloads, payloads_of
from tests.conformance.v5.stage import (
    Guest,
    NoSecrets,
    assert_refused,
    assert_sent_away,
    bystander,
    call,
    connect,
    durable,
    finish,
    publish,
    say,
    subscribe,
    will,
)


@pytest.mark.parametrize(("asked", "ours", "window"), [(3, 32, 3), (None, 4, 4), (100, 5, 5)])
def test_the_window_is_the_smaller_one(asked: int | None, ours: int, window: int) -> None:
    """A client gets no more at once than it takes, and no more than the broker gives."""
    world = World(max_inflight=ours)
    guest = connect(world, **({} if asked is None else {"receive_maximum": asked}))
    subscribe(guest, "t", qos=1)
    for number in range(10):
        say(world, "t", b"%d" % number, 1)
    found = only_publishes(guest.packets())
    assert len(found) == window
    guest.send(Puback(found[0].packet_id))
    assert payloads(guest) == [b"%d" % window]


def test_refused_deliveries_make_room(world: World) -> None:
    """PUBACK and PUBREC of 0x80 and more end a delivery: no PUBREL, the next message, nothing of it in the store."""
    guest = durable(world, receive_maximum=2)
    subscribe(guest, "t", qos=2)
    for number in (1, 2):
        say(world, "t", b"%d" % number, number)
    for number in (1, 2):
        say(world, "t", b"%d" % (number + 2), number)
    one, two = only_publishes(guest.packets())
    guest.send(Puback(one.packet_id, Reason.NOT_AUTHORIZED), Pubrec(two.packet_id, Reason.QUOTA_EXCEEDED))
    found = guest.packets()
    assert payloads_of(found) == [b"3", b"4"]
    finish(guest, *only_publishes(found))
    guest.drop()
    assert durable(world, present=True).packets() == []


def test_unknown_identifiers_are_named(world: World) -> None:
    """PUBREL for PUBREC, and PUBCOMP for PUBREL, say 0x92 where there was nothing; known ones do not."""
    guest = connect(world)
    assert guest.send(Pubrec(9)).packets() == [Pubrel(9, Reason.PACKET_IDENTIFIER_NOT_FOUND)]
    assert guest.send(Pubrel(9)).packets() == [Pubcomp(9, Reason.PACKET_IDENTIFIER_NOT_FOUND)]
    guest.send(publish("t", b"x", 2, id=9)).packets()
    assert guest.send(Pubrel(9)).packets() == [Pubcomp(9)]


def test_what_an_earlier_connection_left_is_known(world: World) -> None:
    """PUBREL for a message of an earlier connection is answered without 0x92, and does not count as open here."""
    guest = durable(world)
    guest.send(publish("t", b"x", 2, id=9)).packets()
    guest.drop()
    again = durable(world, present=True)
    assert again.send(Pubrel(9)).packets() == [Pubcomp(9)]
    assert again.send(Pubrel(9)).packets() == [Pubcomp(9, Reason.PACKET_IDENTIFIER_NOT_FOUND)]


def test_open_exchanges_of_an_earlier_connection_do_not_use_up_the_quota() -> None:
    """The quota is new with each connection; a message that is sent again counts from then on."""
    world = World(max_receiving=2)
    guest = durable(world)
    guest.send(publish("t", b"1", 2, id=1), publish("t", b"2", 2, id=2))
    guest.drop()
    again = durable(world, present=True)
    again.send(publish("t", b"3", 2, id=3), publish("t", b"2", 2, id=2, dup=True))
    assert [packet.packet_id for packet in again.packets() if isinstance(packet, Pubrec)] == [3, 2]
    again.send(publish("t", b"4", 2, id=4))
    assert_sent_away(again, Reason.RECEIVE_MAXIMUM_EXCEEDED)


def test_publishes_that_wait_for_the_store_count(world: World) -> None:
    """Who has sent as many QoS 1 messages as were allowed, and one more before any PUBACK, is sent away with 0x93."""
    world = World(max_receiving=3)
    durable(world, "kept").send(Subscribe(1, [("t", Subscription(1))]))
    guest = connect(world)
    world.hold()
    guest.send(*[publish("t", b"x", 1, id=number) for number in (1, 2, 3)])
    assert not guest.closed
    guest.send(publish("t", b"x", 1, id=4))
    assert_sent_away(guest, Reason.RECEIVE_MAXIMUM_EXCEEDED)


def test_a_reason_that_does_not_fit_is_left_out() -> None:
    """Below its size the acknowledgement comes bare, and one byte more lets it through."""
    world = World(authorizer=NoSecrets())
    answers = []
    full = encode(Puback(1, Reason.NOT_AUTHORIZED, {Prop.REASON_STRING: "not authorized"}), 5)
    for size in (len(full) - 1, len(full)):
        guest = connect(world, maximum_packet_size=size)
        answers.append(guest.send(publish("secret", b"x", 1, id=1)).bytes())
    assert answers == [encode(Puback(1, Reason.NOT_AUTHORIZED), 5), full]


def test_an_answer_that_does_not_fit_at_all_ends_the_connection(world: World) -> None:
    """SUBACK has a code for each filter. A client that asks for more than it can be told is sent away with 0x95."""
    watcher = bystander(world)
    guest = connect(world, maximum_packet_size=20)
    guest.send(Subscribe(1, [(f"t/{number}", Subscription()) for number in range(30)]))
    assert_sent_away(guest, Reason.PACKET_TOO_LARGE)
    assert watcher.alive()


def test_dropped_deliveries_are_counted(world: World) -> None:
    """At every QoS, live or from the queue; the store keeps nothing of them."""
    guest = durable(world, maximum_packet_size=40)
    subscribe(guest, "t", qos=2)
    for qos in (0, 1, 2):
        say(world, "t", b"x" * 50, qos)
        say(world, "t", b"y", qos)
    found = only_publishes(guest.packets())
    assert [message.payload for message in found] == [b"y"] * 3
    assert world.broker.metrics.dropped["too_large"] == 3
    finish(guest, *found)
    assert not world.store.inner._sessions["c"].queue


def test_a_size_that_lets_nothing_through(world: World) -> None:
    """A client that takes less than a CONNACK cannot be answered: it is closed, its session is not touched, no will is
    left."""
    watcher = bystander(world)
    durable(world).drop()
    guest = Guest(world).send(call(maximum_packet_size=6, clean_start=True, will=will()))
    assert_refused(guest, Reason.PACKET_TOO_LARGE)
    durable(world, present=True)
    silent = Guest(world).send(call("d", maximum_packet_size=3))
    assert (silent.bytes(), silent.closed) == (b"", True)
    assert watcher.packets() == []


def test_each_failure_of_a_subscription_has_its_reason(world: World) -> None:
    """The first of them is told in words, too."""
    world = World(authorizer=NoSecrets(), max_subscriptions=2, max_topic_levels=3)
    guest = connect(world)
    filters = ["a", "secret", "a/b/c/d", "b", "c"]
    guest.send(Subscribe(1, [(name, Subscription(1)) for name in filters]))
    expected = [Reason.GRANTED_QOS_1, Reason.NOT_AUTHORIZED, Reason.TOPIC_FILTER_INVALID]
    assert guest.packets() == [Suback(1, [*expected, Reason.GRANTED_QOS_1, Reason.QUOTA_EXCEEDED])]
    assert guest.remarks == ["not authorized"]


@pytest.mark.parametrize("version", [4, 5])
def test_an_identifier_that_is_in_use(world: World, version: int) -> None:
    """MQTT 5.0 has a word for it; a client of 3.1.1 gets its message through, for it cannot be told that it did not."""
    watcher = bystander(world, "t")
    peer = connect(world) if version == 5 else world.connect("c", version=4)
    peer.send(publish("u", b"open", 2, id=3)).packets()
    answer = peer.send(publish("t", b"x", 1, id=3)).packets()
    if version == 5:
        assert answer == [Puback(3, Reason.PACKET_IDENTIFIER_IN_USE)]
    else:
        assert answer == [Puback(3)]
    assert payloads(watcher) == ([] if version == 5 else [b"x"])


def test_nothing_comes_behind_disconnect(world: World) -> None:
    """Acknowledgements that were on their way as a violation is found come before DISCONNECT, or never."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    say(world, "t", b"x", 2)
    [message] = only_publishes(guest.packets())
    guest.send(Pubrec(message.packet_id), publish("u", b"y", 1, id=1), "F0 00")
    packets = guest.packets()
    assert isinstance(packets[-1], Disconnect)
    assert packets[-1].reason is Reason.PROTOCOL_ERROR


def test_an_administrator_ends_a_connection(world: World) -> None:
    """The client hears 0x98."""
    guest = connect(world)
    assert guest.client is not None
    guest.client.dismiss()
    assert_sent_away(guest, Reason.ADMINISTRATIVE_ACTION)


def test_what_the_broker_has_trouble_with_is_not_told(world: World) -> None:
    """A store that fails ends the connection with 0x80 and no words about it."""
    durable(world, "kept").send(Subscribe(1, [("t", Subscription(1))]))
    guest = connect(world)
    world.store.failing = True
    guest.send(publish("t", b"x", 1, id=1))
    [packet] = guest.packets()
    assert packet == Disconnect(Reason.UNSPECIFIED_ERROR)
    assert guest.remarks == []


def test_there_is_a_handler_for_each_packet_of_a_client() -> None:
    """Nothing that may arrive runs into the void."""
    assert {kind for _, kind in TRANSITIONS} == HANDLERS.keys()
