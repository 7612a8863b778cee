"""Enhanced authentication: the rounds of AUTH before CONNACK and later, with SCRAM and with methods of other kinds."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mqttcluster.broker.dialogue import MOST_ROUNDS
from mqttcluster.broker.enhanced import Challenge, Claim, Finish
from mqttcluster.broker.scram import Scram, verifier
from mqttcluster.mqtt.packets import Auth, Connack, Disconnect, Puback, Subscribe, Subscription
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, payloads
from tests.broker.v5.scram_client import ScramClient
from tests.conformance.v5.stage import (
    Guest,
    assert_refused,
    assert_sent_away,
    bystander,
    call,
    props,
    publish,
    say,
    will,
)

SCRAM = Scram({"alice": verifier("secret", b"sixteen bytes...", 4096), "bob": verifier("hush", b"s" * 16, 4096)})


class Scripted:
    """A method whose answers a test has written: data, names, reasons, Deferreds or exceptions, one for each step."""

    name = "SCRIPT"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.heard: list[bytes] = []
        self.claims: list[Claim] = []

    def begin(self, claim: Claim) -> Scripted:
        self.claims.append(claim)
        return self

    def step(self, data: bytes) -> Any:
        self.heard.append(data)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Challenge(answer) if isinstance(answer, bytes) else answer


def auth(data: bytes = b"", reason: Reason = Reason.CONTINUE_AUTHENTICATION, method: str = "SCRIPT") -> Auth:
    found = props(authentication_method=method)
    if data:
        found[Prop.AUTHENTICATION_DATA] = data
    return Auth(reason, found)


def told(guest: Guest) -> bytes:
    """The data of the one AUTH or CONNACK that has come."""
    [packet] = guest.packets()
    assert isinstance(packet, Auth | Connack)
    data = packet.properties.get(Prop.AUTHENTICATION_DATA, b"")
    assert isinstance(data, bytes)
    return data


def begin(method: Scripted, data: bytes = b"hello", **fields: Any) -> tuple[World, Guest]:
    """A client that has sent its CONNECT to a broker with this method."""
    world = World(methods=[method])
    return world, Guest(world).send(call(authentication_method="SCRIPT", authentication_data=data, **fields))


def logged_in(world: World, name: str = "alice", password: str = "secret") -> Guest:
    """A client that has come in by SCRAM."""
    client = ScramClient(name, password)
    guest = Guest(world).send(call(authentication_method=SCRAM.name, authentication_data=client.first()))
    guest.send(auth(client.final(told(guest)), method=SCRAM.name))
    assert client.believes(told(guest))
    assert guest.client is not None
    assert guest.client.identity is not None
    assert guest.client.identity.username == name
    return guest


def test_scram_from_connect_to_connack() -> None:
    """Two rounds; CONNACK has the method and the server's proof; the client is who it has proved to be."""
    world = World(methods=[SCRAM])
    client = ScramClient("alice", "secret")
    guest = Guest(world).send(
        call(authentication_method=SCRAM.name, authentication_data=client.first(), username="mallory")
    )
    [challenge] = guest.packets()
    assert isinstance(challenge, Auth)
    assert challenge.reason is Reason.CONTINUE_AUTHENTICATION
    assert challenge.properties[Prop.AUTHENTICATION_METHOD] == "SCRAM-SHA-256"
    data = challenge.properties[Prop.AUTHENTICATION_DATA]
    assert isinstance(data, bytes)
    guest.send(auth(client.final(data), method=SCRAM.name))
    connack = guest.take_connack()
    assert connack.reason is Reason.SUCCESS
    assert connack.properties[Prop.AUTHENTICATION_METHOD] == "SCRAM-SHA-256"
    outcome = connack.properties[Prop.AUTHENTICATION_DATA]
    assert isinstance(outcome, bytes)
    assert client.believes(outcome)
    assert world.broker.metrics.authentications["allowed"] == 1
    guest.send(publish("t", b"x", 1, id=1))
    assert isinstance(guest.packets()[0], Puback)


def test_scram_with_a_wrong_password() -> None:
    """CONNACK 0x86; nobody has a session, no will is published."""
    world = World(methods=[SCRAM])
    watcher = bystander(world)
    client = ScramClient("alice", "wrong")
    guest = Guest(world).send(call(authentication_method=SCRAM.name, authentication_data=client.first(), will=will()))
    guest.send(auth(client.final(told(guest)), method=SCRAM.name))
    assert_refused(guest, Reason.BAD_USER_NAME_OR_PASSWORD)
    assert list(world.broker.sessions.connected) == ["bystander"]
    assert watcher.packets() == []
    assert world.broker.metrics.authentications["denied"] == 1


