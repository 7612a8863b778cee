"""Who may publish and subscribe what: authorizers in a row, answers that come later, and rules that change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mqttcluster.broker.acl import AclFile, read_acl, read_rule
from mqttcluster.broker.auth import IAuthorizer, Identity
from mqttcluster.broker.authorization import Rules
from mqttcluster.mqtt.packets import (
    Connect,
    Disconnect,
    Packet,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
)
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import Peer, World


@implementer(IAuthorizer)
class Says:
    """Answers by a function of the topic; remembers what it was asked."""

    def __init__(self, publish: Any, subscribe: Any = lambda _: True) -> None:
        self.publish = publish
        self.subscribe = subscribe
        self.asked: list[str] = []

    def may_publish(self, client: Identity, topic: str) -> Any:
        self.asked.append(topic)
        return self.publish(topic)

    def may_subscribe(self, client: Identity, filter: str) -> Any:
        return self.subscribe(filter)


class RuledWorld(World):
    """A world with rules. `authorizers` come first, then the lines of an ACL file."""

    def __init__(self, *lines: str, authorizers: Any = (), users: bool = False, **settings: Any) -> None:
        super().__init__(authorizer=self, **settings)
        acl = _acl(*lines) if lines else None
        self.rules = Rules(authorizers, acl, self.broker.metrics, self.clock, users=users, administrators=["root"])

    def may_publish(self, client: Identity, topic: str) -> Any:
        return self.rules.may_publish(client, topic)

    def may_subscribe(self, client: Identity, filter: str) -> Any:
        return self.rules.may_subscribe(client, filter)

    def reload(self, *lines: str) -> None:
        """The ACL file has these lines now, and was read again."""
        self.rules.change(_acl(*lines))
        done: list[Any] = []
        Deferred.fromCoroutine(self.broker.rules_changed()).addBoth(done.append)
        self.settle()
        assert done == [None]


def _acl(*lines: str) -> AclFile:
    return AclFile([read_rule(line) for line in lines])


def messages(peer: Peer) -> list[str]:
    """Topics and payloads of what has arrived."""
    return [f"{p.topic}={p.payload.decode()}" for p in peer.packets() if isinstance(p, Publish)]


def subscribe(peer: Peer, *filters: str, qos: int = 0) -> list[Packet]:
    peer.send(Subscribe(9, [(name, Subscription(qos)) for name in filters]))
    return peer.packets()


ALL = "allow everyone to publish and subscribe #"


class TestInARow:
    """Authorizers from outside, then the file, then what holds without one."""

    @pytest.mark.parametrize(
        ("answer", "lines", "expected"),
        [
            (True, ("deny everyone to publish #",), True),
            (False, (ALL,), False),
            (None, (ALL,), True),
            (None, ("allow everyone to publish b",), False),
            (None, (), False),
            (lambda: succeed(True), (), True),
        ],
    )
    def test_who_decides(self, answer: Any, lines: tuple[str, ...], expected: bool) -> None:
        """The first with an opinion. Where authorizers have none and there is no file, the answer is no."""
        world = RuledWorld(*lines, authorizers=[Says(lambda _: answer() if callable(answer) else answer)])
        reader, writer = world.connect("r"), world.connect("w")
        subscribe(reader, "#")
        writer.send(Publish("a", b"1"))
        assert messages(reader) == (["a=1"] if expected else [])

    def test_without_anything_everything_is_allowed(self) -> None:
        """No authorizer, no file, no users: an open broker."""
        world = RuledWorld()
        assert subscribe(world.connect("r"), "#", "$SYS/#") == [Suback(9, [Reason(0), Reason(0)])]

    def test_answers_are_remembered(self) -> None:
        """An authorizer is asked once for a client and topic, and again when the rules were read again."""
        says = Says(lambda _: True)
        world = RuledWorld(authorizers=[says])
        writer = world.connect("w")
        writer.send(*[Publish("a", b"x")] * 3, Publish("b", b"x"), Publish("a", b"x"))
        assert says.asked == ["a", "b"]
        world.reload(ALL)
        writer.send(*[Publish("a", b"x")] * 3)
        assert says.asked == ["a", "b", "a"]

    def test_of_a_shared_subscription_the_filter_counts(self) -> None:
        """Whoever decides need not know how groups are written."""
        asked: list[str] = []

        class Filters(Says):
            def may_subscribe(self, client: Identity, filter: str) -> bool:
                asked.append(filter)
                return filter == "a/#"

        world = RuledWorld(authorizers=[Filters(lambda _: True)])
        reader = world.peer(5)
        reader.send(Connect("r", 5))
        suback = subscribe(reader, "$share/g/a/#", "$share/a/b")[-1]
        assert isinstance(suback, Suback)
        assert suback.reasons == [Reason(0), Reason.NOT_AUTHORIZED]
        assert asked == ["a/#", "b"]

    def test_what_fails_is_refused_and_asked_again(self) -> None:
        """An authorizer that is out of order refuses what it is asked meanwhile, and nothing for good."""

        def broken(topic: str) -> bool:
            if len(says.asked) < 3:
                raise RuntimeError("the database is gone")
            return True

        says = Says(broken)
        world = RuledWorld(authorizers=[says])
        reader, writer = world.connect("r"), world.connect("w")
        subscribe(reader, "#")
        writer.send(Publish("a", b"1", 1, packet_id=1), Publish("a", b"2", 1, packet_id=2))
        assert messages(reader) == []
        assert writer.packets() == [Puback(1), Puback(2)]
        assert world.broker.metrics.authorization_failures["error"] == 2
        writer.send(Publish("a", b"3"), Publish("a", b"4"))
        assert messages(reader) == ["a=3", "a=4"]
        assert len(says.asked) == 3


class TestLater:
    """An authorizer that answers later."""

    def make(self, **settings: Any) -> tuple[RuledWorld, dict[str, Deferred[bool]], Peer, Peer]:
        waiting: dict[str, Deferred[bool]] = {}

        def ask(topic: str) -> Any:
            if topic == "free":
                return True
            waiting[topic] = Deferred()
            return waiting[topic]

        world = RuledWorld(authorizers=[Says(ask)], **settings)
        reader, writer = world.connect("r"), world.connect("w")
        subscribe(reader, "#")
        return world, waiting, reader, writer

    def test_publishes_wait_in_order(self) -> None:
        """What a client sends behind a publish that is being thought about waits, too, and comes behind it."""
        world, waiting, reader, writer = self.make()
        writer.send(Publish("slow", b"1"), Publish("free", b"2"), Publish("slow", b"3", 1, packet_id=1))
        writer.send(Publish("free", b"4"), Disconnect())
        assert messages(reader) == []
        assert not writer.reading
        waiting["slow"].callback(True)
        world.settle()
        assert messages(reader) == ["slow=1", "free=2", "slow=3", "free=4"]
        assert writer.closed

    def test_others_do_not_wait(self) -> None:
        """It is only the one client that waits."""
        _, _, reader, writer = self.make()
        writer.send(Publish("slow", b"1"))
        reader.send(Publish("free", b"2"))
        assert messages(reader) == ["free=2"]

    def test_a_refusal(self) -> None:
        """A late no drops the message, and is remembered like an early one."""
        world, waiting, reader, writer = self.make()
        writer.send(Publish("slow", b"1", 1, packet_id=1), Publish("free", b"2"))
        waiting.pop("slow").callback(False)
        world.settle()
        writer.send(Publish("slow", b"3"))
        assert messages(reader) == ["free=2"]
        assert writer.packets() == [Puback(1)]
        assert waiting == {}
        assert world.broker.metrics.operations["publish"] == 2

    def test_too_late(self) -> None:
        """After the time-out the publish is refused and the client goes on."""
        world, _, reader, writer = self.make()
        writer.send(Publish("slow", b"1"), Publish("free", b"2"))
        world.advance(5.1)
        assert messages(reader) == ["free=2"]
        assert world.broker.metrics.authorization_failures["timeout"] == 1

    @pytest.mark.parametrize("behind", [[], [Publish("free", b"2")]])
    def test_the_connection_is_lost_meanwhile(self, behind: list[Publish]) -> None:
        """What had arrived before the connection was lost is published when the answer is there."""
        world, waiting, reader, writer = self.make()
        writer.send(Publish("slow", b"1"), *behind)
        writer.drop()
        waiting["slow"].callback(True)
        world.settle()
        assert messages(reader) == ["slow=1", "free=2"][: 1 + len(behind)]
        assert len(world.broker.clients) == 1

    def test_the_rules_change_meanwhile(self) -> None:
        """An answer by the old rules is of no use: the question is asked again."""
        world, waiting, reader, writer = self.make()
        writer.send(Publish("slow", b"1"))
        old = waiting.pop("slow")
        world.reload(ALL)
        old.callback(True)
        world.settle()
        assert messages(reader) == []
        waiting["slow"].callback(False)
        world.settle()
        assert messages(reader) == []
        assert world.broker.metrics.operations["publish"] == 1

    def test_long_topics(self) -> None:
        """A topic that is too long to be remembered is asked for again and again, and works."""
        world, waiting, reader, writer = self.make()
        topics = ["long/" * 100, "longer/" * 100]
        for topic in topics * 2:
            writer.send(Publish(topic, b"1"), Publish(topic, b"2"))
            waiting.pop(topic).callback(True)
            world.settle()
        assert messages(reader) == [f"{topic}={number}" for topic in topics * 2 for number in (1, 2)]

    def test_subscriptions_and_wills(self) -> None:
        """SUBACK and CONNACK wait for the answer, and say what it was."""
        answers: list[Deferred[bool]] = []

        def ask(_: str) -> Deferred[bool]:
            answers.append(Deferred())
            return answers[-1]

        world = RuledWorld(authorizers=[Says(ask, ask)])
        reader = world.connect("r")
        assert subscribe(reader, "a", "b") == []
        answers[0].callback(True)
        world.settle()
        assert reader.packets() == []
        answers[1].callback(False)
        world.settle()
        assert reader.packets() == [Suback(9, [Reason(0), Reason.UNSPECIFIED_ERROR])]
        subscribe(reader, "w/#")
        answers[2].callback(True)
        world.settle()
        for allowed in (True, False):
            peer = world.peer()
            peer.send(CONNECT_WITH_WILL)
            assert peer.bytes() == b""
            answers[-1].callback(allowed)
            world.settle()
            assert peer.bytes() == bytes.fromhex("20 02 00 00")
            peer.drop()
        assert messages(reader)[-1:] == ["w/1=gone"]
        assert world.broker.metrics.wills_published == 1

    def test_a_client_that_leaves_before_the_answer_gets_no_subscription(self) -> None:
        """Nothing of it is left in the routing."""
        waiting: Deferred[bool] = Deferred()
        world = RuledWorld(authorizers=[Says(lambda _: True, lambda _: waiting)])
        reader = world.connect("r")
        subscribe(reader, "a")
        reader.drop()
        waiting.callback(True)
        world.settle()
        assert len(world.broker.routing) == 0


CONNECT_WITH_WILL = bytes.fromhex("10 19 00 04 4D 51 54 54 04 06 00 00 00 02 63 31 00 03 77 2F 31 00 04") + b"gone"


class TestSystemTopics:
    """$SYS tells about everybody."""

    @pytest.mark.parametrize(
        ("username", "users", "lines", "expected"),
        [
            ("alice", False, (), True),
            (None, False, (), True),
            ("alice", True, (), False),
            (None, True, (), False),
            ("root", True, (), True),
            ("root", True, (ALL,), True),
            ("alice", True, (ALL,), False),
            ("root", True, ("deny everyone to subscribe $SYS/#", ALL), False),
            ("alice", True, ("allow user alice to subscribe $SYS/#",), True),
            ("alice", False, (ALL,), False),
        ],
    )
    def test_who_reads_it(self, username: str | None, users: bool, lines: tuple[str, ...], expected: bool) -> None:
        """Once there are users it is administrators only, and whom a rule names."""
        world = RuledWorld(*lines, users=users)
        client = Identity("c", username)
        for name in ("$SYS/#", "$SYS/broker/uptime", "$share/g/$SYS/#"):
            assert bool(world.rules.may_subscribe(client, name)) is expected, name

    def test_the_group_of_administrators(self, tmp_path: Path) -> None:
        """A group of that name in the ACL file does the same as the option."""
        path = tmp_path / "acl"
        path.write_text("group administrators has alice\nallow users to subscribe a\n")
        world = RuledWorld(users=True)
        world.rules.change(read_acl(str(path)))
        assert world.rules.may_subscribe(Identity("c", "alice"), "$SYS/#")
        assert world.rules.may_subscribe(Identity("c", "alice"), "a")
        assert not world.rules.may_subscribe(Identity("c", "alice"), "b")
        assert not world.rules.may_subscribe(Identity("c", "bob"), "$SYS/#")


NO_A = ("deny everyone to subscribe a/#", ALL)


class TestReload:
    """New rules, and clients that stay connected."""

    @pytest.mark.parametrize("clean", [True, False])
    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_subscriptions_fall_silent_and_come_back(self, clean: bool, qos: int) -> None:
        """What is not allowed any more brings nothing, although nobody was disconnected; allowed again, it does."""
        world = RuledWorld(ALL)
        reader, writer = world.connect("r", clean_start=clean), world.connect("w")
        subscribe(reader, "a/#", "b", qos=qos)

        def publish(payload: bytes) -> list[str]:
            writer.send(
                Publish("a/1", payload, qos, packet_id=bool(qos)), Publish("b", payload, qos, packet_id=2 * bool(qos))
            )
            if qos == 2:
                writer.send("62 02 00 01", "62 02 00 02")
            packets = [p for p in reader.packets() if isinstance(p, Publish)]
            for packet in packets:
                if qos == 1:
                    reader.send(Puback(packet.packet_id))
                elif qos == 2:
                    identifier = packet.packet_id.to_bytes(2, "big")
                    reader.send(b"\x50\x02" + identifier, b"\x70\x02" + identifier)
            return [f"{p.topic}={p.payload.decode()}" for p in packets]

        assert publish(b"1") == ["a/1=1", "b=1"]
        world.reload(*NO_A)
        assert publish(b"2") == ["b=2"]
        assert world.broker.metrics.operations["delivery"] == 1
        assert world.broker.metrics.dropped["forbidden"] == 1
        world.reload(ALL)
        assert publish(b"3") == ["a/1=3", "b=3"]
        assert world.broker.metrics.dropped["forbidden"] == 1
        reader.drop()
        if not clean:
            reader = world.connect("r", clean_start=False, present=True)
            assert messages(reader) == []

    def test_another_subscription_still_brings_it(self) -> None:
        """A topic that an allowed subscription matches is delivered, whatever else matched it."""
        world = RuledWorld(ALL)
        reader, writer = world.connect("r"), world.connect("w")
        subscribe(reader, "#", "a/b")
        world.reload("deny everyone to subscribe a/c", ALL)
        writer.send(Publish("a/b", b"1"), Publish("a/c", b"2"), Publish("d", b"3"))
        assert messages(reader) == ["a/b=1"]
        subscribe(reader, "d")
        writer.send(Publish("d", b"4"))
        assert messages(reader) == ["d=4"]
        reader.send(Unsubscribe(3, ["d"]))
        writer.send(Publish("d", b"5"))
        assert messages(reader) == []

    def test_what_waits_is_not_delivered_either(self) -> None:
        """Messages that were queued by the old rules are dropped by the new ones, and the window does not suffer."""
        world = RuledWorld(ALL, max_inflight=1)
        for clean in (True, False):
            reader, writer = world.connect("r", clean_start=clean), world.connect("w")
            subscribe(reader, "a/#", "b", qos=1)
            writer.send(
                *[Publish("a/1", b"%d" % n, 1, packet_id=n) for n in range(1, 6)], Publish("b", b"x", 1, packet_id=9)
            )
            assert messages(reader) == ["a/1=1"]
            world.reload(*NO_A)
            reader.send(Puback(1))
            assert messages(reader) == ["b=x"]
            world.reload(ALL)
            reader.drop()
        reader = world.connect("r", clean_start=False, present=True)
        assert messages(reader) == ["b=x"]

    def test_publishing(self) -> None:
        """A publish is judged by the rules of now."""
        world = RuledWorld(ALL)
        reader, writer = world.connect("r"), world.connect("w")
        subscribe(reader, "#")
        writer.send(Publish("a/1", b"1"))
        world.reload("deny everyone to publish a/#", ALL)
        writer.send(Publish("a/1", b"2"), Publish("b", b"3"))
        assert messages(reader) == ["a/1=1", "b=3"]
        assert writer.alive()

    def test_a_session_is_resumed_by_somebody_who_may_not_read_it(self) -> None:
        """Subscriptions of an earlier connection are judged anew when the session is resumed: rules may have changed,
        or it is another user who has the client id now."""
        world = RuledWorld(
            "allow user alice to subscribe a/#",
            "allow users to publish and subscribe b",
            "allow user alice to publish #",
            users=True,
        )
        alice = world.connect("c", clean_start=False, username="alice", password=b"")
        subscribe(alice, "a/#", "b", qos=1)
        alice.drop()
        writer = world.connect("w", username="alice", password=b"")
        writer.send(Publish("a/1", b"1", 1, packet_id=1), Publish("b", b"1", 1, packet_id=2))
        bob = world.connect("c", clean_start=False, present=True, username="bob", password=b"")
        assert messages(bob) == ["b=1"]
        writer.send(Publish("a/1", b"2", 1, packet_id=1), Publish("b", b"2", 1, packet_id=2))
        assert messages(bob) == ["b=2"]

    def test_shared_subscriptions_are_given_up(self) -> None:
        """What one of a group may not have any more goes to the others of the group, all of it."""
        world = RuledWorld(ALL, users=True)
        alice, bob = world.peer(5), world.peer(5)
        for name, peer in (("alice", alice), ("bob", bob)):
            peer.send(Connect(name, 5, username=name, password=b""))
            subscribe(peer, "$share/g/a/#")
        world.reload("deny user alice to subscribe a/#", ALL)
        world.connect("w").send(*[Publish("a/1", b"%d" % n) for n in range(6)])
        assert messages(alice) == []
        assert messages(bob) == [f"a/1={n}" for n in range(6)]

    def test_many_clients_are_looked_at_in_turns(self) -> None:
        """A reload with many clients does not hold up the others: it goes on in another turn."""
        world = RuledWorld(ALL)
        peers = [world.connect(f"c{n}") for n in range(20)]
        for peer in peers:
            subscribe(peer, "a/#")
        seconds = world.clock.seconds
        spent = [0.0]

        def busy() -> float:
            spent[0] += 0.011
            return seconds() + spent[0]

        world.clock.seconds = busy  # type: ignore[method-assign]
        world.rules.change(_acl(*NO_A))
        done: list[Any] = []
        Deferred.fromCoroutine(world.broker.rules_changed()).addBoth(done.append)
        assert done == []
        world.clock.seconds = seconds  # type: ignore[method-assign]
        world.advance(1)
        assert done == [None]
        world.connect("w").send(Publish("a/1", b"1"))
        assert [messages(peer) for peer in peers] == [[]] * 20


def test_wills_are_judged_at_connect() -> None:
    """A will that may not be published is not kept."""
    world = RuledWorld("deny everyone to publish w/#", ALL)
    reader = world.connect("r")
    subscribe(reader, "#")
    world.connect("c", will=Will("w/1", b"gone")).drop()
    world.connect("c", will=Will("v", b"gone")).drop()
    assert messages(reader) == ["v=gone"]
    assert world.broker.metrics.operations["will"] == 1
