"""Sections 3.1 and 3.2 of MQTT 5.0: CONNECT and CONNACK. Sessions and wills have files of their own."""

from __future__ import annotations

import string as characters

import pytest

from mqttcluster.mqtt.packets import (
    Connack,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Suback,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads
from tests.conformance.stage import Doorkeeper
from tests.conformance.v5.stage import (
    NEVER,
    Guest,
    NoSecrets,
    asked,
    assert_refused,
    assert_sent_away,
    block,
    bystander,
    call,
    connect,
    connect_bytes,
    durable,
    publish,
    say,
    subscribe,
    will,
    with_will,
)
from tests.support.wire import frame, string

C, W, M, U, P, NONE = string("c"), string("w"), string("m"), string("u"), string("p"), b"\0"


# -- the first packet


@pytest.mark.rule5("MQTT-3.1.0-1", "MQTT-3.14.0-1", "MQTT-3.2.0-1")
@pytest.mark.parametrize(
    "raw",
    [
        *(
            "30 05 00 01 74 00 78",
            "40 02 00 01",
            "62 02 00 01",
            "82 07 00 01 00 00 01 61 00",
            "A2 06 00 01 00 00 01 61",
        ),
        *("C0 00", "E0 00", "E0 02 00 00", "20 03 00 00 00", "F0 0C 18 0A 15 00 02 50 4C 16 00 02 61 62"),
        pytest.param("47 45 54 20 2F 20 48 54 54 50 2F 31 2E 31 0D 0A", id="HTTP"),
        pytest.param("16 03 01 02 00 01 00 01 FC 03 03", id="TLS"),
    ],
)
def test_first_packet_is_connect(world: World, raw: str) -> None:
    """Anything else first: closed without a word, and a CONNECT behind it does not help."""
    watcher = bystander(world)
    guest = Guest(world).send(bytes.fromhex(raw) + connect_bytes(0x02, string("late")))
    assert guest.bytes() == b""
    assert guest.closed
    assert watcher.packets() == []


@pytest.mark.rule5("N5-32")
def test_no_connect(world: World) -> None:
    """A connection that says nothing, or half a CONNECT, is closed after a while, without a word."""
    silent, slow = Guest(world), Guest(world).send("10 0E 00 04 4D 51 54 54 05 02 00")
    world.advance(world.settings.connect_timeout + 1)
    for guest in (silent, slow):
        assert guest.closed
        assert guest.bytes() == b""


@pytest.mark.rule5("N5-33")
def test_packets_behind_connect(world: World) -> None:
    """A client that does not wait for CONNACK is served in order."""
    watcher, guest = bystander(world), Guest(world)
    guest.send(call(), asked(1, "t", qos=1), publish("u", b"x", 1, id=2), Pingreq())
    assert guest.take_connack().reason is Reason.SUCCESS
    found = guest.packets()
    assert [type(packet) for packet in found] == [Suback, Puback, Pingresp]
    assert payloads(watcher) == [b"x"]


# -- protocol name and version


@pytest.mark.rule5("MQTT-3.1.2-1")
@pytest.mark.parametrize("name", ["", "MQT", "mqtt", "MQTTT", "MQTT ", "AMQP", "MQIsdp"])
def test_other_protocol_names(world: World, name: str) -> None:
    """Level 5 under another name is no MQTT 5.0: not accepted, and closed."""
    watcher, guest = bystander(world), world.peer()
    guest.send(connect_bytes(0x02, C, name=name))
    assert guest.closed
    answer = guest.bytes()
    assert answer in (b"", bytes.fromhex("20 03 00 84 00"), bytes.fromhex("20 02 00 01"))
    assert watcher.alive()


@pytest.mark.rule5("MQTT-3.1.2-2")
@pytest.mark.parametrize("level", [0, 1, 2, 6, 7, 0x85, 0xFF])
def test_other_versions(world: World, level: int) -> None:
    """A level that nobody knows is refused as unsupported, in the words of 5.0 or of 3.1.1, and closed."""
    guest = world.peer()
    guest.send(connect_bytes(0x02, C, level=level))
    assert guest.closed
    assert guest.bytes().hex(" ") in ("20 03 00 84 00", "20 02 00 01")


# -- flags and fields that do not fit


def _fields(id: str, flags: int, *fields: bytes, rules: str) -> object:
    marks = pytest.mark.rule5(*(f"MQTT-{rule}" for rule in rules.split()))
    return pytest.param(connect_bytes(flags, *fields), id=id, marks=marks)


MALFORMED = [
    _fields("reserved flag", 0x03, C, rules="3.1.2-3"),
    _fields("reserved flag with a will", 0x07, C, NONE, W, M, rules="3.1.2-3"),
    _fields("will QoS 1 without will", 0x0A, C, rules="3.1.2-11"),
    _fields("will QoS 2 without will", 0x12, C, rules="3.1.2-11"),
    _fields("will QoS 3 without will", 0x1A, C, rules="3.1.2-11"),
    _fields("will retain without will", 0x22, C, rules="3.1.2-13"),
    _fields("will QoS 3", 0x1E, C, NONE, W, M, rules="3.1.2-12"),
    _fields("will retain and QoS 3", 0x3E, C, NONE, W, M, rules="3.1.2-12"),
    _fields("no will properties", 0x06, C, rules="3.1.2-9"),
    _fields("no will topic", 0x06, C, NONE, rules="3.1.2-9"),
    _fields("no will payload", 0x06, C, NONE, W, rules="3.1.2-9"),
    _fields("will without properties", 0x06, C, W, M, rules="3.1.2-9"),
    _fields("will payload cut", 0x06, C, NONE, W, b"\0\2m", rules="3.1.2-9"),
    _fields("will without flag", 0x02, C, NONE, W, M, rules="3.1.4-1"),
    _fields("user name without flag", 0x02, C, U, rules="3.1.2-16"),
    _fields("user name without flag behind a will", 0x06, C, NONE, W, M, U, rules="3.1.2-16"),
    _fields("no user name", 0x82, C, rules="3.1.2-17"),
    _fields("user name cut", 0x82, C, b"\0\5u", rules="3.1.2-17"),
    _fields("password without flag", 0x82, C, U, P, rules="3.1.2-18"),
    _fields("no password", 0xC2, C, U, rules="3.1.2-19"),
    _fields("no password, nor user name", 0x42, C, rules="3.1.2-19"),
    _fields("half a password length", 0xC2, C, U, b"\0", rules="3.1.2-19"),
    _fields("no client id", 0x02, rules="3.1.3-3"),
    _fields("half a client id length", 0x02, b"\0", rules="3.1.3-3"),
    _fields("client id cut", 0x02, b"\0\2c", rules="3.1.3-3"),
    _fields("client id no UTF-8", 0x02, b"\0\1\xff", rules="3.1.3-4"),
    _fields("will topic no UTF-8", 0x06, C, NONE, b"\0\1\xff", M, rules="3.1.3-11"),
    _fields("user name no UTF-8", 0x82, C, b"\0\1\xff", rules="3.1.3-12"),
    _fields("a byte left", 0x02, C, b"\0", rules="3.1.4-1"),
    pytest.param(frame(0x10, string("MQTT") + b"\5\2\0\0"), id="no properties"),
    pytest.param(frame(0x10, string("MQTT") + b"\5\2\0\0\5"), id="properties cut"),
    pytest.param(connect_bytes(2, C, properties=block("0B 01")), id="property of SUBSCRIBE"),
    pytest.param(connect_bytes(2, C, properties=block("01 01")), id="property of PUBLISH"),
    pytest.param(connect_bytes(2, C, properties=block("18 00 00 00 05")), id="property of the will"),
    pytest.param(connect_bytes(6, C, block("11 00 00 00 05"), W, M), id="property of CONNECT in the will"),
    pytest.param(connect_bytes(6, C, block("23 00 01"), W, M), id="topic alias in the will"),
    pytest.param(connect_bytes(2, C, properties=b"\x80\x00"), id="property length not minimal"),
]


@pytest.mark.rule5("MQTT-3.1.4-1", "MQTT-3.1.4-6", "MQTT-3.2.2-6", "MQTT-3.2.2-7", "MQTT-4.13.2-1")
@pytest.mark.parametrize("raw", MALFORMED)
def test_malformed_connect(world: World, raw: bytes) -> None:
    """CONNACK 0x81 and the end; no session, no will, and what comes behind is not looked at."""
    watcher, guest = bystander(world), Guest(world)
    guest.send(raw, publish("t", b"behind", 1, id=1))
    assert_refused(guest, Reason.MALFORMED_PACKET)
    assert watcher.packets() == []
    assert watcher.alive()


@pytest.mark.rule5("MQTT-3.1.4-1", "N5-02", "N5-06", "N5-07", "N5-08", "N5-09", "N5-10")
@pytest.mark.parametrize(
    "properties",
    ["21 00 00", "27 00 00 00 00", "17 02", "19 02", "16 00 01 61", "11 00 00 00 05 11 00 00 00 05", "17 01 17 01"],
    ids=[
        "receive maximum 0",
        "maximum packet size 0",
        "request problem information 2",
        "request response information 2",
        "authentication data alone",
        "expiry twice",
        "problem information twice",
    ],
)
def test_connect_with_a_value_that_is_not_allowed(world: World, properties: str) -> None:
    """CONNACK 0x82 and the end."""
    assert_refused(Guest(world).send(connect_bytes(2, C, properties=block(properties))), Reason.PROTOCOL_ERROR)


@pytest.mark.rule5("MQTT-3.1.4-1", "MQTT-4.7.0-1", "MQTT-4.7.3-1", "MQTT-3.3.2-14", "N5-10", "N5-02")
@pytest.mark.parametrize(
    ("properties", "topic"),
    [
        ("", "a/#"),
        ("", "a/+/b"),
        ("", "+"),
        ("", ""),
        ("08 00 01 23", "w"),
        ("01 02", "w"),
        ("18 00 00 00 05 18 00 00 00 05", "w"),
    ],
    ids=["#", "+ inside", "+", "empty", "response topic #", "payload format 2", "delay twice"],
)
def test_connect_with_a_will_that_is_not_allowed(world: World, properties: str, topic: str) -> None:
    """CONNACK 0x82 or, for a topic, 0x90, and the end."""
    guest = Guest(world).send(connect_bytes(6, C, block(properties), string(topic), M))
    [connack] = guest.packets()
    assert isinstance(connack, Connack)
    assert connack.reason in (Reason.PROTOCOL_ERROR, Reason.TOPIC_NAME_INVALID)
    assert guest.closed


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (0x02, [C]),
        (0x00, [C]),
        (0x06, [C, NONE, W, M]),
        (0x0E, [C, NONE, W, M]),
        (0x16, [C, NONE, W, M]),
        (0x36, [C, NONE, W, M]),
        (0x06, [C, NONE, W, string("")]),
        (0x06, [C, block("01 01", "02 00 00 00 0A", "03 00 01 74", "08 00 01 72", "09 00 01 FF"), W, M]),
        (0x06, [C, block("18 FF FF FF FF", "26 00 01 6B 00 01 76", "26 00 01 6B 00 01 76"), W, M]),
        pytest.param(0x82, [C, U], marks=pytest.mark.rule5("MQTT-3.1.2-17")),
        pytest.param(0x82, [C, string("")], marks=pytest.mark.rule5("MQTT-3.1.2-17")),
        pytest.param(0xC2, [C, U, P], marks=pytest.mark.rule5("MQTT-3.1.2-19")),
        pytest.param(0x42, [C, P], id="password alone", marks=pytest.mark.rule5("MQTT-3.1.2-19")),
        pytest.param(0xC2, [C, U, string(b"\0\xff\xc0")], id="binary password"),
        pytest.param(0x06, [C, NONE, W, string(b"\0\xff\xc0")], id="binary will payload"),
    ],
)
@pytest.mark.rule5("MQTT-3.1.4-5")
def test_wellformed_connect(world: World, flags: int, fields: list[bytes]) -> None:
    """Every legal combination is answered with CONNACK 0, and nothing else."""
    guest = Guest(world).send(connect_bytes(flags, *fields))
    assert guest.take_connack().reason is Reason.SUCCESS
    assert guest.packets() == []
    assert guest.alive()


