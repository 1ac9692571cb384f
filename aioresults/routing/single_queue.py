"""What the readers of one queue for all tasks share: consuming it for as long as the backend is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aioresults.errors import AioResultsError, BrokerUnavailable, ChannelClosed, NotFound
from aioresults.messaging import Consumer, Message, Queue
from aioresults.routing.base import Reader, ReaderParts
from aioresults.sessions.sessions import Session

logger: Final = logging.getLogger("aioresults")

#: Seconds before a queue is consumed again that could not be.
RETRY_INTERVAL: Final = 1.0


class SingleQueueReader(Reader):
    """Consumes one queue, on a channel of its own; a subclass says when, and what becomes of a message."""

    def __init__(self, parts: ReaderParts, queue: Queue) -> None:
        super().__init__(parts)
        self._queue: Final = queue
        self._consumer: Consumer | None = None
        #: Completes when the consumer is given up; None before the first.
        self._ended: asyncio.Future[None] | None = None

    @property
    def consuming(self) -> int:
        """How many queues are consumed."""
        return int(self._ended is not None and not self._ended.done())

    def on_message(self, message: Message) -> None:
        """Take in one message."""
        raise NotImplementedError

    def on_cancel(self, consumer: Consumer, queue: str) -> None:
        """Give up a consumer that the broker cancelled."""
        if consumer is self._consumer:
            self._end()

    async def _consume(self, session: Session, prefetch: int, arguments: Mapping[str, Any] | None = None) -> None:
        """Consume the queue, which is there, on a new channel."""
        await self._leave()
        channel = await session.consumer(prefetch)
        self._ended = ended = asyncio.get_running_loop().create_future()
        channel.on_close(lambda reason: None if ended.done() else ended.set_result(None))
        self._consumer = self.parts.overrides.Consumer(channel)
        self._consumer.receiver = self
        try:
            await self._consumer.attach(self._queue.name, arguments=arguments)
        except BaseException:
            self._end()
            raise

    async def _leave(self) -> None:
        """Take leave of the consumer before the next one; what it did not acknowledge, the broker sends again."""
        self.acknowledge()
        if self._consumer is not None:
            # Still open where the broker cancelled the consumer alone, as when a queue's leader moves.
            await self._consumer.channel.close()

    def _end(self) -> None:
        """Give the consumer up, so that another one begins."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _until_ended(self, session: Session) -> None:
        """Return when the consumer has ended, or the session."""
        ends: list[asyncio.Future[Any]] = [session.lost, *([self._ended] if self._ended else [])]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    async def _retrying(self, session: Session, begin: Callable[[Session], Awaitable[None]]) -> None:
        """Call ``begin`` until the queue is consumed, or the session is lost; an error that stays ends the waits."""
        while not session.lost.done() and not self.consuming:
            try:
                await begin(session)
            except AioResultsError as error:
                if isinstance(error, (BrokerUnavailable, ChannelClosed)):
                    logger.warning("%s could not be consumed, trying again: %s", self._queue.name, error)
                else:
                    self.waiters.fail_all(error)
                await asyncio.wait([session.lost], timeout=RETRY_INTERVAL)

    async def _is_there(self, session: Session) -> bool:
        try:
            await session.run(lambda channel: self._queue(channel).declare(passive=True))
        except NotFound:
            return False
        return True
