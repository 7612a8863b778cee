"""Opening the file of the SQLite store: what is in it, whose it is, whether it is sound.

A file is looked at through a read-only connection first. Only one that is ours, readable by this release and sound is
opened for writing, so a wrong path costs a clear message and never a file.

The connection holds an exclusive lock as long as it is open (the system takes it back from a dead process). Two nodes
that are pointed at one file would lose each other's messages; the second one is told so and does not start.

The journal is a write-ahead log. With `synchronous` ``full`` each commit is flushed to the disk: what was acknowledged
survives SIGKILL and, as far as the disk keeps its word, a power cut. With ``normal`` it survives SIGKILL, and a power
cut loses the last moments but damages nothing. The file does not belong on a network file system.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from mqttcluster.storage.interfaces import StoreError

Synchronous = Literal["full", "normal"]

#: "MQCl" in the header of the file; `file` and others can be told.
APPLICATION_ID = 0x4D51436C
#: Raised when an older release could not work with the file any more.
FORMAT = 1
#: The smallest page of SQLite: no database has fewer bytes, unless it is empty.
SMALLEST = 512
#: Larger files (bytes) are not read from end to end at start; their directory of sessions is.
CHECKED_WHOLE = 256 * 1024 * 1024

SCHEMA = """
CREATE TABLE epoch (reserved INTEGER NOT NULL);
INSERT INTO epoch VALUES (0);

-- One row for each session that may outlive its connection, or has a will. `expires_at` is null while it is online and
-- if it never expires; `lasting` is 0 for one that ends with its connection.
CREATE TABLE session (
    generation INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL, online INTEGER NOT NULL,
    lasting INTEGER NOT NULL, expiry INTEGER NOT NULL, expires_at REAL, will BLOB,
    last INTEGER NOT NULL, sent INTEGER NOT NULL);
CREATE INDEX session_expires_at ON session (expires_at, client_id) WHERE expires_at IS NOT NULL;

CREATE TABLE subscription (
    session INTEGER NOT NULL, filter TEXT NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (session, filter)) WITHOUT ROWID;

-- A message is stored once, however many queues name it, and goes with the last entry that does.
CREATE TABLE message (id INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE queue (
    session INTEGER NOT NULL, sequence INTEGER NOT NULL, message INTEGER NOT NULL,
    qos INTEGER NOT NULL, retain INTEGER NOT NULL, identifiers BLOB, share TEXT,
    PRIMARY KEY (session, sequence)) WITHOUT ROWID;
CREATE INDEX queue_message ON queue (message);
CREATE TRIGGER last_entry AFTER DELETE ON queue BEGIN
    DELETE FROM message
    WHERE id = old.message AND NOT EXISTS (SELECT 1 FROM queue WHERE message = old.message);
END;

-- What was queued through a shared subscription for a session that has ended.
CREATE TABLE orphan (
    session INTEGER NOT NULL, sequence INTEGER NOT NULL, client_id TEXT NOT NULL, share TEXT NOT NULL,
    record BLOB NOT NULL, PRIMARY KEY (session, sequence)) WITHOUT ROWID;

-- PUBREC is stored, PUBCOMP is not.
CREATE TABLE released (
    session INTEGER NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (session, sequence)) WITHOUT ROWID;
-- QoS 2 messages from clients that wait for PUBREL.
CREATE TABLE inbound (
    session INTEGER NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY (session, packet_id)) WITHOUT ROWID;

CREATE TABLE will (
    client_id TEXT NOT NULL, epoch INTEGER NOT NULL, due_at REAL NOT NULL, graced INTEGER NOT NULL,
    record BLOB NOT NULL, PRIMARY KEY (client_id, epoch));
CREATE INDEX will_due_at ON will (due_at, client_id, epoch);

CREATE TABLE retained (topic TEXT PRIMARY KEY, record BLOB NOT NULL);
"""


def open_file(path: str, synchronous: Synchronous) -> sqlite3.Connection:
    """Open the store at `path`, making it if there is none. Raises `StoreError`, in one line with the cure."""
    try:
        _look(path)
        with closing(sqlite3.connect(f"{_uri(path)}?mode=ro", uri=True, timeout=0)) as connection:
            if not _is_empty(connection):
                _check(path, connection)
        connection = sqlite3.connect(f"{_uri(path)}?mode=rw", uri=True, timeout=0, isolation_level=None)
        try:
            _take(path, connection, synchronous)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as problem:
        raise StoreError(_explain(path, str(problem))) from problem
    except OSError as problem:
        raise StoreError(f"{path}: {problem.strerror}; create the directory, or choose another path") from problem
    return connection


def _uri(path: str) -> str:
    return Path(path).absolute().as_uri()


def _look(path: str) -> None:
    """What SQLite would not tell, or would put right in its own way. Makes an empty file if there is none.

    Other users must not read what clients send each other; SQLite gives its journal the mode of the file.
    """
    if not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if not os.path.isfile(path):
        raise StoreError(f"{path}: is not a file; choose another path")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise StoreError(_explain(path, "readonly file"))
    if 0 < os.path.getsize(path) < SMALLEST:  # SQLite would take it for an empty database, and write over it
        raise StoreError(f"{path}: is not a store of mqttcluster; choose another path")


def _one(connection: sqlite3.Connection, statement: str) -> Any:
    return connection.execute(statement).fetchone()[0]


def _size(connection: sqlite3.Connection) -> int:
    pages: int = _one(connection, "PRAGMA page_count") * _one(connection, "PRAGMA page_size")
    return pages


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Nobody has put anything in. An earlier start may have been killed at this point."""
    tables = _one(connection, "SELECT count(*) FROM sqlite_master")
    return bool(tables == 0 and _one(connection, "PRAGMA application_id") == 0)


def _check(path: str, connection: sqlite3.Connection) -> None:
    if _one(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreError(f"{path}: is not a store of mqttcluster; choose another path")
    version = _one(connection, "PRAGMA user_version")
    if version > FORMAT:
        raise StoreError(f"{path}: has format {version}, this release knows up to {FORMAT}; upgrade mqttcluster")
    for what in ("1",) if _size(connection) <= CHECKED_WHOLE else ("session", "subscription", "will"):
        found = _one(connection, f"PRAGMA quick_check({what})")
        if found != "ok":
            raise StoreError(_explain(path, f"malformed: {found}"))


def _take(path: str, connection: sqlite3.Connection, synchronous: Synchronous) -> None:
    """Lock the file, for good, and make sure that it can be written."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'full' else 'NORMAL'}")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA cache_size = -16000")
    connection.execute("BEGIN IMMEDIATE")
    if _is_empty(connection):
        for statement in _statements(SCHEMA):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    elif _one(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreError(f"{path}: is not a store of mqttcluster; choose another path")
    connection.execute("COMMIT")


def _statements(script: str) -> list[str]:
    """Cut a script up; `executescript` would commit the transaction it is to be part of."""
    statements, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            statements.append(statement)
            statement = ""
    return statements


def _explain(path: str, problem: str) -> str:
    problem = problem.splitlines()[0][:200]
    if "locked" in problem:
        return f"{path}: is in use by another process; stop that, or give each node a file of its own"
    if "not a database" in problem:
        return f"{path}: is not a store of mqttcluster; choose another path"
    if "malformed" in problem:
        return f"{path}: is damaged ({problem}); restore a backup, or move the file away to start with nothing"
    if "readonly" in problem or "unable to open" in problem:
        return f"{path}: cannot be written ({problem}); check owner and mode of the file and of its directory"
    return f"{path}: cannot be opened ({problem}); check the disk, or choose another path"