@pytest.mark.rule5("MQTT-3.1.3-1", "MQTT-3.1.2-9", "MQTT-3.1.2-17", "MQTT-3.1.2-19", "N5-63")
def test_order_of_the_fields() -> None:
    """Client id, will properties, topic and payload, user name and password are taken for what their place says."""
    doorkeeper = Doorkeeper()
    world = World(authenticator=doorkeeper)
    watcher = bystander(world, qos=1)
    guest = Guest(world)
    guest.send(connect_bytes(0xCE, string("c1"), block("03 00 01 74"), string("w"), string("x"), U, P))
    assert guest.take_connack().reason is Reason.SUCCESS
    credentials = doorkeeper.asked[-1]
    assert (credentials.client_id, credentials.username, credentials.password) == ("c1", "u", b"p")
    guest.drop()
    assert watcher.packets() == [publish("w", b"x", 1, id=1, content_type="t")]


@pytest.mark.rule5("MQTT-3.1.2-19", "N5-63")
def test_a_password_without_a_user_name() -> None:
    """It is legal in 5.0 and reaches whoever judges it."""
    doorkeeper = Doorkeeper()
    world = World(authenticator=doorkeeper)
    connect(world, "c", password=b"token")
    [credentials] = doorkeeper.asked
    assert (credentials.username, credentials.password) == (None, b"token")


