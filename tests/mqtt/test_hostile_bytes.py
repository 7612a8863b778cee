"""G10: any bytes yield packets, or one protocol error; never another exception, never a decoder that is stuck."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from mqttcluster.mqtt import readers, writers
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import Packet
from mqttcluster.mqtt.reasons import MQTTError, Reason
from tests.mqtt.strategies import any_packet, versions

Outcome = tuple[list[Packet], "Reason | None", "str | None"]


def run(chunks: list[bytes], version: int, limit: int = 268_435_460) -> Outcome:
    """Feed `chunks` and return the packets and the error, if one came."""
    source = Decoder(limit, version)
    packets: list[Packet] = []
    for chunk in chunks:
        source.receive(chunk)
        error = pull(source, packets)
        if error is not None:
            assert pull(source, packets) is error
            assert source.buffered == 0
            return packets, error.reason, error.text
    return packets, None, None


def pull(source: Decoder, packets: list[Packet]) -> MQTTError | None:
    """Add the packets that are there, and return the error behind them."""
    try:
        while (packet := source.next_packet()) is not None:
            packets.append(packet)
    except MQTTError as error:
        return error
    return None


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[start:end] for start, end in zip([0, *marks], [*marks, len(stream)], strict=True)]


some_cuts = st.lists(st.integers(0, 10_000), max_size=8)
decoder_versions = st.sampled_from([0, 3, 4, 5])


@given(stream=st.binary(max_size=200), version=decoder_versions, cuts=some_cuts)
@example(stream=b"", version=0, cuts=[])
def test_random_bytes(stream: bytes, version: int, cuts: list[int]) -> None:
    """Noise gives the same packets and the same error, however it is cut."""
    outcome = run([stream], version)
    assert run(pieces(stream, cuts), version) == outcome
    assert run([stream[i : i + 1] for i in range(len(stream))], version) == outcome


@given(
    first=st.integers(0, 15), flags=st.integers(0, 15), body=st.binary(max_size=60), version=st.sampled_from([3, 4, 5])
)
def test_random_bodies(first: int, flags: int, body: bytes, version: int) -> None:
    """A body of noise behind a fixed header that is in order gets as far as the readers, and no further."""
    try:
        packet = readers.read(first, flags, body, version)
    except MQTTError:
        return
    writers.encode(packet, version)


@given(data=st.data(), version=versions)
def test_mutated_packets(data: st.DataObject, version: int) -> None:
    """A good stream with some bytes changed, dropped or added ends in packets or in one error."""
    sent = data.draw(st.lists(any_packet(version), min_size=1, max_size=3))
    stream = bytearray(b"".join(writers.encode(packet, version) for packet in sent))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1)) if stream else 0
        what = data.draw(st.sampled_from(["change", "drop", "add"]))
        if what == "add" or not stream:
            stream.insert(at, data.draw(st.integers(0, 255)))
        elif what == "drop":
            del stream[at]
        else:
            stream[at] = data.draw(st.integers(0, 255))
    outcome = run([bytes(stream)], version)
    assert run(pieces(bytes(stream), data.draw(some_cuts)), version) == outcome


@given(data=st.data(), version=versions)
def test_what_was_read_can_be_written(data: st.DataObject, version: int) -> None:
    """Whatever a hostile peer gets past the readers, the broker can pass on to others without a fault."""
    packet = data.draw(any_packet(version))
    raw = bytearray(writers.encode(packet, version))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    packets, _, _ = run([bytes(raw)], version)
    for got in packets:
        again, reason, _ = run([writers.encode(got, version)], version)
        assert reason is None
        assert again == [got]


@given(data=st.data(), version=versions, limit=st.integers(2, 400))
def test_size_limit(data: st.DataObject, version: int, limit: int) -> None:
    """A packet passes exactly if it is not larger than the limit, its fixed header included."""
    raw = writers.encode(data.draw(any_packet(version)), version)
    packets, reason, _ = run([raw], version, limit)
    if len(raw) <= limit:
        assert len(packets) == 1
    else:
        assert (packets, reason) == ([], Reason.PACKET_TOO_LARGE)
