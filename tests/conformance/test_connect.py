"""Sections 3.1 and 3.2 of MQTT 3.1.1: CONNECT, CONNACK, and what a connection's end brings about."""

from __future__ import annotations

import string as characters

import pytest

from mqttcluster.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import Peer, World
from tests.conformance.stage import (
    ACCEPTED,
    RESUMED,
    WILL,
    Doorkeeper,
    assert_cut_off,
    assert_refused,
    bystander,
    connect_bytes,
    subscribe,
    with_will,
)
from tests.support.wire import frame, string

NO_SUCH_LEVEL = bytes.fromhex("20 02 00 01")
BAD_CLIENT_ID = bytes.fromhex("20 02 00 02")


# -- the first packet


@pytest.mark.rule("MQTT-3.1.0-1")
@pytest.mark.parametrize(
    "raw",
    [
        *("30 04 00 01 74 78", "32 06 00 01 74 00 01 78", "40 02 00 01", "50 02 00 01", "62 02 00 01", "70 02 00 01"),
        *("82 06 00 01 00 01 61 00", "A2 05 00 01 00 01 61", "C0 00", "E0 00", "20 02 00 00", "D0 00"),
        pytest.param("47 45 54 20 2F 20 48 54 54 50 2F 31 2E 31 0D 0A", id="HTTP"),
        pytest.param("16 03 01 02 00 01 00 01 FC 03 03", id="TLS"),
    ],
)
def test_first_packet_is_connect(world: World, raw: str) -> None:
    """Anything else first: closed without CONNACK, and a CONNECT behind it does not help."""
    watcher = bystander(world)
    peer = world.peer().send(bytes.fromhex(raw) + connect_bytes(0x02, string("late")))
    assert_refused(peer, watcher)


