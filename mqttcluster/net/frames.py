"""WebSocket frames (RFC 6455) as a byte stream; the only module that knows how frames are read and written.

``Frames``   one connection's two directions. `receive` takes a chunk as it came from the network and tells what was in
             it: payload bytes, pings, and whether the stream has ended and why. Messages are never put together: the
             payload of an unfinished frame is given out as far as it is there, so that a frame or message of any
             length costs no more memory than the chunk.
``Deflate``  permessage-deflate (RFC 7692) with a bound. Reading is done here, because wsproto 1.3 inflates without a
             limit, loses the "compressed" mark of a fragmented message when a ping comes between its frames, and keeps
             for ever what follows a final deflate block. Negotiation and writing are wsproto's.

Memory per connection: less than one frame header and one control frame; with deflate up to 32 KiB of window to read
and about 256 KiB to write, and while a step of `STEP` compressed bytes is inflated at most 1032 times that, 4 MiB.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple, cast

from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

try:
    from websockets.speedups import apply_mask
except ImportError:  # its compiled part is not there for every machine
    from websockets.utils import apply_mask

#: Compressed bytes to inflate in one go. Deflate makes at most 1032 bytes of one.
STEP = 4096

#: The first byte of a binary message in one frame.
_BINARY = 0x82

#: What a sender takes off the end of each compressed message (RFC 7692, 7.2.1).
_TAIL = b"\x00\x00\xff\xff"


class Ended(NamedTuple):
    """The client's stream of frames is over. `code` is what to close with."""

    code: int
    clean: bool
    """True when the client has sent Close, False when it has broken a rule."""


class Received(NamedTuple):
    """What one chunk brought, in this order of use: payload, pings, end."""

    payload: bytes
    pings: list[bytes]
    ended: Ended | None