# -- client ids


@pytest.mark.rule5("MQTT-3.1.3-5")
def test_client_ids_that_every_server_takes(world: World) -> None:
    """1 to 23 bytes of digits and letters; ours may be longer and have others."""
    every = characters.digits + characters.ascii_letters
    for client_id in (
        "a",
        "0",
        *(every[start : start + 23] for start in range(len(every) - 22)),
        "a b/#",
        "\u00e4" * 100,
    ):
        guest = connect(world, client_id)
        assert Prop.ASSIGNED_CLIENT_IDENTIFIER not in guest.connack.properties


@pytest.mark.rule5("MQTT-3.1.3-8", "MQTT-3.1.4-2", "MQTT-3.2.2-7")
def test_a_client_id_that_is_refused() -> None:
    """0x85, no session, and the end."""
    world = World(client_id_max_length=10)
    assert_refused(Guest(world).send(call("x" * 11)), Reason.CLIENT_IDENTIFIER_NOT_VALID)
    connect(world, "x" * 10)


@pytest.mark.rule5("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16", "MQTT-3.1.3-2")
@pytest.mark.parametrize("clean", [True, False])
def test_a_client_without_an_id_gets_one(world: World, clean: bool) -> None:
    """With either Clean Start; CONNACK tells it, nobody else has it, and its session is found again under it."""
    guests = [connect(world, "", clean_start=clean, session_expiry_interval=60) for _ in range(3)]
    names = [guest.connack.properties[Prop.ASSIGNED_CLIENT_IDENTIFIER] for guest in guests]
    assert len(set(names)) == 3
    assert all(isinstance(name, str) and name for name in names)
    subscribe(guests[1], "t", qos=1)
    guests[1].drop()
    say(world, "t", b"x", 1)
    again = connect(world, str(names[1]), present=True, clean_start=False)
    assert Prop.ASSIGNED_CLIENT_IDENTIFIER not in again.connack.properties
    assert payloads(again) == [b"x"]


