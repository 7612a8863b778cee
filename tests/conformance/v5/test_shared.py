"""Shared subscriptions of MQTT 5.0: section 4.8.2."""

from __future__ import annotations

from collections import Counter

import pytest

from mqttcluster.broker.acl import AclFile, read_rule
from mqttcluster.mqtt.packets import (
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads, payloads_of, take_all
from tests.conformance.v5.stage import (
    Guest,
    asked,
    assert_cut_off,
    assert_sent_away,
    bystander,
    connect,
    durable,
    finish,
    hand_over,
    identifiers,
    publish,
    restart,
    say,
    subscribe,
    with_will,
)
from tests.support.wire import frame, string

COUNT = 30


def group(world: World, count: int, topic_filter: str = "$share/g/t", qos: int = 2, **fields: object) -> list[Guest]:
    """So many clients that share a subscription."""
    members = [connect(world, f"m{number}", **fields) for number in range(count)]
    for member in members:
        subscribe(member, topic_filter, qos=qos)
    return members


def numbers(world: World, count: int, qos: int, topic: str = "t") -> list[bytes]:
    """Somebody publishes so many messages; their payloads."""
    publisher = connect(world, "publisher")
    hand_over(publisher, *(publish(topic, b"%d" % n, qos, id=n) for n in range(1, count + 1)))
    return [b"%d" % n for n in range(1, count + 1)]


# -- filters


@pytest.mark.rule5("MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize(
    "topic_filter", ["$share/g/t", "$share/g/#", "$share/g/+/t", "$share/g//t", "$share/g h/t", "$share/\u00e4/t"]
)
def test_filters_that_are_shared(world: World, topic_filter: str) -> None:
    """Two clients with one such filter: one of them gets each message."""
    members = group(world, 2, topic_filter, 0)
    _, _, inner = topic_filter.removeprefix("$share/").partition("/")
    topic = inner.replace("+", "a").replace("#", "a/b")
    say(world, topic)
    assert sum(len(payloads(member)) for member in members) == 1


@pytest.mark.rule5("MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize(
    "topic_filter",
    ["$share//t", "$share/g", "$share/g/", "$share/+/t", "$share/#/t", "$share/a+b/t", "$share/g/t#", "$share/"],
)
def test_filters_that_are_no_shared_subscription(world: World, topic_filter: str) -> None:
    """0x82, or 0x8F for that filter."""
    guest = connect(world)
    guest.send(frame(0x82, b"\0\1\0" + string(topic_filter) + b"\0"))
    [packet] = guest.packets()
    if isinstance(packet, Suback):
        assert packet.reasons == [Reason.TOPIC_FILTER_INVALID]
        assert not guest.closed
    else:
        assert packet.reason is Reason.PROTOCOL_ERROR  # type: ignore[union-attr]
        assert guest.closed


@pytest.mark.rule5("MQTT-4.8.2-1")
@pytest.mark.parametrize("topic_filter", ["$share", "$SHARE/g/t", "$shared/g/t", "share/g/t"])
def test_filters_that_only_look_like_it(world: World, topic_filter: str) -> None:
    """They are ordinary ones: nothing is shared, and `t` is not what they mean."""
    members = group(world, 2, topic_filter, 0)
    say(world, "t")
    assert [payloads(member) for member in members] == [[], []]
    if not topic_filter.startswith("$"):
        say(world, topic_filter)
        assert [payloads(member) for member in members] == [[b"x"], [b"x"]]


@pytest.mark.rule5("MQTT-3.8.3-4")
def test_no_local_on_a_shared_subscription(world: World) -> None:
    """0x82, and none of the packet's filters is subscribed."""
    watcher, mortal = bystander(world, "will"), with_will(world, session_expiry_interval=60)
    mortal.send(Subscribe(1, [("good", Subscription(1)), ("$share/g/t", Subscription(1, no_local=True))]))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)
    say(world, "good", b"x", 1)
    assert connect(world, "mortal", clean_start=False, present=True).packets() == []


# -- who gets what


