"""Which channel numbers of a connection are free."""

from __future__ import annotations

import asyncio
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
        #: The number of each channel that is being opened: None; of others, done when their close was answered.
        self._closed: dict[int, asyncio.Future[object] | None] = {}

    @contextmanager
    def reserved(self) -> Iterator[int]:
        """Choose a number, which nobody else gets within the block."""
        number = self._last = self._next()
        self._closed[number] = None
        try:
            yield number
        finally:
            del self._closed[number]

    def taken(self, number: int, channel: AbstractChannel) -> None:
        """Note which channel has a number."""
        self._closed[number] = channel.closing

    def _next(self) -> int:
        for number in chain(range(self._last + 1, self._max + 1), range(1, self._last + 1)):
            if number not in self._channels and self._is_free(number):
                return number
        raise BrokerUnavailable(f"all {self._max} channels of the connection are in use")

    def _is_free(self, number: int) -> bool:
        if number not in self._closed:
            return True
        closed = self._closed[number]
        return closed is not None and closed.done()
