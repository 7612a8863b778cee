"""What a client has sent and what is not yet acknowledged, in order.

A *step* is a PUBLISH or PUBREL. It passes three gates, each in the order of arrival: the store has answered, the
message was given to its receivers, and, in a cluster, other nodes have accepted it. Then its acknowledgement leaves
[MQTT-4.6.0-2]. While this node may not act (`may_act`) the steps stand still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

from mqttcluster.broker.publishing import Plan


class Step:
    """One PUBLISH or PUBREL. `acknowledgement` is b'' for QoS 0; `plan` is None where there is nobody to deliver to."""

    __slots__ = ("acknowledgement", "finished", "plan", "size", "stored")

    def __init__(self, plan: Plan | None, acknowledgement: bytes, stored: bool) -> None:
        self.plan = plan
        self.size = len(plan.message.payload) if plan is not None else 0
        self.acknowledgement = acknowledgement
        self.stored = stored
        self.finished = False

    def fail(self) -> None:
        """The store has not taken it: nobody gets it, nothing is acknowledged."""
        self.plan, self.acknowledgement, self.stored = None, b"", True


class Steps:
    """The steps of one client. `complete` delivers a plan, `acknowledge` sends an acknowledgement, `advanced` is told
    after each look."""

    __slots__ = ("_acknowledge", "_advanced", "_complete", "_delivered", "_idle", "_may_act", "_steps", "size")

    def __init__(
        self,
        complete: Callable[[Plan], Deferred[None] | None],
        acknowledge: Callable[[bytes], None],
        may_act: Callable[[], bool],
        advanced: Callable[[], None],
    ) -> None:
        self._advanced = advanced
        self._complete = complete
        self._acknowledge = acknowledge
        self._may_act = may_act
        self._steps: deque[Step] = deque()
        #: Bytes of payload that wait.
        self.size = 0
        #: How many of them, from the oldest on, were given to their receivers.
        self._delivered = 0
        self._idle: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def take(self, step: Step) -> None:
        """One more step. If nothing before it waits for the store it is given to its receivers before this returns."""
        self._steps.append(step)
        self.size += step.size
        if step.stored and self._delivered == len(self._steps) - 1:
            self.advance()

    def stored(self, step: Step) -> None:
        """The store has answered."""
        step.stored = True
        self.advance()

    def advance(self) -> None:
        """Let through what is ready."""
        if not self._may_act():
            return
        steps = self._steps
        while self._delivered < len(steps) and steps[self._delivered].stored:
            self._delivered += 1
            self._deliver(steps[self._delivered - 1])
        while steps and steps[0].finished:
            step = steps.popleft()
            self._delivered -= 1
            self.size -= step.size
            if step.acknowledgement:
                self._acknowledge(step.acknowledgement)
        if not steps and self._idle:
            idle, self._idle = self._idle, []
            for waiting in idle:
                waiting.callback(None)
        self._advanced()

    def _deliver(self, step: Step) -> None:
        plan = step.plan
        if plan is None:
            step.finished = True
            return
        if plan.stale:
            step.acknowledgement = b""
        accepting = self._complete(plan)
        if accepting is None or accepting.called:
            step.finished = True
        else:
            accepting.addCallback(self._accepted, step)

    def _accepted(self, _: None, step: Step) -> None:
        step.finished = True
        self.advance()

    def idle(self) -> Deferred[None]:
        """Fires when there are no steps."""
        if not self._steps:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._idle.append(waiting)
        return waiting
