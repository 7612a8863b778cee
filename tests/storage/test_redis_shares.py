"""Groups whose members are in different partitions: who gets a message is settled once, whatever happens half-way."""

from __future__ import annotations

import pytest

from mqttcluster.core.message import FIRST_SHARED
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import FULL, GONE, Chosen, Opened, Orphan, QueueLimits, StoredWill, Target
from mqttcluster.storage.redis_calls import Publish
from mqttcluster.storage.redis_plan import Plan
from mqttcluster.storage.redis_rounds import WILL_LEASE
from tests.cluster.redis_server import RedisServer
from tests.storage.contract import GROUP, left, payloads
from tests.storage.driver import message, to
from tests.storage.redis_nodes import Node, Nodes


def member(opened: Opened, client_id: str, qos: int = 2) -> Target:
    return to(opened, client_id, qos=qos, share=GROUP)


def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a node dies behind the first attempt to queue a message, before it looks what came of it."""

    def die(self: Publish, plan: Plan) -> None:
        pass

    monkeypatch.setattr(Publish, "more", die)


def held(node: Node, opened: Opened, client_id: str) -> list[bytes]:
    return [payload for _, payload in payloads(node.read(client_id, opened.epoch))]


def test_the_one_on_record_comes_first(a: Node, b: Node) -> None:
    """The publisher comes to another node, where somebody else would be next. Who has it keeps it [G2]."""
    publisher, one, two = a.open("p"), a.open("1"), b.open("2")
    text, exchange = message("x", qos=2), ("p", publisher.epoch, 7)
    [chosen] = a.publish(text, shares=[[member(one, "1"), member(two, "2")]], exchange=exchange).chosen
    assert chosen == Chosen(member(one, "1"), 1, ("a", one.epoch), waiting=1)
    again = b.open("p")
    answer = b.publish(text, shares=[[member(two, "2"), member(one, "1")]], exchange=("p", again.epoch, 7))
    assert (answer.chosen, answer.again) == ((), True)
    assert (held(a, one, "1"), held(b, two, "2")) == ([b"x"], [])


def test_groups_of_later_get_nothing_of_earlier(a: Node) -> None:
    """Who joins while a publisher repeats itself is too late; that the message is taken once is worth more."""
    publisher, one = a.open("p"), a.open("1")
    text, exchange = message("x", qos=2), ("p", publisher.epoch, 7)
    a.publish(text, exchange=exchange)
    assert a.publish(text, shares=[[member(one, "1")]], exchange=exchange).chosen == ()


@pytest.mark.parametrize("why", ["gone", "full"])
def test_others_are_tried_and_put_on_record(nodes: Nodes, why: str) -> None:
    """The first is not there, or full. The second is on record when the publisher comes again."""
    a, b = (nodes.make(name, limits=QueueLimits(1)) for name in "ab")
    publisher, one, two, three = a.open("p"), a.open("1"), a.open("2"), a.open("3")
    text, exchange = message("x", qos=2), ("p", publisher.epoch, 7)
    if why == "full":
        a.publish(message("fills"), to(one, "1"))
    else:
        a.open("1", clean=True)
    group = [member(one, "1"), member(two, "2"), member(three, "3")]
    assert a.publish(text, shares=[group], exchange=exchange).chosen[0].target.client_id == "2"
    assert b.publish(text, shares=[group[::-1]], exchange=exchange).stale is False
    assert [held(a, opened, name) for opened, name in ((two, "2"), (three, "3"))] == [[b"x"], []]


def test_who_has_gone_without_it_is_replaced(a: Node, b: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node dies when it is known that the chosen one is not there any more, before it has chosen anew."""
    publisher, one, two = a.open("p"), a.open("1"), a.open("2")
    a.open("1", clean=True)
    text, exchange = message("x", qos=2), ("p", publisher.epoch, 7)
    with monkeypatch.context() as cut:
        cut_short(cut)
        a.publish(text, shares=[[member(one, "1"), member(two, "2")]], exchange=exchange)
    again = b.open("p")
    for expected in (1, 0):
        assert len(b.publish(text, shares=[[member(two, "2")]], exchange=("p", again.epoch, 7)).chosen) == expected
    assert held(a, two, "2") == [b"x"]


