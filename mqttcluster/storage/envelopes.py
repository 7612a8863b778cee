"""What nodes tell each other, as versioned bytes: envelopes for the lanes, changes for the routes.

A *parcel* is what one node hands over at one stroke: a version, the name of the sender, and items with their lengths.
Each item begins with its kind. A receiver skips kinds it does not know, so a newer node may speak to an older one; a
parcel of a newer version is refused as a whole. Numbers are big-endian; a text has its length (2 bytes) before it.

=================  =====================================================================================
parcel             version · sender · each: length (4), item
forward (1)        match · count (4) · doorbells · exchange there (1) · [publisher · number · low] · message to the end
each doorbell      epoch (8) · sequence (8) · flags (1) · client id · [count (4) · each: subscription identifier (4)]
take (2)           epoch (8) · client id
given (3)          epoch (8) · client id
retained hint (4)  partition (2) · version (8) · there (1) · topic · [message to the end]
applied (5)        number (8)
run (6)            flags (1) · bytes in a frame (4) · offset of the packet id (2) · count (4) · doorbells, with the
                   number of messages (4) behind each · publisher · frames to the end
shared (7)         share · client id · message to the end
interest (16)      bits (1) · filter
session (17)       flags (1) · generation (8) · client id · count (4) · each added: filter, record with its length ·
                   count (4) · removed filters
=================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct, error

from mqttcluster.core.run import Run
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.records import (
    decode_identifiers,
    decode_message,
    decode_subscription,
    encode_identifiers,
    encode_message,
    encode_subscription,
)
from mqttcluster.storage.shared import (
    Doorbell,
    Envelope,
    Forward,
    Given,
    NodeInterest,
    RetainedChange,
    RetainedHint,
    RouteChange,
    RunForward,
    SessionChange,
    Shared,
    Take,
)

VERSION = 1


@dataclass(slots=True)
class Applied:
    """The sender acts on all routes up to `number`."""

    number: int


Item = Envelope | Applied | RouteChange

_FORWARD, _TAKE, _GIVEN, _HINT, _APPLIED, _RUN, _SHARED, _INTEREST, _SESSION = 1, 2, 3, 4, 5, 6, 7, 16, 17

_BYTE = Struct(">B")
_SHORT = Struct(">H")
_LENGTH = Struct(">I")
_NUMBER = Struct(">Q")
_BELL = Struct(">QQB")
_EXCHANGE = Struct(">QQ")
_RUN_HEAD = Struct(">BIHI")
# Flags of a run; 0x03 is its QoS.
_V5, _MATCH = 0x04, 0x08
_HINT_HEAD = Struct(">HQB")
_SESSION_HEAD = Struct(">BQQ")

# Flags of a doorbell; 0x03 is its QoS.
_RETAIN, _IDENTIFIERS = 0x04, 0x08
# Flags of a session's change.
_WHOLE, _GONE, _ONLINE, _CLEAN = 0x01, 0x02, 0x04, 0x08


def pack(sender: str, items: Iterable[bytes]) -> bytes:
    """A parcel of encoded items."""
    parts = [_BYTE.pack(VERSION), _text(sender)]
    for item in items:
        parts.append(_LENGTH.pack(len(item)))
        parts.append(item)
    return b"".join(parts)


def unpack(parcel: bytes) -> tuple[str, list[Item], int]:
    """The sender, what it says, and how many items were skipped: of unknown kind, or damaged.

    Raises `StoreError` for a parcel that cannot be read at all."""
    items: list[Item] = []
    skipped = 0
    try:
        if parcel[0] != VERSION:
            raise StoreError(f"another node speaks version {parcel[0]}, this release version {VERSION}")
        reader = _Reader(parcel, 1)
        sender = reader.text()
        while reader.at < len(parcel):
            item = _decode(reader.take(reader.one(_LENGTH)))
            if item is None:
                skipped += 1
            else:
                items.append(item)
    except (error, ValueError, IndexError) as problem:
        raise StoreError("what another node says is damaged") from problem
    return sender, items, skipped


def encode(item: Item) -> bytes:
    """Raises `ValueError` for what MQTT could not carry."""
    try:
        if isinstance(item, RunForward):
            return _encode_run(item)
        if isinstance(item, Forward):
            return _encode_forward(item)
        if isinstance(item, Shared):
            names = _text(item.share), _text(item.client_id)
            return b"".join((_BYTE.pack(_SHARED), *names, encode_message(item.message)))
        if isinstance(item, Applied):
            return _BYTE.pack(_APPLIED) + _NUMBER.pack(item.number)
        if isinstance(item, NodeInterest):
            return b"".join((_BYTE.pack(_INTEREST), _BYTE.pack(item.bits), _text(item.topic_filter)))
        if isinstance(item, SessionChange):
            return _encode_session(item)
        if isinstance(item, RetainedHint):
            return _encode_hint(item)
        kind = _TAKE if isinstance(item, Take) else _GIVEN
        return b"".join((_BYTE.pack(kind), _NUMBER.pack(item.epoch), _text(item.client_id)))
    except error as problem:
        raise ValueError(f"cannot be told to other nodes: {problem}") from None


def _decode(item: bytes) -> Item | None:
    """None for an unknown kind, or a damaged item."""
    try:
        reader = _Reader(item)
        kind = reader.one(_BYTE)
        if kind == _RUN:
            return _decode_run(reader)
        if kind == _FORWARD:
            return _decode_forward(reader)
        if kind == _SHARED:
            share, client_id = reader.text(), reader.text()
            return Shared(decode_message(reader.rest()), share, client_id)
        if kind in (_TAKE, _GIVEN):
            epoch, client_id = reader.one(_NUMBER), reader.text()
            return Take(client_id, epoch) if kind == _TAKE else Given(client_id, epoch)
        if kind == _HINT:
            return _decode_hint(reader)
        if kind == _APPLIED:
            return Applied(reader.one(_NUMBER))
        if kind == _INTEREST:
            bits = reader.one(_BYTE)
            return NodeInterest(reader.text(), bits)
        return _decode_session(reader) if kind == _SESSION else None
    except (error, ValueError, StoreError):
        return None


def _encode_forward(forward: Forward) -> bytes:
    parts = [_BYTE.pack(_FORWARD), _BYTE.pack(forward.match), _LENGTH.pack(len(forward.doorbells))]
    for bell in forward.doorbells:
        parts += _encode_bell(bell)
    parts.append(_BYTE.pack(forward.exchange is not None))
    if forward.exchange is not None:
        publisher, number, low = forward.exchange
        parts.append(_EXCHANGE.pack(number, low))
        parts.append(_text(publisher))
    parts.append(encode_message(forward.message))
    return b"".join(parts)


def _encode_bell(bell: Doorbell) -> list[bytes]:
    flags = bell.qos | (_RETAIN if bell.retain else 0) | (_IDENTIFIERS if bell.identifiers else 0)
    parts = [_BELL.pack(bell.epoch, bell.sequence, flags), _text(bell.client_id)]
    identifiers = encode_identifiers(bell.identifiers)
    if identifiers:
        parts += (_LENGTH.pack(len(bell.identifiers)), identifiers)
    return parts


def _decode_bell(reader: _Reader) -> Doorbell:
    epoch, sequence, flags = reader.several(_BELL)
    client_id = reader.text()
    identifiers = decode_identifiers(reader.take(4 * reader.one(_LENGTH))) if flags & _IDENTIFIERS else ()
    return Doorbell(client_id, epoch, sequence, flags & 0x03, bool(flags & _RETAIN), identifiers)


def _decode_forward(reader: _Reader) -> Forward:
    match = bool(reader.one(_BYTE))
    bells = []
    for _ in range(reader.one(_LENGTH)):
        bells.append(_decode_bell(reader))
    exchange = None
    if reader.one(_BYTE):
        number, low = reader.several(_EXCHANGE)
        exchange = (reader.text(), number, low)
    return Forward(decode_message(reader.rest()), match, bells, exchange)


def _encode_run(forward: RunForward) -> bytes:
    run, bells = forward.run, forward.doorbells
    flags = run.qos | (_V5 if run.v5 else 0) | (_MATCH if forward.match else 0)
    parts = [_BYTE.pack(_RUN), _RUN_HEAD.pack(flags, run.stride, run.id_at, len(bells))]
    for bell in bells:
        parts += _encode_bell(bell)
        parts.append(_LENGTH.pack(bell.count))
    parts += (_text(run.publisher), run.data)
    return b"".join(parts)


def _decode_run(reader: _Reader) -> RunForward:
    flags, stride, id_at, count = reader.several(_RUN_HEAD)
    bells = []
    for _ in range(count):
        bell = _decode_bell(reader)
        bell.count = reader.one(_LENGTH)
        bells.append(bell)
    run = Run.of_frames(reader.text(), flags & 0x03, bool(flags & _V5), reader.rest(), stride, id_at)
    return RunForward(run, bool(flags & _MATCH), bells)


def _encode_hint(hint: RetainedHint) -> bytes:
    message = hint.change.message
    head = _HINT_HEAD.pack(hint.partition, hint.change.version, message is not None)
    record = b"" if message is None else encode_message(message)
    return b"".join((_BYTE.pack(_HINT), head, _text(hint.change.topic), record))


def _decode_hint(reader: _Reader) -> RetainedHint:
    partition, version, there = reader.several(_HINT_HEAD)
    topic = reader.text()
    return RetainedHint(partition, RetainedChange(version, topic, decode_message(reader.rest()) if there else None))


def _encode_session(change: SessionChange) -> bytes:
    flags = (_WHOLE if change.whole else 0) | (_GONE if change.gone else 0)
    flags |= (_ONLINE if change.online else 0) | (0 if change.durable else _CLEAN)
    parts = [_BYTE.pack(_SESSION), _SESSION_HEAD.pack(flags, change.generation, change.epoch), _text(change.client_id)]
    parts.append(_LENGTH.pack(len(change.add)))
    for topic_filter, subscription in change.add.items():
        record = encode_subscription(subscription)
        parts += (_text(topic_filter), _SHORT.pack(len(record)), record)
    parts.append(_LENGTH.pack(len(change.remove)))
    parts.extend(_text(topic_filter) for topic_filter in change.remove)
    return b"".join(parts)


def _decode_session(reader: _Reader) -> SessionChange:
    flags, generation, epoch = reader.several(_SESSION_HEAD)
    client_id = reader.text()
    add = {}
    for _ in range(reader.one(_LENGTH)):
        topic_filter = reader.text()
        add[topic_filter] = decode_subscription(reader.take(reader.one(_SHORT)))
    remove: Sequence[str] = [reader.text() for _ in range(reader.one(_LENGTH))]
    whole, gone, online, clean = (bool(flags & flag) for flag in (_WHOLE, _GONE, _ONLINE, _CLEAN))
    return SessionChange(client_id, generation, add, remove, whole, gone, epoch, online, not clean)


def _text(text: str) -> bytes:
    data = text.encode()
    return _SHORT.pack(len(data)) + data


class _Reader:
    """Takes fields off the front of some bytes. Raises `ValueError` or `struct.error` where they are cut off."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self.at = at

    def one(self, layout: Struct) -> int:
        value: int = self.several(layout)[0]
        return value

    def several(self, layout: Struct) -> tuple[int, ...]:
        values = layout.unpack_from(self._data, self.at)
        self.at += layout.size
        return values

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._data):
            raise ValueError("cut off")
        data = self._data[self.at : end]
        self.at = end
        return data

    def text(self) -> str:
        return self.take(self.one(_SHORT)).decode()

    def rest(self) -> bytes:
        return self.take(len(self._data) - self.at)
