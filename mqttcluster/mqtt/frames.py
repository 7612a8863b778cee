"""Frames that can be dealt with as one: cut from a chunk without making packets.

Most of what a busy broker reads are PUBLISH packets that differ only in packet identifier and payload, and bare
acknowledgements, each kind many times in a row. These functions find them. They judge nothing: whatever is not the
plainest form of a packet is left to the decoder.
"""

from __future__ import annotations

from struct import unpack

#: First bytes of PUBLISH without DUP and RETAIN.
PUBLISH_FIRST_BYTES = frozenset((0x30, 0x32, 0x34))


def publish(chunk: bytes, at: int, size: int, v5: bool) -> tuple[int, int] | None:
    """How long the PUBLISH at `at` is, where a byte of `PUBLISH_FIRST_BYTES` stands, and how far behind its beginning
    the topic ends: there is the packet identifier, if there is one. None if it is not complete, or not plain: at
    version 5.0 that means without properties."""
    body = at + 2
    if body > size:
        return None
    length = chunk[at + 1]
    if length >= 0x80:
        group = chunk[body] if body < size else 0x80
        length = (length & 0x7F) | group << 7
        body += 1
        if group >= 0x80:
            group = chunk[body] if body < size else 0x80
            length = (length & 0x3FFF) | group << 14
            body += 1
        if group >= 0x80 or not group:  # cut off, very long, or longer than needed
            return None
    end = body + length
    if end > size or length < 2:
        return None
    topic_end = body + 2 + (chunk[body] << 8 | chunk[body + 1])
    payload = topic_end
    if chunk[at] != 0x30:
        payload += 2
        if payload > end or not (chunk[topic_end] or chunk[topic_end + 1]):
            return None
    if payload > end or (v5 and (payload == end or chunk[payload])):
        return None
    return end - at, topic_end - at


def row(chunk: bytes, at: int, size: int, stride: int, id_at: int, v5: bool, most: int) -> int:
    """How many frames, `most` at most, like the one that `publish` has found at `at` stand in a row: they differ in
    nothing but identifier and payload. At least 1."""
    head = chunk[at : at + id_at]
    count, end, last = 1, at + stride, size - stride
    while count < most and end <= last and chunk.startswith(head, end):
        end += stride
        count += 1
    if count > 1:
        behind = at + id_at
        if head[0] != 0x30:
            count = _with_identifiers(chunk[behind:end:stride], chunk[behind + 1 : end : stride])
            behind += 2
        if v5:
            lengths = chunk[behind:end:stride]
            count = min(count, len(lengths) - len(lengths.lstrip(b"\0")))
    return count


def _with_identifiers(upper: bytes, lower: bytes) -> int:
    if 0 in upper:
        for number, pair in enumerate(zip(upper, lower)):
            if pair == (0, 0):
                return number
    return len(upper)


def acknowledgements(chunk: bytes, at: int, size: int) -> tuple[int, ...]:
    """The packet identifiers of the packets of four bytes with the same first byte that stand in a row from `at` on;
    only identifiers that are not 0. They end 4 bytes behind for each."""
    if at + 4 > size:
        return ()
    head = chunk[at : at + 2]
    if head[1] != 2:
        return ()
    end, last = at + 4, size - 4
    while end <= last and chunk.startswith(head, end):
        end += 4
    if end == at + 4:
        identifier = chunk[at + 2] << 8 | chunk[at + 3]
        return (identifier,) if identifier else ()
    identifiers = unpack(f">{(end - at) // 2}H", chunk[at:end])[1::2]
    return identifiers if 0 not in identifiers else identifiers[: identifiers.index(0)]
