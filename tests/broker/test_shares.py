"""Shared subscriptions at one node, beyond what the standard says: who is passed over, and what becomes of what
somebody did not take."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mqttcluster.core import shares
from mqttcluster.core.shares import SharePolicy
from mqttcluster.mqtt.packets import Puback, Publish, Subscribe, Subscription
from mqttcluster.storage.interfaces import QueueLimits
from mqttcluster.storage.memory import MemoryStore
from tests.broker.playbook import World, only_publishes, payloads, payloads_of, take_all
from tests.conformance.v5.stage import (
    Guest,
    connect,
    durable,
    hand_over,
    publish,
    restart,
    say,
    subscribe,
)

SHARE = "$share/g/t"


def member(world: World, client_id: str, qos: int = 1, **fields: Any) -> Guest:
    guest = connect(world, client_id, **fields)
    subscribe(guest, SHARE, qos=qos)
    return guest


def say_numbers(world: World, count: int, qos: int = 1) -> list[bytes]:
    """Somebody publishes so many messages and has them acknowledged."""
    publisher = connect(world, "publisher")
    hand_over(publisher, *(publish("t", b"%d" % n, qos, id=n) for n in range(1, count + 1)))
    return [b"%d" % n for n in range(1, count + 1)]


@pytest.mark.parametrize("kept", [False, True], ids=["clean", "durable"])
def test_a_member_whose_window_is_full_is_passed_over(world: World, kept: bool) -> None:
    """One takes nothing, and gets no more than its window holds; the other gets all the rest at once."""
    expiry = 60 if kept else 0
    slow = member(world, "slow", receive_maximum=3, session_expiry_interval=expiry)
    quick = member(world, "quick", session_expiry_interval=expiry)
    sent = say_numbers(world, 20)
    seen = payloads_of(take_all(quick))
    stuck = payloads(slow)
    assert len(stuck) == 3
    assert Counter(seen + stuck) == Counter(sent)


def test_what_the_store_has_not_answered_counts(world: World) -> None:
    """A burst of messages that all wait for the store does not pile up where there is no room for it."""
    slow, quick = member(world, "slow", receive_maximum=3), member(world, "quick")
    publisher = world.connect("publisher")
    world.hold()
    publisher.send(*(Publish("t", b"%d" % number, 1, packet_id=number) for number in range(1, 41)))
    world.release()
    assert (len(payloads(slow)), len(payloads(quick))) == (3, 37)
    assert slow.client is not None
    assert slow.client.outlet is not None
    assert slow.client.outlet.subscriber.promised == 0


def test_a_member_whose_connection_takes_nothing_is_passed_over(world: World) -> None:
    """The network to one member is stuck: QoS 0 goes to the other, too."""
    stuck, other = member(world, "stuck", 0), member(world, "other", 0)
    stuck.stop_taking()
    for _ in range(10):
        say(world, "t", b"x", 0)
    assert payloads(other) == [b"x"] * 10


def test_when_all_are_full_messages_wait(world: World) -> None:
    """Nothing is lost: each waits in somebody's queue, and comes when there is room."""
    guest = member(world, "guest", receive_maximum=2)
    sent = say_numbers(world, 10)
    seen: list[bytes] = []
    while found := only_publishes(guest.packets()):
        assert len(found) <= 2
        for message in found:
            seen.append(message.payload)
            guest.send(Puback(message.packet_id))
    assert seen == sent


def test_when_all_queues_are_full_messages_are_dropped_and_counted() -> None:
    """As for any other session [G9]."""
    world = World(MemoryStore(QueueLimits(4)))
    one, two = member(world, "1"), member(world, "2")
    say_numbers(world, 10)
    assert (len(payloads(one)), len(payloads(two))) == (4, 4)
    assert world.broker.metrics.dropped["queue_full"] == 2


def test_what_a_clean_member_leaves_goes_to_one_who_is_offline(world: World) -> None:
    """Nobody else is connected: it waits in the durable member's session."""
    absent = durable(world, "absent")
    subscribe(absent, SHARE, qos=1)
    absent.drop()
    clean = member(world, "clean")
    sent = say_numbers(world, 3)
    assert payloads(clean) == sent
    clean.drop()
    assert Counter(payloads(durable(world, "absent", present=True))) == Counter(sent)


def test_the_last_one_out(world: World) -> None:
    """With the last member its messages go; who joins later begins with nothing."""
    first = member(world, "first")
    say_numbers(world, 3)
    first.drop()
    world.advance(2)
    assert member(world, "second").packets() == []
    assert world.store.inner.due(world.clock.seconds(), 10).result.orphans == []


@pytest.mark.parametrize("crash", [True, False])
def test_what_clean_members_have_when_the_node_goes_down(world: World, crash: bool) -> None:
    """A durable member gets it after the start."""
    kept = durable(world, "kept")
    subscribe(kept, SHARE, qos=1)
    kept.drop()
    clean = member(world, "clean")
    sent = say_numbers(world, 3)
    assert payloads(clean) == sent
    again = restart(world, crash)
    again.advance(2)
    assert Counter(payloads(durable(again, "kept", present=True))) == Counter(sent)