@pytest.mark.rule("MQTT-3.1.0-2")
@pytest.mark.parametrize("client_id", ["mortal", "another"])
def test_second_connect(world: World, client_id: str) -> None:
    """A second CONNECT on a connection closes it and publishes its will; it opens no session."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(Connect(client_id), Publish("t", b"behind"))
    assert_cut_off(mortal, watcher)
    assert client_id not in world.broker.sessions.connected


@pytest.mark.rule("MQTT-3.1.0-2")
def test_second_connect_in_one_chunk(world: World) -> None:
    """The first one is accepted, then the connection closes; the client it named is not disturbed."""
    watcher = bystander(world)
    peer = world.peer().send(Connect("c"), Connect("bystander"))
    assert peer.bytes() == ACCEPTED
    assert peer.closed
    assert watcher.alive()


# -- protocol name and level


@pytest.mark.rule("MQTT-3.1.2-1")
@pytest.mark.parametrize("name", ["", "MQT", "mqtt", "MQTTT", "MQTT ", "MQTTS", "AMQP", "mqisdp", "MQIsdP"])
def test_other_protocol_names(world: World, name: str) -> None:
    """A name that is no protocol of ours: closed, no CONNACK."""
    watcher, peer = bystander(world), world.peer()
    peer.send(connect_bytes(0x02, string("c"), name=name))
    assert_refused(peer, watcher)


@pytest.mark.rule("MQTT-3.1.2-1")
def test_the_older_protocol_goes_by_its_own_rules(world: World) -> None:
    """MQIsdp is never treated as 3.1.1: a will QoS without a will passes there, and no session present is told."""
    world.connect("c", clean_start=False).drop()
    peer = world.peer().send(connect_bytes(0x08, string("c"), name="MQIsdp", level=3))
    assert peer.bytes() == ACCEPTED
    assert peer.alive()


@pytest.mark.rule("MQTT-3.1.2-2")
@pytest.mark.parametrize("level", [0, 1, 2, 3, 6, 7, 0x83, 0x84, 0xFF])
def test_other_levels(world: World, level: int) -> None:
    """CONNACK 0x01 and closed, whatever stands behind the level."""
    watcher = bystander(world)
    for behind in (b"", b"\x02\x00\x00" + string("c"), b"\xff\xff\xff"):
        peer = world.peer().send(frame(0x10, string("MQTT") + bytes((level,)) + behind))
        assert peer.bytes() == NO_SUCH_LEVEL
        assert peer.closed
    assert watcher.alive()


@pytest.mark.rule("MQTT-3.1.2-2")
@pytest.mark.parametrize("level", [0, 2, 4, 5, 0x83])
def test_other_levels_of_the_older_protocol(world: World, level: int) -> None:
    """MQIsdp has level 3 only; a bridge that says 0x83 may try again without that bit."""
    peer = world.peer().send(connect_bytes(0x02, string("c"), name="MQIsdp", level=level))
    assert peer.bytes() == NO_SUCH_LEVEL
    assert peer.closed


# -- flags and fields that do not fit: closed, no CONNACK


def _flags(flags: int, *rules: str) -> object:
    fields = [string("c")]
    if flags & 0x04:
        fields += [string("w"), string("m")]
    if flags & 0x80:
        fields.append(string("u"))
    if flags & 0x40:
        fields.append(string("p"))
    return pytest.param(connect_bytes(flags, *fields), id=f"flags-{flags:02X}", marks=pytest.mark.rule(*rules))


def _fields(id: str, flags: int, *fields: bytes, rules: str) -> object:
    return pytest.param(connect_bytes(flags, *fields), id=id, marks=pytest.mark.rule(*rules.split()))


C, W, M, U, P = string("c"), string("w"), string("m"), string("u"), string("p")

MALFORMED = [
    _flags(0x03, "MQTT-3.1.2-3"),
    _flags(0x01, "MQTT-3.1.2-3"),
    _flags(0xC7, "MQTT-3.1.2-3"),
    _flags(0x0A, "MQTT-3.1.2-11", "MQTT-3.1.2-13"),
    _flags(0x12, "MQTT-3.1.2-11", "MQTT-3.1.2-13"),
    _flags(0x1A, "MQTT-3.1.2-11", "MQTT-3.1.2-13"),
    _flags(0x22, "MQTT-3.1.2-11", "MQTT-3.1.2-15"),
    _flags(0x2A, "MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-15"),
    _flags(0x1E, "MQTT-3.1.2-14"),
    _flags(0x3E, "MQTT-3.1.2-14"),
    _flags(0x42, "MQTT-3.1.2-22"),
    _flags(0x46, "MQTT-3.1.2-22"),
    _fields("no-will-topic", 0x06, C, rules="MQTT-3.1.2-9"),
    _fields("no-will-message", 0x06, C, W, rules="MQTT-3.1.2-9"),
    _fields("will-message-cut", 0x06, C, W, b"\0\2m", rules="MQTT-3.1.2-9"),
    _fields("will-without-flag", 0x02, C, W, M, rules="MQTT-3.1.2-11"),
    _fields("user-name-without-flag", 0x02, C, U, rules="MQTT-3.1.2-18"),
    _fields("user-name-without-flag-behind-a-will", 0x06, C, W, M, U, rules="MQTT-3.1.2-18"),
    _fields("no-user-name", 0x82, C, rules="MQTT-3.1.2-19"),
    _fields("user-name-cut", 0x82, C, b"\0\5u", rules="MQTT-3.1.2-19"),
    _fields("password-without-flag", 0x82, C, U, P, rules="MQTT-3.1.2-20"),
    _fields("no-password", 0xC2, C, U, rules="MQTT-3.1.2-21"),
    _fields("half-a-password-length", 0xC2, C, U, b"\0", rules="MQTT-3.1.2-21"),
    _fields("no-client-id", 0x02, rules="MQTT-3.1.3-3"),
    _fields("half-a-client-id-length", 0x02, b"\0", rules="MQTT-3.1.3-3"),
    _fields("client-id-cut", 0x02, b"\0\2c", rules="MQTT-3.1.3-3"),
    _fields("will-topic-empty", 0x06, C, string(""), M, rules="MQTT-3.1.4-1 MQTT-4.7.3-1"),
    _fields("will-topic-hash", 0x06, C, string("a/#"), M, rules="MQTT-3.1.4-1 MQTT-4.7.1-1"),
    _fields("will-topic-plus", 0x06, C, string("a/+/b"), M, rules="MQTT-3.1.4-1 MQTT-4.7.1-1"),
    _fields("will-topic-plus-in-a-level", 0x06, C, string("a+"), M, rules="MQTT-3.1.4-1 MQTT-4.7.1-1"),
    _fields("a-byte-left", 0x02, C, b"\0", rules="MQTT-3.1.4-1"),
    pytest.param(bytes.fromhex("10 00"), id="empty"),
    pytest.param(frame(0x10, b"\0"), id="half-a-name-length"),
    pytest.param(frame(0x10, string("MQTT")), id="no-level"),
    pytest.param(frame(0x10, string("MQTT") + b"\4"), id="no-flags"),
    pytest.param(frame(0x10, string("MQTT") + b"\4\2\0"), id="half-a-keep-alive"),
]


@pytest.mark.rule("MQTT-3.1.4-1")
@pytest.mark.parametrize("raw", MALFORMED)
def test_malformed_connect(world: World, raw: bytes) -> None:
    """Closed without CONNACK; what comes behind is not looked at."""
    watcher, peer = bystander(world), world.peer()
    peer.send(raw, Publish("t", b"behind", 1, packet_id=1))
    assert_refused(peer, watcher)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (0x02, [C]),
        (0x00, [C]),
        (0x06, [C, W, M]),
        (0x0E, [C, W, M]),
        (0x16, [C, W, M]),
        (0x36, [C, W, M]),
        (0x06, [C, W, string("")]),
        (0x82, [C, U]),
        pytest.param(0x82, [C, string("")], marks=pytest.mark.rule("MQTT-3.1.2-19")),
        (0xC2, [C, U, P]),
        pytest.param(0xC2, [C, U, string("")], marks=pytest.mark.rule("MQTT-3.1.2-21")),
        pytest.param(0xC2, [C, U, string(b"\0\xff\xc0")], id="binary-password"),
        pytest.param(0x06, [C, W, string(b"\0\xff\xc0")], id="binary-will-message"),
        pytest.param(0xC2, [C, U, string(b"p" * 65535)], id="longest-password"),
    ],
)
@pytest.mark.rule("MQTT-3.1.4-4")
def test_wellformed_connect(world: World, flags: int, fields: list[bytes]) -> None:
    """Every legal combination is answered with CONNACK 0, and nothing else."""
    peer = world.peer().send(connect_bytes(flags, *fields))
    assert peer.bytes() == ACCEPTED
    assert peer.alive()


@pytest.mark.rule("MQTT-3.1.3-1")
def test_order_of_the_fields() -> None:
    """ClientId, will topic, will message, user name and password are taken for what their place says."""
    doorkeeper = Doorkeeper()
    world = World(authenticator=doorkeeper)
    watcher = bystander(world, qos=1)
    peer = world.peer()
    peer.send("10 1A 00 04 4D 51 54 54 04 CE 00 3C 00 02 63 31 00 01 77 00 01 78 00 01 75 00 01 70")
    assert peer.bytes() == ACCEPTED
    asked = doorkeeper.asked[-1]
    assert (asked.client_id, asked.username, asked.password) == ("c1", "u", b"p")
    peer.drop()
    assert watcher.packets() == [Publish("w", b"x", 1, packet_id=1)]


# -- CleanSession


@pytest.mark.rule("MQTT-3.1.2-4", "MQTT-3.1.4-3")
def test_stored_session_is_resumed(world: World) -> None:
    """CleanSession=0 finds its subscriptions again, without a new SUBSCRIBE; both ends of a connection keep them."""
    first = world.connect("c", clean_start=False)
    subscribe(first, "t", qos=1)
    first.send(Disconnect())
    for end in (Peer.drop, lambda peer: peer.send(Disconnect())):
        again = world.connect("c", present=True, clean_start=False)
        world.connect("p").send(Publish("t", b"x", 1, packet_id=1))
        [packet] = again.packets()
        assert packet.payload == b"x"
        again.send(Puback(packet.packet_id))
        end(again)


@pytest.mark.rule("MQTT-3.1.2-5")
@pytest.mark.parametrize("graceful", [False, True])
def test_messages_for_an_offline_session_are_kept(world: World, graceful: bool) -> None:
    """QoS 1 and 2 messages that match while the client is away arrive behind its CONNACK, in order, DUP 0."""
    client = world.connect("c", clean_start=False)
    subscribe(client, "t/#", qos=2)
    client.send(Disconnect()) if graceful else client.drop()
    publisher = world.connect("p")
    publisher.send(
        Publish("t/a", b"1", 1, packet_id=1), Publish("t/b", b"2", 2, packet_id=2), Publish("u", b"3", 1, packet_id=3)
    )
    again = world.connect("c", present=True, clean_start=False)
    assert again.packets() == [Publish("t/a", b"1", 1, packet_id=1), Publish("t/b", b"2", 2, packet_id=2)]


@pytest.mark.rule("MQTT-3.1.2-5")
def test_only_subscriptions_at_disconnection_count(world: World) -> None:
    """What was unsubscribed before is not kept, and the granted QoS decides: at QoS 0 nothing has to be kept."""
    client = world.connect("c", clean_start=False)
    subscribe(client, "a", "b", qos=1)
    subscribe(client, "zero", qos=0)
    client.send("A2 05 00 02 00 01 61", Disconnect())
    world.connect("p").send(
        *(Publish(topic, b"x", 1, packet_id=number) for number, topic in enumerate(("a", "b", "zero"), 1))
    )
    again = world.connect("c", present=True, clean_start=False)
    assert again.packets() == [Publish("b", b"x", 1, packet_id=1)]


@pytest.mark.rule("MQTT-3.1.2-6", "MQTT-3.1.4-3")
@pytest.mark.parametrize("connected", [False, True], ids=["offline", "connected"])
def test_clean_session_discards_the_stored_one(world: World, connected: bool) -> None:
    """CleanSession=1 finds nothing: no subscription, no queued message, no open exchange; and leaves nothing behind."""
    client = world.connect("c", clean_start=False)
    subscribe(client, "t", qos=2)
    publisher = world.connect("p")
    publisher.send(Publish("t", b"in flight", 2, packet_id=1), Publish("t", b"half way", 2, packet_id=2))
    assert len(client.packets()) == 2
    client.send(Pubrec(1), Publish("u", b"held", 2, packet_id=77))
    if not connected:
        client.drop()
        publisher.send(Publish("t", b"queued", 1, packet_id=3))
    watcher = bystander(world, "u")
    clean = world.connect("c")
    publisher.send(Publish("t", b"later", 1, packet_id=4))
    assert clean.packets() == []
    clean.send(Publish("u", b"new", 2, packet_id=77))  # no duplicate of the one the old session held
    assert watcher.packets() == [Publish("u", b"new")]
    clean.drop()
    publisher.send(Publish("t", b"last", 1, packet_id=5))
    assert world.connect("c", clean_start=False).packets() == []


@pytest.mark.rule("MQTT-3.1.2-6")
@pytest.mark.parametrize("graceful", [False, True])
def test_clean_session_ends_with_its_connection(world: World, graceful: bool) -> None:
    """What a CleanSession=1 connection subscribed and did not acknowledge is gone with it."""
    client = world.connect("c")
    subscribe(client, "t", qos=1)
    publisher = world.connect("p").send(Publish("t", b"in flight", 1, packet_id=1))
    assert len(client.packets()) == 1
    client.send(Disconnect()) if graceful else client.drop()
    publisher.send(Publish("t", b"offline", 1, packet_id=2))
    again = world.connect("c", clean_start=False)
    publisher.send(Publish("t", b"later", 1, packet_id=3))
    assert again.packets() == []


@pytest.mark.rule("MQTT-3.1.2-6")
def test_clean_session_taken_over_is_not_resumed(world: World) -> None:
    """CleanSession=0 that takes over a live CleanSession=1 connection starts anew."""
    first = world.connect("c")
    subscribe(first, "t", qos=1)
    second = world.connect("c", clean_start=False)
    world.connect("p").send(Publish("t", b"x", 1, packet_id=1))
    assert second.packets() == []


@pytest.mark.rule("MQTT-3.1.2-7")
@pytest.mark.parametrize("clean", [False, True])
def test_retained_messages_outlive_sessions(world: World, clean: bool) -> None:
    """The publisher's session ends, and is wiped: the retained message stays."""
    publisher = world.connect("p", clean_start=clean)
    publisher.send(Publish("r", b"x", 1, retain=True, packet_id=1))
    publisher.drop()
    world.connect("p").drop()
    watcher = world.connect("w").send(Subscribe(1, [("r", Subscription(1))]))
    assert watcher.packets() == [Suback(1, [Reason.GRANTED_QOS_1]), Publish("r", b"x", 1, retain=True, packet_id=1)]


