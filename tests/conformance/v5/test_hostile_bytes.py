"""Whatever a client of MQTT 5.0 sends, the broker answers as the standard says or closes, and nobody else notices."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, globalLogPublisher

from mqttcluster.mqtt.packets import V5, Disconnect, Packet, PacketType
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import Peer, World, only_publishes
from tests.conformance.v5 import judge
from tests.conformance.v5.stage import Guest, call, connect, publish, subscribe, will
from tests.conftest import CHANCE
from tests.mqtt.strategies import any_packet, packet_of

relaxed = settings(max_examples=150, suppress_health_check=[*CHANCE, HealthCheck.function_scoped_fixture])


def mutated(data: st.DataObject, stream: bytes) -> bytes:
    """The stream with some bytes changed, dropped or added."""
    found = bytearray(stream)
    for _ in range(data.draw(st.integers(0, 3), "changes")):
        at = data.draw(st.integers(0, len(found)), "at")
        what = data.draw(st.sampled_from(["change", "drop", "add"]), "what")
        if what == "add" or at == len(found):
            found.insert(at, data.draw(st.integers(0, 255), "byte"))
        elif what == "drop":
            del found[at]
        else:
            found[at] = data.draw(st.integers(0, 255), "byte")
    return bytes(found)


class Witnesses:
    """A world with two clients who mind their own business, and an eye on the log."""

    def __init__(self) -> None:
        judge.FAULTS.clear()
        self.failures: list[LogEvent] = []
        self.world = World(max_receiving=8, max_subscriptions=20)
        self.watcher, self.speaker = connect(self.world, "watcher"), connect(self.world, "speaker")
        subscribe(self.watcher, "private/words", qos=1)

    def _log(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.failures.append(event)

    def __enter__(self) -> Witnesses:
        globalLogPublisher.addObserver(self._log)
        return self

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self._log)

    def check(self, guest: Peer) -> None:
        """Nothing has gone wrong in the broker, and the others are served."""
        last = guest.packets()
        self.world.advance(1)
        self.speaker.send(publish("private/words", b"x", 1, id=1))
        found = only_publishes(self.watcher.packets())
        assert b"x" in [message.payload for message in found]
        self.watcher.send(*(b"\x40\x02" + message.packet_id.to_bytes(2, "big") for message in found if message.qos))
        assert self.speaker.alive()
        assert self.watcher.alive()
        if guest.closed:
            assert not any(isinstance(packet, Disconnect) for packet in last[:-1])
        assert self.failures == []
        assert judge.FAULTS == []


@relaxed
@given(data=st.data())
def test_any_packets_behind_connect(data: st.DataObject) -> None:
    """Packets of all kinds, some of them broken, cut wherever the network cuts them."""
    with Witnesses() as witnesses:
        guest = connect(witnesses.world, "guest", session_expiry_interval=60, will=will(b"gone", 1))
        sent: list[Packet] = data.draw(st.lists(any_packet(V5), min_size=1, max_size=6), "packets")
        stream = mutated(data, b"".join(encode(packet, V5) for packet in sent))
        cut = data.draw(st.integers(0, len(stream)), "cut")
        guest.send(stream[:cut])
        guest.send(stream[cut:])
        witnesses.check(guest)


@relaxed
@given(data=st.data())
def test_any_connect(data: st.DataObject) -> None:
    """CONNECT with all that it may carry, and with bytes that it must not."""
    with Witnesses() as witnesses:
        wanted = data.draw(packet_of(PacketType.CONNECT, V5), "CONNECT")
        raw = mutated(data, encode(wanted, V5))
        # One that is not of version 5 any more is answered in other words.
        guest = Guest(witnesses.world) if b"\x00\x04MQTT\x05" in raw[:12] else witnesses.world.peer()
        guest.send(raw)
        if not guest.closed:
            guest.send("C0 00")
        guest.bytes()
        witnesses.check(guest)


@relaxed
@given(stream=st.binary(max_size=80), first=st.booleans())
def test_noise(stream: bytes, first: bool) -> None:
    """Random bytes, as the first thing said or as the second."""
    with Witnesses() as witnesses:
        guest = Guest(witnesses.world)
        if not first:
            guest.send(call("guest"))
            guest.take_connack()
        guest.send(stream)
        witnesses.check(guest)
