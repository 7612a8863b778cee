"""Flow control of MQTT 5.0: Receive Maximum in both directions (section 4.9), Maximum Packet Size (3.1.2.11.4)."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import (
    Disconnect,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import World, only_publishes, payloads, take_all
from tests.conformance.v5.stage import (
    Guest,
    NoSecrets,
    asked,
    assert_cut_off,
    assert_refused,
    assert_sent_away,
    bystander,
    call,
    connect,
    durable,
    hand_over,
    publish,
    say,
    subscribe,
    will,
    with_will,
)
from tests.support.wire import string


def publish_numbers(world: World, count: int, qos: int, first: int = 1) -> None:
    publisher = connect(world, "")
    hand_over(publisher, *(publish("t", b"%d" % n, qos, id=n) for n in range(first, first + count)))
    publisher.send(Disconnect())


# -- Receive Maximum of the client


@pytest.mark.rule5("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.9.0-2", "MQTT-4.3.2-3")
@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_no_more_than_the_receive_maximum_at_qos_1(world: World, most: int, kept: bool) -> None:
    """As many as the client takes; each PUBACK, whatever its code, lets the next one out, in order."""
    guest = connect(world, receive_maximum=most, session_expiry_interval=60 if kept else 0)
    subscribe(guest, "t", qos=1)
    publish_numbers(world, 12, 1)
    seen: list[bytes] = []
    for turn in range(12):
        found = only_publishes(guest.packets())
        assert len(found) == (min(most, 12) if not turn else int(turn + most <= 12))
        seen += [message.payload for message in found]
        oldest = turn + 1
        guest.send(Puback(oldest, Reason.UNSPECIFIED_ERROR if turn % 3 == 2 else Reason.SUCCESS))
    assert seen == [b"%d" % n for n in range(1, 13)]
    assert guest.packets() == []


@pytest.mark.rule5("MQTT-3.3.4-9", "MQTT-4.9.0-2", "MQTT-4.3.3-3", "MQTT-4.3.3-5")
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_qos_2_counts_until_pubcomp(world: World, kept: bool) -> None:
    """PUBREC does not make room, PUBCOMP does; a PUBREC that refuses does as well."""
    guest = connect(world, receive_maximum=2, session_expiry_interval=60 if kept else 0)
    subscribe(guest, "t", qos=2)
    publish_numbers(world, 6, 2)
    assert payloads(guest) == [b"1", b"2"]
    assert guest.send(Pubrec(1)).packets() == [Pubrel(1)]
    assert payloads(guest) == []
    guest.send(Pubcomp(1))
    assert payloads(guest) == [b"3"]
    guest.send(Pubrec(2, Reason.QUOTA_EXCEEDED))
    assert guest.packets() == [publish("t", b"4", 2, id=4)]
    guest.send(Pubrec(3), Pubrec(4))
    assert guest.packets() == [Pubrel(3), Pubrel(4)]
    guest.send(Pubcomp(4, Reason.PACKET_IDENTIFIER_NOT_FOUND))
    assert payloads(guest) == [b"5"]


@pytest.mark.rule5("MQTT-4.9.0-2", "MQTT-3.3.4-9")
def test_qos_0_is_not_held_back(world: World) -> None:
    """A client whose quota is used up gets its QoS 0 messages."""
    guest = connect(world, receive_maximum=1)
    subscribe(guest, "t", "zero", qos=1)
    publish_numbers(world, 2, 1)
    say(world, "zero", b"now")
    assert payloads(guest) == [b"1", b"now"]


@pytest.mark.rule5("MQTT-3.3.4-10", "MQTT-4.9.0-3")
def test_other_packets_flow_while_the_quota_is_used_up(world: World) -> None:
    """Everything but PUBLISH above QoS 0 is processed and answered."""
    guest = connect(world, receive_maximum=1)
    subscribe(guest, "t", qos=2)
    publish_numbers(world, 3, 2)
    assert payloads(guest) == [b"1"]
    guest.send(Pubrec(1))
    assert guest.packets() == [Pubrel(1)]
    guest.send(
        Pingreq(),
        publish("u", b"x", 1, id=1),
        publish("u", b"x", 2, id=2),
        Pubrel(2),
        asked(3, "v"),
        Unsubscribe(4, ["v"]),
    )
    kinds = [type(packet) for packet in guest.packets()]
    assert sorted(kind.__name__ for kind in kinds) == ["Pingresp", "Puback", "Pubcomp", "Pubrec", "Suback", "Unsuback"]
    assert guest.send(Pubrec(77)).packets() == [Pubrel(77, Reason.PACKET_IDENTIFIER_NOT_FOUND)]
    guest.send(Pubcomp(1))
    assert payloads(guest) == [b"2"]


@pytest.mark.rule5("N5-42", "MQTT-4.9.0-1", "MQTT-4.4.0-1", "MQTT-4.6.0-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_the_quota_begins_anew_on_each_connection(world: World, qos: int) -> None:
    """What is sent again counts, in order, as far as the new connection's quota goes."""
    guest = durable(world, receive_maximum=5)
    subscribe(guest, "t", qos=2)
    publish_numbers(world, 8, qos)
    assert payloads(guest) == [b"%d" % n for n in range(1, 6)]
    guest.drop()
    again = durable(world, present=True, receive_maximum=2)
    found = only_publishes(again.packets())
    assert [(message.payload, message.dup) for message in found] == [(b"1", True), (b"2", True)]
    seen = []
    while found:
        seen += [(message.payload, message.dup) for message in found]
        arrived: list[Publish] = []
        for message in found:
            if qos == 1:
                again.send(Puback(message.packet_id))
            else:
                again.send(Pubrec(message.packet_id))
                again.send(Pubcomp(message.packet_id))
        arrived += only_publishes(again.packets())
        found = arrived
    assert seen == [(b"%d" % n, n <= 5) for n in range(1, 9)]


