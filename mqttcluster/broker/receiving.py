"""What a client publishes: PUBLISH and PUBREL, from their arrival to their acknowledgement.

Each is checked once: may this client publish to that topic, and, from MQTT 5.0 on, does the packet keep to what was
agreed when the client connected. What is refused before MQTT 5.0 is acknowledged and dropped, for there is no other
answer [MQTT-3.3.5-2]; from then on the acknowledgement says so. QoS 0 has no acknowledgement and is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mqttcluster.broker.metrics import lane
from mqttcluster.broker.permissions import Permissions
from mqttcluster.broker.publishing import Plan
from mqttcluster.broker.steps import Step
from mqttcluster.core.message import Message
from mqttcluster.mqtt.packets import V5, Properties, Puback, Pubcomp, Publish, Pubrec, Pubrel
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import MQTTError, ProtocolViolation, Reason

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker
    from mqttcluster.broker.client import Client

_SUCCESS = Reason.SUCCESS
_PUBACK, _PUBREC = b"\x40\x02", b"\x50\x02"
_PUBACK_NOBODY, _PUBREC_NOBODY = b"\x40\x03", b"\x50\x03"


class Receiving:
    """The publishes of one client. Those that are not yet acknowledged are its `steps`."""

    __slots__ = ("_aliases", "_broker", "_client", "permissions")

    def __init__(self, client: Client, broker: Broker) -> None:
        self._client = client
        self._broker = broker
        self.permissions = Permissions(client, broker)
        #: Topic alias -> topic.
        self._aliases: dict[int, str] | None = None

    @property
    def full(self) -> bool:
        """Whether so much waits for the store, or the authorizer thinks, that the client is to wait, too."""
        if self.permissions.asking:
            return True
        settings, steps = self._broker.settings, self._client.steps
        # A client of MQTT 5.0 knows how many there may be: one more is a violation, and must be seen.
        most = settings.max_receiving + (self._client.version == V5)
        return max(len(steps), steps.unacknowledged) >= most or steps.size > settings.receive_buffer

    # -- PUBLISH

    def publish(self, packet: Publish) -> None:
        """Refuse it, or take it on."""
        client, broker = self._client, self._broker
        qos, identifier = packet.qos, packet.packet_id
        if (qos and broker.cluster.congested()) or self._undecided(packet):
            client.hold(packet)
            return
        session, metrics = client.session, broker.metrics
        figure = lane(client.version) + qos
        metrics.publish_received_by[figure] += 1
        metrics.publish_bytes_received_by[figure] += len(packet.payload)
        self._check(packet)
        if qos == 2 and identifier in session.inbound:  # [MQTT-4.3.3-2]
            session.unreleased -= {identifier}
            client.steps.take(Step(None, _PUBREC + identifier.to_bytes(2, "big"), stored=True))
            return
        refusal = self._refusal(packet)
        if refusal is not _SUCCESS:
            self._refuse(packet, refusal)
            return
        if qos == 2:
            session.take_in((identifier,))
            session.unreleased -= {identifier}
        message = self._message(packet)
        exchange = (session.client_id, session.epoch, identifier) if qos == 2 and session.durable else None
        behind = not qos and client.steps.at_most_once > 0
        plan = broker.publishing.plan(message, exchange, behind=behind, epoch=session.epoch)
        acknowledgement = self._acknowledgement(packet, plan) if qos else b""
        if plan.publication is not None:
            step = Step(plan, acknowledgement, stored=False)
            client.steps.take(step)
            self.wait_for(broker.publishing.store(plan), step)
        elif qos or behind:
            client.steps.take(Step(plan, acknowledgement, stored=True))

    def publish_here(self, packet: Publish) -> None:
        """QoS 0 while the store is away: for this node's own clients."""
        if self._undecided(packet):
            self._client.hold(packet)
            return
        self._check(packet)
        if self._refusal(packet) is Reason.SUCCESS:
            self._broker.publishing.publish_here(self._message(packet))

    def _message(self, packet: Publish) -> Message:
        """What is to be delivered, without what was for the broker only."""
        properties, expires_at = packet.properties, None
        if properties:
            properties.pop(Prop.TOPIC_ALIAS, None)
            interval = properties.pop(Prop.MESSAGE_EXPIRY_INTERVAL, None)
            if isinstance(interval, int):
                expires_at = self._broker.clock.seconds() + interval
        retain = packet.retain and not self._broker.settings.no_retain
        return Message(
            packet.topic, packet.payload, packet.qos, retain, self._client.client_id, properties, expires_at
        )

    def _acknowledgement(self, packet: Publish, plan: Plan) -> bytes:
        identifier = packet.packet_id.to_bytes(2, "big")
        if self._client.version == V5 and not (plan.receivers or plan.nodes or plan.shared):
            code = bytes((Reason.NO_MATCHING_SUBSCRIBERS,))
            return (_PUBACK_NOBODY if packet.qos == 1 else _PUBREC_NOBODY) + identifier + code
        return (_PUBACK if packet.qos == 1 else _PUBREC) + identifier

    # -- what may not be

    def _check(self, packet: Publish) -> None:
        """What was agreed on. Raises `MQTTError` for what ends the connection."""
        settings = self._broker.settings
        if packet.qos > settings.max_qos:
            raise MQTTError(Reason.QOS_NOT_SUPPORTED, f"a message with QoS {packet.qos}")  # [MQTT-3.2.2-11]
        if self._client.version != V5:
            return
        if packet.retain and settings.no_retain:
            raise MQTTError(Reason.RETAIN_NOT_SUPPORTED, "a message with RETAIN")  # [MQTT-3.2.2-14]
        if packet.properties:
            self._resolve_alias(packet)
            if Prop.SUBSCRIPTION_IDENTIFIER in packet.properties:
                raise ProtocolViolation("a subscription identifier from a client")  # [MQTT-3.3.4-6]
        if packet.qos:
            self._check_quota(packet)

    def _resolve_alias(self, packet: Publish) -> None:
        alias = packet.properties.get(Prop.TOPIC_ALIAS)
        if not isinstance(alias, int):
            return
        if alias > self._broker.settings.max_topic_aliases:  # [MQTT-3.2.2-17] [MQTT-3.2.2-18]
            raise MQTTError(Reason.TOPIC_ALIAS_INVALID, f"the topic alias {alias}")
        if packet.topic:
            self._aliases = self._aliases or {}
            self._aliases[alias] = packet.topic
        elif self._aliases and alias in self._aliases:
            packet.topic = self._aliases[alias]
        else:
            raise ProtocolViolation(f"the topic alias {alias} has no topic")

    def _check_quota(self, packet: Publish) -> None:
        """One more QoS 1 or 2 message is there. PUBACK and PUBCOMP end those that count [MQTT-3.3.4-7]."""
        most, steps, session = self._broker.settings.max_receiving, self._client.steps, self._client.session
        if steps.unacknowledged + len(session.inbound) < most:
            return
        open_here = session.inbound - session.unreleased
        if packet.packet_id not in open_here and steps.count(0x40) + len(open_here) >= most:
            raise MQTTError(Reason.RECEIVE_MAXIMUM_EXCEEDED, f"more than {most} messages at once")

    def _refusal(self, packet: Publish) -> Reason:
        """Why this is not published; SUCCESS: it is."""
        if self._broker.settings.check_payload_format and not well_formed(packet.payload, packet.properties):
            return Reason.PAYLOAD_FORMAT_INVALID
        reason = self.judge(packet.topic)
        if reason is not _SUCCESS:
            self._client.refused("publish", packet.topic)
            self.permissions.refused()
        elif packet.qos == 1 and self._client.version == V5 and packet.packet_id in self._client.session.inbound:
            return Reason.PACKET_IDENTIFIER_IN_USE
        return reason

    def judge(self, topic: str) -> Reason:
        """Whether the client may publish to `topic`; the answer is remembered."""
        reason = self.permissions.known.get(topic)
        return self.permissions.find_out(topic) if reason is None else reason

    def _undecided(self, packet: Publish) -> bool:
        """Whether the authorizer is still thinking about the topic, or that which an alias stands for."""
        topic, permissions = packet.topic, self.permissions
        if topic in permissions.known:
            return False
        if not topic:
            alias = packet.properties.get(Prop.TOPIC_ALIAS)
            topic = (self._aliases or {}).get(alias, "") if isinstance(alias, int) else ""
        return permissions.undecided(topic)

    def _refuse(self, packet: Publish, reason: Reason) -> None:
        """Acknowledged, and dropped [MQTT-3.3.5-2]."""
        if not packet.qos:
            if reason is Reason.PAYLOAD_FORMAT_INVALID:  # not a matter of rights: the client is mistaken
                raise MQTTError(reason, "a payload that is not UTF-8")
            return
        client = self._client
        if client.version != V5:
            reason = Reason.SUCCESS
            if packet.qos == 2:
                client.session.take_in((packet.packet_id,))
        answer = Puback(packet.packet_id, reason) if packet.qos == 1 else Pubrec(packet.packet_id, reason)
        data = client.terms.encode(answer, reason.label if reason else "")
        client.steps.take(Step(None, data or b"", stored=True))

    # -- the store's answers

    def wait_for(self, storing: Deferred[None], step: Step) -> None:
        """The step goes on when the store has answered; without an answer the connection ends."""
        storing.addCallbacks(self._stored, self._not_stored, callbackArgs=(step,), errbackArgs=(step,))

    def _stored(self, _: None, step: Step) -> None:
        if isinstance(step.plan, Plan) and step.plan.stale:
            self._client.taken_over()
        self._client.steps.stored(step)

    def _not_stored(self, failure: Failure, step: Step) -> None:
        """The store cannot say that the message is safe: no acknowledgement, and the connection ends [MQTT-4.8.0-2]."""
        step.fail()
        self._client.store_lost(failure)
        self._client.steps.advance()

    # -- PUBREL

    def pubrel(self, packet: Pubrel) -> None:
        """The client knows that its QoS 2 message has arrived."""
        client, identifier = self._client, packet.packet_id
        session = client.session
        answer = Pubcomp(identifier)
        if not (identifier in session.inbound or identifier in session.unreleased):
            answer.reason = Reason.PACKET_IDENTIFIER_NOT_FOUND
        session.let_go((identifier,))  # a new message with it comes to the store behind this release
        session.unreleased -= {identifier}
        step = Step(None, client.terms.encode(answer) or b"", stored=not session.durable)
        client.steps.take(step)
        if not session.durable:
            return

        def released(current: bool) -> None:
            if not current:
                step.acknowledgement = b""
                client.taken_over()
            client.steps.stored(step)

        releasing: Deferred[bool] = self._broker.store.release(session.client_id, session.epoch, [identifier])
        releasing.addCallbacks(released, self._not_stored, errbackArgs=(step,))


def well_formed(payload: bytes, properties: Properties) -> bool:
    """Whether a payload is UTF-8, if its properties say so."""
    if properties.get(Prop.PAYLOAD_FORMAT_INDICATOR) != 1:
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
