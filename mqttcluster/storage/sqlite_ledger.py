"""The SQLite store's thread: the rules of the contract.

Each statement that SQLite runs hands the interpreter to the reactor's thread and has to ask for it back, which under
load takes far longer than the statement [about 2 to 4 ms against 2 µs]. So calls run no statements: what they need to
know is in memory (`sqlite_accounts`), what they change is noted (`sqlite_writes`), and `prepare` writes all notes of a
batch with a few statements of many rows. Only queues (`sqlite_queues`) and subscriptions are read back, when a session
is resumed.

The key of a session is its generation: unique, never used again, so notes about an ended session never meet another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from mqttcluster.core.message import FIRST_SHARED, Delivery, Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import is_shared
from mqttcluster.storage.interfaces import (
    NEVER,
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
    decode_message,
    decode_subscription,
    encode_identifiers,
    encode_message,
    encode_subscription,
    encode_will,
    expiry_of,
)
from mqttcluster.storage.sqlite_accounts import Account, Accounts
from mqttcluster.storage.sqlite_file import Synchronous, open_file
from mqttcluster.storage.sqlite_queues import Queues
from mqttcluster.storage.sqlite_writes import Writes

#: A restart skips what is left of a block, and a client that connects costs no disk until the block is used up.
EPOCHS_RESERVED = 10_000


class Ledger:
    """`worker.Backend` on an SQLite file, and the calls of `IStore` without their Deferreds."""

    def __init__(self, path: str, limits: QueueLimits, synchronous: Synchronous) -> None:
        self._path = path
        self._limits = limits
        self._synchronous = synchronous
        self._failed = False

    # The file and its transactions

    def connect(self) -> None:
        self._connection = open_file(self._path, self._synchronous)
        try:
            self._writes = Writes(self._connection)
            self._accounts = Accounts(self._connection)
            self._queues = Queues(self._connection, self._writes, self._accounts, self._limits)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def begin(self) -> None:
        self._accounts.begin()

    def prepare(self) -> None:
        self._writes.flush()

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
            self._failed = False

    def rollback(self) -> None:
        self._failed = True
        self._writes.forget()
        self._accounts.restore()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def recover(self, now: float) -> Recovered:
        for client_id in [account.client_id for account in self._accounts.of.values() if account.online]:
            account = self._accounts.touch(client_id)
            assert account is not None
            account.sent = account.last
            self._disconnect(account, True, now)
        self._writes.flush()
        kept = {
            account.generation: KeptSession(account.client_id, account.generation, {})
            for account in self._accounts.of.values()
        }
        rows = self._connection.execute
        for generation, topic_filter, record in rows("SELECT session, filter, record FROM subscription"):
            kept[generation].subscriptions[topic_filter] = decode_subscription(record)
        retained = [decode_message(record) for (record,) in rows("SELECT record FROM retained")]
        return Recovered(list(kept.values()), retained)

    # Accounts and their rows

    def _save(self, account: Account) -> None:
        if account.stored:
            self._writes.session(account.generation, account.row())

    def _end(self, account: Account, sent: int | None = None) -> None:
        if account.shared:  # others of its groups get what it leaves behind
            for sequence, share, record in self._queues.shared(account, account.sent if sent is None else sent):
                self._accounts.orphans.add((account.generation, sequence))
                self._writes.put("orphan", (account.generation, sequence), (account.client_id, share, record))
        del self._accounts.of[account.client_id]
        if account.stored:
            self._writes.end(account.generation)

    def _forget_will(self, client_id: str, epoch: int) -> None:
        self._accounts.forget_will(client_id, epoch)
        self._writes.drop("will", (client_id, epoch))

    # Connections

    def open(self, client_id: str, clean: bool, expiry: int, will: StoredWill | None, now: float, limit: int) -> Opened:
        client_id.encode()  # whatever cannot be stored is refused before anything has changed
        if will is not None:
            encode_will(will)
        accounts, epoch = self._accounts, self._next_epoch()
        graced = client_id, accounts.graced.get(client_id, 0)
        if accounts.due_at.get(graced, -inf) > now:  # back in time, at a node that did not send it away
            self._forget_will(*graced)
        account, present, wiped = accounts.touch(client_id), False, 0
        if account is not None:
            present = not clean and not account.over(now)
            self._settle_will(account, present, now)
            if present and account.online:
                account.sent = account.last  # the old connection may have sent anything
            elif not present:
                wiped = account.generation if account.lasting else 0
                self._end(account, account.last if account.online else None)
        if account is None or not present:
            account = accounts.of[client_id] = Account(client_id, epoch, expiry > 0, epoch)
        account.epoch, account.online, account.expiry, account.will = epoch, True, expiry, will
        self._save(account)
        opened = Opened(account.epoch, account.generation, present, wiped=wiped)
        if present:
            self._read_session(account, opened, limit)
        return opened

    def _next_epoch(self) -> int:
        accounts = self._accounts
        accounts.epoch += 1
        if accounts.epoch > accounts.reserved:
            accounts.reserved = accounts.epoch + EPOCHS_RESERVED - 1
            self._writes.reserve(accounts.reserved)
        return accounts.epoch

    def _read_session(self, account: Account, opened: Opened, limit: int) -> None:
        self._writes.flush()
        rows = self._connection.execute
        key = (account.generation,)
        opened.last, opened.sent, opened.inbound = account.last, account.sent, account.inbound.copy()
        opened.queue = self._queues.read(account, 0, limit)
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
        elif self._accounts.due_at.get((account.client_id, account.epoch), -inf) > now:
            if goes_on:
                self._forget_will(account.client_id, account.epoch)
            else:
                self._accounts.will_due(account.client_id, account.epoch, now)
                self._writes.will_due(account.client_id, account.epoch, now)

    def _leave_will(self, account: Account, at: float, graced: bool) -> None:
        """The connection of `account` has ended, its will is to be published."""
        assert account.will is not None
        self._accounts.will_due(account.client_id, account.epoch, at)
        if graced:
            self._accounts.graced[account.client_id] = account.epoch
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
        account = self._accounts.owned(client_id, epoch)
        if account is None:
            if not publish_will and (client_id, epoch) in self._accounts.due_at:
                self._forget_will(client_id, epoch)
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
        account = self._accounts.owned(client_id, epoch)
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
            publisher = self._accounts.owned(client_id, epoch)
            if publisher is None:
                return Published(stale=True)
            if packet_id in publisher.inbound:
                return Published(repeated=True)
        if publication.will is not None:
            if publication.will not in self._accounts.due_at:
                return Published(repeated=True)
            self._forget_will(*publication.will)
        orphan = publication.orphan
        if orphan is not None:
            key = orphan.generation, orphan.sequence
            if key not in self._accounts.orphans:
                return Published(repeated=True)
            self._accounts.orphans.remove(key)
            self._writes.drop("orphan", key)
        # Nothing was changed before the last check, and nothing fails from here on.
        if publisher is not None and publisher.lasting:
            publisher.inbound.add(packet_id)
            self._writes.put("inbound", (publisher.generation, packet_id))
        if publication.retain and message.payload:
            self._writes.put("retained", (message.topic,), (record,))
        elif publication.retain:
            self._writes.drop("retained", (message.topic,))
        sequences, chosen = self._queues.put(publication, record, identifiers)
        return Published(sequences, chosen=chosen)

    def publish_run(self, messages: Sequence[Message], targets: Sequence[Target], now: float) -> PublishedRun:
        return PublishedRun(self._queues.put_run(messages, targets, now))

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
        account = self._accounts.owned(client_id, epoch)
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
        account = self._accounts.owned(client_id, epoch)
        if account is None:
            return False
        for packet_id in account.inbound.intersection(packet_ids):
            account.inbound.remove(packet_id)
            self._writes.drop("inbound", (account.generation, packet_id))
        return True

    def read(self, client_id: str, epoch: int, after: int, limit: int) -> list[Delivery]:
        account = self._accounts.owned(client_id, epoch)
        return [] if account is None else self._queues.read(account, after, limit)

    # Housekeeping

    def will_published(self, client_id: str, epoch: int) -> None:
        if (client_id, epoch) in self._accounts.due_at:
            self._forget_will(client_id, epoch)

    def due(self, now: float, limit: int) -> Due:
        if self._failed:  # whether there is room again is seen by writing only
            self._writes.reserve(self._accounts.reserved)
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
            account = self._accounts.touch(client_id)
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
