"""What is different for a client of MQTT 3.1 (MQIsdp, level 3). There are no numbered statements."""

from __future__ import annotations

import pytest

from mqttcluster.broker.auth import Identity
from mqttcluster.mqtt.packets import (
    V31,
    Connect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import Peer, World
from tests.conformance.stage import ACCEPTED, Doorkeeper, assert_refused, bystander, connect_bytes, subscribe
from tests.conformance.test_connect import REFUSALS
from tests.support.wire import string


def old_connect(flags: int, *fields: bytes) -> bytes:
    """CONNECT as a 3.1 client writes it."""
    return connect_bytes(flags, *fields, level=3, name="MQIsdp")


def old_client(world: World, client_id: str = "old", **fields: object) -> Peer:
    """A connected client of MQTT 3.1. Its CONNACK never has Session Present."""
    return world.connect(client_id, V31, **fields)


C, U, P = string("c"), string("u"), string("p")


def test_example(world: World) -> None:
    """The worked example of a CONNECT, whose variable header has 12 bytes."""
    peer = world.peer(V31).send("10 0F 00 06 4D 51 49 73 64 70 03 02 00 3C 00 01 61")
    assert peer.bytes() == ACCEPTED
    assert peer.alive()


def test_connack_has_no_session_present(world: World) -> None:
    """The session is resumed, but byte 1 of CONNACK stays 0."""
    first = old_client(world, clean_start=False)
    subscribe(first, "t", qos=1)
    first.drop()
    world.connect("p").send(Publish("t", b"x", 1, packet_id=1))
    peer = world.peer(V31).send(old_connect(0x00, string("old")))
    assert peer.bytes() == ACCEPTED + bytes.fromhex("32 06 00 01 74 00 01 78")


@pytest.mark.parametrize("flags", [0x00, 0x02])
def test_empty_client_id(world: World, flags: int) -> None:
    """3.1 asks for an id with either CleanSession: CONNACK 0x02, closed."""
    peer = world.peer(V31).send(old_connect(flags, string("")))
    assert peer.bytes() == bytes.fromhex("20 02 00 02")
    assert peer.closed


@pytest.mark.parametrize("length", [1, 23, 24, 100])
def test_length_of_the_client_id(world: World, length: int) -> None:
    """3.1 allows 23 characters; this broker takes more."""
    assert world.peer(V31).send(old_connect(0x02, string("x" * length))).bytes() == ACCEPTED


@pytest.mark.parametrize("flags", [0x03, 0x0A, 0x12, 0x1A, 0x22, 0x3B])
def test_flags_that_are_not_checked(world: World, flags: int) -> None:
    """The reserved flag, and will bits without the will flag, mean nothing: accepted, and no will."""
    watcher = bystander(world)
    peer = world.peer(V31).send(old_connect(flags, C))
    assert peer.bytes() == ACCEPTED
    peer.drop()
    assert watcher.packets() == []


@pytest.mark.parametrize(
    "raw", [old_connect(0x82, C), old_connect(0xC2, C), old_connect(0xC2, C, U), old_connect(0xC2, C, U, P)]
)
def test_user_name_and_password_may_be_missing(world: World, raw: bytes) -> None:
    """Remaining Length wins over the flags."""
    peer = world.peer(V31).send(raw)
    assert peer.bytes() == ACCEPTED
    assert peer.alive()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(old_connect(0x06, C), id="no-will"),
        pytest.param(old_connect(0x06, C, string("w")), id="no-will-message"),
        pytest.param(old_connect(0x1E, C, string("w"), string("m")), id="will-QoS-3"),
        pytest.param(old_connect(0x06, C, string("a/#"), string("m")), id="will-topic-with-wildcard"),
        pytest.param(old_connect(0x02, C, U), id="bytes-left"),
        pytest.param(old_connect(0x82, C, b"\0\5u"), id="user-name-cut"),
        pytest.param(old_connect(0x02, string(b"\xc0\x80")), id="bad-UTF-8"),
    ],
)
def test_what_is_malformed_all_the_same(world: World, raw: bytes) -> None:
    """Closed, no CONNACK."""
    watcher = bystander(world)
    assert_refused(world.peer(V31).send(raw), watcher)


def test_dup_in_other_headers(world: World) -> None:
    """SUBSCRIBE, UNSUBSCRIBE and PUBREL with DUP are the same packets; each is answered again."""
    peer = old_client(world)
    peer.send("82 06 00 01 00 01 74 01", "8A 06 00 01 00 01 74 01")
    assert peer.bytes() == bytes.fromhex("90 03 00 01 01" * 2)
    peer.send("34 06 00 01 75 00 07 78", "62 02 00 07", "6A 02 00 07")
    assert peer.bytes() == bytes.fromhex("50 02 00 07 70 02 00 07 70 02 00 07")
    assert peer.send("A2 05 00 02 00 01 74", "AA 05 00 02 00 01 74").bytes() == bytes.fromhex("B0 02 00 02" * 2)


