"""The admin site as a probe sees it."""

from __future__ import annotations

import json

import pytest
from twisted.internet.testing import StringTransport

from mqttcluster.net.admin import AdminSite


def ask(path: str, reasons: list[str]) -> tuple[int, dict[str, object]]:
    protocol = AdminSite(lambda: reasons).buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, body = transport.value().split(b"\r\n\r\n", 1)
    assert b"application/json" in head
    start = body.index(b"{")
    return int(head.split()[1]), json.loads(body[start : body.rindex(b"}") + 1])


@pytest.mark.parametrize(
    ("path", "reasons", "code", "body"),
    [
        ("/healthz", [], 200, {"status": "ok"}),
        ("/healthz", ["stopping"], 200, {"status": "ok"}),
        ("/readyz", [], 200, {"status": "ok"}),
        ("/readyz", ["stopping"], 503, {"status": "unavailable", "reasons": ["stopping"]}),
        ("/else", [], 404, {"status": "not found", "paths": ["/healthz", "/readyz"]}),
        ("/", [], 404, {"status": "not found", "paths": ["/healthz", "/readyz"]}),
    ],
)
def test_answers(path: str, reasons: list[str], code: int, body: dict[str, object]) -> None:
    """A probe gets the status code it understands, and a person the reason."""
    assert ask(path, reasons) == (code, body)
