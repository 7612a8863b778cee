"""Control packets as bytes, put together by hand, so that the broker's own writers are not their own judge.

``publish`` ... ``unsuback``   one function per packet that a client sends or expects
``subscribe_to``               SUBSCRIBE, and the SUBACK that must come back
``send``                       PUBLISH, and all acknowledgements that must come back
``receive``                    what a client answers to a PUBLISH, and what the broker must say to that
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.broker.playbook import Peer
from tests.support.wire import DISCONNECT_PACKET as DISCONNECT
from tests.support.wire import PINGREQ_PACKET as PINGREQ
from tests.support.wire import PINGRESP_PACKET as PINGRESP
from tests.support.wire import frame, puback, pubcomp, pubrec, pubrel, subscribe, unsubscribe
from tests.support.wire import string as text

__all__ = [
    "DISCONNECT",
    "PINGREQ",
    "PINGRESP",
    "acknowledgement",
    "frame",
    "puback",
    "pubcomp",
    "publish",
    "pubrec",
    "pubrel",
    "receive",
    "send",
    "suback",
    "subscribe",
    "subscribe_to",
    "text",
    "topics",
    "unsuback",
    "unsubscribe",
]


def publish(
    topic: str, payload: bytes = b"", qos: int = 0, *, id: int = 0, retain: bool = False, dup: bool = False
) -> bytes:
    """A PUBLISH. `id` is left out at QoS 0."""
    identifier = id.to_bytes(2, "big") if qos else b""
    return frame(0x30 | dup << 3 | qos << 1 | retain, text(topic) + identifier + payload)


def suback(id: int, *codes: int) -> bytes:
    return frame(0x90, id.to_bytes(2, "big") + bytes(codes))


def unsuback(id: int) -> bytes:
    return b"\xb0\x02" + id.to_bytes(2, "big")


def acknowledgement(qos: int, id: int) -> bytes:
    """The first answer to a PUBLISH."""
    return (b"", puback(id), pubrec(id))[qos]


def subscribe_to(peer: Peer, *filters: tuple[str, int]) -> Peer:
    """Subscribe, and see every QoS granted. What comes behind SUBACK stays to be read."""
    peer.send(subscribe(1, *filters))
    arrived = peer.bytes()
    expected = suback(1, *(qos for _, qos in filters))
    assert arrived[: len(expected)] == expected
    peer.put_back(arrived[len(expected) :])
    return peer


def send(peer: Peer, topic: str, payload: bytes, qos: int, *, id: int = 1, retain: bool = False) -> None:
    """Publish as a client does: to the last acknowledgement, each of which must come."""
    peer.send(publish(topic, payload, qos, id=id, retain=retain))
    assert peer.bytes() == acknowledgement(qos, id)
    if qos == 2:
        assert peer.send(pubrel(id)).bytes() == pubcomp(id)


def receive(peer: Peer, qos: int, id: int) -> None:
    """Acknowledge a PUBLISH that came with `qos` and `id`: QoS 2 to its end, with PUBREL between."""
    if qos == 1:
        assert peer.send(puback(id)).bytes() == b""
    elif qos == 2:
        assert peer.send(pubrec(id)).bytes() == pubrel(id)
        assert peer.send(pubcomp(id)).bytes() == b""


def topics(arrived: bytes) -> Sequence[str]:
    """The topics of a run of short PUBLISH packets."""
    found = []
    while arrived:
        assert arrived[0] >> 4 == 3, arrived.hex(" ")
        assert arrived[1] < 128
        size = int.from_bytes(arrived[2:4], "big")
        found.append(arrived[4 : 4 + size].decode())
        arrived = arrived[2 + arrived[1] :]
    return found
