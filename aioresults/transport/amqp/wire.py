"""What a connection of aiormq reads from and writes to, for the frames that pass aiormq by."""

from __future__ import annotations

import asyncio
from inspect import getcoroutinelocals
from typing import Any, Final

from aiormq import Connection
from aiormq.connection import FrameReceiver

from aioresults.errors import BrokerUnavailable, NotSupported
from aioresults.transport.amqp.frame_reader import FrameReader, Take
from aioresults.transport.amqp.numbers import ChannelNumbers


class Wire(FrameReader):
    """The socket under one connection of aiormq, which goes on using it.

    The stream and the writer are known to two tasks of aiormq only, and are taken from there. Frames written here do
    not wait for its writer; each call writes whole frames, so neither can come into the middle of the other's.
    """

    def __init__(self, connection: Connection, receiver: FrameReceiver, writer: asyncio.StreamWriter) -> None:
        super().__init__(receiver.reader)
        receiver.reader = self  # type: ignore[assignment]
        self._connection: Any = connection
        self._loop = asyncio.get_running_loop()
        self._transport = writer.transport
        self._soon: list[bytes] = []
        self.numbers: Final = ChannelNumbers(connection)
        #: Bytes that a frame may have; 0 for any number.
        self.frame_max: Final[int] = connection.connection_tune.frame_max or 0

    @classmethod
    def of(cls, connection: Connection) -> Wire:
        """Return the one of a connection, which may serve several owners.

        Raises:
            BrokerUnavailable: the connection is lost already.
            NotSupported: it is none as aiormq 7.2 makes them.
        """
        receiver: FrameReceiver = _local(connection._reader_task, "frame_receiver")
        if isinstance(receiver.reader, cls):
            return receiver.reader
        return cls(connection, receiver, _local(connection._writer_task, "writer"))

    def attach(self, number: int, take: Take) -> None:
        """Have the frames of a channel given to ``take``."""
        self.channels[number] = take

    def detach(self, number: int) -> None:
        """Leave the frames of a channel to aiormq again."""
        self.channels.pop(number, None)

    def write(self, frames: bytes) -> None:
        """Send whole frames; void when the connection is going down, which its channels are told."""
        if self._soon:
            self._soon.append(frames)
            frames = b"".join(self._soon)
            self._soon.clear()
        if not self._transport.is_closing():
            self._transport.write(frames)

    def write_soon(self, frames: bytes) -> None:
        """Send whole frames at the end of this turn of the loop, or before what is sent until then.

        For acknowledgements: who is given a message acts on it in this turn, before a process that is killed can have
        taken it off its queue; and those of one turn go together.
        """
        if not self._soon:
            self._loop.call_soon(self._flush)
        self._soon.append(frames)

    def _flush(self) -> None:
        if self._soon:
            self.write(b"")

    def _heard(self) -> None:
        # aiormq takes a connection for dead on which it sees no frames.
        self._connection._Connection__last_frame_time = self._loop.time()


def _local(task: Any, name: str) -> Any:
    if task.done():
        raise BrokerUnavailable("the connection to the broker was lost")
    try:
        return getcoroutinelocals(task.get_coro())[name]
    except KeyError:
        raise NotSupported(f"a connection of aiormq whose tasks have no {name!r}; aiormq 7.2 is known here") from None
