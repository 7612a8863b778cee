"""What a batch of calls has to write, noted in memory until `flush` writes it with few statements of many rows.

Of several notes about one row the last one counts. That allows `flush` to go table by table: queue entries are only
added and then removed, everything else is what it is in the end. Sessions that ended go before new ones come, which
may have the same client id. A session is named by its generation.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

#: Rows of one statement. The rest goes row by row.
ROWS = 64

#: Tables whose rows are put and dropped by key, in the order of writing, with the columns of the key.
_KEYS = {
    "subscription": ("session", "filter"),
    "released": ("session", "sequence"),
    "inbound": ("session", "packet_id"),
    "will": ("client_id", "epoch"),
    "retained": ("topic",),
    "orphan": ("session", "sequence"),
}
_OF_A_SESSION = ("subscription", "released", "inbound", "queue")

Row = tuple[object, ...]


class Writes:
    """Notes for one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.forget()

    def forget(self) -> None:
        """Nothing is to be written."""
        self._any = False
        self._reserved: int | None = None
        self._messages: list[Row] = []
        self._entries: list[Row] = []
        self._removed: list[Row] = []
        self._rows: dict[str, dict[Row, Row | None]] = {table: {} for table in _KEYS}
        self._will_times: list[Row] = []
        self._ended: list[Row] = []
        self._sessions: dict[int, Row] = {}
        self._last: dict[int, int] = {}

    # Notes

    def reserve(self, epoch: int) -> None:
        """Epochs up to this one may be given out."""
        self._any = True
        self._reserved = epoch

    def put(self, table: str, key: Row, rest: Row = ()) -> None:
        """There is a row with this key."""
        self._any = True
        self._rows[table][key] = rest

    def drop(self, table: str, key: Row) -> None:
        """There is no row with this key."""
        self._any = True
        self._rows[table][key] = None

    def message(self, number: int, record: bytes) -> None:
        self._any = True
        self._messages.append((number, record))

    def entry(self, session: int, sequence: int, *rest: object) -> None:
        """A queue entry; `rest` is message number, QoS, retain, identifiers, share. It is the session's newest."""
        self._any = True
        self._entries.append((session, sequence, *rest))
        self._last[session] = sequence

    def remove(self, session: int, sequences: Iterable[int]) -> None:
        """These entries leave the queue; neighbours go with one statement."""
        ordered = sorted(sequences)
        if not ordered:
            return
        self._any = True
        low = high = ordered[0]
        for sequence in ordered[1:]:
            if sequence != high + 1:
                self._removed.append((session, low, high))
                low = sequence
            high = sequence
        self._removed.append((session, low, high))

    def session(self, session: int, rest: Row) -> None:
        """The row of a session, new or changed."""
        self._any = True
        self._sessions[session] = rest

    def end(self, session: int) -> None:
        """The session is not there any more, nor anything of it."""
        self._any = True
        self._sessions.pop(session, None)
        self._ended.append((session,))

    def will_due(self, client_id: str, epoch: int, at: float) -> None:
        """A will that is there is due at another time."""
        self._any = True
        self._will_times.append((at, client_id, epoch))

    # Writing

    def flush(self) -> None:
        """Write all notes, in a transaction that is begun if there is none."""
        if not self._any:
            return
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        if self._reserved is not None:
            self._each("UPDATE epoch SET reserved = ?", [(self._reserved,)])
        self._insert("INSERT", "message", self._messages)
        self._insert("INSERT", "queue", self._entries)
        self._each("DELETE FROM queue WHERE session = ? AND sequence BETWEEN ? AND ?", self._removed)
        for table, (first, *others) in _KEYS.items():
            rows = self._rows[table]
            where = "".join((f"{first} = ?", *(f" AND {column} = ?" for column in others)))
            self._each(f"DELETE FROM {table} WHERE {where}", [key for key, rest in rows.items() if rest is None])
            self._insert("REPLACE", table, [key + rest for key, rest in rows.items() if rest is not None])
        self._each("UPDATE will SET due_at = ? WHERE client_id = ? AND epoch = ?", self._will_times)
        for table in _OF_A_SESSION:
            self._each(f"DELETE FROM {table} WHERE session = ?", self._ended)
        self._each("DELETE FROM session WHERE generation = ?", self._ended)
        self._insert("REPLACE", "session", [(session, *rest) for session, rest in self._sessions.items()])
        self._each(
            "UPDATE session SET last = ? WHERE generation = ?",
            [(last, session) for session, last in self._last.items()],
        )
        self.forget()

    def _each(self, statement: str, rows: Sequence[Row]) -> None:
        if rows:
            self._connection.executemany(statement, rows)

    def _insert(self, verb: str, table: str, rows: Sequence[Row]) -> None:
        if not rows:
            return
        row = f"({', '.join('?' * len(rows[0]))})"
        head = f"{verb} INTO {table} VALUES "
        whole = len(rows) - len(rows) % ROWS
        for at in range(0, whole, ROWS):
            values = list(chain.from_iterable(rows[at : at + ROWS]))
            self._connection.execute(head + ", ".join([row] * ROWS), values)
        self._each(head + row, rows[whole:])
