"""What may arrive on a connection, and when: a table of states, the decoder behind it, and the keep-alive.

::

    FRESH ──CONNECT──► CONNECTING ──accept()──► CONNECTED ──DISCONNECT──► ENDED
                        │      ▲
                challenge()    AUTH
                        ▼      │
                     AUTHENTICATING
      any other packet in FRESH, any packet not in the table: protocol error, FAILED

While CONNECTING nothing is taken from the decoder: what a client sends behind its CONNECT waits for the answer.
"""

from __future__ import annotations

from enum import Enum

from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import (
    Auth,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from mqttcluster.mqtt.reasons import MQTTError, ProtocolViolation


class State(Enum):
    """Where a connection is between its first byte and its last."""

    FRESH = "waiting for CONNECT"
    CONNECTING = "answering CONNECT"
    AUTHENTICATING = "authenticating"
    CONNECTED = "connected"
    ENDED = "after DISCONNECT"
    FAILED = "failed"


#: (state, packet class) -> next state. What is not here is a violation [MQTT-3.1.0-1] [MQTT-3.1.0-2] [MQTT-4.8.0-1].
TRANSITIONS: dict[tuple[State, type], State] = {
    (State.FRESH, Connect): State.CONNECTING,
    (State.AUTHENTICATING, Auth): State.CONNECTING,
    (State.AUTHENTICATING, Disconnect): State.ENDED,
    (State.CONNECTED, Auth): State.CONNECTED,
    (State.CONNECTED, Publish): State.CONNECTED,
    (State.CONNECTED, Puback): State.CONNECTED,
    (State.CONNECTED, Pubrec): State.CONNECTED,
    (State.CONNECTED, Pubrel): State.CONNECTED,
    (State.CONNECTED, Pubcomp): State.CONNECTED,
    (State.CONNECTED, Subscribe): State.CONNECTED,
    (State.CONNECTED, Unsubscribe): State.CONNECTED,
    (State.CONNECTED, Pingreq): State.CONNECTED,
    (State.CONNECTED, Disconnect): State.ENDED,
}
_CONNECTED = State.CONNECTED
_LISTENING = (State.FRESH, State.AUTHENTICATING)
_EXPECTED = frozenset(kind for state, kind in TRANSITIONS if state is State.CONNECTED and kind is not Disconnect)


class Connection:
    """One network connection as the standard sees it: bytes in, legal packets out."""

    __slots__ = ("accepted", "decoder", "keep_alive", "last_packet", "state")

    def __init__(self, max_packet_size: int, now: float) -> None:
        self.decoder = Decoder(max_packet_size)
        self.state = State.FRESH
        #: CONNACK with success has been sent.
        self.accepted = False
        self.keep_alive = 0
        self.last_packet = now

    @property
    def version(self) -> int:
        """The protocol level, 0 before CONNECT."""
        return self.decoder.version

    def receive(self, data: bytes) -> None:
        """Take bytes from the network."""
        self.decoder.receive(data)

    def next_packet(self, now: float) -> Packet | None:
        """The next packet, None for none at the moment. Raises `MQTTError` when the connection cannot go on."""
        state = self.state
        if state is not _CONNECTED and state not in _LISTENING:
            return None
        try:
            packet = self.decoder.next_packet()
        except MQTTError:
            self.state = State.FAILED
            raise
        if packet is None:
            return None
        self.last_packet = now
        kind = type(packet)
        if state is _CONNECTED and kind in _EXPECTED:
            return packet
        following = TRANSITIONS.get((state, kind))
        if following is None:
            self.state = State.FAILED
            raise ProtocolViolation(f"{kind.__name__.upper()} while {state.value}")
        self.state = following
        return packet

    def challenge(self) -> None:
        """The client has been sent an AUTH and is to answer it before anything else."""
        self.state = State.AUTHENTICATING

    def accept(self, keep_alive: int, now: float) -> None:
        """CONNACK with success is on its way. `keep_alive` is in seconds, 0 for off, and begins now."""
        self.last_packet = now
        self.state = State.CONNECTED
        self.accepted = True
        self.keep_alive = keep_alive

    def silence_deadline(self) -> float | None:
        """When silence has lasted one and a half times the keep-alive [MQTT-3.1.2-24]; None: never."""
        return self.last_packet + 1.5 * self.keep_alive if self.keep_alive else None
