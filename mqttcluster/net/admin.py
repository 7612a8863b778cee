"""The admin site: whether this node lives and whether it wants clients, for probes and balancers.

``GET /healthz``  200 while the reactor turns
``GET /readyz``   200 while new clients are welcome; else 503, and the body says why not

Answers are JSON: ``{"status": "ok"}`` or ``{"status": "unavailable", "reasons": ["..."]}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from twisted.web.http import NOT_FOUND, OK, SERVICE_UNAVAILABLE, Request
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site


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


class _Root(Resource):
    """Everything else."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        return self

    def render_GET(self, request: IRequest) -> bytes:
        return _write(request, NOT_FOUND, {"status": "not found", "paths": ["/healthz", "/readyz"]})


def _write(request: IRequest, code: int, body: dict[str, object]) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    return json.dumps(body).encode() + b"\n"


class AdminSite(Site):
    """The site's factory. `not_ready` answers why this node wants no new clients, nothing if it does."""

    def __init__(self, not_ready: Callable[[], Sequence[str]]) -> None:
        root = _Root()  # type: ignore[no-untyped-call]
        root.putChild(b"healthz", _Answer(lambda: ()))
        root.putChild(b"readyz", _Answer(not_ready))
        super().__init__(root)  # type: ignore[no-untyped-call]
        self.noisy = False
        self.displayTracebacks = False

    def log(self, request: Request) -> None:
        """Probes come every few seconds; the log is not for them."""
