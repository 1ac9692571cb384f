"""The background task that brings in results from one inbox: deliveries -> decode -> waiters -> ack.

The counterpart of ``drain`` for a routing that has one queue per process. What is acknowledged is in the hands of
whoever waits for it, or kept as unclaimed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from aioresults.background.repeats import Repeats
from aioresults.background.sessions import Session
from aioresults.errors import AioResultsError, BrokerUnavailable, DecodeError, NotFound
from aioresults.events import Dropped, Emit, QueueLost, log
from aioresults.messaging import Consumer, Message, Queue
from aioresults.serialization.report_codec import ReportCodec
from aioresults.waiting.waiters import Waiters

logger = logging.getLogger("aioresults")

#: Unacknowledged messages, each of up to some hundred reports.
PREFETCH: Final = 100
#: Messages that are acknowledged together, and seconds that one waits for the others.
ACK_COUNT: Final = 20
ACK_DELAY: Final = 0.005
#: Seconds before an inbox is opened again that could not be.
RETRY_INTERVAL: Final = 1.0


class Inbox:
    """Consumes one queue for as long as the backend lives.

    Args:
        keep: whether the queue stays when the backend is closed.
        consumer: the class of what consumes.
        emit: is told when the queue was lost, and of messages that cannot be read.
    """

    def __init__(
        self,
        queue: Queue,
        waiters: Waiters,
        reports: ReportCodec,
        *,
        keep: bool,
        consumer: type[Consumer] = Consumer,
        emit: Emit = log,
    ) -> None:
        self._emit = emit
        self._queue = queue
        self._waiters = waiters
        self._reports = reports
        self._keep = keep
        self._make_consumer = consumer
        self._consumer: Consumer | None = None
        self._ended: asyncio.Future[None] | None = None
        #: What was received last and is not acknowledged yet, and how many with it.
        self._last: Message | None = None
        self._unsettled = 0
        self.received = 0
        self.undecodable = 0
        self.repeated = 0
        self._repeats = Repeats()

    def __len__(self) -> int:
        """How many queues are consumed."""
        return int(self._ended is not None and not self._ended.done())

    async def start(self, session: Session) -> None:
        """Declare the inbox and consume it."""
        if self._consumer is not None and not await self._is_there(session):
            self._emit(QueueLost(self._queue.name))
        declared = await session.run(lambda channel: self._queue(channel).declare())
        if declared.consumer_count and self._consumer is None:
            logger.warning(
                "the inbox %s has a consumer already: two processes of one name get each other's results",
                self._queue.name,
            )
        self._acknowledge()
        if self._consumer is not None:
            # Still open where the broker cancelled the consumer alone, as when a queue's leader moves.
            await self._consumer.channel.close()
        channel = await session.consumer(PREFETCH)
        self._ended = ended = asyncio.get_running_loop().create_future()

        def end(_: object) -> None:
            if not ended.done():
                ended.set_result(None)

        channel.on_close(end)
        self._consumer = self._make_consumer(channel, on_message=self._receive, on_cancel=end)
        await self._consumer.attach(self._queue.name)

    async def _is_there(self, session: Session) -> bool:
        try:
            await session.run(lambda channel: self._queue(channel).declare(passive=True))
        except NotFound:
            return False
        return True

    async def caught_up(self, timeout: float) -> None:
        """Return at once: the broker keeps what is not here."""

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost; an inbox that was deleted meanwhile is declared again."""
        while not session.lost.done():
            ends: list[asyncio.Future[Any]] = [session.lost, *([self._ended] if self._ended else [])]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if session.lost.done():
                return
            try:
                await self.start(session)
            except BrokerUnavailable as error:
                logger.warning("the inbox could not be consumed, trying again: %s", error)
                await asyncio.wait([session.lost], timeout=RETRY_INTERVAL)
            except AioResultsError as error:
                self._waiters.fail_all(error)
                await asyncio.wait([session.lost], timeout=RETRY_INTERVAL)

    async def finish(self, session: Session) -> None:
        """Acknowledge what was received, and delete the inbox, if it is nobody's after this."""
        self._acknowledge()
        if not self._keep:
            if self._consumer is not None:
                await self._consumer.cancel_by_queue(self._queue.name)
            await session.run(lambda channel: self._queue(channel).delete())

    @property
    def has_to_delete(self) -> bool:
        """Whether the inbox is nobody's after this."""
        return not self._keep

    async def stop(self, error: AioResultsError) -> None:
        """Do nothing: all that goes on goes on in ``run``."""

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures."""
        return {
            "consuming": len(self),
            "received": self.received,
            "repeated": self.repeated,
            "undecodable": self.undecodable,
        }

    def deletion(self, task_id: str) -> None:
        """Return None: what was taken is gone."""

    def forgetting(self, task_id: str) -> AbstractContextManager[None]:
        """Do nothing: a task has no queue of its own here."""
        return nullcontext()

    def _receive(self, message: Message) -> None:
        self.received += 1
        message_id = message.properties.message_id
        if message_id in self._repeats:
            self.repeated += 1
            message.ack()
            return
        try:
            for report, document in self._reports.read_all(message):
                if isinstance(report, DecodeError):
                    self._drop(report)
                else:
                    self._waiters.report(report, document)
        except DecodeError as error:
            self._drop(error)
            message.reject()
        else:
            self._repeats.note(message_id)
            self._acknowledge_soon(message)

    def _acknowledge_soon(self, message: Message) -> None:
        """Acknowledge it with those that follow at once: a frame for each costs a third of what reading it does."""
        self._unsettled += 1
        if self._last is None:
            asyncio.get_running_loop().call_later(ACK_DELAY, self._acknowledge)
        self._last = message
        if self._unsettled >= ACK_COUNT:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._last is not None:
            self._last.ack(multiple=True)
            self._last, self._unsettled = None, 0

    def _drop(self, error: DecodeError) -> None:
        self.undecodable += 1
        self._emit(Dropped(error.task_id, str(error)))
        for task_id in (*error.task_ids, *([error.task_id] if error.task_id else ())):
            self._waiters.fail(task_id, error)