@pytest.mark.rule5("MQTT-4.9.0-1", "MQTT-4.4.0-1")
def test_a_pubcomp_of_an_earlier_exchange_does_not_raise_the_quota(world: World) -> None:
    """Its PUBLISH went out on another connection: the quota of this one is not above what the client named."""
    guest = durable(world, receive_maximum=2)
    subscribe(guest, "t", qos=2)
    publish_numbers(world, 2, 2)
    guest.send(Pubrec(1), Pubrec(2))
    guest.drop()
    again = durable(world, present=True, receive_maximum=2)
    assert again.packets() == [Pubrel(1), Pubrel(2)]
    again.send(Pubcomp(1), Pubcomp(2), Pubcomp(2), Puback(9))
    publish_numbers(world, 5, 2, first=3)
    assert payloads(again) == [b"3", b"4"]


# -- Receive Maximum of the server


@pytest.mark.rule5("MQTT-3.3.4-7", "N5-17")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_that_opens_too_many_exchanges(qos: int) -> None:
    """As many as CONNACK says are taken; one more is answered by 0x93. QoS 2 counts until PUBCOMP."""
    world = World(max_receiving=4)
    watcher, mortal = bystander(world, "will"), with_will(world)
    assert mortal.announced("receive_maximum", 65535) == 4
    durable(world, "absent").send(asked(1, "t", qos=2))
    if qos == 1:
        world.hold()
    mortal.send(*(publish("t", b"x", qos, id=n) for n in range(1, 5)))
    assert not mortal.closed
    mortal.send(publish("t", b"x", qos, id=5))
    last = mortal.packets()[-1]
    world.release()
    world.settle()
    assert isinstance(last, Disconnect)
    assert last.reason is Reason.RECEIVE_MAXIMUM_EXCEEDED
    assert mortal.closed
    assert payloads(watcher) == [b"gone"]


@pytest.mark.rule5("MQTT-3.3.4-7", "MQTT-4.9.0-2")
def test_exchanges_that_are_over_make_room() -> None:
    """PUBACK, PUBCOMP and a PUBREC that refuses end an exchange; repetitions count once; QoS 0 does not count."""
    world = World(max_receiving=2, authorizer=NoSecrets())
    publisher = connect(world, "p")
    for number in range(1, 20):
        hand_over(publisher, publish("t", b"x", 1 + number % 2, id=number))
        publisher.send(publish("secret", b"x", 2, id=number))
        assert publisher.packets() == [Pubrec(number, Reason.NOT_AUTHORIZED)]
    publisher.send(publish("t", b"x", 2, id=1), publish("t", b"x", 2, id=2))
    publisher.send(*(publish("t", b"x", 2, id=n, dup=True) for n in (1, 2, 1, 2)), *[publish("t", b"x")] * 5)
    assert len(publisher.packets()) == 6
    publisher.send(Pubrel(1))
    assert publisher.packets() == [Pubcomp(1)]
    publisher.send(publish("t", b"x", 2, id=3))
    assert publisher.alive()


