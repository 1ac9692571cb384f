"""What every reader of a stream does with a message: find out where it stands, and acknowledge it.

Nothing is taken off a stream by that; an acknowledgement lets the broker send more, and must not be owed for longer
than the broker's ``consumer_timeout``.
"""

from __future__ import annotations

import asyncio
from time import time as wall_clock
from typing import Final

from aioresults.background.stream.index import Position
from aioresults.messaging import Message

#: Seconds after which what is owed is acknowledged, when nothing more comes.
QUIET: Final = 1.0
#: The last second that the index has room for; what claims to be later is as young as can be.
LATEST: Final = 2**32 - 1


def position_of(message: Message) -> Position:
    """Return where a message is in its stream, and when its writer sent it; now, if that does not say."""
    offset = message.headers.get("x-stream-offset", 0)
    sent = message.properties.timestamp
    return Position(int(offset), min(max(0, int(wall_clock() if sent is None else sent)), LATEST))


class Credit:
    """Acknowledges the messages of one channel, many at a time.

    Args:
        prefetch: how many messages of the channel may be unacknowledged.
    """

    def __init__(self, prefetch: int) -> None:
        self._every = max(1, prefetch // 10)
        self._owed = 0
        self._last: Message | None = None
        self._timer: asyncio.TimerHandle | None = None

    def received(self, message: Message) -> None:
        """Have ``message`` acknowledged, soon."""
        self._last = message
        self._owed += 1
        if self._owed >= self._every:
            self.settle()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(QUIET, self.settle)

    def settle(self) -> None:
        """Acknowledge all that is owed; void when the channel is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._last is not None:
            self._last.ack(multiple=True)
        self._owed, self._last = 0, None
