"""What a client has sent and what is not yet acknowledged, in order.

A *step* is a PUBLISH, a run of them, or a PUBREL; one of QoS 0 if it is to be retained, or comes behind such a one. It
passes three gates, each in the order of arrival: the store has answered, the message was given to its receivers, and,
in a cluster, other nodes have accepted it. Then its acknowledgement leaves [MQTT-4.6.0-2]. While this node may not act
(`may_act`) the steps stand still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from mqttcluster.broker.publishing import Plan
from mqttcluster.broker.run_plan import RunPlan
from mqttcluster.broker.sender import Sender


class Step:
    """One PUBLISH or PUBREL. `acknowledgement` is b'' for QoS 0; `plan` is None where there is nobody to deliver to."""

    __slots__ = ("acknowledgement", "at_most_once", "count", "finished", "plan", "size", "stored")

    def __init__(self, plan: Plan | RunPlan | None, acknowledgement: bytes, stored: bool) -> None:
        self.plan = plan
        self.count = 1 if acknowledgement else 0
        self.size = 0
        self.at_most_once = False
        if isinstance(plan, Plan):
            self.size = len(plan.message.payload)
            self.at_most_once = not plan.message.qos
        elif plan is not None:
            self.count, self.size = plan.run.count, len(plan.run.data)
        self.acknowledgement = acknowledgement
        self.stored = stored
        self.finished = False

    def fail(self) -> None:
        """The store has not taken it: nobody gets it, nothing is acknowledged."""
        self.plan, self.acknowledgement, self.stored = None, b"", True


class Stepping(Protocol):
    """Whose steps they are."""

    @property
    def sender(self) -> Sender:
        """Where the acknowledgements leave."""

    def advanced(self) -> None:
        """Steps may be through."""


class Steps:
    """The steps of one client. `complete` delivers a plan; what it answers is to be waited for."""

    __slots__ = (
        "_client",
        "_complete",
        "_delivered",
        "_idle",
        "_may_act",
        "at_most_once",
        "pending",
        "size",
        "unacknowledged",
    )

    def __init__(
        self,
        client: Stepping,
        complete: Callable[[Plan], Deferred[None] | None],
        may_act: Callable[[], bool],
    ) -> None:
        self._client = client
        self._complete = complete
        self._may_act = may_act
        #: Empty without being a deque until there is one, as in `core.session`.
        self.pending: deque[Step] | tuple[()] = ()
        #: Bytes that wait, of payload or more, and how many publishes.
        self.size = 0
        self.unacknowledged = 0
        #: How many of them are QoS 0 and not given to their receivers: other QoS 0 must not overtake them.
        self.at_most_once = 0
        #: How many of them, from the oldest on, were given to their receivers.
        self._delivered = 0
        self._idle: list[Deferred[None]] | tuple[()] = ()

    def __len__(self) -> int:
        return len(self.pending)

    def count(self, first: int) -> int:
        """How many publishes wait for an acknowledgement that begins with this byte."""
        return sum(step.count for step in self.pending if step.acknowledgement[:1] == bytes((first,)))

    def _add(self, step: Step) -> None:
        if not isinstance(self.pending, deque):
            self.pending = deque()
        self.pending.append(step)
        self.size += step.size
        self.unacknowledged += step.count
        self.at_most_once += step.at_most_once

    def take(self, step: Step) -> None:
        """One more step. If nothing before it waits for the store it is given to its receivers before this returns."""
        self._add(step)
        if step.stored and self._delivered == len(self.pending) - 1:
            self.advance()

    @property
    def delivered(self) -> bool:
        """Whether all that the client has published so far was given to its receivers."""
        return self._delivered == len(self.pending)

    def take_run(self, acknowledgements: bytes, count: int, size: int, accepting: Deferred[None] | None) -> None:
        """A run of `count` publishes, `size` bytes in all, was given to its receivers; `accepting` is to be waited for
        before its acknowledgements."""
        if accepting is None and not self.pending and self._may_act():
            self._client.sender.send(acknowledgements, count)
            return
        step = Step(None, acknowledgements, stored=True)
        step.count, step.size = count, size
        self._add(step)
        self._delivered += 1
        if accepting is None:
            step.finished = True
        else:
            accepting.addCallback(self._accepted, step)

    def stored(self, step: Step) -> None:
        """The store has answered."""
        step.stored = True
        self.advance()

    def advance(self) -> None:
        """Let through what is ready."""
        if not self._may_act():
            return
        steps = self.pending
        while self._delivered < len(steps) and steps[self._delivered].stored:
            step = steps[self._delivered]
            self._delivered += 1
            self.at_most_once -= step.at_most_once
            self._deliver(step)
        while isinstance(steps, deque) and steps and steps[0].finished:
            step = steps.popleft()
            self._delivered -= 1
            self.size -= step.size
            self.unacknowledged -= step.count
            if step.acknowledgement:
                self._client.sender.send(step.acknowledgement, step.count)
        if not steps and self._idle:
            idle, self._idle = self._idle, ()
            for waiting in idle:
                waiting.callback(None)
        self._client.advanced()

    def _deliver(self, step: Step) -> None:
        plan = step.plan
        if plan is None:
            step.finished = True
            return
        if isinstance(plan, Plan):
            if plan.stale:
                step.acknowledgement = b""
            accepting = self._complete(plan)
        else:
            accepting = plan.complete()
        if accepting is None or accepting.called:
            step.finished = True
        else:
            accepting.addCallback(self._accepted, step)

    def _accepted(self, _: None, step: Step) -> None:
        step.finished = True
        self.advance()

    def idle(self) -> Deferred[None]:
        """Fires when there are no steps."""
        if not self.pending:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._idle = [*self._idle, waiting]
        return waiting