@pytest.mark.rule5("MQTT-3.3.4-7", "N5-42")
def test_open_exchanges_of_an_earlier_connection_are_remembered(world: World) -> None:
    """A client may have as many open again on its next connection; the ids it left are still taken."""
    publisher = durable(world, "p")
    publisher.send(publish("t", b"x", 2, id=1), publish("t", b"x", 2, id=2))
    publisher.drop()
    again = durable(world, "p", present=True)
    watcher = bystander(world, qos=2)
    again.send(publish("t", b"x", 2, id=1, dup=True), publish("t", b"x", 2, id=3))
    assert [type(packet) for packet in again.packets()] == [Pubrec, Pubrec]
    assert len(payloads(watcher)) == 1


# -- Maximum Packet Size of the client


@pytest.mark.rule5("MQTT-3.1.2-24", "MQTT-3.1.2-25")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_a_message_that_is_too_large_is_dropped(world: World, qos: int, kept: bool) -> None:
    """One that fits exactly comes, one byte more does not; others follow, and the quota is not used up."""
    fits = len(encode(publish("t", b"x" * 50, qos, id=1), 5))
    guest = connect(world, receive_maximum=1, maximum_packet_size=fits, session_expiry_interval=60 if kept else 0)
    watcher = bystander(world, "t", qos=2)
    subscribe(guest, "t", qos=2)
    for size in (50, 51, 1000, 49):
        say(world, "t", b"x" * size, qos)
    assert [len(message.payload) for message in take_all(guest)] == [50, 49]
    assert [len(message.payload) for message in only_publishes(watcher.packets())] == [50, 51, 1000, 49]
    assert guest.alive()


@pytest.mark.rule5("MQTT-3.1.2-24", "MQTT-3.1.2-25", "N5-42")
@pytest.mark.parametrize("how", ["waited", "retained", "sent again"])
def test_a_message_that_is_too_large_on_another_way(world: World, how: str) -> None:
    """From the queue, from what is retained, and again after a reconnect with a smaller size."""
    guest = durable(world)
    if how != "retained":
        subscribe(guest, "t/+", qos=1)
    if how == "waited":
        guest.drop()
    for name, size in (("1", 100), ("2", 10), ("3", 100), ("4", 10)):
        say(world, f"t/{name}", b"x" * size, 1, retain=how == "retained")
    guest.drop()
    again = durable(world, present=True, maximum_packet_size=50, receive_maximum=1)
    if how == "retained":
        subscribe(again, "t/+", qos=1)
    assert sorted(message.topic for message in take_all(again)) == ["t/2", "t/4"]
    again.drop()
    assert durable(world, present=True).packets() == []


@pytest.mark.rule5("MQTT-3.1.2-24", "N5-20")
def test_identifiers_count_for_the_size(world: World) -> None:
    """The whole packet must fit, with what the server adds for this subscriber."""
    bare = len(encode(publish("t", b"x" * 50), 5))
    guest = connect(world, maximum_packet_size=bare)
    subscribe(guest, "t", identifier=268435455)
    say(world, "t", b"x" * 50)
    say(world, "t", b"y")
    assert payloads(guest) == [b"y"]


@pytest.mark.rule5(
    *("MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3", "MQTT-3.6.2-2", "MQTT-3.6.2-3"),
    *("MQTT-3.7.2-2", "MQTT-3.7.2-3", "MQTT-3.9.2-1", "MQTT-3.9.2-2", "MQTT-3.11.2-1", "MQTT-3.11.2-2"),
    "MQTT-3.1.2-24",
)
def test_answers_leave_out_what_does_not_fit() -> None:
    """Refusals of every kind reach a client that takes only the barest of packets; the judge looks at their sizes."""
    world = World(authorizer=NoSecrets())
    smallest = len(encode(connect(world, "roomy").connack, 5))
    small = connect(world, "small", maximum_packet_size=smallest)
    for request, answer in (
        (publish("secret", b"x", 1, id=1), Puback(1, Reason.NOT_AUTHORIZED)),
        (publish("secret", b"x", 2, id=2), Pubrec(2, Reason.NOT_AUTHORIZED)),
        (Pubrec(3), Pubrel(3, Reason.PACKET_IDENTIFIER_NOT_FOUND)),
        (Pubrel(4), Pubcomp(4, Reason.PACKET_IDENTIFIER_NOT_FOUND)),
        (asked(5, "secret"), Suback(5, [Reason.NOT_AUTHORIZED])),
        (Unsubscribe(6, ["t"]), Unsuback(6, [Reason.NO_SUBSCRIPTION_EXISTED])),
    ):
        assert small.send(request).packets() == [answer]


