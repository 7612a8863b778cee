"""MQTT over WebSocket after the handshake: a byte stream in binary frames, ended in order, bounded both ways."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.logger import globalLogPublisher
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import Opcode

from mqttcluster.net.frames import STEP
from mqttcluster.net.websocket_connection import BrokenRule
from tests.net.websocket_peer import Browser, Recorder, Wire, binary, frame, request

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG


class Producer:
    """A push producer that counts how often it was told what."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


# The stream.


def final_block(data: bytes) -> bytes:
    """`data` deflated, with the end marked."""
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


@pytest.mark.rule("MQTT-6.0.0-2")
@pytest.mark.rule5("MQTT-6.0.0-2")
def test_packets_span_frames_and_share_them() -> None:
    """Where frames begin and end has no meaning: their bytes are one stream."""
    browser = Browser().open()
    browser.send(binary(b"ab") + binary(b"c", fin=False) + frame(CONTINUATION, b"d", fin=False))
    browser.send(frame(CONTINUATION, b"") + binary(b"") + binary(b"efg"))
    assert browser.wrapped.data == b"abcdefg"


@pytest.mark.rule("MQTT-6.0.0-2")
@pytest.mark.rule5("MQTT-6.0.0-2")
def test_unfinished_frame_is_handed_on() -> None:
    """A long frame is handed on as it arrives; nothing waits for its end."""
    browser = Browser().open()
    whole = binary(bytes(range(256)) * 400)
    for start in range(0, len(whole), 1000):
        browser.send(whole[start : start + 1000])
        assert len(browser.wrapped.data) >= start + 1000 - 14 or start + 1000 > len(whole)
    assert browser.wrapped.data == bytes(range(256)) * 400


def test_byte_by_byte() -> None:
    """Frames with real masks arrive one byte at a time, with pings between their fragments."""
    browser = Browser().open()
    stream = b"".join(
        browser.client.send(event)
        for event in (
            BytesMessage(b"one", message_finished=False),
            Ping(b"?"),
            BytesMessage(b"two"),
            BytesMessage(b"x" * 300),
            CloseConnection(1000),
        )
    )
    for byte in stream:
        browser.send(bytes([byte]))
    assert browser.wrapped.data == b"onetwo" + b"x" * 300
    assert browser.close_codes() == [1000]


def test_frames_of_one_chunk_come_together() -> None:
    """A chunk with many frames is one turn for the MQTT layer, so that its answers can be one write."""
    browser = Browser().open()
    browser.send(b"".join(binary(b"%d" % digit) for digit in range(10)))
    assert browser.wrapped.chunks == [b"0123456789"]


@pytest.mark.rule("MQTT-6.0.0-1")
@pytest.mark.rule5("MQTT-6.0.0-1")
@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536, 1_000_000])
def test_one_binary_frame_for_each_write(size: int) -> None:
    """The client gets what is written as one binary message, whatever its length."""
    browser = Browser().open()
    browser.server.write(b"x" * size)
    assert [event.data for event in browser.events()] == [b"x" * size]
    browser.server.writeSequence([b"a", b"b"])
    browser.server.write(b"")
    assert browser.events() == [BytesMessage(data=b"ab")]


def test_addresses_and_what_else_a_transport_has() -> None:
    """Address and certificate of the client are those of the real connection."""
    browser = Browser().open()
    transport: Any = browser.wrapped.transport
    assert transport.getPeer() == browser.wire.getPeer()
    assert transport.getHost() == browser.wire.getHost()
    assert transport.getPeerCertificate() == "the certificate"
    assert not transport.disconnecting
    assert not hasattr(transport, "no_such_thing")


# Text, pings, and what breaks the rules.


@pytest.mark.rule("MQTT-6.0.0-1")
@pytest.mark.rule5("MQTT-6.0.0-1")
@pytest.mark.parametrize("text", [frame(TEXT, b"hello"), frame(TEXT, b"", fin=False), frame(TEXT)])
def test_text_is_refused(text: bytes) -> None:
    """A text frame closes with 1003. What came before it is used, what comes after is not, and the will is due."""
    browser = Browser().open()
    browser.send(binary(b"before") + text + binary(b"after"))
    assert browser.wrapped.data == b"before"
    assert browser.close_codes() == [1003]
    assert browser.ended
    assert browser.server.disconnecting
    browser.send(binary(b"later"))
    browser.lose()
    assert browser.wrapped.data == b"before"
    assert browser.wrapped.lost is not None
    assert browser.wrapped.lost.check(BrokenRule)
    assert browser.wrapped.lost.value.code == 1003


