"""The opening handshake of WebSocket (RFC 6455, 4.2) as a function of bytes; no Twisted, no clock.

``Handshake`` is fed what arrives, piece by piece, and answers None (more is needed), an ``Accepted`` or a ``Refused``.
Both hold the bytes to send. What is checked, in this order, and what a client gets that fails:

=====  ==============================================================================================
 431   the head (request line and headers) is longer than `MAX_HEAD`
 400   not an HTTP/1.1 request
 404   another path than the configured one (a query is ignored)
 405   another method than GET
 426   not an upgrade to WebSocket (a browser's address bar, a health check), or not version 13
 400   a key that is not 16 bytes in base64, or a request with a body
 403   an Origin that is not in the list
 400   no subprotocol offered that is served here
=====  ==============================================================================================

*Origin.* Browsers name the page's origin in every WebSocket handshake and let any page connect anywhere; the server has
to decide. With an empty list any page may connect, which is right where clients must log in with a password that the
page has to know, and wrong where being in the right network is all it takes. A request without Origin is accepted
whatever the list says: it comes from a program, not from a page, and a program could claim any origin anyway. The list
protects browsers' users; it does not replace authentication.

*Proxies.* Headers like X-Forwarded-For are not looked at: anyone can send them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import h11
from wsproto.handshake import server_extensions_handshake
from wsproto.utilities import generate_accept_token

from mqttcluster.net.frames import Deflate

#: Bytes of request line and headers.
MAX_HEAD = 16 * 1024

#: What is spoken here, the best first. The second is what clients of MQTT 3.1 call it.
SUBPROTOCOLS = ("mqtt", "mqttv3.1")

_DEFAULT_PORT = {"http": 80, "https": 443}


class Accepted(NamedTuple):
    """The connection is a WebSocket after `response`. `rest` came after the head and belongs to the frames."""

    response: bytes
    rest: bytes
    subprotocol: str
    deflate: Deflate | None


class Refused(NamedTuple):
    """The connection ends after `response`."""

    response: bytes
    status: int
    reason: str


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, reason: str, *headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


def refuse(status: HTTPStatus, reason: str, *headers: str, body: bool = True) -> Refused:
    """A plain-text answer that ends the connection. `headers` are whole lines; `body` is False for HEAD."""
    text = f"{reason}\n".encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(text)}",
        "Cache-Control: no-store",
        *headers,
    ]
    if not any(line.startswith("Connection:") for line in headers):
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return Refused(head + text if body else head, status.value, reason)


def check_origin(origin: str) -> str:
    """An allowed origin in the form it is compared in. ValueError if no browser would send it like that."""
    normal = origin.lower()
    if normal == "null":
        return normal
    parts = urlsplit(normal)
    if not parts.scheme or not parts.hostname or normal != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise ValueError(f"not an origin like https://example.org or http://localhost:8000: {origin!r}")
    if parts.port is not None and parts.port == _DEFAULT_PORT.get(parts.scheme):
        raise ValueError(f"browsers leave the default port out of an origin: {origin!r}")
    return normal


class Rules:
    """What this listener accepts. `origins` empty means any; `max_message` is for `Deflate`, in bytes."""

    def __init__(self, path: str, origins: Collection[str], deflate: bool, max_message: int) -> None:
        if not path.startswith("/") or "?" in path or "#" in path or not path.isascii():
            raise ValueError(f"not a path like /mqtt: {path!r}")
        if max_message < 1:
            raise ValueError(f"not a size of a message in bytes: {max_message!r}")
        self.path = path
        self.origins = frozenset(check_origin(origin) for origin in origins)
        self.deflate = deflate
        self.max_message = max_message


class Handshake:
    """One connection's handshake."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._received = 0

    def receive(self, data: bytes) -> Accepted | Refused | None:
        """Read some bytes. Not to be called again after an answer."""
        self._received += len(data)
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                return _too_large()
            return _not_http()
        if not isinstance(event, h11.Request):
            return None
        if event.http_version not in (b"1.0", b"1.1"):
            return _not_http()
        rest = bytes(self._http.trailing_data[0])
        if self._received - len(rest) > MAX_HEAD:
            return _too_large()
        try:
            return self._answer(event, rest)
        except _Refusal as refusal:
            with_body = event.method != b"HEAD"
            return refuse(refusal.status, refusal.reason, *refusal.headers, body=with_body)

    def _answer(self, request: h11.Request, rest: bytes) -> Accepted:
        headers: dict[str, list[str]] = {}
        for name, value in request.headers:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if request.target.decode("latin-1").partition("?")[0] != self._rules.path:
            raise _Refusal(
                HTTPStatus.NOT_FOUND, f"There is nothing here. MQTT over WebSocket is at {self._rules.path}."
            )
        if request.method != b"GET":
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is answered here.", "Allow: GET")
        key = _upgrade_key(request, headers)
        self._check_origin(headers)
        subprotocol = _choose_subprotocol(_tokens(headers, "sec-websocket-protocol"))
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {generate_accept_token(key.encode()).decode()}",
            f"Sec-WebSocket-Protocol: {subprotocol}",
        ]
        deflate = None
        if self._rules.deflate:
            deflate, extension = self._choose_deflate(_tokens(headers, "sec-websocket-extensions"))
            if deflate is not None:
                lines.append(f"Sec-WebSocket-Extensions: {extension}")
        return Accepted("\r\n".join(lines).encode() + b"\r\n\r\n", rest, subprotocol, deflate)

    def _check_origin(self, headers: dict[str, list[str]]) -> None:
        origins = headers.get("origin", [])
        if not self._rules.origins or not origins:
            return
        if len(origins) > 1 or origins[0].lower() not in self._rules.origins:
            raise _Refusal(HTTPStatus.FORBIDDEN, "Pages of this origin may not connect here.")

    def _choose_deflate(self, offers: Iterable[str]) -> tuple[Deflate | None, str]:
        for offer in offers:
            # A new one for each offer: a declined offer must not leave its parameters behind.
            deflate = Deflate(self._rules.max_message)
            try:
                accepted = server_extensions_handshake([offer], [deflate])
            except ValueError:  # a window size that is not a number
                continue
            if accepted is not None:
                return deflate, accepted.decode()
        return None, ""


