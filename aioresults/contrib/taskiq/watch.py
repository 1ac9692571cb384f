"""To be told of a task without waiting for it, and without taking its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aioresults import AioResultsError, AMQPBackend, ResultMeta
from aioresults.waiters import Waiting

#: Seconds that this process stays told of a task that nobody asks for any more.
LEASE: Final = 60.0
#: Seconds that a result is kept here for who is told next that it is ready; other processes do not see it meanwhile.
HOLD: Final = 2.0


class Reader(AMQPBackend):
    """A backend that tells of tasks for which no call waits."""

    def listen(self, task_id: str, listener: Waiting) -> None:
        """Have ``listener`` told of every report, from now on."""
        self._lifetime.check_reads()
        self._waiters.join(task_id, listener)

    def leave(self, task_id: str, listener: Waiting) -> None:
        """End it. What came and was not taken returns to its queue."""
        self._waiters.leave(task_id, listener)


class Watch:
    """Is told of one task, until nobody has asked for ``LEASE`` seconds, or it has ended and nobody took its result.

    Args:
        hold: seconds to hold a ready report that arrives, so that who takes it then has it at once.
        on_end: called once, when it is told no more.
    """

    def __init__(self, reader: Reader, task_id: str, hold: float, on_end: Callable[[Watch], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._hold = hold
        self._on_end = on_end
        self._timer = self._loop.call_later(LEASE, self._expire)
        self.task_id = task_id
        #: The latest report.
        self.latest: ResultMeta | None = None
        self.renew()
        reader.listen(task_id, self)

    @property
    def is_ready(self) -> bool:
        """Whether the task has ended."""
        return self.latest is not None and self.latest.is_ready

    def renew(self) -> None:
        """Somebody asks."""
        self._until = self._loop.time() + LEASE

    def end(self) -> None:
        """Be told no more. Twice is no error."""
        self._timer.cancel()
        self._reader.leave(self.task_id, self)
        self._on_end(self)

    def _expire(self) -> None:
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._expire)
        else:
            self.end()

    # As a listener

    def on_report(self, meta: ResultMeta) -> None:
        """Note it."""
        self.latest = meta
        if meta.is_ready:
            self._end_in(self._hold)

    def on_history(self, reports: Sequence[ResultMeta]) -> None:
        """Note the last one, which counts."""
        for meta in reports:
            self.on_report(meta)

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """Forgotten, say: who asks next looks again."""
        self.latest = None
        self._end_in(0)

    def _end_in(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.end)
