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

#: Compressed bytes to inflate in one go. Deflate makes at most 1032 bytes of one.
STEP = 4096

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

    `step` is how many bytes at a time to give to `receive`; None means a chunk as it is.
    """

    def __init__(self, deflate: Extension | None = None) -> None:
        self._protocol = FrameProtocol(client=False, extensions=[deflate] if deflate is not None else [])
        self.step = STEP if deflate is not None else None

    def receive(self, chunk: bytes) -> Received:
        """Read a chunk. After a result with `ended` there is nothing more to read."""
        payload: list[bytes] = []
        pings: list[bytes] = []
        ended: Ended | None = None
        self._protocol.receive_bytes(chunk)
        try:
            for frame in self._protocol.received_frames():
                opcode = frame.opcode
                if opcode is Opcode.BINARY:
                    payload.append(cast(bytes, frame.payload))
                elif opcode is Opcode.PING:
                    pings.append(cast(bytes, frame.payload))
                elif opcode is Opcode.CLOSE:
                    ended = Ended(int(cast(tuple[int, str], frame.payload)[0]), clean=True)
                    break
                elif opcode is not Opcode.PONG:
                    # MQTT travels in binary frames only [MQTT-6.0.0-1].
                    ended = Ended(int(CloseReason.UNSUPPORTED_DATA), clean=False)
                    break
        except ParseFailed as error:
            ended = Ended(int(error.code), clean=False)
        return Received(b"".join(payload), pings, ended)

    def binary(self, data: bytes) -> bytes:
        """`data` as one binary frame."""
        return bytes(self._protocol.send_data(data))

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping."""
        return bytes(self._protocol.pong(payload))

    def close(self, code: int) -> bytes:
        """A Close frame. 1005 makes one without a code, the answer to a client's Close that had none."""
        no_code = CloseReason.NO_STATUS_RCVD
        return bytes(self._protocol.close(no_code if code == no_code else code))