@pytest.mark.rule5("MQTT-4.8.2-3")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
def test_each_message_goes_to_one_of_them(world: World, qos: int, kept: bool) -> None:
    """All arrive, once; and each of the clients gets some."""
    members = group(world, 3, session_expiry_interval=60 if kept else 0)
    sent = numbers(world, COUNT, qos)
    seen = [payloads_of(take_all(member)) for member in members]
    assert Counter(payload for part in seen for payload in part) == Counter(sent)
    assert all(seen)


@pytest.mark.rule5("MQTT-4.8.2-3")
@pytest.mark.parametrize("qos", [0, 1])
def test_groups_and_other_subscribers_are_independent(world: World, qos: int) -> None:
    """Each group gets a copy, and so does everybody who is subscribed for himself."""
    first, second = group(world, 2), [connect(world, "n0"), connect(world, "n1")]
    for member in second:
        subscribe(member, "$share/h/t", qos=2)
    other_filter = connect(world, "other filter")
    subscribe(other_filter, "$share/g/+", qos=2)
    plain = bystander(world, "t", qos=2)
    sent = Counter(numbers(world, COUNT, qos))
    for members in (first, second, [other_filter], [plain]):
        assert Counter(payload for member in members for payload in payloads_of(take_all(member))) == sent


@pytest.mark.rule5("N5-64")
def test_older_clients_share_nothing(world: World) -> None:
    """Before 5.0 the same text is a filter like any other: it takes nothing away from the group."""
    [newer] = group(world, 1)
    older = world.connect("older", 4)
    subscribe(older, "$share/g/t", qos=1)
    sent = numbers(world, COUNT, 1)
    assert payloads_of(take_all(newer)) == sent
    assert older.packets() == []


@pytest.mark.rule5("MQTT-4.8.2-3", "MQTT-3.8.4-8")
@pytest.mark.parametrize("published", [0, 1, 2])
def test_the_qos_of_the_chosen_client_counts(world: World, published: int) -> None:
    """Members with different QoS: each gets its messages at the lower of both."""
    members = [connect(world, f"m{qos}") for qos in range(3)]
    for qos, member in enumerate(members):
        subscribe(member, "$share/g/t", qos=qos)
    for number in range(COUNT):
        say(world, "t", b"%d" % number, published)
        for qos, member in enumerate(members):
            for message in only_publishes(member.packets()):
                assert message.qos == min(published, qos)
                finish(member, message)


@pytest.mark.rule5("N5-51", "N5-20", "MQTT-3.3.4-3")
def test_identifiers_of_the_chosen_client(world: World) -> None:
    """Of the two members' identifiers only the receiver's comes; its plain subscription brings its own copy."""
    members = [connect(world, f"m{number}") for number in range(2)]
    for number, member in enumerate(members, 1):
        subscribe(member, "$share/g/t", identifier=number)
    subscribe(members[0], "t", packet_id=2, identifier=100)
    sent = 0
    for _ in range(COUNT):
        say(world, "t")
        for number, member in enumerate(members, 1):
            for message in only_publishes(member.packets()):
                found = identifiers(message)
                assert found in ([number], [100], [1, 100])
                assert number == 1 or found == [2]
                sent += 1
    assert COUNT < sent <= 2 * COUNT


@pytest.mark.rule5("N5-46", "MQTT-3.3.1-9")
@pytest.mark.parametrize("handling", [0, 1, 2])
def test_no_retained_messages(world: World, handling: int) -> None:
    """Neither the first member gets them nor the second; live ones come, RETAIN as the subscription wants it."""
    say(world, "t", b"kept", retain=True)
    guest = connect(world)
    subscribe(guest, "$share/g/t", retain_handling=handling, retain_as_published=True)
    assert guest.packets() == []
    say(world, "t", b"live", retain=True)
    assert guest.packets() == [publish("t", b"live", retain=True)]


@pytest.mark.rule5("MQTT-3.3.1-12", "MQTT-3.3.1-13", "MQTT-4.8.2-3")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
@pytest.mark.parametrize("as_published", [True, False])
def test_the_flag_of_live_messages(world: World, qos: int, kept: bool, as_published: bool) -> None:
    """RETAIN is 0, or the publisher's if the chosen client's subscription wants it so."""
    guest = connect(world, session_expiry_interval=60 if kept else 0)
    subscribe(guest, "$share/g/t", qos=qos, retain_as_published=as_published)
    say(world, "t", b"x", qos, retain=True)
    assert [message.retain for message in only_publishes(guest.packets())] == [as_published]