def test_a_client_that_lets_the_server_begin() -> None:
    """CONNECT without data: the server asks for the first message by an AUTH without data."""
    world = World(methods=[SCRAM])
    client = ScramClient("alice", "secret")
    guest = Guest(world).send(call(authentication_method=SCRAM.name))
    assert told(guest) == b""
    guest.send(auth(client.first(), method=SCRAM.name))
    guest.send(auth(client.final(told(guest)), method=SCRAM.name))
    assert client.believes(told(guest))


def test_a_method_without_rounds() -> None:
    """One that is content with the data of CONNECT; it is told who asks."""
    method = Scripted(Finish("alice", b"welcome"))
    _, guest = begin(method, username="u")
    assert told(guest) == b"welcome"
    assert method.heard == [b"hello"]
    [claim] = method.claims
    assert (claim.client_id, claim.username, claim.peer) == ("c", "u", "192.0.2.1:4711")


@pytest.mark.parametrize(
    ("answer", "reason", "result"),
    [
        (Reason.NOT_AUTHORIZED, Reason.NOT_AUTHORIZED, "denied"),
        (Reason.BANNED, Reason.BANNED, "denied"),
        (Reason.SERVER_BUSY, Reason.SERVER_BUSY, "busy"),
        (Reason.SUCCESS, Reason.SERVER_UNAVAILABLE, "error"),
        (None, Reason.SERVER_UNAVAILABLE, "error"),
        (ValueError("secret words"), Reason.SERVER_UNAVAILABLE, "error"),
    ],
)
@pytest.mark.parametrize("rounds", [0, 2])
def test_a_method_that_refuses_or_fails(answer: Any, reason: Reason, result: str, rounds: int) -> None:
    """CONNACK with its reason, in whatever round; its faults are not told."""
    world, guest = begin(Scripted(*[b"more"] * rounds, answer))
    for _ in range(rounds):
        assert told(guest) == b"more"
        guest.send(auth(b"again"))
    assert_refused(guest, reason)
    assert world.broker.metrics.authentications[result] == 1
    assert not any("secret" in remark for remark in guest.remarks)


def test_a_method_that_takes_its_time() -> None:
    """Its Deferred is waited for; one that does not fire refuses the client."""
    late: Deferred[Any] = Deferred()
    world, guest = begin(Scripted(late))
    assert guest.packets() == []
    late.callback(Finish("alice"))
    world.settle()
    assert guest.take_connack().reason is Reason.SUCCESS
    world, guest = begin(Scripted(Deferred()))
    world.advance(6)
    assert_refused(guest, Reason.SERVER_UNAVAILABLE)
    assert world.broker.metrics.authentications["timeout"] == 1


def test_rounds_without_end() -> None:
    """There are only so many."""
    world, guest = begin(Scripted(*[b"more"] * 100))
    for _ in range(MOST_ROUNDS):
        assert not guest.closed
        guest.packets()
        guest.send(auth(b"again"))
    assert_refused(guest, Reason.NOT_AUTHORIZED)
    assert not world.broker.sessions.connected


@pytest.mark.parametrize(
    "packet",
    [
        publish("t", b"x"),
        Subscribe(1, [("t", Subscription())]),
        "C0 00",
        auth(b"x", Reason.RE_AUTHENTICATE),
        auth(b"x", Reason.SUCCESS),
        auth(b"x", method="OTHER"),
        "F0 00",
        "F0 02 18 00",
    ],
)
def test_what_must_not_come_between(packet: Any) -> None:
    """While the client authenticates it may send the AUTH it was asked for, or DISCONNECT; else 0x82."""
    world, guest = begin(Scripted(b"more", Finish("alice")))
    watcher = bystander(world)
    guest.packets()
    guest.send(packet)
    assert_refused(guest, Reason.PROTOCOL_ERROR)
    assert watcher.packets() == []


def test_what_was_sent_too_early() -> None:
    """A client that does not wait for the end of its authentication is refused, and nothing of it is published."""
    world = World(methods=[Scripted(b"more", Finish("alice"))])
    watcher = bystander(world)
    guest = Guest(world).send(call(authentication_method="SCRIPT"), publish("t", b"early"))
    [challenge, connack] = guest.packets()
    assert isinstance(challenge, Auth)
    assert isinstance(connack, Connack)
    assert connack.reason is Reason.PROTOCOL_ERROR
    assert guest.closed
    assert watcher.packets() == []


@pytest.mark.parametrize("how", ["drop", "disconnect", "silence"])
def test_a_client_that_gives_up(how: str) -> None:
    """Nothing is left of it, whatever it was about to be."""
    world, guest = begin(Scripted(b"more", Finish("alice")), will=will())
    watcher = bystander(world)
    guest.packets()
    if how == "drop":
        guest.drop()
    elif how == "disconnect":
        guest.send(Disconnect())
    else:
        world.advance(11)
        assert_refused(guest, Reason.SERVER_UNAVAILABLE)
    assert guest.closed
    guest.drop()
    world.advance(30)
    assert guest.client not in world.broker.clients
    assert watcher.packets() == []


