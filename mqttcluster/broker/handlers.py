"""What each packet from a client does: one function per packet type, found through `HANDLERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from mqttcluster.mqtt.packets import (
    V5,
    Auth,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import ProtocolViolation, Reason

if TYPE_CHECKING:
    from mqttcluster.broker.client import Client

#: Why a client may disconnect [MQTT-3.14.2-1] of 5.0.
_CLIENTS_REASONS = frozenset((0x00, 0x04, *range(0x80, 0x84), 0x90, *range(0x93, 0x9A)))


def _connect(client: Client, packet: Connect) -> None:
    client.busy = True
    opening = Deferred.fromCoroutine(client.broker.sessions.open(client, packet))
    opening.addCallback(client.opened, packet).addErrback(client.crashed)


def _publish(client: Client, packet: Publish) -> None:
    client.receiving.publish(packet)


def _pubrel(client: Client, packet: Pubrel) -> None:
    client.receiving.pubrel(packet)


def _puback(client: Client, packet: Puback) -> None:
    client.living.receipts.puback(packet)


def _pubrec(client: Client, packet: Pubrec) -> None:
    client.living.receipts.pubrec(packet)


def _pubcomp(client: Client, packet: Pubcomp) -> None:
    client.living.receipts.pubcomp(packet)


def _subscribe_or_unsubscribe(client: Client, packet: Subscribe | Unsubscribe) -> None:
    client.busy = True
    client.steps.idle().addCallback(lambda _: _change_subscriptions(client, packet))


def _change_subscriptions(client: Client, packet: Subscribe | Unsubscribe) -> None:
    if client.ended:
        return
    subscribing = client.broker.subscribing
    if client.version == V5 and packet.packet_id in client.session.inbound:
        reasons = [Reason.PACKET_IDENTIFIER_IN_USE] * len(packet.filters)
        answer = Suback if isinstance(packet, Subscribe) else Unsuback
        client.send_packet(answer(packet.packet_id, reasons))
        client.proceed()
        return
    if isinstance(packet, Subscribe):
        changing = Deferred.fromCoroutine(subscribing.subscribe(client, packet))
    else:
        changing = Deferred.fromCoroutine(subscribing.unsubscribe(client, packet))
    changing.addCallback(lambda _: client.proceed()).addErrback(client.crashed)


def _auth(client: Client, packet: Auth) -> None:
    if client.dialogue is None:
        raise ProtocolViolation("AUTH from a client that has named no authentication method")  # [MQTT-4.12.0-7]
    client.dialogue.received(packet)


def _pingreq(client: Client, packet: Pingreq) -> None:
    client.send_packet(Pingresp())


def _disconnect(client: Client, packet: Disconnect) -> None:
    if packet.reason not in _CLIENTS_REASONS or Prop.SERVER_REFERENCE in packet.properties:
        raise ProtocolViolation("a DISCONNECT as only a server may send it")
    expiry = packet.properties.get(Prop.SESSION_EXPIRY_INTERVAL)
    client.disconnected(packet.reason, expiry if isinstance(expiry, int) else None)


HANDLERS: dict[type, Callable[[Any, Any], None]] = {
    Connect: _connect,
    Publish: _publish,
    Puback: _puback,
    Pubrec: _pubrec,
    Pubrel: _pubrel,
    Pubcomp: _pubcomp,
    Subscribe: _subscribe_or_unsubscribe,
    Unsubscribe: _subscribe_or_unsubscribe,
    Pingreq: _pingreq,
    Disconnect: _disconnect,
    Auth: _auth,
}
