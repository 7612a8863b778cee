"""The admin site: whether this node lives and whether it wants clients, for probes and balancers, and its figures.

``GET /healthz``  200 while the reactor turns
``GET /readyz``   200 while new clients are welcome; else 503, and the body says why not
``GET /metrics``  the figures, for Prometheus

Answers to probes are JSON: ``{"status": "ok"}`` or ``{"status": "unavailable", "reasons": ["..."]}``.
`AdminSite.add` puts more under other paths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from twisted.web.http import NOT_FOUND, OK, SERVICE_UNAVAILABLE, Request
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

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


class AdminSite(Site):
    """The site's factory. `not_ready` answers why this node wants no new clients, nothing if it does; `exposition` is
    what `/metrics` answers."""

    def __init__(self, not_ready: Callable[[], Sequence[str]], exposition: Exposition) -> None:
        self._root = _Root()  # type: ignore[no-untyped-call]
        super().__init__(self._root)  # type: ignore[no-untyped-call]
        self.noisy = False
        self.displayTracebacks = False
        self.add("healthz", _Answer(lambda: ()))
        self.add("readyz", _Answer(not_ready))
        self.add("metrics", _Metrics(exposition))

    def add(self, path: str, resource: IResource) -> None:
        """Put `resource` under a path of one word."""
        self._root.putChild(path.encode(), resource)

    def log(self, request: Request) -> None:
        """Probes come every few seconds; the log is not for them."""
