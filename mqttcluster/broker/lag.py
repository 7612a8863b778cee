"""How late the reactor is: a timer that is asked for twice a second, and how much later it ran."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mqttcluster.broker.metrics import Histogram

INTERVAL = 0.5


class LagMeter:
    """Counts into `lag`, in seconds, from `start` to `stop`."""

    def __init__(self, lag: Histogram, clock: IReactorTime) -> None:
        self._lag = lag
        self._clock = clock
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._ran, due)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _ran(self, due: float) -> None:
        self._lag.observe(max(self._clock.seconds() - due, 0.0))
        self.start()
