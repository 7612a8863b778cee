"""Who of a group is next, whatever the policy; and who is passed over."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.core.message import Delivery, Message
from mqttcluster.core.routing import Receiver, Routing, Subscriber
from mqttcluster.core.run import Run
from mqttcluster.core.shares import ENOUGH, MUCH, Group, SharePolicy
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import matches


class Here:
    """An outlet of which only its room is of interest."""

    epoch = 1

    def __init__(self, ready: bool = True) -> None:
        self.room = 1 if ready else 0

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        raise NotImplementedError

    def deliver_run(self, run: Run, qos: int, identifiers: tuple[int, ...]) -> None:
        raise NotImplementedError

    def arrived(self, delivery: Delivery) -> None:
        raise NotImplementedError


def group(places: str) -> Group:
    """A group with a member for each letter: `h`ere, `f`ull, `e`lsewhere, `o`ffline; named by letter and number."""
    made = Group("$share/g/t")
    for number, place in enumerate(places):
        subscriber = Subscriber(f"{place}{number}", 1, durable=True)
        subscriber.outlet = Here(place == "h") if place in "hf" else None
        subscriber.node = "other" if place == "e" else ""
        made.join(subscriber, Subscription(1))
    return made


def order(made: Group, policy: SharePolicy = SharePolicy.ROUND_ROBIN, random: Random | None = None) -> list[str]:
    return [member.subscriber.client_id for member in made.order(policy, random or Random(1))]


def test_round_robin_gives_each_his_turn() -> None:
    made = group("heh")
    assert [order(made)[0] for _ in range(5)] == ["h0", "e1", "h2", "h0", "e1"]


def test_who_is_passed_over_does_not_give_his_turn_to_his_neighbour() -> None:
    """Of four members two cannot take anything: the others have equal parts."""
    made = group("hffh")
    assert Counter(order(made)[0] for _ in range(10)) == {"h0": 5, "h3": 5}


@pytest.mark.parametrize("policy", SharePolicy)
def test_room_first_then_connected_then_the_others(policy: SharePolicy) -> None:
    """A full member is tried only after those with room, one that is offline only after all that are connected."""
    for _ in range(10):
        found = order(group("ofheofh"), policy)
        kinds = [name[0] for name in found]
        assert sorted(kinds[:3]) == ["e", "h", "h"]
        assert kinds[3:] == ["f", "f", "o", "o"]


def test_who_has_much_waiting_elsewhere_is_tried_now_and_then() -> None:
    """Nobody tells when he has taken it. So he gets less, the less the more there is, and not nothing for ever."""
    made = group("ee")
    slow = made.order()[0].subscriber
    turns = []
    for turn in range(200):
        if order(made)[0] == slow.client_id:
            turns.append(turn)
            slow.backlog = MUCH + len(turns)
    assert 10 < len(turns) < 30
    pauses = [later - earlier for earlier, later in pairwise(turns)]
    assert pauses == sorted(pauses)


def test_local_first() -> None:
    """Members at this node in turn; others only when those here are full."""
    made = group("ehheh")
    assert [order(made, SharePolicy.LOCAL_FIRST)[0] for _ in range(4)] == ["h1", "h2", "h4", "h1"]
    made = group("eff")
    assert order(made, SharePolicy.LOCAL_FIRST) == ["e0", "f1", "f2"]


def test_sticky_stays_as_long_as_it_can() -> None:
    """The same member until it is full or gone; then another one, who is kept in turn."""
    made = group("hhh")
    members = {member.subscriber.client_id: member.subscriber for member in made.order()}
    first = order(made, SharePolicy.STICKY)[0]
    assert [order(made, SharePolicy.STICKY)[0] for _ in range(3)] == [first] * 3
    members[first].outlet = Here(ready=False)
    second = order(made, SharePolicy.STICKY)[0]
    assert second != first
    members[first].outlet = Here()
    assert order(made, SharePolicy.STICKY)[0] == second
    made.leave(members[second])
    assert order(made, SharePolicy.STICKY)[0] != second


def test_random_is_fair() -> None:
    """Also to who comes behind one that is passed over, which a random place to begin at would not be."""
    made, random = group("hffffh"), Random(1)
    found = Counter(order(made, SharePolicy.RANDOM, random)[0] for _ in range(2000))
    assert set(found) == {"h0", "h5"}
    assert abs(found["h0"] - 1000) < 150


@pytest.mark.parametrize("policy", SharePolicy)
def test_a_large_group(policy: SharePolicy) -> None:
    """Enough are named, and not all of a thousand for each message."""
    assert ENOUGH <= len(order(group("h" * 1000), policy)) <= ENOUGH + 1
    assert order(group("o" * 999 + "h"), policy)[0] == "h999"


@given(st.sampled_from(SharePolicy), st.text("hfeo", max_size=12), st.integers(0, 12), st.integers(1, 5))
def test_nobody_is_named_twice_and_nobody_is_forgotten(
    policy: SharePolicy, places: str, left: int, turns: int
) -> None:
    """Whatever has happened before, each member is named, once."""
    made = group(places)
    for _ in range(turns):
        order(made, policy)
    if left < len(places):
        [gone] = [m.subscriber for m in made.order() if m.subscriber.client_id[1:] == str(left)]
        made.leave(gone)
    found = order(made, policy)
    assert len(found) == len(set(found)) == len(made)


def test_a_shared_subscription_is_no_other() -> None:
    """It brings its members no message of their own, and its filter matches by its inner part."""
    routing = Routing()
    first, second = Subscriber("1", 1, durable=False), Subscriber("2", 1, durable=False)
    routing.subscribe(first, "$share/g/a/+", Subscription(1))
    routing.subscribe(first, "a/b", Subscription(0))
    routing.subscribe(second, "$share/g/a/+", Subscription(2))
    routing.subscribe(second, "$share/h/a/+", Subscription(2))
    assert routing.match("a/b") == (Receiver(first, 0),)
    assert {made.share: len(made) for made in routing.matched("a/b").groups} == {"$share/g/a/+": 2, "$share/h/a/+": 1}
    assert routing.matched("$share/g/a/b").groups == ()
    assert len(routing) == 4
    routing.forget(second)
    assert [(made.share, len(made)) for made in routing.matched("a/b").groups] == [("$share/g/a/+", 1)]
    routing.unsubscribe(first, "$share/g/a/+")
    assert routing.matched("a/b").groups == ()
    assert (len(routing), first.levels, first.shares) == (1, 2, set())


FILTERS = ["t", "+", "#", "$S/#", "a/#"]
CALLS = st.tuples(st.booleans(), st.integers(0, 2), st.sampled_from("gh"), st.sampled_from(FILTERS))


@given(st.lists(CALLS, max_size=30))
def test_the_groups_are_those_of_a_plain_search(calls: list[tuple[bool, int, str, str]]) -> None:
    """Joining and leaving in any order, and what is remembered of topics never disagrees with it."""
    routing = Routing()
    subscribers = [Subscriber(str(n), 1, durable=False) for n in range(3)]
    plain: set[tuple[int, str, str]] = set()
    for join, who, name, inner in calls:
        if join:
            routing.subscribe(subscribers[who], f"$share/{name}/{inner}", Subscription(1))
            plain.add((who, name, inner))
        else:
            routing.unsubscribe(subscribers[who], f"$share/{name}/{inner}")
            plain.discard((who, name, inner))
        for topic in ("t", "a", "a/b", "$S/x"):
            expected: dict[str, set[str]] = {}
            for n, share, wanted in plain:
                if matches(wanted, topic):
                    expected.setdefault(f"$share/{share}/{wanted}", set()).add(str(n))
            groups = routing.matched(topic).groups
            assert {g.share: {m.subscriber.client_id for m in g.order()} for g in groups} == expected
