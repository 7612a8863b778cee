"""A session comes to this node from another one, whose client may still be connected there [G3].

    new owner                                 old owner
        │ the store has given it a higher epoch   │
        ├─ Take ─────────────────────────────────►│ closes its connection, lets finish what that had under way
        │◄───────────────────────────────── Given ┤
        │ CONNACK                                 │

Asking is courtesy, so that nothing is sent twice without need: the epoch alone protects the session. So the new owner
does not wait for long.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mqttcluster.storage.shared import Given, IBackplane, Take

#: Seconds that a new connection waits for the old owner of its session to let go.
TAKE_TIMEOUT = 1.0


class Takeover:
    """The new owner's half, for all sessions, and the answer of the old one."""

    def __init__(self, backplane: IBackplane, clock: IReactorTime) -> None:
        self._backplane = backplane
        self._clock = clock
        self._giving: dict[str, tuple[int, Deferred[None]]] = {}

    def take(self, client_id: str, epoch: int, node: str) -> Deferred[None]:
        """Ask `node` to let go of a session that this node has under `epoch`. Fires when it has, or need not be waited
        for."""
        if node == self._backplane.node:
            return succeed(None)
        given: Deferred[None] = Deferred()
        self._giving[client_id] = (epoch, given)

        def asked(there: bool) -> None:
            if not there:
                self.given(Given(client_id, epoch))

        # By link, also to a node that this one has not met yet: if this were lost the old connection would stay open.
        self._backplane.link(node, Take(client_id, epoch)).addCallback(asked)
        given.addTimeout(TAKE_TIMEOUT, self._clock, lambda result, _: None)
        return given.addCallback(lambda _: self._forget(client_id, epoch))

    def given(self, given: Given) -> None:
        """The old owner has let go."""
        epoch, waiting = self._giving.get(given.client_id, (0, None))
        if waiting is not None and epoch == given.epoch and not waiting.called:
            waiting.callback(None)

    def _forget(self, client_id: str, epoch: int) -> None:
        if self._giving.get(client_id, (0, None))[0] == epoch:
            del self._giving[client_id]

    def give(self, node: str, take: Take, idle: Deferred[None]) -> None:
        """`node` has asked; it is answered when `idle` fires: nothing of the connection here is under way any more."""
        idle.addCallback(lambda _: self._backplane.link(node, Given(take.client_id, take.epoch)))
