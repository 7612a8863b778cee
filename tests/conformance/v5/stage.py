"""Clients of MQTT 5.0, and what most tests do with them.

::

    alice = connect(world, "alice", clean_start=False, session_expiry_interval=60)
    subscribe(alice, "a/#", qos=1, no_local=True)
    alice.send(publish("a/b", b"x", 1, id=7, message_expiry_interval=10))
    assert alice.packets() == [Puback(7)]

Properties are keyword arguments by their names in `Prop`. A `Guest` leaves the Reason Strings of what arrives out of
`packets`, for they are for people [N5-59]; `remarks` keeps them. A `Judge` watches each of them.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import succeed

from mqttcluster.broker.auth import Identity
from mqttcluster.mqtt.packets import (
    V5,
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
    Subscription,
    Will,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import Peer, World
from tests.conformance.v5.judge import Judge
from tests.support.wire import Framer, frame, string

#: The largest interval there is: never.
NEVER = 0xFFFF_FFFF
#: The message of `with_will`, as a bystander sees it.
WILL = Publish("will", b"gone")

_CONNECT_FIELDS = frozenset(("clean_start", "keep_alive", "will", "username", "password"))


def props(**values: Any) -> Properties:
    """Properties by name: ``props(topic_alias=1)``. A user property is given as a list of pairs."""
    found: Properties = {}
    for name, value in values.items():
        prop = Prop[name.upper()]
        found[prop] = [value] if prop is Prop.SUBSCRIPTION_IDENTIFIER and isinstance(value, int) else value
    return found


class Guest(Peer):
    """A connection of MQTT 5.0. `connack` is the packet that answered its CONNECT, `remarks` all Reason Strings."""

    def __init__(self, world: World) -> None:
        self.judge = Judge()
        self.remarks: list[str] = []
        self.connack = Connack()
        super().__init__(world, V5)

    def write(self, data: bytes) -> None:
        super().write(data)
        self.judge.sent(data)

    def send(self, *parts: Packet | bytes | str) -> Guest:
        self.judge.received(b"".join(map(self._encoded, parts)))
        super().send(*parts)
        return self

    def packets(self) -> list[Packet]:
        found = super().packets()
        for packet in found:
            if not isinstance(packet, Publish):
                remark = getattr(packet, "properties", {}).pop(Prop.REASON_STRING, None)
                if remark is not None:
                    self.remarks.append(remark)
        return found

    def take_connack(self) -> Connack:
        """The CONNACK, which comes first. What is behind it stays to be read."""
        arrived = self.bytes()
        frames = Framer().feed(arrived)
        assert frames, "no CONNACK"
        self.put_back(frames[0])
        [packet] = self.packets()
        assert isinstance(packet, Connack), packet
        self.put_back(arrived[len(frames[0]) :])
        self.connack = packet
        return packet

    def announced(self, name: str, default: int) -> int:
        """A number that the server has named in CONNACK, or its default."""
        value = self.connack.properties.get(Prop[name.upper()], default)
        assert isinstance(value, int)
        return value


def call(client_id: str = "c", **fields: Any) -> Connect:
    """A CONNECT from its fields and properties."""
    own = {name: fields.pop(name) for name in list(fields) if name in _CONNECT_FIELDS}
    return Connect(client_id, V5, properties=props(**fields), **own)


def connect(world: World, client_id: str = "c", *, present: bool = False, **fields: Any) -> Guest:
    """A client whose CONNECT, made of `fields` and properties, was accepted. `present` is Session Present."""
    guest = Guest(world).send(call(client_id, **fields))
    connack = guest.take_connack()
    assert (connack.session_present, connack.reason) == (present, Reason.SUCCESS), connack
    return guest


def durable(world: World, client_id: str = "c", *, expiry: int = NEVER, present: bool = False, **fields: Any) -> Guest:
    """A client with Clean Start 0 whose session stays."""
    return connect(world, client_id, present=present, clean_start=False, session_expiry_interval=expiry, **fields)


def will(payload: bytes = b"gone", qos: int = 0, retain: bool = False, topic: str = "will", **properties: Any) -> Will:
    """The will of a test."""
    return Will(topic, payload, qos, retain, props(**properties))


def with_will(world: World, client_id: str = "mortal", **fields: Any) -> Guest:
    """A client whose end the bystander hears of, unless it says DISCONNECT."""
    return connect(world, client_id, will=will(), **fields)


def asked(packet_id: int, *filters: str, qos: int = 0, identifier: int = 0, **options: Any) -> Subscribe:
    """A SUBSCRIBE whose filters all have the same options."""
    found = props(subscription_identifier=identifier) if identifier else {}
    wanted = Subscription(qos, identifier=identifier, **options)
    return Subscribe(packet_id, [(topic_filter, wanted) for topic_filter in filters], found)


def subscribe(guest: Peer, *filters: str, qos: int = 0, packet_id: int = 1, **options: Any) -> Peer:
    """Subscribe, and see every filter granted. What comes behind SUBACK stays to be read."""
    guest.send(asked(packet_id, *filters, qos=qos, **options))
    arrived = guest.bytes()
    expected = encode(Suback(packet_id, [Reason(qos)] * len(filters)), guest.version)
    assert arrived[: len(expected)] == expected, arrived.hex(" ")
    guest.put_back(arrived[len(expected) :])
    return guest


def publish(topic: str, payload: bytes = b"", qos: int = 0, *, id: int = 0, **fields: Any) -> Publish:
    """A PUBLISH: `retain` and `dup` are flags, other `fields` properties. `id` is left out at QoS 0."""
    flags = {name: fields.pop(name) for name in ("retain", "dup") if name in fields}
    return Publish(topic, payload, qos, packet_id=id if qos else 0, properties=props(**fields), **flags)


def hand_over(publisher: Peer, *messages: Publish) -> None:
    """Publish as a client does: to the last acknowledgement, each of which must come, and tell of success."""
    for message in messages:
        publisher.send(message)
        if message.qos == 1:
            [answer] = publisher.packets()
            assert isinstance(answer, Puback)
            assert answer.reason < 0x80
        elif message.qos == 2:
            [answer] = publisher.packets()
            assert isinstance(answer, Pubrec)
            assert answer.reason < 0x80
            assert publisher.send(Pubrel(message.packet_id)).packets() == [Pubcomp(message.packet_id)]


def say(world: World, topic: str, payload: bytes = b"x", qos: int = 0, **fields: Any) -> None:
    """Somebody publishes this and leaves."""
    publisher = connect(world, "", session_expiry_interval=0)
    hand_over(publisher, publish(topic, payload, qos, id=1, **fields))
    publisher.send(Disconnect())


def finish(guest: Peer, *messages: Publish) -> None:
    """Acknowledge these, QoS 2 to the end. Other packets must not come meanwhile."""
    for message in messages:
        if message.qos == 1:
            guest.send(Puback(message.packet_id))
        elif message.qos == 2:
            assert guest.send(Pubrec(message.packet_id)).packets() == [Pubrel(message.packet_id)]
            guest.send(Pubcomp(message.packet_id))


def bystander(world: World, topic_filter: str = "#", qos: int = 0) -> Guest:
    """Another client: it sees what is published, and must never be disturbed."""
    guest = connect(world, "bystander")
    subscribe(guest, topic_filter, qos=qos)
    return guest


def restart(world: World, crash: bool = True) -> World:
    """A new broker on the same store. One that has crashed does nothing more, timers included; one that was stopped
    leaves its store as it is, as if it were on a disk."""
    if crash:
        for call in world.clock.getDelayedCalls():
            call.cancel()
    else:
        world.store.inner.stop = lambda: succeed(None)
    return world.restart(crash)


def assert_sent_away(guest: Peer, reason: Reason) -> None:
    """The broker has said DISCONNECT with this reason, nothing else, and closed the connection."""
    found = guest.packets()
    assert [(type(packet), getattr(packet, "reason", None)) for packet in found] == [(Disconnect, reason)]
    assert guest.closed


def assert_cut_off(guest: Peer, reason: Reason, watcher: Peer) -> None:
    """The broker has sent the client of `with_will` away and published its will, once; nobody else has noticed."""
    assert_sent_away(guest, reason)
    assert watcher.packets() == [WILL]
    assert watcher.alive()


def assert_refused(guest: Peer, reason: Reason) -> None:
    """The broker has said CONNACK with this reason, nothing else, and closed the connection."""
    [connack] = guest.packets()
    assert isinstance(connack, Connack)
    assert (connack.reason, connack.session_present) == (reason, False)
    assert guest.closed


def connect_bytes(
    flags: int, *fields: bytes, properties: bytes = b"\0", level: int = 5, name: str | bytes = "MQTT"
) -> bytes:
    """A CONNECT as `flags` and `fields` say, whether or not they fit together."""
    return frame(0x10, string(name) + bytes((level, flags, 0, 60)) + properties + b"".join(fields))


def block(*properties: bytes | str) -> bytes:
    """The Property Length and these properties, each as bytes or hexadecimal."""
    found = b"".join(bytes.fromhex(item) if isinstance(item, str) else item for item in properties)
    assert len(found) < 128
    return bytes((len(found),)) + found


class NoSecrets:
    """An authorizer that keeps everybody from `secret`."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        return topic != "secret"

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return filter != "secret"


def identifiers(packet: Packet) -> list[int]:
    """The Subscription Identifiers of a PUBLISH, in rising order."""
    found: Any = getattr(packet, "properties", {}).get(Prop.SUBSCRIPTION_IDENTIFIER, [])
    return sorted(found)
