"""What clients did and saw, as far as a rule asks for it. Times are those of `time.monotonic`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.cluster.soak.packets import Will

FOREVER = float("inf")


@dataclass(eq=False)
class Sent:
    """A message of QoS 0, 1 or 2 that was published; `number` counts up per topic."""

    topic: str
    qos: int
    number: int
    retain: bool
    empty: bool
    #: Which connection of its publisher it was first said on.
    connection: int
    began: float
    acked: float = 0.0
    #: Its publisher has given it up, or the broker has refused it: nobody knows who got it.
    lost: bool = False


@dataclass
class Life:
    """A session from its beginning to its end."""

    durable: bool
    began: float
    #: Filter -> times between which a subscription was sure to be there.
    subscriptions: dict[str, list[list[float]]] = field(default_factory=dict)
    #: Topic -> number -> how often an application has seen it.
    seen: dict[str, dict[int, int]] = field(default_factory=dict)
    #: Topic -> the last that came for the first time.
    last: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Testament:
    """What is known of a connection with a will."""

    will: Will
    client: str
    node: int
    began: float
    #: Of its session, seconds; the will is not delayed beyond it.
    expiry: int
    accepted: float = 0.0
    ended: float = 0.0
    #: DISCONNECT was sent.
    waived: float = 0.0
    #: When the client's next CONNECT was sent, or its next CONNACK came, and whether that found the session.
    tried: float = 0.0
    resumed: float = 0.0
    present: bool = False


class Book:
    """What all clients did and saw."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], Sent] = {}
        self.wills: list[Testament] = []
        self.received = 0
        #: (topic, number) of what came by a shared subscription -> who got it, at which QoS.
        self.shared: dict[tuple[str, int], list[tuple[str, int]]] = {}
        self.topics: dict[str, list[Sent]] = {}
        self._numbers: dict[str, int] = {}

    def next_number(self, topic: str) -> int:
        """The number of the next message, or will, of a topic."""
        self._numbers[topic] = number = self._numbers.get(topic, 0) + 1
        return number

    def add(self, message: Sent) -> None:
        self.sent[message.topic, message.number] = message
        self.topics.setdefault(message.topic, []).append(message)

    def topic(self, name: str) -> list[Sent]:
        """What was sent on a topic, by number."""
        return self.topics.get(name, [])
