"""Authenticators in a row: who decides, what one that misbehaves does, and that a failed login touches nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from mqttcluster.broker.auth import Allow, Credentials, IAuthenticator, IAuthorizer
from mqttcluster.broker.authentication import CertificateNames, Chain
from mqttcluster.broker.metrics import Metrics
from mqttcluster.mqtt.packets import Connack, Connect, Publish, Subscribe, Subscription, Will
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World


@implementer(IAuthenticator)
class Says:
    """Answers what it was made with, or what that function answers; remembers whom it was asked about."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Credentials] = []

    def authenticate(self, credentials: Credentials) -> Any:
        self.asked.append(credentials)
        return self.answer(credentials) if callable(self.answer) else self.answer


class Door:
    """A chain, its clock and its counters."""

    def __init__(self, *authenticators: Any, names_count: bool = True) -> None:
        self.clock = Clock()
        self.metrics = Metrics(0.0)
        self.chain = Chain(authenticators, self.metrics, self.clock, 5.0, names_count)
        self.answers: list[Reason] = []

    def knock(
        self, username: str | None = "alice", anonymous: bool = False, certificate: str | None = None
    ) -> Credentials:
        credentials = Credentials("c", username, b"secret", anonymous, "peer", certificate)
        self.chain.authenticate(credentials).addCallback(self.answers.append)
        return credentials


async def _later(answer: Any, waiting: Deferred[None] | None = None) -> Any:
    if waiting is not None:
        await waiting
    return answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (True, Reason.SUCCESS),
        (False, Reason.BAD_USER_NAME_OR_PASSWORD),
        (Reason.SUCCESS, Reason.SUCCESS),
        (Reason.BANNED, Reason.BANNED),
        (Allow("bob"), Reason.SUCCESS),
        (lambda _: succeed(True), Reason.SUCCESS),
        (lambda _: _later(True), Reason.SUCCESS),
        (lambda _: _later(False), Reason.BAD_USER_NAME_OR_PASSWORD),
    ],
)
def test_the_first_that_decides_decides(answer: Any, expected: Reason) -> None:
    """Who has no opinion leaves it to the next; behind a decision nobody is asked any more."""
    undecided, decided, never = Says(None), Says(answer), Says(True)
    door = Door(undecided, decided, never)
    door.knock()
    assert door.answers == [expected]
    assert len(undecided.asked) == len(decided.asked) == 1
    assert never.asked == []
    assert door.metrics.authentications["allowed" if expected is Reason.SUCCESS else "denied"] == 1
    assert sum(door.metrics.authentication_seconds.counts) == 1


@pytest.mark.parametrize(
    ("username", "anonymous", "names_count", "expected"),
    [
        ("alice", True, True, Reason.BAD_USER_NAME_OR_PASSWORD),
        ("alice", False, True, Reason.BAD_USER_NAME_OR_PASSWORD),
        (None, True, True, Reason.SUCCESS),
        (None, False, True, Reason.NOT_AUTHORIZED),
        ("alice", True, False, Reason.SUCCESS),
        ("alice", False, False, Reason.NOT_AUTHORIZED),
    ],
)
def test_when_nobody_decides(username: str | None, anonymous: bool, names_count: bool, expected: Reason) -> None:
    """Without an opinion a name that somebody should know is refused; without a name the listener decides."""
    door = Door(Says(None), names_count=names_count)
    door.knock(username, anonymous)
    assert door.answers == [expected]


def _raises(_: Credentials) -> bool:
    raise RuntimeError("the database is gone")


@pytest.mark.parametrize(
    "answer",
    [_raises, lambda _: fail(RuntimeError("gone")), "yes", 1, Reason.NO_MATCHING_SUBSCRIBERS],
    ids=["raises", "fails", "text", "number", "no refusal"],
)
def test_one_that_fails_refuses(answer: Any) -> None:
    """Nobody gets in because something is broken; the client may come again."""
    door = Door(Says(answer), Says(True))
    door.knock()
    assert door.answers == [Reason.SERVER_UNAVAILABLE]
    assert door.metrics.authentications["error"] == 1


