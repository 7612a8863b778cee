"""The AUTH packets of one connection.

::

    CONNECT with a method ──► step ──Challenge──► AUTH 0x18 ⇄ AUTH 0x18 ──► step ── … ──Finish──► CONNACK
    later: AUTH 0x19      ──► step ──Challenge──► AUTH 0x18 ⇄ AUTH 0x18 ──► step ── … ──Finish──► AUTH 0x00

Before CONNACK the client may send nothing else meanwhile; later everything goes on beside it, as whoever it is by now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger

from mqttcluster.broker.authentication import ask
from mqttcluster.broker.enhanced import Answer, Challenge, Claim, Finish
from mqttcluster.mqtt.packets import Auth, Connect, Properties
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import MQTTError, ProtocolViolation, Reason

if TYPE_CHECKING:
    from mqttcluster.broker.client import Client

log = Logger(namespace="mqttcluster.authentication")

#: Answers of one client in one conversation.
MOST_ROUNDS = 16


class Dialogue:
    """What a client that names a method has to say. One conversation at a time."""

    __slots__ = ("_claim", "_client", "_method", "_name", "_next", "_running")

    def __init__(self, client: Client, method: Any, claim: Claim) -> None:
        self._client = client
        self._method = method
        self._name: str = method.name
        self._claim = claim
        #: Waits for the client's answer.
        self._next: Deferred[bytes] | None = None
        self._running = False

    async def authenticate(self, connect: Connect) -> str | None:
        """The user name that CONNECT leads to. Raises `MQTTError` with the reason for CONNACK."""
        finish = await self._converse(_data(connect.properties))
        self._client.terms.announced.update(self._properties(finish.data))  # [MQTT-4.12.0-5]
        return finish.username

    def received(self, packet: Auth) -> None:
        """AUTH from the client. Raises `ProtocolViolation` for one that is out of place."""
        if packet.properties.get(Prop.AUTHENTICATION_METHOD) != self._name:
            raise ProtocolViolation("AUTH with another method than CONNECT")  # [MQTT-4.12.1-1]
        client, waiting = self._client, self._next
        if packet.reason is Reason.CONTINUE_AUTHENTICATION and waiting is not None:
            self._next = None
            client.busy = client.busy or not client.connection.accepted
            waiting.callback(_data(packet.properties))
        elif packet.reason is Reason.RE_AUTHENTICATE and client.connection.accepted and not self._running:
            again = Deferred.fromCoroutine(self._authenticate_again(_data(packet.properties)))
            again.addErrback(client.crashed)
        else:
            raise ProtocolViolation(f"AUTH with reason 0x{int(packet.reason):02X} out of place")

    async def _authenticate_again(self, data: bytes) -> None:
        client = self._client
        try:
            finish = await self._converse(data)
        except MQTTError as error:
            raise MQTTError(Reason.NOT_AUTHORIZED, error.text) from None  # [MQTT-4.12.1-2]
        if client.identity is None or finish.username != client.identity.username:
            raise MQTTError(Reason.NOT_AUTHORIZED, "authenticated again as somebody else")
        if not client.ended:
            client.send_packet(Auth(Reason.SUCCESS, self._properties(finish.data)))

    async def _converse(self, data: bytes) -> Finish:
        self._running = True
        try:
            exchange = self._method.begin(self._claim)
            for _ in range(MOST_ROUNDS):
                answer = await self._ask(exchange, data)
                if isinstance(answer, Finish):
                    self._count("allowed")
                    return answer
                if isinstance(answer, Reason):
                    self._refuse(answer)
                else:
                    data = await self._challenge(answer.data)
            raise MQTTError(Reason.NOT_AUTHORIZED, "the authentication does not come to an end")
        finally:
            self._running = False

    async def _ask(self, exchange: Any, data: bytes) -> Answer:
        broker = self._client.broker
        try:
            answer = await ask(exchange.step, data, clock=broker.clock, timeout=broker.settings.auth_timeout)
            if isinstance(answer, (Challenge, Finish)) or (isinstance(answer, Reason) and answer >= 0x80):
                return answer
            raise TypeError(f"an authentication method answered {type(answer).__name__}")
        except TimeoutError:
            log.error("{name} took more than {timeout} seconds", name=self._name, timeout=broker.settings.auth_timeout)
            self._count("timeout")
        except (Exception, CancelledError):
            log.failure("{name} failed", name=self._name)
            self._count("error")
        raise MQTTError(Reason.SERVER_UNAVAILABLE, "the authentication method failed")

    def _refuse(self, reason: Reason) -> None:
        claim = self._claim
        self._count("busy" if reason is Reason.SERVER_BUSY else "denied")
        log.info(
            "refused client {client_id} from {peer}: {reason}",
            client_id=claim.client_id,
            peer=claim.peer,
            reason=reason.label,
            method=self._name,
        )
        raise MQTTError(reason, "refused by the authentication method")

    def _count(self, result: str) -> None:
        self._client.broker.metrics.authentications[result] += 1

    async def _challenge(self, data: bytes) -> bytes:
        """Send AUTH and wait for the client's answer."""
        client = self._client
        if client.ended:
            raise MQTTError(Reason.NOT_AUTHORIZED, "the connection has ended")
        waiting = self._next = Deferred[bytes]()
        client.send_packet(Auth(Reason.CONTINUE_AUTHENTICATION, self._properties(data)))  # [MQTT-4.12.0-2]
        if client.connection.accepted:
            waiting.addTimeout(client.broker.settings.connect_timeout, client.broker.clock)
        else:  # the time for CONNECT goes on
            client.connection.challenge()
            client.proceed()
        try:
            return await waiting
        except TimeoutError:
            self._next = None
            raise MQTTError(Reason.NOT_AUTHORIZED, "no answer to AUTH in time") from None

    def _properties(self, data: bytes) -> Properties:
        found: Properties = {Prop.AUTHENTICATION_METHOD: self._name}
        if data:
            found[Prop.AUTHENTICATION_DATA] = data
        return found

    def close(self) -> None:
        """The connection has ended."""
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.errback(MQTTError(Reason.NOT_AUTHORIZED, "the connection has ended"))


def _data(properties: Properties) -> bytes:
    data = properties.get(Prop.AUTHENTICATION_DATA, b"")
    assert isinstance(data, bytes)
    return data
