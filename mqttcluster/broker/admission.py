"""What a CONNECT must bring before a session is touched: a client id, credentials, and a will that may be published."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from twisted.logger import Logger

from mqttcluster.broker.auth import Authenticator, Authorizer, Credentials, Identity
from mqttcluster.broker.authorization import permission
from mqttcluster.broker.dialogue import Dialogue
from mqttcluster.broker.enhanced import Claim
from mqttcluster.broker.receiving import well_formed
from mqttcluster.broker.settings import Settings
from mqttcluster.broker.terms import agree, number
from mqttcluster.core.message import Message
from mqttcluster.mqtt.packets import V5, V31, Connack, Connect, Will
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import MQTTError, Reason
from mqttcluster.storage.interfaces import StoredWill

if TYPE_CHECKING:
    from mqttcluster.broker.client import Client

log = Logger(namespace="mqttcluster.sessions")


class Admission:
    """Decides who may have a session."""

    def __init__(self, settings: Settings, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._authorizer = authorizer

    async def admit(self, client: Client, connect: Connect) -> StoredWill | None:
        """Give the client its identity and terms. Returns the will to be kept for it.

        Raises `MQTTError` with the reason for CONNACK. The client may have gone meanwhile.
        """
        client.terms = agree(connect, connect.client_id, self._settings)  # a refusal keeps to them, too
        client_id = self._client_id(connect)
        if client_id != connect.client_id:
            client.terms = agree(connect, client_id, self._settings)
        client.identity = Identity(client_id, await self._authenticate(client, client_id, connect))
        if client.version == V5 and client.terms.encode(Connack(properties=client.terms.announced)) is None:
            raise MQTTError(Reason.PACKET_TOO_LARGE, "the client has no room for CONNACK")
        if connect.will is None or client.ended:
            return None
        return await self._will(client, connect.will)

    def _client_id(self, connect: Connect) -> str:
        client_id = connect.client_id
        if not client_id:
            if connect.version == V31 or (connect.version != V5 and not connect.clean_start):
                # [MQTT-3.1.3-7] [MQTT-3.1.3-8]
                raise MQTTError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "an empty client id needs CleanSession=1")
            return f"auto-{secrets.token_hex(12)}"  # [MQTT-3.1.3-6]
        if len(client_id) > self._settings.client_id_max_length:
            raise MQTTError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "the client id is too long")
        return client_id

    async def _authenticate(self, client: Client, client_id: str, connect: Connect) -> str | None:
        """Who the client is from now on, None for nobody in particular. Raises `MQTTError`."""
        name = connect.properties.get(Prop.AUTHENTICATION_METHOD)
        if name is not None:
            method = client.broker.methods.get(str(name))
            if method is None:
                raise MQTTError(Reason.BAD_AUTHENTICATION_METHOD, "there is no such method")  # [MQTT-4.12.0-1]
            claim = Claim(client_id, connect.username, client.peer, client.certificate_name())
            client.dialogue = Dialogue(client, method, claim)
            return await client.dialogue.authenticate(connect)
        who = client_id, connect.username, connect.password
        credentials = Credentials(*who, client.anonymous_allowed, client.peer, client.certificate_name())
        reason = await self._authenticator.authenticate(credentials)
        if reason is not Reason.SUCCESS:
            log.info(
                "refused connection of client {client_id}, user {username}, from {peer}: {reason}",
                client_id=client_id,
                username=connect.username,
                peer=client.peer,
                reason=reason.label,
            )
            raise MQTTError(reason, "refused by the authenticator")
        return credentials.username

    async def _will(self, client: Client, will: Will) -> StoredWill | None:
        settings = self._settings
        reason = await self._will_refusal(client, will)
        if reason is not Reason.SUCCESS:
            client.refused("will", will.topic)
            if client.version == V5:
                raise MQTTError(reason, "the will is not accepted")
            return None
        properties = dict(will.properties)
        delay = number(properties, Prop.WILL_DELAY_INTERVAL, 0)
        properties.pop(Prop.WILL_DELAY_INTERVAL, None)
        retain = will.retain and not settings.no_retain
        return StoredWill(Message(will.topic, will.payload, will.qos, retain, client.client_id, properties), delay)

    async def _will_refusal(self, client: Client, will: Will) -> Reason:
        """Why the will cannot be published; SUCCESS: it can."""
        settings, identity = self._settings, client.identity
        assert identity is not None
        if will.qos > settings.max_qos:
            return Reason.QOS_NOT_SUPPORTED  # [MQTT-3.2.2-12] of 5.0
        if will.retain and settings.no_retain and client.version == V5:
            return Reason.RETAIN_NOT_SUPPORTED  # [MQTT-3.2.2-13] of 5.0
        if settings.check_payload_format and not well_formed(will.payload, will.properties):
            return Reason.PAYLOAD_FORMAT_INVALID
        if will.topic.startswith("$") or will.topic.count("/") >= settings.max_topic_levels:
            return Reason.TOPIC_NAME_INVALID
        if not await permission(self._authorizer.may_publish(identity, will.topic)):
            return Reason.NOT_AUTHORIZED
        return Reason.SUCCESS