@pytest.mark.rule5("MQTT-3.14.2-3", "MQTT-3.14.2-4", "MQTT-3.1.2-24")
def test_a_disconnect_leaves_out_what_does_not_fit() -> None:
    """A client that takes little is told the reason and no more."""
    world = World()
    guest = Guest(world).send(call("c", maximum_packet_size=60))
    guest.take_connack()
    barest = connect(world, "d", maximum_packet_size=len(encode(guest.connack, 5)))
    for each in (guest, barest):
        each.send("36 00")
        assert_sent_away(each, Reason.MALFORMED_PACKET)


# -- Maximum Packet Size of the server


@pytest.mark.rule5("MQTT-3.2.2-15", "N5-11")
def test_a_packet_above_the_servers_maximum() -> None:
    """CONNACK names the size, fixed header included: that much passes, one byte more is answered by 0x95."""
    world = World(max_packet_size=1000)
    watcher, mortal = bystander(world), with_will(world)
    assert mortal.announced("maximum_packet_size", 0) == 1000
    overhead = len(encode(publish("t", b"x" * 200), 5)) - 200
    mortal.send(publish("t", b"x" * (1000 - overhead)))
    assert [len(payload) for payload in payloads(watcher)] == [1000 - overhead]
    mortal.send(publish("t", b"x" * (1001 - overhead)))
    assert_cut_off(mortal, Reason.PACKET_TOO_LARGE, watcher)


@pytest.mark.rule5("MQTT-3.2.2-15", "N5-11")
def test_a_packet_that_is_too_large_is_refused_before_it_is_there() -> None:
    """Its header is enough."""
    world = World(max_packet_size=1000)
    watcher, mortal = bystander(world), with_will(world)
    mortal.send("30 FF FF FF 7F")
    assert_cut_off(mortal, Reason.PACKET_TOO_LARGE, watcher)


@pytest.mark.rule5("MQTT-3.1.4-1", "N5-11")
def test_a_connect_that_is_too_large() -> None:
    """Closed; a CONNACK with 0x95 may come before."""
    world = World(max_packet_size=1000)
    guest = Guest(world).send(call("c", will=will(b"x" * 2000)))
    if arrived := guest.bytes():
        guest.put_back(arrived)
        assert_refused(guest, Reason.PACKET_TOO_LARGE)
    assert guest.closed


@pytest.mark.rule5("N5-41", "MQTT-3.1.2-24")
def test_no_limit_is_no_limit(world: World) -> None:
    """A client that names no size gets the largest message there is."""
    guest = connect(world)
    subscribe(guest, "t")
    most = guest.announced("maximum_packet_size", 1 << 20)
    payload = bytes(most - len(string("t")) - 6)
    say(world, "t", payload)
    assert payloads(guest) == [payload]


@pytest.mark.rule5("N5-61", "MQTT-4.4.0-2")
def test_refusals_of_a_client_end_that_exchange_only(world: World) -> None:
    """PUBACK and PUBREC of 0x80 and more: the message is not sent again, the others are."""
    guest = durable(world)
    subscribe(guest, "t", qos=2)
    publish_numbers(world, 2, 1)
    publish_numbers(world, 2, 2, first=3)
    assert len(only_publishes(guest.packets())) == 4
    guest.send(Puback(1, Reason.NOT_AUTHORIZED), Pubrec(3, Reason.IMPLEMENTATION_SPECIFIC_ERROR))
    assert guest.packets() == []
    assert guest.alive()
    guest.drop()
    again = durable(world, present=True)
    found = only_publishes(again.packets())
    assert [(message.payload, message.dup) for message in found] == [(b"2", True), (b"4", True)]
