"""PINGREQ, PINGRESP, DISCONNECT in MQTT 5.0: sections 3.12 to 3.14, and how errors end a connection (4.13)."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import (
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubrec,
    Suback,
    Unsubscribe,
)
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from tests.broker.playbook import World, only_publishes, payloads
from tests.conformance.v5.stage import (
    Guest,
    asked,
    assert_cut_off,
    assert_sent_away,
    bystander,
    call,
    connect,
    durable,
    props,
    publish,
    say,
    subscribe,
    with_will,
)

#: What a client may say when it leaves, besides 0x00.
CLIENTS_REASONS = [0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99]
#: What only a server may say.
SERVERS_REASONS = [0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, *range(0x9A, 0xA3)]


@pytest.mark.rule5("MQTT-3.12.4-1")
def test_every_pingreq_is_answered(world: World) -> None:
    """One PINGRESP for one PINGREQ, three for three in one chunk, and while a publish waits for the store."""
    client = durable(world)
    assert client.send("C0 00").bytes().hex(" ") == "d0 00"
    assert client.send("C0 00 C0 00 C0 00").packets() == [Pingresp()] * 3
    durable(world, "absent").send(asked(1, "t", qos=1)).drop()
    world.hold()
    assert client.send(publish("t", b"x", 2, id=1), Pingreq()).packets() == [Pingresp()]
    world.release()
    assert client.packets() == [Pubrec(1)]


@pytest.mark.parametrize("raw", ["E1 00", "E2 00", "E4 00", "E8 00", "EF 00", "E1 02 00 00"])
@pytest.mark.rule5("MQTT-3.14.1-1", "MQTT-2.1.3-1", "N5-28")
def test_a_disconnect_with_flags(world: World, raw: str) -> None:
    """0x81: it is none, and the will is published."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.parametrize("raw", ["E0 02 00 05", "E0 03 00 00 00", "E0 03 00 01 1F", "E0 03 00 02 26"])
@pytest.mark.rule5("N5-04", "N5-01", "MQTT-4.13.1-1")
def test_a_disconnect_that_is_cut_off(world: World, raw: str) -> None:
    """0x81, and the will is published."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.parametrize("raw", ["E0 00", "E0 01 00", "E0 02 00 00", "E0 06 00 04 1F 00 01 61"])
@pytest.mark.parametrize("kept", [True, False], ids=["durable", "clean"])
@pytest.mark.rule5("MQTT-3.14.4-1", "MQTT-3.14.4-2", "MQTT-3.14.4-3", "N5-56")
def test_a_normal_disconnect(world: World, raw: str, kept: bool) -> None:
    """In all its forms: the server closes and sends nothing more; the will is dropped."""
    watcher, client = bystander(world), with_will(world, session_expiry_interval=60 if kept else 0)
    subscribe(client, "t", qos=1)
    assert client.send(raw).closed
    say(world, "t", b"x", 1)
    assert client.bytes() == b""
    assert payloads(watcher) == [b"x"]


@pytest.mark.parametrize("code", CLIENTS_REASONS, ids=lambda code: f"{code:02X}")
@pytest.mark.rule5("MQTT-3.14.2-1", "N5-57", "N5-56")
def test_a_disconnect_with_a_reason(world: World, code: int) -> None:
    """The server closes without an answer, and the will goes out: only 0x00 takes it back."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(Disconnect(Reason(code), props(reason_string="because", user_property=[("k", "v")])))
    assert mortal.bytes() == b""
    assert mortal.closed
    assert payloads(watcher) == [b"gone"]


@pytest.mark.parametrize("code", SERVERS_REASONS, ids=lambda code: f"{code:02X}")
@pytest.mark.rule5("MQTT-3.14.2-1", "N5-57")
def test_a_disconnect_with_a_reason_of_the_servers(world: World, code: int) -> None:
    """Not for a client to say: 0x82, and the will goes out."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(Disconnect(Reason(code)))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("N5-58", "MQTT-3.14.4-3")
def test_a_client_that_names_another_server(world: World) -> None:
    """Not for a client to say, either: 0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(Disconnect(properties=props(server_reference="other.example")))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.parametrize(
    "behind",
    [
        publish("t", b"x", 1, id=2),
        asked(2, "t"),
        Unsubscribe(2, ["old"]),
        Pingreq(),
        Disconnect(Reason.DISCONNECT_WITH_WILL),
        b"\xff\xff\xff",
    ],
    ids=["PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE", "PINGREQ", "DISCONNECT", "rubbish"],
)
@pytest.mark.parametrize("cut", [False, True], ids=("one chunk", "two chunks"))
@pytest.mark.rule5("MQTT-3.14.4-1", "MQTT-3.14.4-3")
def test_what_comes_behind_disconnect_is_not_processed(world: World, behind: Packet | bytes, cut: bool) -> None:
    """No answer, no message to others, no change of subscriptions, no will."""
    watcher, client = bystander(world), with_will(world, session_expiry_interval=60)
    subscribe(client, "old", qos=1)
    if cut:
        client.send(Disconnect()).send(behind)
    else:
        client.send(Disconnect(), behind)
    assert client.closed
    assert client.bytes() == b""
    assert watcher.packets() == []
    for name in ("old", "t"):
        say(world, name, b"x", 1)
    again = connect(world, "mortal", clean_start=False, present=True)
    assert again.packets() == [publish("old", b"x", 1, id=1)]


