"""The admin site as a probe sees it."""

from __future__ import annotations

import json

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from mqttcluster.net.admin import MAX_CONNECTIONS, AdminSite


def read(site: AdminSite, path: str, *headers: str) -> tuple[bytes, bytes]:
    """The head and the body of an answer."""
    protocol = site.buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    lines = [f"GET {path} HTTP/1.0", "Host: x", *headers, "", ""]
    protocol.dataReceived("\r\n".join(lines).encode())
    head, body = transport.value().split(b"\r\n\r\n", 1)
    return head, body


def ask(path: str, reasons: list[str]) -> tuple[int, dict[str, object]]:
    head, body = read(AdminSite(lambda: reasons, lambda accept: ("text/plain", b"")), path)
    assert b"application/json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("path", "reasons", "code", "body"),
    [
        ("/healthz", [], 200, {"status": "ok"}),
        ("/healthz", ["stopping"], 200, {"status": "ok"}),
        ("/readyz", [], 200, {"status": "ok"}),
        ("/readyz", ["stopping"], 503, {"status": "unavailable", "reasons": ["stopping"]}),
        ("/else", [], 404, {"status": "not found", "paths": ["/healthz", "/metrics", "/readyz"]}),
        ("/", [], 404, {"status": "not found", "paths": ["/healthz", "/metrics", "/readyz"]}),
    ],
)
def test_answers(path: str, reasons: list[str], code: int, body: dict[str, object]) -> None:
    """A probe gets the status code it understands, and a person the reason."""
    assert ask(path, reasons) == (code, body)


def test_metrics() -> None:
    """Prometheus says what it understands, and gets that."""
    site = AdminSite(lambda: (), lambda accept: (accept, b"a_total 1\n"))
    head, body = read(site, "/metrics", "Accept: text/plain; version=0.0.4")
    assert b" 200 OK\r\n" in head
    assert b"Content-Type: text/plain; version=0.0.4\r\n" in head
    assert body == b"a_total 1\n"


def test_bodies_of_requests_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends a large body, or one without an end, fills neither the memory nor the disk."""

    def no_file() -> None:
        raise AssertionError("the body goes into a file")

    monkeypatch.setattr("twisted.web.http.tempfile.TemporaryFile", no_file)
    for length in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
        channel = AdminSite(lambda: (), lambda accept: ("text/plain", b"")).buildProtocol(None)
        channel.makeConnection(StringTransport())
        channel.dataReceived(f"POST /metrics HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        for _ in range(20):
            channel.dataReceived(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        assert channel.requests[0].content.getvalue() == b""


def test_old_connections_make_room_for_new_ones() -> None:
    """Whoever opens many connections keeps no probe out, and none of them stay behind."""
    site = AdminSite(lambda: (), lambda accept: ("text/plain", b""))
    transports = []
    for _ in range(MAX_CONNECTIONS + 2):
        channel = site.buildProtocol(None)
        transports.append(transport := StringTransport())
        channel.makeConnection(transport)
    assert [transport.disconnecting for transport in transports] == [True] * 2 + [False] * MAX_CONNECTIONS
    channel.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 200 OK" in transports[-1].value()


def test_a_connection_that_ended_takes_no_room() -> None:
    """One probe after the other disturbs nobody who stays."""
    site = AdminSite(lambda: (), lambda accept: ("text/plain", b""))
    stays = StringTransport()
    site.buildProtocol(None).makeConnection(stays)
    for _ in range(2 * MAX_CONNECTIONS):
        channel = site.buildProtocol(None)
        channel.makeConnection(StringTransport())
        channel.connectionLost(Failure(ConnectionDone()))
    assert not stays.disconnecting


def test_more_can_be_put_beside_it() -> None:
    """What is added later has a path of its own, and is listed."""
    site = AdminSite(lambda: (), lambda accept: ("text/plain", b""))

    class Dashboard(Resource):
        def render_GET(self, request: object) -> bytes:
            return b"hello"

    site.add("dashboard", Dashboard())
    assert read(site, "/dashboard")[1] == b"hello"
    assert b"/dashboard" in read(site, "/else")[1]
