"""The tables of cases.py: every packet is read and written, every broken one is refused, however the bytes arrive."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt import readers, writers
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import Packet, Pingreq
from mqttcluster.mqtt.reasons import MQTTError
from tests.mqtt.cases import BAD, GOOD, Bad, Good, params

PINGREQ = b"\xc0\x00"


def decoder(row: Good | Bad) -> Decoder:
    """A decoder as it stands before `row` arrives: a CONNECT is the first packet of its connection."""
    return Decoder() if row.raw[0] == 0x10 else Decoder(version=row.version)


def drain(source: Decoder) -> list[Packet]:
    packets: list[Packet] = []
    while (packet := source.next_packet()) is not None:
        packets.append(packet)
    return packets


def feed(source: Decoder, chunks: list[bytes]) -> None:
    """Receive `chunks`, none of which completes a packet."""
    for chunk in chunks:
        source.receive(chunk)
        assert source.next_packet() is None


@pytest.mark.parametrize("row", params(GOOD))
def test_reads(row: Good) -> None:
    """A packet means the same in one piece, byte by byte, and with another packet right behind it."""
    whole = decoder(row)
    whole.receive(row.raw)
    assert drain(whole) == [row.packet]
    assert whole.buffered == 0

    slow = decoder(row)
    for index in range(len(row.raw)):
        assert slow.next_packet() is None
        slow.receive(row.raw[index : index + 1])
    assert slow.buffered == len(row.raw)
    assert drain(slow) == [row.packet]

    followed = decoder(row)
    followed.receive(row.raw + PINGREQ)
    assert drain(followed) == [row.packet, Pingreq()]
    assert followed.version == row.version


@pytest.mark.parametrize("row", params([row for row in GOOD if row.canonical]))
def test_writes(row: Good) -> None:
    """A packet leaves as exactly the bytes the standard shows."""
    assert writers.encode(row.packet, row.version) == row.raw


@pytest.mark.parametrize("row", params(BAD))
def test_refuses(row: Bad) -> None:
    """Broken bytes yield no packet and the same error however they arrive; what came before them is served."""
    texts = set()
    for chunks in ([row.raw], [row.raw[i : i + 1] for i in range(len(row.raw))], [row.raw + PINGREQ]):
        broken = decoder(row)
        with pytest.raises(MQTTError) as caught:
            feed(broken, chunks)
        assert caught.value.reason == row.reason
        texts.add(caught.value.text)
        broken.receive(PINGREQ)
        assert broken.buffered == 0
        with pytest.raises(MQTTError) as again:
            broken.next_packet()
        assert again.value is caught.value
    assert len(texts) == 1

    if row.raw[0] != 0x10:
        later = decoder(row)
        later.receive(PINGREQ + row.raw)
        assert later.next_packet() == Pingreq()
        with pytest.raises(MQTTError) as caught:
            later.next_packet()
        assert caught.value.text in texts


@pytest.mark.parametrize("row", params([row for row in BAD if row.raw[1] < 0x80]))
def test_read_refuses(row: Bad) -> None:
    """The readers refuse by themselves what the decoder refuses, from bytes and from a memoryview."""
    for body in (row.raw[2:], memoryview(row.raw)[2:]):
        with pytest.raises(MQTTError) as caught:
            readers.read(row.raw[0] >> 4, row.raw[0] & 0x0F, body, row.version)
        assert caught.value.reason == row.reason


@pytest.mark.parametrize("row", params([row for row in GOOD if row.raw[1] < 0x80]))
def test_read(row: Good) -> None:
    """The readers read what the decoder reads."""
    assert readers.read(row.raw[0] >> 4, row.raw[0] & 0x0F, memoryview(row.raw)[2:], row.version) == row.packet