@pytest.mark.rule5("MQTT-3.1.3-2")
def test_sessions_are_kept_under_their_client_ids(world: World) -> None:
    """Ids that differ in one character have nothing to do with each other."""
    first = durable(world, "c")
    subscribe(first, "t", qos=1)
    first.drop()
    for other in ("C", "c ", "c1", "\u0441"):
        durable(world, other)
    durable(world, "c", present=True)


# -- checks beyond the format


@pytest.mark.rule5("MQTT-3.1.4-2", "MQTT-3.1.4-6", "MQTT-3.2.2-6", "MQTT-3.2.2-7", "MQTT-3.2.2-8", "N5-63")
@pytest.mark.parametrize(
    "reason",
    [Reason.BAD_USER_NAME_OR_PASSWORD, Reason.NOT_AUTHORIZED, Reason.BANNED, Reason.SERVER_BUSY],
    ids=lambda reason: reason.name,
)
def test_a_client_that_is_turned_away(reason: Reason) -> None:
    """CONNACK says why, Session Present 0 though there is a session, which stays; nothing behind it is done."""
    doorkeeper = Doorkeeper()
    world = World(authenticator=doorkeeper)
    watcher = bystander(world)
    durable(world, "c").drop()
    doorkeeper.answer = reason
    guest = Guest(world).send(
        call(clean_start=False, will=will()), publish("t", b"behind", 1, id=1), asked(1, "t"), Disconnect()
    )
    assert_refused(guest, reason)
    assert watcher.packets() == []
    doorkeeper.answer = Reason.SUCCESS
    durable(world, "c", present=True)