def test_one_that_takes_too_long_refuses() -> None:
    """After five seconds the answer is no, and a late yes does not change it."""
    waiting: Deferred[bool] = Deferred()
    door = Door(Says(lambda _: waiting), Says(True))
    door.knock()
    door.clock.advance(4.9)
    assert door.answers == []
    door.clock.advance(0.2)
    assert door.answers == [Reason.SERVER_UNAVAILABLE]
    assert door.metrics.authentications["timeout"] == 1
    assert waiting.called


def test_another_name() -> None:
    """An authenticator may say who the client is, and a certificate does."""
    door = Door(Says(Allow("bob")))
    assert door.knock().username == "bob"
    door = Door(CertificateNames(), Says(False))
    assert door.knock("mallory", certificate="sensor-7").username == "sensor-7"
    assert door.answers == [Reason.SUCCESS]
    door.knock("mallory")
    assert door.answers[1:] == [Reason.BAD_USER_NAME_OR_PASSWORD]


def test_the_name_counts_for_the_rules() -> None:
    """What an authenticator says is the name that the rules are asked about, and not what CONNECT said."""

    @implementer(IAuthorizer)
    class OnlyBob:
        def may_publish(self, client: Any, topic: str) -> bool:
            return bool(client.username == "bob")

        may_subscribe = may_publish

    door = Door(Says(Allow("bob")))
    world = World(authenticator=door.chain, authorizer=OnlyBob())
    peer = world.connect("c", username="alice", password=b"x")
    peer.send(Subscribe(1, [("a", Subscription(0))]), Publish("a", b"x"))
    assert Publish("a", b"x") in peer.packets()


def _wrong(credentials: Credentials) -> bool:
    return credentials.password != b"wrong"


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize(
    "answer", [_wrong, lambda credentials: succeed(_wrong(credentials))], ids=["at once", "by Deferred"]
)
def test_a_failed_login_touches_no_session(clean: bool, answer: Callable[..., Any]) -> None:
    """Whoever knows a client id and not the password cannot end that client's connection, clear its session, take it
    over, or have its will published."""
    world = World(authenticator=Door(Says(answer)).chain)
    watcher = world.connect("watcher", username="w", password=b"w")
    watcher.send(Subscribe(1, [("will", Subscription(0))]))
    watcher.packets()
    victim = world.connect("v", clean_start=False, username="v", password=b"v", will=Will("will", b"gone", 0, False))
    victim.send(Subscribe(1, [("a", Subscription(1))]))
    victim.packets()

    mallory = world.peer()
    mallory.send(Connect("v", 4, clean_start=clean, username="v", password=b"wrong", will=Will("a", b"bad", 1, False)))
    assert mallory.packets() == [Connack(False, Reason.BAD_USER_NAME_OR_PASSWORD)]
    assert mallory.closed
    mallory.drop()
    assert victim.alive()
    assert world.broker.metrics.takeovers == 0
    watcher.send(Publish("a", b"1", 1, packet_id=1))
    assert [p for p in victim.packets() if isinstance(p, Publish)] == [Publish("a", b"1", 1, packet_id=1)]
    assert not [p for p in watcher.packets() if isinstance(p, Publish)]

    victim.drop()
    assert [p for p in watcher.packets() if isinstance(p, Publish)] == [Publish("will", b"gone")]
    world.peer().send(Connect("v", 4, clean_start=clean, username="v", password=b"wrong"))
    again = world.connect("v", clean_start=False, present=True, username="v", password=b"v")
    assert [p.payload for p in again.packets() if isinstance(p, Publish)] == [b"1"]


def test_a_login_under_way_is_no_takeover() -> None:
    """While the authenticator is still thinking about somebody else nothing happens to the session."""
    waiting: Deferred[bool] = Deferred()
    world = World(authenticator=Door(Says(lambda c: waiting if c.password == b"wrong" else True)).chain)
    victim = world.connect("v", clean_start=False, username="v", password=b"v")
    mallory = world.peer()
    mallory.send(Connect("v", 4, username="v", password=b"wrong"))
    assert victim.alive()
    mallory.drop()
    waiting.callback(True)
    world.settle()
    assert victim.alive()
    assert world.broker.metrics.takeovers == 0
