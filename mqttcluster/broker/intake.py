"""The receiving half of a client: what arrives on its connection, in order.

Packets are dealt with in the order received; `broker.handlers` says what each of them does. A PUBLISH or PUBREL that
waits for the store is a *step* (`broker.receiving`). SUBSCRIBE and UNSUBSCRIBE wait until the steps before them are
through, and hold up what is behind them. While the client is *blocked* (CONNECT or SUBSCRIBE under way, too many steps,
output that it does not take, its share of a reactor turn used up) nothing is taken from the decoder and reading is
paused, so that TCP slows the sender down [G9]. When the connection is lost while it is blocked, what has arrived is
dealt with before the end: it may be a DISCONNECT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mqttcluster.broker.handlers import HANDLERS
from mqttcluster.broker.outlet import Outlet
from mqttcluster.broker.receiving import Receiving
from mqttcluster.broker.sender import Sender, Transport
from mqttcluster.broker.steps import Steps
from mqttcluster.core import routing
from mqttcluster.core.connection import Connection, State
from mqttcluster.mqtt.packets import (
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from mqttcluster.mqtt.reasons import MQTTError, Reason

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker
    from mqttcluster.broker.client import Client

log = Logger(namespace="mqttcluster.client")

_CONNECTED = State.CONNECTED
#: How long one client's packets are dealt with before everybody else has a turn, in seconds.
SHARE_OF_A_TURN = 0.02
#: Looked at after so many packets that were dealt with one by one.
LOOK_AT_THE_CLOCK = 8
#: How long a publisher waits for a receiver of its QoS 0 that is full, in seconds.
PATIENCE = 0.02
#: What is dealt with while the store is away, and what while this node is leaving.
FREE = (Pingreq, Disconnect)
FINISHING = (*FREE, Puback, Pubrec, Pubrel, Pubcomp)


class Intake:
    """Bytes in, packets dealt with. `broker.client.Client` is what it is a half of."""

    __slots__ = (
        "_awaits_deliveries",
        "_broker",
        "_draining",
        "_held",
        "_lost",
        "_processing",
        "_reading",
        "_resting",
        "_transport",
        "_waiting",
        "busy",
        "connection",
        "ended",
        "outlet",
        "receiving",
        "sender",
        "steps",
    )

    def __init__(self, broker: Broker, transport: Transport) -> None:
        settings = broker.settings
        self._broker = broker
        self._transport = transport
        self.connection = Connection(settings.max_packet_size, broker.clock.seconds())
        self.sender = Sender(transport, broker.output, broker.metrics, settings.send_buffer)
        self.sender.drained = self._process
        self.outlet: Outlet | None = None
        self.ended = False
        #: CONNECT, SUBSCRIBE or UNSUBSCRIBE is under way.
        self.busy = False
        #: Why the network connection is gone, None while it is there.
        self._lost: str | None = None
        self._reading = True
        #: Its share of this reactor turn is used up.
        self._resting = False
        self._processing = False
        #: A packet that waits for the store to come back, or for other nodes to take what they are sent.
        self._held: Packet | None = None
        #: Gives up waiting for a receiver that takes more slowly than this client sends.
        self._waiting: IDelayedCall | None = None
        self._draining: Deferred[None] | None = None
        self._awaits_deliveries = False
        self.steps = Steps(self, broker.complete, broker.may_act)
        self.receiving = Receiving(cast("Client", self), broker)

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
            broker.output.end_turn(len(data))

    def pause_writing(self) -> None:
        """The network takes no more for the moment."""
        self.sender.writable = False

    def resume_writing(self) -> None:
        """The network takes output again."""
        self.sender.writable = True
        self.sender.flush()
        self._process()

    # -- packets, in order

    @property
    def blocked(self) -> bool:
        """Whether nothing more is to be taken from what it has sent."""
        if self.busy or self._resting or self._waiting is not None or self.sender.full:
            return True
        receiving = self.receiving
        return (bool(self.steps.pending) or receiving.permissions.asking) and receiving.full

    def _process(self) -> None:
        if self._processing or self.ended:
            return
        self._processing = True
        try:
            if self._draining is not None:
                self._handle_packets_alone(FINISHING)
            elif self._broker.cluster.may_act() or self.connection.state in (State.FRESH, State.AUTHENTICATING):
                self._handle_packets()
            elif self._broker.cluster.away():
                self._handle_packets_alone(FREE)
            if self.outlet is not None:
                self.outlet.receipts.store()
        except MQTTError as error:
            self.fail(error)
        except Exception:
            log.failure("internal error with a packet from {peer}", peer=self.peer)
            self._end("internal error", reason=Reason.UNSPECIFIED_ERROR)
        finally:
            self._processing = False
        self._check_drained()
        if self._lost is not None and not self.blocked:
            self._end(self._lost)
        self._regulate_reading()

    def _handle_packets(self) -> None:
        broker, connection = self._broker, self.connection
        metrics, now = broker.metrics, broker.clock.seconds()
        fast_lane = broker.fast_lane
        if self._held is not None and not self.blocked:
            packet, self._held = self._held, None
            self._handle(packet)
        dealt_with = 0
        while not self.ended and not self.blocked and self._held is None:
            if fast_lane is not None and connection.state is _CONNECTED and fast_lane.take(cast("Client", self)):
                connection.last_packet = now
                if not connection.decoder.buffered:
                    break
            else:
                following = connection.next_packet(now)
                if following is None:
                    break
                metrics.messages_received += 1
                self._handle(following)
                dealt_with += 1
                if dealt_with % LOOK_AT_THE_CLOCK:
                    continue
            if broker.clock.seconds() - now >= SHARE_OF_A_TURN:
                self._resting = True
                broker.clock.callLater(0, self._rested)

    def _handle_packets_alone(self, allowed: tuple[type, ...]) -> None:
        """The store is away, or this node is leaving: QoS 0 goes to this node's own clients, the first packet that is
        not `allowed` waits [G8]."""
        broker, now = self._broker, self._broker.clock.seconds()
        while not self.ended and not self.blocked and self._held is None:
            packet = self.connection.next_packet(now)
            if packet is None:
                break
            broker.metrics.messages_received += 1
            if isinstance(packet, allowed):
                self._handle(packet)
            elif isinstance(packet, Publish) and not packet.qos and not packet.retain:
                if broker.cluster.may_act():
                    self._handle(packet)
                else:
                    self.receiving.publish_here(packet)
            else:
                self._held = packet

    def _handle(self, packet: Packet) -> None:
        HANDLERS[type(packet)](self, packet)

    def hold(self, packet: Packet) -> None:
        """Keep a packet, and what is behind it, until things have got better."""
        self._held = packet

    def proceed(self) -> None:
        """What was under way is through."""
        self.busy = False
        self._process()

    def advanced(self) -> None:
        """Steps are through. While this client is read nothing of it waits in the decoder."""
        if not self._reading or self._draining is not None:
            self._process()

    def _rested(self) -> None:
        self._resting = False
        self._process()

    def wait_for(self, receiver: routing.Outlet) -> None:
        """QoS 0 comes faster than a receiver takes it, though it does take it: wait for that a moment before more is
        dropped. Who does not take anything is not waited for again [G9]."""
        if self._waiting is not None or not receiver.wait(self._room_again):
            return

        def gave_up() -> None:
            receiver.give_up()
            self._waited()

        self._waiting = self._broker.clock.callLater(PATIENCE, gave_up)

    def _room_again(self) -> None:
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()
            self._waited()

    def _waited(self) -> None:
        self._waiting = None
        self._process()

    def _regulate_reading(self) -> None:
        blocked = self.blocked or self._held is not None
        if not blocked and self.connection.state is _CONNECTED and not self._broker.cluster.may_act():
            blocked = not self._broker.cluster.away()
        if blocked and not self.connection.accepted and not self.connection.decoder.buffered:
            return  # most clients say nothing before CONNACK; the first word will stop the reading
        if blocked == self._reading and not self.ended and self._lost is None:
            self._reading = not blocked
            if blocked:
                self._transport.pause_reading()
            else:
                self.connection.last_packet = self._broker.clock.seconds()  # it was us who did not listen
                self._transport.resume_reading()

    # -- this node leaves

    def wake(self) -> None:
        """This node may act again."""
        self.steps.advance()
        self._process()

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
        if draining is None or (not self.ended and (self.busy or len(self.steps))):
            return
        if not self.ended and outlet is not None and self._awaits_deliveries and outlet.session.inflight:
            return
        self._draining = None
        draining.callback(None)

    # -- what the other half does

    peer: str

    def fail(self, error: MQTTError) -> None:
        """End the connection with the answer the standard names for `error`."""
        raise NotImplementedError

    def _end(self, why: str, grace: float = 0.0, reason: Reason | None = None) -> Any:
        raise NotImplementedError
