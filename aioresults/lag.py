"""How long the event loop stood still: the usual cause of a connection that is lost for want of heartbeats."""

from __future__ import annotations

import asyncio
from typing import Final, Self

#: Seconds between two looks at the clock; by as much a lag may be longer than what was seen of it.
INTERVAL: Final = 1.0
#: A lag that ended longer ago than this has nothing to do with what happens now.
RECENT: Final = 10.0
#: Shorter lags are the daily business of a busy loop.
NOTABLE: Final = 1.0


class LoopLag:
    """Looks at the clock once a second; a context manager for as long as it does."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._worst = 0.0
        self._ended = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._tick()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        if self._timer is not None:
            self._note()
        self._due = self._loop.time() + INTERVAL
        self._timer = self._loop.call_at(self._due, self._tick)

    def _note(self) -> None:
        now = self._loop.time()
        lag = now - self._due
        if lag >= NOTABLE and (lag >= self._worst or now - self._ended > RECENT):
            self._worst, self._ended = lag, now

    def recent(self) -> float:
        """Return the longest time that the loop stood still, in seconds, of late or right now; 0 for none."""
        self._note()
        return self._worst if self._loop.time() - self._ended <= RECENT else 0.0
