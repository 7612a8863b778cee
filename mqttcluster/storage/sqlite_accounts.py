"""What the SQLite store's thread knows without reading the file.

A short account of each session (not its queue, which may be long: `Sequences` knows what is left of it), when each will
is due, what is left for others of a group, and the last epoch. `begin` forgets and `restore` brings back how they were
before the batch; what a batch only looks at costs nothing.

Nothing is written here: who changes an account also notes the rows in `Writes`.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, replace
from math import inf

from mqttcluster.storage.interfaces import StoredWill
from mqttcluster.storage.records import decode_will, encode_will
from mqttcluster.storage.sequences import Sequences


@dataclass(slots=True)
class Account:
    """What is known of a session without reading.

    `lasting`: it has a queue, because it was opened with an expiry, or resumed, or has subscribed to a shared filter.
    One that is not has an epoch and perhaps a will, and nothing is queued for it. `shared`: its queue may hold what
    came through a shared subscription. `epoch` is that of the present connection, or of the last. Nothing in its queue
    expires before `soonest`.
    """

    client_id: str
    generation: int
    lasting: bool
    epoch: int
    online: bool = True
    expiry: int = 0
    expires_at: float = inf
    will: StoredWill | None = None
    last: int = 0
    sent: int = 0
    shared: bool = False
    queued: Sequences = field(default_factory=Sequences)
    soonest: float = inf
    inbound: set[int] = field(default_factory=set)

    def copy(self) -> Account:
        return replace(self, queued=self.queued.copy(), inbound=self.inbound.copy())

    @property
    def stored(self) -> bool:
        """Whether it has a row. A connection that leaves nothing behind costs no disk."""
        return self.lasting or self.will is not None

    def over(self, now: float) -> bool:
        """Whether a new connection finds nothing to go on with."""
        return self.expiry == 0 if self.online else self.expires_at <= now

    def row(self) -> tuple[object, ...]:
        """The columns of table ``session`` after the generation."""
        return (
            self.client_id,
            self.epoch,
            self.online,
            self.lasting,
            self.expiry,
            None if self.online or self.expires_at == inf else self.expires_at,
            None if self.will is None else encode_will(self.will),
            self.last,
            self.sent,
        )


class Accounts:
    """The accounts as `connection` has them now. `of`, `due_at`, `graced` and `orphans` are there to be read; what
    `restore` could not undo by itself is changed through methods."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        #: Client id -> account. One that is about to be changed is to be had from `touch` or `owned`.
        self.of: dict[str, Account] = {}
        #: Client id and epoch of a connection that has ended -> when its will is due.
        self.due_at: dict[tuple[str, int], float] = {}
        #: Client id -> epoch of a connection that was ended with grace, until its will is published or cancelled.
        self.graced: dict[str, int] = {}
        #: Generation and sequence of what was queued for a session that has ended, and is for others of its group.
        self.orphans: set[tuple[int, int]] = set()
        #: The last epoch given out, and the last that may be before the file has to be told.
        self.epoch = self.reserved = 0
        self._of_before: dict[str, Account | None] = {}
        self._due_at_before: dict[tuple[str, int], float | None] = {}
        self._load(connection)
        self.begin()

    def _load(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute
        self.epoch = self.reserved = rows("SELECT reserved FROM epoch").fetchone()[0]
        self.due_at = {
            (client_id, epoch): at for client_id, epoch, at in rows("SELECT client_id, epoch, due_at FROM will")
        }
        self.graced = dict(rows("SELECT client_id, max(epoch) FROM will WHERE graced GROUP BY client_id"))
        known: dict[int, Account] = {}
        for generation, client_id, epoch, online, lasting, expiry, expires_at, will, last, sent in rows(
            "SELECT generation, client_id, epoch, online, lasting, expiry, expires_at, will, last, sent FROM session"
        ):
            known[generation] = self.of[client_id] = Account(
                client_id,
                generation,
                bool(lasting),
                epoch,
                bool(online),
                expiry,
                inf if expires_at is None else expires_at,
                None if will is None else decode_will(will),
                last,
                sent,
            )
        for generation, low, high in rows(
            "SELECT session, min(sequence) AS low, max(sequence) FROM (SELECT session, sequence,"
            " sequence - row_number() OVER (PARTITION BY session ORDER BY sequence) AS run FROM queue)"
            " GROUP BY session, run ORDER BY session, low"
        ):
            known[generation].queued.append(low, high)
            known[generation].soonest = 0.0  # not known
        for (generation,) in rows("SELECT DISTINCT session FROM queue WHERE share IS NOT NULL"):
            known[generation].shared = True
        self.orphans = set(rows("SELECT session, sequence FROM orphan"))
        for generation, packet_id in rows("SELECT session, packet_id FROM inbound"):
            known[generation].inbound.add(packet_id)

    # A batch

    def begin(self) -> None:
        """What comes may have to be undone."""
        self._of_before.clear()
        self._due_at_before.clear()
        self._graced_before = self.graced.copy()
        self._orphans_before = self.orphans.copy()
        self._epochs_before = self.epoch, self.reserved

    def restore(self) -> None:
        """Everything is as it was at `begin`."""
        for client_id, account in self._of_before.items():
            if account is None:
                self.of.pop(client_id, None)
            else:
                self.of[client_id] = account
        for key, at in self._due_at_before.items():
            if at is None:
                self.due_at.pop(key, None)
            else:
                self.due_at[key] = at
        self.graced = self._graced_before.copy()
        self.orphans = self._orphans_before.copy()
        self.epoch, self.reserved = self._epochs_before

    # Changes

    def touch(self, client_id: str) -> Account | None:
        """The account, about to be changed, removed or put into `of`."""
        account = self.of.get(client_id)
        if client_id not in self._of_before:
            self._of_before[client_id] = None if account is None else account.copy()
        return account

    def owned(self, client_id: str, epoch: int) -> Account | None:
        """The account, about to be changed, if `epoch` is that of its present connection. None: the caller is stale."""
        account = self.of.get(client_id)
        if account is None or not account.online or account.epoch != epoch:
            return None
        return self.touch(client_id)

    def will_due(self, client_id: str, epoch: int, at: float) -> None:
        """Note or change when a will is due."""
        key = client_id, epoch
        self._due_at_before.setdefault(key, self.due_at.get(key))
        self.due_at[key] = at

    def forget_will(self, client_id: str, epoch: int) -> None:
        """A will that is there is published or cancelled."""
        key = client_id, epoch
        self._due_at_before.setdefault(key, self.due_at.get(key))
        del self.due_at[key]
        if self.graced.get(client_id) == epoch:
            del self.graced[client_id]
