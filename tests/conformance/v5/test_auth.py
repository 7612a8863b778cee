"""AUTH and enhanced authentication of MQTT 5.0: sections 3.15 and 4.12."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from mqttcluster.broker.auth import Identity
from mqttcluster.broker.enhanced import Challenge, Claim, Finish
from mqttcluster.mqtt.packets import Auth, Connack, Disconnect, Packet, Pingreq, Puback
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker.playbook import World, only_publishes, payloads
from tests.conformance.v5.stage import (
    Guest,
    assert_cut_off,
    assert_refused,
    assert_sent_away,
    bystander,
    call,
    connect,
    durable,
    props,
    publish,
    say,
    subscribe,
    will,
    with_will,
)

CONTINUE, AGAIN = Reason.CONTINUE_AUTHENTICATION, Reason.RE_AUTHENTICATE


class Riddle:
    """A method of authentication: two questions, each answered by the same in capitals; then the client is `sphinx`.

    With `slow`, the last answer waits until the test fires `verdict`.
    """

    name = "RIDDLE"

    def __init__(self) -> None:
        self.slow = False
        self.verdict: Deferred[Finish | Reason] = Deferred()

    def begin(self, claim: Claim) -> Riddling:
        return Riddling(self)


class Riddling:
    """One conversation."""

    def __init__(self, method: Riddle) -> None:
        self._method = method
        self._questions = [b"first", b"second"]
        self._expected = b"please"

    def step(self, data: bytes) -> Challenge | Finish | Reason | Deferred[Finish | Reason]:
        if data != self._expected:
            return Reason.NOT_AUTHORIZED
        if self._questions:
            question = self._questions.pop(0)
            self._expected = question.upper()
            return Challenge(question)
        if self._method.slow:
            return self._method.verdict
        return Finish("sphinx", b"welcome")


class Sphinx:
    """An authorizer that lets nobody publish but the user `sphinx`."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        return client.username == "sphinx"

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return True


@pytest.fixture
def riddle(world: World) -> Riddle:
    """The broker has the method."""
    method = Riddle()
    world.broker.methods[method.name] = method
    return method


def auth(reason: Reason, data: bytes = b"", method: str = "RIDDLE") -> Auth:
    found = {"authentication_data": data} if data else {}
    return Auth(reason, props(authentication_method=method, **found))


def begin(world: World, client_id: str = "c", **fields: object) -> Guest:
    """A client that has been asked the first question."""
    guest = Guest(world).send(
        call(client_id, authentication_method="RIDDLE", authentication_data=b"please", **fields)  # type: ignore[arg-type]
    )
    assert guest.packets() == [auth(CONTINUE, b"first")]
    return guest


def admitted(world: World, client_id: str = "c", **fields: object) -> Guest:
    """A client that has answered all questions."""
    guest = begin(world, client_id, **fields)
    assert guest.send(auth(CONTINUE, b"FIRST")).packets() == [auth(CONTINUE, b"second")]
    guest.send(auth(CONTINUE, b"SECOND"))
    assert guest.take_connack().reason is Reason.SUCCESS
    return guest


# -- methods that are not there


@pytest.mark.rule5("MQTT-4.12.0-1", "MQTT-4.12.0-4", "MQTT-3.1.4-2", "MQTT-4.13.2-1")
@pytest.mark.parametrize("method", ["PLAIN", "GS2-KRB5", "riddle", ""])
def test_a_method_that_is_not_known(world: World, riddle: Riddle, method: str) -> None:
    """CONNACK 0x8C and the end; an existing session is not touched, no will is left."""
    watcher = bystander(world)
    durable(world, "c").drop()
    guest = Guest(world).send(call(authentication_method=method, authentication_data=b"", will=will()))
    assert_refused(guest, Reason.BAD_AUTHENTICATION_METHOD)
    assert watcher.packets() == []
    durable(world, "c", present=True)


