"""What nodes tell each other survives the way, and what cannot be read does no harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.core.message import Message
from mqttcluster.core.run import Run
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.envelopes import VERSION, Applied, Item, encode, pack, unpack
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.shared import (
    Doorbell,
    Forward,
    Given,
    NodeInterest,
    RetainedChange,
    RetainedHint,
    RunForward,
    SessionChange,
    Shared,
    Take,
)

MESSAGE = Message("a/ä", b"\0payload", 1, True, "publisher", {2: 60, 38: [("k", "v")]}, 12.5)
BELL = Doorbell("", 1, 1, 1)
ITEMS: list[Item] = [
    Forward(MESSAGE, True, []),
    Forward(Message("t", b""), False, [Doorbell("c", 2**40, 2**33, 2), BELL], ("p", 2**50, 7)),
    Forward(MESSAGE, True, [Doorbell("c", 1, 2, 1, True), Doorbell("d", 3, 4, 2, True, (1, 2**28 - 1)), BELL]),
    Shared(MESSAGE, "$share/g/a/#", "ü"),
    Take("c", 2**40),
    Given("ü", 1),
    RetainedHint(65535, RetainedChange(2**40, "a/b", MESSAGE)),
    RetainedHint(0, RetainedChange(1, "a/b", None)),
    Applied(2**40),
    NodeInterest("a/#", 3),
    SessionChange("c", 2**40, {"f": Subscription(2, True, True, 2, 99), "g": Subscription()}, ["x", "y"]),
    SessionChange("c", 1, {}, [], whole=True),
    SessionChange("c", 1, {}, [], gone=True),
    SessionChange("c", 1, {}, [], epoch=2**50),
    SessionChange("c", 1, {}, [], online=True, durable=False),
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
longs = st.integers(0, 2**63)
numbers = st.integers(1, 2**28 - 1)
items = st.one_of(
    st.builds(Take, texts, longs),
    st.builds(NodeInterest, texts, st.integers(0, 255)),
    st.builds(
        SessionChange,
        texts,
        longs,
        st.dictionaries(texts, st.builds(Subscription, st.integers(0, 2)), max_size=3),
        st.lists(texts, max_size=3),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        Forward,
        st.builds(Message, texts, st.binary(max_size=50), st.integers(0, 2)),
        st.booleans(),
        st.lists(
            st.builds(Doorbell, texts, longs, longs, st.integers(0, 2), st.booleans(), st.lists(numbers).map(tuple)),
            max_size=3,
        ),
        st.none() | st.tuples(texts, longs, longs),
    ),
)


def test_every_kind_arrives_as_it_was() -> None:
    """A message, a takeover, a subscription mean on the other node what they meant on this one."""
    assert unpack(pack("node-1", map(encode, ITEMS))) == ("node-1", ITEMS, 0)


@given(texts, st.lists(items, max_size=5))
def test_anything_arrives_as_it_was(sender: str, items: list[Item]) -> None:
    """The same for whatever clients may choose."""
    assert unpack(pack(sender, map(encode, items))) == (sender, items, 0)


def test_unknown_kinds_are_skipped() -> None:
    """A newer node may say something that this one does not know yet."""
    known = encode(Take("c", 1))
    assert unpack(pack("n", [known, b"\xfesomething new", known])) == ("n", [Take("c", 1)] * 2, 1)


def test_a_newer_version_is_refused() -> None:
    """Bytes whose meaning has changed are not guessed at."""
    parcel = pack("n", [])
    with pytest.raises(StoreError, match="version"):
        unpack(bytes([VERSION + 1]) + parcel[1:])


@given(st.binary(max_size=200))
def test_garbage_is_refused(parcel: bytes) -> None:
    """Whatever is in Redis, nothing else than `StoreError` comes of it."""
    for data in (parcel, bytes([VERSION]) + parcel, pack("n", [parcel])):
        try:
            unpack(data)
        except StoreError:
            continue


def test_a_run_arrives_as_it_was() -> None:
    """Its frames, who sent it, and how many of them each session has."""
    data = b"2\x08\0\x03a/b\0\x07x" * 3
    bells = [Doorbell("c", 5, 9, 1, count=2), Doorbell("d", 6, 1, 1, False, (3,), 3)]
    run, other = Run("a/b", "p", 1, False, data, 10, 7), Run("a/b", "", 1, False, data, 10, 7)
    for forward in (RunForward(run, False, bells), RunForward(other)):
        sender, [arrived], skipped = unpack(pack("n", [encode(forward)]))
        assert (sender, skipped) == ("n", 0)
        assert isinstance(arrived, RunForward)
        assert (arrived.match, list(arrived.doorbells)) == (forward.match, list(forward.doorbells))
        fields = ("topic", "publisher", "qos", "v5", "data", "stride", "id_at", "payload_at", "count")
        assert [getattr(arrived.run, name) for name in fields] == [getattr(forward.run, name) for name in fields]


@given(st.integers(0, 15), st.integers(0, 300), st.integers(0, 300), st.binary(max_size=300), st.booleans())
def test_a_damaged_run_is_skipped(flags: int, stride: int, id_at: int, data: bytes, plausible: bool) -> None:
    """Whatever its numbers say: no frames are made of what are none."""
    if plausible:
        data = b"2\x08\0\x03a/b\0\x07x" * 3
    parcel = pack("n", [struct.pack(">BBIHI", 6, flags, stride, id_at, 0) + b"\0\1p" + data])
    _, items, skipped = unpack(parcel)
    assert len(items) + skipped == 1
    for item in items:
        assert isinstance(item, RunForward)
        assert item.run.count * item.run.stride == len(data)
        assert len(item.run.payloads()) == item.run.count > 0


@given(st.integers(0, 400))
def test_a_cut_parcel_is_refused_or_shorter(length: int) -> None:
    """Half a parcel is never taken for something else."""
    whole = pack("n", map(encode, ITEMS))[:length]
    try:
        _, items, _ = unpack(whole)
    except StoreError:
        return
    assert items == ITEMS[: len(items)]


def test_what_mqtt_could_not_carry() -> None:
    """A text that is too long is the caller's mistake, and is not sent."""
    with pytest.raises(ValueError, match="cannot be told"):
        encode(Take("c" * 70000, 1))
