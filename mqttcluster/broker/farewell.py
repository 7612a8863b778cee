"""What a client is told as its connection ends, as far as its version has words for it.

Before CONNACK the CONNACK says it, for there is no DISCONNECT before that [MQTT-3.14.0-1]; later, in MQTT 5.0,
DISCONNECT does. MQTT 3.1 and 3.1.1 have five reasons, and none once a client was accepted.
"""

from __future__ import annotations

from mqttcluster.broker.terms import Terms
from mqttcluster.mqtt.packets import V5, V311, Connack, Disconnect, Packet, PacketType, Properties
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.readers import REASONS
from mqttcluster.mqtt.reasons import CONNACK_V3, Reason

#: Reasons whose texts are for the log alone: they tell of the broker, not of what the client did.
_OUR_OWN = frozenset((Reason.UNSPECIFIED_ERROR, Reason.SERVER_UNAVAILABLE, Reason.IMPLEMENTATION_SPECIFIC_ERROR))


def farewell(reason: Reason, text: str, terms: Terms, version: int, accepted: bool, elsewhere: str) -> bytes | None:
    """The last packet for a client of this protocol `version`, None for none.

    `accepted`: it has had its CONNACK. `terms` are those of the connection, as far as they were agreed on; `elsewhere`
    is where it may go instead.
    """
    if not terms.version:  # a CONNECT that could not be read: it may have asked for small packets
        terms, text = Terms(V5 if version == V5 else V311), ""
    answer = _parting(reason, elsewhere) if accepted else _refusal(reason, elsewhere, version)
    if answer is None or (accepted and version != V5):
        return None
    return terms.encode(answer, "" if reason in _OUR_OWN else text)


def _parting(reason: Reason, elsewhere: str) -> Packet:
    known = reason in REASONS[PacketType.DISCONNECT]
    return Disconnect(reason if known else Reason.UNSPECIFIED_ERROR, _reference(reason, elsewhere))


def _refusal(reason: Reason, elsewhere: str, version: int) -> Packet | None:
    if version != V5:
        return Connack(False, reason) if reason in CONNACK_V3 else None  # [MQTT-3.2.2-6]
    if reason is Reason.SERVER_SHUTTING_DOWN:
        reason = Reason.SERVER_UNAVAILABLE  # the other one is not for CONNACK
    known = reason in REASONS[PacketType.CONNACK]
    return Connack(False, reason, _reference(reason, elsewhere)) if known else None


def _reference(reason: Reason, elsewhere: str) -> Properties:
    return {Prop.SERVER_REFERENCE: elsewhere} if reason is Reason.USE_ANOTHER_SERVER else {}