BROKEN: list[tuple[str, bytes, int]] = [
    ("unmasked", frame(BINARY, b"x", mask=False), 1002),
    ("reserved bit 1", frame(BINARY, b"x", rsv=4), 1002),
    ("reserved bit 2", frame(BINARY, b"x", rsv=2), 1002),
    ("reserved bit 3", frame(BINARY, b"x", rsv=1), 1002),
    ("opcode 3", frame(3, b"x"), 1002),
    ("opcode 11", frame(11), 1002),
    ("fragmented ping", frame(PING, b"x", fin=False), 1002),
    ("long ping", frame(PING, b"x" * 126), 1002),
    ("continuation of nothing", frame(CONTINUATION, b"x"), 1002),
    ("message in a message", binary(b"x", fin=False) + binary(b"y"), 1002),
    ("close of 1 byte", frame(CLOSE, b"x"), 1002),
    ("close 999", frame(CLOSE, struct.pack("!H", 999)), 1002),
    ("close 1005", frame(CLOSE, struct.pack("!H", 1005)), 1002),
    ("close 1006", frame(CLOSE, struct.pack("!H", 1006)), 1002),
    ("close 2000", frame(CLOSE, struct.pack("!H", 2000)), 1002),
    ("close 5000", frame(CLOSE, struct.pack("!H", 5000)), 1002),
    ("close with a bad reason", frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
    ("length in too many bytes", b"\x82\xfe\x00\x01\x00\x00\x00\x00x", 1002),
    ("negative length", b"\x82\xff\xff" + bytes(11), 1002),
]


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
@pytest.mark.parametrize("deflate", [False, True])
def test_broken_rules(data: bytes, code: int, deflate: bool) -> None:
    """A client that breaks a rule of WebSocket is told by the close code, and the connection ends."""
    browser = Browser(deflate=deflate).open(extensions=[PerMessageDeflate()] if deflate else [])
    if deflate and data[0] & 0x40:
        code, data = 1007, frame(BINARY, b"\xff", rsv=4)  # the bit is allowed then, what follows it is not
    browser.send(binary(b"good") + data + binary(b"after"))
    assert browser.wrapped.data in (b"good", b"goodx")
    assert browser.close_codes() == [code]
    assert browser.ended


def test_ping_and_pong() -> None:
    """Each ping is answered with its payload; pongs nobody asked for are ignored."""
    browser = Browser().open()
    browser.send(frame(PING, b"a") + frame(PONG, b"b") + frame(PING) + frame(PONG))
    assert browser.events() == [Pong(payload=b"a"), Pong(payload=b"")]
    assert browser.wrapped.chunks == []


def test_flood_of_pings() -> None:
    """A client that pings and does not read gets, when it reads again, one pong, for its last ping."""
    browser = Browser().open()
    browser.wire.full()
    for n in range(1000):
        browser.send(frame(PING, b"%d" % n) * 10)
    assert browser.answer() == b""
    browser.send(binary(b"still read"))
    assert browser.wrapped.data == b"still read"
    browser.wire.drained()
    assert browser.events() == [Pong(payload=b"999")]
    browser.wire.full()
    browser.wire.drained()
    assert browser.answer() == b""


# Backpressure.


def test_outgoing_backpressure() -> None:
    """The MQTT layer stops producing while the client's connection is full, and goes on after."""
    browser = Browser().open()
    producer = Producer()
    browser.server.registerProducer(producer, True)
    browser.wire.full()
    browser.wire.drained()
    assert producer.calls == ["pause", "resume"]
    with pytest.raises(RuntimeError):
        browser.server.registerProducer(Producer(), True)
    browser.server.unregisterProducer()
    browser.wire.full()
    assert producer.calls == ["pause", "resume"]
    late = Producer()
    browser.server.registerProducer(late, True)
    assert late.calls == ["pause"]


def test_pull_producers() -> None:
    """A pull producer is refused, not forgotten."""
    with pytest.raises(ValueError, match="push"):
        Browser().open().server.registerProducer(Producer(), False)


@pytest.mark.parametrize("ended_before", [False, True])
def test_producer_is_stopped_with_the_connection(ended_before: bool) -> None:
    """Nobody goes on producing for a client that is gone."""
    browser = Browser().open()
    producer = Producer()
    browser.server.registerProducer(producer, True)
    if ended_before:
        browser.send(frame(CLOSE))
    else:
        browser.wire.producer.stopProducing()  # as a transport does that loses its connection
    browser.lose()
    assert producer.calls == ["stop"]
    late = Producer()
    browser.server.registerProducer(late, True)
    assert late.calls == ["stop"]


class Pausing(Recorder):
    """Pauses at each chunk."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.pauseProducing()


def test_incoming_backpressure() -> None:
    """While the MQTT layer is paused nothing is read, and what was read waits; it all comes later, in order."""
    browser = Browser(Pausing).open()
    transport: Any = browser.wrapped.transport
    browser.send(binary(b"1"))
    assert browser.wire.producerState == "paused"
    browser.send(binary(b"2"))
    browser.send(binary(b"3"))
    assert browser.wrapped.chunks == [b"1"]
    transport.resumeProducing()
    transport.resumeProducing()
    assert browser.wrapped.chunks == [b"1"], "handed on inside resumeProducing"
    browser.clock.advance(0)
    assert browser.wrapped.chunks == [b"1", b"2"]
    assert browser.wire.producerState == "paused"
    transport.resumeProducing()
    browser.clock.advance(0)
    assert browser.wrapped.chunks == [b"1", b"2", b"3"]
    transport.resumeProducing()
    assert browser.wire.producerState == "producing"
    assert not browser.clock.getDelayedCalls()


def test_pause_taken_back_before_delivery() -> None:
    """Pausing again before the waiting bytes were handed on keeps them waiting."""
    browser = Browser(Pausing).open()
    transport: Any = browser.wrapped.transport
    browser.send(binary(b"1"))
    browser.send(binary(b"2"))
    transport.resumeProducing()
    transport.pauseProducing()
    browser.clock.advance(0)
    assert browser.wrapped.chunks == [b"1"]
    assert browser.wire.producerState == "paused"


def test_resume_within_delivery() -> None:
    """Pause and resume while bytes are being handed on change nothing."""

    class Nervous(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()
            self.transport.resumeProducing()

    browser = Browser(Nervous).open()
    browser.send(binary(b"1"))
    browser.send(binary(b"2"))
    assert browser.wrapped.chunks == [b"1", b"2"]
    assert browser.wire.producerState == "producing"
    assert not browser.clock.getDelayedCalls()


def test_lost_while_paused() -> None:
    """A connection that is lost while bytes wait hands nothing on afterwards."""
    browser = Browser(Pausing).open()
    browser.send(binary(b"1"))
    browser.send(binary(b"2"))
    transport: Any = browser.wrapped.transport
    transport.resumeProducing()
    browser.lose()
    assert not browser.clock.getDelayedCalls()
    browser.clock.advance(0)
    assert browser.wrapped.chunks == [b"1"]


def test_failure_in_a_later_turn() -> None:
    """A fault of the MQTT layer drops this connection, in a later turn too; it does not leave it stuck."""

    class Failing(Pausing):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            if len(self.chunks) == 2:
                raise ZeroDivisionError

    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        browser = Browser(Failing).open()
        browser.send(binary(b"1"))
        browser.send(binary(b"2"))
        transport: Any = browser.wrapped.transport
        transport.resumeProducing()
        browser.clock.advance(0)
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert browser.aborted
    assert [event["log_failure"].type for event in events if "log_failure" in event] == [ZeroDivisionError]


# The end.


@pytest.mark.parametrize(
    ("payload", "code"), [(b"", 1005), (struct.pack("!H", 1000), 1000), (struct.pack("!H", 4321) + b"bye", 4321)]
)
def test_client_closes(payload: bytes, code: int) -> None:
    """A client's Close is answered with its code and the connection ends; what it sends after it is ignored."""
    browser = Browser().open()
    browser.client.send(CloseConnection(1000))  # so that it takes the answer for one
    browser.send(binary(b"last") + frame(CLOSE, payload) + binary(b"after") + frame(PING))
    assert browser.wrapped.data == b"last"
    assert browser.close_codes() == [code]
    assert browser.ended
    browser.send(binary(b"later"))
    browser.server.write(b"into the void")
    assert browser.answer() == b""
    assert browser.wrapped.lost is None
    browser.lose()
    assert browser.wrapped.lost is not None
    assert browser.wrapped.lost.check(ConnectionDone)
    assert not browser.clock.getDelayedCalls()


def test_answer_to_the_last_bytes() -> None:
    """What is answered to bytes that came with the client's Close is sent before the Close."""

    class Echo(Recorder):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(data)

    browser = Browser(Echo).open()
    browser.send(binary(b"last") + frame(CLOSE))
    assert browser.events()[0] == BytesMessage(data=b"last")


def test_client_does_not_take_the_end() -> None:
    """A client that does not read the answer to its Close is aborted after a while."""
    browser = Browser(close_timeout=5).open()
    browser.send(frame(CLOSE))
    browser.clock.advance(4.9)
    assert not browser.aborted
    browser.clock.advance(0.1)
    assert browser.aborted


def test_server_closes() -> None:
    """The broker ends in order: what was written, Close 1000, then it waits for the client's Close."""
    browser = Browser(close_timeout=5).open()
    browser.server.write(b"bye")
    browser.server.loseConnection()
    browser.server.loseConnection()
    assert browser.server.disconnecting
    browser.server.write(b"not sent")
    events = browser.events()
    assert events == [BytesMessage(data=b"bye"), CloseConnection(code=1000, reason="")]
    assert not browser.ended
    browser.send(binary(b"dropped") + frame(PING) + browser.client.send(events[1].response()))
    assert browser.wrapped.data == b""
    assert browser.answer() == b""
    assert browser.ended
    browser.clock.advance(4.9)
    assert not browser.aborted
    browser.lose()
    assert browser.wrapped.lost is not None
    assert not browser.clock.getDelayedCalls()


@pytest.mark.parametrize("goes_on", [b"", binary(b"x"), frame(CLOSE)])
def test_server_closes_and_the_client_does_not(goes_on: bytes) -> None:
    """One bound holds for the whole end, whatever the client does: after it the connection is aborted."""
    browser = Browser(close_timeout=5).open()
    browser.server.loseConnection()
    browser.clock.advance(4.9)
    browser.send(goes_on)
    assert not browser.aborted
    browser.clock.advance(0.1)
    assert browser.aborted


def test_server_closes_while_paused() -> None:
    """A paused connection that is closed reads on, for the client's Close; the waiting bytes are dropped."""
    browser = Browser(Pausing).open()
    browser.send(binary(b"1"))
    browser.send(binary(b"2") + frame(CLOSE))
    browser.server.loseConnection()
    browser.clock.advance(0)
    assert browser.wrapped.chunks == [b"1"]
    assert browser.ended


def test_client_closes_while_paused() -> None:
    """The end of a paused connection is read for: TLS needs the client's part in it."""
    browser = Browser(Pausing).open()
    browser.send(binary(b"1") + frame(CLOSE))
    assert browser.ended
    assert browser.wire.producerState == "producing"


def test_server_closes_upon_bytes_with_a_close() -> None:
    """Both sides close at once, and each Close is sent once."""

    class Leaving(Recorder):
        def dataReceived(self, data: bytes) -> None:
            self.transport.loseConnection()

    browser = Browser(Leaving).open()
    browser.send(binary(b"DISCONNECT") + frame(CLOSE))
    assert browser.answer() == b"\x88\x02\x03\xe8"
    assert browser.ended


def test_broken_rule_while_closing() -> None:
    """After our Close there is no second one, whatever comes."""
    browser = Browser().open()
    browser.server.loseConnection()
    browser.answer()
    browser.send(frame(TEXT, b"x"))
    assert browser.answer() == b""
    assert browser.ended


def test_producer_does_not_hold_up_the_end() -> None:
    """A connection with a paused producer ends: a transport would wait for a producer that is still registered."""
    browser = Browser().open()
    producer = Producer()
    browser.server.registerProducer(producer, True)
    browser.wire.full()
    browser.server.loseConnection()
    browser.wire.drained()
    assert producer.calls == ["pause"]
    browser.send(frame(CLOSE))
    assert browser.wire.producer is None
    assert browser.ended


def test_abort() -> None:
    """An abort is immediate: no Close, nothing more is handed on."""
    browser = Browser().open()
    browser.server.abortConnection()
    assert browser.aborted
    assert browser.answer() == b""
    browser.send(binary(b"x"))
    browser.server.write(b"x")
    assert (browser.wrapped.data, browser.answer()) == (b"", b"")
    browser.lose()
    assert browser.wrapped.lost is not None


def test_closed_as_soon_as_made() -> None:
    """The MQTT layer may turn a connection away when it is made."""

    class Rejecting(Recorder):
        def connectionMade(self) -> None:
            self.transport.loseConnection()

    browser = Browser(Rejecting)
    browser.send(request() + binary(b"CONNECT"))
    assert browser.answer().endswith(b"\r\n\r\n\x88\x02\x03\xe8")
    assert browser.wrapped.data == b""


def test_start_and_stop() -> None:
    """The wrapped factory is started and stopped with the listener."""

    class Noted(Factory):  # type: ignore[type-arg]
        notes: list[str] = []  # noqa: RUF012
        noisy = False

        def startFactory(self) -> None:
            self.notes.append("start")

        def stopFactory(self) -> None:
            self.notes.append("stop")

    browser = Browser()
    browser.factory.wrapped = Noted()
    browser.factory.doStart()
    browser.factory.doStop()
    assert Noted.notes == ["start", "stop"]


# Compression.


def compressed(payload: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def deflating(max_message: int = 1 << 20, **parameters: Any) -> Browser:
    browser = Browser(deflate=True, max_message=max_message).open(extensions=[PerMessageDeflate(**parameters)])
    assert [extension.name for extension in browser.accepted.extensions] == ["permessage-deflate"]
    return browser


def test_deflate_is_off_unless_asked_for() -> None:
    """Compression is not agreed to by default; a client that compresses all the same breaks a rule."""
    browser = Browser().open(extensions=[PerMessageDeflate()])
    assert browser.accepted.extensions == []
    browser = Browser(deflate=True).open()
    assert browser.accepted.extensions == []


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"client_no_context_takeover": True},
        {"server_no_context_takeover": True},
        {"client_max_window_bits": 9, "server_max_window_bits": 10},
    ],
)
def test_deflate_both_ways(parameters: dict[str, Any]) -> None:
    """Compressed messages are read and written, fragmented and one after the other, with a ping between fragments."""
    browser = deflating(**parameters)
    for round_ in range(3):
        text = b"temperature=%d;" % round_ * 2000
        browser.send(browser.client.send(BytesMessage(text[:100], message_finished=False)))
        browser.send(browser.client.send(Ping(b"!")))
        browser.send(browser.client.send(BytesMessage(text[100:])))
        browser.send(binary(b"plain"))
        assert browser.wrapped.data == text + b"plain"
        browser.wrapped.chunks.clear()
        browser.server.write(text)
        assert len(browser.wire.value()) < len(text) / 10
        pong, *messages = browser.events()
        assert pong == Pong(payload=b"!")
        assert b"".join(message.data for message in messages) == text


