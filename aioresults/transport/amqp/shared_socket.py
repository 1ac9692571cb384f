"""The socket under a connection of aiormq, opened here through its ``transport_factory`` (public since aiormq 6.9).

Measured on aiormq 7.2: a message costs three frames with three reads each, a queue between two tasks, and a parser
that looks every field up, together more than everything else between socket and caller. So the frames of messages go
straight to their channels; aiormq reads the others, in order, from a plain ``StreamReader``.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final, Protocol, cast

import aiormq
from aiormq.exceptions import AMQPConnectionError

from aioresults.errors import BrokerUnavailable
from aioresults.transport.amqp import frames
from aioresults.transport.amqp.properties import read_short_string
from aioresults.transport.broker_errors import connect_error

_HEAD: Final = struct.Struct(">BHI").unpack_from
_KINDS: Final = frozenset((frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT[0]))
_FRAME_MAX: Final = struct.Struct(">xxxxxxI").unpack_from
_TUNE: Final = b"\x00\x0a\x00\x1e"
_CONNECTION_CLOSE: Final = b"\x00\x0a\x00\x32"
_BLOCKED: Final = b"\x00\x0a\x00\x3c"
_UNBLOCKED: Final = b"\x00\x0a\x00\x3d"

#: Bytes that are read in one turn of the loop: a few milliseconds of work when the messages are small.
READ_SIZE: Final = 32 * 1024
#: Bytes that a frame may have until the broker has said how many it sends.
FIRST_FRAME_MAX: Final = 128 * 1024
#: What either side must take (AMQP 0-9-1, 4.2.3).
FRAME_MIN: Final = 4096
#: Seconds without a frame of its own after which aiormq is told that the connection lives.
SIGN_OF_LIFE: Final = 1.0


class SocketOwner(Protocol):
    """The connection that is told what happens on its socket."""

    def blocked(self, reason: str | None) -> None: ...
    def lost(self, error: BrokerUnavailable) -> None: ...


class SharedSocket(asyncio.BufferedProtocol):
    """Splits what arrives into frames, and writes whole frames: ours at once, and aiormq's in order with them.

    It is a buffered protocol because asyncio reads up to 256 KiB at once for others.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reader: Final = asyncio.StreamReader(loop=self._loop)
        self._stream = asyncio.StreamReaderProtocol(self.reader, loop=self._loop)
        self._transport: asyncio.Transport
        self.writer: FilteringWriter
        #: None until aiormq has opened the connection.
        self.owner: SocketOwner | None = None
        #: Why the connection ended, if the broker said so or sent what cannot be read. An attempt to connect raises it.
        self.fault: BrokerUnavailable | None = None
        #: Bytes that a frame may have; 0 for any number.
        self.frame_max: int = 0
        #: The channels whose messages do not go through aiormq.
        self.channels: Final[dict[int, frames.FrameAssembler]] = {}
        #: The channels that were closed by either side, until they are opened again.
        self.closing: Final[set[int]] = set()
        self._buffer = memoryview(bytearray(READ_SIZE))
        #: The pieces of an incomplete frame, their size, and the size at which they are looked at again.
        self._pieces: list[bytes] = []
        self._have = 0
        self._needed = frames.HEAD_SIZE
        self._largest = FIRST_FRAME_MAX
        self._told_aiormq = 0.0
        self._soon: list[bytes] = []
        self._of_aiormq = b""

    def abort(self) -> None:
        """Close the socket at once; safe to call twice."""
        self._transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none
        self._stream.connection_made(transport)
        self.writer = FilteringWriter(self, transport, self._stream, self.reader, self._loop)

    def connection_lost(self, error: Exception | None) -> None:
        self._stream.connection_lost(error)
        text = "the connection to the broker was lost"
        self._lost(BrokerUnavailable(text if error is None else f"{text}: {error}"))

    def eof_received(self) -> bool:
        self._stream.eof_received()
        return False  # nothing is left to say to the broker

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._buffer[:nbytes])
        if self._pieces:
            self._pieces.append(data)
            self._have += nbytes
            if self._have < self._needed:
                return
            data = b"".join(self._pieces)
            self._pieces.clear()
        try:
            at = self._split(data)
        except (ValueError, IndexError, struct.error) as error:
            self.fault = BrokerUnavailable(f"the connection was closed: what the broker sent cannot be read: {error}")
            self.reader.set_exception(AMQPConnectionError(str(self.fault)))
            self._transport.abort()
            self._lost(self.fault)
            return
        if at < len(data):
            self._pieces.append(data[at:])
            self._have = len(data) - at

    # In

    def _split(self, data: bytes) -> int:
        """Hand over the whole frames at the beginning of ``data``, and return where they end."""
        at, last, channels, reader = 0, len(data) - frames.HEAD_SIZE, self.channels, self.reader
        is_aiormqs = False
        self._needed = frames.HEAD_SIZE
        while at <= last:
            kind, number, size = _HEAD(data, at)
            if kind not in _KINDS:
                raise ValueError(f"no AMQP: {data[at : at + 20]!r}")
            if size > self._largest - frames.AROUND:
                raise ValueError(f"a frame of {size} bytes, where {self._largest} were agreed on")
            stop = at + frames.HEAD_SIZE + size
            if stop >= len(data):
                self._needed = size + frames.AROUND
                break
            if data[stop] != frames.END:
                raise ValueError("a frame without an end")
            payload, assembler = data[at + frames.HEAD_SIZE : stop], channels.get(number)
            if assembler is None or not assembler.take(kind, payload):
                if number == 0 and kind == frames.METHOD:
                    self._take_method(payload)
                reader.feed_data(data[at : stop + 1])
                is_aiormqs = True
            at = stop + 1
        if at:
            self._show_life(is_aiormqs)
        return at

    def _show_life(self, is_aiormqs: bool) -> None:
        """Give aiormq a heartbeat now and then: it gives up a connection on which it sees no frames."""
        now = self._loop.time()
        if not is_aiormqs and now - self._told_aiormq >= SIGN_OF_LIFE:
            self.reader.feed_data(frames.HEARTBEAT)
            is_aiormqs = True
        if is_aiormqs:
            self._told_aiormq = now

    def _take_method(self, payload: bytes) -> None:
        """Take note of what the broker says about the connection; aiormq answers."""
        method = payload[:4]
        if method == _TUNE:
            (self.frame_max,) = _FRAME_MAX(payload)
            if 0 < self.frame_max < FRAME_MIN:
                raise ValueError(f"frames of {self.frame_max} bytes at most")
            self._largest = self.frame_max or 2**32
        elif method == _CONNECTION_CLOSE:
            code, text, _ = frames.read_code_and_text(payload)
            self.fault = connect_error(code, text)
            self._lost(BrokerUnavailable(f"the connection to the broker was lost: {code} {text}"))
        elif self.owner is not None and method == _BLOCKED:
            self.owner.blocked(read_short_string(payload, 4)[0] or "no reason given")
        elif self.owner is not None and method == _UNBLOCKED:
            self.owner.blocked(None)

    def _lost(self, error: BrokerUnavailable) -> None:
        if self.owner is not None:
            self.owner.lost(error)

    # Out

    def write(self, data: bytes) -> None:
        """Send whole frames; void when the connection is going down, which its channels are told."""
        if self._soon:
            self._soon.append(data)
            data = b"".join(self._soon)
            self._soon.clear()
        if not self._transport.is_closing():
            self._transport.write(data)

    def write_soon(self, data: bytes) -> None:
        """Send whole frames at the end of this turn of the loop, or before what is sent until then.

        For acknowledgements: the consumer acts first, so a crash cannot lose an acknowledged message; and those of
        one turn go together.
        """
        if not self._soon:
            self._loop.call_soon(self._flush)
        self._soon.append(data)

    def _flush(self) -> None:
        if self._soon:
            self.write(b"")

    def write_for_aiormq(self, data: bytes) -> None:
        """Send what aiormq writes, but not what would follow the close of a channel.

        The broker closes the connection (504) over a call or a ``basic.cancel-ok`` behind a ``channel.close`` that was
        written here, and over an acknowledgement behind a ``channel.close-ok``.
        """
        data, at, kept = self._of_aiormq + data, 0, []
        while len(data) - at >= frames.AROUND:
            kind, number, size = _HEAD(data, at)
            is_header = kind not in _KINDS  # the protocol header, 8 bytes that are no frame
            stop = at + (8 if is_header else size + frames.AROUND)
            if stop > len(data):
                break
            method = data[at + frames.HEAD_SIZE : at + frames.HEAD_SIZE + 4] if kind == frames.METHOD else b""
            if method == frames.OPEN:
                self.closing.discard(number)
            if number not in self.closing or method == frames.CLOSE_OK:
                kept.append(data[at:stop])
            if method == frames.CLOSE:
                self.closing.add(number)
            at = stop
        self._of_aiormq = data[at:]
        if kept:
            self.write(b"".join(kept))


class FilteringWriter(asyncio.StreamWriter):
    """What aiormq writes to."""

    def __init__(self, socket: SharedSocket, *stream: Any) -> None:
        super().__init__(*stream)
        self._socket = socket

    def write(self, data: Any) -> None:
        self._socket.write_for_aiormq(bytes(data))

    def writelines(self, data: Any) -> None:
        self.write(b"".join(data))


class SocketFactory(getattr(aiormq, "TransportFactory", object)):  # type: ignore[misc]
    """Opens the socket of one connection for aiormq."""

    def __init__(self) -> None:
        #: None until it is open.
        self.socket: SharedSocket | None = None

    async def create(
        self, url: Any, *, ssl_context_provider: Any, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; aiormq calls this, with what its URL and aio-pika's say."""
        context = await ssl_context_provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        _, self.socket = await loop.create_connection(SharedSocket, url.host, url.port, ssl=context, **options)
        return self.socket.reader, self.socket.writer