#: What is there before -> Session Present with CleanSession=0 and with CleanSession=1.
HISTORIES = {
    "nothing": (False, lambda world: None),
    "clean, offline": (False, lambda world: world.connect("c").drop()),
    "clean, connected": (False, lambda world: world.connect("c")),
    "stored and empty, offline": (True, lambda world: world.connect("c", clean_start=False).drop()),
    "stored and empty, said DISCONNECT": (
        True,
        lambda world: world.connect("c", clean_start=False).send(Disconnect()),
    ),
    "stored, connected": (True, lambda world: world.connect("c", clean_start=False)),
    "stored, then wiped": (
        False,
        lambda world: (world.connect("c", clean_start=False).drop(), world.connect("c").drop()),
    ),
    "stored, wiped by a live connection": (
        False,
        lambda world: (world.connect("c", clean_start=False), world.connect("c")),
    ),
    "stored twice": (
        True,
        lambda world: (
            world.connect("c", clean_start=False).drop(),
            world.connect("c", present=True, clean_start=False).drop(),
        ),
    ),
    "another client": (False, lambda world: world.connect("C", clean_start=False).drop()),
}


@pytest.mark.rule("MQTT-3.2.2-1")
@pytest.mark.parametrize("history", HISTORIES)
def test_session_present_with_clean_session(world: World, history: str) -> None:
    """CleanSession=1: always `20 02 00 00`."""
    HISTORIES[history][1](world)
    assert world.peer().send(connect_bytes(0x02, C)).bytes() == ACCEPTED