@pytest.mark.rule5("MQTT-4.12.0-6", "MQTT-4.12.0-5", "N5-63")
def test_without_a_method_there_is_no_auth(world: World, riddle: Riddle) -> None:
    """Neither AUTH nor a method in CONNACK; user name and password do as they always did. The judge looks, too."""
    guest = connect(world, username="u", password=b"p")
    assert Prop.AUTHENTICATION_METHOD not in guest.connack.properties
    assert Prop.AUTHENTICATION_DATA not in guest.connack.properties
    assert guest.send(publish("t", b"x", 1, id=1)).packets() == [Puback(1, Reason.NO_MATCHING_SUBSCRIBERS)]


# -- before CONNACK


@pytest.mark.rule5("MQTT-4.12.0-2", "MQTT-4.12.0-3", "MQTT-4.12.0-5", "MQTT-3.15.2-1", "MQTT-3.2.0-1")
def test_a_conversation(world: World, riddle: Riddle) -> None:
    """AUTH 0x18 to and fro, and CONNACK with the method and the last word; then the client is served."""
    guest = admitted(world)
    found = guest.connack.properties
    assert (found[Prop.AUTHENTICATION_METHOD], found[Prop.AUTHENTICATION_DATA]) == ("RIDDLE", b"welcome")
    subscribe(guest, "t")
    say(world, "t")
    assert payloads(guest) == [b"x"]


@pytest.mark.rule5("MQTT-4.12.0-5", "MQTT-3.1.4-5")
def test_who_the_client_is_comes_from_the_method() -> None:
    """Its permissions are those of the user that the conversation has led to."""
    world = World(authorizer=Sphinx())
    world.broker.methods["RIDDLE"] = Riddle()
    guest, stranger = admitted(world, "c"), connect(world, "d", username="sphinx")
    guest.send(publish("t", b"x", 1, id=1))
    assert guest.packets() == [Puback(1, Reason.NO_MATCHING_SUBSCRIBERS)]
    assert stranger.alive()


@pytest.mark.rule5("MQTT-4.12.0-4", "MQTT-3.1.4-2", "MQTT-3.2.2-6", "MQTT-3.2.2-7")
@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_server_can_refuse_at_each_step(world: World, riddle: Riddle, step: int) -> None:
    """CONNACK 0x87 and the end; the session that is there is not touched, and there is no will."""
    watcher = bystander(world)
    durable(world, "c").drop()
    if step:
        guest = begin(world, will=will())
        if step == 2:
            guest.send(auth(CONTINUE, b"FIRST")).packets()
        guest.send(auth(CONTINUE, b"wrong"))
    else:
        guest = Guest(world).send(call(authentication_method="RIDDLE", authentication_data=b"wrong", will=will()))
    assert_refused(guest, Reason.NOT_AUTHORIZED)
    assert watcher.packets() == []
    durable(world, "c", present=True)