@pytest.mark.rule5("MQTT-3.1.4-6", "MQTT-3.2.0-1")
@pytest.mark.parametrize("reason", [Reason.SUCCESS, Reason.NOT_AUTHORIZED], ids=["accepted", "refused"])
def test_packets_that_come_before_the_decision(reason: Reason) -> None:
    """They wait: CONNACK is first, and a client that is refused has done nothing."""
    doorkeeper = Doorkeeper(None)
    world = World(authenticator=doorkeeper)
    guest = Guest(world).send(call("c"), publish("t", b"early", 1, id=1, retain=True), Pingreq())
    assert guest.bytes() == b""
    doorkeeper.waiting[0].callback(reason)
    doorkeeper.answer = Reason.SUCCESS
    world.settle()
    late = connect(world, "late")
    subscribe(late, "t")
    if reason:
        assert_refused(guest, reason)
        assert late.packets() == []
    else:
        assert guest.take_connack().reason is Reason.SUCCESS
        assert [type(packet) for packet in guest.packets()] == [Puback, Pingresp]
        assert payloads(late) == [b"early"]


@pytest.mark.rule5("MQTT-3.1.4-3", "MQTT-3.14.4-1", "MQTT-3.14.4-2")
@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("expiry", [0, 60])
def test_a_newer_connection_takes_over(world: World, version: int, expiry: int) -> None:
    """The older one hears 0x8E and is closed; nothing of it disturbs the newer one. Whatever the newer one speaks."""
    older = connect(world, "c", session_expiry_interval=expiry)
    if version == 5:
        connect(world, "c", clean_start=False, present=expiry > 0)
    else:
        world.connect("c", version, present=version == 4 and expiry > 0, clean_start=False)
    assert_sent_away(older, Reason.SESSION_TAKEN_OVER)
    older.drop()
    older.send(publish("t", b"late"))
    assert older.bytes() == b""


@pytest.mark.rule5("MQTT-3.1.4-3", "N5-64")
def test_an_older_client_of_another_version_is_taken_over(world: World) -> None:
    """One of 3.1.1 knows no DISCONNECT from a server: it is closed without a word."""
    older = world.connect("c", 4, clean_start=False)
    connect(world, "c", clean_start=False, present=True)
    assert older.closed
    assert older.bytes() == b""


# -- CONNACK


