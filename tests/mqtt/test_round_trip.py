"""Any legal packet survives being written and read, in any version and in any pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mqttcluster.mqtt import writers
from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import V5, V31, V311, Connect, Packet, PacketType
from tests.mqtt.strategies import any_packet, packet_of

KINDS = [
    (kind, version) for version in (V31, V311, V5) for kind in PacketType if kind != PacketType.AUTH or version == V5
]


# The kinds are drawn, for pytest-twisted takes no test that is parametrized and given at once.
@settings(max_examples=1500)
@given(case=st.sampled_from(KINDS), data=st.data())
def test_round_trip(case: tuple[PacketType, int], data: st.DataObject) -> None:
    """What one side sends is what the other side reads, properties and their order included."""
    kind, version = case
    packet = data.draw(packet_of(kind, version))
    raw = writers.encode(packet, version)
    reader = Decoder(version=0 if isinstance(packet, Connect) else version)
    reader.receive(raw)
    got = reader.next_packet()
    assert got == packet
    assert reader.next_packet() is None
    assert reader.buffered == 0
    assert reader.version == version
    assert writers.encode(got, version) == raw  # the order of the properties, too


@given(data=st.data(), version=st.sampled_from([V31, V311, V5]))
def test_a_stream_in_pieces(data: st.DataObject, version: int) -> None:
    """A connection's packets come out in order, wherever the network has cut the bytes."""
    first = data.draw(packet_of(PacketType.CONNECT, version))
    sent: list[Packet] = [first, *data.draw(st.lists(any_packet(version), max_size=6))]
    stream = b"".join(writers.encode(packet, version) for packet in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = Decoder()
    got: list[Packet] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.receive(stream[start:end])
        # Pull only some of what is there: bytes may pile up behind packets that nobody has asked for yet.
        for _ in range(data.draw(st.integers(0, 2))):
            packet = reader.next_packet()
            if packet is None:
                break
            got.append(packet)
    while (packet := reader.next_packet()) is not None:
        got.append(packet)
    assert got == sent
    assert reader.buffered == 0