@pytest.mark.rule("MQTT-3.1.4-3")
@pytest.mark.parametrize(
    "history",
    [
        pytest.param(name, marks=pytest.mark.rule("MQTT-3.2.2-2" if present else "MQTT-3.2.2-3"))
        for name, (present, _) in HISTORIES.items()
    ],
)
def test_session_present_without_clean_session(world: World, history: str) -> None:
    """CleanSession=0: Session Present tells whether there is a stored session, be it empty."""
    present, play = HISTORIES[history]
    play(world)
    assert world.peer().send(connect_bytes(0x00, C)).bytes() == (RESUMED if present else ACCEPTED)


@pytest.mark.rule("MQTT-3.2.2-2")
def test_session_present_after_a_restart(world: World) -> None:
    """The stored session is there after a crash of the broker, a clean one is not."""
    world.connect("c", clean_start=False)
    world.connect("d")
    again = world.restart()
    assert again.peer().send(connect_bytes(0x00, C)).bytes() == RESUMED
    assert again.peer().send(connect_bytes(0x00, string("d"))).bytes() == ACCEPTED


# -- wills


def _silence(world: World, peer: Peer) -> None:
    world.advance(15)


def _another_connection(world: World, peer: Peer) -> None:
    world.connect("mortal")


def _shut_down(world: World, peer: Peer) -> None:
    for client in list(world.broker.clients):
        if client.client_id == "mortal":
            client.shut_down()
    world.settle()


#: How a connection can end without DISCONNECT.
ENDS = {
    "network lost": lambda world, peer: peer.drop(),
    "silence": _silence,
    "taken over": _another_connection,
    "second CONNECT": lambda world, peer: peer.send(Connect("mortal")),
    "malformed packet": lambda world, peer: peer.send("F0 00"),
    "violation": lambda world, peer: peer.send("82 02 00 01"),
    "invalid DISCONNECT": lambda world, peer: peer.send("E1 00"),
    "broker shuts down": _shut_down,
}


@pytest.mark.rule("N311-12")
@pytest.mark.rule("MQTT-3.1.2-8")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("clean", [True, False])
def test_will_is_published(world: World, end: str, clean: bool) -> None:
    """However the connection ends without DISCONNECT, and whatever CleanSession: the will is published at once
    (N311-12)."""
    watcher = bystander(world)
    mortal = with_will(world, keep_alive=10, clean_start=clean)
    assert watcher.packets() == []
    ENDS[end](world, mortal)
    assert mortal.closed
    assert watcher.packets() == [WILL]
    assert watcher.alive()


@pytest.mark.rule("MQTT-3.1.2-10")
@pytest.mark.parametrize("end", ENDS)
def test_will_is_published_once(world: World, end: str) -> None:
    """No later event publishes it again: time, a new connection without a will and its end, a restart."""
    watcher, mortal = bystander(world), with_will(world, keep_alive=10, clean_start=False)
    ENDS[end](world, mortal)
    assert watcher.packets() == [WILL]
    world.advance(60)
    world.connect("mortal", present=end != "taken over", clean_start=False).drop()
    world.advance(60)
    assert watcher.packets() == []
    again = world.restart()
    watcher = bystander(again)
    again.connect("mortal", present=True, clean_start=False).drop()
    again.advance(60)
    assert watcher.packets() == []


@pytest.mark.rule("MQTT-3.1.2-10")
@pytest.mark.parametrize("qos", [0, 1])
def test_will_is_published_once_though_the_store_fails_in_between(world: World, qos: int) -> None:
    """The store fails at the very moment the will is to be published: it is tried again, and comes once."""
    watcher = bystander(world, "will", qos=1)
    mortal = world.connect("mortal", will=Will("will", b"gone", qos))
    world.hold()
    mortal.drop()
    world.answer()  # the end is stored; now it is asked what is due
    world.store.failing = True
    world.answer()
    for _ in range(3):
        world.advance(1)
    world.store.failing = False
    world.release()
    world.advance(2)
    assert watcher.packets() == [Publish("will", b"gone", qos, packet_id=qos)]


@pytest.mark.rule("MQTT-3.1.2-8", "MQTT-3.1.2-10")
def test_disconnect_removes_the_will(world: World) -> None:
    """After DISCONNECT no will is published, not when the network goes, not later, not after a restart."""
    watcher, mortal = bystander(world), with_will(world, clean_start=False)
    mortal.send("E0 00")
    assert mortal.closed
    mortal.drop()
    world.advance(60)
    assert watcher.packets() == []
    again = world.restart()
    watcher = bystander(again)
    again.advance(60)
    assert watcher.packets() == []


@pytest.mark.rule("MQTT-3.1.2-10")
def test_will_of_the_next_connection_is_its_own(world: World) -> None:
    """A will that a DISCONNECT removed does not come back with the next connection, whose own will counts."""
    watcher = bystander(world)
    with_will(world, clean_start=False).send("E0 00")
    world.connect("mortal", present=True, clean_start=False, will=Will("will", b"second")).drop()
    assert watcher.packets() == [Publish("will", b"second")]


@pytest.mark.rule("MQTT-3.1.2-8")
def test_no_will_of_a_refused_connect() -> None:
    """The will of a CONNECT that was not accepted is not published."""
    doorkeeper = Doorkeeper()
    world = World(authenticator=doorkeeper)
    watcher = bystander(world)
    doorkeeper.answer = Reason.NOT_AUTHORIZED
    peer = world.peer().send(Connect("mortal", will=Will("will", b"gone")))
    peer.drop()
    world.advance(60)
    assert watcher.packets() == []


