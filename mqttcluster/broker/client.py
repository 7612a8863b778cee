"""One client: the life of a connection, from CONNECT to its end.

What arrives is the matter of its other half (`broker.intake`), what is delivered that of its `outlet`. A connection
that ends for a reason says so: before CONNACK by the CONNACK, after it, in MQTT 5.0, by DISCONNECT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.broker.auth import Identity
from mqttcluster.broker.dialogue import Dialogue
from mqttcluster.broker.farewell import farewell
from mqttcluster.broker.intake import Intake
from mqttcluster.broker.outlet import Outlet
from mqttcluster.broker.sender import Transport
from mqttcluster.broker.terms import Terms
from mqttcluster.core.connection import State
from mqttcluster.core.routing import Subscriber
from mqttcluster.core.session import Session
from mqttcluster.mqtt.packets import V5, Connack, Connect, Packet
from mqttcluster.mqtt.reasons import MQTTError, ProtocolViolation, Reason

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker

log = Logger(namespace="mqttcluster.client")

_SUCCESS = Reason.SUCCESS  # asked for with every message, and an enum takes its time
_VERSION_NAMES = {3: "3.1", 4: "3.1.1", 5: "5.0"}


def _no_name() -> str | None:
    return None


class Client(Intake):
    """A connection and, once CONNECT is answered, the session it owns (in `outlet`)."""

    __slots__ = (
        "_deadline",
        "_expiry",
        "_graceful",
        "anonymous_allowed",
        "certificate_name",
        "dialogue",
        "identity",
        "peer",
        "succeeds",
        "terms",
    )

    def __init__(self, broker: Broker, transport: Transport, peer: str, anonymous_allowed: bool) -> None:
        super().__init__(broker, transport)
        self.peer = peer
        self.anonymous_allowed = anonymous_allowed
        #: The name in the certificate that the client has shown; known when CONNECT is there.
        self.certificate_name: Callable[[], str | None] = _no_name
        self.identity: Identity | None = None
        #: There was a session or a connection of this client id before.
        self.succeeds = False
        self.terms = Terms(0)
        #: What is said by AUTH, for a client that has named an authentication method.
        self.dialogue: Dialogue | None = None
        #: The client has said DISCONNECT, and wants no will to be published.
        self._graceful = False
        #: The session expiry that DISCONNECT has brought.
        self._expiry: int | None = None
        self._deadline = broker.deadlines.at(broker.clock.seconds() + broker.settings.connect_timeout, self)

    @property
    def broker(self) -> Broker:
        """The broker it is connected to."""
        return self._broker

    @property
    def version(self) -> int:
        """The protocol level the client speaks, 0 before CONNECT."""
        return self.connection.version

    @property
    def client_id(self) -> str:
        """The client id, '' before CONNECT."""
        return self.identity.client_id if self.identity is not None else ""

    @property
    def living(self) -> Outlet:
        """The outlet of a connected client."""
        assert self.outlet is not None
        return self.outlet

    @property
    def session(self) -> Session:
        """The session of a connected client."""
        return self.living.session

    def may_publish(self, topic: str) -> bool:
        """Whether it is known that the client may publish to a topic."""
        return self.receiving.permissions.known.get(topic) is _SUCCESS

    def look(self) -> None:
        """The store may hold deliveries that nobody told this client of."""
        if self.outlet is not None and self.outlet.session.stored:
            self.outlet.look()

    def idle(self) -> Deferred[None]:
        """Fires when nothing that this client has sent waits for anything."""
        return self.steps.idle()

    # -- CONNECT

    def attach(self, session: Session, subscriber: Subscriber) -> Outlet:
        """The session is this client's now."""
        self.outlet = self._broker.outlet(self, session, subscriber)
        return self.outlet

    def opened(self, present: bool | None, packet: Connect) -> None:
        """CONNECT has been dealt with; `present` is Session Present, None for a connection that is not wanted."""
        outlet = self.outlet
        if present is None or outlet is None or self.ended:
            return
        connack = self.terms.encode(Connack(present, properties=self.terms.announced))
        assert connack is not None  # it was tried when the client was admitted
        self.connection.accept(self.terms.keep_alive, self._broker.clock.seconds())
        self.busy = False
        self._watch_silence()
        log.info(
            "client {client_id} connected from {peer}: MQTT {version}, {kind} session{resumed}",
            client_id=self.client_id,
            peer=self.peer,
            version=_VERSION_NAMES[self.version],
            kind="durable" if outlet.session.durable else "clean",
            resumed=", resumed" if present else "",
            username=packet.username,
            keep_alive=self.terms.keep_alive,
        )
        self.sender.send(connack)  # before anything else [MQTT-3.2.0-1]
        if outlet.muted is not None:
            Deferred.fromCoroutine(self._broker.recheck(self)).addErrback(self.crashed)
        outlet.resume()
        if self.succeeds:
            self._broker.housekeeping.look()  # a will of the connection before may be due
        self._process()

    def crashed(self, failure: Failure) -> None:
        """What a packet has set going has failed."""
        if isinstance(failure.value, MQTTError):
            self.fail(failure.value)
        else:
            log.failure("internal error for {peer}", failure, peer=self.peer)
            self._end("internal error", reason=Reason.UNSPECIFIED_ERROR)

    # -- output

    def send_packet(self, packet: Packet, remark: str = "") -> None:
        """Encode for this client and send, with `remark` as Reason String if the client takes it."""
        data = self.terms.encode(packet, remark)
        if data is None:
            raise MQTTError(Reason.PACKET_TOO_LARGE, f"the client has no room for {type(packet).__name__.upper()}")
        self.sender.send(data)

    # -- the end

    def fail(self, error: MQTTError) -> None:
        """End the connection with the answer the standard names for `error`."""
        if self.ended:
            return
        has_asked = self.busy or self.version == V5 or error.reason is Reason.UNSUPPORTED_PROTOCOL_VERSION
        if has_asked and not self.connection.accepted:
            self._broker.metrics.refuse(error.reason.name.lower())
        self._end(error.text, reason=error.reason)

    def disconnected(self, reason: Reason, expiry: int | None) -> None:
        """The client has said DISCONNECT; `expiry` is the Session Expiry Interval in it."""
        if expiry is not None:
            if expiry and not self.terms.expiry:
                raise ProtocolViolation("a session that was to end is given an expiry")  # [MQTT-3.14.2-2] of 5.0
            self._expiry = min(expiry, self._broker.settings.session_expiry)
        self._graceful = reason is Reason.SUCCESS
        self._end(f"DISCONNECT from the client{'' if self._graceful else f' ({reason.label})'}")

    def taken_over(self) -> None:
        """Another connection has come for this client id [MQTT-3.1.4-2]. The store learns what was sent, for DUP."""
        self._end("session taken over", reason=Reason.SESSION_TAKEN_OVER)

    def store_lost(self, failure: Failure) -> None:
        """The store has failed with something this client asked for."""
        self.fail(MQTTError(Reason.UNSPECIFIED_ERROR, f"the store failed: {failure.getErrorMessage()}"))

    def session_lost(self) -> None:
        """The store does not know this connection as the owner of its session: the client has to connect anew."""
        self._end("the store has lost the session", reason=Reason.UNSPECIFIED_ERROR)

    def dismiss(self) -> Deferred[Any] | None:
        """Somebody in charge ends the connection. Answers like `shut_down`."""
        return self._end("ended by an administrator", reason=Reason.ADMINISTRATIVE_ACTION)

    def shut_down(self, grace: float = 0.0) -> Deferred[Any] | None:
        """The broker is stopping; the client has `grace` seconds to come back elsewhere before its will is published.
        Fires when the store knows that this connection has ended; None: it knows already."""
        elsewhere = self._broker.settings.advertise
        reason = Reason.USE_ANOTHER_SERVER if elsewhere else Reason.SERVER_SHUTTING_DOWN
        return self._end("server shutting down", grace, reason)

    def refused(self, operation: str, topic: str) -> None:
        """Count and log something this client may not do."""
        self._broker.metrics.operations[operation] += 1
        log.info(
            "refused {operation} of {topic!r} by client {client_id}",
            operation=operation,
            topic=topic,
            client_id=self.client_id,
            peer=self.peer,
        )

    def connection_lost(self, why: str) -> None:
        """The network connection is gone."""
        self._lost = why
        self.sender.abandon()
        if self.ended:
            self._forget()
        elif not (
            self.blocked
            and (self.connection.decoder.buffered or self._held is not None)
            and self._broker.cluster.may_act()
        ):
            self._end(why)

    def _end(self, why: str, grace: float = 0.0, reason: Reason | None = None) -> Deferred[Any] | None:
        if self.ended:
            return None
        self.ended = True
        broker, closing = self._broker, None
        log.info(
            "client {client_id} disconnected from {peer}: {reason}" if self.outlet else "{peer} disconnected: {reason}",
            client_id=self.client_id,
            peer=self.peer,
            reason=why,
        )
        if self.outlet is not None:
            self.outlet.close()
            broker.sessions.detach(self)
            now = broker.clock.seconds()
            closing = broker.sessions.close(self, not self._graceful, now, grace, self._expiry)
            closing.addCallback(lambda _: broker.housekeeping.look())
        if self.dialogue is not None:
            self.dialogue.close()
        self._check_drained()
        self._forget_deadline()
        if self._lost is None:
            self._deadline = broker.deadlines.at(broker.clock.seconds() + broker.settings.connect_timeout, self)
            if grace and closing is not None:  # once it hears of it the client may be elsewhere before the store knows
                closing.addCallback(lambda _: self._leave(why, reason))
            else:
                self._leave(why, reason)
        else:
            self._forget()
        return closing

    def _leave(self, why: str, reason: Reason | None) -> None:
        """Close the connection, if it is still there."""
        if self._lost is None:
            if reason is not None:
                self._say_goodbye(reason, why)
            self.sender.close()

    def _say_goodbye(self, reason: Reason, why: str) -> None:
        """The last packet: whatever else is to be sent has been collected before it [MQTT-3.14.4-1] of 5.0."""
        accepted, elsewhere = self.connection.accepted, self._broker.settings.advertise
        if accepted or self.busy or self.version == V5 or reason is Reason.UNSUPPORTED_PROTOCOL_VERSION:
            packet = farewell(reason, why, self.terms, self.version, accepted, elsewhere)
            if packet is not None:
                self.sender.send(packet)

    def _forget(self) -> None:
        """There is neither a session to serve nor a connection to close."""
        self._forget_deadline()
        self._broker.clients.discard(self)
        if len(self.steps):
            self._broker.unfinished.add(self)
            self.steps.idle().addCallback(lambda _: self._broker.unfinished.discard(self))

    # -- time

    def due(self) -> None:
        """The time has come that was set last."""
        if self.ended:
            self._transport.abort()
        elif self.connection.accepted:
            self._check_silence()
        elif self.connection.state is State.FRESH:
            self._end("no CONNECT in time")
        else:
            self.fail(MQTTError(Reason.SERVER_UNAVAILABLE, "CONNECT took too long"))

    def _watch_silence(self) -> None:
        self._forget_deadline()
        deadline = self.connection.silence_deadline()
        if deadline is not None:
            self._deadline = self._broker.deadlines.at(deadline, self)

    def _check_silence(self) -> None:
        now = self._broker.clock.seconds()
        if not self._reading and not self.sender.full:  # the client may have spoken: it is us who do not listen
            self.connection.last_packet = now
        deadline = self.connection.silence_deadline()
        if deadline is not None and now >= deadline:
            self._end("keep alive timeout", reason=Reason.KEEP_ALIVE_TIMEOUT)
        else:
            self._watch_silence()

    def _forget_deadline(self) -> None:
        self._broker.deadlines.forget(self._deadline)
