"""To be told of a task without waiting for it, and without taking its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aioresults import AioResultsError, AMQPBackend, ResultMeta

#: Seconds that this process stays told of a task that nobody asks for any more.
LEASE: Final = 60.0


class TaskWatch:
    """Is told of one task, until it has ended, or nobody has asked for ``LEASE`` seconds.

    Args:
        on_end: called once, when it is told no more.
    """

    def __init__(self, backend: AMQPBackend, task_id: str, on_end: Callable[[TaskWatch], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._timer = self._loop.call_later(LEASE, self._expire)
        self.task_id = task_id
        #: The latest report.
        self.latest: ResultMeta | None = None
        self.renew()
        self._following = asyncio.create_task(self._follow(backend), name=f"aioresults watch {task_id}")
        self._following.add_done_callback(self._ended)

    @property
    def is_ready(self) -> bool:
        """Whether the task has ended."""
        return self.latest is not None and self.latest.is_ready

    def renew(self) -> None:
        """Somebody asks."""
        self._until = self._loop.time() + LEASE

    def end(self) -> None:
        """Be told no more. Twice is no error."""
        self._following.cancel()

    async def _follow(self, backend: AMQPBackend) -> None:
        try:
            async for meta in backend.watch(self.task_id, take=False):
                self.latest = meta
        except AioResultsError:
            self.latest = None  # forgotten, say: who asks next looks again

    def _expire(self) -> None:
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._expire)
        else:
            self.end()

    def _ended(self, following: asyncio.Task[None]) -> None:
        self._timer.cancel()
        self._on_end(self)