@pytest.mark.rule("MQTT-3.1.2-9")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
def test_will_qos_and_retain_of_the_flags(world: World, qos: int, retain: bool) -> None:
    """A QoS 2 subscriber gets the will at the QoS of the flags byte."""
    watcher = bystander(world, qos=2)
    peer = world.peer().send(connect_bytes(0x06 | qos << 3 | retain << 5, C, W, M))
    assert peer.bytes() == ACCEPTED
    peer.drop()
    assert watcher.packets() == [Publish("w", b"m", qos, packet_id=1 if qos else 0)]


@pytest.mark.rule("MQTT-3.1.2-12")
@pytest.mark.parametrize("end", ENDS)
def test_without_will_flag_nothing_is_published(world: World, end: str) -> None:
    """A connection without a will ends in silence, although one before it had a will."""
    watcher = bystander(world)
    with_will(world).send("E0 00")
    peer = world.connect("mortal", keep_alive=10)
    ENDS[end](world, peer)
    world.advance(60)
    assert peer.closed
    assert watcher.packets() == []


def _retained(world: World) -> list[object]:
    """What a new subscriber gets."""
    return world.connect("late").send(Subscribe(1, [("#", Subscription(2))])).packets()[1:]


@pytest.mark.rule("MQTT-3.1.2-16")
@pytest.mark.parametrize("payload", [b"new", b""])
def test_will_without_retain(world: World, payload: bytes) -> None:
    """Will Retain 0: a live message only; what is retained on its topic stays as it is."""
    watcher = bystander(world)
    world.connect("p").send(Publish("w", b"old", retain=True))
    world.connect("mortal", will=Will("w", payload)).drop()
    assert watcher.packets() == [Publish("w", b"old"), Publish("w", payload)]
    assert _retained(world) == [Publish("w", b"old", retain=True)]


@pytest.mark.rule("MQTT-3.1.2-17")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_will_with_retain(world: World, qos: int) -> None:
    """Will Retain 1: who subscribes later gets it with RETAIN 1, who had subscribed before with RETAIN 0."""
    watcher = bystander(world)
    world.connect("mortal", will=Will("w", b"m", qos, retain=True)).drop()
    assert watcher.packets() == [Publish("w", b"m")]
    assert _retained(world) == [Publish("w", b"m", qos, retain=True, packet_id=1 if qos else 0)]


@pytest.mark.rule("MQTT-3.1.2-17")
def test_empty_will_with_retain(world: World) -> None:
    """An empty will with Will Retain 1 clears what its topic had, and is delivered."""
    watcher = bystander(world)
    world.connect("p").send(Publish("w", b"old", retain=True))
    world.connect("mortal", will=Will("w", b"", retain=True)).drop()
    assert watcher.packets() == [Publish("w", b"old"), Publish("w", b"")]
    assert _retained(world) == []


def test_will_reaches_the_clients_own_stored_session(world: World) -> None:
    """A client that subscribed to its own will topic finds the will when it comes back."""
    mortal = world.connect("mortal", clean_start=False, will=Will("will", b"gone", 1))
    subscribe(mortal, "will", qos=1)
    mortal.drop()
    again = world.connect("mortal", present=True, clean_start=False)
    assert again.packets() == [Publish("will", b"gone", 1, packet_id=1)]


@pytest.mark.rule("N311-12")
def test_will_after_a_crash_of_the_broker(world: World) -> None:
    """N311-12: a broker that was killed publishes the wills of its connections when it is back, once."""
    subscriber = world.connect("s", clean_start=False)
    subscribe(subscriber, "will", qos=1)
    world.connect("mortal", will=Will("will", b"gone", 1, retain=True))
    again = world.restart()
    assert again.connect("s", present=True, clean_start=False).packets() == [Publish("will", b"gone", 1, packet_id=1)]
    third = again.restart()
    third.advance(5)
    assert [packet.dup for packet in third.connect("s", present=True, clean_start=False).packets()] == [True]


# -- keep alive


@pytest.mark.rule("MQTT-3.1.2-24")
@pytest.mark.parametrize("keep_alive", [1, 60, 65535])
def test_silence_of_one_and_a_half_keep_alives(world: World, keep_alive: int) -> None:
    """The connection lives until 1.5 times the keep alive has passed, then it closes and the will goes out."""
    watcher, mortal = bystander(world), with_will(world, keep_alive=keep_alive)
    world.advance(1.5 * keep_alive - 0.001)
    assert not mortal.closed
    world.advance(0.002)
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("MQTT-3.1.2-24")
@pytest.mark.parametrize(
    "raw",
    [
        *("C0 00", "30 04 00 01 74 78", "32 06 00 01 74 00 01 78", "34 06 00 01 74 00 01 78", "62 02 00 07"),
        *("40 02 00 07", "50 02 00 07", "70 02 00 07", "82 06 00 01 00 01 61 00", "A2 05 00 01 00 01 61"),
    ],
)
def test_every_packet_counts_as_a_sign_of_life(world: World, raw: str) -> None:
    """Any packet of the client starts the time anew."""
    mortal = with_will(world, keep_alive=10)
    for _ in range(3):
        world.advance(14)
        mortal.send(raw)
    world.advance(14.999)
    assert not mortal.closed
    world.advance(0.002)
    assert mortal.closed


@pytest.mark.rule("MQTT-3.1.2-24")
def test_what_does_not_count_as_a_sign_of_life(world: World) -> None:
    """Packets towards the client do not count, nor do the first bytes of one from it."""
    watcher, mortal = bystander(world, "will"), with_will(world, keep_alive=10)
    subscribe(mortal, "t")
    publisher = world.connect("p")
    for second in range(14):
        world.advance(1)
        publisher.send(Publish("t", b"x"))
        mortal.send(b"\x30" if second == 12 else b"")
    assert len(mortal.packets()) == 14
    world.advance(1.001)
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("N311-11")
def test_keep_alive_0(world: World) -> None:
    """N311-11: keep alive 0 switches the check off."""
    peer = world.connect("c", keep_alive=0)
    world.advance(1_000_000)
    assert peer.alive()


