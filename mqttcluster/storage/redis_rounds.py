"""The calls that look at many sessions: what is there, what is due, what a dead node has left.

They take several plans, each built on the answers to the one before, so each has the worker's thread to itself. Every
step may be repeated, by this node or by another at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from mqttcluster.storage.interfaces import Due, KeptSession, Recovered
from mqttcluster.storage.records import decode_message
from mqttcluster.storage.redis_calls import Call, decode_orphan, decode_subscriptions
from mqttcluster.storage.redis_keys import Keys
from mqttcluster.storage.redis_pipeline import Request
from mqttcluster.storage.redis_plan import Plan, Slot
from mqttcluster.storage.redis_retained import decode_value

T = TypeVar("T")

#: Seconds for which a will belongs to the node that has taken it. If that node dies it is due again after this.
WILL_LEASE = 5.0
#: Sessions dealt with in one plan.
PAGE = 1000


class Alone(Call[T]):
    """A call that has the thread to itself."""

    def __init__(self, rounds: Callable[[Rounds], T]) -> None:
        super().__init__()
        self._rounds = rounds

    def run(self, rounds: Rounds) -> None:
        """Carry it out. Raises `StoreError`."""
        self._answer = self._rounds(rounds)

    def finish(self) -> T:
        return self._answer


class Rounds:
    """Makes and carries out plans, one after the other."""

    def __init__(self, keys: Callable[[], Keys], plan: Callable[[], Plan], carry_out: Callable[[Plan], None]) -> None:
        self._keys = keys
        self._plan = plan
        self._carry_out = carry_out

    def ask(self, commands: Iterable[Sequence[object]]) -> list[Any]:
        """Answers to commands that only read."""
        plan = self._plan()
        slots = [plan.command(Request(command)) for command in commands]
        self._carry_out(plan)
        return [slot.answer for slot in slots]

    def ask_all(self, command: Callable[[int], Sequence[object]]) -> list[Any]:
        """The answers of all partitions of the sessions."""
        return self.ask(command(number) for number in range(self._keys().config.partitions))

    def add(self, items: Iterable[T], operation: Callable[[Plan, T], Slot]) -> Iterable[tuple[T, Slot]]:
        """One operation per item, in pages."""
        rest = iter(items)
        while page := list(islice(rest, PAGE)):
            plan = self._plan()
            slots = [operation(plan, item) for item in page]
            self._carry_out(plan)
            yield from zip(page, slots, strict=True)

    # The calls

    def recover(self) -> Recovered:
        """Kept sessions and retained messages, of the whole cluster."""
        keys = self._keys()
        recovered = Recovered()
        for number in range(keys.config.partitions):
            for page in self._members("SSCAN", keys.kept(number)):
                recovered.sessions += self._sessions(number, [client_id.decode() for client_id in page])
        for number in range(keys.config.retained_partitions):
            for page in self._members("HSCAN", keys.retained(number)[1]):
                recovered.retained += [decode_value(value)[1] for value in page[1::2]]
        return recovered

    def _members(self, scan: str, key: str) -> Iterable[list[bytes]]:
        """The pages of a set or hash. Each member once, although Redis may tell it twice."""
        cursor: object = 0
        told: set[bytes] = set()
        step = 1 if scan == "SSCAN" else 2
        while True:
            [(cursor, members)] = self.ask([(scan, key, cursor, "COUNT", PAGE)])
            page = []
            for at in range(0, len(members), step):
                if members[at] not in told:
                    told.add(members[at])
                    page += members[at : at + step]
            yield page
            if cursor == b"0":
                return

    def _sessions(self, number: int, client_ids: list[str]) -> Iterable[KeptSession]:
        keys = self._keys()
        # The generation comes first: if the session is wiped in between, its routes are of the one that has gone.
        answers = iter(
            self.ask(
                command
                for client_id in client_ids
                for command in (
                    ("HMGET", keys.record(number, client_id), "gen", "epoch", "owner", "lasting"),
                    ("HGETALL", keys.subscriptions(number, client_id)),
                )
            )
        )
        for client_id, values, subscriptions in zip(client_ids, answers, answers, strict=True):
            generation, epoch, owner, lasting = values
            if generation is not None:
                wanted = decode_subscriptions(subscriptions)
                yield KeptSession(client_id, int(generation), wanted, int(epoch), owner.decode(), lasting != b"s")

    def due(self, now: float, limit: int) -> Due:
        """Sessions that have expired, ended here, and due wills and orphans, taken for this node."""
        keys = self._keys()
        due = Due()
        found = self._oldest(keys.expiring, now, 0, limit)
        names = [client_id.decode() for client_id in found[:limit]]
        for name, slot in self.add(names, lambda plan, name: plan.of(name).add_for("x", name, name, repr(now))):
            if slot.answer != b"0":
                due.expired.append((name, int(slot.answer)))
        offset = 0
        while len(due.wills) + len(due.orphans) < limit and (waiting := self._oldest(keys.due, now, offset, limit)):
            while waiting and len(due.wills) + len(due.orphans) < limit:
                wanted = limit - len(due.wills) - len(due.orphans)
                wills = [name.decode() for name in waiting[:wanted]]
                del waiting[:wanted]
                for name, slot in self.add(wills, lambda plan, name: _take(plan, name, now)):
                    if slot.answer:
                        if name[0] == "o":
                            due.orphans.append(decode_orphan(name, slot.read))
                            continue
                        epoch, _, client_id = name.partition(":")
                        due.wills.append((client_id, int(epoch), decode_message(slot.read)))
            offset += limit  # what was not given is in another node's hands; look beyond it
        return due

    def _oldest(self, key: Callable[[int], str], now: float, offset: int, limit: int) -> list[bytes]:
        """Members of all partitions' sorted sets with a time up to `now`, by time: `limit` of each from `offset` on."""
        answers = self.ask_all(
            lambda number: ("ZRANGEBYSCORE", key(number), "-inf", repr(now), "WITHSCORES", "LIMIT", offset, limit)
        )
        pairs = sorted((float(found[at + 1]), found[at]) for found in answers for at in range(0, len(found), 2))
        return [member for _, member in pairs]

    def reap(self, node: str, now: float) -> list[KeptSession]:
        """End what `node` owns, then tell which sessions that are offline have routes nobody may know."""
        keys = self._keys()
        partitions = range(keys.config.partitions)
        for _, slot in self.add(partitions, lambda plan, number: plan.partition(number).add("k", node, repr(now))):
            slot.check()
        self.release(node, now)
        unannounced = self.ask_all(lambda number: ("SMEMBERS", keys.unannounced(number)))
        names = [client_id.decode() for members in unannounced for client_id in members]
        kept = []
        for name, slot in self.add(names, lambda plan, name: plan.of(name).add_for("u", name)):
            if slot.read:
                generation, subscriptions, epoch = slot.read
                kept.append(KeptSession(name, int(generation), decode_subscriptions(subscriptions), int(epoch)))
        return kept

    def release(self, node: str, now: float) -> None:
        """End the connections that `node` owns."""
        keys = self._keys()
        owners = self.ask_all(lambda number: ("HGETALL", keys.own(number)))
        names = [
            owned[at].decode() for owned in owners for at in range(0, len(owned), 2) if owned[at + 1] == node.encode()
        ]
        for _, slot in self.add(names, lambda plan, name: plan.of(name).add_for("d", name, name, node, repr(now))):
            slot.check()


def _take(plan: Plan, name: str, now: float) -> Slot:
    partition = plan.of(name.partition(":")[2])
    return partition.add("t", name, repr(now), repr(now + WILL_LEASE))
