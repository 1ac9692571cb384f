"""Waiting for what arrives, and iterating over it, in callers that may be cancelled at any ``await``."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Generic, Self, TypeVar

from aioresults.errors import AioResultsError
from aioresults.results import ResultMeta
from aioresults.waiting.waiters import Waiters

T = TypeVar("T")


class Wait(ABC):
    """One wait for some tasks, from ``join`` to ``leave``; it may join again.

    Args:
        timeout: seconds from the first ``join``; None for no limit.
    """

    def __init__(self, waiters: Waiters, task_ids: Sequence[str], timeout: float | None) -> None:
        self._waiters = waiters
        self._task_ids = task_ids
        self._timeout = timeout
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self._wake = asyncio.Event()

    def join(self) -> None:
        """Begin to wait, or continue."""
        if self._timeout is not None:
            loop = asyncio.get_running_loop()
            if self._deadline is None:
                self._deadline = loop.time() + self._timeout
            self._timer = loop.call_at(self._deadline, self._expire, self._timeout)
        for task_id in self._task_ids:
            if self._is_pending(task_id):
                self._waiters.join(task_id, self)

    def leave(self) -> None:
        """Stop waiting: what the caller has not seen is for others, or for the next ``join``. Twice is no error."""
        if self._timer is not None:
            self._timer.cancel()
        for task_id in self._task_ids:
            self._waiters.leave(task_id, self)

    def take(self, task_ids: Iterable[str]) -> None:
        """Take the results of these tasks: their caller has them."""
        for task_id in task_ids:
            self._waiters.take(task_id, self)

    @abstractmethod
    def on_report(self, meta: ResultMeta) -> None:
        """Keep what the caller is to see, then call ``_fail`` or set ``_wake``."""

    def on_history(self, reports: Sequence[ResultMeta]) -> None:
        """Keep each report."""
        for meta in reports:
            self.on_report(meta)

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """End the wait, unless the result of this task is already here."""
        if self._is_pending(task_id):
            self._fail(error)

    @abstractmethod
    def _is_pending(self, task_id: str) -> bool:
        """Whether the result of a task is not here yet."""

    @abstractmethod
    def _expire(self, timeout: float) -> None:
        """End the wait, unless every result is here."""

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._wake.set()

    async def _woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()


class Iteration(ABC, Generic[T]):
    """One iteration over what arrives.

    Cancelling ``anext`` is safe: nothing waits until the next call, which continues where the cancelled one stopped. (A
    cancelled async generator would have ended, and its next call would report that nothing more comes.) Leaving the
    loop ends the iteration, and so does ``aclose``.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        #: The wait in progress. It must not refer to the iteration, which would then never be collected.
        self._wait: Wait | None = None

    @abstractmethod
    async def _next(self) -> T:
        """Return the next item, or raise ``StopAsyncIteration``. A cancelled call leaves it for the next call."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._is_over:
            raise StopAsyncIteration
        try:
            return await self._next()
        except asyncio.CancelledError:
            self._leave()
            raise
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """End the iteration now. Safe to call twice.

        Example::

            reports = backend.watch(task_id)
            first = await anext(reports)
            await reports.aclose()
        """
        self._end()

    def _join(self, wait: Wait) -> None:
        """Let ``wait`` begin or continue, unless it is running."""
        if self._wait is None:
            self._wait = wait
            wait.join()

    def _leave(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.leave()

    def _end(self) -> None:
        self._is_over = True
        self._leave()

    def __del__(self) -> None:
        if self._wait is not None:
            with suppress(RuntimeError):  # the loop is closed, and so is the wait
                # Not at once: the garbage collector may run in any thread.
                self._loop.call_soon_threadsafe(self._wait.leave)
