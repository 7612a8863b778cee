"""The opening handshake, as browsers, other programs and strangers see it."""

from __future__ import annotations

from typing import Any

import pytest

from mqttcluster.net.handshake import MAX_HEAD
from mqttcluster.net.websocket import WebSocketFactory
from tests.net.websocket_peer import Browser, binary, request


def refused(browser: Browser) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of the only answer; the connection has to end with it and MQTT must not have begun."""
    head, _, body = browser.answer().partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert browser.ended
    assert not browser.recorders
    assert headers["connection"].endswith("close")
    return int(status.split()[1]), headers, body.decode()


@pytest.mark.rule("MQTT-6.0.0-3", "MQTT-6.0.0-4")
@pytest.mark.rule5("MQTT-6.0.0-3", "MQTT-6.0.0-4")
@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["mqtt"], "mqtt"),
        (["mqttv3.1"], "mqttv3.1"),
        (["mqttv3.1", "mqtt"], "mqtt"),
        (["wamp", "mqtt", "soap"], "mqtt"),
    ],
)
def test_subprotocol_is_selected(offered: list[str], selected: str) -> None:
    """A browser that offers mqtt among others gets mqtt, an old client mqttv3.1."""
    browser = Browser().open(subprotocols=offered)
    assert browser.accepted.subprotocol == selected
    assert browser.wrapped.made == 1
    assert browser.wrapped.transport is browser.server


@pytest.mark.rule("MQTT-6.0.0-3", "MQTT-6.0.0-4")
@pytest.mark.rule5("MQTT-6.0.0-3", "MQTT-6.0.0-4")
@pytest.mark.parametrize("offered", [None, "", "wamp", "MQTT", "mqtt5", "mqtt;q=1"])
def test_no_subprotocol_of_ours(offered: str | None) -> None:
    """A client that does not offer mqtt reads why it was refused; it is never given something it did not offer."""
    browser = Browser()
    browser.send(request(sec_websocket_protocol=offered))
    status, headers, text = refused(browser)
    assert status == 400
    assert "sec-websocket-protocol" not in headers
    assert "mqtt" in text
    assert headers["content-type"].startswith("text/plain")


def test_subprotocols_over_several_headers() -> None:
    """Offers may be spread over headers."""
    browser = Browser()
    browser.send(request(sec_websocket_protocol="a\r\nSec-WebSocket-Protocol: mqtt"))
    assert b"Sec-WebSocket-Protocol: mqtt\r\n" in browser.answer()


def test_the_accept_token() -> None:
    """The token is the one the standard gives for the key in its example (RFC 6455, 1.3)."""
    browser = Browser()
    browser.send(request())
    answer = browser.answer()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer


REFUSALS: list[tuple[str, bytes, int]] = [
    ("other path", request("/"), 404),
    ("longer path", request("/mqtt/"), 404),
    ("whole URL", request("http://broker.example/mqtt"), 404),
    ("POST", request(method="POST"), 405),
    ("browser's address bar", request(upgrade=None, connection="keep-alive"), 426),
    ("another upgrade", request(upgrade="h2c"), 426),
    ("health check", b"GET /mqtt HTTP/1.0\r\n\r\n", 426),
    ("no connection header", request(connection=None), 426),
    ("old WebSocket", request(sec_websocket_version="8"), 426),
    ("no version", request(sec_websocket_version=None), 426),
    ("HTTP/1.0", request(version="1.0"), 400),
    ("no key", request(sec_websocket_key=None), 400),
    ("short key", request(sec_websocket_key="abcd"), 400),
    ("key not base64", request(sec_websocket_key="%" * 24), 400),
    ("key with a blank in it", request(sec_websocket_key="dGhlIHNhbXBs ZSBub25jZQ=="), 400),
    ("key not ASCII", request(sec_websocket_key="ü" * 12), 400),
    ("no host", request(host=None), 400),
    ("body", request(content_length="5") + b"hello", 400),
    ("chunked body", request(transfer_encoding="chunked"), 400),
    ("not HTTP", b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", 400),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ("garbage", b"nonsense\r\n\r\n", 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
]


@pytest.mark.parametrize(("data", "expected"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_refusals(data: bytes, expected: int) -> None:
    """Whoever does not ask for MQTT over WebSocket gets an answer that fits and a text that says why."""
    browser = Browser()
    browser.send(data)
    status, headers, text = refused(browser)
    assert status == expected
    assert text.strip()
    assert int(headers["content-length"]) == len(text.encode())
    if status == 405:
        assert headers["allow"] == "GET"
    if status == 426:
        assert headers["upgrade"] == "websocket"


def test_head_has_no_body() -> None:
    """A health check by HEAD is not sent a body it would not read."""
    browser = Browser()
    browser.send(request(method="HEAD"))
    assert refused(browser)[::2] == (405, "")


def test_old_version_is_told_the_right_one() -> None:
    """A client of another WebSocket version learns which one is spoken (RFC 6455, 4.4)."""
    browser = Browser()
    browser.send(request(sec_websocket_version="8"))
    assert refused(browser)[1]["sec-websocket-version"] == "13"


def test_configured_path_and_query() -> None:
    """The path is configured; a query does not matter."""
    browser = Browser(path="/other").open(target="/other?token=1")
    assert browser.wrapped.made == 1


ORIGINS = ["https://example.org", "http://localhost:8000", "null"]


@pytest.mark.parametrize(
    ("allowed", "origin", "accepted"),
    [
        ([], "https://anywhere.example", True),
        ([], None, True),
        (ORIGINS, "https://example.org", True),
        (ORIGINS, "HTTPS://Example.ORG", True),
        (["HTTPS://Example.ORG"], "https://example.org", True),
        (ORIGINS, "http://localhost:8000", True),
        (ORIGINS, "null", True),
        (ORIGINS, None, True),
        (ORIGINS, "http://example.org", False),
        (ORIGINS, "https://example.org:8443", False),
        (ORIGINS, "https://example.org.evil.example", False),
        (ORIGINS, "https://sub.example.org", False),
        (ORIGINS, "https://evil.example/https://example.org", False),
        (ORIGINS, "http://localhost", False),
        (ORIGINS, "", False),
        (ORIGINS[:1], "null", False),
        (ORIGINS, "https://example.org\r\nOrigin: https://evil.example", False),
    ],
)
def test_origins(allowed: list[str], origin: str | None, accepted: bool) -> None:
    """Pages of listed origins connect, others get 403; programs, which send no Origin, connect."""
    browser = Browser(origins=allowed)
    browser.send(request(origin=origin))
    if accepted:
        assert browser.wrapped.made == 1
    else:
        assert refused(browser)[0] == 403


@pytest.mark.parametrize(
    "options",
    [
        {"origins": ["example.org"]},
        {"origins": ["https://example.org/"]},
        {"origins": ["https://example.org:443"]},
        {"origins": ["http://example.org:80"]},
        {"origins": ["https://user@example.org"]},
        {"origins": ["https://"]},
        {"origins": ["https://example.org:port"]},
        {"path": "mqtt"},
        {"path": "/mqtt?x"},
        {"max_message": 0},
    ],
)
def test_options_that_could_never_match(options: dict[str, Any]) -> None:
    """A mistake in the configuration is told at once, not by pages that cannot connect."""
    with pytest.raises(ValueError, match=r"not a|default port|Port"):
        Browser(**options)


def test_byte_by_byte() -> None:
    """A handshake and the first packet may arrive one byte at a time."""
    browser = Browser()
    for byte in request() + binary(b"CONNECT"):
        browser.send(bytes([byte]))
    assert browser.wrapped.data == b"CONNECT"


def test_connect_in_the_same_segment() -> None:
    """A client that does not wait for the handshake's answer is understood: MQTT may follow at once."""
    browser = Browser()
    browser.send(request() + binary(b"CONNECT") + binary(b"SUBSCRIBE"))
    assert browser.wrapped.data == b"CONNECTSUBSCRIBE"
    assert browser.answer().startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_head_without_end(size: int) -> None:
    """A head that does not end is cut off at a bound, in whatever pieces it comes."""
    browser = Browser()
    data = (request()[:-2] + b"x: " + b"y" * (2 * MAX_HEAD))[: 2 * MAX_HEAD]
    sent = 0
    while not browser.ended and sent < len(data):
        browser.send(data[sent : sent + size])
        sent += size
    assert refused(browser)[0] == 431
    assert sent <= MAX_HEAD + size


