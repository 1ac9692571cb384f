"""Which channel numbers of a connection are free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from aiormq.abc import AbstractChannel, AbstractConnection

from aioresults.errors import BrokerUnavailable

#: The most that AMQP 0-9-1 has room for.
MAX_CHANNELS = 65535


class ChannelNumbers:
    """Gives out channel numbers in turn, so that one is used again as late as can be, and never too early.

    aiormq 7.2 takes a number for free when it reads that the broker closed the channel. Its answer to that is sent by
    another task, a moment later. A channel opened in between, with the same number, makes the broker close the
    connection: 504, second 'channel.open' seen.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._channels = connection.channels
        self._max: int = connection.connection_tune.channel_max or MAX_CHANNELS
        self._last = 0
        #: Of channels that are being opened, or whose close was not answered yet.
        self._in_use: set[int] = set()

    @contextmanager
    def reserved(self) -> Iterator[int]:
        """Choose a number, which nobody else gets within the block."""
        number = self._last = self._next()
        self._in_use.add(number)
        try:
            yield number
        finally:
            self._in_use.discard(number)

    def taken(self, number: int, channel: AbstractChannel) -> None:
        """Note which channel has a number, until its close was answered."""
        self._in_use.add(number)
        # Not the future itself: the traceback in it would keep the channel, and whoever consumes there.
        channel.closing.add_done_callback(lambda _: self._in_use.discard(number))

    def _next(self) -> int:
        for number in chain(range(self._last + 1, self._max + 1), range(1, self._last + 1)):
            if number not in self._channels and number not in self._in_use:
                return number
        raise BrokerUnavailable(f"all {self._max} channels of the connection are in use")
