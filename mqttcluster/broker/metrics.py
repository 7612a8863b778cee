"""The counters of one node since it started.

Counting is adding to a plain number, a list or a dictionary; whoever shows the figures (`sys_topics`, `prometheus`)
does the arithmetic. What each of them means: `metric_table`, or docs/metrics.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from mqttcluster.broker.metric_table import LATENCY, SIZE

#: The protocol levels that are counted apart, by the names people use.
VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5.0"}


def lane(version: int) -> int:
    """Where a protocol level's figures begin in the lists that count by version and QoS: figure = ``lane + qos``.
    What has no version (0) is counted with the first of them."""
    return (version - 3) * 4 if version > 3 else 0


def by_lane(figures: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Version, QoS and figure, one by one."""
    for level, name in VERSIONS.items():
        for qos in range(3):
            yield name, qos, figures[lane(level) + qos]


class Histogram:
    """How often a value was how large. `counts` has one figure per bound and one for all beyond the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[float, int]]:
        """How many values were not larger than each bound; the last bound is infinity."""
        found, so_far = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found


class Metrics:
    """Plain numbers: adding to one costs next to nothing. The lists ``..._by`` are indexed by ``lane(version) + qos``;
    `dropped`, `refused`, `operations`, `authentications` and `authorization_failures` count by reason."""

    __slots__ = (
        "authentication_seconds",
        "authentications",
        "authorization_failures",
        "bytes_received",
        "bytes_sent",
        "clients_maximum",
        "connections_accepted",
        "dropped",
        "link_parcel_envelopes",
        "link_seconds",
        "messages_received",
        "messages_sent",
        "operations",
        "publish_bytes_received_by",
        "publish_bytes_sent_by",
        "publish_received_by",
        "publish_sent_by",
        "reactor_lag",
        "refused",
        "reload_failed",
        "reloads",
        "started",
        "store_batch_calls",
        "store_batch_seconds",
        "store_failures",
        "takeovers",
        "wills_published",
    )

    def __init__(self, now: float) -> None:
        self.started = now
        self.bytes_received = 0
        self.bytes_sent = 0
        #: Control packets of every type.
        self.messages_received = 0
        self.messages_sent = 0
        self.publish_received_by = [0] * 16
        self.publish_sent_by = [0] * 16
        self.publish_bytes_received_by = [0] * 16
        self.publish_bytes_sent_by = [0] * 16
        self.clients_maximum = 0
        self.connections_accepted = 0
        self.takeovers = 0
        self.wills_published = 0
        #: Connections refused, by the name of the reason.
        self.refused: dict[str, int] = dict.fromkeys(
            (
                "too_many_connections",
                "bad_user_name_or_password",
                "not_authorized",
                "server_unavailable",
                "server_busy",
                "client_identifier_not_valid",
                "unsupported_protocol_version",
            ),
            0,
        )
        #: What clients may not do, by what they asked for.
        self.operations: dict[str, int] = {"publish": 0, "subscribe": 0, "will": 0, "delivery": 0}
        self.authentications: dict[str, int] = {"allowed": 0, "denied": 0, "error": 0, "timeout": 0, "busy": 0}
        self.authentication_seconds = Histogram(LATENCY)
        self.authorization_failures: dict[str, int] = {"error": 0, "timeout": 0}
        #: Messages that a receiver did not get.
        self.dropped: dict[str, int] = {
            "queue_full": 0,
            "send_buffer": 0,
            "retained_full": 0,
            "too_large": 0,
            "expired": 0,
            "forbidden": 0,
        }
        #: Files read again, by file and whether they could be used; and the files that could not, last time.
        self.reloads: dict[tuple[str, bool], int] = {}
        self.reload_failed: set[str] = set()
        self.reactor_lag = Histogram(LATENCY)
        self.store_batch_seconds = Histogram(LATENCY)
        self.store_batch_calls = Histogram(SIZE)
        self.store_failures = 0
        self.link_seconds = Histogram(LATENCY)
        self.link_parcel_envelopes = Histogram(SIZE)

    def refuse(self, reason: str) -> None:
        """Count a connection that was refused."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def store_batch(self, seconds: float, calls: int, failures: int) -> None:
        """Count a batch of calls that the store has answered, `failures` of them with an error."""
        self.store_batch_seconds.observe(seconds)
        self.store_batch_calls.observe(calls)
        self.store_failures += failures

    def link_parcel(self, seconds: float, envelopes: int) -> None:
        """Count a parcel that a link has taken."""
        self.link_seconds.observe(seconds)
        self.link_parcel_envelopes.observe(envelopes)

    def reloaded(self, file: str, done: bool) -> None:
        """Count a file that was read again."""
        self.reloads[file, done] = self.reloads.get((file, done), 0) + 1
        self.reload_failed.discard(file) if done else self.reload_failed.add(file)

    @property
    def connections_refused(self) -> int:
        return sum(self.refused.values())

    @property
    def operations_refused(self) -> int:
        return sum(self.operations.values())

    @property
    def publish_received(self) -> int:
        return sum(self.publish_received_by)

    @property
    def publish_sent(self) -> int:
        return sum(self.publish_sent_by)

    @property
    def publish_bytes_received(self) -> int:
        return sum(self.publish_bytes_received_by)

    @property
    def publish_bytes_sent(self) -> int:
        return sum(self.publish_bytes_sent_by)
