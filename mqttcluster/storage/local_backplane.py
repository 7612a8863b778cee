"""A cluster of one: nobody to tell, nobody to wait for."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed

from mqttcluster.storage.shared import BackplaneEvents, Envelope, IBackplane, RouteChange


class LocalBackplane(IBackplane):
    """The backplane of a node that shares its store with no other."""

    def __init__(self, name: str = "local") -> None:
        self._name = name

    @property
    def node(self) -> str:
        return self._name

    def start(self, events: BackplaneEvents) -> Deferred[None]:
        return events.load().addCallback(lambda _: events.fenced(False))

    def stop(self) -> Deferred[None]:
        return succeed(None)

    def valid(self) -> bool:
        return True

    def congested(self) -> bool:
        return False

    def announce(self, changes: Sequence[RouteChange]) -> Deferred[None]:
        return succeed(None)

    def members(self) -> Sequence[str]:
        return ()

    def cast(self, node: str, envelope: Envelope) -> None:
        pass

    def cast_all(self, envelope: Envelope) -> None:
        pass

    def link(self, node: str, envelope: Envelope) -> Deferred[bool]:
        return succeed(False)
