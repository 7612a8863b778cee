"""Runs of frames: translated for other versions and QoS, numbered, acknowledged."""

from __future__ import annotations

import pytest

from mqttcluster.core.message import packet_id
from mqttcluster.core.run import Run
from mqttcluster.mqtt import frames
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import V5, V311, Packet, Publish
from mqttcluster.mqtt.writers import encode


def run(qos: int, version: int, payloads: list[bytes], first: int = 300) -> Run:
    identifiers = [first + 7 * n if qos else 0 for n in range(len(payloads))]
    packets = [Publish("a/ü", p, qos, packet_id=i) for p, i in zip(payloads, identifiers)]
    chunk = b"".join(encode(packet, version) for packet in packets)
    found = frames.publish(chunk, 0, len(chunk), version == V5)
    assert found is not None
    assert found[0] * len(payloads) == len(chunk)
    return Run("a/ü", "publisher", qos, version == V5, chunk, *found)


def packets(data: bytes, version: int) -> list[Packet]:
    decoder = Decoder(version=version)
    decoder.receive(data)
    found = []
    while (packet := decoder.next_packet()) is not None:
        found.append(packet)
    assert decoder.buffered == 0
    return found


SIZES = (0, 1, 120, 121, 122, 123, 16_376, 16_377, 16_378, 16_379, 16_380)  # around more bytes of length


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("to", [V311, V5])
@pytest.mark.parametrize("came", [V311, V5])
@pytest.mark.parametrize(("published", "granted"), [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)])
def test_every_kind_of_receiver_gets_what_was_published(
    size: int, to: int, came: int, published: int, granted: int
) -> None:
    payloads = [bytes([65 + n]) * size for n in range(3)]
    subject = run(published, came, payloads)
    if granted:
        data = subject.numbered(to == V5, granted, 0, 3, 65534)
    else:
        data, stride, _ = subject.frames(to == V5, 0)
        assert stride * 3 == len(data)
    identifiers = [65534, 65535, 1] if granted else [0, 0, 0]
    assert packets(data, to) == [Publish("a/ü", p, granted, packet_id=i) for p, i in zip(payloads, identifiers)]


def test_a_part_of_a_run_has_its_own_numbers() -> None:
    subject = run(1, V311, [bytes([n]) for n in range(10)])
    sequence = 3 * 65535 - 1
    found = packets(subject.numbered(True, 1, 4, 5, sequence), V5)
    assert [(p.payload, p.packet_id) for p in found if isinstance(p, Publish)] == [
        (bytes([4 + n]), packet_id(sequence + n)) for n in range(5)
    ]
    assert packets(subject.data, V311)[4] == Publish("a/ü", b"\4", 1, packet_id=328), "the run is as it was"


@pytest.mark.parametrize("qos", [1, 2])
def test_the_publisher_is_answered_with_its_own_identifiers(qos: int) -> None:
    subject = run(qos, V5, [b"x"] * 40)
    assert subject.identifiers() == tuple(300 + 7 * n for n in range(40))
    assert [getattr(p, "packet_id", 0) for p in packets(subject.acknowledgements(), V5)] == list(subject.identifiers())
    assert subject.acknowledgements()[0] == (0x40 if qos == 1 else 0x50)


def test_a_run_as_messages() -> None:
    message, other = run(2, V5, [b"one", b"two"]).messages()
    assert (message.topic, message.payload, message.qos, message.publisher) == ("a/ü", b"one", 2, "publisher")
    assert other.payload == b"two"


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("size", [3, 200, 20_000])
def test_a_run_is_found_in_its_frames_alone(version: int, size: int) -> None:
    subject = run(1, version, [b"x" * size] * 2)
    again = Run.of_frames("publisher", 1, version == V5, subject.data, subject.stride, subject.id_at)
    assert (again.topic, again.count, again.payloads()) == ("a/ü", 2, [b"x" * size] * 2)


@pytest.mark.parametrize(
    ("data", "stride", "id_at"), [(b"", 5, 5), (b"\x30\x03\x00\x01t\x30", 5, 5), (b"\x30\x03\x00\x01t", 5, 6)]
)
def test_frames_that_are_no_run_are_refused(data: bytes, stride: int, id_at: int) -> None:
    with pytest.raises(ValueError, match="not a run"):
        Run.of_frames("", 0, False, data, stride, id_at)
