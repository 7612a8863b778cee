"""The table of states, tried with every packet a peer can send."""

from __future__ import annotations

import pytest

from mqttcluster.core.connection import TRANSITIONS, Connection, State
from mqttcluster.mqtt import packets as p
from mqttcluster.mqtt.reasons import MQTTError
from mqttcluster.mqtt.writers import encode

EVERY_PACKET: list[p.Packet] = [
    p.Connect("c"),
    p.Connack(),
    p.Publish("t", b""),
    p.Puback(1),
    p.Pubrec(1),
    p.Pubrel(1),
    p.Pubcomp(1),
    p.Subscribe(1, [("t", p.Subscription())]),
    p.Suback(1, []),
    p.Unsubscribe(1, ["t"]),
    p.Unsuback(1),
    p.Pingreq(),
    p.Pingresp(),
    p.Disconnect(),
]


def connected() -> Connection:
    connection = Connection(1000, 0.0)
    connection.receive(encode(p.Connect("c"), 4))
    assert isinstance(connection.next_packet(0.0), p.Connect)
    connection.accept(10, 0.0)
    return connection


@pytest.mark.rule("MQTT-3.1.0-1", "MQTT-4.8.0-1")
@pytest.mark.parametrize("packet", EVERY_PACKET, ids=lambda packet: type(packet).__name__)
@pytest.mark.parametrize("state", [State.FRESH, State.CONNECTED])
def test_what_is_not_in_the_table_is_refused(state: State, packet: p.Packet) -> None:
    """A packet that is not expected ends the connection; one that is expected comes through."""
    connection = connected() if state is State.CONNECTED else Connection(1000, 0.0)
    connection.receive(encode(packet, 4))
    if (state, type(packet)) in TRANSITIONS:
        assert connection.next_packet(1.0) == packet
        assert connection.state is TRANSITIONS[state, type(packet)]
    else:
        with pytest.raises(MQTTError):
            connection.next_packet(1.0)
        assert connection.state is State.FAILED
        assert connection.next_packet(1.0) is None


def test_nothing_is_taken_while_connect_is_under_way() -> None:
    """What is pipelined behind CONNECT waits for the answer."""
    connection = Connection(1000, 0.0)
    connection.receive(encode(p.Connect("c"), 4) + encode(p.Pingreq(), 4))
    assert isinstance(connection.next_packet(0.0), p.Connect)
    assert connection.next_packet(0.0) is None
    connection.accept(0, 0.0)
    assert connection.next_packet(0.0) == p.Pingreq()


def test_nothing_is_taken_behind_disconnect() -> None:
    """Packets behind DISCONNECT are not looked at."""
    connection = connected()
    connection.receive(encode(p.Disconnect(), 4) + encode(p.Publish("t", b"x"), 4))
    assert connection.next_packet(0.0) == p.Disconnect()
    assert connection.next_packet(0.0) is None


def test_silence_is_counted_from_the_last_whole_packet() -> None:
    """One and a half times the keep-alive, from the last packet that was complete."""
    connection = connected()
    assert connection.silence_deadline() == 15.0
    connection.receive(encode(p.Pingreq(), 4)[:1])
    assert connection.next_packet(8.0) is None
    assert connection.silence_deadline() == 15.0
    connection.receive(encode(p.Pingreq(), 4)[1:])
    connection.next_packet(9.0)
    assert connection.silence_deadline() == 24.0
    connection.accept(0, 0.0)
    assert connection.silence_deadline() is None
