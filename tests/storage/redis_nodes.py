"""Redis stores for tests: several nodes on one Redis, and a proxy in between that cuts connections."""

from __future__ import annotations

import socket
import threading
from typing import Any

from mqttcluster.storage.interfaces import QueueLimits
from mqttcluster.storage.redis_store import RedisStore
from tests.cluster.redis_server import RedisServer
from tests.storage.driver import Driver, QueueReactor, outcome


class Node(Driver):
    """A driver that knows that its store is a `RedisStore`."""

    store: RedisStore

    def reap(self, node: str, now: float = 0.0) -> dict[str, Any]:
        """The sessions that are to be announced, by client id."""
        return {each.client_id: each for each in self.wait(self.store.reap(node, now))}

    def announced(self, client_id: str, epoch: int) -> bool:
        answer: bool = self.wait(self.store.announced(client_id, epoch))
        return answer


class Nodes:
    """Makes stores that share a reactor and a Redis, and stops them."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.reactor = QueueReactor()
        self._made: list[Node] = []

    def make(self, name: str, url: str = "", limits: QueueLimits | None = None, **options: Any) -> Node:
        store = RedisStore(url or self.server.url, self.reactor, name, limits, **options)
        node = Node(store, self.reactor)
        outcome(store.start(), self.reactor)
        self._made.append(node)
        return node

    def stop(self) -> None:
        for node in self._made:
            outcome(node.store.stop(), self.reactor)


class CuttingProxy:
    """Stands before a server, and cuts one connection after so many bytes in one direction."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._left: int | None = None
        self._requests = True
        self.cuts = 0
        self.passed = 0
        #: The last chunk of requests that passed.
        self.last_requests = b""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_after(self, count: int, requests: bool = True) -> None:
        """Let `count` more bytes of requests (or else of answers) pass, then cut, once."""
        with self._lock:
            self._left, self._requests, self.passed = count, requests, 0

    def lead_to(self, port: int) -> None:
        """New connections go to another server, the old ones stay."""
        self._target = port

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for source, sink, requests in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._carry, args=(source, sink, requests), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, requests: bool) -> None:
        try:
            while data := source.recv(65536):
                data, cut = self._allowed(data, requests)
                if requests:
                    self.last_requests = data
                sink.sendall(data)
                if cut:
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        source.close()

    def _allowed(self, data: bytes, requests: bool) -> tuple[bytes, bool]:
        with self._lock:
            if requests == self._requests:
                self.passed += len(data)
            if self._left is None or requests != self._requests:
                return data, False
            if len(data) < self._left:
                self._left -= len(data)
                return data, False
            data, self._left = data[: self._left], None
            self.cuts += 1
            return data, True
