"""What the two ends of a connection agree on: what CONNECT wishes, what CONNACK answers, and what is in force then.

Before MQTT 5.0 there is little to agree on, and `Terms` say what the broker does anyhow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mqttcluster.broker.settings import Settings
from mqttcluster.mqtt.decoder import LARGEST_PACKET
from mqttcluster.mqtt.packets import V5, Connack, Connect, Disconnect, Packet, Properties
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.writers import encode

#: What a Response Information must not contain: it is to be the beginning of topic names and filters.
_WILD = ("+", "#", "\0")


@dataclass(slots=True)
class Terms:
    """In force for one connection. Times are seconds, sizes bytes.

    `window` is how many QoS 1 and 2 messages may be on their way to the client, `largest` the largest packet it takes,
    `aliases` how many topic aliases it takes. `announced` are the properties of CONNACK.
    """

    version: int
    keep_alive: int = 0
    #: Session expiry: 0 ends the session with the connection.
    expiry: int = 0
    window: int = 0
    largest: int = LARGEST_PACKET
    aliases: int = 0
    #: The client wants to be told what went wrong [MQTT-3.1.2-29].
    problem_information: bool = True
    announced: Properties = field(default_factory=dict)

    def encode(self, packet: Packet, remark: str = "") -> bytes | None:
        """The bytes of an answer, with `remark` as its Reason String where the client wants it and has room for it.
        None if it has not even room for the answer [MQTT-3.1.2-24]."""
        data = encode(packet, self.version)
        if self.version != V5:
            return data
        if remark and (self.problem_information or isinstance(packet, (Connack, Disconnect))):
            answer: Any = packet
            answer.properties = {**answer.properties, Prop.REASON_STRING: remark}
            longer = encode(packet, self.version)
            if len(longer) <= self.largest:
                return longer
        return data if len(data) <= self.largest else None


def number(properties: Properties, prop: Prop, default: int) -> int:
    """An integer property."""
    value = properties.get(prop, default)
    assert isinstance(value, int)
    return value


def agree(connect: Connect, client_id: str, settings: Settings) -> Terms:
    """The terms of a connection that is about to be accepted. `client_id` is the one that it is known by."""
    if connect.version != V5:
        expiry = 0 if connect.clean_start else settings.session_expiry
        return Terms(connect.version, connect.keep_alive, expiry, settings.max_inflight)
    asked = connect.properties
    terms = Terms(
        V5,
        keep_alive=_keep_alive(connect.keep_alive, settings.max_keep_alive),
        expiry=min(number(asked, Prop.SESSION_EXPIRY_INTERVAL, 0), settings.session_expiry),
        window=min(number(asked, Prop.RECEIVE_MAXIMUM, 65_535), settings.max_inflight),
        largest=number(asked, Prop.MAXIMUM_PACKET_SIZE, LARGEST_PACKET),
        aliases=min(number(asked, Prop.TOPIC_ALIAS_MAXIMUM, 0), settings.max_topic_aliases),
        problem_information=asked.get(Prop.REQUEST_PROBLEM_INFORMATION, 1) == 1,
    )
    said = terms.announced = _announce(settings)
    if terms.expiry != number(asked, Prop.SESSION_EXPIRY_INTERVAL, 0):
        said[Prop.SESSION_EXPIRY_INTERVAL] = terms.expiry
    if terms.keep_alive != connect.keep_alive:
        said[Prop.SERVER_KEEP_ALIVE] = terms.keep_alive
    if not connect.client_id:
        said[Prop.ASSIGNED_CLIENT_IDENTIFIER] = client_id  # [MQTT-3.1.3-7] of 5.0
    prefix = settings.response_topic_prefix
    if prefix and asked.get(Prop.REQUEST_RESPONSE_INFORMATION) == 1 and not any(char in client_id for char in _WILD):
        said[Prop.RESPONSE_INFORMATION] = f"{prefix}/{client_id}"
    return terms


def _keep_alive(asked: int, most: int) -> int:
    return most if most and (not asked or asked > most) else asked


def _announce(settings: Settings) -> Properties:
    """What holds for every client; what the standard takes for granted is left out."""
    said: Properties = {}
    if settings.max_receiving < 65_535:
        said[Prop.RECEIVE_MAXIMUM] = settings.max_receiving
    if settings.max_packet_size < LARGEST_PACKET:
        said[Prop.MAXIMUM_PACKET_SIZE] = settings.max_packet_size
    if settings.max_topic_aliases:
        said[Prop.TOPIC_ALIAS_MAXIMUM] = settings.max_topic_aliases
    if settings.max_qos < 2:
        said[Prop.MAXIMUM_QOS] = settings.max_qos
    for missing, prop in (
        (settings.no_retain, Prop.RETAIN_AVAILABLE),
        (settings.no_wildcard_subscriptions, Prop.WILDCARD_SUBSCRIPTION_AVAILABLE),
        (settings.no_subscription_identifiers, Prop.SUBSCRIPTION_IDENTIFIER_AVAILABLE),
        (settings.no_shared_subscriptions, Prop.SHARED_SUBSCRIPTION_AVAILABLE),
    ):
        if missing:
            said[prop] = 0
    return said