@pytest.mark.rule5("MQTT-3.1.2-30", "MQTT-3.1.4-6")
@pytest.mark.parametrize(
    "packet",
    [publish("t", b"early", 1, id=1), Pingreq(), call(), "82 07 00 01 00 00 01 74 00"],
    ids=["PUBLISH", "PINGREQ", "CONNECT", "SUBSCRIBE"],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_other_packets_meanwhile(world: World, riddle: Riddle, packet: Packet | str, at_once: bool) -> None:
    """0x82 in CONNACK: before it a client that authenticates sends AUTH and DISCONNECT only."""
    watcher = bystander(world)
    if at_once:
        wanted = call(authentication_method="RIDDLE", authentication_data=b"please")
        guest = Guest(world).send(wanted, packet)
        first, *rest = guest.packets()
        assert first == auth(CONTINUE, b"first")
        guest.put_back(b"".join(encode(each, 5) for each in rest))
    else:
        guest = begin(world)
        guest.send(packet)
    assert_refused(guest, Reason.PROTOCOL_ERROR)
    assert watcher.packets() == []


@pytest.mark.rule5("MQTT-3.1.2-30", "MQTT-3.14.0-1")
def test_a_client_that_gives_up(world: World, riddle: Riddle) -> None:
    """DISCONNECT instead of an answer: closed without a word."""
    guest = begin(world, will=will()).send(Disconnect())
    assert guest.bytes() == b""
    assert guest.closed


@pytest.mark.rule5("MQTT-4.12.0-3", "MQTT-4.12.0-5", "MQTT-3.15.2-1", "N5-27")
@pytest.mark.parametrize(
    "packet",
    [
        auth(CONTINUE, b"FIRST", method="OTHER"),
        auth(AGAIN, b"FIRST"),
        auth(Reason.SUCCESS, b"FIRST"),
        "F0 00",
        "F0 02 18 00",
    ],
    ids=["another method", "re-authenticate", "success", "nothing", "no method"],
)
def test_an_answer_that_is_none(world: World, riddle: Riddle, packet: Auth | str) -> None:
    """0x82 in CONNACK: another method, a code that is not 0x18, or no method."""
    assert_refused(begin(world).send(packet), Reason.PROTOCOL_ERROR)


@pytest.mark.rule5("N5-32", "MQTT-4.12.0-4")
def test_a_client_that_does_not_answer(world: World, riddle: Riddle) -> None:
    """It is not waited for without end, and hears no DISCONNECT."""
    guest = begin(world)
    world.advance(world.settings.connect_timeout + 1)
    assert guest.closed
    assert all(isinstance(packet, Connack) for packet in guest.packets())


@pytest.mark.rule5("MQTT-3.1.0-1", "MQTT-3.2.0-1")
def test_auth_before_connect(world: World, riddle: Riddle) -> None:
    """Closed without a word."""
    guest = Guest(world).send(auth(CONTINUE, b"FIRST"), call())
    assert guest.bytes() == b""
    assert guest.closed


# -- after CONNACK


@pytest.mark.rule5("MQTT-4.12.1-1", "MQTT-3.15.2-1", "MQTT-4.12.0-2", "MQTT-4.12.0-5")
def test_authenticating_again(world: World, riddle: Riddle) -> None:
    """AUTH 0x19, the same questions, AUTH 0x00 with the method; as often as the client likes."""
    guest = admitted(world)
    for _ in range(2):
        assert guest.send(auth(AGAIN, b"please")).packets() == [auth(CONTINUE, b"first")]
        assert guest.send(auth(CONTINUE, b"FIRST")).packets() == [auth(CONTINUE, b"second")]
        assert guest.send(auth(CONTINUE, b"SECOND")).packets() == [auth(Reason.SUCCESS, b"welcome")]
    assert guest.alive()


@pytest.mark.rule5("N5-62")
def test_everything_goes_on_meanwhile(world: World, riddle: Riddle) -> None:
    """Messages in both directions, while a question is open and while the answer is judged."""
    guest = admitted(world)
    subscribe(guest, "t")
    riddle.slow = True
    guest.send(auth(AGAIN, b"please"), publish("u", b"x", 1, id=1))
    assert [type(packet) for packet in guest.packets()] == [Auth, Puback]
    guest.send(auth(CONTINUE, b"FIRST")).packets()
    guest.send(auth(CONTINUE, b"SECOND"), publish("u", b"x", 1, id=2))
    say(world, "t")
    found = guest.packets()
    assert [packet.payload for packet in only_publishes(found)] == [b"x"]
    assert any(isinstance(packet, Puback) for packet in found)
    riddle.verdict.callback(Finish("sphinx"))
    world.settle()
    assert guest.packets() == [auth(Reason.SUCCESS)]


@pytest.mark.rule5("MQTT-4.12.1-2", "MQTT-4.13.2-1", "N5-57")
@pytest.mark.parametrize("step", [0, 1])
def test_failing_to_authenticate_again(world: World, riddle: Riddle, step: int) -> None:
    """DISCONNECT 0x87, and the will goes out."""
    watcher, guest = bystander(world), admitted(world, "mortal", will=will())
    if step:
        guest.send(auth(AGAIN, b"please")).packets()
        guest.send(auth(CONTINUE, b"wrong"))
    else:
        guest.send(auth(AGAIN, b"wrong"))
    assert_cut_off(guest, Reason.NOT_AUTHORIZED, watcher)


@pytest.mark.rule5("MQTT-4.12.1-2")
def test_a_client_must_stay_who_it_is(world: World, riddle: Riddle) -> None:
    """Who comes out as somebody else is sent away."""
    guest = admitted(world)
    riddle.slow = True
    guest.send(auth(AGAIN, b"please"))
    guest.send(auth(CONTINUE, b"FIRST"))
    guest.send(auth(CONTINUE, b"SECOND"))
    guest.packets()
    riddle.verdict.callback(Finish("somebody else"))
    world.settle()
    assert_sent_away(guest, Reason.NOT_AUTHORIZED)


@pytest.mark.rule5("MQTT-4.12.1-1", "N5-27", "MQTT-3.15.2-1")
@pytest.mark.parametrize(
    "packet",
    [
        auth(AGAIN, b"please", method="OTHER"),
        auth(CONTINUE, b"please"),
        auth(Reason.SUCCESS, b"please"),
        "F0 00",
        "F0 02 19 00",
    ],
    ids=["another method", "continue", "success", "nothing", "no method"],
)
def test_authenticating_again_in_a_wrong_way(world: World, riddle: Riddle, packet: Auth | str) -> None:
    """0x82: another method, a code that is not 0x19, or no method."""
    watcher, guest = bystander(world), admitted(world, "mortal", will=will())
    guest.send(packet)
    assert_cut_off(guest, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-4.12.1-1")
def test_authenticating_again_before_the_end(world: World, riddle: Riddle) -> None:
    """0x82: one conversation at a time."""
    guest = admitted(world)
    assert guest.send(auth(AGAIN, b"please")).packets() == [auth(CONTINUE, b"first")]
    guest.send(auth(AGAIN, b"please"))
    assert_sent_away(guest, Reason.PROTOCOL_ERROR)


@pytest.mark.rule5("MQTT-4.12.0-7", "MQTT-4.12.1-1", "MQTT-3.15.2-1", "N5-27")
@pytest.mark.parametrize("reason", [CONTINUE, AGAIN, Reason.SUCCESS], ids=lambda reason: reason.name)
def test_auth_from_a_client_that_named_no_method(world: World, riddle: Riddle, reason: Reason) -> None:
    """0x82, whatever it says; the will goes out."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(auth(reason, b"please"))
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


# -- AUTH as bytes


@pytest.mark.rule5("MQTT-3.15.1-1", "MQTT-2.1.3-1")
@pytest.mark.parametrize("first", range(0xF1, 0x100), ids=hex)
def test_auth_with_flags(world: World, first: int) -> None:
    """0x81."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(bytes((first,)) + bytes.fromhex("0C 18 0A 15 00 02 50 4C 16 00 02 61 62"))
    assert_cut_off(mortal, Reason.MALFORMED_PACKET, watcher)


@pytest.mark.rule5("N5-27", "MQTT-3.15.2-1", "MQTT-4.13.1-1")
@pytest.mark.parametrize(
    "raw", ["F0 00", "F0 02 18 00", "F0 02 19 00", "F0 07 17 05 15 00 02 50 4C", "F0 07 80 05 15 00 02 50 4C"]
)
def test_auth_that_is_not_whole(world: World, raw: str) -> None:
    """No method, or a code that AUTH does not have: 0x82."""
    watcher, mortal = bystander(world), with_will(world)
    mortal.send(raw)
    assert_cut_off(mortal, Reason.PROTOCOL_ERROR, watcher)


@pytest.mark.rule5("MQTT-3.15.2-2", "MQTT-3.15.2-3", "MQTT-3.1.2-24", "MQTT-3.1.2-29")
def test_auth_fits_the_client(world: World, riddle: Riddle) -> None:
    """A client that takes just what is asked is asked it, without remarks; the judge measures."""
    roomy = admitted(world, "roomy")
    largest = max(len(encode(auth(CONTINUE, b"second"), 5)), len(encode(roomy.connack, 5)))
    guest = admitted(world, "small", maximum_packet_size=largest, request_problem_information=0)
    assert guest.remarks == []
    guest.send(auth(AGAIN, b"please"))
    assert guest.packets() == [auth(CONTINUE, b"first")]
    assert Prop.REASON_STRING not in guest.connack.properties
