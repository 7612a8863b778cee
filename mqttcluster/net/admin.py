"""The admin site: whether this node lives and whether it wants clients, for probes and balancers, and its figures.

``GET /healthz``  200 while the reactor turns
``GET /readyz``   200 while new clients are welcome; else 503, and the body says why not
``GET /metrics``  the figures, for Prometheus

Answers to probes are JSON: ``{"status": "ok"}`` or ``{"status": "unavailable", "reasons": ["..."]}``.
`AdminSite.add` puts more under other paths.

Nobody is asked who they are here, so nobody can make this node keep much: bodies of requests are not kept, and of many
connections the oldest make room for the new ones. A probe is one of the new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, cast

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NOT_FOUND, OK, SERVICE_UNAVAILABLE, HTTPChannel, Request
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource

#: Connections at the same time. They are among the files that `mqttcluster.tap` keeps free of clients.
MAX_CONNECTIONS = 32

#: Takes what the client accepts, answers the content type and the text.
Exposition = Callable[[str], tuple[str, bytes]]


class _Answer(Resource):
    """One path: `reasons` tells what is wrong, nothing when all is well."""

    isLeaf = True

    def __init__(self, reasons: Callable[[], Sequence[str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reasons = reasons

    def render_GET(self, request: IRequest) -> bytes:
        reasons = list(self._reasons())
        body: dict[str, object] = {"status": "unavailable", "reasons": reasons} if reasons else {"status": "ok"}
        return _write(request, SERVICE_UNAVAILABLE if reasons else OK, body)


class _Metrics(Resource):
    """The figures."""

    isLeaf = True

    def __init__(self, exposition: Exposition) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._exposition = exposition

    def render_GET(self, request: IRequest) -> bytes:
        content_type, text = self._exposition(request.getHeader("accept") or "")
        request.setHeader(b"content-type", content_type.encode())
        request.setHeader(b"cache-control", b"no-store")
        return text


class _Root(Resource):
    """Everything else."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        return self

    def render_GET(self, request: IRequest) -> bytes:
        paths = sorted(f"/{name.decode()}" for name in self.children)
        return _write(request, NOT_FOUND, {"status": "not found", "paths": paths})


def _write(request: IRequest, code: int, body: dict[str, object]) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    return json.dumps(body).encode() + b"\n"


class _Nowhere(BytesIO):
    """Takes the body of a request and keeps nothing of it."""

    def write(self, data: Any) -> int:
        return len(data)


class _Request(server.Request):
    """One without a body: Twisted would put a large one into a file."""

    def gotLength(self, length: int | None) -> None:
        self.content = _Nowhere()


class _Channel(HTTPChannel):
    """One connection. `channels` has all of them, the oldest first."""

    def __init__(self, channels: dict[_Channel, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._channels = channels

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        self._channels[self] = None
        if len(self._channels) > MAX_CONNECTIONS:
            oldest = next(iter(self._channels))
            del self._channels[oldest]
            cast(ITCPTransport, oldest.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._channels.pop(self, None)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class AdminSite(server.Site):
    """The site's factory. `not_ready` answers why this node wants no new clients, nothing if it does; `exposition` is
    what `/metrics` answers."""

    def __init__(self, not_ready: Callable[[], Sequence[str]], exposition: Exposition) -> None:
        self._root = _Root()  # type: ignore[no-untyped-call]
        super().__init__(self._root, requestFactory=_Request)  # type: ignore[no-untyped-call]
        channels: dict[_Channel, None] = {}
        self.protocol = lambda: _Channel(channels)  # type: ignore[assignment,return-value]
        self.noisy = False
        self.displayTracebacks = False
        self.add("healthz", _Answer(lambda: ()))
        self.add("readyz", _Answer(not_ready))
        self.add("metrics", _Metrics(exposition))

    def add(self, path: str, resource: IResource) -> None:
        """Put `resource` under a path of one word."""
        self._root.putChild(path.encode(), resource)

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS offers: no HTTP/2, whose requests would come by another way than `_Channel`."""
        return [b"http/1.1"]

    def log(self, request: Request) -> None:
        """Probes come every few seconds; the log is not for them."""
