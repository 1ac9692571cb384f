"""``get_many``: the results of many tasks, awaited all together or iterated as they arrive."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from typing import Self

from aioresults.errors import AioResultsError, ResultTimeout
from aioresults.results import ResultMeta
from aioresults.waiters import Waiters

OnMessage = Callable[[ResultMeta], object]
#: Looks once for each of the given ids, takes the ready reports that are there, and returns them.
TakeReady = Callable[[Sequence[str]], Awaitable[list[ResultMeta]]]


class Collector:
    """One wait for many tasks: a listener that keeps what arrives until its caller takes it.

    A context manager: it waits from entry to exit, and what was not taken by then is left.
    """

    def __init__(
        self,
        waiters: Waiters,
        task_ids: Iterable[str],
        done: dict[str, ResultMeta],
        *,
        timeout: float | None,
        on_message: OnMessage | None,
    ) -> None:
        self._waiters = waiters
        self._pending = dict.fromkeys(task_ids)
        self._done = done
        self._timeout = timeout
        self._on_message = on_message
        self._arrived: deque[ResultMeta] = deque()
        self._error: BaseException | None = None
        self._wake: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._joined: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        if self._timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout, self._expire)
        self._joined = tuple(self._pending)
        for task_id in self._joined:
            self._waiters.join(task_id, self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task_id in self._joined:
            self._waiters.leave(task_id, self)

    def on_report(self, meta: ResultMeta) -> None:
        """Keep a ready report; tell ``on_message`` of every one. An error of that ends this wait, not the drain."""
        if self._on_message is not None:
            try:
                self._on_message(meta)
            except Exception as error:
                self._fail(error)
        if meta.is_ready and meta.task_id in self._pending:
            del self._pending[meta.task_id]
            self._done[meta.task_id] = meta
            self._arrived.append(meta)
            self._rouse()

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """End the wait, unless the result of this task is here already."""
        if task_id in self._pending:
            self._fail(error)

    def _expire(self) -> None:
        if self._pending:
            self._fail(ResultTimeout(self._timeout or 0, self._pending, self._done))

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next(self) -> ResultMeta | None:
        """Return the next report, or None after the last; cancelled, it is still there for the next call."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if not self._pending:
                return None
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self._arrived.popleft()

    def take(self, task_ids: Iterable[str]) -> None:
        """Take the results of these tasks: their caller has them."""
        for task_id in task_ids:
            self._waiters.take(task_id, self)


class ManyResults:
    """The results of ``task_ids``: await it for all of them, or iterate for each as it arrives.

    Awaited: ``{task_id: meta}`` in the order asked; nothing is taken off the broker before all are there. Iterated:
    pairs of task id and meta, those known here first, then in order of arrival, each id once; what was yielded is
    taken. The deadline counts from the first use. Failures are metas too: nothing is raised for them.

    Raises:
        ResultTimeout: with ``done`` and ``pending``.
        ResultForgotten, DecodeError, ...: of the first task whose result cannot come.

    Cancelling either, or leaving the loop, loses nothing: what was not taken returns to its queue.
    """

    def __init__(
        self,
        waiters: Waiters,
        task_ids: Iterable[str],
        *,
        timeout: float | None,
        on_message: OnMessage | None,
        take_ready: TakeReady,
    ) -> None:
        self._waiters = waiters
        self._task_ids = list(dict.fromkeys(task_ids))
        self._timeout = timeout
        self._on_message = on_message
        self._take_ready = take_ready

    def __await__(self) -> Generator[object, None, dict[str, ResultMeta]]:
        return self._all().__await__()

    def __aiter__(self) -> AsyncIterator[tuple[str, ResultMeta]]:
        return self._each()

    def known(self) -> dict[str, ResultMeta]:
        """Return the results among them that were taken in this process before."""
        known = {task_id: self._waiters.ready(task_id) for task_id in self._task_ids}
        return {task_id: meta for task_id, meta in known.items() if meta is not None}

    def _collector(self, done: dict[str, ResultMeta]) -> Collector:
        pending = (task_id for task_id in self._task_ids if task_id not in done)
        return Collector(self._waiters, pending, done, timeout=self._timeout, on_message=self._on_message)

    async def _all(self) -> dict[str, ResultMeta]:
        done = self.known()
        if self._timeout == 0:
            await self._look(done)
        else:
            with self._collector(done) as collector:
                try:
                    while await collector.next() is not None:
                        pass
                except ResultTimeout as timed_out:
                    collector.take(timed_out.done)
                    raise
                collector.take(done)
        return {task_id: done[task_id] for task_id in self._task_ids}

    async def _each(self) -> AsyncIterator[tuple[str, ResultMeta]]:
        done = self.known()
        if self._timeout == 0:
            timed_out = None
            try:
                await self._look(done)
            except ResultTimeout as error:
                timed_out = error
            for task_id, meta in done.items():
                yield task_id, meta
            if timed_out is not None:
                raise timed_out
            return
        known = tuple(done.items())  # before the collector adds what others wait for, too, and have not taken
        with self._collector(done) as collector:
            for task_id, meta in known:
                yield task_id, meta
            while (arrived := await collector.next()) is not None:
                collector.take([arrived.task_id])
                yield arrived.task_id, arrived

    async def _look(self, done: dict[str, ResultMeta]) -> None:
        pending = [task_id for task_id in self._task_ids if task_id not in done]
        for meta in await self._take_ready(pending) if pending else ():
            done[meta.task_id] = meta
        missing = [task_id for task_id in self._task_ids if task_id not in done]
        if missing:
            raise ResultTimeout(0, missing, done)
