"""What a client acknowledges of its deliveries.

A durable session's acknowledgements are stored once a turn; PUBREL leaves after its PUBREC is on record [G2].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from twisted.python.failure import Failure

from mqttcluster.broker.sender import Sender
from mqttcluster.broker.terms import Terms
from mqttcluster.core.message import Delivery, packet_id
from mqttcluster.core.session import Session
from mqttcluster.mqtt.packets import Puback, Pubcomp, Pubrec, Pubrel
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.storage.interfaces import IStore


class _Turn(NamedTuple):
    """Sequences acknowledged in this turn, by kind of acknowledgement."""

    done: list[int]
    received: list[int]
    completed: list[int]


class Receipts:
    """The acknowledgements of one connected client. `store_lost` is told when the store fails, `overtaken` when it says
    that the session has another owner."""

    __slots__ = (
        "_overtaken",
        "_recording",
        "_sender",
        "_session",
        "_store",
        "_store_lost",
        "_terms",
        "_turn",
        "closed",
    )

    def __init__(
        self,
        session: Session,
        sender: Sender,
        terms: Terms,
        store: IStore,
        store_lost: Callable[[Failure], None],
        overtaken: Callable[[], None],
    ) -> None:
        self._session = session
        self._sender = sender
        self._terms = terms
        self._store = store
        self._store_lost = store_lost
        self._overtaken = overtaken
        #: The connection has ended: nothing is to be sent any more.
        self.closed = False
        #: None while nothing was acknowledged: most clients are idle most of the time.
        self._turn: _Turn | None = None
        #: Packet ids whose PUBREC is not yet on record.
        self._recording: set[int] | None = None

    def _this_turn(self) -> _Turn:
        turn = self._turn
        if turn is None:
            turn = self._turn = _Turn([], [], [])
        return turn

    def puback(self, packet: Puback) -> None:
        """QoS 1: the client has it, or does not want it."""
        delivery = self._session.inflight.puback(packet.packet_id)
        if delivery is not None:
            self.done(delivery)
            self._sender.mark()

    def done(self, delivery: Delivery) -> None:
        """This delivery is over and may be forgotten."""
        if self._session.keeps(delivery.sequence):
            self._this_turn().done.append(delivery.sequence)

    def pubacks(self, identifiers: Collection[int]) -> None:
        """`puback` for several."""
        done: list[Delivery] = []
        try:
            self._session.inflight.pubacks(identifiers, done)
        finally:  # one of them may break the protocol; those before it are done
            if done:
                if self._session.stored:
                    self._this_turn().done.extend([d.sequence for d in done if self._session.keeps(d.sequence)])
                self._sender.mark()

    def pubcomps(self, identifiers: Iterable[int]) -> None:
        """`pubcomp` for several, of a clean session."""
        received = self._session.inflight.received
        for identifier in identifiers:
            received.pop(identifier, None)  # it may come twice in one breath
        self._sender.mark()

    def pubrec(self, packet: Pubrec) -> None:
        """QoS 2: the client has it. An identifier that is not known gets its PUBREL, so that the peer can finish."""
        identifier = packet.packet_id
        if packet.reason >= Reason.UNSPECIFIED_ERROR:
            self._refused(identifier)
            return
        known = identifier in self._session.inflight
        delivery = self._session.inflight.pubrec(identifier)
        if delivery is not None and self._session.keeps(delivery.sequence):
            self._this_turn().received.append(delivery.sequence)
            self._recording = self._recording or set()
            self._recording.add(identifier)
        elif identifier not in (self._recording or ()):
            self._send_pubrel(identifier, Reason.SUCCESS if known else Reason.PACKET_IDENTIFIER_NOT_FOUND)

    def _refused(self, identifier: int) -> None:
        """QoS 2: the client does not want it. That is the end of it [MQTT-4.4.0-2] of 5.0."""
        delivery = self._session.inflight.pubrec(identifier)
        if delivery is not None:
            self._session.inflight.pubcomp(identifier)
            self.done(delivery)
            self._sender.mark()

    def _send_pubrel(self, identifier: int, reason: Reason = Reason.SUCCESS) -> None:
        frame = self._terms.encode(Pubrel(identifier, reason))
        if frame is not None:
            self._sender.send(frame)

    def pubcomp(self, packet: Pubcomp) -> None:
        """QoS 2: the exchange is over."""
        sequence = self._session.inflight.pubcomp(packet.packet_id)
        if sequence:
            if self._session.keeps(sequence):
                self._this_turn().completed.append(sequence)
            self._sender.mark()

    def resume(self) -> None:
        """PUBREL again, for what an earlier connection left open behind PUBREC [MQTT-4.4.0-1]."""
        for identifier in self._session.inflight.received:
            self._send_pubrel(identifier)

    def store(self) -> None:
        """Tell the store, once a turn, what has been acknowledged."""
        turn, self._turn = self._turn, None
        if turn is None or not any(turn):
            return
        done, received, completed = turn
        session = self._session

        def stored(current: bool) -> None:
            if self._recording:
                self._recording.difference_update(packet_id(sequence) for sequence in received)
            if not current:
                self._overtaken()
            elif not self.closed:
                for sequence in received:  # in the order of the PUBRECs [MQTT-4.6.0-4]
                    self._send_pubrel(packet_id(sequence))

        storing = self._store.acknowledge(session.client_id, session.epoch, done, received, completed)
        storing.addCallbacks(stored, self._store_lost)
