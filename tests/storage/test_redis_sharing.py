"""Two nodes on one Redis."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, gatherResults

from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import GONE, NEVER, Closed, Publication, StoredWill, StoreError
from mqttcluster.storage.redis_rounds import WILL_LEASE
from tests.storage.contract import payloads
from tests.storage.driver import message, outcome, to
from tests.storage.redis_nodes import Node, Nodes


class TestTakeover:
    def test_the_session_moves(self, a: Node, b: Node) -> None:
        """A client that the load balancer sends elsewhere finds everything; the old node can do nothing more [G3]."""
        old = a.open(will=StoredWill(message("gone"), 10))
        a.subscribe("c", old.epoch, {"x": Subscription(2)})
        a.publish(message("1", qos=2), to(old, qos=2))
        new = b.open()
        assert (new.present, new.previous, new.unannounced) == (True, ("a", old.epoch), True)
        assert new.subscriptions == {"x": Subscription(2)}
        assert payloads(new.queue) == [(1, b"1")]
        assert new.sent == 1
        assert a.acknowledge("c", old.epoch, done=[1]) is False
        assert a.subscribe("c", old.epoch, {"y": Subscription(1)}) is False
        assert a.release("c", old.epoch, 1) is False
        assert a.read("c", old.epoch) == []
        assert a.publish(message("x"), exchange=("c", old.epoch, 1)).stale
        assert a.close("c", old.epoch) is Closed.STALE
        assert payloads(b.read("c", new.epoch)) == [(1, b"1")]
        assert a.open("new").previous is None

    def test_what_is_retained_late_for_an_older_connection(self, a: Node, b: Node) -> None:
        """It is refused as long as the client has a newer one; an epoch that Redis does not know is not of the past."""
        older = a.open()
        newer = b.open()
        late, new = message("older", "t"), message("newer", "t")
        assert b.publish(new, retain=True, origin=("c", newer.epoch)).version
        assert a.publish(late, to(newer), retain=True, origin=("c", older.epoch)).stale
        assert payloads(b.read("c", newer.epoch)) == []
        assert b.publish(new, retain=True, origin=("c", newer.epoch + 1)).version
        assert a.publish(late, retain=True, origin=("nobody", 1)).version

    def test_publishers_learn_the_owner(self, a: Node, b: Node) -> None:
        """They ring the right door: that of the present connection."""
        opened = b.open()
        assert a.publish(message("1"), to(opened)).owners == (("b", opened.epoch),)
        b.close("c", opened.epoch)
        published = a.publish(message("2"), to(opened), to(opened, "nobody"))
        assert published.owners == (("", 0), ("", 0))
        assert published.sequences == [2, GONE]

    def test_two_open_at_once(self, nodes: Nodes, a: Node, b: Node) -> None:
        """One of them is the last, and the other knows or will be told."""
        for _ in range(20):
            asked = gatherResults([node.store.open("c", False, NEVER, None, 0.0, 10) for node in (a, b)])
            one, two = sorted(outcome(asked, nodes.reactor), key=lambda opened: opened.epoch)
            assert two.previous is not None
            assert two.previous[1] == one.epoch
            owner = b if two.previous[0] == "a" else a
            assert owner.release("c", two.epoch)

    def test_subscriptions_stay_unannounced_until_they_are(self, a: Node, b: Node) -> None:
        first = a.open()
        assert not first.unannounced
        a.subscribe("c", first.epoch, {"x": Subscription(1)})
        second = b.open()
        assert second.unannounced
        assert a.announced("c", first.epoch) is False
        assert b.announced("c", second.epoch) is True
        assert not a.open().unannounced


class TestReap:
    def prepare(self, a: Node) -> None:
        for number in range(40):
            opened = a.open(f"kept{number}", expiry=100, will=StoredWill(message(f"w{number}"), 5))
            a.subscribe(f"kept{number}", opened.epoch, {"t": Subscription(1)})
            if number % 2:
                a.announced(f"kept{number}", opened.epoch)
            a.publish(message("1"), to(opened, f"kept{number}"))
            a.open(f"clean{number}", clean=True, expiry=0, will=StoredWill(message(f"c{number}")))

    def test_what_a_dead_node_owned(self, a: Node, b: Node) -> None:
        """Its clients come back elsewhere and find their sessions; its wills are published [G7]."""
        self.prepare(a)
        other = b.open("other")
        unannounced = b.reap("a", now=50.0)
        assert set(unannounced) == {f"kept{number}" for number in range(0, 40, 2)}
        assert unannounced["kept0"].subscriptions == {"t": Subscription(1)}
        assert len(b.due(50.0).wills) == 40
        assert len(b.due(55.0).wills) == 80
        assert b.release("other", other.epoch)
        assert not b.open("clean1", now=60.0).present
        again = b.open("kept1", expiry=100, now=60.0)
        assert (again.present, again.sent, again.previous, again.generation) == (True, 1, None, again.generation)
        assert len(b.due(151.0).expired) == 39

    def test_two_reap_at_once(self, nodes: Nodes, a: Node, b: Node) -> None:
        """Each session is ended once, and both tell what is to be announced."""
        self.prepare(a)
        c = nodes.make("c")
        asked = gatherResults([node.store.reap("a", 50.0) for node in (b, c)])
        found = outcome(asked, nodes.reactor)
        told = {each.client_id for kept in found for each in kept}
        assert told == {f"kept{number}" for number in range(0, 40, 2)}
        wills = [each[0] for node in (b, c) for each in node.due(55.0).wills]
        assert len(wills) == len(set(wills)) == 80

    def test_a_buried_node_writes_nothing(self, a: Node, b: Node) -> None:
        """It was stopped, not dead: when it wakes, whatever it still had to say comes too late."""
        opened = a.open()
        b.reap("a")
        for asked in (
            lambda: a.publish(message("late"), to(opened)),
            lambda: a.open("new"),
            lambda: a.acknowledge("c", opened.epoch, done=[1]),
        ):
            with pytest.raises(StoreError, match="dead"):
                asked()
        assert b.open().queue == []
        a.store.node = "a2"
        assert a.open("new").epoch

    def test_a_session_that_moved_is_left_alone(self, a: Node, b: Node) -> None:
        a.open()
        moved = b.open()
        b.reap("a")
        assert b.release("c", moved.epoch)


class TestWills:
    def test_exactly_one_node_takes_each(self, nodes: Nodes, a: Node, b: Node) -> None:
        for number in range(50):
            opened = a.open(f"c{number}", will=StoredWill(message(str(number))))
            a.close(f"c{number}", opened.epoch)
        asked = gatherResults([node.store.due(0.0, 100) for node in (a, b)])
        taken = [client_id for due in outcome(asked, nodes.reactor) for client_id, _, _ in due.wills]
        assert sorted(taken) == sorted(f"c{number}" for number in range(50))

    def test_those_in_other_hands_do_not_hide_the_rest(self, a: Node, b: Node) -> None:
        for number in range(20):
            opened = a.open(f"c{number}", will=StoredWill(message(str(number))))
            a.close(f"c{number}", opened.epoch, now=float(number))
        assert len(a.due(20.0, limit=15).wills) == 15
        assert len(b.due(20.0, limit=3).wills) == 3
        assert len(b.due(20.0, limit=15).wills) == 5

    def test_it_is_due_again_if_its_taker_dies(self, a: Node, b: Node) -> None:
        """The second node publishes it; who has it from the first does not get it twice."""
        subscriber, late = b.open("s"), b.open("l")
        opened = a.open(will=StoredWill(message("gone", qos=2)))
        a.close("c", opened.epoch)
        [(client_id, epoch, text)] = a.due(0.0).wills
        assert b.due(0.0).wills == []
        [again] = b.due(WILL_LEASE).wills
        assert again == (client_id, epoch, text)
        assert a.publish(text, to(subscriber, "s"), will=(client_id, epoch)).sequences == [1]
        assert b.publish(text, to(subscriber, "s"), to(late, "l"), will=(client_id, epoch)).sequences == [GONE, 1]
        b.will_published(client_id, epoch)
        assert a.publish(text, to(subscriber, "s"), will=(client_id, epoch)).repeated

    def test_a_taken_will_is_not_cancelled(self, a: Node, b: Node) -> None:
        opened = a.open(will=StoredWill(message("gone"), 5))
        a.close("c", opened.epoch)
        assert len(a.due(5.0).wills) == 1
        assert b.open(now=4.0).present, "a clock that is a little behind"
        assert len(a.due(5.0).wills) == 1

    def test_a_session_expires_once(self, nodes: Nodes, a: Node, b: Node) -> None:
        for number in range(50):
            opened = a.open(f"c{number}", expiry=1)
            a.close(f"c{number}", opened.epoch)
        asked = gatherResults([node.store.due(1.0, 100) for node in (a, b)])
        ended = [client_id for due in outcome(asked, nodes.reactor) for client_id, _ in due.expired]
        assert sorted(ended) == sorted(f"c{number}" for number in range(50))


class TestExchanges:
    """A QoS 2 publisher that moves between nodes in the middle of things [G2]."""

    def test_half_stored_then_sent_again_elsewhere(self, a: Node, b: Node) -> None:
        """Its node died when half of the receivers had the message: each gets it exactly once."""
        one, two = a.open("one"), a.open("two")
        at_a = a.open("p")
        a.publish(message("7", qos=2), to(one, "one"), exchange=("p", at_a.epoch, 7))
        at_b = b.open("p")
        again = b.publish(message("7", qos=2), to(one, "one"), to(two, "two"), exchange=("p", at_b.epoch, 7))
        assert again.sequences == [GONE, 1]
        assert b.release("p", at_b.epoch, 7)
        assert [payloads(a.read(name, each.epoch)) for name, each in (("one", one), ("two", two))] == [[(1, b"7")]] * 2

    def test_the_old_node_wakes_after_all_is_over(self, a: Node, b: Node) -> None:
        """What it had begun it cannot go on with."""
        one = b.open("one")
        at_a = a.open("p")
        at_b = b.open("p")
        b.publish(message("7", qos=2), to(one, "one"), exchange=("p", at_b.epoch, 7))
        b.release("p", at_b.epoch, 7)
        assert a.publish(message("7", qos=2), to(one, "one"), exchange=("p", at_a.epoch, 7)).stale
        assert payloads(b.read("one", one.epoch)) == [(1, b"7")]

    def test_something_new_before_the_old_one_again(self, a: Node, b: Node) -> None:
        """A client may send in any order after it moved: both arrive, once."""
        one, two = a.open("one"), a.open("two")
        at_a = a.open("p")
        a.publish(message("7", qos=2), to(one, "one"), exchange=("p", at_a.epoch, 7))
        at_b = b.open("p")
        new = b.publish(message("8", qos=2), to(one, "one"), to(two, "two"), exchange=("p", at_b.epoch, 8))
        again = b.publish(message("7", qos=2), to(one, "one"), to(two, "two"), exchange=("p", at_b.epoch, 7))
        assert (new.sequences, again.sequences) == ([2, 1], [GONE, 2])

    def test_a_late_release_does_not_free_the_next_message(self, a: Node, b: Node) -> None:
        """The packet id is in use again, for another message, when the old node's release arrives."""
        one = b.open("one")
        at_a = a.open("p")
        a.publish(message("7", qos=2), to(one, "one"), exchange=("p", at_a.epoch, 7))
        at_b = b.open("p")
        b.release("p", at_b.epoch, 7)
        b.publish(message("new 7", qos=2), to(one, "one"), exchange=("p", at_b.epoch, 7))
        assert a.release("p", at_a.epoch, 7) is False
        again = b.publish(message("new 7", qos=2), to(one, "one"), exchange=("p", at_b.epoch, 7))
        assert again.sequences == [GONE]

    def test_release_and_reuse_without_waiting(self, nodes: Nodes, a: Node) -> None:
        """The same packet id again and again, all under way at once."""
        one, publisher = a.open("one"), a.open("p")
        asked: list[Deferred[object]] = []
        for number in range(50):
            publication = Publication(message(str(number), qos=2), [to(one, "one")], exchange=("p", publisher.epoch, 7))
            asked.append(a.store.publish(publication))  # type: ignore[arg-type]
            asked.append(a.store.release("p", publisher.epoch, [7]))  # type: ignore[arg-type]
        outcome(gatherResults(asked), nodes.reactor)
        assert payloads(a.read("one", one.epoch)) == [(number + 1, b"%d" % number) for number in range(50)]

    def test_what_is_remembered_stays_small(self, nodes: Nodes, a: Node) -> None:
        """A thousand messages leave behind the numbers that are still open, not a thousand numbers."""
        one, publisher = a.open("one"), a.open("p")
        for number in range(1000):
            packet_id = number % 10 + 1
            a.store.release("p", publisher.epoch, [packet_id])
            asked = a.store.publish(
                Publication(message("x", qos=2), [to(one, "one")], exchange=("p", publisher.epoch, packet_id))
            )
        outcome(asked, nodes.reactor)
        with nodes.server.client() as client:
            [key] = client.keys("mc:*:d:one")
            [value] = client.hvals(key)
        assert len(value) < 100


