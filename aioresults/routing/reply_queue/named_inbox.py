"""The inbox of a name: what nobody has taken outlives the process.

A message is acknowledged when all its results are done with (``holding``). So a process that ends, whichever way,
leaves everything else to the next one of its name.

One process of a name reads at a time: the queue has a single active consumer. The process that reads looks every few
seconds whether another one has come. If so, it returns what nobody has taken, and its waits end with
``InboxTakenOver``: that is how a rolling deployment goes on. A predecessor that is frozen or cut off is ended by the
broker's heartbeat; until then the newcomer waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import ClassVar, Final

from aioresults.errors import (
    BrokerUnavailable,
    ChannelError,
    ConfigurationError,
    DecodeError,
    InboxTakenOver,
    InequivalentArgument,
    SignatureMismatch,
)
from aioresults.events import Dropped, InboxBusy, InboxLost
from aioresults.messaging import Message, Queue
from aioresults.results import ResultMeta
from aioresults.routing.base import DEFAULT_BACKLOG_LIMIT, ReaderParts
from aioresults.routing.reply_queue.holding import Held, Holding
from aioresults.routing.reply_queue.reader import ReplyQueueReader
from aioresults.serialization import Document
from aioresults.sessions.sessions import Session
from aioresults.transport.base import DeclareOk

#: Bytes of messages that cannot be read here and are kept for another process.
MAX_UNREADABLE: Final = 64 * 2**20
#: Seconds between two looks whether another process of this name has come.
CHECK_INTERVAL: Final = 3.0
#: The argument that lets one consumer of a queue get its messages, and the next one when that has gone.
SINGLE_ACTIVE: Final = "x-single-active-consumer"


class NamedInboxReader(ReplyQueueReader):
    """Consumes an inbox that the next process of its name continues."""

    #: Any number: what nobody has asked for is not acknowledged, and must not stop what follows. The memory bounds it.
    prefetch: ClassVar[int] = 0

    def __init__(self, parts: ReaderParts, queue: Queue) -> None:
        super().__init__(parts, queue)
        self._holding: Final = Holding(self.deduplicator, MAX_UNREADABLE)
        self.memory.holder = self._holding
        #: Whether another process was there first, and has not ended as far as is known here.
        self._stands_by = False
        #: Set when another process has taken the inbox over.
        self._taken_over: InboxTakenOver | None = None

    @property
    def has_to_delete(self) -> bool:
        """Whether the inbox is nobody's after this: never."""
        return False

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures."""
        return {
            **super().stats(),
            "held": len(self._holding),
            "unreadable_bytes": self._holding.unreadable_bytes,
            "standing_by": self._stands_by,
        }

    # From session to session

    async def start(self, session: Session) -> None:
        """Declare the inbox and consume it, unless another process has taken it over."""
        if self._taken_over is None:
            await super().start(session)

    async def _declare(self, session: Session) -> DeclareOk:
        try:
            declared = await super()._declare(session)
        except InequivalentArgument as error:
            if SINGLE_ACTIVE not in str(error):
                raise
            name = self._queue.name
            raise ConfigurationError(
                f"the queue {name!r} was declared without {SINGLE_ACTIVE}, by an earlier version: let a process of "
                f"that version read what is in it, then delete it with: rabbitmqctl delete_queue {name} --if-empty"
            ) from error
        self._stands_by = declared.consumer_count > 0
        if self._stands_by:
            self.settings.events.emit(InboxBusy(self._queue.name))
        return declared

    async def _leave(self) -> None:
        await super()._leave()
        self._holding.lose()

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost, or another process takes the inbox over."""
        working = asyncio.create_task(super().run(session))
        try:
            while self._taken_over is None and not working.done():
                await asyncio.wait([working], timeout=CHECK_INTERVAL)
                self.memory.expire()
                await self._look_for_others(session)
        finally:
            working.cancel()
            await asyncio.wait([working])
        if not working.cancelled():
            working.result()
        if self._taken_over is not None:
            await self._hand_over(self._taken_over)
        await asyncio.wait([session.lost])

    async def _look_for_others(self, session: Session) -> None:
        with suppress(BrokerUnavailable, ChannelError):
            declared = await session.run(lambda channel: self._queue(channel).declare(passive=True))
            if declared.consumer_count == 1:
                self._stands_by = False
            elif declared.consumer_count > 1 and not self._stands_by:
                self._taken_over = InboxTakenOver(self._queue.name)

    async def _hand_over(self, error: InboxTakenOver) -> None:
        """Return what nobody has taken, and end all waits."""
        self.memory.drop_unclaimed()
        await self._leave()
        self._end()
        self._holding.clear()
        self.settings.events.emit(InboxLost(self._queue.name))
        self.waiters.fail_all(error)

    async def finish(self, session: Session) -> None:
        """Leave the inbox, with all that nobody has taken, to the next process."""

    # What is received

    def on_message(self, message: Message) -> None:
        """Take in one message: a report, or a batch of them."""
        if self._taken_over is not None:
            return  # the broker gets it back with the channel
        self._stands_by = False
        self.received += 1
        is_known = self._holding.knows(message) or message.properties.message_id in self.deduplicator
        if is_known and not self.settings.codec.is_genuine(message):
            self._refuse(Held(message), self._read(message, self.deliver))
            return
        held = self._holding.hold(message)
        if held is None:
            self.repeated += 1
        elif self.is_repeated(message.properties.message_id):
            self._holding.read(held)
        elif unreadable := self._read(message, partial(self._deliver, held)):
            self._refuse(held, unreadable)
        else:
            self._holding.read(held)

    def _refuse(self, held: Held, errors: list[DecodeError]) -> None:
        if not self.refuse(*errors, leave=True):
            if held.pending:
                self._holding.read(held)  # others of its reports are results that nobody has taken yet
            else:
                self._holding.drop(held)
            return
        is_genuine = not any(isinstance(error, SignatureMismatch) for error in errors)
        if self._holding.keep(held, is_genuine=is_genuine):
            self.settings.events.emit(
                Dropped(None, f"more than {MAX_UNREADABLE} bytes of the inbox cannot be read here")
            )

    def _deliver(self, held: Held, meta: ResultMeta, document: Document) -> None:
        if meta.is_ready:
            self._holding.expect(held, meta.task_id)
        counts = self.deliver(meta, document)
        if meta.is_ready and not counts and self.memory.ready(meta.task_id) is not None:
            self._holding.release(meta.task_id)  # it was taken before

    # Waits and looks: none where another process has taken the inbox over

    def _check(self) -> None:
        if self._taken_over is not None:
            raise self._taken_over.with_traceback(None)

    def wait_began(self, task_id: str) -> tuple[Sequence[ResultMeta], Document | None]:
        """Return what is known of a task that somebody waits for from now on."""
        self._check()
        return super().wait_began(task_id)

    async def peek(self, task_id: str, backlog_limit: int = DEFAULT_BACKLOG_LIMIT) -> ResultMeta | None:
        """Return the report that counts among those that have come."""
        self._check()
        return await super().peek(task_id, backlog_limit)
