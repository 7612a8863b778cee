"""Who of each group gets a message, in a store where every member has a partition of its own.

One member after the other is tried until one takes it. That must come out the same when a message with QoS 2 is
published again, by whatever node: so whom it is to go to is put on record first, with the exchange (or the will, or the
orphan), and put on record anew before anybody else is tried. Who publishes it again begins with the one on record. He
refuses what he has, also after his session has ended, and then the group has it; or he takes it, even if his queue is
full, since the first one to try may have been told so and be about to write; or he has gone without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from struct import Struct

from mqttcluster.storage.interfaces import GONE, Chosen, Target
from mqttcluster.storage.records import decode_identifiers, encode_identifiers
from mqttcluster.storage.redis_plan import Plan, Slot

#: What a queue answers that has the message, or had it.
HAD = -2

_CHOICE = Struct(">HQH")
_SHORT = Struct(">H")
#: Bits of the first byte of a head; 0x03 is the QoS.
_RETAIN, _SHARED = 0x04, 0x08

#: Publisher, number and lowest open number of a numbered message; three times '' for any other.
Number = tuple[str, object, object]


def encode_head(target: Target) -> bytes:
    """What a queue entry says beside the message."""
    flags = target.qos | (_RETAIN if target.retain else 0) | (_SHARED if target.share else 0)
    share = target.share.encode()
    prefix = bytes((flags,)) + _SHORT.pack(len(share)) + share if share else bytes((flags,))
    return prefix + (encode_identifiers(target.identifiers) or b"")


def decode_head(head: bytes) -> tuple[int, bool, tuple[int, ...], str]:
    """QoS, retain flag, subscription identifiers, shared subscription ('' for none)."""
    at, share = 1, ""
    if head[0] & _SHARED:
        at = 3 + _SHORT.unpack_from(head, 1)[0]
        share = head[3:at].decode()
    return head[0] & 0x03, bool(head[0] & _RETAIN), decode_identifiers(head[at:]), share


class _Choice:
    """One group: who is tried now, who comes after him, and what came of it."""

    def __init__(self, target: Target, rest: Iterator[Target]) -> None:
        self.target = target
        self.rest = rest
        self.nobody = GONE
        self.slot: Slot | None = None
        self.chosen: Chosen | None = None
        self.done = False

    def look(self) -> bool:
        """Whether somebody else is to be tried."""
        assert self.slot is not None
        sequence, owner, epoch, *waiting = self.slot.answer
        number = int(sequence)
        if number == HAD:
            self.done = True
        elif number > 0:
            self.done, self.chosen = True, Chosen(self.target, number, (owner.decode(), int(epoch)), waiting[0])
        else:
            self.nobody = min(self.nobody, number)
            following = next(self.rest, None)
            if following is not None:
                self.target = following
                return True
            self.done, self.chosen = True, Chosen(self.target, self.nobody)
        return False


class Choices:
    """The groups of one publication."""

    def __init__(self, shares: Sequence[Iterable[Target]]) -> None:
        self._choices: list[_Choice] = []
        for share in shares:
            rest = iter(share)
            target = next(rest, None)
            if target is not None:
                self._choices.append(_Choice(target, rest))
        self._forced = False

    def __bool__(self) -> bool:
        return bool(self._choices)

    def encode(self) -> bytes:
        """Who is to get it, to be put on record."""
        parts: list[bytes] = []
        for choice in self._choices:
            target, head = choice.target, encode_head(choice.target)
            client_id = target.client_id.encode()
            parts += (_CHOICE.pack(len(client_id), target.generation, len(head)), client_id, head)
        return b"".join(parts)

    def go_on(self, record: bytes) -> None:
        """This was published before: go on with what is on record."""
        rest = {choice.target.share: chain([choice.target], choice.rest) for choice in self._choices}
        self._choices, self._forced, at = [], True, 0
        while at < len(record):
            size, generation, length = _CHOICE.unpack_from(record, at)
            at += _CHOICE.size
            client_id = record[at : at + size].decode()
            qos, retain, identifiers, share = decode_head(record[at + size : at + size + length])
            at += size + length
            target = Target(client_id, generation, qos, retain, identifiers, share)
            self._choices.append(_Choice(target, rest.get(share, iter(()))))

    def enqueue(self, plan: Plan, record: bytes, number: Number) -> None:
        """Try those who are to get the message `record`."""
        letter, self._forced = "f" if self._forced else "q", False
        for choice in self._choices:
            if not choice.done:
                choice.slot = queue(plan, letter, choice.target, record, number)

    def look(self) -> bool:
        """Whether somebody else is to be tried. Raises `StoreError` if that cannot be said."""
        again = [choice for choice in self._choices if not choice.done and choice.look()]
        return bool(again)

    def result(self) -> tuple[Chosen, ...]:
        return tuple(choice.chosen for choice in self._choices if choice.chosen is not None)


def queue(plan: Plan, letter: str, target: Target, record: bytes, number: Number) -> Slot:
    """Put a message into the queue of a session."""
    partition = plan.of(target.client_id)
    message = partition.message(record)
    return partition.add_for(letter, target.client_id, target.generation, encode_head(target), message, *number)
