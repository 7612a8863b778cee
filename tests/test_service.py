"""The order of start and stop, with parts that write down what they are asked."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from twisted.application.service import Application
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver

from mqttcluster import logs
from mqttcluster.listeners import Listener
from mqttcluster.service import BrokerService
from mqttcluster.storage.interfaces import StoreError


class FakeNode:
    """Writes down what it is asked, in order."""

    def __init__(self, started: Deferred[None]) -> None:
        self.events: list[str] = []
        self.started = started

    def start(self) -> Deferred[None]:
        self.events.append("start")
        return self.started

    def factory(self, listener: Listener) -> Any:
        return listener

    def listening(self, listener: Listener, port: Any) -> None:
        pass

    def opened(self) -> None:
        self.events.append("opened")

    def stop(self) -> Deferred[None]:
        self.events.append("stop")
        return succeed(None)


class FakeEndpoint:
    def __init__(self, node: FakeNode, error: Exception | None = None) -> None:
        self.node = node
        self.error = error

    def listen(self, factory: Listener) -> Deferred[Any]:
        if self.error:
            return fail(self.error)
        self.node.events.append(f"listen {factory.where}")
        self.where = factory.where
        return succeed(self)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1)

    def stopListening(self) -> Deferred[None]:
        self.node.events.append(f"close {self.where}")
        return succeed(None)


class TestService:
    """The order of start and stop."""

    @pytest.fixture(autouse=True)
    def thaw(self) -> Iterator[None]:
        yield
        gc.unfreeze()

    def make(
        self,
        node: FakeNode,
        *errors: Exception | None,
        observer: Any = None,
        options: Sequence[str] = ("listen", "listen"),
    ) -> tuple[BrokerService, MemoryReactorClock, list[str]]:
        doors = [
            Listener(option, f"door {number}", "tcp:1", FakeEndpoint(node, error), False, True)
            for number, (option, error) in enumerate(zip(options, errors))
        ]
        reactor, lines = MemoryReactorClock(), list[str]()
        service = BrokerService(
            node,
            doors,
            reactor,
            name="n",
            store="memory:",
            store_where="store",
            observer=observer,
            fail=lambda _reactor, line: lines.append(line),
        )
        return service, reactor, lines

    def test_store_before_listening_and_listening_ends_first(self) -> None:
        """Nobody is served before the store is open, and nobody new while it closes."""
        started: Deferred[None] = Deferred()
        node = FakeNode(started)
        service, reactor, lines = self.make(node, None, None)
        service.startService()
        assert node.events == []
        reactor.run()
        assert node.events == ["start"]
        started.callback(None)
        assert node.events == ["start", "listen door 0", "listen door 1", "opened"]
        assert service.stopService().called
        assert node.events[4:] == ["close door 1", "close door 0", "stop"]
        assert lines == []

    def test_probes_are_answered_from_the_beginning_to_the_end(self) -> None:
        """A balancer that asks while the store is opened, or while the node drains, is told so, and not left without an
        answer."""
        node = FakeNode(succeed(None))
        service, reactor, _ = self.make(node, None, None, options=("listen", "admin"))
        service.startService()
        reactor.run()
        assert node.events == ["listen door 1", "start", "listen door 0", "opened"]
        assert service.stopService().called
        assert node.events[4:] == ["close door 0", "stop", "close door 1"]

    def test_stop_while_starting(self) -> None:
        """A signal during the start: no listener opens any more, and the store is closed when it is there."""
        started: Deferred[None] = Deferred()
        node = FakeNode(started)
        service, reactor, _ = self.make(node, None)
        service.startService()
        reactor.run()
        stopped = service.stopService()
        assert not stopped.called
        started.callback(None)
        assert stopped.called
        assert node.events == ["start", "stop"]

    def test_stop_before_the_reactor_runs(self) -> None:
        """Nothing was started, nothing has to be stopped."""
        node = FakeNode(Deferred())
        service, reactor, _ = self.make(node, None)
        service.startService()
        service.stopService()
        reactor.run()
        assert node.events == []

    def test_store_failure_is_a_line(self) -> None:
        """The store's own words, behind the option that chose it; nothing listens."""
        node = FakeNode(fail(StoreError("it is damaged;\nrestore a copy")))
        service, reactor, lines = self.make(node, None)
        service.startService()
        reactor.run()
        assert lines == ["mqttcluster: store: it is damaged; restore a copy"]
        service.stopService()
        assert node.events == ["start"]

    def test_listen_failure_is_a_line(self) -> None:
        """The listener is named; those opened before it are closed again."""
        node = FakeNode(succeed(None))
        error = CannotListenError("127.0.0.1", 1, OSError(98, "Address already in use"))
        service, reactor, lines = self.make(node, None, error)
        service.startService()
        reactor.run()
        (line,) = lines
        assert line.startswith("mqttcluster: door 1: cannot listen (Address already in use); ")
        service.stopService()
        assert node.events == ["start", "listen door 0", "close door 0", "stop"]

    def test_observer_is_handed_to_twistd(self) -> None:
        """twistd takes the application's observer instead of making its own."""
        observer = logs.to_stream(io.StringIO(), "json", "info")
        service, _, _ = self.make(FakeNode(Deferred()), None, observer=observer)
        application = Application("x")
        service.setServiceParent(application)
        assert application.getComponent(ILogObserver) is observer