@pytest.mark.rule("MQTT-3.1.2-24")
def test_time_in_which_the_broker_does_not_listen_does_not_count(world: World) -> None:
    """A store that takes long over CONNECT or SUBSCRIBE does not cost a client its connection."""
    watcher, mortal = bystander(world), world.peer()
    world.hold()
    mortal.send(Connect("mortal", clean_start=False, keep_alive=2, will=Will("will", b"gone")))
    world.advance(5)
    world.answer()
    assert mortal.bytes() == ACCEPTED
    world.advance(2)
    assert not mortal.closed
    mortal.send(Subscribe(1, [("a", Subscription(1))]))
    world.advance(10)
    world.release()
    world.advance(2.9)
    assert mortal.packets() == [Suback(1, [Reason.GRANTED_QOS_1])]
    assert not mortal.closed
    world.advance(0.2)
    assert_cut_off(mortal, watcher)


@pytest.mark.rule("N311-07")
def test_no_connect_in_time(world: World) -> None:
    """N311-07: a connection without a complete CONNECT is closed after a while, without a word."""
    silent, slow = world.peer(), world.peer().send("10 0D 00 04")
    world.advance(world.settings.connect_timeout - 0.001)
    assert not silent.closed
    world.advance(0.002)
    assert_refused(silent)
    assert_refused(slow)


@pytest.mark.rule("N311-07")
def test_connect_in_time_is_not_timed_out(world: World) -> None:
    """N311-07: the limit is gone once the client is connected."""
    peer = world.connect("c")
    world.advance(1000)
    assert peer.alive()


# -- client ids


@pytest.mark.rule("MQTT-3.1.3-2")
def test_client_id_is_the_key_of_the_session(world: World) -> None:
    """Sessions of different client ids know nothing of each other; case matters."""
    a, b = world.connect("client", clean_start=False), world.connect("Client", clean_start=False)
    subscribe(a, "t", qos=1)
    a.drop()
    b.drop()
    world.connect("p").send(Publish("t", b"x", 1, packet_id=1))
    assert world.connect("Client", present=True, clean_start=False).packets() == []
    assert len(world.connect("client", present=True, clean_start=False).packets()) == 1


@pytest.mark.rule("MQTT-3.1.3-5")
def test_client_ids_every_server_takes(world: World) -> None:
    """Every length from 1 to 23 and every letter and digit."""
    letters = characters.digits + characters.ascii_letters
    ids = [letters[:length] for length in range(1, 24)] + list(letters) + [letters[-23:]]
    for client_id in ids:
        assert world.peer().send(connect_bytes(0x02, string(client_id))).bytes() == ACCEPTED, client_id


@pytest.mark.parametrize("client_id", ["x" * 24, "x" * 1000, "a/b#+$", "ö", "\U0001f600", " ", "'; --"])
def test_other_client_ids(world: World, client_id: str) -> None:
    """Longer ones and other characters are welcome, and keep their session."""
    world.connect(client_id, clean_start=False).drop()
    assert world.connect(client_id, present=True, clean_start=False).alive()


@pytest.mark.rule("MQTT-3.1.3-6")
def test_empty_client_id(world: World) -> None:
    """Clients without an id get one each: they live side by side, with what a client may do."""
    first, second = (world.peer().send("10 0C 00 04 4D 51 54 54 04 02 00 00 00 00") for _ in range(2))
    assert first.bytes() == second.bytes() == ACCEPTED
    subscribe(first, "t", qos=1)
    second.send(Publish("t", b"x", 1, packet_id=1))
    assert first.packets() == [Publish("t", b"x", 1, packet_id=1)]
    assert second.packets() == [Puback(1)]


@pytest.mark.rule("MQTT-3.1.3-7", "MQTT-3.1.3-8")
def test_empty_client_id_without_clean_session(world: World) -> None:
    """CONNACK 0x02, closed."""
    watcher = bystander(world)
    peer = world.peer().send(connect_bytes(0x00, string("")), Publish("t", b"behind"))
    assert peer.bytes() == BAD_CLIENT_ID
    assert peer.closed
    assert watcher.packets() == []


@pytest.mark.rule("MQTT-3.1.3-9")
def test_client_id_beyond_the_limit() -> None:
    """A client id longer than this broker takes: CONNACK 0x02, closed."""
    world = World(client_id_max_length=30)
    assert world.peer().send(connect_bytes(0x02, string("x" * 30))).bytes() == ACCEPTED
    peer = world.peer().send(connect_bytes(0x02, string("x" * 31)))
    assert peer.bytes() == BAD_CLIENT_ID
    assert peer.closed


# -- takeover


@pytest.mark.rule("MQTT-3.1.4-2")
@pytest.mark.parametrize("old_clean", [True, False])
@pytest.mark.parametrize("new_clean", [True, False])
def test_takeover(world: World, old_clean: bool, new_clean: bool) -> None:
    """The older connection closes without a word and its will is published; the newer one is served."""
    watcher = bystander(world, "will")
    old = with_will(world, clean_start=old_clean)
    new = world.connect("mortal", clean_start=new_clean, present=not old_clean and not new_clean)
    assert_cut_off(old, watcher)
    subscribe(new, "t", qos=1)
    new.send(Publish("t", b"x", 1, packet_id=1))
    assert len(new.packets()) == 2