def _not_http() -> Refused:
    return refuse(HTTPStatus.BAD_REQUEST, "This is not an HTTP/1.1 request.")


def _too_large() -> Refused:
    return refuse(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"A request may have {MAX_HEAD} bytes of request line and headers."
    )


def _tokens(headers: dict[str, list[str]], name: str) -> list[str]:
    return [token.strip() for value in headers.get(name, []) for token in value.split(",") if token.strip()]


def _upgrade_key(request: h11.Request, headers: dict[str, list[str]]) -> str:
    """The client's key, when the request is one for a WebSocket."""
    upgrade = "Upgrade: websocket", "Connection: Upgrade, close"
    if "websocket" not in (token.lower() for token in _tokens(headers, "upgrade")) or "upgrade" not in (
        token.lower() for token in _tokens(headers, "connection")
    ):
        raise _Refusal(HTTPStatus.UPGRADE_REQUIRED, "This is an MQTT broker. Connect with a WebSocket.", *upgrade)
    if headers.get("sec-websocket-version") != ["13"]:
        raise _Refusal(
            HTTPStatus.UPGRADE_REQUIRED,
            "This is WebSocket version 13 (RFC 6455) only.",
            *upgrade,
            "Sec-WebSocket-Version: 13",
        )
    if request.http_version != b"1.1":
        raise _Refusal(HTTPStatus.BAD_REQUEST, "A WebSocket begins with HTTP/1.1.")
    # What follows the head is read as frames; a body would be taken for some.
    if "transfer-encoding" in headers or any(value.strip() != "0" for value in headers.get("content-length", [])):
        raise _Refusal(HTTPStatus.BAD_REQUEST, "A request for a WebSocket has no body.")
    keys = headers.get("sec-websocket-key", [])
    try:
        good = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key is to be 16 bytes in base64, once.")
    return keys[0]


def _choose_subprotocol(offered: Collection[str]) -> str:
    for name in SUBPROTOCOLS:
        if name in offered:
            return name
    # A browser would drop a connection that answers with something it has not offered, and one that answers with
    # nothing is not MQTT by the standard [MQTT-6.0.0-3, MQTT-6.0.0-4].
    raise _Refusal(
        HTTPStatus.BAD_REQUEST, f"Sec-WebSocket-Protocol has to offer one of {', '.join(SUBPROTOCOLS)}; it does not."
    )
