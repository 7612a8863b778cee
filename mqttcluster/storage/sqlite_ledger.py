"""The SQLite store's thread: the rules of the contract, and the writing behind them.

Each statement that SQLite runs hands the interpreter to the reactor's thread and has to ask for it back, which under
load takes far longer than the statement [about 2 to 4 ms against 2 µs]. So calls run no statements: what they need to
know is in memory, what they change is noted in `Writes`, and `prepare` writes all notes of a batch with a few
statements of many rows. Only queues and subscriptions are read back, when a session is resumed.

In memory is a short account of each session (not its queue, which may be long: `Sequences` knows what is left of it)
and when each will is due. `begin` forgets and `rollback` restores the accounts as they were before the batch.

The key of a session is its generation: unique, never used again, so notes about an ended session never meet another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from mqttcluster.core.message import FIRST_SHARED, Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import is_shared
from mqttcluster.storage.interfaces import (
    FULL,
    GONE,
    NEVER,
    READ_BYTES,
    Chosen,
    Closed,
    Due,
    KeptSession,
    Opened,
    Orphan,
    Publication,
    Published,
    PublishedRun,
    QueueLimits,
    Recovered,
    StoredWill,
    Target,
)
from mqttcluster.storage.records import (
    EXPIRY_WITHIN,
    decode_identifiers,
    decode_message,
    decode_subscription,
    decode_will,
    encode_identifiers,
    encode_message,
    encode_subscription,
    encode_will,
    expiry_of,
)
from mqttcluster.storage.sequences import Sequences, in_a_row
from mqttcluster.storage.sqlite_file import Synchronous, open_file
from mqttcluster.storage.sqlite_writes import Writes

#: A restart skips what is left of a block, and a client that connects costs no disk until the block is used up.
EPOCHS_RESERVED = 10_000


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


class Ledger:
    """`worker.Backend` on an SQLite file, and the calls of `IStore` without their Deferreds."""

    def __init__(self, path: str, limits: QueueLimits, synchronous: Synchronous) -> None:
        self._path = path
        self._limits = limits
        self._synchronous = synchronous
        self._accounts: dict[str, Account] = {}
        self._accounts_before: dict[str, Account | None] = {}
        self._due_at: dict[tuple[str, int], float] = {}
        self._due_at_before: dict[tuple[str, int], float | None] = {}
        #: Client id -> epoch of a connection that was ended with grace, until its will is published or cancelled.
        self._graced: dict[str, int] = {}
        self._graced_before: dict[str, int] = {}
        #: Generation and sequence of what was queued for a session that has ended, and is for others of its group.
        self._orphans: set[tuple[int, int]] = set()
        self._orphans_before: set[tuple[int, int]] = set()
        self._epoch = 0
        self._reserved = 0
        self._epochs_before = 0, 0
        self._message = 0

    # The file and its transactions

    def connect(self) -> None:
        self._connection = open_file(self._path, self._synchronous)
        try:
            self._writes = Writes(self._connection)
            self._load()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def begin(self) -> None:
        self._accounts_before.clear()
        self._due_at_before.clear()
        self._graced_before = self._graced.copy()
        self._orphans_before = self._orphans.copy()
        self._epochs_before = self._epoch, self._reserved

    def prepare(self) -> None:
        self._writes.flush()

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        self._writes.forget()
        for client_id, account in self._accounts_before.items():
            if account is None:
                self._accounts.pop(client_id, None)
            else:
                self._accounts[client_id] = account
        for key, at in self._due_at_before.items():
            if at is None:
                self._due_at.pop(key, None)
            else:
                self._due_at[key] = at
        self._graced = self._graced_before.copy()
        self._orphans = self._orphans_before.copy()
        self._epoch, self._reserved = self._epochs_before
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _load(self) -> None:
        rows = self._connection.execute
        self._epoch = self._reserved = rows("SELECT reserved FROM epoch").fetchone()[0]
        self._message = rows("SELECT coalesce(max(id), 0) FROM message").fetchone()[0]
        self._due_at = {
            (client_id, epoch): at for client_id, epoch, at in rows("SELECT client_id, epoch, due_at FROM will")
        }
        self._graced = dict(rows("SELECT client_id, max(epoch) FROM will WHERE graced GROUP BY client_id"))
        self._accounts = {}
        known: dict[int, Account] = {}
        for generation, client_id, epoch, online, lasting, expiry, expires_at, will, last, sent in rows(
            "SELECT generation, client_id, epoch, online, lasting, expiry, expires_at, will, last, sent FROM session"
        ):
            known[generation] = self._accounts[client_id] = Account(
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
        self._orphans = set(rows("SELECT session, sequence FROM orphan"))
        for generation, packet_id in rows("SELECT session, packet_id FROM inbound"):
            known[generation].inbound.add(packet_id)

    def recover(self, now: float) -> Recovered:
        for client_id in [account.client_id for account in self._accounts.values() if account.online]:
            account = self._touch(client_id)
            assert account is not None
            account.sent = account.last
            self._disconnect(account, True, now)
        self._writes.flush()
        kept = {
            account.generation: KeptSession(account.client_id, account.generation, {})
            for account in self._accounts.values()
        }
        rows = self._connection.execute
        for generation, topic_filter, record in rows("SELECT session, filter, record FROM subscription"):
            kept[generation].subscriptions[topic_filter] = decode_subscription(record)
        retained = [decode_message(record) for (record,) in rows("SELECT record FROM retained")]
        return Recovered(list(kept.values()), retained)

    # Accounts, with what `rollback` needs

    def _touch(self, client_id: str) -> Account | None:
        """The account, about to be changed."""
        account = self._accounts.get(client_id)
        if client_id not in self._accounts_before:
            self._accounts_before[client_id] = None if account is None else account.copy()
        return account

    def _owned(self, client_id: str, epoch: int) -> Account | None:
        """The account, about to be changed, if `epoch` is that of its present connection. None: the caller is stale."""
        account = self._accounts.get(client_id)
        if account is None or not account.online or account.epoch != epoch:
            return None
        return self._touch(client_id)

    def _will_due(self, client_id: str, epoch: int, at: float | None) -> None:
        """Change when a will is due; None forgets the will."""
        key = client_id, epoch
        self._due_at_before.setdefault(key, self._due_at.get(key))
        if at is None:
            del self._due_at[key]
            self._writes.drop("will", key)
            if self._graced.get(client_id) == epoch:
                del self._graced[client_id]
        else:
            self._due_at[key] = at

    def _end(self, account: Account, sent: int | None = None) -> None:
        if account.shared:
            self._orphan(account, account.sent if sent is None else sent)
        del self._accounts[account.client_id]
        if account.stored:
            self._writes.end(account.generation)

    def _orphan(self, account: Account, sent: int) -> None:
        """Keep for others of their groups what this session leaves behind. QoS 2 up to `sent` is nobody else's."""
        self._writes.flush()
        entries = self._connection.execute(
            "SELECT sequence, share, record FROM queue JOIN message ON message.id = queue.message"
            " WHERE session = ? AND share IS NOT NULL AND (qos = 1 OR sequence > ?) ORDER BY sequence",
            (account.generation, sent),
        )
        for sequence, share, record in entries.fetchall():
            self._orphans.add((account.generation, sequence))
            self._writes.put("orphan", (account.generation, sequence), (account.client_id, share, record))

    def _save(self, account: Account) -> None:
        if account.stored:
            self._writes.session(account.generation, account.row())

    # Connections

    def open(self, client_id: str, clean: bool, expiry: int, will: StoredWill | None, now: float, limit: int) -> Opened:
        client_id.encode()  # whatever cannot be stored is refused before anything has changed
        if will is not None:
            encode_will(will)
        self._epoch += 1
        if self._epoch > self._reserved:
            self._reserved = self._epoch + EPOCHS_RESERVED - 1
            self._writes.reserve(self._reserved)
        graced = client_id, self._graced.get(client_id, 0)
        if self._due_at.get(graced, -inf) > now:  # back in time, at a node that did not send it away
            self._will_due(*graced, None)
        account, present, wiped = self._touch(client_id), False, 0
        if account is not None:
            present = not clean and not account.over(now)
            self._settle_will(account, present, now)
            if present and account.online:
                account.sent = account.last  # the old connection may have sent anything
            elif not present:
                wiped = account.generation if account.lasting else 0
                self._end(account, account.last if account.online else None)
        if account is None or not present:
            account = self._accounts[client_id] = Account(client_id, self._epoch, expiry > 0, self._epoch)
        account.epoch, account.online, account.expiry, account.will = self._epoch, True, expiry, will
        self._save(account)
        opened = Opened(account.epoch, account.generation, present, wiped=wiped)
        if present:
            self._read_session(account, opened, limit)
        return opened

    def _read_session(self, account: Account, opened: Opened, limit: int) -> None:
        self._writes.flush()
        rows = self._connection.execute
        key = (account.generation,)
        opened.last, opened.sent, opened.inbound = account.last, account.sent, account.inbound.copy()
        if account.queued:
            opened.queue = self._entries(account, 0, limit)
        opened.subscriptions = {
            topic_filter: decode_subscription(record)
            for topic_filter, record in rows("SELECT filter, record FROM subscription WHERE session = ?", key)
        }
        opened.released = [
            sequence for (sequence,) in rows("SELECT sequence FROM released WHERE session = ? ORDER BY sequence", key)
        ]

    def _settle_will(self, account: Account, goes_on: bool, now: float) -> None:
        """A new connection ends the wait of the last one's will: cancelled if the session goes on, else due."""
        if account.online:
            if account.will is not None and not (goes_on and account.will.delay):
                self._leave_will(account, now, False)
        elif self._due_at.get((account.client_id, account.epoch), -inf) > now:
            self._will_due(account.client_id, account.epoch, None if goes_on else now)
            if not goes_on:
                self._writes.will_due(account.client_id, account.epoch, now)

    def _leave_will(self, account: Account, at: float, graced: bool) -> None:
        """The connection of `account` has ended, its will is to be published."""
        assert account.will is not None
        self._will_due(account.client_id, account.epoch, at)
        if graced:
            self._graced[account.client_id] = account.epoch
        record = encode_message(account.will.message)
        self._writes.put("will", (account.client_id, account.epoch), (at, graced, record))

    def close_session(
        self,
        client_id: str,
        epoch: int,
        publish_will: bool,
        sent: int,
        now: float,
        expiry: int | None,
        grace: float,
    ) -> Closed:
        account = self._owned(client_id, epoch)
        if account is None:
            return Closed.STALE
        if expiry is not None and account.expiry:
            account.expiry = expiry
        account.sent = min(max(account.sent, sent), account.last)
        return self._disconnect(account, publish_will, now, grace)

    def _disconnect(self, account: Account, publish_will: bool, now: float, grace: float = 0.0) -> Closed:
        if account.will is not None and publish_will:
            self._leave_will(account, now + max(min(account.will.delay, account.expiry), grace), grace > 0)
        if account.expiry == 0:
            self._end(account)
            return Closed.ENDED
        account.online, account.will = False, None
        account.expires_at = inf if account.expiry == NEVER else now + account.expiry
        self._save(account)
        return Closed.KEPT

    # What a connection does

    def subscribe(self, client_id: str, epoch: int, add: Mapping[str, Subscription], remove: Iterable[str]) -> bool:
        records = [(topic_filter, encode_subscription(wanted)) for topic_filter, wanted in add.items()]
        for topic_filter in (*add, *remove):
            topic_filter.encode()
        account = self._owned(client_id, epoch)
        if account is not None and not account.lasting and any(map(is_shared, add)):
            account.lasting, account.last = True, FIRST_SHARED
            self._save(account)
        if account is not None and account.lasting:
            for topic_filter in remove:
                self._writes.drop("subscription", (account.generation, topic_filter))
            for topic_filter, record in records:
                self._writes.put("subscription", (account.generation, topic_filter), (record,))
        return account is not None

    def publish(self, publication: Publication) -> Published:
        message = publication.message
        needed = publication.targets or publication.shares or publication.retain
        record = encode_message(message) if needed else b""
        identifiers = [encode_identifiers(target.identifiers) for target in publication.targets]
        publisher = None
        if publication.exchange is not None:
            client_id, epoch, packet_id = publication.exchange
            publisher = self._owned(client_id, epoch)
            if publisher is None:
                return Published(stale=True)
            if packet_id in publisher.inbound:
                return Published(repeated=True)
        if publication.will is not None:
            if publication.will not in self._due_at:
                return Published(repeated=True)
            self._will_due(*publication.will, None)
        orphan = publication.orphan
        if orphan is not None:
            key = orphan.generation, orphan.sequence
            if key not in self._orphans:
                return Published(repeated=True)
            self._orphans.remove(key)
            self._writes.drop("orphan", key)
        # Nothing was changed before the last check, and nothing fails from here on.
        if publisher is not None and publisher.lasting:
            publisher.inbound.add(packet_id)
            self._writes.put("inbound", (publisher.generation, packet_id))
        if publication.retain and message.payload:
            self._writes.put("retained", (message.topic,), (record,))
        elif publication.retain:
            self._writes.drop("retained", (message.topic,))
        self._message += 1
        sequences = [
            self._enqueue(publication, target, encoded)
            for target, encoded in zip(publication.targets, identifiers, strict=True)
        ]
        chosen = tuple(self._choose(publication, group) for group in publication.shares)
        if any(sequence > 0 for sequence in sequences) or any(one.sequence > 0 for one in chosen):
            self._writes.message(self._message, record)
        return Published(sequences, chosen=chosen)

    def publish_run(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> PublishedRun:
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
        return PublishedRun([in_a_row(found) for found in sequences])

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
        account = self._accounts.get(target.client_id)
        if account is None or account.generation != target.generation or not account.lasting:
            return GONE
        self._touch(target.client_id)
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

    def drop_retained(self, topics: Sequence[str], now: float) -> dict[str, int]:
        self._writes.flush()
        rows = self._connection.execute
        expired = {}
        for topic in topics:
            row = rows("SELECT substr(record, 1, ?) FROM retained WHERE topic = ?", (EXPIRY_WITHIN, topic)).fetchone()
            if row is not None and expiry_of(row[0]) <= now:
                expired[topic] = 0
                self._writes.drop("retained", (topic,))
        return expired

    def acknowledge(
        self, client_id: str, epoch: int, done: Iterable[int], received: Iterable[int], completed: Iterable[int]
    ) -> bool:
        account = self._owned(client_id, epoch)
        if account is None:
            return False
        removed = [sequence for sequence in done if account.queued.remove(sequence)]
        for sequence in received:
            if account.queued.remove(sequence):
                removed.append(sequence)
                self._writes.put("released", (account.generation, sequence))
        self._writes.remove(account.generation, removed)
        for sequence in completed:
            self._writes.drop("released", (account.generation, sequence))
        return True

    def release(self, client_id: str, epoch: int, packet_ids: Iterable[int]) -> bool:
        account = self._owned(client_id, epoch)
        if account is None:
            return False
        for packet_id in account.inbound.intersection(packet_ids):
            account.inbound.remove(packet_id)
            self._writes.drop("inbound", (account.generation, packet_id))
        return True

    def read(self, client_id: str, epoch: int, after: int, limit: int) -> list[Delivery]:
        account = self._owned(client_id, epoch)
        if account is None or account.queued.after(after) is None:
            return []
        self._writes.flush()
        return self._entries(account, after, limit)

    def _entries(self, account: Account, after: int, limit: int) -> list[Delivery]:
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

    # Housekeeping

    def will_published(self, client_id: str, epoch: int) -> None:
        if (client_id, epoch) in self._due_at:
            self._will_due(client_id, epoch, None)

    def due(self, now: float, limit: int) -> Due:
        self._writes.flush()
        rows = self._connection.execute
        over = rows(
            "SELECT client_id, generation FROM session WHERE expires_at <= ? ORDER BY expires_at, client_id LIMIT ?",
            (now, limit),
        ).fetchall()
        wills = rows(
            "SELECT client_id, epoch, record FROM will WHERE due_at <= ? ORDER BY due_at, client_id, epoch LIMIT ?",
            (now, limit),
        ).fetchall()
        for client_id, _ in over:  # its will is due: it never waits longer than the session lasts
            account = self._touch(client_id)
            assert account is not None
            self._end(account)
        self._writes.flush()
        orphans = [
            Orphan(client_id, generation, sequence, share, decode_message(record))
            for client_id, generation, sequence, share, record in rows(
                "SELECT client_id, session, sequence, share, record FROM orphan ORDER BY session, sequence LIMIT ?",
                (limit,),
            )
        ]
        return Due([(client_id, epoch, decode_message(record)) for client_id, epoch, record in wills], over, orphans)
