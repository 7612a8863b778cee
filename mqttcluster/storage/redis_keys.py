"""The names of all keys, and which partition a client id or a topic falls in.

The part of a key in braces decides its slot on a Redis Cluster, so the keys of one script are always together.
"""

from __future__ import annotations

from zlib import crc32

from mqttcluster.storage.redis_cluster import ClusterConfig


class Keys:
    """Keys that begin with `prefix`, in the partitions of `config`."""

    def __init__(self, prefix: str, config: ClusterConfig) -> None:
        self.config = config
        self._sessions = [f"{prefix}{{p{number}}}:" for number in range(config.partitions)]
        self._retained = [f"{prefix}{{r{number}}}:" for number in range(config.retained_partitions)]

    def partition(self, client_id: str) -> int:
        return crc32(client_id.encode()) % self.config.partitions

    def retained_partition(self, topic: str) -> int:
        return crc32(topic.encode()) % self.config.retained_partitions

    def marks(self) -> list[str]:
        """The mark of every partition."""
        return [f"{tag}m" for tag in (*self._sessions, *self._retained)]

    def common(self, partition: int) -> list[str]:
        """The first keys of ``partition.lua``: mark, own, idx, due, wills, exp, un."""
        tag = self._sessions[partition]
        return [f"{tag}m", f"{tag}own", f"{tag}idx", f"{tag}due", f"{tag}wills", f"{tag}exp", f"{tag}un"]

    def own(self, partition: int) -> str:
        return f"{self._sessions[partition]}own"

    def kept(self, partition: int) -> str:
        return f"{self._sessions[partition]}idx"

    def due(self, partition: int) -> str:
        return f"{self._sessions[partition]}due"

    def expiring(self, partition: int) -> str:
        return f"{self._sessions[partition]}exp"

    def unannounced(self, partition: int) -> str:
        return f"{self._sessions[partition]}un"

    def session(self, partition: int, client_id: str) -> list[str]:
        """The six keys of a session, in the order of ``partition.lua``: s, q, r, i, d, sub."""
        tag = self._sessions[partition]
        return [f"{tag}{kind}:{client_id}" for kind in ("s", "q", "r", "i", "d", "sub")]

    def subscriptions(self, partition: int, client_id: str) -> str:
        return f"{self._sessions[partition]}sub:{client_id}"

    def record(self, partition: int, client_id: str) -> str:
        return f"{self._sessions[partition]}s:{client_id}"

    def retained(self, partition: int) -> list[str]:
        """Mark, values, log and the numbered publications seen."""
        tag = self._retained[partition]
        return [f"{tag}m", f"{tag}ret", f"{tag}log", f"{tag}d"]