@pytest.mark.rule5("MQTT-3.2.0-1", "MQTT-3.2.0-2", "MQTT-3.2.2-1", "MQTT-3.1.4-5", "MQTT-2.2.2-1")
@pytest.mark.parametrize("present", [False, True])
def test_connack_is_first_and_single(world: World, present: bool) -> None:
    """It comes before the messages that waited; its flags are 0 or 1; nothing else is in its fixed fields."""
    if present:
        session = durable(world)
        subscribe(session, "t", qos=1)
        session.drop()
        say(world, "t", b"x", 1)
    guest = Guest(world).send(call(clean_start=False, session_expiry_interval=NEVER))
    arrived = guest.bytes()
    assert arrived[0] == 0x20
    assert arrived[1] < 128
    assert arrived[2:4] == bytes((present, 0))
    assert arrived[4] == arrived[1] - 3
    guest.put_back(arrived)
    assert isinstance(guest.packets()[0], Connack)


@pytest.mark.rule5("MQTT-3.2.2-2", "MQTT-3.2.2-3", "MQTT-3.1.4-4", "MQTT-3.1.2-4", "MQTT-3.1.2-5", "MQTT-3.1.2-6")
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "resumed"])
@pytest.mark.parametrize("left", [True, False], ids=["left a session", "left none"])
def test_session_present(world: World, left: bool, clean: bool) -> None:
    """1 only for Clean Start 0 and a session that is there, be it empty."""
    connect(world, "c", session_expiry_interval=60 if left else 0).drop()
    connect(world, "c", present=left and not clean, clean_start=clean)


@pytest.mark.rule5("N5-41", "N5-34")
def test_connack_says_only_what_differs_from_the_defaults(world: World) -> None:
    """What is available is not announced as 0, and no expiry or keep alive is named where the client's hold."""
    guest = connect(world, "c", keep_alive=60, session_expiry_interval=60)
    found = guest.connack.properties
    assert Prop.MAXIMUM_QOS not in found
    for name in (
        Prop.RETAIN_AVAILABLE,
        Prop.WILDCARD_SUBSCRIPTION_AVAILABLE,
        Prop.SUBSCRIPTION_IDENTIFIER_AVAILABLE,
        Prop.SHARED_SUBSCRIPTION_AVAILABLE,
    ):
        assert found.get(name, 1) == 1
    assert found.get(Prop.SESSION_EXPIRY_INTERVAL, 60) == 60
    assert found.get(Prop.SERVER_KEEP_ALIVE, 60) == 60


@pytest.mark.rule5("MQTT-3.1.2-28")
@pytest.mark.parametrize("wanted", [None, 0])
def test_response_information_is_not_sent_unasked(world: World, wanted: int | None) -> None:
    """Neither without the property nor with 0."""
    fields = {} if wanted is None else {"request_response_information": wanted}
    guest = connect(world, "c", **fields)
    assert Prop.RESPONSE_INFORMATION not in guest.connack.properties


@pytest.mark.rule5("MQTT-3.2.2-19", "MQTT-3.2.2-20", "MQTT-3.1.2-24")
@pytest.mark.parametrize("raw", [b"", connect_bytes(2, C, b"junk", properties=block("27 00 00 00 05"))])
def test_a_connack_fits_the_client(raw: bytes) -> None:
    """A refusal for a client that takes five bytes comes without its explanation."""
    world = World(authenticator=Doorkeeper(Reason.NOT_AUTHORIZED))
    guest = Guest(world).send(raw or call("c", maximum_packet_size=5))
    arrived = guest.bytes()
    assert arrived.hex(" ") == ("20 03 00 81 00" if raw else "20 03 00 87 00")
    assert guest.closed


@pytest.mark.rule5("MQTT-3.1.2-24", "MQTT-3.2.2-19", "MQTT-3.2.2-20")
def test_a_client_that_cannot_take_its_connack(world: World) -> None:
    """What must be said does not fit: the connection closes and nothing larger is sent."""
    guest = Guest(world).send(call("", maximum_packet_size=5))
    assert guest.bytes() in (b"", bytes.fromhex("20 03 00 95 00"))
    assert guest.closed


# -- keep alive


