"""Packets as bytes and as objects: what must be read, what must be refused and with which reason.

The bytes are written down by hand, so that reader and writer cannot agree on the same mistake. Each row carries the
numbered rules it shows: `rules` of the standard of its own version.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from mqttcluster.mqtt.packets import (
    V5,
    V31,
    V311,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.support.wire import frame, string

MALFORMED = Reason.MALFORMED_PACKET
PROTOCOL = Reason.PROTOCOL_ERROR


class Good(NamedTuple):
    """`raw` is `packet`. `canonical` is False where our writer puts the same packet into other bytes."""

    name: str
    version: int
    raw: bytes
    packet: Packet
    canonical: bool = True
    rules: tuple[str, ...] = ()


class Bad(NamedTuple):
    """`raw` begins with what must be refused, with `reason`."""

    name: str
    version: int
    raw: bytes
    reason: Reason
    rules: tuple[str, ...] = ()


def params(rows: list[Good] | list[Bad]) -> list[object]:
    """The rows as parameters, each marked with its rules."""
    out: list[object] = []
    for row in rows:
        mark = pytest.mark.rule5 if row.version == V5 else pytest.mark.rule
        ids = [f"MQTT-{rule}" for rule in row.rules]
        out.append(pytest.param(row, id=f"v{row.version}-{row.name}", marks=[mark(*ids)] if ids else []))
    return out


def hexa(text: str) -> bytes:
    return bytes.fromhex(text)


def connect_bytes(flags: int, *fields: bytes, level: int = V311, name: str = "MQTT", keep_alive: int = 60) -> bytes:
    """A CONNECT whose `fields` stand behind the keep alive."""
    head = string(name) + bytes((level, flags)) + keep_alive.to_bytes(2, "big")
    return frame(0x10, head + b"".join(fields))


def connect_v31(flags: int, *fields: bytes) -> bytes:
    return connect_bytes(flags, *fields, level=V31, name="MQIsdp")


def connect_v5(flags: int, *fields: bytes, properties: bytes = b"\0") -> bytes:
    return connect_bytes(flags, properties, *fields, level=V5)


GOOD: list[Good] = [
    # 3.1.1
    Good(
        "connect",
        V311,
        hexa("10 0D 00 04 4D 51 54 54 04 02 00 3C 00 01 61"),
        Connect("a", V311, True, 60),
    ),
    Good(
        "connect with everything, in the order of the standard",
        V311,
        hexa("10 1A 00 04 4D 51 54 54 04 CE 00 3C 00 02 63 31 00 01 77 00 01 78 00 01 75 00 01 70"),
        Connect("c1", V311, True, 60, Will("w", b"x", 1), "u", b"p"),
        rules=("3.1.3-1", "3.1.2-9"),
    ),
    Good(
        "connect with empty client id",
        V311,
        hexa("10 0C 00 04 4D 51 54 54 04 02 00 00 00 00"),
        Connect("", V311, True, 0),
    ),
    Good(
        "connect that keeps its session, with a retained will of QoS 2",
        V311,
        connect_bytes(0x34, string("id"), string("w/t"), string(b"\xff\x00")),
        Connect("id", V311, False, 60, Will("w/t", b"\xff\x00", 2, True)),
    ),
    Good(
        "connect with user name and password of length 0",
        V311,
        connect_bytes(0xC2, string("id"), string(""), string(b"")),
        Connect("id", V311, True, 60, None, "", b""),
        rules=("3.1.2-19", "3.1.2-21"),
    ),
    Good(
        "connect with user name only",
        V311,
        connect_bytes(0x82, string("id"), string("u")),
        Connect("id", V311, True, 60, None, "u"),
        rules=("3.1.2-20",),
    ),
    Good("connack accepted", V311, hexa("20 02 00 00"), Connack()),
    Good("connack with session", V311, hexa("20 02 01 00"), Connack(True)),
    Good("connack wrong version", V311, hexa("20 02 00 01"), Connack(reason=Reason.UNSUPPORTED_PROTOCOL_VERSION)),
    Good("connack wrong id", V311, hexa("20 02 00 02"), Connack(reason=Reason.CLIENT_IDENTIFIER_NOT_VALID)),
    Good("connack unavailable", V311, hexa("20 02 00 03"), Connack(reason=Reason.SERVER_UNAVAILABLE)),
    Good("connack bad password", V311, hexa("20 02 00 04"), Connack(reason=Reason.BAD_USER_NAME_OR_PASSWORD)),
    Good("connack not authorized", V311, hexa("20 02 00 05"), Connack(reason=Reason.NOT_AUTHORIZED)),
    Good(
        "publish QoS 0: the payload follows the topic",
        V311,
        hexa("30 07 00 03 61 2F 62 68 69"),
        Publish("a/b", b"hi"),
        rules=("2.3.1-5", "3.3.2-1"),
    ),
    Good(
        "publish QoS 1 retained",
        V311,
        hexa("33 09 00 03 61 2F 62 00 0A 68 69"),
        Publish("a/b", b"hi", 1, True, False, 10),
    ),
    Good(
        "publish QoS 2 dup", V311, hexa("3C 09 00 03 61 2F 62 00 0A 68 69"), Publish("a/b", b"hi", 2, False, True, 10)
    ),
    Good("publish that clears", V311, hexa("31 05 00 03 61 2F 62"), Publish("a/b", b"", 0, True)),
    Good(
        "publish keeps U+FEFF",
        V311,
        frame(0x30, string(b"\xef\xbb\xbfa") + b"x"),
        Publish("\ufeffa", b"x"),
        rules=("1.5.3-3",),
    ),
    Good("publish with the highest id", V311, hexa("32 05 00 01 61 FF FF"), Publish("a", b"", 1, packet_id=0xFFFF)),
    Good("puback", V311, hexa("40 02 00 0A"), Puback(10), rules=("2.2.2-1",)),
    Good("pubrec", V311, hexa("50 02 00 0A"), Pubrec(10), rules=("2.2.2-1",)),
    Good("pubrel", V311, hexa("62 02 00 0A"), Pubrel(10), rules=("2.2.2-1", "3.6.1-1")),
    Good("pubcomp", V311, hexa("70 02 00 0A"), Pubcomp(10), rules=("2.2.2-1",)),
    Good(
        "subscribe",
        V311,
        hexa("82 0E 00 0A 00 03 61 2F 62 01 00 03 63 2F 64 02"),
        Subscribe(10, [("a/b", Subscription(1)), ("c/d", Subscription(2))]),
        rules=("2.2.2-1", "3.8.1-1"),
    ),
    Good(
        "$share is an ordinary filter",
        V311,
        frame(0x82, hexa("00 01") + string("$share/g") + b"\0"),
        Subscribe(1, [("$share/g", Subscription(0))]),
    ),
    Good("suback", V311, hexa("90 04 00 0A 01 80"), Suback(10, [Reason.GRANTED_QOS_1, Reason.UNSPECIFIED_ERROR])),
    Good(
        "unsubscribe",
        V311,
        hexa("A2 0C 00 0B 00 03 61 2F 62 00 03 63 2F 64"),
        Unsubscribe(11, ["a/b", "c/d"]),
        rules=("2.2.2-1", "3.10.1-1"),
    ),
    Good("unsuback", V311, hexa("B0 02 00 0B"), Unsuback(11)),
    Good("pingreq", V311, hexa("C0 00"), Pingreq()),
    Good("pingresp", V311, hexa("D0 00"), Pingresp()),
    Good("disconnect", V311, hexa("E0 00"), Disconnect()),
    Good("a length in more bytes than needed", V311, hexa("C0 80 80 00"), Pingreq(), canonical=False),
    # 3.1
    Good("connect", V31, hexa("10 0F 00 06 4D 51 49 73 64 70 03 02 00 3C 00 01 61"), Connect("a", V31, True, 60)),
    Good("connect with reserved flag", V31, connect_v31(0x03, string("a")), Connect("a", V31, True, 60), False),
    Good("connect with will bits but no will", V31, connect_v31(0x3A, string("a")), Connect("a", V31, True, 60), False),
    Good(
        "connect without the user name it announces",
        V31,
        connect_v31(0xC2, string("a")),
        Connect("a", V31, True, 60),
        canonical=False,
    ),
    Good(
        "connect without the password it announces",
        V31,
        connect_v31(0xC2, string("a"), string("u")),
        Connect("a", V31, True, 60, None, "u"),
        canonical=False,
    ),
    Good(
        "connect with will, user name and password",
        V31,
        connect_v31(0xEE, string("a"), string("w"), string("x"), string("u"), string("p")),
        Connect("a", V31, True, 60, Will("w", b"x", 1, True), "u", b"p"),
    ),
    Good("connack with its reserved byte used", V31, hexa("20 02 FF 00"), Connack(), canonical=False),
    Good("pubrel dup", V31, hexa("6A 02 00 0A"), Pubrel(10), canonical=False),
    Good("pubrel", V31, hexa("62 02 00 0A"), Pubrel(10)),
    Good("subscribe dup", V31, hexa("8A 06 00 0A 00 01 61 01"), Subscribe(10, [("a", Subscription(1))]), False),
    Good("unsubscribe dup", V31, hexa("AA 05 00 0A 00 01 61"), Unsubscribe(10, ["a"]), canonical=False),
    Good("publish with control characters", V31, frame(0x30, string("a\x01\x7f") + b""), Publish("a\x01\x7f", b"")),
    # 5.0
    Good(
        "connect",
        V5,
        hexa("10 0E 00 04 4D 51 54 54 05 02 00 3C 00 00 01 61"),
        Connect("a", V5, True, 60),
        rules=("2.2.2-1",),
    ),
    Good(
        "connect with properties",
        V5,
        hexa("10 16 00 04 4D 51 54 54 05 00 00 3C 08 11 00 00 0E 10 21 00 14 00 01 61"),
        Connect("a", V5, False, 60, properties={Prop.SESSION_EXPIRY_INTERVAL: 3600, Prop.RECEIVE_MAXIMUM: 20}),
    ),
    Good(
        "connect with will",
        V5,
        hexa("10 1A 00 04 4D 51 54 54 05 06 00 3C 00 00 01 61 05 18 00 00 00 05 00 01 77 00 01 78"),
        Connect("a", V5, True, 60, Will("w", b"x", properties={Prop.WILL_DELAY_INTERVAL: 5})),
        rules=("3.1.3-1",),
    ),
    Good(
        "connect with password but no user name",
        V5,
        connect_v5(0x42, string("a"), string("p")),
        Connect("a", V5, True, 60, password=b"p"),
        rules=("3.1.2-19",),
    ),
    Good("connack", V5, hexa("20 03 00 00 00"), Connack()),
    Good("connack wrong version", V5, hexa("20 03 00 84 00"), Connack(reason=Reason.UNSUPPORTED_PROTOCOL_VERSION)),
    Good(
        "connack with id",
        V5,
        hexa("20 0A 00 00 07 12 00 04 61 75 74 6F"),
        Connack(properties={Prop.ASSIGNED_CLIENT_IDENTIFIER: "auto"}),
    ),
    Good(
        "connack with limits",
        V5,
        hexa("20 08 01 00 05 24 01 13 00 1E"),
        Connack(True, properties={Prop.MAXIMUM_QOS: 1, Prop.SERVER_KEEP_ALIVE: 30}),
    ),
    Good("publish", V5, hexa("30 08 00 03 61 2F 62 00 68 69"), Publish("a/b", b"hi"), rules=("2.2.1-2", "3.3.2-1")),
    Good(
        "publish that sets an alias",
        V5,
        hexa("32 0D 00 03 61 2F 62 00 0A 03 23 00 01 68 69"),
        Publish("a/b", b"hi", 1, packet_id=10, properties={Prop.TOPIC_ALIAS: 1}),
    ),
    Good(
        "publish by alias",
        V5,
        hexa("30 08 00 00 03 23 00 01 68 69"),
        Publish("", b"hi", properties={Prop.TOPIC_ALIAS: 1}),
    ),
    Good(
        "publish to a subscriber",
        V5,
        hexa("30 0E 00 01 61 09 0B 05 26 00 01 6B 00 01 76 68"),
        Publish("a", b"h", properties={Prop.SUBSCRIPTION_IDENTIFIER: [5], Prop.USER_PROPERTY: [("k", "v")]}),
    ),
    Good(
        "publish with repeated identifiers and user properties",
        V5,
        hexa("30 19 00 01 61 15 0B 05 0B 80 01 0B 05 26 00 01 6B 00 01 76 26 00 01 6B 00 01 76"),
        Publish(
            "a",
            b"",
            properties={Prop.SUBSCRIPTION_IDENTIFIER: [5, 128, 5], Prop.USER_PROPERTY: [("k", "v"), ("k", "v")]},
        ),
    ),
    Good(
        "publish keeps U+FEFF",
        V5,
        frame(0x30, string(b"\xef\xbb\xbfa") + b"\0"),
        Publish("\ufeffa", b""),
        rules=("1.5.4-3",),
    ),
    Good("puback", V5, hexa("40 02 00 0A"), Puback(10)),
    Good("puback with reason", V5, hexa("40 03 00 0A 10"), Puback(10, Reason.NO_MATCHING_SUBSCRIBERS)),
    Good("pubrec with length 0", V5, hexa("50 04 00 0A 87 00"), Pubrec(10, Reason.NOT_AUTHORIZED), canonical=False),
    Good(
        "pubrec with reason string",
        V5,
        hexa("50 08 00 0A 87 04 1F 00 01 6E"),
        Pubrec(10, Reason.NOT_AUTHORIZED, {Prop.REASON_STRING: "n"}),
    ),
    Good("pubrel", V5, hexa("62 02 00 0A"), Pubrel(10), rules=("2.1.3-1", "3.6.1-1")),
    Good("pubcomp with reason", V5, hexa("70 03 00 0A 92"), Pubcomp(10, Reason.PACKET_IDENTIFIER_NOT_FOUND)),
    Good(
        "subscribe",
        V5,
        hexa("82 0B 00 0A 02 0B 05 00 03 61 2F 62 2D"),
        Subscribe(10, [("a/b", Subscription(1, True, True, 2, 5))], {Prop.SUBSCRIPTION_IDENTIFIER: [5]}),
        rules=("2.1.3-1", "3.8.1-1"),
    ),
    Good(
        "subscribe shared",
        V5,
        frame(0x82, hexa("00 01 00") + string("$share/g/a/+") + b"\x01"),
        Subscribe(1, [("$share/g/a/+", Subscription(1))]),
        rules=("4.8.2-1", "4.8.2-2"),
    ),
    Good("suback", V5, hexa("90 04 00 0A 00 01"), Suback(10, [Reason.GRANTED_QOS_1])),
    Good("unsubscribe", V5, hexa("A2 08 00 0B 00 00 03 61 2F 62"), Unsubscribe(11, ["a/b"]), rules=("2.1.3-1",)),
    Good("unsuback", V5, hexa("B0 04 00 0B 00 11"), Unsuback(11, [Reason.NO_SUBSCRIPTION_EXISTED])),
    Good("pingreq", V5, hexa("C0 00"), Pingreq()),
    Good("pingresp", V5, hexa("D0 00"), Pingresp()),
    Good("disconnect", V5, hexa("E0 00"), Disconnect()),
    Good("disconnect with will", V5, hexa("E0 01 04"), Disconnect(Reason.DISCONNECT_WITH_WILL)),
    Good("disconnect taken over", V5, hexa("E0 02 8E 00"), Disconnect(Reason.SESSION_TAKEN_OVER), canonical=False),
    Good(
        "disconnect with expiry",
        V5,
        hexa("E0 07 00 05 11 00 00 00 00"),
        Disconnect(properties={Prop.SESSION_EXPIRY_INTERVAL: 0}),
    ),
    Good(
        "auth",
        V5,
        hexa("F0 0C 18 0A 15 00 02 50 4C 16 00 02 61 62"),
        Auth(
            Reason.CONTINUE_AUTHENTICATION,
            {Prop.AUTHENTICATION_METHOD: "PL", Prop.AUTHENTICATION_DATA: b"ab"},
        ),
    ),
]

# Strings that are no UTF-8, for the rules about strings; all of them are tried in every string field.
BROKEN_STRINGS: dict[str, bytes] = {
    "surrogate": b"a\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "overlong": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "truncated": b"a\xe2\x82",
    "lone continuation": b"\x80",
}


def _broken_strings(version: int) -> list[Bad]:
    """Every string field of what a client sends, with every kind of broken string."""
    five = version == V5
    none = b"\0" if five else b""

    def connect(flags: int, *fields: bytes) -> bytes:
        return connect_bytes(flags, none, *fields, level=version, name="MQIsdp" if version == V31 else "MQTT")

    def fields(text: bytes) -> dict[str, tuple[bytes, str]]:
        broken = string(text)
        return {
            "client id": (connect(2, broken), "3.1.3-4"),
            "will topic": (connect(6, string("a"), none, broken, string("x")), "3.1.3-11" if five else "3.1.3-10"),
            "user name": (connect(0x82, string("a"), broken), "3.1.3-12" if five else "3.1.3-11"),
            "topic": (frame(0x30, broken + none), "3.3.2-1"),
            "filter": (frame(0x82, b"\0\1" + none + broken + b"\0"), "3.8.3-1"),
            "unsubscribed filter": (frame(0xA2, b"\0\1" + none + broken), "3.10.3-1"),
        }

    encoding, nul = ("1.5.4-1", "1.5.4-2") if five else ("1.5.3-1", "1.5.3-2")
    rows = [
        Bad(f"{field} is no UTF-8: {kind}", version, raw, MALFORMED, (encoding, rule))
        for kind, text in BROKEN_STRINGS.items()
        for field, (raw, rule) in fields(text).items()
    ]
    topics = ("topic", "filter", "will topic", "unsubscribed filter")
    rows += [
        Bad(f"{field} with U+0000", version, raw, MALFORMED, (nul, "4.7.3-2") if field in topics else (nul,))
        for field, (raw, _) in fields(b"a\0b").items()
    ]
    if version == V31:
        rows = [row._replace(rules=()) for row in rows]
    return rows


def _wrong_flags(version: int) -> list[Bad]:
    """Every first byte that the version forbids, behind it a body that would be fine."""
    legal = {0x10, 0x20, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0}
    legal |= {0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x3A, 0x3B, 0x3C, 0x3D}
    if version == V31:
        legal |= {0x6A, 0x8A, 0xAA}
    if version == V5:
        legal.add(0xF0)
    general = ("2.1.3-1",) if version == V5 else ("2.2.2-2",)
    special = {0x6: "3.6.1-1", 0x8: "3.8.1-1", 0xA: "3.10.1-1", 0xE: "3.14.1-1"}
    if version == V5:
        special[0xF] = "3.15.1-1"
    rows = []
    for first in sorted(set(range(256)) - legal):
        packet_type = first >> 4
        rules: tuple[str, ...] = (*general, special[packet_type]) if packet_type in special else general
        if packet_type == 3:
            rules = ("3.3.1-4",) if first & 6 == 6 else ("3.3.1-2",)
        if packet_type == 0 or (packet_type == 15 and version != V5) or version == V31:
            rules = ()
        body = b"" if packet_type in (0xC, 0xD, 0xE) else b"\0\1a\0\1a"
        rows.append(Bad(f"first byte {first:02X}", version, frame(first, body), MALFORMED, rules))
    return rows


def _ids(version: int) -> list[Bad]:
    """Packet id 0, and every packet with an id cut off before and behind it."""
    none = b"\0" if version == V5 else b""
    bodies = {0x40: b"", 0x50: b"", 0x62: b"", 0x70: b"", 0x82: none + b"\0\1a\0", 0xA2: none + b"\0\1a"}
    rule = {V311: ("2.3.1-1",), V5: ("2.2.1-3",)}.get(version, ())
    rows = [
        Bad(f"packet id 0 in {first:02X}", version, frame(first, b"\0\0" + rest), PROTOCOL, rule if rest else ())
        for first, rest in bodies.items()
    ]
    rows += [
        Bad(f"packet id 0 in {first:02X}", version, frame(first, b"\0\1a\0\0" + none + b"x"), PROTOCOL, rule)
        for first in (0x32, 0x34)
    ]
    rows += [
        Bad(f"half a packet id in {first:02X}", version, frame(first, b"\0"), MALFORMED)
        for first in (0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0)
    ]
    rows.append(Bad("half a packet id in 32", version, frame(0x32, b"\0\1a\0"), MALFORMED))
    return rows


def _connects(version: int) -> list[Bad]:
    """CONNECT in 3.1.1 and 5.0: flags and fields that do not fit together."""
    five = version == V5

    def connect(flags: int, *fields: bytes) -> bytes:
        return connect_bytes(flags, b"\0" if five else b"", *fields, level=version)

    def rules(old: str, new: str) -> tuple[str, ...]:
        return (new,) if five else (old,)

    will = (b"\0",) if five else ()  # no will properties
    no_will, no_wildcard = rules("3.1.2-11", "3.1.2-16"), rules("4.7.1-1", "4.7.0-1")
    a = string("a")
    return [
        Bad("connect with reserved flag", version, connect(0x03, a), MALFORMED, ("3.1.2-3",)),
        Bad("will QoS 1 without will", version, connect(0x0A, a), MALFORMED, rules("3.1.2-13", "3.1.2-11")),
        Bad("will QoS 2 without will", version, connect(0x12, a), MALFORMED, rules("3.1.2-13", "3.1.2-11")),
        Bad("will retain without will", version, connect(0x22, a), MALFORMED, rules("3.1.2-15", "3.1.2-13")),
        Bad("will QoS 3", version, connect(0x1E, a, *will, a, a), MALFORMED, rules("3.1.2-14", "3.1.2-12")),
        Bad("will fields without will flag", version, connect(0x02, a, *will, a, a), MALFORMED, no_will),
        Bad("will without topic", version, connect(0x06, a, *will), MALFORMED, ("3.1.2-9",)),
        Bad("will without message", version, connect(0x06, a, *will, a), MALFORMED, ("3.1.2-9",)),
        Bad("will topic with #", version, connect(0x06, a, *will, string("a/#"), a), PROTOCOL, no_wildcard),
        Bad("will topic with +", version, connect(0x06, a, *will, string("+/a"), a), PROTOCOL, no_wildcard),
        Bad("empty will topic", version, connect(0x06, a, *will, string(""), a), PROTOCOL, ("4.7.3-1",)),
        Bad("user name without flag", version, connect(0x02, a, a), MALFORMED, rules("3.1.2-18", "3.1.2-16")),
        Bad("no user name", version, connect(0x82, a), MALFORMED, rules("3.1.2-19", "3.1.2-17")),
        Bad("password without flag", version, connect(0x82, a, a, a), MALFORMED, rules("3.1.2-20", "3.1.2-18")),
        Bad("no password", version, connect(0xC2, a, a), MALFORMED, rules("3.1.2-21", "3.1.2-19")),
        Bad("no client id", version, connect(0x02), MALFORMED, ("3.1.3-3",)),
        Bad("client id cut off", version, connect(0x02, b"\0\5abc"), MALFORMED, ("3.1.3-3",)),
    ]  # fmt: skip


def _sizes(version: int) -> list[Bad]:
    """Packets of fixed size in 3.1 and 3.1.1 with a byte too many or too few."""
    rows = [
        Bad(f"length of {first:02X} is {len(body)}", version, frame(first, body), MALFORMED)
        for first in (0x20, 0x40, 0x50, 0x62, 0x70, 0xB0)
        for body in (b"", b"\0", b"\0\1\0", b"\0\1\0\0")
    ]
    return rows + [
        Bad(f"length of {first:02X} is 1", version, frame(first, b"\0"), MALFORMED) for first in (0xC0, 0xD0, 0xE0)
    ]


def _topics(version: int) -> list[Bad]:
    """Topics in PUBLISH, filters in SUBSCRIBE and UNSUBSCRIBE that are not valid."""
    five = version == V5
    none = b"\0" if five else b""
    names = {"a/#": "3.3.2-2", "#": "3.3.2-2", "+": "3.3.2-2", "a+b": "3.3.2-2", "a#b/c": "3.3.2-2", "": "4.7.3-1"}
    rows = [
        Bad(f"topic {name!r}", version, frame(0x30, string(name) + none), PROTOCOL, (rule,))
        for name, rule in names.items()
    ]
    hash_rule, plus_rule = ("4.7.1-1", "4.7.1-2") if five else ("4.7.1-2", "4.7.1-3")
    filters = dict.fromkeys(("a#", "a/#/b", "#/a", "##", "#+", "a/##"), hash_rule)
    filters |= dict.fromkeys(("+#", "a+", "+a", "a/b+/c", "a/++"), plus_rule)
    filters[""] = "4.7.3-1"
    if five:
        filters |= {"$share//a": "4.8.2-1", "$share/g": "4.8.2-2", "$share/g/": "4.8.2-2", "$share/+/a": "4.8.2-2"}
        filters |= {"$share/#/a": "4.8.2-2", "$share/g/a#": "4.8.2-2"}
    for name, rule in filters.items():
        asked, dropped = b"\0\1" + none + string(name) + b"\0", b"\0\1" + none + string(name)
        rows.append(Bad(f"filter {name!r}", version, frame(0x82, asked), PROTOCOL, (rule,)))
        rows.append(Bad(f"unsubscribed filter {name!r}", version, frame(0xA2, dropped), PROTOCOL, (rule,)))
    if version == V31:
        rows = [row._replace(rules=()) for row in rows]
    return rows


def _property(first: int, before: bytes, block: bytes, behind: bytes = b"") -> bytes:
    return frame(first, before + bytes((len(block),)) + block + behind)


_PUBLISH_TO_A = b"\0\1a"
_STRING_A = b"\0\1a"

BAD: list[Bad] = [
    *_broken_strings(V311),
    *_broken_strings(V31),
    *_broken_strings(V5),
    *_wrong_flags(V311),
    *_wrong_flags(V31),
    *_wrong_flags(V5),
    *_ids(V311),
    *_ids(V31),
    *_ids(V5),
    *_connects(V311),
    *_connects(V5),
    *_sizes(V311),
    *_sizes(V31),
    *_topics(V311),
    *_topics(V31),
    *_topics(V5),
    # Any version
    Bad("length of five bytes", V311, hexa("C0 80 80 80 80"), MALFORMED),
    Bad("length of five bytes", V5, hexa("C0 80 80 80 80"), MALFORMED),
    Bad("length in more bytes than needed", V5, hexa("C0 80 00"), MALFORMED, ("1.5.5-1",)),
    Bad(
        "connect length in more bytes than needed",
        V5,
        hexa("10 8E 00 00 04 4D 51 54 54 05 02 00 3C 00 00 01 61"),
        MALFORMED,
        ("1.5.5-1",),
    ),
    # CONNECT: name and level
    Bad("name MQTx", V311, connect_bytes(2, string("a"), name="MQTx"), PROTOCOL, ("3.1.2-1",)),
    Bad("name mqtt", V311, connect_bytes(2, string("a"), name="mqtt"), PROTOCOL, ("3.1.2-1",)),
    Bad("empty name", V311, connect_bytes(2, string("a"), name=""), PROTOCOL, ("3.1.2-1",)),
    Bad("name MQTx", V5, connect_bytes(2, b"\0", string("a"), name="MQTx", level=5), PROTOCOL, ("3.1.2-1",)),
    *(
        Bad(f"level {level}", V311, connect_bytes(2, level=level), Reason.UNSUPPORTED_PROTOCOL_VERSION)
        for level in (0, 3, 6, 0x83, 0x84, 255)
    ),
    *(
        Bad(
            f"MQIsdp with level {level}",
            V31,
            connect_bytes(2, level=level, name="MQIsdp"),
            Reason.UNSUPPORTED_PROTOCOL_VERSION,
        )
        for level in (0, 4, 5)
    ),
    Bad("connect that ends in its name", V311, hexa("10 04 00 04 4D 51"), MALFORMED),
    Bad("connect that ends before its level", V311, hexa("10 06 00 04 4D 51 54 54"), MALFORMED),
    Bad("connect that ends before its keep alive", V311, hexa("10 09 00 04 4D 51 54 54 04 02 00"), MALFORMED),
    Bad("password without user name", V311, connect_bytes(0x42, string("a"), string("p")), MALFORMED, ("3.1.2-22",)),
    Bad("password without user name", V31, connect_v31(0x42, string("a"), string("p")), MALFORMED),
    Bad("will QoS 3", V31, connect_v31(0x1E, string("a"), string("w"), string("x")), MALFORMED),
    Bad("will without message", V31, connect_v31(0x06, string("a"), string("w")), MALFORMED),
    Bad("user name cut off", V31, connect_v31(0x82, string("a"), b"\0\2a"), MALFORMED),
    Bad("bytes behind the last field", V31, connect_v31(0x02, string("a"), b"x"), MALFORMED),
    # CONNACK
    Bad("connack with reserved flag", V311, hexa("20 02 02 00"), MALFORMED),
    Bad("connack with unknown code", V311, hexa("20 02 00 06"), PROTOCOL),
    Bad("connack that refuses with session", V311, hexa("20 02 01 05"), PROTOCOL, ("3.2.2-4",)),
    Bad("connack with reserved flag", V5, hexa("20 03 80 00 00"), MALFORMED, ("3.2.2-1",)),
    Bad("connack that refuses with session", V5, hexa("20 03 01 87 00"), PROTOCOL, ("3.2.2-6",)),
    Bad("connack with a code of 3.1.1", V5, hexa("20 03 00 05 00"), PROTOCOL, ("3.2.2-8",)),
    Bad("connack without properties", V5, hexa("20 02 00 00"), MALFORMED, ("2.2.2-1",)),
    # PUBLISH
    Bad("publish without topic", V311, hexa("30 00"), MALFORMED, ("3.3.2-1",)),
    Bad("publish with half a length", V311, hexa("30 01 00"), MALFORMED, ("3.3.2-1",)),
    Bad("publish with topic cut off", V311, hexa("30 04 00 03 61 62"), MALFORMED, ("3.3.2-1",)),
    Bad("publish without packet id", V311, hexa("32 03 00 01 61"), MALFORMED),
    Bad("publish without properties", V5, hexa("30 03 00 01 61"), MALFORMED, ("2.2.2-1",)),
    # SUBSCRIBE and its relatives
    Bad("subscribe to nothing", V311, hexa("82 02 00 0A"), PROTOCOL, ("3.8.3-3",)),
    Bad("subscribe to nothing", V5, hexa("82 03 00 0A 00"), PROTOCOL, ("3.8.3-2",)),
    Bad("subscribe without QoS", V311, hexa("82 05 00 0A 00 01 61"), MALFORMED),
    Bad("subscribe with filter cut off", V311, hexa("82 05 00 0A 00 02 61"), MALFORMED),
    *(
        Bad(f"QoS byte {qos:02X}", V311, frame(0x82, b"\0\1\0\1a" + bytes((qos,))), MALFORMED, ("3.8.3-4",))
        for qos in (0x03, 0x04, 0x10, 0x80, 0xFE, 0xFF)
    ),
    *(
        Bad(f"options {options:02X}", V5, frame(0x82, b"\0\1\0\0\1a" + bytes((options,))), MALFORMED, ("3.8.3-5",))
        for options in (0x40, 0x80, 0xC1)
    ),
    Bad("options with QoS 3", V5, hexa("82 07 00 01 00 00 01 61 03"), PROTOCOL),
    Bad("options with retain handling 3", V5, hexa("82 07 00 01 00 00 01 61 30"), PROTOCOL),
    Bad(
        "no local on a shared subscription",
        V5,
        frame(0x82, b"\0\1\0" + string("$share/g/a") + b"\x04"),
        PROTOCOL,
        ("3.8.3-4",),
    ),
    Bad("unsubscribe from nothing", V311, hexa("A2 02 00 0A"), PROTOCOL, ("3.10.3-2",)),
    Bad("unsubscribe from nothing", V5, hexa("A2 03 00 0A 00"), PROTOCOL, ("3.10.3-2",)),
    Bad("unsubscribe with filter cut off", V311, hexa("A2 05 00 0A 00 02 61"), MALFORMED),
    Bad("suback with nothing", V311, hexa("90 02 00 0A"), PROTOCOL),
    *(
        Bad(f"suback with code {code:02X}", V311, frame(0x90, b"\0\1" + bytes((code,))), PROTOCOL, ("3.9.3-2",))
        for code in (0x03, 0x81, 0x87, 0xFF)
    ),
    Bad("suback with unknown code", V5, hexa("90 04 00 0A 00 03"), PROTOCOL, ("3.9.3-2",)),
    Bad("suback with nothing", V5, hexa("90 03 00 0A 00"), PROTOCOL, ("3.8.4-6",)),
    Bad("unsuback with unknown code", V5, hexa("B0 04 00 0A 00 01"), PROTOCOL, ("3.11.3-2",)),
    Bad("unsuback with nothing", V5, hexa("B0 03 00 0A 00"), PROTOCOL, ("3.11.3-2",)),
    # Reason codes of 5.0
    Bad("puback with unknown code", V5, hexa("40 03 00 0A 01"), PROTOCOL, ("3.4.2-1",)),
    Bad("pubrec with a code of pubrel", V5, hexa("50 03 00 0A 92"), PROTOCOL, ("3.5.2-1",)),
    Bad("pubrel with a code of puback", V5, hexa("62 03 00 0A 10"), PROTOCOL, ("3.6.2-1",)),
    Bad("pubcomp with a code of puback", V5, hexa("70 03 00 0A 87"), PROTOCOL, ("3.7.2-1",)),
    Bad("disconnect with unknown code", V5, hexa("E0 01 01"), PROTOCOL, ("3.14.2-1",)),
    Bad("auth with unknown code", V5, hexa("F0 07 17 05 15 00 02 50 4C"), PROTOCOL, ("3.15.2-1",)),
    Bad("auth of two bytes", V5, hexa("F0 00"), PROTOCOL),
    Bad("auth without method", V5, hexa("F0 02 18 00"), PROTOCOL),
    Bad("auth without properties", V5, hexa("F0 01 18"), MALFORMED),
    Bad("pingreq with a body", V5, hexa("C0 01 00"), MALFORMED),
    Bad("pingresp with a body", V5, hexa("D0 01 00"), MALFORMED),
    Bad("puback with bytes behind its properties", V5, hexa("40 05 00 0A 00 00 00"), MALFORMED),
    Bad("disconnect with bytes behind its properties", V5, hexa("E0 03 00 00 00"), MALFORMED),
    # Properties of 5.0
    Bad("properties longer than the packet", V5, frame(0x30, _PUBLISH_TO_A + b"\x02\x01"), MALFORMED),
    Bad("property length in five bytes", V5, frame(0x30, _PUBLISH_TO_A + b"\x80\x80\x80\x80\x01"), MALFORMED),
    Bad("property length not minimal", V5, frame(0x30, _PUBLISH_TO_A + b"\x80\x00"), MALFORMED, ("1.5.5-1",)),
    Bad("property id not minimal", V5, _property(0x30, _PUBLISH_TO_A, b"\x81\x00\x01"), MALFORMED, ("1.5.5-1",)),
    Bad("property length cut off", V5, frame(0x30, _PUBLISH_TO_A + b"\x80"), MALFORMED),
    Bad("value beyond the property length", V5, _property(0x30, _PUBLISH_TO_A, b"\x02\0\0\0", b"\0\0"), MALFORMED),
    Bad("string beyond the property length", V5, _property(0x30, _PUBLISH_TO_A, b"\x03\0\2a", b"bc"), MALFORMED),
    Bad("unknown property", V5, _property(0x30, _PUBLISH_TO_A, b"\x04\0"), MALFORMED),
    Bad("property of CONNECT in PUBLISH", V5, _property(0x30, _PUBLISH_TO_A, b"\x11\0\0\0\0"), MALFORMED),
    Bad("property of PUBLISH in a puback", V5, _property(0x40, b"\0\1\0", b"\x01\0"), MALFORMED),
    Bad("property twice", V5, _property(0x30, _PUBLISH_TO_A, b"\x01\0\x01\0"), PROTOCOL),
    Bad("payload format 2", V5, _property(0x30, _PUBLISH_TO_A, b"\x01\x02"), PROTOCOL),
    Bad("alias 0", V5, _property(0x30, _PUBLISH_TO_A, b"\x23\0\0"), Reason.TOPIC_ALIAS_INVALID, ("3.3.2-8",)),
    Bad("identifier 0 in publish", V5, _property(0x30, _PUBLISH_TO_A, b"\x0b\0"), PROTOCOL),
    Bad("identifier 0", V5, _property(0x82, b"\0\1", b"\x0b\0", _STRING_A + b"\0"), PROTOCOL),
    Bad("identifier twice", V5, _property(0x82, b"\0\1", b"\x0b\1\x0b\2", _STRING_A + b"\0"), PROTOCOL),
    Bad(
        "identifier not minimal",
        V5,
        _property(0x82, b"\0\1", b"\x0b\x81\0", _STRING_A + b"\0"),
        MALFORMED,
        ("1.5.5-1",),
    ),
    Bad("response topic with wildcard", V5, _property(0x30, _PUBLISH_TO_A, b"\x08\0\1#"), PROTOCOL, ("3.3.2-14",)),
    Bad("response topic no UTF-8", V5, _property(0x30, _PUBLISH_TO_A, b"\x08\0\1\xff"), MALFORMED, ("3.3.2-13",)),
    Bad("content type no UTF-8", V5, _property(0x30, _PUBLISH_TO_A, b"\x03\0\1\xff"), MALFORMED, ("3.3.2-19",)),
    Bad(
        "user property name no UTF-8", V5, _property(0x30, _PUBLISH_TO_A, b"\x26\0\1\xff\0\1a"), MALFORMED, ("1.5.7-1",)
    ),
    Bad(
        "user property value no UTF-8",
        V5,
        _property(0x30, _PUBLISH_TO_A, b"\x26\0\1a\0\1\xff"),
        MALFORMED,
        ("1.5.7-1",),
    ),
    Bad("user property without value", V5, _property(0x30, _PUBLISH_TO_A, b"\x26\0\1a"), MALFORMED),
    *(
        Bad(name, V5, connect_v5(2, string("a"), properties=bytes((len(block),)) + block), PROTOCOL)
        for name, block in {
            "receive maximum 0": b"\x21\0\0",
            "maximum packet size 0": b"\x27\0\0\0\0",
            "request response information 2": b"\x19\2",
            "request problem information 2": b"\x17\2",
            "authentication data without method": b"\x16\0\1a",
            "session expiry twice": b"\x11\0\0\0\0\x11\0\0\0\0",
        }.items()
    ),
    Bad(
        "will delay among the properties of CONNECT",
        V5,
        connect_v5(2, string("a"), properties=b"\5\x18\0\0\0\0"),
        MALFORMED,
    ),
    Bad(
        "session expiry among the properties of a will",
        V5,
        connect_v5(6, string("a"), b"\5\x11\0\0\0\0", string("w"), string("x")),
        MALFORMED,
    ),
    Bad("maximum QoS 2", V5, _property(0x20, b"\0\0", b"\x24\2"), PROTOCOL),
    Bad("retain available 2", V5, _property(0x20, b"\0\0", b"\x25\2"), PROTOCOL),
]
