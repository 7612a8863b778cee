"""The life of one node as twistd sees it: start in order, listen, stop in reverse, and end with a line instead of a
traceback when it cannot start.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from mqttcluster.listeners import Listener, address
from mqttcluster.loading import Problem
from mqttcluster.storage.interfaces import StoreError

log = Logger(namespace="mqttcluster")

#: When the collector looks at new objects, and how often it does so before it looks at older ones, and at all.
COLLECT = 10_000, 5, 5
_WHAT = {"listen": "MQTT", "websocket": "WebSocket", "admin": "probes"}


class Node(Protocol):
    """What listens and what is behind it."""

    def start(self) -> Deferred[None]:
        """Open the store and take up what it kept. Fails with `StoreError`."""

    def factory(self, listener: Listener) -> Any:
        """The Twisted server factory for a listener. Probes are answered before `start`, everybody else after it."""

    def listening(self, listener: Listener, port: Any) -> None:
        """A listener is open, by this port of Twisted's."""

    def opened(self) -> None:
        """All listeners are open."""

    def stop(self) -> Deferred[None]:
        """Close the connections, then the store. Only after a `start` that succeeded."""


class BrokerService(Service):
    """One node. `store` describes its store in the log; a problem with it begins with the words `store_where`.

    `observer` takes the place of twistd's own, if it is not None. `fail` ends the process with a line.
    """

    def __init__(
        self,
        node: Node,
        listeners: Sequence[Listener],
        reactor: Any,
        *,
        name: str,
        store: str,
        store_where: str,
        websocket_path: str = "/mqtt",
        observer: ILogObserver | None = None,
        fail: Callable[[Any, str], None] | None = None,
    ) -> None:
        self._node = node
        self._listeners = listeners
        self._reactor = reactor
        self._name = name
        self._store = store
        self._store_where = store_where
        self._websocket_path = websocket_path
        self._observer = observer
        self._fail = fail or give_up
        self._ports: list[tuple[Listener, Any]] = []
        self._starting: Deferred[None] | None = None
        self._started = False
        self._stopping = False

    def setServiceParent(self, parent: Any) -> None:
        """twistd asks the application for a log observer before it writes the first line."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # Not before the reactor runs: it could not be stopped yet, and twistd is still writing its pid file.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        if self.running:
            self._starting = ensureDeferred(self._start())

    async def _start(self) -> None:
        probes = [listener for listener in self._listeners if listener.option == "admin"]
        doors = [listener for listener in self._listeners if listener.option != "admin"]
        try:
            for listener in probes:  # first: the store may keep us waiting, and a probe is to be told so
                await self._listen(listener)
            await self._node.start()
            self._started = True
            log.info("node {node}, store {store}", node=self._name, store=self._store)
            for listener in doors:
                if self._stopping:
                    return
                await self._listen(listener)
            self._node.opened()
        except StoreError as error:
            self._fail(self._reactor, str(Problem(self._store_where, str(error))))
        except _CannotListen as error:
            self._fail(self._reactor, str(error))
        except Exception as error:
            log.failure("cannot start")
            self._fail(self._reactor, f"mqttcluster: cannot start: {error!r}; this is a defect, the log tells more")
        else:
            # What was made so far stays. The collector need not look at it again, and what is made from now on it need
            # not look at every 700 objects: a message that waits for the store has a dozen.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*COLLECT)

    async def _listen(self, listener: Listener) -> None:
        try:
            port = await listener.endpoint.listen(self._node.factory(listener))
        except (CannotListenError, OSError, OverflowError) as error:
            text = f"cannot listen ({_cause(error)}); choose another address, or stop what uses it"
            raise _CannotListen(str(Problem(listener.where, text))) from error
        self._ports.append((listener, port))
        self._node.listening(listener, port)
        what = _WHAT[listener.option]
        over = " over TLS" if listener.secure else ""
        path = f" at {self._websocket_path}" if listener.option == "websocket" else ""
        log.info(
            "listening for {what}{over}{path} on {address}",
            what=what,
            over=over,
            path=path,
            address=address(port.getHost()),
        )

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = True
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        if self._starting is None:
            return
        await _result(self._starting)
        await self._close(lambda listener: listener.option != "admin")
        try:
            if self._started:
                await self._node.stop()
        except StoreError as error:
            log.error("the store did not close: {error}", error=error)
        except Exception:
            log.failure("cannot stop in order")
        await self._close(lambda listener: True)  # probes were told so far that this node is stopping
        log.info("node {node} has stopped", node=self._name)

    async def _close(self, chosen: Callable[[Listener], bool]) -> None:
        for listener, port in reversed(self._ports):
            if chosen(listener):
                await _result(port.stopListening())
        self._ports = [(listener, port) for listener, port in self._ports if not chosen(listener)]


class _CannotListen(Exception):
    """A listener cannot be opened; the text is for the operator."""


def _result(value: Any) -> Deferred[Any]:
    return value if isinstance(value, Deferred) else succeed(value)


def _cause(error: Exception) -> str:
    cause = getattr(error, "socketError", None) or error
    return str(getattr(cause, "strerror", None) or cause)


def complain(lines: Sequence[str]) -> None:
    """Write to the real standard error; twistd has redirected `sys.stderr` to its log by then."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write("".join(f"{line}\n" for line in lines))
        sys.__stderr__.flush()


def give_up(reactor: Any, line: str) -> None:
    """End the running process with `line` and exit status 1.

    twistd leaves with status 0 whenever its reactor stops, and prints a traceback for a SystemExit inside it. So the
    reactor stops as usual, which also removes the pid file, and the status is set as the last thing.
    """
    log.critical("{line}", line=line)
    complain([line])
    atexit.register(_leave)
    reactor.stop()


def _leave() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(1)