class TestOrder:
    def test_publishers_on_two_nodes(self, nodes: Nodes, a: Node, b: Node) -> None:
        """Each publisher's messages stay in order, and the numbers have no gaps [G4]."""
        opened = a.open(limit=0)
        asked = [
            node.store.publish(Publication(message(f"{name}{number}"), [to(opened)]))
            for number in range(200)
            for name, node in (("a", a), ("b", b))
        ]
        outcome(gatherResults(asked), nodes.reactor)
        queue = payloads(a.read("c", opened.epoch))
        assert [sequence for sequence, _ in queue] == list(range(1, 401))
        for name in (b"a", b"b"):
            assert [text for _, text in queue if text[:1] == name] == [name + b"%d" % number for number in range(200)]


class TestRetained:
    def versions(self, node: Node) -> list[int]:
        return list(node.wait(node.store.retained_versions()))

    def test_what_has_changed(self, a: Node, b: Node) -> None:
        """A node that missed the hints finds out what to catch up with [G6]."""
        partition = a.store.retained_partition("t")
        before = self.versions(b)
        assert b.wait(b.store.retained_since(partition, before[partition])) == (before[partition], [])
        one = a.publish(message("1", "t", retain=True), retain=True)
        assert self.versions(b)[partition] == one.version
        for text in ("2", "3"):
            a.publish(message(text, "t", retain=True), retain=True)
        last = a.publish(message("", "t", retain=True), retain=True)
        version, changes = b.wait(b.store.retained_since(partition, one.version))
        assert version == last.version == self.versions(b)[partition]
        assert [(each.version, each.topic, each.message) for each in changes] == [(last.version, "t", None)]
        after = a.publish(message("4", "t", retain=True), retain=True)
        version, [change] = b.wait(b.store.retained_since(partition, last.version))
        assert (version, change.version) == (after.version, after.version)
        assert change.message == message("4", "t", retain=True)

    def test_a_node_that_knows_nothing_gets_all(self, a: Node, b: Node) -> None:
        topics = [topic for number in range(100) if a.store.retained_partition(topic := f"t{number}") == 3]
        answers = [a.publish(message(topic, topic, retain=True), retain=True) for topic in topics]
        version, [first, *others] = b.wait(b.store.retained_since(3, 0))
        assert (first.version, first.message) == (0, None)
        assert [each.topic for each in others] == topics
        assert version == answers[-1].version

    def test_a_log_that_does_not_reach_back(self, nodes: Nodes, a: Node, b: Node) -> None:
        """It was trimmed: the whole partition is told, or a removal would be missed."""
        partition = a.store.retained_partition("t")
        known = a.publish(message("1", "t", retain=True), retain=True).version
        a.publish(message("", "t", retain=True), retain=True)
        with nodes.server.client() as client:
            client.xtrim(f"mc:{{r{partition}}}:log", maxlen=1, approximate=False)
        _, changes = b.wait(b.store.retained_since(partition, known))
        assert [(each.version, each.message) for each in changes] == [(0, None)]

    def test_many_changes_come_in_parts(self, nodes: Nodes, a: Node, b: Node) -> None:
        topics = [topic for number in range(40000) if a.store.retained_partition(topic := f"t{number}") == 5][:1500]
        known = 0
        asked = [a.store.publish(Publication(message(topic, topic, retain=True), retain=True)) for topic in topics]
        first, *_ = outcome(gatherResults(asked), nodes.reactor)
        told, known = [], first.version
        while known != self.versions(b)[5]:
            known, changes = b.wait(b.store.retained_since(5, known))
            told += [each.topic for each in changes]
        assert told == topics[1:]