def test_who_is_full_when_it_is_repeated_gets_it(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node that was told "full" may still be about to put somebody else on record; so it is the one on record."""
    a = nodes.make("a", limits=QueueLimits(1))
    publisher, one, two = a.open("p"), a.open("1"), a.open("2")
    a.publish(message("fills"), to(one, "1"))
    text, exchange = message("x", qos=2), ("p", publisher.epoch, 7)
    with monkeypatch.context() as cut:
        cut_short(cut)
        a.publish(text, shares=[[member(one, "1"), member(two, "2")]], exchange=exchange)
    [chosen] = a.publish(text, shares=[[member(two, "2")]], exchange=exchange).chosen
    assert (chosen.target.client_id, chosen.sequence) == ("1", 2)
    assert a.publish(text, shares=[[member(two, "2")]], exchange=exchange).chosen == ()


def test_an_old_node_does_not_choose_anew(
    redis: RedisServer, a: Node, b: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher moves after the attempt that failed, before somebody else is on record: who that is to be is the
    new node's to say."""
    publisher, one, two, three = a.open("p"), a.open("1"), a.open("2"), a.open("3")
    a.open("1", clean=True)
    text, group = message("x", qos=2), [member(one, "1"), member(two, "2")]
    go_on = Publish.more
    moved: list[int] = []

    def move(self: Publish, plan: Plan) -> None:
        if not moved:
            with redis.client() as client:
                [key] = client.keys("mc:*s:p")
                moved.append(client.hincrby(key, "epoch", 1))
        go_on(self, plan)

    with monkeypatch.context() as patched:
        patched.setattr(Publish, "more", move)
        assert a.publish(text, shares=[group], exchange=("p", publisher.epoch, 7)).stale
    assert len(b.publish(text, shares=[[member(three, "3")]], exchange=("p", moved[0], 7)).chosen) == 1
    assert (held(a, two, "2"), held(a, three, "3")) == ([], [b"x"])


def test_who_had_it_is_remembered_beyond_his_session(a: Node, b: Node) -> None:
    """A clean member got it, its session has ended, and what it left was handed on. The publisher's repetition finds
    that the group has it."""
    publisher, one, two = a.open("p"), a.open("1", clean=True, expiry=0), a.open("2")
    a.subscribe("1", one.epoch, {GROUP: Subscription(2)})
    text, exchange = message("x", qos=2), ("p", publisher.epoch, 7)
    assert len(a.publish(text, shares=[[member(one, "1"), member(two, "2")]], exchange=exchange).chosen) == 1
    a.close("1", one.epoch, sent=FIRST_SHARED)
    [orphan] = b.due(0.0).orphans
    assert len(b.publish(text, shares=[[member(two, "2")]], orphan=orphan).chosen) == 1
    assert a.publish(text, shares=[[member(two, "2")]], exchange=exchange).chosen == ()
    a.open("1")
    assert a.publish(text, shares=[[member(two, "2")]], exchange=exchange).chosen == ()
    assert held(a, two, "2") == [b"x"]


def orphaned(node: Node, count: int, qos: int) -> None:
    """A clean member's session ends with so many messages that were never sent."""
    opened = node.open("gone", clean=True, expiry=0)
    node.subscribe("gone", opened.epoch, {GROUP: Subscription(2)})
    for number in range(count):
        node.publish(message(str(number), qos=qos), shares=[[member(opened, "gone", qos)]])
    node.close("gone", opened.epoch)


def test_an_orphan_is_in_one_hand(a: Node, b: Node) -> None:
    """Two nodes look what is due: each orphan is with one of them; if that one dies it is the other's after a while."""
    orphaned(a, 3, 1)
    assert len(left(a)) == 3
    assert left(b) == []
    found = b.due(WILL_LEASE).orphans
    assert sorted(orphan.message.payload for orphan in found) == [b"0", b"1", b"2"]
    for orphan in found:
        b.publish(orphan.message, orphan=orphan)
    assert left(a, 1000.0) == left(b, 1000.0) == []


def test_an_orphan_whose_taker_dies(a: Node, b: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The taker has handed on a hundred messages, and nobody has noted it: who takes them then begins with those who
    have them, and they refuse all. At QoS 2 nobody gets anything twice."""
    one, two = a.open("1"), b.open("2")
    orphaned(a, 100, 2)
    with monkeypatch.context() as cut:
        cut_short(cut)
        for orphan in a.due(0.0).orphans:
            a.publish(orphan.message, shares=[[member(one, "1")]], orphan=orphan)
    found: list[Orphan] = b.due(WILL_LEASE).orphans
    assert len(found) == 100
    for orphan in found:
        assert b.publish(orphan.message, shares=[[member(two, "2")]], orphan=orphan).chosen == ()
    assert held(b, two, "2") == []
    assert sorted(held(a, one, "1")) == sorted(b"%d" % number for number in range(100))
    assert left(a, 1000.0) == []


def test_a_will_for_a_group(a: Node, b: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose publisher dies: the other node does not choose somebody else."""
    one, two, dying = a.open("1"), b.open("2"), a.open(will=StoredWill(message("x", qos=2)))
    a.close("c", dying.epoch)
    [(client_id, epoch, text)] = a.due(0.0).wills
    with monkeypatch.context() as cut:
        cut_short(cut)
        a.publish(text, shares=[[member(one, "1")]], will=(client_id, epoch))
    [(client_id, epoch, text)] = b.due(WILL_LEASE).wills
    assert b.publish(text, shares=[[member(two, "2")]], will=(client_id, epoch)).chosen == ()
    assert (held(a, one, "1"), held(b, two, "2")) == ([b"x"], [])


def test_what_a_dead_node_leaves_of_its_members(a: Node, b: Node) -> None:
    """Durable ones keep their queues. What clean ones have not acknowledged at QoS 1 goes to others; what they may have
    been sent at QoS 2 does not."""
    clean, kept = a.open("clean", clean=True, expiry=0), a.open("kept")
    for opened, name in ((clean, "clean"), (kept, "kept")):
        a.subscribe(name, opened.epoch, {GROUP: Subscription(2)})
        for qos in (1, 2):
            a.publish(message(f"{qos}", qos=qos), shares=[[member(opened, name, qos)]])
    b.reap("a", now=1.0)
    assert [(name, payload) for name, _, _, payload in left(b, 1.0)] == [("clean", b"1")]
    again = b.open("kept")
    assert [payload for _, payload in payloads(again.queue)] == [b"1", b"2"]
    assert b.publish(message(), shares=[[member(clean, "clean")]]).chosen[0].sequence == GONE


def test_a_node_that_starts_knows_the_members(a: Node, b: Node) -> None:
    """Who is connected, and where; and that a clean one is there, too, as long as it is."""
    clean, kept, offline = a.open("clean", clean=True, expiry=0), a.open("kept"), a.open("offline")
    for opened, name in ((clean, "clean"), (kept, "kept"), (offline, "offline")):
        a.subscribe(name, opened.epoch, {GROUP: Subscription(1)})
    a.close("offline", offline.epoch)
    found = {one.client_id: (one.node, one.durable, set(one.subscriptions)) for one in b.recover().sessions}
    group = {GROUP}
    assert found == {"clean": ("a", False, group), "kept": ("a", True, group), "offline": ("", True, group)}
    a.close("clean", clean.epoch)
    assert {one.client_id for one in b.recover().sessions} == {"kept", "offline"}


def test_all_are_full(nodes: Nodes) -> None:
    a = nodes.make("a", limits=QueueLimits(1))
    opened = [(a.open(name), name) for name in "123"]
    group = [member(one, name, 1) for one, name in opened]
    assert [a.publish(message(), shares=[group]).chosen[0].sequence for _ in range(4)] == [1, 1, 1, FULL]