def test_an_existing_session_is_safe_until_the_end() -> None:
    """Who has not proved anything does not throw out who is there."""
    world = World(methods=[SCRAM])
    there = logged_in(world)
    guest = Guest(world).send(call(authentication_method=SCRAM.name, authentication_data=b"n,,n=bob,r=abc"))
    guest.send(auth(b"nonsense", method=SCRAM.name))
    assert guest.closed
    assert there.alive()


# -- once more, while connected


def test_again() -> None:
    """AUTH 0x19 leads to AUTH 0x00 with the server's proof; messages flow meanwhile, in both directions."""
    world = World(methods=[SCRAM])
    guest = logged_in(world)
    guest.send(Subscribe(1, [("t", Subscription())])).packets()
    client = ScramClient("alice", "secret")
    guest.send(auth(client.first(), Reason.RE_AUTHENTICATE, SCRAM.name))
    challenge = told(guest)
    say(world, "t", b"meanwhile")
    assert payloads(guest) == [b"meanwhile"]
    guest.send(publish("t", b"mine"), auth(client.final(challenge), method=SCRAM.name))
    packets = guest.packets()
    [done] = [packet for packet in packets if isinstance(packet, Auth)]
    assert done.reason is Reason.SUCCESS
    assert done.properties[Prop.AUTHENTICATION_METHOD] == SCRAM.name
    data = done.properties[Prop.AUTHENTICATION_DATA]
    assert isinstance(data, bytes)
    assert client.believes(data)
    assert guest.alive()
    guest.send(auth(ScramClient("alice", "secret").first(), Reason.RE_AUTHENTICATE, SCRAM.name))
    assert told(guest)  # as often as it likes


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("bob", "hush"), ("nobody", "x")])
def test_again_in_vain(name: str, password: str) -> None:
    """A wrong password ends the connection with 0x87, and so does being somebody else now; the will is published."""
    world = World(methods=[SCRAM])
    watcher = bystander(world, "will")
    client = ScramClient("alice", "secret")
    guest = Guest(world).send(call(authentication_method=SCRAM.name, authentication_data=client.first(), will=will()))
    guest.send(auth(client.final(told(guest)), method=SCRAM.name)).packets()
    client = ScramClient(name, password)
    guest.send(auth(client.first(), Reason.RE_AUTHENTICATE, SCRAM.name))
    guest.send(auth(client.final(told(guest)), method=SCRAM.name))
    assert_sent_away(guest, Reason.NOT_AUTHORIZED)
    assert payloads(watcher) == [b"gone"]


@pytest.mark.parametrize(
    "packets",
    [
        [auth(b"x")],
        [auth(b"x", Reason.SUCCESS)],
        [auth(b"x", Reason.RE_AUTHENTICATE, "OTHER")],
        [auth(b"x", Reason.RE_AUTHENTICATE), auth(b"x", Reason.RE_AUTHENTICATE)],
        ["F0 00"],
    ],
)
def test_auth_out_of_place(packets: list[Any]) -> None:
    """Nobody has asked for it, it is the server's to say, it is another method, or one is under way: 0x82."""
    _, guest = begin(Scripted(Finish("alice"), b"more"))
    guest.packets()
    guest.send(*packets)
    found = guest.packets()
    assert isinstance(found[-1], Disconnect)
    assert found[-1].reason is Reason.PROTOCOL_ERROR
    assert guest.closed


def test_again_without_an_answer() -> None:
    """A client that begins and does not go on is sent away; one that is gone leaves nothing behind."""
    world, guest = begin(Scripted(Finish("alice"), b"more"))
    guest.packets()
    guest.send(auth(b"x", Reason.RE_AUTHENTICATE)).packets()
    world.advance(11)
    assert_sent_away(guest, Reason.NOT_AUTHORIZED)
    world, guest = begin(Scripted(Finish("alice"), b"more"))
    guest.send(auth(b"x", Reason.RE_AUTHENTICATE)).packets()
    guest.drop()
    world.advance(30)
    assert guest.client not in world.broker.clients


def test_again_with_a_method_that_fails() -> None:
    """0x87, and not a word about why."""
    _, guest = begin(Scripted(Finish("alice"), ValueError("secret words")))
    guest.packets()
    guest.send(auth(b"x", Reason.RE_AUTHENTICATE))
    assert_sent_away(guest, Reason.NOT_AUTHORIZED)
    assert not any("secret" in remark for remark in guest.remarks)
