"""A look into the queue of a task: the latest report, read without being consumed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final

from aioresults.background.channel_pool import POOL_SIZE
from aioresults.background.sessions import Sessions
from aioresults.errors import BacklogLimitExceeded, DecodeError, NotFound, ResultTimeout
from aioresults.events import Dropped, Emit, log
from aioresults.messaging import Message, Queue
from aioresults.results import ResultMeta
from aioresults.waiting.waiters import Waiter, Waiters

#: Reports that one look may read.
DEFAULT_BACKLOG_LIMIT: Final = 1000

#: Decodes a message into a report; raises ``DecodeError``.
Read = Callable[[Message], ResultMeta]


async def look(
    queue: Queue,
    task_id: str,
    read: Read,
    supersedes: Callable[[str, str], bool],
    *,
    backlog_limit: int,
    emit: Emit = log,
) -> ResultMeta | None:
    """Return the report that counts among those in ``queue``, or None when there is none, or no queue.

    Reads on until the queue is empty. The report that counts goes back to the queue for the next reader, the others
    are acknowledged; messages of other tasks go back as well. Nothing is declared.

    Args:
        queue: bound to a channel for this look alone, which the broker closes when there is no queue.
        supersedes: whether a report in the first state replaces an earlier one in the second.
        backlog_limit: reports that may be read; one look at an empty queue is not one of them.
        emit: is told of messages that cannot be read.

    Raises:
        BacklogLimitExceeded: after ``backlog_limit`` reports the queue was not found empty.
        DecodeError: the only message of the task cannot be read; it is rejected.
    """
    best: tuple[Message, ResultMeta] | None = None
    foreign: list[Message] = []
    unreadable: DecodeError | None = None
    try:
        for _ in range(backlog_limit):
            message = await queue.get()
            if message is None:
                break
            try:
                meta = read(message)
            except DecodeError as error:
                emit(Dropped(task_id, str(error)))
                message.reject()
                unreadable = error
                continue
            if meta.task_id != task_id:
                foreign.append(message)
            elif best is None or supersedes(meta.status, best[1].status):
                if best is not None:
                    best[0].ack()
                best = message, meta
            else:
                message.ack()
        else:
            raise BacklogLimitExceeded(task_id, backlog_limit)
    except NotFound:
        return None
    finally:
        for message in (*foreign, *((best[0],) if best is not None else ())):
            message.requeue()
    if foreign or best is not None:
        # Answered when they are back in the queue: whoever looks next, in any process, finds them.
        with suppress(NotFound):
            await queue.declare(passive=True)
    if best is None and unreadable is not None:
        raise unreadable
    return best[1] if best is not None else None


class Lookup:
    """Answers what is known of a task now, from this process or with one look at the broker.

    Args:
        queue_for: the queue that holds the reports of a task, or None when it has none of its own.
        deletion: returns what is done when the queue of a result that was taken is deleted; None when none is to be.
        forgetting: is entered while the queue of a task is deleted.
        rpc_timeout: seconds that one look may take, the wait for a session included.
        emit: is told of messages that cannot be read.
    """

    def __init__(
        self,
        sessions: Sessions,
        waiters: Waiters,
        queue_for: Callable[[str], Queue | None],
        read: Read,
        deletion: Callable[[str], asyncio.Future[None] | None],
        forgetting: Callable[[str], AbstractContextManager[None]],
        *,
        rpc_timeout: float,
        emit: Emit = log,
    ) -> None:
        self._emit = emit
        self._deletion = deletion
        self._forgetting = forgetting
        self._sessions = sessions
        self._waiters = waiters
        self._queue_for = queue_for
        self._read = read
        self._rpc_timeout = rpc_timeout
        self._running: dict[str, asyncio.Task[ResultMeta | None]] = {}

    async def latest(self, task_id: str, backlog_limit: int) -> ResultMeta | None:
        """Return the report that counts, without consuming it; None when there is none.

        Looks for one task at the same time share one: each would hide the report from the others.
        """
        if task_id not in self._waiters:
            running = self._running.get(task_id)
            if running is None:
                running = asyncio.create_task(self._look(task_id, backlog_limit))
                self._running[task_id] = running
                running.add_done_callback(lambda _: self._running.pop(task_id, None))
            seen = await asyncio.shield(running)
            if seen is not None:
                return self._waiters.learn(seen)
        return self._waiters.latest(task_id)

    async def take(self, task_id: str) -> ResultMeta:
        """Look once, and take the ready report that is there; ``ResultTimeout`` when there is none."""
        for meta in await self.take_ready([task_id]):
            return meta
        raise ResultTimeout(0, [task_id])

    async def take_ready(self, task_ids: Sequence[str]) -> list[ResultMeta]:
        """Look once for each task, some at a time, take the ready reports that are there, and return them.

        Cancelled, or when one look fails, nothing is taken. Two processes that look at the same moment may both get it.
        """
        here = [each for each in task_ids if each in self._waiters or self._queue_for(each) is None]
        elsewhere = list(set(task_ids).difference(here))
        seen: list[ResultMeta | None] = []
        while len(seen) < len(elsewhere):  # the limit of a look is that of its own turn
            some = elsewhere[len(seen) : len(seen) + POOL_SIZE]
            seen += await asyncio.gather(*(self._look(task_id, DEFAULT_BACKLOG_LIMIT) for task_id in some))
        # Nothing waits from here on: what is taken is returned.
        for meta in seen:
            if meta is not None:
                self._waiters.learn(meta)
                if meta.is_ready:
                    self._waiters.taken(meta)
        found = (*seen, *map(self._take_here, here))
        return [meta for meta in found if meta is not None and meta.is_ready]

    def _take_here(self, task_id: str) -> ResultMeta | None:
        waiter = Waiter(self._waiters, task_id, None)
        try:
            if not waiter.done():
                return None
            waiter.take()
            return waiter.result()
        finally:
            waiter.leave()

    async def _look(self, task_id: str, backlog_limit: int) -> ResultMeta | None:
        queue = self._queue_for(task_id)
        if queue is None or self._deletion(task_id) is not None:
            return None  # what was taken here is not there, though its queue may be for a while
        supersedes, emit = self._waiters.supersedes, self._emit
        async with self._sessions.within(self._rpc_timeout) as session:
            return await session.run(
                lambda channel: look(
                    queue(channel), task_id, self._read, supersedes, backlog_limit=backlog_limit, emit=emit
                )
            )

    async def delete(self, task_id: str) -> None:
        """Delete what the broker holds of a task."""
        queue = self._queue_for(task_id)
        if queue is not None:
            async with self._sessions.within(self._rpc_timeout) as session:
                if (deletion := self._deletion(task_id)) is not None:
                    await asyncio.wait([deletion])  # later it might delete a new one
                with self._forgetting(task_id):
                    await session.run(lambda channel: queue(channel).delete())
