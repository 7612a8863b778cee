"""Rows of frames, cut from a chunk without packets: they are what the decoder would have read."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.mqtt import frames as cut
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.frames import acknowledgements
from mqttcluster.mqtt.packets import V5, V311, Puback, Publish
from mqttcluster.mqtt.writers import encode


class Row(NamedTuple):
    """Where a row ends, the size of a frame, and where its topic ends."""

    end: int
    stride: int
    id_at: int


def row(chunk: bytes, at: int = 0, v5: bool = False, most: int = 1000) -> Row | None:
    found = cut.publish(chunk, at, len(chunk), v5)
    if found is None:
        return None
    return Row(at + found[0] * cut.row(chunk, at, len(chunk), *found, v5, most), *found)


def frames(*packets: Publish, version: int = V311) -> bytes:
    return b"".join(encode(packet, version) for packet in packets)


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, 121, 122, 123, 130, 20_000])
def test_a_row_goes_on_while_only_identifier_and_payload_differ(version: int, qos: int, size: int) -> None:
    same = [Publish("a/b", bytes([n]) * size, qos, packet_id=n + 1 if qos else 0) for n in range(5)]
    chunk = frames(*same, Publish("a/c", b"x" * size, qos, packet_id=9 if qos else 0), version=version)
    found = row(chunk, v5=version == V5)
    assert found is not None
    end, stride, id_at = found
    assert end == 5 * stride == len(frames(*same, version=version))
    assert chunk[id_at - 3 : id_at] == b"a/b"


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_frame_that_is_cut_off_anywhere_is_left_to_the_decoder(version: int, qos: int) -> None:
    frame = frames(Publish("topic", b"x" * 200, qos, packet_id=qos), version=version)
    for length in range(1, len(frame)):
        assert row(frame[:length], v5=version == V5) is None
        two = frame + frame[:length]
        found = row(two, v5=version == V5)
        assert found is not None
        assert found[0] == len(frame)


def test_a_row_is_no_longer_than_wanted() -> None:
    chunk = frames(*[Publish("t", b"x")] * 9)
    assert [row(chunk, most=most) for most in (1, 5)] == [(6, 6, 5), (30, 6, 5)]


def test_identifier_0_ends_a_row() -> None:
    good = frames(*[Publish("t", b"x", 1, packet_id=n) for n in (256, 1, 512)])
    bad = good[: len(good) // 3].replace(b"\x01\x00", b"\x00\x00")
    assert row(good + bad + good) == (len(good), len(good) // 3, 5)
    assert row(bad) is None


def test_properties_end_a_row() -> None:
    plain = frames(Publish("t", b"12", 0), Publish("t", b"34", 0), version=V5)
    other = frames(Publish("t", b"", 0, properties={1: 1}), version=V5)
    assert len(other) == len(plain) // 2
    assert row(plain + other, v5=True) == (len(plain), len(plain) // 2, 5)
    assert row(other, v5=True) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"\x30\x00",
        b"\x30\x01\x00",
        b"\x30\x02\x00\x01",
        b"\x32\x04\x00\x01t\x00",
        b"\x30\x83\x00\x00\x01t",  # longer than needed: for the decoder to judge
        b"\x30\x83\x80\x00\x00\x01t",
        b"\x30\xff\xff\xff\x7f",
    ],
)
def test_what_is_no_plain_frame_is_left_to_the_decoder(frame: bytes) -> None:
    assert row(frame) is None
    assert row(frame + b"\x30\x03\x00\x01t") is None


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_give_a_row_or_none(tail: bytes, v5: bool) -> None:
    for first in b"\x30\x32\x34":
        chunk = bytes([first]) + tail
        found = row(chunk, v5=v5)
        assert found is None or 0 < found.end <= len(chunk)


publish = st.builds(
    Publish,
    st.sampled_from(["a", "b", "a/b"]),
    st.binary(max_size=3),
    st.sampled_from([0, 1, 2]),
    packet_id=st.sampled_from([1, 2, 255, 256, 65535]),
)


@given(st.lists(publish, min_size=1, max_size=12), st.sampled_from([V311, V5]))
def test_rows_hold_what_the_decoder_reads(packets: list[Publish], version: int) -> None:
    for packet in packets:
        packet.packet_id = packet.packet_id if packet.qos else 0
    chunk = frames(*packets, version=version)
    at, seen = 0, []
    while at < len(chunk):
        found = row(chunk, at, version == V5)
        assert found is not None
        for start in range(at, found.end, found.stride):
            decoder = Decoder(version=version)
            decoder.receive(chunk[start : start + found.stride])
            seen.append(decoder.next_packet())
        at = found.end
    assert seen == packets


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=8), st.integers(0, 3))
def test_acknowledgements_are_read_in_rows(identifiers: list[int], cut: int) -> None:
    chunk = b"\xc0\x00" + b"".join(encode(Puback(identifier), V311) for identifier in identifiers)
    whole = chunk + b"\x40\x02\x00\x01"[:cut] + b"\x50\x02\x00\x01" * (not cut)
    assert acknowledgements(whole, 2, len(whole)) == tuple(identifiers)


def test_acknowledgements_with_identifier_0_or_more_than_that_are_left_to_the_decoder() -> None:
    def read(chunk: bytes) -> tuple[int, ...]:
        return acknowledgements(chunk, 0, len(chunk))

    assert read(b"\x40\x02\x00\x00") == ()
    assert read(b"\x40\x02\x00\x05\x40\x02\x00\x00\x40\x02\x00\x07") == (5,)
    assert read(b"\x40\x03\x00\x05\x00") == ()
    assert read(b"\x40\x02\x00") == ()