class Deflate(PerMessageDeflate):
    """permessage-deflate for one connection; a message of more than `max_message` inflated bytes is an error (1009)."""

    def __init__(self, max_message: int) -> None:
        super().__init__()
        self._max_message = max_message
        self._inflater: zlib._Decompress | None = None
        self._inflated = 0
        self._message_compressed = False
        self._frame_compressed = False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode.iscontrol() or opcode is Opcode.CONTINUATION:
            if rsv.rsv1:
                return CloseReason.PROTOCOL_ERROR
        else:
            self._message_compressed = rsv.rsv1
            self._inflated = 0
        self._frame_compressed = self._message_compressed and not opcode.iscontrol()
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        return self._inflate(data) if self._frame_compressed else data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if not (fin and self._frame_compressed):
            return None
        data = self._inflate(_TAIL)
        if self.client_no_context_takeover:  # the window is of no more use
            self._inflater = None
        return data

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        if self._inflater is None:
            # The largest window reads what was written with any smaller one.
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated = self._inflater.decompress(data, self._max_message - self._inflated + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._inflated += len(inflated)
        if self._inflated > self._max_message:
            return CloseReason.MESSAGE_TOO_BIG
        # zlib stops at a block marked as the last and only collects what follows. No client is known to send one.
        if self._inflater.eof:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return inflated


class Frames:
    """The frames of one connection, on the server's side, after the handshake.

    Binary messages in one frame are read here: nearly all are, and wsproto takes ten times as long. Everything else is
    given to wsproto, frame by frame. `step` is how many bytes at a time to give to `receive`; None means a chunk as it
    is.
    """

    __slots__ = ("_deflate", "_fragmented", "_left", "_mask", "_owed", "_reader", "_tail", "step")

    def __init__(self, deflate: Extension | None = None) -> None:
        self._deflate = deflate
        self._reader: FrameProtocol | None = None
        self.step = STEP if deflate is not None else None
        #: Payload still to come of the binary frame that is being read, and its mask from there on.
        self._left = 0
        self._mask = b""
        #: What wsproto is still to get of the frame that it has begun.
        self._owed = 0
        #: Inside of a message in several frames.
        self._fragmented = False
        #: The beginning of a frame whose header is not complete.
        self._tail = b""

    @property
    def _protocol(self) -> FrameProtocol:
        if self._reader is None:
            self._reader = FrameProtocol(client=False, extensions=[self._deflate] if self._deflate is not None else [])
        return self._reader

    def receive(self, chunk: bytes) -> Received:
        """Read a chunk. After a result with `ended` there is nothing more to read."""
        payload: list[bytes] = []
        pings: list[bytes] = []
        if self._deflate is not None:
            ended = self._read(chunk, payload, pings)
            return Received(b"".join(payload), pings, ended)
        data = self._tail + chunk if self._tail else chunk
        at, size, ended = 0, len(data), None
        while at < size and ended is None:
            if self._owed:
                part = data[at : at + self._owed]
                self._owed -= len(part)
                at += len(part)
                ended = self._read(part, payload, pings)
            else:
                at = self._read_plain(data, at, size, payload)
                if not self._owed:
                    break
        self._tail = data[at:]
        return Received(payload[0] if len(payload) == 1 else b"".join(payload), pings, ended)

    def _read_plain(self, data: bytes, at: int, size: int, payload: list[bytes]) -> int:
        """Read binary frames from `at` on. Returns where the bytes end that can be read; if a frame of another kind
        begins there, wsproto is owed it."""
        if self._left:
            part = data[at : at + self._left]
            payload.append(apply_mask(part, self._mask))
            at += len(part)
            self._left -= len(part)
            self._mask = _turned(self._mask, len(part))
        small = 0 if self._fragmented else 126
        append = payload.append
        while at + 2 <= size:
            first, second = data[at], data[at + 1]
            length = second & 0x7F
            body = at + 6
            end = body + length
            if first == _BINARY and second >= 0x80 and length < small and end <= size:  # most are; the same as below
                append(apply_mask(data[body:end], data[at + 2 : body]))
                at = end
                continue
            body = at + 2
            least = 0
            if length >= 126:
                body += 2 if length == 126 else 8
                if body > size:
                    break
                least = 126 if length == 126 else 1 << 16
                length = int.from_bytes(data[at + 2 : body], "big")
            if second & 0x80:
                body += 4
            if body > size:
                break
            if first != _BINARY or second < 0x80 or length < least or length >> 63 or self._fragmented:
                self._owe(first, body - at + length)
                break
            mask, at = data[body - 4 : body], body + length
            payload.append(apply_mask(data[body:at], mask))
            if at > size:
                self._left = at - size
                self._mask = _turned(mask, size - body)
                return size
        return at

    def _owe(self, first: int, size: int) -> None:
        self._owed = size
        if not first & 0x08:
            self._fragmented = not first & 0x80

    def _read(self, data: bytes, payload: list[bytes], pings: list[bytes]) -> Ended | None:
        protocol = self._protocol
        protocol.receive_bytes(data)
        try:
            for frame in protocol.received_frames():
                opcode = frame.opcode
                if opcode is Opcode.BINARY:
                    payload.append(cast(bytes, frame.payload))
                elif opcode is Opcode.PING:
                    pings.append(cast(bytes, frame.payload))
                elif opcode is Opcode.CLOSE:
                    return Ended(int(cast(tuple[int, str], frame.payload)[0]), clean=True)
                elif opcode is not Opcode.PONG:
                    # MQTT travels in binary frames only [MQTT-6.0.0-1].
                    return Ended(int(CloseReason.UNSUPPORTED_DATA), clean=False)
        except ParseFailed as error:
            return Ended(int(error.code), clean=False)
        return None

    def binary(self, data: bytes) -> bytes:
        """`data` as one binary frame."""
        if self._deflate is not None:
            return bytes(self._protocol.send_data(data))
        size = len(data)
        if size < 126:
            return b"\x82%c%b" % (size, data)
        if size < 1 << 16:
            return b"\x82\x7e%b%b" % (size.to_bytes(2, "big"), data)
        return b"\x82\x7f%b%b" % (size.to_bytes(8, "big"), data)

    def ping(self) -> bytes:
        """A question whether the client is there."""
        return b"\x89\x00"

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping."""
        return b"\x8a%c%b" % (len(payload), payload)

    def close(self, code: int) -> bytes:
        """A Close frame. 1005 makes one without a code, the answer to a client's Close that had none."""
        no_code = CloseReason.NO_STATUS_RCVD
        return bytes(self._protocol.close(no_code if code == no_code else code))


def _turned(mask: bytes, number: int) -> bytes:
    """The mask as it goes on after this number of bytes."""
    return mask[number % 4 :] + mask[: number % 4]