@pytest.mark.rule5("MQTT-3.1.2-22", "MQTT-3.2.2-22", "N5-57")
@pytest.mark.parametrize("kept", [2, 10, 3600])
def test_a_silent_client(world: World, kept: int) -> None:
    """0x8D after one and a half times its keep alive, not earlier, and the will goes out."""
    watcher, mortal = bystander(world), with_will(world, keep_alive=kept)
    world.advance(kept * 1.5 - 0.1)
    assert mortal.packets() == []
    mortal.send(Pingreq())
    assert mortal.packets() == [Pingresp()]
    world.advance(kept * 1.5 - 0.1)
    assert mortal.packets() == []
    assert watcher.packets() == []
    world.advance(kept * 0.5 + 1)
    assert_sent_away(mortal, Reason.KEEP_ALIVE_TIMEOUT)
    assert payloads(watcher) == [b"gone"]


@pytest.mark.rule5("MQTT-3.1.2-22")
def test_keep_alive_0(world: World) -> None:
    """It switches the check off."""
    guest = connect(world, keep_alive=0)
    world.advance(10_000_000)
    assert guest.alive()


@pytest.mark.rule5("MQTT-3.1.2-22")
@pytest.mark.parametrize("received", [True, False], ids=["while it receives", "in the middle of a packet"])
def test_only_what_the_client_sends_counts(world: World, received: bool) -> None:
    """Messages towards the client do not feed its keep alive, nor does half a packet."""
    guest = connect(world, keep_alive=10)
    subscribe(guest, "t")
    for _ in range(4):
        world.advance(4)
        if received:
            say(world, "t")
        else:
            guest.send("30")
            break
    world.advance(12)
    assert guest.closed
    last = guest.packets()[-1]
    assert isinstance(last, Disconnect)
    assert last.reason is Reason.KEEP_ALIVE_TIMEOUT


# -- problem information


@pytest.mark.rule5("MQTT-3.1.2-29")
def test_a_client_that_wants_no_problem_information() -> None:
    """All kinds of refusals, none explained; but user properties of messages come through. The judge looks, too."""
    world = World(authorizer=NoSecrets())
    quiet = connect(world, request_problem_information=0)
    quiet.send(asked(1, "secret", "t"), publish("secret", b"x", 1, id=2), publish("secret", b"x", 2, id=3))
    answers = quiet.packets()
    assert [type(packet).__name__ for packet in answers] == ["Suback", "Puback", "Pubrec"]
    quiet.send("62 02 00 09", "A2 06 00 04 00 00 01 75")
    assert [type(packet).__name__ for packet in quiet.packets()] == ["Pubcomp", "Unsuback"]
    assert quiet.remarks == []
    say(world, "t", b"x", user_property=[("k", "v")])
    assert only_publishes(quiet.packets()) == [publish("t", b"x", user_property=[("k", "v")])]


@pytest.mark.rule5("MQTT-3.2.2-8", "MQTT-3.1.4-2")
def test_too_many_connections() -> None:
    """One connection more than there is room for is not served, and the others stay."""
    world = World(max_connections=2)
    first, second = connect(world, "a"), connect(world, "b")
    third = Guest(world)
    if not third.closed:
        third.send(call("c"))
        [connack] = third.packets()
        assert isinstance(connack, Connack)
        assert connack.reason in (Reason.SERVER_BUSY, Reason.QUOTA_EXCEEDED, Reason.SERVER_UNAVAILABLE)
    assert third.closed
    assert first.alive()
    assert second.alive()


@pytest.mark.rule5("MQTT-4.13.1-1", "MQTT-3.2.2-8")
def test_a_store_that_fails_at_connect(world: World) -> None:
    """A session that cannot be opened is refused with a code of CONNACK's own list."""
    world.store.failing = True
    guest = Guest(world).send(call("c", clean_start=False, session_expiry_interval=60))
    [connack] = guest.packets()
    assert isinstance(connack, Connack)
    assert connack.reason in (Reason.SERVER_UNAVAILABLE, Reason.UNSPECIFIED_ERROR)
    assert guest.closed
    world.store.failing = False
    assert connect(world, "c").alive()