@pytest.mark.parametrize(
    ("offer", "accepted"),
    [
        ("permessage-deflate; client_max_window_bits=many", None),
        ('permessage-deflate; client_max_window_bits="12"', None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; server_max_window_bits=99, permessage-deflate", b"permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", b"permessage-deflate; client_max_window_bits=15"),
        ("\xff", None),
    ],
)
def test_offers_of_compression(offer: str, accepted: bytes | None) -> None:
    """The first offer that can be met is accepted; without one the connection goes on uncompressed."""
    browser = Browser(deflate=True)
    browser.send(request(sec_websocket_extensions=offer))
    head = browser.answer()
    assert head.startswith(b"HTTP/1.1 101 ")
    lines = [line for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Extensions")]
    assert lines == ([] if accepted is None else [b"Sec-WebSocket-Extensions: " + accepted])
    browser.send(binary(b"plain"))
    assert browser.wrapped.data == b"plain"


@pytest.mark.parametrize("max_message", [1 << 16, 1 << 20])
def test_bomb(max_message: int) -> None:
    """A small message that would become huge closes with 1009; the broker never holds much more than the bound."""
    browser = deflating(max_message)
    bomb = frame(BINARY, compressed(bytes(1 << 28)), rsv=4)
    assert len(bomb) < 300_000
    tracemalloc.start()
    try:
        browser.send(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert browser.close_codes() == [1009]
    assert browser.ended
    assert len(browser.wrapped.data) <= max_message
    assert peak < 4 * max_message + 2 * len(bomb)


@pytest.mark.parametrize(("size", "codes"), [(5000, []), (5001, [1009])])
def test_exactly_the_bound(size: int, codes: list[int]) -> None:
    """The bound is for one message: the next one has it for itself."""
    browser = deflating(max_message=5000)
    for _ in range(3):
        browser.send(frame(BINARY, compressed(bytes(4000)), rsv=4))
    assert browser.wrapped.data == bytes(12_000)
    packed = compressed(bytes(size))
    browser.send(frame(BINARY, packed[:5], rsv=4, fin=False) + frame(CONTINUATION, packed[5:]))
    assert browser.close_codes() == codes


def test_bound_is_for_compressed_messages() -> None:
    """A message that is not compressed costs nothing to hand on, so it may be of any length."""
    browser = deflating(max_message=1000)
    browser.send(binary(b"x" * 100_000))
    assert len(browser.wrapped.data) == 100_000


def test_pause_amid_compressed_bytes() -> None:
    """A paused MQTT layer is not given what compressed bytes that wait would become."""
    browser = Browser(Pausing, deflate=True, max_message=1 << 30).open(extensions=[PerMessageDeflate()])
    packed = compressed(bytes(1 << 25))
    assert len(packed) > 3 * STEP
    browser.send(frame(BINARY, packed, rsv=4))
    assert 0 < len(browser.wrapped.data) <= 1032 * STEP
    turns = 0
    while browser.wire.producerState == "paused":
        turns += 1
        browser.wrapped.transport.resumeProducing()
        browser.clock.advance(0)
    assert len(browser.wrapped.data) == 1 << 25
    assert turns > 3


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"\xff\xff\xff", rsv=4), 1007),
        (frame(BINARY, final_block(b"final"), rsv=4), 1007),
        (frame(PING, b"x", rsv=4), 1002),
        (binary(b"x", fin=False) + frame(CONTINUATION, b"x", rsv=4), 1002),
    ],
    ids=["rubbish", "final block", "compressed ping", "compressed continuation"],
)
def test_bad_compression(data: bytes, code: int) -> None:
    """Compressed bytes that are none close the connection with the code for it."""
    browser = deflating()
    browser.send(data)
    assert browser.close_codes() == [code]
    assert browser.ended


