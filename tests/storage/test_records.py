"""Records: what goes in comes out; what is damaged or newer is told, never misread."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.core.message import Message
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import StoredWill, StoreError
from mqttcluster.storage.records import (
    VERSION,
    decode_identifiers,
    decode_message,
    decode_subscription,
    decode_will,
    encode_identifiers,
    encode_message,
    encode_subscription,
    encode_will,
)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
integers = st.integers(0, 0xFFFFFFFF)
values = st.one_of(
    integers,
    texts,
    st.binary(max_size=40),
    st.lists(st.tuples(texts, texts), min_size=1, max_size=4),
    st.lists(integers, min_size=1, max_size=4),
)
messages = st.builds(
    Message,
    topic=texts,
    payload=st.binary(max_size=300),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    publisher=texts,
    properties=st.dictionaries(st.integers(1, 127), values, max_size=5),
    expires_at=st.none() | st.floats(0, 1e12),
)
subscriptions = st.builds(
    Subscription,
    qos=st.integers(0, 2),
    no_local=st.booleans(),
    retain_as_published=st.booleans(),
    retain_handling=st.integers(0, 2),
    identifier=st.integers(0, 268435455),
)


@given(messages)
def test_messages(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(messages, integers)
def test_wills(message: Message, delay: int) -> None:
    assert decode_will(encode_will(StoredWill(message, delay))) == StoredWill(message, delay)


@given(subscriptions)
def test_subscriptions(subscription: Subscription) -> None:
    assert decode_subscription(encode_subscription(subscription)) == subscription


@given(st.lists(st.integers(1, 268435455), max_size=5).map(tuple))
def test_identifiers(identifiers: tuple[int, ...]) -> None:
    assert decode_identifiers(encode_identifiers(identifiers)) == identifiers


def test_a_plain_message_costs_little() -> None:
    """Six bytes beside topic, publisher and payload."""
    assert len(encode_message(Message("topic", b"payload", 1, publisher="me"))) == 6 + 5 + 2 + 7


@pytest.mark.parametrize("decode", [decode_message, decode_will, decode_subscription])
def test_a_newer_format_is_refused(decode: object) -> None:
    """After a downgrade the operator reads what to do; nothing is guessed."""
    with pytest.raises(StoreError, match=f"format {VERSION + 1}.*upgrade"):
        decode(bytes([VERSION + 1]) + bytes(100))  # type: ignore[operator]


@given(st.binary(max_size=100), st.booleans())
def test_damaged_records_are_told(data: bytes, versioned: bool) -> None:
    record = bytes([VERSION]) + data if versioned else data
    for decode in (decode_message, decode_will, decode_subscription):
        with suppress(StoreError):
            decode(record)


@given(messages, st.data())
def test_cut_off_heads_are_told(message: Message, data: st.DataObject) -> None:
    """A record that ends before its payload begins is never taken for a message."""
    record = encode_message(message)
    cut = data.draw(st.integers(0, len(record) - len(message.payload) - 1))
    with pytest.raises(StoreError):
        decode_message(record[:cut])


def test_what_mqtt_cannot_carry_is_refused() -> None:
    for bad in (Message("x" * 65536, b""), Message("\ud800", b""), Message("x", b"", properties={70000: 1})):
        with pytest.raises(ValueError):  # noqa: PT011
            encode_message(bad)
