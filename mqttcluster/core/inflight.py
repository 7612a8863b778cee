"""The sending half of QoS 1 and 2: what is in flight towards a client, by packet identifier.

::

    send ──► unacknowledged ──PUBACK──► gone                     (QoS 1)
             unacknowledged ──PUBREC──► received ──PUBCOMP──► gone     (QoS 2; PUBREL goes out in between)

A client that answers a QoS 1 message with PUBREC, or a QoS 2 message with PUBACK, breaks the protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from mqttcluster.core.message import Delivery, Message, packet_id
from mqttcluster.mqtt.reasons import ProtocolViolation

#: Deliveries of a run need no message any more: what is sent again is read from the store.
NO_MESSAGE = Message("", b"")
#: What stands for them in a session that ends with its connection, by QoS.
OF_A_RUN = tuple(Delivery(1, NO_MESSAGE, qos) for qos in range(3))


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

    def isdisjoint(self, identifiers: Collection[int]) -> bool:
        """Whether none of them is in flight."""
        return self.unacknowledged.keys().isdisjoint(identifiers) and self.received.keys().isdisjoint(identifiers)

    def sent(self, delivery: Delivery) -> None:
        self.unacknowledged[delivery.packet_id] = delivery

    def sent_run(self, identifiers: Sequence[int], qos: int, sequence: int) -> None:
        """Deliveries of a run were sent, with these identifiers; `sequence` is the first one's, 0 if nobody asks."""
        if sequence:
            found = {one: Delivery(number, NO_MESSAGE, qos) for number, one in enumerate(identifiers, sequence)}
            self.unacknowledged.update(found)
        else:
            self.unacknowledged.update(dict.fromkeys(identifiers, OF_A_RUN[qos]))

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

    def pubacks(self, identifiers: Collection[int], done: list[Delivery]) -> None:
        """`puback` for each of them: the deliveries that are done are added to `done`."""
        unacknowledged = self.unacknowledged
        for identifier in identifiers:
            delivery = unacknowledged.get(identifier)
            if delivery is not None:
                if delivery.qos != 1:
                    raise ProtocolViolation("PUBACK answers a QoS 2 message")
                del unacknowledged[identifier]
                done.append(delivery)

    def pubrec(self, identifier: int) -> Delivery | None:
        """The delivery whose message is now the client's; None for one that is past this point, or unknown."""
        delivery = self.unacknowledged.get(identifier)
        if delivery is not None:
            if delivery.qos != 2:
                raise ProtocolViolation("PUBREC answers a QoS 1 message")
            del self.unacknowledged[identifier]
            self.received[identifier] = delivery.sequence
        return delivery

    def pubrecs(self, identifiers: Iterable[int]) -> None:
        """`pubrec` for several that are all in flight at QoS 2."""
        unacknowledged, received = self.unacknowledged, self.received
        for identifier in identifiers:
            delivery = unacknowledged.pop(identifier, None)
            if delivery is not None:
                if delivery.qos != 2:
                    raise ProtocolViolation("PUBREC answers a QoS 1 message")
                received[identifier] = delivery.sequence

    def pubcomp(self, identifier: int) -> int:
        """The sequence that is done, 0 for an identifier that does not wait for PUBCOMP."""
        if identifier in self.unacknowledged:
            raise ProtocolViolation("PUBCOMP before PUBREC")
        return self.received.pop(identifier, 0)
