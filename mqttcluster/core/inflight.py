"""The sending half of QoS 1 and 2: what is in flight towards a client, by packet identifier.

::

    send ──► unacknowledged ──PUBACK──► gone                     (QoS 1)
             unacknowledged ──PUBREC──► received ──PUBCOMP──► gone     (QoS 2; PUBREL goes out in between)

A client that answers a QoS 1 message with PUBREC, or a QoS 2 message with PUBACK, breaks the protocol.
"""

from __future__ import annotations

from mqttcluster.core.message import Delivery, packet_id
from mqttcluster.mqtt.reasons import ProtocolViolation


class Inflight:
    """Deliveries sent and not completely acknowledged, in the order of sending."""

    __slots__ = ("received", "unacknowledged")

    def __init__(self) -> None:
        self.unacknowledged: dict[int, Delivery] = {}
        #: Packet id -> sequence of QoS 2 deliveries that wait for PUBCOMP.
        self.received: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.unacknowledged) + len(self.received)

    def __contains__(self, identifier: int) -> bool:
        return identifier in self.unacknowledged or identifier in self.received

    def sent(self, delivery: Delivery) -> None:
        self.unacknowledged[delivery.packet_id] = delivery

    def restore_received(self, sequence: int) -> int:
        """A PUBREC of an earlier connection is on record. Returns the packet id to send PUBREL for."""
        identifier = packet_id(sequence)
        self.received[identifier] = sequence
        return identifier

    def puback(self, identifier: int) -> Delivery | None:
        """The delivery that is done, None for an identifier that is not in flight (ignored by the standard)."""
        delivery = self.unacknowledged.get(identifier)
        if delivery is not None:
            if delivery.qos != 1:
                raise ProtocolViolation("PUBACK answers a QoS 2 message")
            del self.unacknowledged[identifier]
        return delivery

    def pubrec(self, identifier: int) -> Delivery | None:
        """The delivery whose message is now the client's; None for one that is past this point, or unknown."""
        delivery = self.unacknowledged.get(identifier)
        if delivery is not None:
            if delivery.qos != 2:
                raise ProtocolViolation("PUBREC answers a QoS 1 message")
            del self.unacknowledged[identifier]
            self.received[identifier] = delivery.sequence
        return delivery

    def pubcomp(self, identifier: int) -> int:
        """The sequence that is done, 0 for an identifier that does not wait for PUBCOMP."""
        if identifier in self.unacknowledged:
            raise ProtocolViolation("PUBCOMP before PUBREC")
        return self.received.pop(identifier, 0)
