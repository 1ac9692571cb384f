"""``watch``: every state report of one task, in order, until the ready one; ``drain_events``: what others wait for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from aioresults.errors import AioResultsError, ResultTimeout
from aioresults.iteration import Iteration, Wait
from aioresults.results import ResultMeta
from aioresults.routing import Reader
from aioresults.waiting.waiters import Waiters

#: Reports that are buffered for a slow watcher; beyond this number the oldest is dropped, never the ready one.
BUFFER: Final = 1000


class Watcher(Wait):
    """The wait behind one ``watch``: keeps every report until the caller has seen it."""

    def __init__(self, waiters: Waiters, task_id: str, timeout: float | None) -> None:
        super().__init__(waiters, [task_id], timeout)
        #: The last report that was kept and is not ready.
        self._newest: ResultMeta | None = None
        self._reports: deque[ResultMeta] = deque(maxlen=BUFFER)

    def leave(self) -> None:
        """Stop waiting; a ready report that the caller has not seen arrives again."""
        super().leave()
        if self._reports and self._reports[-1].is_ready:
            self._reports.pop()

    def on_report(self, meta: ResultMeta) -> None:
        """Keep a report. The ready one comes last, so a full buffer never loses it."""
        if not meta.is_ready:
            self._newest = meta
        self._reports.append(meta)
        self._wake.set()

    def on_history(self, reports: Sequence[ResultMeta]) -> None:
        """Keep the reports after the newest one that was kept before, or all if that one is not among them."""
        known = [number for number, meta in enumerate(reports, 1) if _are_same(meta, self._newest)]
        super().on_history(reports[known[-1] if known else 0 :])

    def _is_pending(self, task_id: str) -> bool:
        return True  # an error is raised only after the reports that are here

    def _expire(self, timeout: float) -> None:
        self._fail(ResultTimeout(timeout, self._task_ids, refused=self._waiters.refused(self._task_ids)))

    async def next(self) -> ResultMeta:
        """Return the next report. A cancelled call leaves it for the next call."""
        while not self._reports:
            if self._error is not None:
                raise self._error
            await self._woken()
        return self._reports.popleft()


def _are_same(meta: ResultMeta, other: ResultMeta | None) -> bool:
    # Not ==: an exception that was read twice is not equal to itself.
    return other is not None and meta.status == other.status and repr(meta.result) == repr(other.result)


class Watch(Iteration[ResultMeta]):
    """The reports of one task as they arrive, until the ready one.

    Example::

        states_seen = [meta.status async for meta in backend.watch(task_id, timeout=30)]
        assert states_seen[-1] == "SUCCESS"

    Made by ``AMQPBackend.watch``, whose arguments it takes. The deadline counts from the first ``anext``.

    Raises:
        ResultTimeout: there was no ready report in time.

    Cancelling is safe, and so is leaving the loop early: the ready report is taken when the caller asks for what
    follows it, as a loop does that runs to its end. Until then it stays in its queue.
    """

    def __init__(self, reader: Reader, task_id: str, timeout: float | None, take: bool) -> None:
        super().__init__()
        self._reader = reader
        self._task_id = task_id
        self._timeout = timeout
        self._take = take
        self._watcher: Watcher | None = None
        #: Whether the caller has the ready report.
        self._is_done = False

    async def _next(self) -> ResultMeta:
        if self._is_done:  # and asks for more: only now it has dealt with it
            if self._watcher is not None and self._take:
                self._watcher.take([self._task_id])
            raise StopAsyncIteration
        meta = await self._begin() if self._watcher is None else await self._report(self._watcher)
        self._is_done = meta.is_ready
        return meta

    async def _begin(self) -> ResultMeta:
        """Return what is known or found at once, else the first report to come."""
        if (known := self._reader.ready(self._task_id)) is not None:
            return known
        if self._timeout == 0:
            return await self._look()
        self._watcher = Watcher(self._reader.waiters, self._task_id, self._timeout)
        return await self._report(self._watcher)

    async def _look(self) -> ResultMeta:
        if self._take:
            return await self._reader.take_one(self._task_id)
        meta = await self._reader.peek(self._task_id)
        if meta is None or not meta.is_ready:
            raise ResultTimeout(0, [self._task_id], refused=self._reader.refused([self._task_id]))
        return meta

    async def _report(self, watcher: Watcher) -> ResultMeta:
        self._join(watcher)
        return await watcher.next()


class Observer:
    """Waits for the next ready reports that arrive for any call."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._seen: dict[str, ResultMeta] = {}
        self._error: AioResultsError | None = None
        self._wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_report(self, meta: ResultMeta) -> None:
        """Keep a ready report."""
        self._seen[meta.task_id] = meta
        self._rouse()

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """End the wait: nothing more will come."""
        self._error = error
        self._rouse()

    def _rouse(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    async def next(self, timeout: float | None) -> dict[str, ResultMeta]:
        """Wait up to ``timeout`` seconds, and return the ready reports that arrived together with the first one."""
        self._waiters.observe(self)
        try:
            async with asyncio.timeout(timeout):
                await self._wake
        except TimeoutError:
            raise ResultTimeout(timeout or 0, []) from None
        finally:
            self._waiters.unobserve(self)
        if self._error is not None and not self._seen:
            raise self._error
        return self._seen
