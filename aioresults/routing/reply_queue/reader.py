"""Brings in results from the inbox of this process: deliveries -> decode -> waiters -> acknowledgement.

What is acknowledged is in the hands of whoever waits for it, or kept in memory as unclaimed. ``named_inbox`` has the
reader of an inbox that outlives its process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from aioresults.errors import DecodeError
from aioresults.events import QueueLost
from aioresults.messaging import Message, Queue
from aioresults.results import ResultMeta
from aioresults.routing.base import ReaderParts
from aioresults.routing.single_queue import SingleQueueReader
from aioresults.serialization import Document
from aioresults.sessions.sessions import Session
from aioresults.transport.base import DeclareOk


class ReplyQueueReader(SingleQueueReader):
    """Consumes one queue for as long as the backend is open, and deletes it then."""

    #: Unacknowledged messages, each of up to some hundred reports.
    prefetch: ClassVar[int] = 100

    def __init__(self, parts: ReaderParts, queue: Queue) -> None:
        super().__init__(parts, queue)
        self.reply_to = queue.name

    @property
    def has_to_delete(self) -> bool:
        """Whether the inbox is nobody's after this."""
        return True

    # From session to session

    async def start(self, session: Session) -> None:
        """Declare the inbox and consume it."""
        if self._consumer is not None and not await self._is_there(session):
            self.settings.events.emit(QueueLost(self._queue.name))
        await self._declare(session)
        await self._consume(session, self.prefetch)

    async def _declare(self, session: Session) -> DeclareOk:
        return await session.run(lambda channel: self._queue(channel).declare())

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost; an inbox that was deleted meanwhile is declared again."""
        while not session.lost.done():
            await self._until_ended(session)
            await self._retrying(session, self.start)

    async def finish(self, session: Session) -> None:
        """Acknowledge what was read, and delete the inbox."""
        self.acknowledge()
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
        unreadable = self._read(message, self.deliver)
        if unreadable:
            self.refuse(*unreadable, leave=False)
            message.reject()
        else:
            self.deduplicator.note(message_id)
            self.acknowledge_soon(message)

    def _read(self, message: Message, deliver: Callable[[ResultMeta, Document], object]) -> list[DecodeError]:
        """Pass every report of a message that can be read to ``deliver``; return the errors of the others."""
        unreadable: list[DecodeError] = []
        try:
            for report, document in self.settings.codec.read_all(message):
                if isinstance(report, DecodeError):
                    unreadable.append(report)
                else:
                    deliver(report, document)
        except DecodeError as error:
            unreadable.append(error)
        return unreadable
