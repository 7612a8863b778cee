"""Nodes that have died: who declares them dead, who cleans up after them, and that it is done.

A grave has one claimer, and the claimer's word ends it. A claimer that has fallen silent loses it to whoever asks next.
Cleaning up may be repeated by anybody, so nothing depends on how far the last one came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mqttcluster.storage.redis_members import Heartbeat, NodeKeys, Timing
from mqttcluster.storage.redis_writer import Call

log = Logger(namespace="mqttcluster.redis")


class Burials:
    """`reap` releases what a dead node held; it is tried again until it works."""

    def __init__(
        self,
        keys: NodeKeys,
        timing: Timing,
        submit: Callable[[Call], None],
        clock: IReactorTime,
        reap: Callable[[str], Deferred[None]],
    ) -> None:
        self._keys = keys
        self._timing = timing
        self._submit = submit
        self._clock = clock
        self._reap = reap
        self._node = ""
        self._run = ""
        self._term = 0
        self._ready = False
        #: Nodes that this one has asked for or cleans up after: True for those whose clean-up has to wait for `ready`.
        self._mine: dict[str, bool] = {}

    def open(self, node: str, run: str) -> None:
        """This node is a member, under this name. What it has claimed under another is somebody else's now."""
        self._term += 1
        self._node, self._run = node, run
        self._ready = False
        self._mine.clear()

    def ready(self) -> None:
        """The node may clean up."""
        self._ready = True
        for node, waits in list(self._mine.items()):
            if waits:
                self._clean(node)

    def look(self, beat: Heartbeat) -> None:
        """Bury who is silent, and take over graves from claimers who are. To be asked only while this node has been
        live without a lapse for `dead_after`: after a pause of Redis everybody gets time to come back."""
        silence = round(1000 * (self._timing.dead_after - self._timing.lease))
        for node, member in beat.members.items():
            if node != self._node and member.until + silence < beat.now:
                self._claim(node, False)
        for node, claimer in beat.graves.items():
            holder = beat.members.get(claimer)
            if claimer == self._node or holder is None or holder.until < beat.now:
                self._claim(node, False)

    def bury(self, nodes: Iterable[str]) -> None:
        """These are known to be dead, whatever their lease says."""
        for node in nodes:
            self._claim(node, True)

    def _claim(self, node: str, at_once: bool) -> None:
        if node in self._mine:
            return
        self._mine[node] = False
        term = self._term

        def answered(answers: Sequence[Any], sent: float) -> None:
            if term != self._term:
                return
            if answers[0] == b"CLAIMED":
                log.info("node {node} is dead; cleaning up after it", node=node)
                keys = (self._keys.alive(node), self._keys.link(node), self._keys.want(node))
                self._submit(Call([("DEL", *keys)]))
                self._clean(node)
            else:
                del self._mine[node]

        self._submit(Call([self._keys.bury(self._run, node, self._timing, self._node, at_once, False)], answered))

    def _clean(self, node: str) -> None:
        self._mine[node] = not self._ready
        if self._ready:
            reaped = maybeDeferred(self._reap, node)
            reaped.addCallbacks(
                self._finish, self._failed, callbackArgs=(node, self._term), errbackArgs=(node, self._term)
            )

    def _failed(self, failure: Failure, node: str, term: int) -> None:
        log.error("cleaning up after {node} failed, it will be tried again: {error}", node=node, error=failure.value)
        self._clock.callLater(self._timing.beat, self._again, node, term)

    def _again(self, node: str, term: int) -> None:
        if term == self._term:
            self._clean(node)

    def _finish(self, _: None, node: str, term: int) -> None:
        if term != self._term:
            return

        def answered(answers: Sequence[Any], sent: float) -> None:
            if term == self._term:
                self._mine.pop(node, None)

        self._submit(Call([self._keys.bury(self._run, node, self._timing, self._node, False, True)], answered))
