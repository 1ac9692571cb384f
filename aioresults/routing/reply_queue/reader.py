"""Brings in results from the inbox of this process: deliveries -> decode -> waiters -> acknowledgement.

What is acknowledged is in the hands of whoever waits for it, or kept in memory as unclaimed. What a named inbox holds
and this process cannot read stays there for the next process of that name.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from aioresults.errors import DecodeError
from aioresults.events import Dropped, QueueLost
from aioresults.messaging import Message, Queue
from aioresults.routing.base import ReaderParts
from aioresults.routing.single_queue import SingleQueueReader
from aioresults.sessions.sessions import Session

logger: Final = logging.getLogger("aioresults")

#: Unacknowledged messages, each of up to some hundred reports.
PREFETCH: Final = 100
#: Of a named inbox any number: those that cannot be read here are kept unacknowledged, and must not stop the others.
ANY_NUMBER: Final = 0
#: Bytes of messages that cannot be read here and are kept for another process, and what each takes besides its body.
MAX_HELD_BYTES: Final = 64 * 2**20
HELD_OVERHEAD: Final = 1024


class ReplyQueueReader(SingleQueueReader):
    """Consumes one queue for as long as the backend is open.

    Args:
        queue: the inbox.
        keep: whether it stays, with what is in it, when the backend is closed.
    """

    def __init__(self, parts: ReaderParts, queue: Queue, *, keep: bool) -> None:
        super().__init__(parts, queue)
        self.reply_to = queue.name
        self._keep = keep
        #: What could not be read and is kept for another process, oldest first.
        self._held: deque[Message] = deque()
        self._held_bytes = 0

    @property
    def has_to_delete(self) -> bool:
        """Whether the inbox is nobody's after this."""
        return not self._keep

    # From session to session

    async def start(self, session: Session) -> None:
        """Declare the inbox and consume it."""
        if self._consumer is not None and not await self._is_there(session):
            self.settings.events.emit(QueueLost(self._queue.name))
        declared = await session.run(lambda channel: self._queue(channel).declare())
        if declared.consumer_count and self._consumer is None:
            logger.warning(
                "the inbox %s has a consumer already: two processes of one name get each other's results",
                self._queue.name,
            )
        await self._consume(session, ANY_NUMBER if self._keep else PREFETCH)

    async def _leave(self) -> None:
        await super()._leave()
        self._held.clear()
        self._held_bytes = 0

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost; an inbox that was deleted meanwhile is declared again."""
        while not session.lost.done():
            await self._until_ended(session)
            await self._retrying(session, self.start)

    async def finish(self, session: Session) -> None:
        """Acknowledge what was read, and delete the inbox, if it is nobody's after this."""
        self.acknowledge()
        if not self._keep:
            if self._consumer is not None:
                await self._consumer.cancel_by_queue(self._queue.name)
            await session.run(lambda channel: self._queue(channel).delete())

    # What is received

    def on_message(self, message: Message) -> None:
        """Take in one message: a report, or a batch of them."""
        self.received += 1
        message_id = message.properties.message_id
        if self.is_repeated(message_id):
            message.ack()
            return
        readable = True
        try:
            for report, document in self.settings.codec.read_all(message):
                if isinstance(report, DecodeError):
                    readable = False
                    self.refuse(report, dropped=not self._keep)
                else:
                    self.deliver(report, document)
        except DecodeError as error:
            readable = False
            self.refuse(error, dropped=not self._keep)
        if readable:
            self.deduplicator.note(message_id)
            self._acknowledge(message)
        elif self._keep:
            self._hold(message)
        else:
            message.reject()

    def _hold(self, message: Message) -> None:
        """Keep a message unacknowledged: the broker gives it to the next process of this name.

        Returned now, it would come straight back (measured).
        """
        self.acknowledge()  # what came before it; from here on, one for all would acknowledge this as well
        self._held.append(message)
        self._held_bytes += len(message.body) + HELD_OVERHEAD
        while self._held_bytes > MAX_HELD_BYTES:
            oldest = self._held.popleft()
            self._held_bytes -= len(oldest.body) + HELD_OVERHEAD
            oldest.reject()
            self.settings.events.emit(
                Dropped(None, f"more than {MAX_HELD_BYTES} bytes of the inbox cannot be read here")
            )

    def _acknowledge(self, message: Message) -> None:
        if self._held:
            message.ack()
        else:
            self.acknowledge_soon(message)
