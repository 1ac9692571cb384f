"""``drain_events``: what arrives for others, seen and not taken."""

from __future__ import annotations

import asyncio

from aioresults.errors import AioResultsError, ResultTimeout
from aioresults.results import ResultMeta
from aioresults.waiting.waiters import Waiters


class Observer:
    """Waits for the next ready reports that arrive for anyone."""

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
        """Return the ready reports of the moment in which the first one arrives, within ``timeout`` seconds."""
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
