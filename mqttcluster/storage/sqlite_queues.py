"""The queues in the SQLite file: what is put into them and read back.

Putting something in runs no statement, unless a full queue may hold something expired: how much is queued is in the
account of the session, the entry is noted in `Writes`. Reading writes the notes first. A message is stored once,
however many queues name it; it has a number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from math import inf

from mqttcluster.core.message import Delivery, Message
from mqttcluster.storage.interfaces import FULL, GONE, READ_BYTES, Chosen, Publication, QueueLimits, Target
from mqttcluster.storage.records import (
    EXPIRY_WITHIN,
    decode_identifiers,
    decode_message,
    encode_identifiers,
    encode_message,
    expiry_of,
)
from mqttcluster.storage.sequences import in_a_row
from mqttcluster.storage.sqlite_accounts import Account, Accounts
from mqttcluster.storage.sqlite_writes import Writes


class Queues:
    """All queues of one file."""

    def __init__(self, connection: sqlite3.Connection, writes: Writes, accounts: Accounts, limits: QueueLimits) -> None:
        self._connection = connection
        self._writes = writes
        self._accounts = accounts
        self._limits = limits
        self._message: int = connection.execute("SELECT coalesce(max(id), 0) FROM message").fetchone()[0]

    # In

    def put(
        self, publication: Publication, record: bytes, identifiers: Sequence[bytes | None]
    ) -> tuple[list[int], tuple[Chosen, ...]]:
        """Queue a message, whose bytes are `record`, for each target (with its `identifiers`) and for one of each
        group. Returns what `Published` has as `sequences` and `chosen`."""
        self._message += 1
        sequences = [
            self._enqueue(publication, target, encoded)
            for target, encoded in zip(publication.targets, identifiers, strict=True)
        ]
        chosen = tuple(self._choose(publication, group) for group in publication.shares)
        if max(sequences, default=0) > 0 or any(one.sequence > 0 for one in chosen):
            self._writes.message(self._message, record)
        return sequences, chosen

    def put_run(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> list[tuple[int, int]]:
        """Queue each message for each target. Returns what `PublishedRun` has."""
        records = [encode_message(message) for message in messages]
        identifiers = [encode_identifiers(target.identifiers) for target in targets]
        sequences: list[list[int]] = [[] for _ in targets]
        for message, record in zip(messages, records, strict=True):
            self._message += 1
            publication = Publication(message, targets, now=now)
            for target, encoded, found in zip(targets, identifiers, sequences, strict=True):
                found.append(self._enqueue(publication, target, encoded))
            if any(found[-1] > 0 for found in sequences):
                self._writes.message(self._message, record)
        return [in_a_row(found) for found in sequences]

    def _choose(self, publication: Publication, group: Iterable[Target]) -> Chosen:
        """Queue for the first member that takes it."""
        nobody, target = GONE, Target("", 0, 0)
        for target in group:
            sequence = self._enqueue(publication, target, encode_identifiers(target.identifiers))
            if sequence > 0:
                return Chosen(target, sequence)
            nobody = min(nobody, sequence)
        return Chosen(target, nobody)

    def _enqueue(self, publication: Publication, target: Target, identifiers: bytes | None) -> int:
        account = self._accounts.of.get(target.client_id)
        if account is None or account.generation != target.generation or not account.lasting:
            return GONE
        self._accounts.touch(target.client_id)
        if len(account.queued) >= self._limits.messages:
            dropped = None if account.online else self._dispensable(account, publication.now)
            if dropped is None:
                return FULL
            account.queued.remove(dropped)
            self._writes.remove(account.generation, (dropped,))
        account.last += 1
        if publication.message.expires_at is not None:
            account.soonest = min(account.soonest, publication.message.expires_at)
        account.queued.append(account.last)
        entry = (self._message, target.qos, target.retain, identifiers, target.share or None)
        self._writes.entry(account.generation, account.last, *entry)
        account.shared = account.shared or bool(target.share)
        return account.last

    def _dispensable(self, account: Account, now: float) -> int | None:
        """The sequence that makes room in a full queue."""
        if account.soonest <= now:
            self._writes.flush()
            soonest = inf
            for sequence, head in self._connection.execute(
                "SELECT sequence, substr(record, 1, ?) FROM queue JOIN message ON id = message"
                " WHERE session = ? AND sequence > ? ORDER BY sequence",
                (EXPIRY_WITHIN, account.generation, account.sent),
            ):
                expires_at = expiry_of(head)
                if expires_at <= now:
                    return int(sequence)
                soonest = min(soonest, expires_at)
            account.soonest = soonest
        return account.queued.after(account.sent) if self._limits.drop_oldest else None

    # Out

    def read(self, account: Account, after: int, limit: int) -> list[Delivery]:
        """At most `limit` deliveries above the sequence `after`, and no more than is read at once."""
        if account.queued.after(after) is None:
            return []
        self._writes.flush()
        entries, size = [], 0
        rows = self._connection.execute(
            "SELECT sequence, record, qos, retain, identifiers FROM queue JOIN message ON id = message"
            " WHERE session = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (account.generation, after, limit),
        )
        for sequence, record, qos, retain, identifiers in rows:
            message = decode_message(record)
            entries.append(Delivery(sequence, message, qos, bool(retain), decode_identifiers(identifiers)))
            size += len(record)
            if size >= READ_BYTES:
                break
        rows.close()
        return entries

    def shared(self, account: Account, sent: int) -> list[tuple[int, str, bytes]]:
        """What others of a group may get instead: sequence, share, record. QoS 2 up to `sent` is nobody else's."""
        self._writes.flush()
        return self._connection.execute(
            "SELECT sequence, share, record FROM queue JOIN message ON message.id = queue.message"
            " WHERE session = ? AND share IS NOT NULL AND (qos = 1 OR sequence > ?) ORDER BY sequence",
            (account.generation, sent),
        ).fetchall()
