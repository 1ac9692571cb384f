"""Stands where a channel of aiormq puts its frames, and sends them at once, in order with those written past it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiormq.abc import ChannelFrame

#: Where the method of a frame stands, and those that may follow the ``channel.close`` of this side.
_METHOD: Final = slice(7, 11)
_CLOSE_OK: Final = b"\x00\x14\x00\x29"


class FrameQueue:
    """What a channel of aiormq has instead of its connection's queue.

    From that one another task takes frames, some turns of the loop later. The broker closes the connection (504) over
    a call or a ``basic.cancel-ok`` that arrives behind a ``channel.close`` written meanwhile, and over an
    acknowledgement behind a ``channel.close-ok``.

    Args:
        write: sends whole frames.
        is_closing: whether ``channel.close`` was sent; from then on only the answer to the broker's own may follow.
    """

    def __init__(self, write: Callable[[bytes], None], is_closing: Callable[[], bool]) -> None:
        self._write = write
        self._is_closing = is_closing

    async def put(self, frame: ChannelFrame) -> None:
        """Send a frame, without waiting."""
        self.put_nowait(frame)

    def put_nowait(self, frame: ChannelFrame) -> None:
        """Send a frame; void once the channel is closing: the broker's answer to that ends every call."""
        if not self._is_closing() or frame.payload[_METHOD] == _CLOSE_OK:
            self._write(frame.payload)
        frame.drain()