@pytest.mark.rule("MQTT-3.1.4-2")
def test_taken_over_connection_is_dead(world: World) -> None:
    """Nothing the older connection still sends has any effect, and the end of its network harms nobody."""
    watcher, old = bystander(world, "t"), world.connect("c", clean_start=False)
    subscribe(old, "s", qos=1)
    world.connect("p").send(Publish("s", b"x", 1, packet_id=1))
    assert len(old.packets()) == 1
    new = world.connect("c", present=True, clean_start=False)
    assert new.packets() == [Publish("s", b"x", 1, dup=True, packet_id=1)]
    old.send(Puback(1), Publish("t", b"from the dead", 1, packet_id=1), Subscribe(9, [("t", Subscription(0))]))
    old.drop()
    assert old.bytes() == b""
    assert watcher.packets() == []
    assert new.alive()
    new.drop()
    newest = world.connect("c", present=True, clean_start=False)
    assert newest.packets() == [Publish("s", b"x", 1, dup=True, packet_id=1)]


@pytest.mark.rule("MQTT-3.1.4-2")
def test_takeover_of_a_connection_that_is_still_opening(world: World) -> None:
    """Three connections come for one client id while the store is slow: only the last gets a CONNACK and lives."""
    first = world.connect("c")
    world.hold()
    peers = [world.peer().send(Connect("c", clean_start=False)) for _ in range(3)]
    assert first.closed
    world.release()
    assert [peer.bytes() for peer in peers[:2]] == [b"", b""]
    assert [peer.closed for peer in peers] == [True, True, False]
    assert len(peers[2].bytes()) == 4
    assert peers[2].alive()
    subscribe(peers[2], "t", qos=1)
    world.connect("p").send(Publish("t", b"x", 1, packet_id=1))
    assert len(peers[2].packets()) == 1


@pytest.mark.rule("MQTT-3.1.4-2")
@pytest.mark.parametrize("kind", ["drop", "disconnect"])
def test_connection_that_ends_while_it_opens(world: World, kind: str) -> None:
    """A client that goes before its CONNACK leaves a stored session behind and nothing else; the next one finds it."""
    world.hold()
    peer = world.peer().send(Connect("c", clean_start=False), *([Disconnect()] if kind == "disconnect" else []))
    if kind == "drop":
        peer.drop()
    world.release()
    assert peer.closed
    assert "c" not in world.broker.sessions.connected
    assert world.connect("c", present=True, clean_start=False).alive()


def test_refused_connect_takes_nothing_over() -> None:
    """A client with a wrong password neither disconnects nor wipes the session whose id it names."""
    doorkeeper = Doorkeeper()
    world = World(authenticator=doorkeeper)
    owner = world.connect("c", clean_start=False)
    subscribe(owner, "t", qos=1)
    doorkeeper.answer = Reason.BAD_USER_NAME_OR_PASSWORD
    world.peer().send(Connect("c", username="mallory", password=b""))
    assert owner.alive()
    owner.drop()
    doorkeeper.answer = Reason.SUCCESS
    world.connect("p").send(Publish("t", b"x", 1, packet_id=1))
    assert len(world.connect("c", present=True, clean_start=False).packets()) == 1


# -- CONNACK


@pytest.mark.rule("MQTT-3.1.4-4")
@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("10 0D 00 04 4D 51 54 54 04 02 00 3C 00 01 61", "20 02 00 00"),
        ("10 1A 00 04 4D 51 54 54 04 CE 00 3C 00 02 63 31 00 01 77 00 01 78 00 01 75 00 01 70", "20 02 00 00"),
        ("10 0C 00 04 4D 51 54 54 04 02 00 00 00 00", "20 02 00 00"),
        ("10 0F 00 06 4D 51 49 73 64 70 03 02 00 3C 00 01 61", "20 02 00 00"),
    ],
)
def test_examples_of_connect(world: World, raw: str, answer: str) -> None:
    """The worked examples are accepted, with exactly one CONNACK."""
    peer = world.peer().send(raw)
    assert peer.bytes() == bytes.fromhex(answer)
    assert peer.alive()


@pytest.mark.rule("MQTT-3.2.0-1")
def test_connack_comes_before_queued_messages(world: World) -> None:
    """Queued messages, open exchanges, and answers to pipelined packets all come behind CONNACK."""
    client = world.connect("c", clean_start=False)
    subscribe(client, "t", qos=2)
    publisher = world.connect("p")
    publisher.send(*(Publish("t", b"x", 2, packet_id=number) for number in (1, 2)))
    client.packets()
    client.send(Pubrec(1))
    client.drop()
    publisher.send(Publish("t", b"x", 1, packet_id=3))
    peer = world.peer().send(Connect("c", clean_start=False), Pingreq())
    first, *others = peer.packets()
    assert first == Connack(True)
    assert len(others) == 4


@pytest.mark.rule("MQTT-3.2.0-1")
def test_connack_comes_before_live_messages(world: World) -> None:
    """What is published while the session is being opened does not overtake CONNACK, and is not lost."""
    client = world.connect("c", clean_start=False)
    subscribe(client, "t", qos=1)
    subscribe(client, "zero", qos=0)
    client.drop()
    publisher = world.connect("p")
    world.hold()
    publisher.send(Publish("t", b"before", 1, packet_id=1))
    peer = world.peer().send(Connect("c", clean_start=False))
    publisher.send(Publish("t", b"meanwhile", 1, packet_id=2), Publish("zero", b"x"))
    assert peer.bytes() == b""
    world.answer(1)
    assert peer.bytes() == b""
    world.release()
    arrived = peer.packets()
    assert arrived[0] == Connack(True)
    assert [(packet.payload, packet.dup) for packet in arrived[1:]] == [(b"before", False), (b"meanwhile", False)]


@pytest.mark.rule("N311-10")
@pytest.mark.rule("MQTT-3.2.0-1")
def test_connack_waits_for_authenticator_and_store() -> None:
    """Nothing is sent before both have answered; pipelined packets wait (N311-10), and reading pauses meanwhile."""
    doorkeeper = Doorkeeper(None)
    world = World(authenticator=doorkeeper)
    peer = world.peer().send(Connect("c", clean_start=False), Publish("t", b"x", 1, packet_id=5), Pingreq())
    assert not peer.reading
    world.hold()
    doorkeeper.waiting[0].callback(Reason.SUCCESS)
    world.settle()
    assert peer.bytes() == b""
    world.release()
    assert peer.packets() == [Connack(False), Puback(5), Pingresp()]
    assert peer.reading