@pytest.mark.rule5("MQTT-3.3.4-1", "MQTT-3.14.4-1")
def test_what_was_sent_before_disconnect_counts(world: World) -> None:
    """PUBLISH and DISCONNECT in one chunk: the PUBACK leaves before the connection is closed, the message arrives."""
    watcher, client = bystander(world), connect(world)
    client.send(publish("t", b"x", 1, id=2), Disconnect())
    assert client.packets() == [Puback(2)]
    assert client.closed
    assert payloads(watcher) == [b"x"]


@pytest.mark.rule5("MQTT-3.14.4-1", "MQTT-4.4.0-1")
def test_acknowledgements_before_disconnect_count(world: World) -> None:
    """PUBACK and DISCONNECT in one chunk: the message does not come again."""
    client = durable(world)
    subscribe(client, "t", qos=1)
    say(world, "t", b"x", 1)
    [message] = only_publishes(client.packets())
    client.send(Puback(message.packet_id), Disconnect())
    assert durable(world, present=True).packets() == []


# -- DISCONNECT from the server


@pytest.mark.rule5("MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.0-1", "MQTT-3.14.4-2")
def test_a_broker_that_stops_says_so(world: World) -> None:
    """0x8B to clients of 5.0, nothing to older ones; one that has not been accepted yet hears no DISCONNECT."""
    guest, older, fresh = connect(world), world.connect("older", 4), Guest(world)
    world.broker.stop()
    world.settle()
    assert_sent_away(guest, Reason.SERVER_SHUTTING_DOWN)
    assert older.bytes() == b""
    assert older.closed
    assert fresh.bytes() == b""
    assert fresh.closed


@pytest.mark.rule5("N5-58", "MQTT-3.14.2-1")
def test_a_broker_that_stops_names_another_server() -> None:
    """With the name of another server: 0x9C and a Server Reference."""
    world = World(advertise="other.example:1883")
    guest = connect(world)
    world.broker.stop()
    world.settle()
    [packet] = guest.packets()
    assert isinstance(packet, Disconnect)
    assert packet.reason is Reason.USE_ANOTHER_SERVER
    assert packet.properties[Prop.SERVER_REFERENCE] == "other.example:1883"
    assert guest.closed


@pytest.mark.rule5("MQTT-3.14.4-1", "MQTT-3.14.4-2", "MQTT-4.13.2-1", "MQTT-3.14.0-1")
def test_nothing_follows_a_disconnect_of_the_server(world: World) -> None:
    """Messages for a client that was sent away wait for its next connection. The judge watches the old one."""
    guest = durable(world)
    subscribe(guest, "t", qos=1)
    guest.send("36 00")
    say(world, "t", b"x", 1)
    assert_sent_away(guest, Reason.MALFORMED_PACKET)
    world.advance(100)
    assert guest.bytes() == b""
    assert payloads(durable(world, present=True)) == [b"x"]


@pytest.mark.rule5("MQTT-3.14.0-1", "MQTT-3.2.0-1")
def test_an_error_before_connack_is_told_by_connack(world: World) -> None:
    """No DISCONNECT to a client that was not accepted."""
    guest = Guest(world).send("10 0E 00 04 4D 51 54 54 05 03 00 3C 00 00 01 61")
    arrived = guest.bytes()
    assert arrived[0] == 0x20
    assert guest.closed


@pytest.mark.rule5("MQTT-4.13.1-1", "MQTT-3.14.0-1")
def test_an_error_right_behind_connect(world: World) -> None:
    """CONNACK for the good CONNECT, DISCONNECT for what follows."""
    guest = Guest(world).send(call(), "36 00")
    guest.take_connack()
    assert_sent_away(guest, Reason.MALFORMED_PACKET)


@pytest.mark.rule5("MQTT-4.13.1-1", "N5-61")
def test_faults_of_one_client_touch_no_other(world: World) -> None:
    """Many clients break the rules; the one beside them goes on."""
    guest = connect(world)
    subscribe(guest, "t")
    for raw in ("36 00", "00 00", "E1 00", "30 FF FF FF FF", "82 03 00 01 00", "F0 00", "10 00"):
        connect(world, "").send(raw)
        say(world, "t")
        assert payloads(guest) == [b"x"]
    assert guest.send(asked(2, "u")).packets() == [Suback(2, [Reason.SUCCESS])]
