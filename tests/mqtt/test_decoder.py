"""The decoder's framing: what it waits for, what it refuses early, what it keeps."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt import writers
from mqttcluster.mqtt.decoder import LARGEST_PACKET, Decoder
from mqttcluster.mqtt.packets import V5, V31, V311, Connect, Pingreq, Publish
from mqttcluster.mqtt.reasons import MalformedPacket, MQTTError, Reason
from mqttcluster.mqtt.wire import MAX_VARINT


def lengths(size: int) -> bytes:
    return writers.encode(Publish("t", bytes(size - 3)), V311)


@pytest.mark.parametrize(
    ("size", "field"),
    [
        (64, "40"),
        (127, "7F"),
        (128, "80 01"),
        (321, "C1 02"),
        (16383, "FF 7F"),
        (16384, "80 80 01"),
        (2097151, "FF FF 7F"),
        (2097152, "80 80 80 01"),
    ],
)
def test_remaining_length(size: int, field: str) -> None:
    """Packets on both sides of every boundary of the length field pass; the four-byte lengths as well."""
    raw = lengths(size)
    assert raw[1 : 1 + len(bytes.fromhex(field))] == bytes.fromhex(field)
    source = Decoder(version=V311)
    source.receive(raw[:-1])
    assert source.next_packet() is None
    source.receive(raw[-1:])
    assert source.next_packet() == Publish("t", bytes(size - 3))


def test_largest_length_is_waited_for() -> None:
    """A peer may announce the largest packet there is, and one byte more cannot be said."""
    source = Decoder(version=V311)
    source.receive(b"\x30\xff\xff\xff\x7f")
    assert source.next_packet() is None
    assert LARGEST_PACKET == 5 + MAX_VARINT


@pytest.mark.parametrize("first", [0x00, 0x0F, 0x36, 0x38, 0x60, 0x80, 0xA0, 0xC1, 0xE1, 0xF0])
def test_first_byte_is_judged_alone(first: int) -> None:
    """A peer that sends an illegal first byte and then nothing is refused at once: its body may never come."""
    source = Decoder()
    source.receive(bytes((first,)))
    with pytest.raises(MalformedPacket):
        source.next_packet()


@pytest.mark.parametrize(("limit", "fits"), [(10, True), (9, False)])
def test_size_is_judged_from_the_header(limit: int, fits: bool) -> None:
    """A packet that is too large is refused before its body has come; the fixed header counts."""
    source = Decoder(limit, V311)
    source.receive(b"\x30\x08")
    if fits:
        assert source.next_packet() is None
        assert source.buffered == 2
    else:
        with pytest.raises(MQTTError) as caught:
            source.next_packet()
        assert caught.value.reason == Reason.PACKET_TOO_LARGE


def test_long_length_field_counts_as_it_came() -> None:
    """A length in more bytes than needed makes the packet larger, as 3.1.1 allows."""
    source = Decoder(3, V311)
    source.receive(b"\xc0\x80\x00")
    assert source.next_packet() == Pingreq()
    source = Decoder(2, V311)
    source.receive(b"\xc0\x80\x00")
    with pytest.raises(MQTTError):
        source.next_packet()


@pytest.mark.parametrize("version", [V31, V311, V5])
def test_version_comes_from_connect(version: int) -> None:
    """What follows a CONNECT is read by the rules of its version."""
    source = Decoder()
    assert source.version == 0
    publish = Publish("t", b"\0payload")
    source.receive(writers.encode(Connect("a", version), version) + writers.encode(publish, version))
    assert source.next_packet() == Connect("a", version)
    assert source.version == version
    assert source.next_packet() == publish


def test_later_connect_changes_nothing() -> None:
    """A second CONNECT, which the connection will refuse, does not change how bytes are read."""
    source = Decoder()
    source.receive(writers.encode(Connect("a", V311), V311) + writers.encode(Connect("a", V5), V5))
    source.next_packet()
    assert source.next_packet() == Connect("a", V5)
    assert source.version == V311


def test_before_connect_everything_is_read_as_311() -> None:
    """Packets before any CONNECT come out, so that the connection can refuse them by its own rule."""
    source = Decoder()
    source.receive(b"\xc0\x00\x30\x04\x00\x01t\x00")
    assert source.next_packet() == Pingreq()
    assert source.next_packet() == Publish("t", b"\0")


def test_buffered_counts_what_is_held() -> None:
    """The number that bounds a connection's memory is right at every moment."""
    source = Decoder(version=V311)
    assert source.buffered == 0
    source.receive(b"\xc0\x00\xc0\x00\x30")
    assert source.buffered == 5
    source.next_packet()
    assert source.buffered == 3
    source.receive(b"\x05\x00\x01")
    assert source.buffered == 6
    source.next_packet()
    assert source.next_packet() is None
    assert source.buffered == 4
    source.receive(b"tab")
    assert source.buffered == 7
    assert source.next_packet() == Publish("t", b"ab")
    assert source.buffered == 0


def test_nothing_is_kept_of_the_callers_buffer() -> None:
    """A transport may reuse its buffer: what was received does not change with it."""
    buffer = bytearray(b"\x30\x05\x00\x01ta")
    source = Decoder(version=V311)
    source.receive(buffer)
    buffer[4:] = b"xx"
    source.receive(b"b")
    assert source.next_packet() == Publish("t", b"ab")


@pytest.mark.parametrize(
    ("bytes_sent", "version"),
    [
        ("10 0D 00 04 4D 51 54 54 05 03 00 00 00 00 00", 5),
        ("10 0D 00 04 4D 51 54 54 04 03 00 00 00 00 00", 0),
        ("10 FF FF FF 7F 00 04 4D 51 54 54 05 02", 5),
        ("10 FF FF FF 7F 00 04 4D 51 54 54", 0),
        ("10 FF FF FF 7F", 0),
        ("36 0D 00 04 4D 51 54 54 05 03 00 00 00 00 00", 0),
        ("11 0D 00 04 4D 51 54 54 05 03 00 00 00 00 00", 0),
        ("C0 00 10 0D 00 04 4D 51 54 54 05 03 00 00 00 00 00", 5),
    ],
)
def test_an_illegal_connect_says_its_version(bytes_sent: str, version: int) -> None:
    """A client of MQTT 5.0 whose CONNECT cannot be accepted can be answered in its own words, if it got that far."""
    source = Decoder(1000)
    source.receive(bytes.fromhex(bytes_sent))
    if bytes_sent.startswith("C0"):
        assert source.next_packet() == Pingreq()
    with pytest.raises(MQTTError):
        source.next_packet()
    assert source.version == version


def test_nothing_is_kept_after_an_error() -> None:
    """A peer that goes on sending after it was refused costs no memory."""
    source = Decoder(version=V311)
    source.receive(b"\x00" * 1000)
    with pytest.raises(MQTTError):
        source.next_packet()
    source.receive(b"\xc0\x00" * 1000)
    assert source.buffered == 0
