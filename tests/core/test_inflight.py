"""The two exchanges as tables: what a client answers, and what that means."""

from __future__ import annotations

import pytest

from mqttcluster.core.inflight import Inflight
from mqttcluster.core.message import Delivery, Message
from mqttcluster.mqtt.reasons import ProtocolViolation


def one(qos: int) -> Inflight:
    inflight = Inflight()
    inflight.sent(Delivery(1, Message("t", b"", qos), qos))
    return inflight


@pytest.mark.parametrize(
    ("qos", "answer"),
    [(1, "pubrec"), (1, "pubcomp"), (2, "puback"), (2, "pubcomp")],
)
def test_the_wrong_acknowledgement_is_a_violation(qos: int, answer: str) -> None:
    """A client that answers a delivery with the acknowledgement of another QoS, or too early, is disconnected."""
    inflight = one(qos)
    with pytest.raises(ProtocolViolation):
        getattr(inflight, answer)(1)


@pytest.mark.parametrize("answer", ["puback", "pubrec", "pubcomp"])
def test_an_unknown_identifier_is_ignored(answer: str) -> None:
    """An acknowledgement for nothing has no effect."""
    inflight = one(1)
    assert not getattr(inflight, answer)(2)
    assert len(inflight) == 1


def test_qos_2_passes_through_both_stages() -> None:
    """The message is done at PUBREC, the identifier at PUBCOMP; a repeated PUBREC changes nothing."""
    inflight = one(2)
    assert inflight.pubrec(1) is not None
    assert 1 in inflight
    assert inflight.pubrec(1) is None
    assert inflight.pubcomp(1) == 1
    assert 1 not in inflight
    assert inflight.pubcomp(1) == 0
