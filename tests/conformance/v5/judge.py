"""What a server must never do on a connection of MQTT 5.0, whatever a test is about.

A `Judge` sees every packet of one connection, in both directions. What it objects to is collected in `FAULTS`, for an
exception inside the broker's own code would be taken for a fault of the broker; a fixture looks there after each test.
"""

from __future__ import annotations

from mqttcluster.mqtt.decoder import Decoder
from mqttcluster.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import MQTTError, Reason
from tests.support.wire import Framer

#: What was objected to since the last look.
FAULTS: list[str] = []

#: Packets in which a server may speak its mind even to a client that does not want to hear of problems.
_FRANK = (Connack, Disconnect, Publish)
#: Reasons that a client alone may give.
_CLIENTS_OWN = (Reason.DISCONNECT_WITH_WILL, Reason.RE_AUTHENTICATE)


class Judge:
    """Follows one connection. `sent` takes what the server writes, `received` what the client does."""

    def __init__(self) -> None:
        self._framer = Framer()
        self._incoming = Decoder()
        self._outgoing = Decoder(version=5)
        self.connect: Connect | None = None
        self._accepted = False
        #: Why nothing more may come.
        self._over = ""
        self._aliases: dict[int, str] = {}
        #: Ids that the client has not finished with, and those of them whose PUBLISH came on this connection.
        self._open: set[int] = set()
        self._charged: set[int] = set()
        #: Ids of SUBSCRIBE and UNSUBSCRIBE packets that wait for an answer, and how many filters they had.
        self._asked: dict[tuple[type[Packet], int], list[int]] = {}

    def received(self, data: bytes) -> None:
        """The client has sent this. Bytes that are no packet end the watch on this direction."""
        self._incoming.receive(data)
        try:
            while (packet := self._incoming.next_packet()) is not None:
                self._note(packet)
        except MQTTError:
            return

    def _note(self, packet: Packet) -> None:
        if isinstance(packet, Connect) and self.connect is None:
            self.connect = packet
        elif isinstance(packet, Puback | Pubcomp) or (isinstance(packet, Pubrec) and packet.reason >= 0x80):
            self._open.discard(packet.packet_id)
            self._charged.discard(packet.packet_id)
        elif isinstance(packet, Subscribe):
            self._asked.setdefault((Suback, packet.packet_id), []).append(len(packet.filters))
        elif isinstance(packet, Unsubscribe):
            self._asked.setdefault((Unsuback, packet.packet_id), []).append(len(packet.filters))

    def sent(self, data: bytes) -> None:
        """The server has written this."""
        for frame in self._framer.feed(data):
            self._outgoing.receive(frame)
            try:
                packet = self._outgoing.next_packet()
            except MQTTError as error:
                self._object(f"no packet of MQTT 5.0: {frame.hex(' ')}: {error}")
                return
            assert packet is not None
            self._look(packet, len(frame))

    def _object(self, text: str) -> None:
        FAULTS.append(text)

    def _wished(self, name: Prop, default: int) -> int:
        value = self.connect.properties.get(name, default) if self.connect is not None else default
        assert isinstance(value, int)
        return value

    def _look(self, packet: Packet, size: int) -> None:
        if self._over:
            self._object(f"{packet} behind {self._over}")  # [MQTT-3.14.4-1]
        if size > self._wished(Prop.MAXIMUM_PACKET_SIZE, size):
            self._object(f"{size} bytes of {packet}")  # [MQTT-3.1.2-24]
        found: Properties = getattr(packet, "properties", {})
        frank = isinstance(packet, _FRANK) or self._wished(Prop.REQUEST_PROBLEM_INFORMATION, 1)
        if not frank and (Prop.REASON_STRING in found or Prop.USER_PROPERTY in found):
            self._object(f"unwanted information in {packet}")  # [MQTT-3.1.2-29]
        if isinstance(packet, Connack):
            self._look_at_connack(packet)
        elif isinstance(packet, Auth):
            method = self.connect.properties.get(Prop.AUTHENTICATION_METHOD) if self.connect is not None else None
            if method is None or found.get(Prop.AUTHENTICATION_METHOD) != method or packet.reason in _CLIENTS_OWN:
                self._object(f"{packet} for the method {method!r}")  # [MQTT-4.12.0-5], [MQTT-4.12.0-6], [MQTT-3.15.2-1]
        elif not self._accepted:
            self._object(f"{packet} before CONNACK")  # [MQTT-3.2.0-1], [MQTT-3.14.0-1]
        if isinstance(packet, Publish):
            self._look_at_publish(packet)
        elif isinstance(packet, Pubrel) and packet.reason < 0x80:
            self._open.add(packet.packet_id)  # also one of an earlier connection
        elif isinstance(packet, Suback | Unsuback):
            waiting = self._asked.get((type(packet), packet.packet_id))
            if not waiting or len(packet.reasons) != waiting.pop(0):
                self._object(f"{packet} answers nothing")  # [MQTT-3.8.4-6], [MQTT-2.2.1-6]
        elif isinstance(packet, Disconnect):
            if Prop.SESSION_EXPIRY_INTERVAL in found or packet.reason in _CLIENTS_OWN:
                self._object(f"{packet} from a server")  # [MQTT-3.14.2-1], [MQTT-3.14.2-2]
            self._over = "DISCONNECT"

    def _look_at_connack(self, packet: Connack) -> None:
        if self._accepted:
            self._object("a second CONNACK")  # [MQTT-3.2.0-2]
        if packet.reason:
            self._over = "a CONNACK that refuses"  # [MQTT-3.2.2-7]
        else:
            self._accepted = True
        if Prop.RESPONSE_INFORMATION in packet.properties and not self._wished(Prop.REQUEST_RESPONSE_INFORMATION, 0):
            self._object("response information that nobody asked for")  # [MQTT-3.1.2-28]
        wanted = self.connect.properties.get(Prop.AUTHENTICATION_METHOD) if self.connect is not None else None
        if not packet.reason and packet.properties.get(Prop.AUTHENTICATION_METHOD) != wanted:
            self._object(f"{packet} for the method {wanted!r}")  # [MQTT-4.12.0-5], [MQTT-4.12.0-6]

    def _look_at_publish(self, packet: Publish) -> None:
        alias = packet.properties.get(Prop.TOPIC_ALIAS)
        if isinstance(alias, int):
            if alias > self._wished(Prop.TOPIC_ALIAS_MAXIMUM, 0):
                self._object(f"topic alias {alias}")  # [MQTT-3.1.2-26], [MQTT-3.1.2-27]
            if not packet.topic and alias not in self._aliases:
                self._object(f"topic alias {alias} was not set on this connection")  # [MQTT-3.3.2-7]
            if packet.topic:
                self._aliases[alias] = packet.topic
        if packet.qos:
            if packet.packet_id in self._open:
                self._object(f"{packet} takes an id in use")  # [MQTT-2.2.1-4]
            self._open.add(packet.packet_id)
            self._charged.add(packet.packet_id)
            if len(self._charged) > self._wished(Prop.RECEIVE_MAXIMUM, 65535):
                self._object(f"{len(self._charged)} messages open")  # [MQTT-3.3.4-9]

    def topic(self, packet: Publish) -> str:
        """The topic of a PUBLISH from the server, its alias resolved."""
        return packet.topic or self._aliases[int(str(packet.properties[Prop.TOPIC_ALIAS]))]
