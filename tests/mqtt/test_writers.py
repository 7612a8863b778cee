"""What writers do beyond the tables: versions that cannot say it, frames cut for many receivers, mistakes refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.mqtt import properties, wire, writers
from mqttcluster.mqtt.packets import (
    V5,
    V31,
    V311,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.mqtt.strategies import packet_of, versions


@pytest.mark.parametrize(
    ("packet", "version", "raw"),
    [
        (Connack(True, Reason.NOT_AUTHORIZED), V311, "20 02 00 05"),
        (Connack(True), V31, "20 02 00 00"),
        (Connack(reason=Reason.SERVER_BUSY), V311, "20 02 00 03"),
        (Connack(reason=Reason.SERVER_SHUTTING_DOWN), V31, "20 02 00 03"),
        (Connack(reason=Reason.BANNED), V311, "20 02 00 05"),
        (Connack(True, Reason.NOT_AUTHORIZED), V5, "20 03 00 87 00"),
        (Connack(properties={Prop.RECEIVE_MAXIMUM: 3}), V311, "20 02 00 00"),
        (Puback(1, Reason.NOT_AUTHORIZED, {Prop.REASON_STRING: "no"}), V311, "40 02 00 01"),
        (Puback(1, Reason.SUCCESS, {Prop.REASON_STRING: "n"}), V5, "40 08 00 01 00 04 1F 00 01 6E"),
        (Publish("a", b"", properties={Prop.TOPIC_ALIAS: 1}), V311, "30 03 00 01 61"),
        (Subscribe(1, [("a", Subscription(1, True, True, 2, 9))]), V311, "82 06 00 01 00 01 61 01"),
        (Unsuback(1, [Reason.SUCCESS]), V311, "B0 02 00 01"),
        (Disconnect(Reason.NOT_AUTHORIZED), V311, "E0 00"),
        (Disconnect(Reason.NOT_AUTHORIZED), V5, "E0 01 87"),
    ],
)
def test_what_a_version_cannot_say_is_left_out(packet: Packet, version: int, raw: str) -> None:
    """An old client gets the nearest thing its version knows, and no byte more."""
    assert writers.encode(packet, version) == bytes.fromhex(raw)


@pytest.mark.rule("MQTT-3.9.3-2")
@pytest.mark.parametrize("version", [V31, V311])
def test_every_refusal_in_suback_is_0x80(version: int) -> None:
    """A client before 5.0 sees 0, 1, 2 or 0x80 and nothing else."""
    reasons = list(Reason)
    raw = writers.encode(Suback(1, reasons), version)
    codes = raw[-len(reasons) :]
    assert [code for reason, code in zip(reasons, codes, strict=True) if reason >= 0x80] == [0x80] * sum(
        reason >= 0x80 for reason in reasons
    )
    assert codes[:3] == b"\0\1\2"


@pytest.mark.rule("MQTT-3.2.2-4")
@pytest.mark.parametrize("reason", [Reason.CLIENT_IDENTIFIER_NOT_VALID, Reason.NOT_AUTHORIZED])
def test_a_refusal_has_no_session(reason: Reason) -> None:
    """A client that is refused never reads Session Present 1, whatever the caller has said."""
    assert writers.encode(Connack(True, reason), V311)[2] == 0
    assert writers.encode(Connack(True, reason), V5)[2] == 0


@pytest.mark.parametrize(
    ("packet", "version"),
    [
        (Connack(reason=Reason.QUOTA_EXCEEDED), V311),
        (Connect("a", V311, password=b"p"), V311),
        (Connect("a", keep_alive=65536), V311),
        (Connect("a", keep_alive=-1), V311),
        (Connect("a", will=Will("a/#", b"")), V311),
        (Connect("a", will=Will("a", b"", 3)), V311),
        (Connect("a\0"), V311),
        (Connect("\ud800"), V311),
        (Connect("a" * 65536), V311),
        (Publish("", b""), V311),
        (Publish("", b""), V5),
        (Publish("", b"", properties={Prop.TOPIC_ALIAS: 1}), V311),
        (Publish("a", b"", 3, packet_id=1), V311),
        (Publish("a", b"", 0, dup=True), V311),
        (Publish("a", b"", 1), V311),
        (Publish("a", b"", 1, packet_id=65536), V311),
        (Puback(0), V311),
        (Subscribe(1, []), V311),
        (Subscribe(1, [("a", Subscription(identifier=3))]), V5),
        (Subscribe(1, [("a", Subscription())], {Prop.SUBSCRIPTION_IDENTIFIER: [3]}), V5),
        (Unsubscribe(1, []), V311),
        (Auth(), V311),
        (Publish("a", b"", properties={Prop.RECEIVE_MAXIMUM: 1}), V5),
        (Publish("a", b"", properties={0x7F: 1}), V5),
        (Publish("a", b"", properties={Prop.TOPIC_ALIAS: 65536}), V5),
        (Publish("a", b"", properties={Prop.TOPIC_ALIAS: -1}), V5),
        (Publish("a", b"", properties={Prop.CONTENT_TYPE: b"bytes"}), V5),
        (Publish("a", b"", properties={Prop.USER_PROPERTY: "text"}), V5),
        (Publish("a", b"", properties={Prop.TOPIC_ALIAS: [1]}), V5),
    ],
)
def test_mistakes_of_the_caller_are_value_errors(packet: Packet, version: int) -> None:
    """No bytes leave that the peer would have to close on."""
    with pytest.raises(ValueError):  # noqa: PT011 - the kind of error is the interface, its text is not
        writers.encode(packet, version)


@pytest.mark.rule("MQTT-2.3.1-5")
@given(data=st.data(), version=versions)
def test_publish_parts(data: st.DataObject, version: int) -> None:
    """The parts with an id between them are the packet, so that one encoding serves many receivers."""
    packet: Any = data.draw(packet_of(PacketType.PUBLISH, version))
    head, tail = writers.publish_parts(
        packet.topic, packet.payload, packet.qos, packet.retain, packet.dup, packet.properties, version
    )
    if packet.qos:
        assert head + packet.packet_id.to_bytes(2, "big") + tail == writers.encode(packet, version)
    else:
        assert tail == b""
        assert head == writers.encode(packet, version)


@pytest.mark.parametrize("value", [-1, 268_435_456])
def test_varint_limits(value: int) -> None:
    """A number that four bytes cannot hold is refused, not cut."""
    with pytest.raises(ValueError, match="variable byte integer"):
        wire.varint(value)


@pytest.mark.rule5("MQTT-1.5.5-1")
@given(value=st.integers(0, 268_435_455))
def test_varint_is_minimal(value: int) -> None:
    """Every length leaves in the fewest bytes and comes back."""
    raw = wire.varint(value)
    assert wire.Cursor(raw).varint() == value
    assert len(raw) == 1 or value >= 128 ** (len(raw) - 1)


@pytest.mark.rule5("MQTT-2.2.2-1")
def test_no_properties_is_one_zero() -> None:
    """A packet without properties says so."""
    assert properties.write({}, PacketType.PUBLISH) == b"\0"
    assert properties.write({Prop.USER_PROPERTY: []}, PacketType.PUBLISH) == b"\0"