@pytest.mark.parametrize("raw", ["8A 06 00 01 00 01 74 01", "AA 05 00 02 00 01 74", "6A 02 00 07"])
def test_dup_in_other_headers_of_a_newer_client(world: World, raw: str) -> None:
    """A 3.1.1 client must not: closed."""
    peer = world.connect("new").send(raw)
    assert peer.bytes() == b""
    assert peer.closed


@pytest.mark.parametrize(
    "raw", ["80 06 00 01 00 01 74 01", "84 06 00 01 00 01 74 01", "60 02 00 07", "38 04 00 01 74 78"]
)
def test_headers_that_are_wrong_in_3_1_too(world: World, raw: str) -> None:
    """Another QoS in these headers, or DUP with QoS 0: closed."""
    peer = old_client(world).send(raw)
    assert peer.bytes() == b""
    assert peer.closed


def test_resend_on_a_live_connection(world: World) -> None:
    """A 3.1 client may send again after a time: QoS 2 is published once, QoS 1 at least once, all is acknowledged."""
    watcher, peer = bystander(world), old_client(world)
    peer.send(Publish("t", b"2", 2, packet_id=1), Publish("t", b"2", 2, dup=True, packet_id=1))
    assert peer.packets() == [Pubrec(1), Pubrec(1)]
    peer.send("62 02 00 01", "6A 02 00 01")
    assert peer.packets() == [Pubcomp(1), Pubcomp(1)]
    assert watcher.packets() == [Publish("t", b"2")]
    peer.send(Publish("t", b"1", 1, packet_id=1), Publish("t", b"1", 1, dup=True, packet_id=1))
    assert peer.packets() == [Puback(1), Puback(1)]
    assert watcher.packets() in ([Publish("t", b"1")], [Publish("t", b"1")] * 2)


class OnlyGood:
    """An authorizer under which nobody may subscribe `bad`."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        return True

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return filter != "bad"


def test_refused_filter_has_no_code() -> None:
    """SUBACK has a QoS for it, never 0x80, and nothing is delivered; the others are served."""
    world = World(authorizer=OnlyGood())
    peer = old_client(world)
    peer.send(Subscribe(1, [("good", Subscription(1)), ("bad", Subscription(2)), ("fine", Subscription(2))]))
    assert peer.packets() == [Suback(1, [Reason(1), Reason(0), Reason(2)])]
    world.connect("p").send(Publish("bad", b"x"), Publish("good", b"y"))
    assert peer.packets() == [Publish("good", b"y")]


def test_control_characters_pass(world: World) -> None:
    """Strings were loosely defined: control characters do not close."""
    watcher, peer = bystander(world), old_client(world, "a\x01b")
    peer.send(Publish("t\x1f\x7f", b"x"))
    assert watcher.packets() == [Publish("t\x1f\x7f", b"x")]
    assert peer.alive()


@pytest.mark.parametrize("code", [Reason.BAD_USER_NAME_OR_PASSWORD, Reason.NOT_AUTHORIZED])
def test_refusals_have_the_same_codes(code: Reason) -> None:
    """0x04 and 0x05, as in 3.1.1."""
    peer = World(authenticator=Doorkeeper(code)).peer(V31).send(old_connect(0x02, C))
    assert peer.bytes() == bytes((0x20, 2, 0, REFUSALS[code]))
    assert peer.closed


def test_will(world: World) -> None:
    """Published when the connection is lost, not after DISCONNECT."""
    watcher = bystander(world, qos=2)
    old_client(world, will=Will("w", b"m", 2)).drop()
    assert watcher.packets() == [Publish("w", b"m", 2, packet_id=1)]
    old_client(world, will=Will("w", b"m", 2)).send("E0 00")
    assert watcher.packets() == []


@pytest.mark.parametrize(("first", "second"), [(3, 4), (4, 3)])
def test_a_session_may_change_the_protocol(world: World, first: int, second: int) -> None:
    """The next connection of a session may speak the other version: it finds its subscriptions and messages."""
    session = world.connect("c", first, clean_start=False)
    subscribe(session, "t", qos=2)
    session.drop()
    world.connect("p").send(Publish("t", b"x", 2, packet_id=1))
    again = world.connect("c", second, present=second == 4, clean_start=False)
    assert again.packets() == [Publish("t", b"x", 2, packet_id=1)]


def test_takeover_between_versions(world: World) -> None:
    """One client id, one connection, whatever the versions."""
    old = old_client(world, "c")
    new = world.connect("c")
    assert old.closed
    old_client(world, "c")
    assert new.closed


def test_second_connect_of_either_version(world: World) -> None:
    """A connection keeps to its first CONNECT."""
    peer = old_client(world).send(Connect("old"))
    assert peer.bytes() == b""
    assert peer.closed