@pytest.mark.rule("N311-10")
def test_no_more_than_a_first_word_is_read_before_connack() -> None:
    """A client may send before CONNACK; what it says in a second chunk waits (N311-10), and more is not read then."""
    doorkeeper = Doorkeeper(None)
    peer = World(authenticator=doorkeeper).peer().send(Connect("c"))
    assert peer.reading
    peer.send(Pingreq())
    assert not peer.reading
    doorkeeper.waiting[0].callback(Reason.SUCCESS)
    peer.world.settle()
    assert peer.packets() == [Connack(False), Pingresp()]
    assert peer.reading


@pytest.mark.rule("N311-10")
@pytest.mark.rule("MQTT-3.1.4-4")
def test_packets_right_behind_connect(world: World) -> None:
    """N311-10: a client need not wait for CONNACK; CONNECT, SUBSCRIBE, PUBLISH and DISCONNECT may come in one chunk."""
    watcher = bystander(world)
    peer = world.peer().send(
        Connect("c"), Subscribe(1, [("t", Subscription(0))]), Publish("t", b"x"), Pingreq(), Disconnect()
    )
    assert [packet for packet in peer.packets() if not isinstance(packet, Publish)] == [
        Connack(False),
        Suback(1, [Reason.SUCCESS]),
        Pingresp(),
    ]
    assert peer.closed
    assert watcher.packets() == [Publish("t", b"x")]


#: What an authenticator answers -> the CONNACK return code.
REFUSALS = {
    Reason.SERVER_UNAVAILABLE: 3,
    Reason.SERVER_BUSY: 3,
    Reason.BAD_USER_NAME_OR_PASSWORD: 4,
    Reason.NOT_AUTHORIZED: 5,
}


@pytest.mark.rule("N311-08")
@pytest.mark.rule("MQTT-3.1.4-5", "MQTT-3.2.2-4", "MQTT-3.2.2-5")
@pytest.mark.parametrize("reason", REFUSALS)
@pytest.mark.parametrize("clean", [True, False])
def test_refused_connect(reason: Reason, clean: bool) -> None:
    """N311-08: CONNACK with the fitting code and Session Present 0, then closed; pipelined packets have no effect."""
    doorkeeper = Doorkeeper()
    world = World(authenticator=doorkeeper)
    watcher = bystander(world)
    world.connect("c", clean_start=False).drop()
    doorkeeper.answer = reason
    peer = world.peer().send(
        Connect("c", clean_start=clean),
        Publish("t", b"x", 1, retain=True, packet_id=1),
        Subscribe(2, [("#", Subscription(0))]),
        Disconnect(),
    )
    assert peer.bytes() == bytes((0x20, 2, 0, REFUSALS[reason]))
    assert peer.closed
    assert watcher.packets() == []
    doorkeeper.answer = Reason.SUCCESS
    assert world.peer().send(connect_bytes(0x00, C)).bytes() == RESUMED  # nothing was wiped
    assert _retained(world) == []


@pytest.mark.rule("MQTT-3.1.4-5")
@pytest.mark.parametrize("raw", [connect_bytes(0, C, level=9), connect_bytes(0, string("")), connect_bytes(3, C)])
def test_nothing_behind_a_refused_connect_counts(world: World, raw: bytes) -> None:
    """A PUBLISH behind a CONNECT that is refused for any reason is not published, in the same chunk or the next."""
    watcher = bystander(world)
    peer = world.peer().send(raw, Publish("t", b"x", retain=True))
    peer.bytes()
    peer.send(Connect("c"), Publish("t", b"y", retain=True))
    assert peer.bytes() == b""
    assert watcher.packets() == []
    assert _retained(world) == []


@pytest.mark.rule("MQTT-3.2.2-4", "MQTT-3.2.2-5")
def test_store_that_fails_on_connect(world: World) -> None:
    """CONNACK 0x03 with Session Present 0 although there is a session; it is found again later."""
    world.connect("c", clean_start=False).drop()
    world.store.failing = True
    peer = world.peer().send(connect_bytes(0x00, C))
    assert peer.bytes() == bytes.fromhex("20 02 00 03")
    assert peer.closed
    world.store.failing = False
    assert world.peer().send(connect_bytes(0x00, C)).bytes() == RESUMED


def test_store_that_does_not_answer_on_connect(world: World) -> None:
    """CONNACK 0x03 when the connection cannot be accepted in time; what the store answers later harms nobody."""
    world.hold()
    peer = world.peer().send(connect_bytes(0x00, C))
    world.advance(world.settings.connect_timeout)
    assert peer.bytes() == bytes.fromhex("20 02 00 03")
    assert peer.closed
    world.release()
    assert peer.bytes() == b""
    assert world.connect("c", present=True, clean_start=False).alive()


@pytest.mark.rule("MQTT-3.2.2-6")
def test_refusal_without_a_return_code() -> None:
    """A reason for which MQTT 3.1.1 has no return code: closed without CONNACK."""
    world = World(authenticator=Doorkeeper(Reason.UNSPECIFIED_ERROR))
    assert_refused(world.peer().send(connect_bytes(0x02, C)))


@pytest.mark.rule("MQTT-3.2.2-6")
def test_connect_beyond_the_packet_limit() -> None:
    """A CONNECT larger than this broker takes has no return code either."""
    world = World(max_packet_size=100)
    assert_refused(world.peer().send(connect_bytes(0x02, string("x" * 100))))


@pytest.mark.rule("N311-09")
@pytest.mark.parametrize("clean", [True, False])
def test_connack_flags(world: World, clean: bool) -> None:
    """N311-09: bits 7 to 1 of the flags byte are 0, whatever the flags of CONNECT."""
    world.connect("c", clean_start=False).drop()
    raw = world.peer().send(connect_bytes(0xF4 | clean << 1, C, W, M, U, P)).bytes()
    assert raw == (ACCEPTED if clean else RESUMED)
