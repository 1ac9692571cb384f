"""``watch``: every state report of one task, in order, until the ready one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from aioresults.errors import AioResultsError, ResultTimeout
from aioresults.results import ResultMeta
from aioresults.waiters import Waiters

#: Reports kept for a watcher that is slower than its task; beyond, the oldest that is not ready goes.
BUFFER: Final = 1000


class Watcher:
    """The listener behind one ``watch``."""

    def __init__(self) -> None:
        self._reports: deque[ResultMeta] = deque(maxlen=BUFFER)
        self._error: AioResultsError | None = None
        self._wake: asyncio.Future[None] | None = None

    def on_report(self, meta: ResultMeta) -> None:
        """Keep a report. The ready one comes last, so a full buffer never loses it."""
        self._reports.append(meta)
        self._rouse()

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """End after the reports that are already here."""
        self._error = self._error or error
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next(self) -> ResultMeta:
        """Return the next report; cancelled, it is still there for the next call."""
        while not self._reports:
            if self._error is not None:
                raise self._error
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self._reports.popleft()


async def watch(
    waiters: Waiters, task_id: str, timeout: float | None, take: Callable[[str], Awaitable[ResultMeta]]
) -> AsyncGenerator[ResultMeta, None]:
    """Yield the reports of a task as they arrive, and end after the ready one, which is then taken.

    Args:
        timeout: seconds for all of it together; None for no limit, 0 for one look.
        take: the look, for the ready report; raises ``ResultTimeout`` when there is none.

    Raises:
        ResultTimeout: no ready report within ``timeout``.

    Leaving the loop early, or cancelling it, loses nothing: a ready report that was not yielded stays in its queue.
    """
    if (known := waiters.ready(task_id)) is not None:
        yield known
        return
    if timeout == 0:
        yield await take(task_id)
        return
    watcher = Watcher()
    timer = None
    if timeout is not None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(timeout, watcher.on_error, task_id, ResultTimeout(timeout, [task_id]))
    waiters.join(task_id, watcher)
    try:
        while True:
            meta = await watcher.next()
            if meta.is_ready:
                waiters.take(task_id, watcher)
            yield meta
            if meta.is_ready:
                return
    finally:
        if timer is not None:
            timer.cancel()
        waiters.leave(task_id, watcher)
