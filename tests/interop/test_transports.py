"""The same conversation, byte for byte, over every listener of one broker."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from tests.support import wire
from tests.support.certificates import Certificates
from tests.support.process import TCP, TLS, UNIX, Broker
from tests.support.wire import Wire

Open = Callable[[str], Wire]


@pytest.fixture
def open_wire(shared_broker: Broker, certificates: Certificates) -> Open:
    def open_(listener: str) -> Wire:
        if listener not in shared_broker.ports:
            pytest.skip(f"this broker does not offer {listener}")
        if listener == UNIX:
            return Wire(str(shared_broker.ports[UNIX]))
        if listener == TCP:
            return shared_broker.wire()
        connection = Wire((shared_broker.host, int(shared_broker.ports[TLS])))
        context = ssl.create_default_context(cafile=str(certificates.authority))
        connection.socket = context.wrap_socket(connection.socket, server_hostname=shared_broker.host)
        return connection

    return open_


@pytest.mark.rule("MQTT-7.1.1-1", "MQTT-7.0.0-2")
@pytest.mark.rule5("MQTT-4.2-1")
@pytest.mark.parametrize("listener", [TCP, TLS, UNIX])
def test_large_message(open_wire: Open, listener: str) -> None:
    """A message that takes many reads arrives whole and unchanged, in both directions."""
    payload = bytes(range(256)) * 1024
    with open_wire(listener).connect("") as client:
        client.subscribe((f"large/{listener}", 1))
        client.send(wire.publish(f"large/{listener}", payload, 1, packet_id=7))
        packets = [client.packet(), client.packet()]
        assert wire.puback(7) in packets
        [message] = [packet.published for packet in packets if packet.type == wire.PUBLISH]
        assert message.payload == payload
        client.send(wire.puback(message.packet_id))
        client.disconnect()


@pytest.mark.rule("MQTT-3.1.2-8")
@pytest.mark.parametrize("listener", [TCP, TLS, UNIX])
def test_will_when_the_connection_is_lost(open_wire: Open, listener: str) -> None:
    """A client that vanishes without DISCONNECT has its will published, on whatever transport."""
    with open_wire(listener).connect("") as watcher:
        watcher.subscribe((f"gone/{listener}", 0))
        client = open_wire(listener).connect("", will=(f"gone/{listener}", b"bye", 0, False))
        client.close()
        assert watcher.expect_published().payload == b"bye"