@pytest.mark.parametrize(("extra", "accepted"), [(0, True), (1, False)])
def test_head_of_exactly_the_bound(extra: int, accepted: bool) -> None:
    """The bound holds for a head that arrives complete, and frames after it do not count."""
    browser = Browser()
    room = MAX_HEAD - len(request(x="")) + extra
    browser.send(request(x="y" * room) + binary(b"z" * 1000))
    if accepted:
        assert browser.wrapped.data == b"z" * 1000
    else:
        assert refused(browser)[0] == 431


def test_slow_handshake() -> None:
    """A connection that does not finish its request in time is told so and ended, even when it does not read."""
    browser = Browser(handshake_timeout=10, close_timeout=5)
    browser.send(request()[:50])
    browser.clock.advance(9.9)
    assert not browser.ended
    browser.clock.advance(0.1)
    assert refused(browser)[0] == 408
    browser.send(request()[50:])
    assert not browser.recorders
    assert not browser.aborted
    browser.clock.advance(5)
    assert browser.aborted


def test_handshake_time_ends_with_the_handshake() -> None:
    """A connection that idles after its handshake is left alone; MQTT has its own clocks."""
    browser = Browser(handshake_timeout=10).open()
    browser.clock.advance(3600)
    assert not browser.ended
    assert not browser.clock.getDelayedCalls()


def test_lost_in_handshake() -> None:
    """A client that goes away in its handshake leaves nothing behind, and MQTT never hears of it."""
    browser = Browser()
    browser.send(request()[:50])
    browser.lose()
    assert not browser.recorders
    assert not browser.clock.getDelayedCalls()


def test_no_more_connections() -> None:
    """When the broker takes no more connections, the client gets 503 in words of HTTP."""

    class Full:
        def buildProtocol(self, addr: object) -> None:
            return None

    browser = Browser()
    browser.factory = WebSocketFactory(Full(), clock=browser.clock)  # type: ignore[arg-type]
    browser.server = browser.factory.buildProtocol(None)
    browser.wire.unregisterProducer()
    browser.server.makeConnection(browser.wire)
    browser.send(request())
    assert refused(browser)[0] == 503


def test_after_a_refusal() -> None:
    """What a refused client goes on to send is not read: no second answer."""
    browser = Browser()
    browser.send(request("/"))
    browser.answer()
    browser.send(request())
    assert browser.answer() == b""
    assert not browser.recorders


def test_forwarded_for_is_not_believed() -> None:
    """A client cannot choose the address it seems to come from."""
    browser = Browser()
    browser.send(request(x_forwarded_for="10.9.8.7"))
    assert browser.server.getPeer() == browser.wire.getPeer()
