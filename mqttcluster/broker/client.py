"""One client: what arrives on its connection, in order.

Packets are dealt with in the order received. A PUBLISH or PUBREL that waits for the store is a *step* (`broker.steps`).
SUBSCRIBE and UNSUBSCRIBE wait until the steps before them are through, and hold up what is behind them. While the
client is *blocked* (CONNECT or SUBSCRIBE under way, too many steps, output that it does not take, its share of a
reactor turn used up) nothing is taken from the decoder and reading is paused, so that TCP slows the sender down [G9].
When the connection is lost while it is blocked, what has arrived is dealt with before the end: it may be a DISCONNECT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.broker.auth import Identity
from mqttcluster.broker.outlet import Outlet
from mqttcluster.broker.sender import Sender, Transport
from mqttcluster.broker.steps import Step, Steps
from mqttcluster.core.connection import Connection, State
from mqttcluster.core.message import Message
from mqttcluster.core.routing import Subscriber
from mqttcluster.core.session import Session
from mqttcluster.mqtt.packets import (
    V31,
    V311,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from mqttcluster.mqtt.reasons import CONNACK_V3, MQTTError, Reason
from mqttcluster.mqtt.writers import encode

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker

log = Logger(namespace="mqttcluster.client")

#: Answers of the authorizer that are remembered for one client.
CACHED_TOPICS = 1000
LONGEST_CACHED = 256
#: How long one client's packets are dealt with before everybody else has a turn, in seconds.
SHARE_OF_A_TURN = 0.02
#: What is dealt with while the store is away, and what while this node is leaving.
FREE = (Pingreq, Disconnect)
FINISHING = (*FREE, Puback, Pubrec, Pubrel, Pubcomp)
#: Protocol levels that are answered; the codec knows more.
SPOKEN = (V31, V311)
_VERSION_NAMES = {3: "3.1", 4: "3.1.1", 5: "5.0"}


class Client:
    """A connection and, once CONNECT is answered, the session it owns (in `outlet`)."""

    __slots__ = (
        "_allowed_topics",
        "_awaits_deliveries",
        "_broker",
        "_busy",
        "_draining",
        "_graceful",
        "_held",
        "_lost",
        "_processing",
        "_reading",
        "_resting",
        "_steps",
        "_timer",
        "_transport",
        "anonymous_allowed",
        "connection",
        "ended",
        "identity",
        "outlet",
        "peer",
        "sender",
    )

    def __init__(self, broker: Broker, transport: Transport, peer: str, anonymous_allowed: bool) -> None:
        settings = broker.settings
        self._broker = broker
        self._transport = transport
        self.peer = peer
        self.anonymous_allowed = anonymous_allowed
        self.connection = Connection(settings.max_packet_size, broker.clock.seconds())
        self.sender = Sender(transport, broker.output, broker.metrics, settings.send_buffer)
        self.sender.drained = self._process
        self.identity: Identity | None = None
        self.outlet: Outlet | None = None
        self.ended = False
        #: The client has said DISCONNECT.
        self._graceful = False
        #: Why the network connection is gone, None while it is there.
        self._lost: str | None = None
        self._reading = True
        #: Its share of this reactor turn is used up.
        self._resting = False
        self._processing = False
        #: CONNECT, SUBSCRIBE or UNSUBSCRIBE is under way.
        self._busy = False
        #: A packet that waits for the store to come back, or for other nodes to take what they are sent.
        self._held: Packet | None = None
        self._draining: Deferred[None] | None = None
        self._awaits_deliveries = False
        self._steps = Steps(broker.publishing.complete, self.sender.send, broker.cluster.may_act, self._advanced)
        self._allowed_topics: dict[str, bool] = {}
        self._timer: Any = broker.clock.callLater(settings.connect_timeout, self._connect_timeout)

    @property
    def version(self) -> int:
        """The protocol level the client speaks, 0 before CONNECT."""
        return self.connection.version

    @property
    def client_id(self) -> str:
        """The client id, '' before CONNECT."""
        return self.identity.client_id if self.identity is not None else ""

    # -- what the network says

    def data_received(self, data: bytes) -> None:
        """Bytes from the network."""
        if self.ended:
            return
        broker = self._broker
        broker.metrics.bytes_received += len(data)
        self.connection.receive(data)
        broker.output.begin_turn()
        try:
            self._process()
        finally:
            broker.output.end_turn()

    def connection_lost(self, why: str) -> None:
        """The network connection is gone."""
        self._lost = why
        self.sender.abandon()
        if self.ended:
            self._forget()
        elif not (self._blocked and self.connection.decoder.buffered and self._broker.cluster.may_act()):
            self._end(why)

    def pause_writing(self) -> None:
        """The network takes no more for the moment."""
        self.sender.writable = False

    def resume_writing(self) -> None:
        """The network takes output again."""
        self.sender.writable = True
        self.sender.flush()
        self._process()

    def wake(self) -> None:
        """This node may act again."""
        self._steps.advance()
        self._process()

    def look(self) -> None:
        """The store may hold deliveries that nobody told this client of."""
        if self.outlet is not None and self.outlet.session.durable:
            self.outlet.look()

    def idle(self) -> Deferred[None]:
        """Fires when nothing that this client has sent waits for anything."""
        return self._steps.idle()

    def drain(self, deliveries: bool) -> Deferred[None]:
        """This node is leaving: take no new work. Fires when what the client has sent is answered and, if `deliveries`,
        what was sent to it is acknowledged."""
        if self.ended:
            return succeed(None)
        self._draining = Deferred()
        self._awaits_deliveries = deliveries
        draining = self._draining
        self._process()
        return draining

    def _check_drained(self) -> None:
        draining, outlet = self._draining, self.outlet
        if draining is None or (not self.ended and (self._busy or len(self._steps))):
            return
        if not self.ended and outlet is not None and self._awaits_deliveries and outlet.session.inflight:
            return
        self._draining = None
        draining.callback(None)

    # -- packets, in order

    @property
    def _blocked(self) -> bool:
        settings, steps = self._broker.settings, self._steps
        waiting = len(steps) >= settings.max_receiving or steps.size > settings.receive_buffer
        return self._busy or self._resting or self.sender.full or waiting

    def _process(self) -> None:
        if self._processing or self.ended:
            return
        self._processing = True
        try:
            if self._draining is not None:
                self._handle_packets_alone(FINISHING)
            elif self._broker.cluster.may_act() or self.connection.state is State.FRESH:
                self._handle_packets()
            elif self._broker.cluster.away():
                self._handle_packets_alone(FREE)
            if self.outlet is not None:
                self.outlet.store_acknowledgements()
        except MQTTError as error:
            self.fail(error)
        except Exception:
            log.failure("internal error with a packet from {peer}", peer=self.peer)
            self._end("internal error")
        finally:
            self._processing = False
        self._check_drained()
        if self._lost is not None and not self._blocked:
            self._end(self._lost)
        self._regulate_reading()

    def _handle_packets(self) -> None:
        broker, connection = self._broker, self.connection
        metrics, now = broker.metrics, broker.clock.seconds()
        if self._held is not None and not self._blocked:
            packet, self._held = self._held, None
            HANDLERS[type(packet)](self, packet)
        while not self.ended and not self._blocked and self._held is None:
            following = connection.next_packet(now)
            if following is None:
                break
            metrics.messages_received += 1
            HANDLERS[type(following)](self, following)
            if broker.clock.seconds() - now >= SHARE_OF_A_TURN:
                self._resting = True
                broker.clock.callLater(0, self._rested)

    def _advanced(self) -> None:
        """Steps are through. While this client is read nothing of it waits in the decoder."""
        if not self._reading or self._draining is not None:
            self._process()

    def _rested(self) -> None:
        self._resting = False
        self._process()

    def _handle_packets_alone(self, allowed: tuple[type, ...]) -> None:
        """The store is away, or this node is leaving: QoS 0 goes to this node's own clients, the first packet that is
        not `allowed` waits [G8]."""
        broker, now = self._broker, self._broker.clock.seconds()
        while not self.ended and not self._blocked and self._held is None:
            packet = self.connection.next_packet(now)
            if packet is None:
                break
            broker.metrics.messages_received += 1
            if isinstance(packet, allowed):
                HANDLERS[type(packet)](self, packet)
            elif isinstance(packet, Publish) and not packet.qos and not packet.retain:
                if self._allowed(packet.topic):
                    message = Message(packet.topic, packet.payload, publisher=self.client_id)
                    if broker.cluster.may_act():
                        broker.publishing.plan(message)
                    else:
                        broker.publishing.publish_here(message)
            else:
                self._held = packet

    def _regulate_reading(self) -> None:
        blocked = self._blocked or self._held is not None
        if not blocked and self.connection.state is State.CONNECTED and not self._broker.cluster.may_act():
            blocked = not self._broker.cluster.away()
        if blocked == self._reading and not self.ended and self._lost is None:
            self._reading = not blocked
            if blocked:
                self._transport.pause_reading()
            else:
                self.connection.last_packet = self._broker.clock.seconds()  # it was us who did not listen
                self._transport.resume_reading()

    def _connect(self, packet: Connect) -> None:
        self._busy = True
        if packet.version not in SPOKEN:
            raise MQTTError(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"MQTT with protocol level {packet.version}")
        broker = self._broker
        opening = Deferred.fromCoroutine(broker.sessions.open(self, packet, broker.clock.seconds()))
        opening.addCallback(self._opened, packet).addErrback(self._crashed)

    def attach(self, session: Session, subscriber: Subscriber) -> Outlet:
        """The session is this client's now."""
        self.outlet = self._broker.outlet(self, session, subscriber)
        return self.outlet

    def _opened(self, present: bool | None, packet: Connect) -> None:
        outlet = self.outlet
        if present is None or outlet is None or self.ended:
            return
        self.connection.accept(packet.keep_alive)
        self._busy = False
        self._watch_silence()
        log.info(
            "client {client_id} connected from {peer}: MQTT {version}, {kind} session{resumed}",
            client_id=self.client_id,
            peer=self.peer,
            version=_VERSION_NAMES[self.version],
            kind="durable" if outlet.session.durable else "clean",
            resumed=", resumed" if present else "",
            username=packet.username,
            keep_alive=packet.keep_alive,
        )
        self.send_packet(Connack(present))  # before anything else [MQTT-3.2.0-1]
        outlet.resume()
        self._broker.housekeeping.look()
        self._process()

    def _crashed(self, failure: Failure) -> None:
        if isinstance(failure.value, MQTTError):
            self.fail(failure.value)
        else:
            log.failure("internal error for {peer}", failure, peer=self.peer)
            self._end("internal error")

    def _publish(self, packet: Publish) -> None:
        broker, outlet = self._broker, self._outlet
        session, metrics = outlet.session, broker.metrics
        qos, identifier = packet.qos, packet.packet_id
        if qos and broker.cluster.congested():
            self._held = packet
            return
        metrics.publish_received += 1
        metrics.publish_bytes_received += len(packet.payload)
        acknowledgement = b""
        if qos == 1:
            acknowledgement = encode(Puback(identifier), self.version)
        elif qos == 2:
            acknowledgement = encode(Pubrec(identifier), self.version)
            if identifier in session.inbound:  # [MQTT-4.3.3-2]
                self._steps.take(Step(None, acknowledgement, stored=True))
                return
            session.inbound.add(identifier)
        if not self._allowed(packet.topic):  # acknowledged and dropped [MQTT-3.3.5-2]
            if qos:
                self._steps.take(Step(None, acknowledgement, stored=True))
            return
        exchange = (session.client_id, session.epoch, identifier) if qos == 2 and session.durable else None
        message = Message(packet.topic, packet.payload, qos, packet.retain, session.client_id, packet.properties)
        plan = broker.publishing.plan(message, exchange)
        if plan.publication is not None:
            step = Step(plan, acknowledgement, stored=False)
            self._steps.take(step)
            storing = broker.publishing.store(plan)
            storing.addCallbacks(self._stored, self._not_stored, callbackArgs=(step,), errbackArgs=(step,))
        elif qos:
            self._steps.take(Step(plan, acknowledgement, stored=True))

    def _allowed(self, topic: str) -> bool:
        allowed = self._allowed_topics.get(topic)
        if allowed is None:
            assert self.identity is not None
            allowed = (
                topic[0] != "$"
                and topic.count("/") < self._broker.settings.max_topic_levels
                and self._broker.authorizer.may_publish(self.identity, topic)
            )
            if len(topic) <= LONGEST_CACHED:
                if len(self._allowed_topics) >= CACHED_TOPICS:
                    self._allowed_topics.clear()
                self._allowed_topics[topic] = allowed
        if not allowed:
            self.refused("publish", topic)
        return allowed

    def _stored(self, _: None, step: Step) -> None:
        if step.plan is not None and step.plan.stale:
            self.taken_over()
        self._steps.stored(step)

    def _not_stored(self, failure: Failure, step: Step) -> None:
        """The store cannot say that the message is safe: no acknowledgement, and the connection ends [MQTT-4.8.0-2]."""
        step.fail()
        self.store_lost(failure)
        self._steps.advance()

    def store_lost(self, failure: Failure) -> None:
        """The store has failed with something this client asked for."""
        self.fail(MQTTError(Reason.UNSPECIFIED_ERROR, f"the store failed: {failure.getErrorMessage()}"))

    def _subscribe_or_unsubscribe(self, packet: Subscribe | Unsubscribe) -> None:
        self._busy = True
        self._steps.idle().addCallback(lambda _: self._change_subscriptions(packet))

    def _change_subscriptions(self, packet: Subscribe | Unsubscribe) -> None:
        if self.ended:
            return
        subscribing = self._broker.subscribing
        if isinstance(packet, Subscribe):
            changing = Deferred.fromCoroutine(subscribing.subscribe(self, packet))
        else:
            changing = Deferred.fromCoroutine(subscribing.unsubscribe(self, packet))
        changing.addCallback(self._changed).addErrback(self._crashed)

    def _changed(self, _: None) -> None:
        self._busy = False
        self._process()

    def _pubrel(self, packet: Pubrel) -> None:
        session, identifier = self._outlet.session, packet.packet_id
        session.inbound.discard(identifier)  # a new message with it comes to the store behind this release
        step = Step(None, encode(Pubcomp(identifier), self.version), stored=not session.durable)
        self._steps.take(step)
        if not session.durable:
            return

        def released(current: bool) -> None:
            if not current:
                step.acknowledgement = b""
                self.taken_over()
            self._steps.stored(step)

        releasing = self._broker.store.release(session.client_id, session.epoch, [identifier])
        releasing.addCallbacks(released, self._not_stored, errbackArgs=(step,))

    def _puback(self, packet: Puback) -> None:
        self._outlet.puback(packet)

    def _pubrec(self, packet: Pubrec) -> None:
        self._outlet.pubrec(packet)

    def _pubcomp(self, packet: Pubcomp) -> None:
        self._outlet.pubcomp(packet)

    def _pingreq(self, packet: Pingreq) -> None:
        self.send_packet(Pingresp())

    def _disconnect(self, packet: Disconnect) -> None:
        self._graceful = True
        self._end("DISCONNECT from the client")

    @property
    def _outlet(self) -> Outlet:
        assert self.outlet is not None
        return self.outlet

    def send_packet(self, packet: Packet) -> None:
        """Encode for this client and send."""
        self.sender.send_packet(packet, self.version)

    # -- the end

    def fail(self, error: MQTTError) -> None:
        """End the connection with the answer the standard names for `error`."""
        if self.ended:
            return
        if self.outlet is None and (self._busy or error.reason is Reason.UNSUPPORTED_PROTOCOL_VERSION):
            self._broker.metrics.connections_refused += 1
            if error.reason in CONNACK_V3:  # any other refusal closes without CONNACK [MQTT-3.2.2-6]
                version = self.version if self.version in SPOKEN else V311  # [MQTT-3.1.2-2]
                self.sender.send_packet(Connack(False, error.reason), version)
        self._end(error.text)

    def taken_over(self) -> None:
        """Another connection has come for this client id [MQTT-3.1.4-2]. The store learns what was sent, for DUP."""
        self._end("session taken over")

    def session_lost(self) -> None:
        """The store does not know this connection as the owner of its session: the client has to connect anew."""
        self._end("the store has lost the session")

    def shut_down(self, grace: float = 0.0) -> Deferred[Any] | None:
        """The broker is stopping; the client has `grace` seconds to come back elsewhere before its will is published.
        Fires when the store knows that this connection has ended; None: it knows already."""
        return self._end("server shutting down", grace)

    def refused(self, operation: str, topic: str) -> None:
        """Count and log something this client may not do."""
        self._broker.metrics.operations_refused += 1
        log.info(
            "refused {operation} of {topic!r} by client {client_id}",
            operation=operation,
            topic=topic,
            client_id=self.client_id,
            peer=self.peer,
        )

    def _end(self, why: str, grace: float = 0.0) -> Deferred[Any] | None:
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
            closing = broker.sessions.close(self, not self._graceful, broker.clock.seconds(), grace)
            closing.addCallback(lambda _: broker.housekeeping.look())
        self._check_drained()
        self._cancel_timer()
        if self._lost is None:
            self._timer = broker.clock.callLater(broker.settings.connect_timeout, self._linger_timeout)
            self.sender.close()
        else:
            self._forget()
        return closing

    def _forget(self) -> None:
        """There is neither a session to serve nor a connection to close."""
        self._cancel_timer()
        self._broker.clients.discard(self)

    # -- time

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _connect_timeout(self) -> None:
        self._timer = None
        if self.connection.state is State.FRESH:
            self._end("no CONNECT in time")
        else:
            self.fail(MQTTError(Reason.SERVER_UNAVAILABLE, "CONNECT took too long"))

    def _watch_silence(self) -> None:
        self._cancel_timer()
        deadline = self.connection.silence_deadline()
        if deadline is not None:
            clock = self._broker.clock
            self._timer = clock.callLater(max(deadline - clock.seconds(), 0), self._check_silence)

    def _check_silence(self) -> None:
        self._timer = None
        now = self._broker.clock.seconds()
        if not self._reading and not self.sender.full:  # the client may have spoken: it is us who do not listen
            self.connection.last_packet = now
        deadline = self.connection.silence_deadline()
        if deadline is not None and now >= deadline:
            self._end("keep alive timeout")
        else:
            self._watch_silence()

    def _linger_timeout(self) -> None:
        self._timer = None
        self._transport.abort()


HANDLERS: dict[type, Callable[[Client, Any], None]] = {
    Connect: Client._connect,
    Publish: Client._publish,
    Puback: Client._puback,
    Pubrec: Client._pubrec,
    Pubrel: Client._pubrel,
    Pubcomp: Client._pubcomp,
    Subscribe: Client._subscribe_or_unsubscribe,
    Unsubscribe: Client._subscribe_or_unsubscribe,
    Pingreq: Client._pingreq,
    Disconnect: Client._disconnect,
}
