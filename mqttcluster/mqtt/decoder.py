"""A byte stream cut into packets.

Bytes go in through `receive`, as they come; packets are pulled out through `next_packet`, one at a time, so that the
caller can stop between two. A header is judged as soon as it is there: a peer that announces an illegal or too large
packet is refused before any of its body is kept.

Two buffers keep the work in proportion to the bytes, however they are cut. `_chunk` is immutable and is read from an
offset; the beginning of an unfinished packet waits in `_tail`, and is not looked at before all its bytes are there.
"""

from __future__ import annotations

from mqttcluster.mqtt import readers
from mqttcluster.mqtt.packets import V5, Connect, Packet
from mqttcluster.mqtt.reasons import MalformedPacket, MQTTError, Reason
from mqttcluster.mqtt.wire import Cursor

#: The largest packet there can be: five bytes of fixed header and the largest Remaining Length.
LARGEST_PACKET = 268_435_460
#: The tail of all connections that have none; it is never changed.
_EMPTY = bytearray()


class Decoder:
    """Cuts one connection's incoming bytes into packets.

    `max_packet_size` is in bytes and counts the fixed header. `version` is the protocol level packets are read by; it
    is 0 until a CONNECT sets it, and other packets are read as MQTT 3.1.1 meanwhile. An illegal CONNECT sets it, too,
    if it is one of MQTT 5.0: the answer is worded by it. Which packets may come when is for the caller to judge.
    """

    __slots__ = ("_at", "_chunk", "_error", "_need", "_tail", "max_packet_size", "version")

    def __init__(self, max_packet_size: int = LARGEST_PACKET, version: int = 0) -> None:
        self.max_packet_size = max_packet_size
        self.version = version
        self._chunk = b""
        self._at = 0
        self._tail = _EMPTY
        self._need = 1
        self._error: MQTTError | None = None

    @property
    def buffered(self) -> int:
        """Bytes received and not yet returned as packets."""
        return len(self._chunk) - self._at + len(self._tail)

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take `data`. After an error it is dropped."""
        if self._error is not None:
            return
        if self._at < len(self._chunk):
            self._keep()
            self._need = 1  # the packet that begins there is not known yet
        if self._tail and 1 < self._need <= len(self._tail) + len(data):
            self._chunk = b"".join((self._tail, data))  # one copy, where to append and then to copy would be two
            self._tail = _EMPTY
        elif self._tail:
            self._tail += data
        else:
            self._chunk = bytes(data)
            self._at = 0

    def _keep(self) -> None:
        """Move what is left of the chunk to the tail, which is empty while there is a chunk."""
        self._tail = bytearray(memoryview(self._chunk)[self._at :])
        self._chunk = b""
        self._at = 0

    def window(self) -> tuple[bytes, int]:
        """The bytes at hand and the offset of the next packet in them, for a caller that reads frames by itself and
        then says how far it came (`skip`); empty while no packet can be complete."""
        if self._tail:
            if len(self._tail) < self._need:
                return b"", 0
            self._chunk = bytes(self._tail)
            self._tail = _EMPTY
        return self._chunk, self._at

    def skip(self, at: int) -> None:
        """The caller of `window` has dealt with all packets before the offset `at`."""
        self._at = at

    def next_packet(self) -> Packet | None:
        """The next packet, or None if more bytes are needed.

        Raises MQTTError for bytes that are no legal packet; from then on every call raises the same error.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._tail:
            if len(self._tail) < self._need:
                return None
            self._chunk = bytes(self._tail)
            self._tail = _EMPTY
        try:
            packet = self._cut()
        except MQTTError as error:
            if not self.version and readers.is_connect_5(self._chunk, self._at):
                self.version = V5
            self._error = error
            self._chunk = b""
            self._at = 0
            raise
        if packet is None and self._at < len(self._chunk):
            self._keep()
        return packet

    def _cut(self) -> Packet | None:
        """Read one packet at the offset; None, with `_need` set, if it is not complete."""
        data = self._chunk
        at = self._at
        size = len(data)
        if at >= size:
            self._need = 1
            return None
        first = data[at]
        version = self.version
        if first not in readers.FIRST_BYTES[version]:
            raise readers.refusal(first)
        start = at + 2
        if start > size:
            self._need = 2
            return None
        length = data[at + 1]
        if length >= 0x80:
            length &= 0x7F
            shift = 7
            while True:
                if start == size:
                    self._need = size - at + 1
                    return None
                group = data[start]
                start += 1
                length |= (group & 0x7F) << shift
                if group < 0x80:
                    break
                if shift == 21:
                    raise MalformedPacket("the remaining length has more than four bytes")
                shift += 7
            if group == 0 and version == V5:
                raise MalformedPacket("the remaining length is longer than needed")  # [MQTT-1.5.5-1] of 5.0
        end = start + length
        if end - at > self.max_packet_size:
            raise MQTTError(Reason.PACKET_TOO_LARGE, f"a packet of {end - at} bytes")
        if end > size:
            self._need = end - at
            return None
        if 0x30 <= first <= 0x3F:
            packet: Packet = readers.publish(first & 0x0F, data, start, end, version)
        else:
            packet = readers.READERS[first >> 4](Cursor(data, start, end), version)
            if not version and type(packet) is Connect:
                # Only now is it known whether a length in more bytes than needed was legal.
                if packet.version == V5 and start - at > 2 and not data[start - 1]:
                    raise MalformedPacket("the remaining length is longer than needed")
                self.version = packet.version
        self._at = end
        return packet