@pytest.mark.rule5("MQTT-4.7.2-1")
def test_the_dollar_rule_goes_by_the_inner_filter() -> None:
    """`$share/g/#` brings nothing of the server's own, `$share/g/$SYS/#` does."""
    world = World(sys_interval=1)
    hidden, shown = connect(world, "hidden"), connect(world, "shown")
    subscribe(hidden, "$share/g/#")
    subscribe(shown, "$share/g/$SYS/#")
    world.advance(1)
    assert hidden.packets() == []
    assert "$SYS/broker/uptime" in [message.topic for message in only_publishes(shown.packets())]


@pytest.mark.rule5("MQTT-3.8.4-7")
def test_permission_is_asked_for_the_inner_filter() -> None:
    """What a client may not subscribe to it may not share, either."""
    rules = ("deny everyone to subscribe secret", "allow everyone to subscribe open")
    world = World(authorizer=AclFile([read_rule(rule) for rule in rules]))
    guest = connect(world)
    guest.send(asked(1, "$share/g/secret", "$share/g/open"))
    assert guest.packets() == [Suback(1, [Reason.NOT_AUTHORIZED, Reason.SUCCESS])]


# -- joining and leaving


@pytest.mark.rule5("MQTT-3.8.4-3", "MQTT-3.10.4-1")
def test_joining_twice_and_leaving_once(world: World) -> None:
    """The second SUBSCRIBE replaces the first; UNSUBSCRIBE needs the whole filter, and 0x11 tells who was no member."""
    first, second = group(world, 2)
    subscribe(first, "$share/g/t", qos=0, packet_id=2)
    seen = 0
    for _ in range(10):
        say(world, "t", b"x", 1)
        for message in only_publishes(first.packets()):
            assert message.qos == 0
            seen += 1
        seen += len(payloads_of(take_all(second)))
    assert seen == 10
    first.send(Unsubscribe(3, ["t", "$share/h/t", "$share/g/t", "$share/g/t"]))
    assert first.packets() == [Unsuback(3, [Reason(code) for code in (0x11, 0x11, 0, 0x11)])]
    sent = numbers(world, COUNT, 1)
    assert first.packets() == []
    assert payloads_of(take_all(second)) == sent


@pytest.mark.rule5("MQTT-4.8.2-3", "MQTT-3.10.4-2")
@pytest.mark.parametrize("leave", ["drop", "DISCONNECT", "takeover"])
def test_a_member_whose_session_ends_is_no_member(world: World, leave: str) -> None:
    """The others get everything from then on."""
    first, second = group(world, 2)
    if leave == "drop":
        first.drop()
    elif leave == "DISCONNECT":
        first.send("E0 00")
    else:
        connect(world, "m0")
    sent = numbers(world, COUNT, 1)
    assert payloads_of(take_all(second)) == sent


@pytest.mark.rule5("MQTT-4.8.2-3", "MQTT-3.1.2-23")
def test_an_absent_member(world: World) -> None:
    """While others are there they get the messages; when nobody is, the absent one's session keeps them."""
    absent = durable(world, "absent")
    subscribe(absent, "$share/g/t", qos=1)
    present = connect(world, "present")
    subscribe(present, "$share/g/t", qos=1)
    absent.drop()
    sent = numbers(world, 10, 1)
    assert payloads_of(take_all(present)) == sent
    present.drop()
    sent = numbers(world, 10, 1)
    assert payloads_of(take_all(durable(world, "absent", present=True))) == sent


@pytest.mark.rule5("MQTT-3.1.2-23", "MQTT-4.8.2-3")
@pytest.mark.parametrize("crash", [True, False])
def test_membership_is_part_of_the_session(world: World, crash: bool) -> None:
    """Over a restart of the broker the group is what it was."""
    members = group(world, 2, qos=1, session_expiry_interval=60)
    again = restart(world, crash)
    back = [durable(again, f"m{number}", present=True) for number in range(len(members))]
    sent = numbers(again, COUNT, 1)
    seen = [payloads_of(take_all(member)) for member in back]
    assert Counter(payload for part in seen for payload in part) == Counter(sent)
    assert all(seen)


# -- a delivery that does not end well


