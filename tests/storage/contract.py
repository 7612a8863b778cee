"""The contract of `IStore`, as a suite. A store's test module inherits `Contract` and gives a `store` fixture.

`make(limits)` is the fixture that gives a started store; `store` is one with the limits the broker has by default.
A variant that restarts the store after each call inherits `LastingContract`: sessions that end with their connection
need not survive that, and calls cannot be made without waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mqttcluster.core.message import FIRST_SHARED, Message
from mqttcluster.mqtt.packets import Properties, Subscription
from mqttcluster.storage.interfaces import (
    FULL,
    GONE,
    NEVER,
    READ_BYTES,
    Closed,
    Publication,
    Published,
    QueueLimits,
    StoredWill,
    StoreError,
    Target,
)
from tests.storage.driver import Driver, message, outcome, to

Make = Callable[..., Driver]

GROUP = "$share/g/t"


def payloads(deliveries: list[Any]) -> list[tuple[int, bytes]]:
    return [(delivery.sequence, delivery.message.payload) for delivery in deliveries]


def will(text: str = "gone", delay: int = 0, topic: str = "will") -> StoredWill:
    return StoredWill(message(text, topic), delay)


def left(store: Driver, now: float = 0.0) -> list[tuple[str, int, str, bytes]]:
    """Orphans that are due: whose they were, their places there, their groups, and what they say."""
    return [(o.client_id, o.sequence, o.share, o.message.payload) for o in store.due(now).orphans]


class LastingContract:
    @pytest.fixture
    def store(self, make: Make) -> Driver:
        return make()

    # A store's life

    def test_calls_after_stop_fail(self, make: Make) -> None:
        """A broker that shuts down answers "server unavailable", not with a traceback."""
        store = make()
        outcome(store.store.stop(), store.reactor)
        for deferred in (
            store.store.recover(0.0),
            store.store.open("c", True, 0, None, 0.0, 1),
            store.store.close("c", 1, False, 0, 0.0),
            store.store.subscribe("c", 1, {}),
            store.store.publish(Publication(message())),
            store.store.acknowledge("c", 1),
            store.store.release("c", 1, ()),
            store.store.read("c", 1, 0, 1),
            store.store.will_published("c", 1),
            store.store.drop_retained(["t"], 0.0),
            store.store.due(0.0, 1),
        ):
            with pytest.raises(StoreError):
                outcome(deferred, store.reactor)

    def test_stop_finishes_what_was_asked(self, make: Make) -> None:
        """Publishes that are under way when the broker stops are acknowledged, not lost."""
        store = make()
        answers: list[object] = []
        for number in range(50):
            store.store.publish(Publication(message(str(number)))).addCallback(answers.append)
        outcome(store.store.stop(), store.reactor)
        assert answers == [Published([])] * 50

    def test_stop_twice(self, make: Make) -> None:
        store = make()
        outcome(store.store.stop(), store.reactor)
        assert outcome(store.store.stop(), store.reactor) is None

    def test_a_new_session_has_nothing(self, store: Driver) -> None:
        opened = store.open()
        assert not opened.present
        assert opened.generation == opened.epoch > 0
        assert (opened.subscriptions, opened.queue, opened.released, opened.inbound) == ({}, [], [], set())
        assert (opened.last, opened.sent, opened.wiped) == (0, 0, 0)

    def test_epochs_grow_over_all_clients(self, store: Driver) -> None:
        epochs = [store.open(f"c{number % 3}", clean=bool(number % 2)).epoch for number in range(9)]
        assert epochs == sorted(set(epochs))

    def test_a_kept_session_goes_on(self, store: Driver) -> None:
        """A client that comes back finds its subscriptions and its queue [MQTT-3.1.2-4]."""
        first = store.open(expiry=100)
        wanted = {"a/#": Subscription(1, True, True, 2, 7), "b/+": Subscription(2)}
        assert store.subscribe("c", first.epoch, wanted)
        assert store.close("c", first.epoch) is Closed.KEPT
        assert store.publish(message("one"), to(first)).sequences == [1]
        second = store.open(expiry=100, now=99.0)
        assert second.present
        assert second.epoch > first.epoch
        assert second.generation == first.generation
        assert second.subscriptions == wanted
        assert payloads(second.queue) == [(1, b"one")]
        assert (second.last, second.sent, second.wiped) == (1, 0, 0)

    def test_clean_wipes(self, store: Driver) -> None:
        """Clean session means nothing of the old one is seen again [MQTT-3.1.2-6]."""
        first = store.open()
        store.subscribe("c", first.epoch, {"a": Subscription(1)})
        store.publish(message("x", qos=2), to(first), exchange=("c", first.epoch, 5))
        store.publish(message("y", qos=2), to(first, qos=2))
        store.acknowledge("c", first.epoch, received=[2])
        second = store.open(clean=True)
        assert not second.present
        assert second.wiped == first.generation
        assert second.generation == second.epoch > first.epoch
        assert (second.subscriptions, second.queue, second.released, second.inbound) == ({}, [], [], set())
        assert second.last == 0
        store.close("c", second.epoch)
        third = store.open()
        assert third.present
        assert (third.subscriptions, third.queue, third.released, third.inbound) == ({}, [], [], set())

    def test_nothing_of_a_wiped_session_is_queued_any_more(self, store: Driver) -> None:
        """A publish that was planned before the wipe does not reach the session after it."""
        first = store.open()
        second = store.open(clean=True)
        assert store.publish(message("late"), to(first)).sequences == [GONE]
        assert store.publish(message("new"), to(second)).sequences == [1]
        assert payloads(store.read("c", second.epoch)) == [(1, b"new")]

    def test_an_expired_session_is_not_found(self, store: Driver) -> None:
        first = store.open(expiry=10)
        store.publish(message("x"), to(first))
        store.close("c", first.epoch, now=100.0)
        second = store.open(expiry=10, now=110.0)
        assert not second.present
        assert second.wiped == first.generation
        assert second.queue == []

    def test_never_means_never(self, store: Driver) -> None:
        first = store.open(expiry=NEVER)
        store.close("c", first.epoch, now=0.0)
        assert store.due(float(2 * NEVER)).expired == []
        assert store.open(now=float(2 * NEVER)).present

    def test_limit_bounds_what_open_reads(self, store: Driver) -> None:
        first = store.open()
        for number in range(10):
            store.publish(message(str(number)), to(first))
        second = store.open(limit=3)
        assert payloads(second.queue) == [(1, b"0"), (2, b"1"), (3, b"2")]
        assert second.last == 10
        assert payloads(store.read("c", second.epoch, after=3, limit=4)) == [(4, b"3"), (5, b"4"), (6, b"5"), (7, b"6")]
        assert payloads(store.read("c", second.epoch, after=7, limit=4)) == [(8, b"7"), (9, b"8"), (10, b"9")]
        assert store.read("c", second.epoch, after=10) == []
        assert store.open(limit=0).queue == []

    def test_large_messages_are_read_a_few_at_a_time(self, store: Driver) -> None:
        """An answer ends with the message by which it is large, however many were asked for; none is left out."""
        first = store.open()
        large = b"x" * (READ_BYTES // 4)
        for number in range(30):
            store.publish(Message("t", b"%d" % number + large if number in (2, 4, 6, 8, 29) else b"", 1), to(first))
        second = store.open()
        ends = [second.queue[-1].sequence]
        while entries := store.read("c", second.epoch, after=ends[-1]):
            assert [entry.sequence for entry in entries] == list(range(ends[-1] + 1, entries[-1].sequence + 1))
            ends.append(entries[-1].sequence)
        assert ends == [9, 30]

    def test_a_resumed_session_without_expiry_lives_as_long_as_its_connection(self, store: Driver) -> None:
        """MQTT 5.0: Clean Start 0 with Session Expiry 0 goes on with the session and ends it at the end."""
        first = store.open(expiry=100)
        store.subscribe("c", first.epoch, {"a": Subscription(1)})
        second = store.open(expiry=0)
        assert second.present
        assert store.publish(message("x"), to(first)).sequences == [1]
        assert payloads(store.read("c", second.epoch)) == [(1, b"x")]
        third = store.open(expiry=0)
        assert not third.present
        assert third.wiped == first.generation

    def test_takeover_keeps_the_session(self, store: Driver) -> None:
        """The newer connection gets everything; what the older may have sent goes out with DUP."""
        first = store.open()
        store.publish(message("1"), to(first))
        store.publish(message("2"), to(first))
        second = store.open()
        assert second.present
        assert payloads(second.queue) == [(1, b"1"), (2, b"2")]
        assert second.sent == 2
        store.publish(message("3"), to(first))
        store.close("c", second.epoch, sent=0)
        third = store.open()
        assert third.sent == 2, "what one connection may have sent stays sent"
        assert third.last == 3

    @pytest.mark.parametrize("how", ["taken over", "wiped", "closed", "never there"])
    def test_stale_calls_change_nothing(self, store: Driver, how: str) -> None:
        first = store.open(will=will())
        store.subscribe("c", first.epoch, {"a": Subscription(1)})
        store.publish(message("1"), to(first))
        store.publish(message("x", qos=2), exchange=("c", first.epoch, 5))
        epoch = first.epoch
        second = first
        if how == "taken over":
            second = store.open()
        elif how == "wiped":
            second = store.open(clean=True)
        elif how == "closed":
            store.close("c", epoch, publish_will=False)
        else:
            epoch = first.epoch + 1000
        assert store.close("c", epoch, publish_will=True) is Closed.STALE
        assert store.subscribe("c", epoch, {"b": Subscription(1)}, ["a"]) is False
        assert store.acknowledge("c", epoch, done=[1], received=[1], completed=[1]) is False
        assert store.release("c", epoch, 5) is False
        assert store.read("c", epoch) == []
        stale = store.publish(
            message("kept?", retain=True), to(second), retain=True, exchange=("c", epoch, 6), will=("c", first.epoch)
        )
        assert (stale.stale, stale.repeated, list(stale.sequences)) == (True, False, [])
        last = store.open()
        assert last.present
        assert list(last.subscriptions) == ([] if how == "wiped" else ["a"])
        assert payloads(last.queue) == ([] if how == "wiped" else [(1, b"1")])
        assert last.inbound == (set() if how == "wiped" else {5})
        assert store.recover().retained == []

    def test_calls_for_an_unknown_client_are_stale(self, store: Driver) -> None:
        assert store.close("nobody", 1) is Closed.STALE
        assert store.subscribe("nobody", 1, {"a": Subscription()}) is False
        assert store.acknowledge("nobody", 1) is False
        assert store.release("nobody", 1) is False
        assert store.read("nobody", 1) == []
        assert store.publish(message(), exchange=("nobody", 1, 1)).stale

    # Closing and expiry

    def test_close_without_expiry_ends(self, store: Driver) -> None:
        first = store.open(expiry=10)
        assert store.close("c", first.epoch, expiry=0) is Closed.ENDED
        assert store.publish(message("x"), to(first)).sequences == [GONE]
        assert not store.open().present

    def test_close_replaces_the_expiry(self, store: Driver) -> None:
        """MQTT 5.0: DISCONNECT may carry another Session Expiry Interval."""
        first = store.open(expiry=10)
        assert store.close("c", first.epoch, now=0.0, expiry=50) is Closed.KEPT
        assert store.due(49.0).expired == []
        assert store.due(50.0).expired == [("c", first.generation)]

    @pytest.mark.parametrize("expiry", [10, NEVER])
    def test_close_may_make_a_session_stay_or_end(self, store: Driver, expiry: int) -> None:
        first = store.open(expiry=10)
        assert store.close("c", first.epoch, now=0.0, expiry=NEVER) is Closed.KEPT
        assert store.due(float(2 * NEVER)).expired == []
        second = store.open(expiry=expiry, now=float(2 * NEVER))
        assert second.present
        assert store.close("c", second.epoch, expiry=0) is Closed.ENDED
        assert not store.open().present

    @pytest.mark.parametrize(("expiry", "at"), [(0, 5.0), (20, 25.0), (NEVER, 65.0), (None, 15.0)])
    def test_the_expiry_at_the_end_decides_how_long_a_will_waits(
        self, store: Driver, expiry: int | None, at: float
    ) -> None:
        """MQTT 5.0: DISCONNECT "with will" may bring another Session Expiry Interval."""
        first = store.open(expiry=10, will=will(delay=60))
        store.close("c", first.epoch, now=5.0, expiry=expiry)
        assert self.due(store, at - 0.1) == []
        assert self.due(store, at) == [("c", b"gone")]

    def test_a_kept_session_that_is_resumed_without_expiry_ends_with_that_connection(self, store: Driver) -> None:
        first = store.open(expiry=100, will=will("1", delay=50))
        store.subscribe("c", first.epoch, {"a": Subscription(1)})
        store.close("c", first.epoch, now=0.0)
        store.publish(message("x"), to(first))
        second = store.open(expiry=0, will=will("2", delay=50), now=1.0)
        assert second.present
        assert payloads(second.queue) == [(1, b"x")]
        assert store.close("c", second.epoch, now=2.0) is Closed.ENDED
        assert self.due(store, 2.0) == [("c", b"2")], "the will of a session that has ended does not wait"
        assert store.publish(message("y"), to(first)).sequences == [GONE]
        third = store.open(now=3.0)
        assert (third.present, third.subscriptions, third.queue) == (False, {}, [])

    def test_close_does_not_give_an_expiry_to_a_session_without(self, store: Driver) -> None:
        """MQTT 5.0: after a CONNECT with expiry 0, DISCONNECT may not set another [MQTT-3.14.2-2]."""
        store.open(expiry=10)
        second = store.open(expiry=0)
        assert store.close("c", second.epoch, expiry=50) is Closed.ENDED

    def test_expired_sessions_are_told_once_and_gone(self, store: Driver) -> None:
        opened = {name: store.open(name, expiry=expiry) for name, expiry in (("a", 30), ("b", 10), ("c", 20))}
        store.open("online", expiry=1)
        for name, session in opened.items():
            store.publish(message("x"), to(session, name))
            store.close(name, session.epoch, now=100.0)
        assert store.due(109.0).expired == []
        assert store.due(125.0, limit=1).expired == [("b", opened["b"].generation)]
        assert store.due(125.0).expired == [("c", opened["c"].generation)]
        assert store.due(125.0).expired == []
        assert store.publish(message("x"), *[to(opened[name], name) for name in "abc"]).sequences == [2, GONE, GONE]
        assert not store.open("b", now=125.0).present
        assert store.open("a", now=125.0).present

    def test_a_resumed_session_does_not_expire(self, store: Driver) -> None:
        first = store.open(expiry=10)
        store.close("c", first.epoch, now=0.0)
        store.open(expiry=10, now=5.0)
        assert store.due(1000.0).expired == []

    # Subscriptions

    def test_subscriptions_change(self, store: Driver) -> None:
        opened = store.open()
        store.subscribe("c", opened.epoch, {"a": Subscription(1), "b": Subscription(0)})
        store.subscribe("c", opened.epoch, {"b": Subscription(2), "é/→": Subscription(1)}, ["a", "unknown"])
        store.subscribe("c", opened.epoch, {"d": Subscription(1)}, ["d"])
        again = store.open()
        expected = {"b": Subscription(2), "é/→": Subscription(1), "d": Subscription(1)}
        assert again.subscriptions == expected, "remove comes before add"

    def test_answers_belong_to_the_caller(self, store: Driver) -> None:
        first = store.open()
        wanted = {"a": Subscription(1)}
        store.subscribe("c", first.epoch, wanted)
        wanted["b"] = Subscription(1)
        second = store.open()
        second.subscriptions.clear()
        second.inbound.add(9)
        third = store.open()
        assert third.subscriptions == {"a": Subscription(1)}
        assert third.inbound == set()

    # Queues

    def test_everything_of_a_delivery_comes_back(self, store: Driver) -> None:
        sent = Message(
            "tópic/→",
            bytes(range(256)),
            2,
            True,
            "publisher→",
            {1: 1, 3: "text", 9: b"\x00\xff", 38: [("a", "b"), ("a", "c")], 11: [1, 268435455]},
            1234.5,
        )
        opened = store.open()
        store.publish(sent, to(opened, qos=1, retain=True, identifiers=(1, 268435455)), to(opened, qos=2))
        first, second = store.read("c", opened.epoch)
        assert first.message == second.message == sent
        assert (first.qos, first.retain, first.identifiers) == (1, True, (1, 268435455))
        assert (second.qos, second.retain, second.identifiers) == (2, False, ())

    def test_large_messages(self, store: Driver) -> None:
        opened = store.open()
        payload = bytes(range(256)) * 8192
        store.publish(message(payload), to(opened))
        assert payloads(store.read("c", opened.epoch)) == [(1, payload)]

    def test_sequences_have_no_gaps_and_do_not_come_back(self, store: Driver) -> None:
        """The packet identifier is the sequence: one that came back would be taken for the old message."""
        first = store.open()
        assert [store.publish(message("x"), to(first)).sequences for _ in range(3)] == [[1], [2], [3]]
        store.acknowledge("c", first.epoch, done=[1, 2, 3])
        assert store.publish(message("x"), to(first), to(first)).sequences == [4, 5]
        store.acknowledge("c", first.epoch, done=[5])
        store.close("c", first.epoch, sent=5)
        second = store.open()
        assert second.last == 5
        assert store.publish(message("x"), to(first)).sequences == [6]

    def test_each_target_has_its_own_answer(self, store: Driver) -> None:
        a, b = store.open("a"), store.open("b")
        store.publish(message("x"), to(b, "b"))
        answer = store.publish(message("y"), to(a, "a"), to(a, "nobody"), to(b, "b"), to(a, "b"))
        assert answer.sequences == [1, GONE, 2, GONE]

    def test_a_run_is_queued_in_order_for_each_target(self, store: Driver) -> None:
        """The numbers of a run follow each other, and what is published next comes behind it."""
        one, two = store.open("one"), store.open("two")
        store.publish(message("before"), to(two, "two"))
        answer = store.publish_run([message(text) for text in "abc"], to(one, "one"), to(two, "two", 2))
        assert answer.queued == [(1, 3), (2, 3)]
        assert store.publish(message("after"), to(two, "two")).sequences == [5]
        assert payloads(store.read("one", one.epoch, 0, 9)) == [(1, b"a"), (2, b"b"), (3, b"c")]
        assert payloads(store.read("two", two.epoch, 1, 9)) == [(2, b"a"), (3, b"b"), (4, b"c"), (5, b"after")]
        assert [entry.qos for entry in store.read("two", two.epoch, 1, 9)] == [2, 2, 2, 1]
        store.acknowledge("one", one.epoch, [1, 3])
        assert payloads(store.read("one", one.epoch, 0, 9)) == [(2, b"b")]

    def test_of_a_run_a_full_queue_takes_the_beginning(self, make: Make) -> None:
        store = make(QueueLimits(3))
        opened = store.open()
        assert store.publish_run([message(text) for text in "ab"], to(opened)).queued == [(1, 2)]
        assert store.publish_run([message(text) for text in "cde"], to(opened)).queued == [(3, 1)]
        assert store.publish_run([message(text) for text in "fg"], to(opened)).queued == [(FULL, 0)]
        assert payloads(store.read("c", opened.epoch, 0, 9)) == [(1, b"a"), (2, b"b"), (3, b"c")]

    def test_of_a_run_an_offline_queue_keeps_the_end_if_it_drops_the_oldest(self, make: Make) -> None:
        store = make(QueueLimits(3, drop_oldest=True))
        opened = store.open()
        store.close("c", opened.epoch)
        assert store.publish_run([message(text) for text in "abcde"], to(opened)).queued == [(1, 5)]
        again = store.open()
        assert payloads(again.queue) == [(3, b"c"), (4, b"d"), (5, b"e")]

    def test_a_run_for_a_session_that_is_gone(self, store: Driver) -> None:
        opened, other = store.open(), store.open("other")
        store.open(clean=True)
        answer = store.publish_run([message("a"), message("b")], to(opened), to(other, "other"))
        assert answer.queued == [(GONE, 0), (1, 2)]

    def test_a_full_queue_drops_the_newest(self, make: Make) -> None:
        store = make(QueueLimits(messages=3))
        opened = store.open()
        answers = [store.publish(message(str(number)), to(opened)).sequences[0] for number in range(5)]
        assert answers == [1, 2, 3, FULL, FULL]
        store.acknowledge("c", opened.epoch, done=[2])
        assert store.publish(message("5"), to(opened)).sequences == [4], "a dropped message takes no number"
        assert payloads(store.read("c", opened.epoch)) == [(1, b"0"), (3, b"2"), (4, b"5")]
        store.acknowledge("c", opened.epoch, received=[1])
        assert store.publish(message("6"), to(opened)).sequences == [5], "after PUBREC there is no message"

    def test_drop_oldest_while_offline_and_never_what_was_sent(self, make: Make) -> None:
        store = make(QueueLimits(messages=3, drop_oldest=True))
        opened = store.open()
        for number in range(1, 4):
            store.publish(message(str(number)), to(opened))
        assert store.publish(message("4"), to(opened)).sequences == [FULL], "it is online"
        store.close("c", opened.epoch, sent=1)
        assert store.publish(message("5"), to(opened)).sequences == [4]
        assert store.publish(message("6"), to(opened)).sequences == [5]
        again = store.open()
        assert payloads(again.queue) == [(1, b"1"), (4, b"5"), (5, b"6")]
        store.close("c", again.epoch, sent=5)
        assert store.publish(message("7"), to(opened)).sequences == [FULL], "all of them may have been sent"

    def test_what_has_expired_makes_room(self, make: Make) -> None:
        """A client that was away for long does not miss the news because of messages that nobody wants any more."""
        store = make(QueueLimits(messages=4))
        opened = store.open()

        def publish(text: str, now: float, expires_at: float | None = None) -> int:
            return store.publish(message(text, expires_at=expires_at), to(opened), now=now).sequences[0]

        for text, expires_at in (("0", 10.0), ("1", None), ("2", 20.0), ("3", 10.0)):
            assert publish(text, 1.0, expires_at) == int(text) + 1
        assert publish("4", 10.0) == FULL, "the client is connected, and may have been sent any of them"
        store.close("c", opened.epoch, sent=1)
        assert publish("5", 9.9) == FULL
        assert publish("6", 10.0, 15.0) == 5, "the first one may have been sent"
        assert publish("7", 10.0) == FULL
        assert publish("8", 15.0) == 6
        assert publish("9", 19.0) == FULL
        assert publish("10", 30.0) == 7
        assert publish("11", 30.0) == FULL
        again = store.open()
        assert payloads(again.queue) == [(1, b"0"), (2, b"1"), (6, b"8"), (7, b"10")]

    def test_what_has_expired_makes_room_before_the_oldest(self, make: Make) -> None:
        store = make(QueueLimits(messages=60, drop_oldest=True))
        opened = store.open()
        store.close("c", opened.epoch)
        for number in range(60):
            expires_at = {45: 50.0, 50: 10.0}.get(number)
            store.publish(message(str(number), expires_at=expires_at), to(opened), now=1.0)
        for _ in range(3):
            store.publish(message("new"), to(opened), now=20.0)
        left = [sequence for sequence, _ in payloads(store.open().queue)]
        assert left == [sequence for sequence in range(1, 64) if sequence not in (1, 2, 51)]

    def test_acknowledging_forgets(self, store: Driver) -> None:
        opened = store.open()
        for number in range(1, 8):
            store.publish(message(str(number), qos=2), to(opened, qos=2))
        assert store.acknowledge("c", opened.epoch, done=[2, 99], received=[3, 5, 77], completed=[4, 88])
        assert payloads(store.read("c", opened.epoch)) == [(1, b"1"), (4, b"4"), (6, b"6"), (7, b"7")]
        again = store.open()
        assert again.released == [3, 5]
        assert store.acknowledge("c", again.epoch, done=[5], received=[3], completed=[3])
        last = store.open()
        assert last.released == [5], "done is for what is queued, completed for what was released"
        assert payloads(last.queue) == [(1, b"1"), (4, b"4"), (6, b"6"), (7, b"7")]
        assert store.acknowledge("c", last.epoch, completed=[5])
        assert store.open().released == []

    def test_received_and_completed_in_one_call(self, store: Driver) -> None:
        opened = store.open()
        store.publish(message("x", qos=2), to(opened, qos=2))
        store.acknowledge("c", opened.epoch, received=[1], completed=[1])
        again = store.open()
        assert (again.queue, again.released) == ([], [])

    # QoS 2 from clients [G2]

    def test_an_exchange_counts_once(self, store: Driver) -> None:
        """A QoS 2 message that is sent again, on whatever connection, is not published again [MQTT-4.3.3-2]."""
        subscriber, publisher = store.open("s"), store.open("p")
        exchange = ("p", publisher.epoch, 7)
        assert store.publish(message("x", qos=2), to(subscriber, "s"), exchange=exchange).sequences == [1]
        again = store.publish(message("x", qos=2), to(subscriber, "s"), retain=True, exchange=exchange)
        assert (again.repeated, again.stale, again.sequences) == (True, False, [])
        store.close("p", publisher.epoch)
        publisher = store.open("p")
        assert publisher.inbound == {7}
        assert store.publish(message("x"), to(subscriber, "s"), exchange=("p", publisher.epoch, 7)).repeated
        assert store.publish(message("y"), to(subscriber, "s"), exchange=("p", publisher.epoch, 8)).sequences == [2]
        assert payloads(store.read("s", subscriber.epoch)) == [(1, b"x"), (2, b"y")]
        assert store.recover().retained == []

    def test_a_released_packet_id_is_free(self, store: Driver) -> None:
        publisher = store.open("p")
        for packet_id in (7, 8):
            store.publish(message("x", qos=2), exchange=("p", publisher.epoch, packet_id))
        assert store.release("p", publisher.epoch, 7, 99)
        assert not store.publish(message("y", qos=2), exchange=("p", publisher.epoch, 7)).repeated
        assert store.publish(message("y", qos=2), exchange=("p", publisher.epoch, 8)).repeated
        assert store.open("p").inbound == {7, 8}

    # Retained messages

    def test_retained_messages(self, store: Driver) -> None:
        def retained() -> dict[str, bytes]:
            return {each.topic: each.payload for each in store.recover().retained}

        store.publish(message("1", "a", retain=True), retain=True)
        store.publish(message("2", "b", retain=True, qos=0), retain=True)
        store.publish(message("3", "c", retain=True))
        assert retained() == {"a": b"1", "b": b"2"}
        store.publish(message("4", "a", retain=True), retain=True)
        store.publish(message("", "b", retain=True), retain=True)
        store.publish(message("", "unknown", retain=True), retain=True)
        assert retained() == {"a": b"4"}
        [kept] = store.recover().retained
        assert kept == message("4", "a", retain=True)

    def test_everything_of_a_retained_message_comes_back(self, store: Driver) -> None:
        properties: Properties = {1: 1, 3: "text", 38: [("a", "b"), ("a", "c")]}
        kept = Message("tópic/→", bytes(range(256)), 1, True, "p→", properties, 1234.5)
        store.publish(kept, retain=True)
        assert store.recover().retained == [kept]

    def test_expired_retained_messages_are_removed(self, store: Driver) -> None:
        """And never a newer one in their place."""

        def retain(topic: str, text: str, expires_at: float | None) -> None:
            store.publish(message(text, topic, retain=True, expires_at=expires_at), retain=True)

        for topic, expires_at in (("a", 10.0), ("b", 20.0), ("c", None), ("d", 10.0), ("e", 10.0), ("f", 10.0)):
            retain(topic, "1", expires_at)
        retain("d", "2", 30.0)
        retain("e", "2", None)
        retain("f", "", None)
        assert set(store.drop_retained([*"abcdef", "unknown"], now=10.0)) == {"a"}
        assert store.drop_retained([*"abcdef"], now=10.0) == {}
        found = {each.topic: (each.payload, each.expires_at) for each in store.recover().retained}
        assert found == {"b": (b"1", 20.0), "c": (b"1", None), "d": (b"2", 30.0), "e": (b"2", None)}
        retain("a", "3", 40.0)
        assert set(store.drop_retained("abcd", now=35.0)) == {"b", "d"}

    def test_an_empty_payload_is_queued_all_the_same(self, store: Driver) -> None:
        opened = store.open()
        assert store.publish(message("", retain=True), to(opened), retain=True).sequences == [1]
        assert payloads(store.read("c", opened.epoch)) == [(1, b"")]

    # Wills [G7]

    def due(self, store: Driver, now: float) -> list[tuple[str, bytes]]:
        return [(client_id, each.payload) for client_id, _, each in store.due(now).wills]

    def test_a_will_is_due_when_the_connection_is_lost(self, store: Driver) -> None:
        first = store.open(will=will())
        assert self.due(store, 1000.0) == []
        store.close("c", first.epoch, publish_will=True, now=5.0)
        assert self.due(store, 4.0) == []
        assert store.due(5.0).wills == [("c", first.epoch, message("gone", "will"))]

    def test_everything_of_a_will_comes_back(self, store: Driver) -> None:
        left = Message("tópic", b"\0\xff", 2, True, "p", {1: 1, 2: 3600, 9: b"\0", 38: [("a", "b")]})
        first = store.open(will=StoredWill(left, 3))
        store.close("c", first.epoch)
        assert store.due(3.0).wills == [("c", first.epoch, left)]

    def test_a_will_is_dropped_by_disconnect(self, store: Driver) -> None:
        first = store.open(will=will())
        store.close("c", first.epoch, publish_will=False)
        assert self.due(store, 1000.0) == []
        second = store.open()
        store.close("c", second.epoch, publish_will=True)
        assert self.due(store, 1000.0) == [], "a will belongs to one connection"

    def test_a_will_of_a_session_that_ends(self, store: Driver) -> None:
        first = store.open(clean=True, expiry=0, will=will(delay=60))
        assert store.close("c", first.epoch, now=5.0) is Closed.ENDED
        assert self.due(store, 5.0) == [("c", b"gone")], "the session has ended, so the delay is over"

    def test_a_will_waits_for_its_delay(self, store: Driver) -> None:
        first = store.open(expiry=100, will=will(delay=10))
        store.close("c", first.epoch, now=5.0)
        assert self.due(store, 14.0) == []
        assert self.due(store, 15.0) == [("c", b"gone")]

    def test_a_will_waits_no_longer_than_the_session_lasts(self, store: Driver) -> None:
        first = store.open(expiry=10, will=will(delay=60))
        store.close("c", first.epoch, now=5.0)
        assert self.due(store, 14.0) == []
        due = store.due(15.0)
        assert (len(due.wills), due.expired) == (1, [("c", first.generation)])

    @pytest.mark.parametrize("clean", [True, False])
    @pytest.mark.parametrize("expiry", [0, NEVER])
    def test_a_client_sent_away_that_comes_back_in_time(self, store: Driver, expiry: int, clean: bool) -> None:
        """Nobody sees the will of a client that a leaving node sent to another one, if it gets there in time."""
        opened = store.open("c", expiry == 0, expiry, will())
        store.close("c", opened.epoch, now=100, grace=10)
        assert store.due(now=109).wills == []
        store.open("c", clean, expiry, now=109)
        assert store.due(now=1000).wills == []

    @pytest.mark.parametrize("expiry", [0, NEVER])
    def test_a_client_sent_away_that_comes_back_late(self, store: Driver, expiry: int) -> None:
        """It has become due by then, and a new connection does not take it back."""
        opened = store.open("c", expiry == 0, expiry, will())
        store.close("c", opened.epoch, now=100, grace=10)
        store.open("c", expiry == 0, expiry, now=110)
        assert [(client_id, epoch) for client_id, epoch, _ in store.due(now=110).wills] == [("c", opened.epoch)]

    def test_grace_and_delay(self, store: Driver) -> None:
        """The longer of the two counts; grace does not keep a session, and is nothing to a later connection."""
        opened = store.open("c", False, NEVER, will(delay=50))
        store.close("c", opened.epoch, now=100, grace=10)
        assert store.due(now=149).wills == []
        assert len(store.due(now=150).wills) == 1
        opened = store.open("d", True, 0, will())
        store.close("d", opened.epoch, now=200, grace=10)
        again = store.open("d", False, NEVER, will("again"), now=201)
        assert not again.present
        store.close("d", again.epoch, now=202)
        assert [epoch for client_id, epoch, _ in store.due(now=202).wills if client_id == "d"] == [again.epoch]

    def test_resuming_cancels_a_will_that_waits(self, store: Driver) -> None:
        first = store.open(expiry=100, will=will(delay=10))
        store.close("c", first.epoch, now=0.0)
        assert store.open(expiry=100, now=9.0).present
        assert self.due(store, 1000.0) == []

    def test_resuming_does_not_cancel_a_will_that_is_due(self, store: Driver) -> None:
        first = store.open(expiry=100, will=will(delay=10))
        store.close("c", first.epoch, now=0.0)
        assert store.open(expiry=100, now=10.0).present
        assert self.due(store, 10.0) == [("c", b"gone")]

    def test_wiping_makes_a_waiting_will_due(self, store: Driver) -> None:
        first = store.open(expiry=100, will=will(delay=50))
        store.close("c", first.epoch, now=0.0)
        store.open(clean=True, now=9.0)
        assert self.due(store, 8.0) == []
        assert self.due(store, 9.0) == [("c", b"gone")]

    @pytest.mark.parametrize(
        ("clean", "delay", "expiry", "published"),
        [
            (False, 0, 100, True),
            (False, 10, 100, False),
            (True, 0, 100, True),
            (True, 10, 100, True),
            (False, 10, 0, True),
        ],
    )
    def test_the_will_of_a_connection_taken_over(
        self, store: Driver, clean: bool, delay: int, expiry: int, published: bool
    ) -> None:
        """It is published [MQTT-3.1.2-8], unless the session goes on and the will was to wait."""
        first = store.open(expiry=expiry, will=will("old", delay))
        second = store.open(clean=clean, expiry=100, will=will("new"), now=7.0)
        assert store.due(7.0).wills == ([("c", first.epoch, message("old", "will"))] if published else [])
        store.close("c", first.epoch)
        store.close("c", second.epoch, now=8.0)
        assert self.due(store, 8.0) == ([("c", b"old")] if published else []) + [("c", b"new")]

    @pytest.mark.parametrize("clean", [False, True])
    def test_a_goodbye_that_comes_after_the_takeover(self, store: Driver, clean: bool) -> None:
        """The client said DISCONNECT to one node and was faster at another [MQTT-3.14.4-3]."""
        first = store.open(will=will("old"))
        second = store.open(clean=clean, will=will("new"), now=7.0)
        assert store.close("c", first.epoch, publish_will=False, now=7.0) is Closed.STALE
        assert self.due(store, 8.0) == []
        assert store.close("c", second.epoch, now=8.0) is Closed.KEPT
        assert self.due(store, 8.0) == [("c", b"new")]

    def test_a_will_is_published_once(self, store: Driver) -> None:
        subscriber = store.open("s")
        first = store.open(will=will())
        store.close("c", first.epoch)
        [(client_id, epoch, text)] = store.due(0.0).wills
        assert len(store.due(0.0).wills) == 1, "due until it is published"
        assert store.publish(text, to(subscriber, "s"), retain=True, will=(client_id, epoch)).sequences == [1]
        store.publish(message("newer", "will", retain=True), retain=True)
        store.publish(text, to(subscriber, "s"), retain=True, will=(client_id, epoch))
        store.will_published(client_id, epoch)
        assert store.due(1000.0).wills == []
        again = store.publish(text, to(subscriber, "s"), retain=True, will=(client_id, epoch))
        assert (again.repeated, again.sequences) == (True, [])
        assert len(store.read("s", subscriber.epoch)) == 1
        assert [kept.payload for kept in store.recover().retained] == [b"newer"]

    def test_a_will_is_struck_off_whoever_had_it(self, store: Driver) -> None:
        """Also twice, also one that is not there."""
        opened = [store.open(will=will(str(number))) for number in range(2)]
        store.close("c", opened[1].epoch)
        for _ in range(2):
            store.will_published("c", opened[0].epoch)
            store.will_published("nobody", 1)
        assert self.due(store, 0.0) == [("c", b"1")]

    def test_wills_of_several_connections(self, store: Driver) -> None:
        epochs = []
        for number in range(3):
            opened = store.open(will=will(str(number)), now=float(number))
            epochs.append(opened.epoch)
            store.close("c", opened.epoch, now=float(number))
        assert [(epoch, each.payload) for _, epoch, each in store.due(9.0, limit=2).wills] == [
            (epochs[0], b"0"),
            (epochs[1], b"1"),
        ]
        store.publish(message(), will=("c", epochs[1]))
        store.will_published("c", epochs[1])
        assert self.due(store, 9.0) == [("c", b"0"), ("c", b"2")]

    # Shared subscriptions

    def test_the_first_of_a_group_that_can_take_it(self, make: Make) -> None:
        """Of a group one member gets a message, the others nothing: not who is gone, nor whose queue is full."""
        store = make(QueueLimits(1))
        opened = [store.open(str(number)) for number in range(4)]
        store.publish(message("fills"), to(opened[1], "1"))
        gone = Target("0", opened[0].generation + 9, 1, share=GROUP)
        group = [gone, *(to(opened[n], str(n), share=GROUP) for n in (1, 2, 3))]
        [chosen] = store.publish(message("x"), shares=[group]).chosen
        assert (chosen.target.client_id, chosen.sequence) == ("2", 1)
        [chosen] = store.publish(message("y"), shares=[group[:3]]).chosen
        assert chosen.sequence == FULL
        [chosen] = store.publish(message("z"), shares=[group[:1]]).chosen
        assert chosen.sequence == GONE
        assert [len(store.read(str(n), opened[n].epoch)) for n in range(4)] == [0, 1, 1, 0]

    def test_each_group_and_everybody_else_gets_it(self, store: Driver) -> None:
        """Groups are independent of each other and of ordinary subscriptions, also for one session in all of them."""
        one, two = store.open("1"), store.open("2")
        shares = [[to(one, "1", share=GROUP)], [to(one, "1", qos=2, share="$share/h/t", identifiers=(7,))]]
        answer = store.publish(message("x", qos=2), to(one, "1"), to(two, "2"), shares=shares)
        assert answer.sequences == [1, 1]
        assert [chosen.sequence for chosen in answer.chosen] == [2, 3]
        assert [(d.qos, d.identifiers) for d in store.read("1", one.epoch)] == [(1, ()), (1, ()), (2, (7,))]

    def test_what_an_expired_member_leaves(self, store: Driver) -> None:
        """Not acknowledged at QoS 1, or never sent at QoS 2: somebody else of the group gets it. What was sent at QoS 2
        nobody else may get, and what came through no group goes with the session."""
        opened = store.open(expiry=10)
        for number, qos in enumerate([1, 2, 1, 2, 1]):
            store.publish(message(str(number), qos=qos), shares=[[to(opened, qos=qos, share=GROUP)]])
        store.publish(message("mine"), to(opened))
        store.acknowledge("c", opened.epoch, done=[1])
        assert left(store) == []
        store.close("c", opened.epoch, sent=3, now=100.0)
        assert left(store, 109.0) == []
        assert store.due(110.0).expired == [("c", opened.generation)]
        assert left(store, 110.0) == [("c", 3, GROUP, b"2"), ("c", 4, GROUP, b"3"), ("c", 5, GROUP, b"4")]

    def test_what_a_wiped_member_leaves(self, store: Driver) -> None:
        """It may have sent everything while it was connected."""
        for connected in (True, False):
            opened = store.open()
            for number, qos in enumerate([1, 2, 2]):
                store.publish(message(str(number), qos=qos), shares=[[to(opened, qos=qos, share=GROUP)]])
            if not connected:
                store.close("c", opened.epoch, sent=2)
            store.open(clean=True)
            expected = [("c", 1, GROUP, b"0")] if connected else [("c", 1, GROUP, b"0"), ("c", 3, GROUP, b"2")]
            assert left(store) == expected
            for orphan in store.due(0.0).orphans:
                store.publish(orphan.message, orphan=orphan)

    def test_an_orphan_is_handed_on_once(self, store: Driver) -> None:
        """It is due until it is somebody else's, and then it is nobody's any more."""
        first, second = store.open("1", expiry=1), store.open("2")
        for text in "xy":
            store.publish(message(text), shares=[[to(first, "1", share=GROUP)]])
        store.close("1", first.epoch, sent=2)
        store.due(1.0)
        orphans = store.due(1.0).orphans
        assert [orphan.message.payload for orphan in orphans] == [b"x", b"y"]
        [chosen] = store.publish(orphans[0].message, shares=[[to(second, "2", share=GROUP)]], orphan=orphans[0]).chosen
        assert chosen.sequence == 1
        assert left(store, 100.0) == [("1", 2, GROUP, b"y")]
        again = store.publish(orphans[0].message, shares=[[to(second, "2", share=GROUP)]], orphan=orphans[0])
        assert (again.repeated, again.chosen) == (True, ())
        store.publish(orphans[1].message, orphan=orphans[1])  # nobody is left in the group
        assert left(store, 1000.0) == []
        assert payloads(store.read("2", second.epoch)) == [(1, b"x")]

    def test_a_repeated_exchange_goes_to_nobody_else(self, store: Driver) -> None:
        """A publisher that sends a QoS 2 message again, after another member has come first, reaches nobody twice: also
        when the one who had it has gone since [G2]."""
        publisher, first, second = store.open("p"), store.open("1"), store.open("2")
        one, two = to(first, "1", qos=2, share=GROUP), to(second, "2", qos=2, share=GROUP)
        exchange = ("p", publisher.epoch, 7)
        assert len(store.publish(message("x", qos=2), shares=[[one, two]], exchange=exchange).chosen) == 1
        assert store.publish(message("x", qos=2), shares=[[two, one]], exchange=exchange).chosen == ()
        store.open("1", clean=True)
        assert store.publish(message("x", qos=2), shares=[[two]], exchange=exchange).chosen == ()
        assert store.read("2", second.epoch) == []
        store.release("p", publisher.epoch, 7)
        assert len(store.publish(message("y", qos=2), shares=[[two]], exchange=exchange).chosen) == 1

    # Recovery

    def test_recover_ends_the_connections_of_an_earlier_life(self, store: Driver) -> None:
        kept = store.open("kept", expiry=100, will=will("kept", delay=20))
        store.subscribe("kept", kept.epoch, {"a": Subscription(1)})
        store.publish(message("1"), to(kept, "kept"))
        store.open("clean", clean=True, expiry=0, will=will("clean", delay=20))
        offline = store.open("offline", expiry=100)
        store.close("offline", offline.epoch, now=0.0)
        found = store.recover(now=50.0)
        assert sorted((each.client_id, each.generation, each.subscriptions) for each in found.sessions) == [
            ("kept", kept.generation, {"a": Subscription(1)}),
            ("offline", offline.generation, {}),
        ]
        assert store.release("kept", kept.epoch) is False, "the old connection is stale"
        assert self.due(store, 50.0) == [("clean", b"clean")]
        assert self.due(store, 70.0) == [("clean", b"clean"), ("kept", b"kept")]
        assert store.due(100.0).expired == [("offline", offline.generation)]
        assert not store.open("clean", now=100.0).present
        again = store.open("kept", now=100.0)
        assert again.present
        assert again.sent == 1, "it may have been sent"
        assert again.epoch > offline.epoch


class Contract(LastingContract):
    """The whole of it."""

    def test_answers_come_in_the_order_of_the_calls(self, store: Driver) -> None:
        """PUBACKs leave in the order of the PUBLISHes [MQTT-4.6.0-2], a takeover is seen by the calls after it only."""
        order: list[object] = []
        asked: list[Deferred[Any]] = []

        def ask(deferred: Deferred[Any], name: object) -> None:
            deferred.addCallback(lambda result: order.append((name, result)))
            asked.append(deferred)

        first = store.open()
        for number in range(20):
            ask(store.store.publish(Publication(message(str(number)), [to(first)])), number)
        ask(store.store.release("c", first.epoch, ()), "before")
        ask(store.store.open("c", False, NEVER, None, 0.0, 100), "takeover")
        ask(store.store.release("c", first.epoch, ()), "after")
        ask(store.store.read("c", first.epoch, 0, 100), "read")
        for deferred in asked:
            outcome(deferred, store.reactor)
        names = [name for name, _ in order]  # type: ignore[misc]
        answers = dict(order)  # type: ignore[arg-type]
        assert names == [*range(20), "before", "takeover", "after", "read"]
        assert [answers[number].sequences for number in range(20)] == [[number + 1] for number in range(20)]
        assert answers["before"] is True
        assert len(answers["takeover"].queue) == 20
        assert answers["after"] is False
        assert answers["read"] == []

    # Opening and epochs

    def test_wiped_names_kept_sessions_only(self, store: Driver) -> None:
        store.open(clean=True, expiry=0)
        assert store.open(clean=True).wiped == 0

    def test_a_session_without_expiry_has_no_queue(self, store: Driver) -> None:
        opened = store.open(clean=True, expiry=0)
        assert store.publish(message("x"), to(opened)).sequences == [GONE]
        assert store.subscribe("c", opened.epoch, {"a": Subscription(1)})
        assert store.acknowledge("c", opened.epoch, [1], [2], [3])
        assert store.release("c", opened.epoch, 1)
        assert store.read("c", opened.epoch) == []
        assert store.close("c", opened.epoch) is Closed.ENDED
        assert not store.open().present

    def test_a_clean_member_of_a_group_has_a_queue(self, store: Driver) -> None:
        """For what comes through its shared subscriptions, so that others get what it does not acknowledge."""
        opened = store.open(clean=True, expiry=0)
        assert store.subscribe("c", opened.epoch, {GROUP: Subscription(2)})
        for number, qos in enumerate([1, 1, 2, 2]):
            store.publish(message(str(number), qos=qos), shares=[[to(opened, qos=qos, share=GROUP)]])
        at = FIRST_SHARED
        assert [sequence for sequence, _ in payloads(store.read("c", opened.epoch))] == [at + n for n in (1, 2, 3, 4)]
        assert store.acknowledge("c", opened.epoch, done=[at + 1])
        assert store.close("c", opened.epoch, sent=at + 3) is Closed.ENDED
        assert left(store) == [("c", at + 2, GROUP, b"1"), ("c", at + 4, GROUP, b"3")]
        again = store.open(clean=True, expiry=0)
        assert not again.present
        assert store.publish(message("x"), shares=[[to(again, share=GROUP)]]).chosen[0].sequence == GONE

    def test_a_clean_member_that_is_taken_over(self, store: Driver) -> None:
        """Its session ends, and what was on its way to it goes to others."""
        opened = store.open(clean=True, expiry=0)
        store.subscribe("c", opened.epoch, {GROUP: Subscription(1)})
        store.publish(message("x"), shares=[[to(opened, share=GROUP)]])
        again = store.open(clean=True, expiry=0)
        assert (again.present, again.wiped) == (False, opened.generation)
        assert left(store) == [("c", FIRST_SHARED + 1, GROUP, b"x")]

    # Takeover and stale calls [G3]

    def test_a_message_for_a_thousand_sessions(self, store: Driver) -> None:
        """Each of them gets it; it goes for one of them when that one acknowledges."""
        opened = [store.open(f"c{number}") for number in range(1000)]
        targets = [to(session, f"c{number}") for number, session in enumerate(opened)]
        assert store.publish(message("all"), *targets).sequences == [1] * 1000
        assert store.publish(message("again"), *targets).sequences == [2] * 1000
        store.acknowledge("c500", opened[500].epoch, done=[1])
        assert payloads(store.read("c500", opened[500].epoch)) == [(2, b"again")]
        assert payloads(store.read("c501", opened[501].epoch)) == [(1, b"all"), (2, b"again")]
