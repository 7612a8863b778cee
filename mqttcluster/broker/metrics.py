"""The counters of one node since it started."""

from __future__ import annotations


class Metrics:
    """Plain numbers: adding to one costs next to nothing. `dropped` counts by reason."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "clients_maximum",
        "connections_refused",
        "dropped",
        "messages_received",
        "messages_sent",
        "operations_refused",
        "publish_bytes_received",
        "publish_bytes_sent",
        "publish_received",
        "publish_sent",
        "started",
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
        self.publish_received = 0
        self.publish_sent = 0
        self.publish_bytes_received = 0
        self.publish_bytes_sent = 0
        self.clients_maximum = 0
        self.connections_refused = 0
        self.operations_refused = 0
        self.takeovers = 0
        self.wills_published = 0
        #: Messages that a receiver did not get, by reason: its queue was full, it did not take its output, or it is yet
        #: to subscribe and there were too many retained messages.
        self.dropped: dict[str, int] = {"queue_full": 0, "send_buffer": 0, "retained_full": 0}