@pytest.mark.rule5("MQTT-4.8.2-4", "MQTT-4.3.3-3", "MQTT-4.3.3-5")
@pytest.mark.parametrize("step", ["PUBREC", "PUBCOMP"])
@pytest.mark.parametrize("crash", [True, False])
def test_a_qos_2_delivery_is_completed_to_the_same_client(world: World, step: str, crash: bool) -> None:
    """Its connection is lost: nobody else gets the message, and it goes on when the client is back."""
    chosen = durable(world, "chosen")
    subscribe(chosen, "$share/g/t", qos=2)
    say(world, "t", b"x", 2)
    [message] = only_publishes(chosen.packets())
    if step == "PUBCOMP":
        assert chosen.send(Pubrec(message.packet_id)).packets() == [Pubrel(message.packet_id)]
    if crash:
        world = restart(world)
    else:
        chosen.drop()
    other = connect(world, "other")
    subscribe(other, "$share/g/t", qos=2)
    world.advance(10)
    assert other.packets() == []
    again = durable(world, "chosen", present=True)
    if step == "PUBREC":
        assert again.packets() == [publish("t", b"x", 2, id=message.packet_id, dup=True)]
        again.send(Pubrec(message.packet_id))
    assert again.packets() == [Pubrel(message.packet_id)]
    again.send(Pubcomp(message.packet_id))
    assert other.packets() == []


@pytest.mark.rule5("MQTT-4.8.2-5")
@pytest.mark.parametrize("how", ["expires", "clean start", "ends with its connection"])
def test_a_qos_2_delivery_whose_session_ends(world: World, how: str) -> None:
    """The message goes to nobody else of the group."""
    chosen = connect(world, "chosen", session_expiry_interval=0 if how.startswith("ends") else 10)
    subscribe(chosen, "$share/g/t", qos=2)
    say(world, "t", b"x", 2)
    assert payloads(chosen) == [b"x"]
    other = connect(world, "other")
    subscribe(other, "$share/g/t", qos=2)
    chosen.drop()
    if how == "clean start":
        assert connect(world, "chosen").packets() == []
    world.advance(100)
    assert other.packets() == []


@pytest.mark.rule5("MQTT-4.8.2-6", "MQTT-4.4.0-2", "N5-61")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_member_that_refuses_a_message(world: World, qos: int) -> None:
    """It is discarded: neither the same client nor another one gets it again."""
    members = group(world, 2, session_expiry_interval=60)
    sent = numbers(world, 10, qos)
    seen = 0
    for member in members:
        for message in only_publishes(member.packets()):
            seen += 1
            kind = Puback if qos == 1 else Pubrec
            assert member.send(kind(message.packet_id, Reason.IMPLEMENTATION_SPECIFIC_ERROR)).packets() == []
    assert seen == len(sent)
    for number, member in enumerate(members):
        member.drop()
        assert durable(world, f"m{number}", present=True).packets() == []


@pytest.mark.rule5("MQTT-4.8.2-3", "MQTT-4.3.2-3")
def test_a_qos_1_delivery_whose_session_ends(world: World) -> None:
    """The message is not lost: another member gets it."""
    chosen = connect(world, "chosen")
    subscribe(chosen, "$share/g/t", qos=1)
    say(world, "t", b"x", 1)
    assert payloads(chosen) == [b"x"]
    other = connect(world, "other")
    subscribe(other, "$share/g/t", qos=1)
    chosen.drop()
    world.advance(5)
    assert payloads(other) == [b"x"]


@pytest.mark.rule5("MQTT-4.6.0-6", "MQTT-4.6.0-5")
def test_a_single_member_gets_messages_in_order(world: World) -> None:
    """With nobody to share with, the order is that of the publisher."""
    [member] = group(world, 1)
    sent = numbers(world, COUNT, 2)
    assert payloads_of(take_all(member)) == sent


@pytest.mark.rule5("N5-25")
def test_a_server_that_shares_nothing() -> None:
    """It says so in CONNACK; who tries all the same hears 0x9E."""
    world = World(no_shared_subscriptions=True)
    guest = connect(world)
    assert guest.announced("shared_subscription_available", 1) == 0
    guest.send(asked(1, "$share/g/t"))
    assert_sent_away(guest, Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED)