# Anything at all.

_frames = st.builds(
    frame,
    st.one_of(st.sampled_from([BINARY, CONTINUATION, PING, PONG]), st.integers(0, 15)),
    st.binary(max_size=140),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 4, 1]),
    mask=st.sampled_from([True, True, True, False]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=300), _frames), max_size=20), st.booleans(), st.integers(1, 400))
def test_any_bytes(pieces: list[bytes], deflate: bool, size: int) -> None:
    """Whatever a client sends after its handshake, it gets silence, pongs or one Close, and never an exception."""
    browser = Browser(deflate=deflate).open(extensions=[PerMessageDeflate()] if deflate else [])
    stream = b"".join(pieces)
    for start in range(0, len(stream), size):
        browser.send(stream[start : start + size])
    events = browser.events()
    closes = [event for event in events if isinstance(event, CloseConnection)]
    assert all(isinstance(event, Pong | CloseConnection) for event in events)
    assert len(closes) == browser.ended
    assert events[-len(closes) :] == closes if closes else True
    browser.lose()
    assert browser.wrapped.lost is not None
    assert not browser.clock.getDelayedCalls()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=8), st.integers(1, 80))
def test_any_request(pieces: list[bytes], size: int) -> None:
    """Whatever stands in place of a request, the answer is silence or one refusal."""
    browser = Browser()
    stream = b"\r\n".join([b"GET /mqtt HTTP/1.1", b"Host: x", *pieces, b"", b""])
    for start in range(0, len(stream), size):
        browser.send(stream[start : start + size])
    answer = browser.answer()
    assert browser.ended == answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1 4") <= 1
    browser.lose()
    assert not browser.clock.getDelayedCalls()


def test_connections_without_a_request_have_a_bound() -> None:
    """More connections that say nothing than this node takes are closed at once; one that has gone makes room, and so
    does one whose handshake is over."""
    first = Browser(room=lambda: 2)

    def connect() -> Wire:
        wire = Wire()
        first.factory.buildProtocol(wire.getPeer()).makeConnection(wire)
        return wire

    assert [connect().disconnected for _ in range(2)] == [False, True]
    first.lose()
    third = Wire()
    server = first.factory.buildProtocol(third.getPeer())
    server.makeConnection(third)
    assert not third.disconnected
    server.dataReceived(request())
    assert third.value().startswith(b"HTTP/1.1 101 ")
    assert [connect().disconnected for _ in range(2)] == [False, True]
