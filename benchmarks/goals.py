"""What is to be reached: a table. `met` tells whether it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

OWN, MOSQUITTO, AEDES = "mqttcluster", "mosquitto", "aedes"


@dataclass(frozen=True)
class Goal:
    """`metric` of this broker in a scenario, over the same of the broker `beside` if there is one, is at least or at
    most `value`."""

    scenario: str
    metric: str
    value: float
    beside: str = ""
    least: bool = True
    form: str = "{:,.0f}"

    @property
    def wanted(self) -> str:
        value = f"{self.value:g} times {self.beside}" if self.beside else self.form.format(self.value)
        return f"{'≥' if self.least else '≤'} {value}"


def _rates(value: float, beside: str, *scenarios: str) -> Iterator[Goal]:
    return (Goal(scenario, "rate", value, beside) for scenario in scenarios)


GOALS = (
    *_rates(6, MOSQUITTO, "qos0-1-1"),
    *_rates(10, MOSQUITTO, "qos0-1-100"),
    *_rates(6, MOSQUITTO, "qos0-50-1", "qos0-50-50"),
    *_rates(3.5, MOSQUITTO, "qos1-1-1", "qos1-20-20"),
    *_rates(3, MOSQUITTO, "qos2-1-1", "qos2-20-20"),
    *_rates(3, MOSQUITTO, "ws-1-1"),
    *_rates(1, MOSQUITTO, "tls-1-1"),
    Goal("paced", "cpu", 1.1, MOSQUITTO, least=False),
    Goal("paced", "p99", 2, MOSQUITTO, least=False),
    Goal("subscriptions", "share", 0.7, form="{:.0%}"),
    Goal("connections", "share", 0.7, form="{:.0%}"),
    Goal("connects", "rate", 3000),
    Goal("idle", "bytes", 5 * 1024, least=False),
    Goal("ws-idle", "bytes", 12 * 1024, least=False),
    Goal("cluster-qos0-1-1", "rate", 150_000),
    Goal("cluster-qos0-20-20", "rate", 150_000),
    Goal("cluster-qos1-1-1", "rate", 40_000),
    Goal("cluster-qos1-20-20", "rate", 40_000),
    Goal("cluster-persistent-1-1", "rate", 15_000),
    Goal("cluster-persistent-20-20", "rate", 15_000),
    *_rates(10, AEDES, "cluster-qos0-1-1", "cluster-qos0-20-20"),
    *_rates(5, AEDES, "cluster-qos1-1-1", "cluster-qos1-20-20"),
    *_rates(3, AEDES, "cluster-persistent-1-1", "cluster-persistent-20-20"),
)


def reached(goal: Goal, figure: Callable[[str, str, str], float | None]) -> float | None:
    """What was reached, by `figure` of scenario, broker and metric; None if it was not measured."""
    own = figure(goal.scenario, OWN, goal.metric)
    if own is None or not goal.beside:
        return own
    other = figure(goal.scenario, goal.beside, goal.metric)
    return own / other if other else None


def met(goal: Goal, value: float) -> bool:
    return value >= goal.value if goal.least else value <= goal.value