def test_what_is_handed_on_is_what_it_was(world: World) -> None:
    """With its properties, at the QoS of the new one, with his identifier; and it is no resend for him."""
    first = member(world, "first", 1)
    message = publish("t", b"x", 2, id=1, content_type="text/plain", retain=True)
    hand_over(connect(world, "publisher"), message)
    assert payloads(first) == [b"x"]
    second = connect(world, "second")
    subscribe(second, SHARE, qos=2, identifier=9, retain_as_published=True)
    first.drop()
    [got] = only_publishes(second.packets())
    assert (got.qos, got.retain, got.dup, got.topic) == (2, True, False, "t")
    assert got.properties == {3: "text/plain", 11: [9]}


def test_puback_waits_until_a_member_has_it(world: World) -> None:
    """Also a clean one: if it goes without taking it, somebody else gets it [G1]."""
    guest = member(world, "guest")
    publisher = world.connect("publisher")
    world.hold()
    publisher.send(Publish("t", b"x", 1, packet_id=7))
    assert (publisher.packets(), guest.packets()) == ([], [])
    world.answer()
    assert publisher.packets() == [Puback(7)]
    assert payloads(guest) == [b"x"]


def test_a_session_with_both_kinds_of_subscriptions(world: World) -> None:
    """A clean session with a shared and an ordinary subscription: each delivery has a packet identifier of its own, and
    is acknowledged on its own, however they come."""
    guest = connect(world, "guest", receive_maximum=60)
    subscribe(guest, "u", qos=1)
    publisher = world.connect("publisher")
    for number in range(1, 11):
        publisher.send(Publish("u", b"u%d" % number, 1, packet_id=number))
    found = only_publishes(guest.packets())
    subscribe(guest, SHARE, qos=1, packet_id=2)
    for number in range(11, 21):
        publisher.send(Publish("t", b"t%d" % number, 1, packet_id=number))
        publisher.send(Publish("u", b"u%d" % number, 1, packet_id=number + 100))
    found += only_publishes(guest.packets())
    assert len({message.packet_id for message in found}) == len(found) == 30
    assert Counter(message.payload[:1] for message in found) == {b"u": 20, b"t": 10}
    other = member(world, "other")
    for message in found:
        if message.payload not in (b"t15", b"u15"):
            guest.send(Puback(message.packet_id))
    guest.drop()
    assert payloads(other) == [b"t15"]


def test_a_group_that_was_left_keeps_nothing_back(world: World) -> None:
    """After UNSUBSCRIBE the others get all; what had come before may still be acknowledged."""
    guest, other = member(world, "guest"), member(world, "other")
    say_numbers(world, 2)
    [message] = only_publishes(guest.packets())
    other.packets()
    guest.send(b"\xa2" + bytes((2 + 1 + 2 + len(SHARE),)) + b"\0\7\0" + len(SHARE).to_bytes(2, "big") + SHARE.encode())
    guest.packets()
    guest.send(Puback(message.packet_id))
    say_numbers(world, 4)
    assert len(payloads(other)) == 4
    guest.drop()
    assert other.packets() == []


@pytest.mark.parametrize("policy", [policy.value for policy in SharePolicy])
@pytest.mark.parametrize("qos", [0, 1])
def test_each_policy(policy: str, qos: int) -> None:
    """Whoever it chooses, nothing is lost and nothing comes twice; and it is the policy that was asked for."""
    shares._random.seed(1)  # one time in a thousand, chance gives each of four the same
    world = World(shared_subscription_policy=policy, max_inflight=32)
    members = [member(world, f"m{number}") for number in range(4)]
    sent = say_numbers(world, 100, 1) if qos else []
    if not qos:
        publisher = world.connect("publisher")
        sent = [b"%d" % number for number in range(100)]
        publisher.send(*(Publish("t", payload) for payload in sent))
    parts = [payloads(guest) for guest in members]
    assert Counter(payload for part in parts for payload in part) == Counter(sent)
    sizes = sorted(map(len, parts))
    if policy == "sticky":
        assert sizes == ([4, 32, 32, 32] if qos else [0, 0, 0, 100])  # a window holds 32
    elif policy == "random":
        assert 8 < sizes[0] < 25
    else:
        assert sizes == [25] * 4


def test_a_3_1_1_client_may_take_over_a_member(world: World) -> None:
    """The same client id comes back with 3.1.1: its session is what it was, its shared subscription included, and what
    it asks for itself is no shared one."""
    subscribe(durable(world, "c"), SHARE, qos=1)
    older = world.connect("c", 4, clean_start=False, present=True)
    older.send(Subscribe(2, [("$share/other/t", Subscription(1))]))
    older.packets()
    connect(world, "member")
    sent = say_numbers(world, 2)
    assert payloads(older) == sent
