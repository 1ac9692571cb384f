"""Time: how long something may take, and how long the event loop stood still."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from aioresults.errors import BrokerUnavailable

#: Seconds between two looks at the clock. A lag may be longer than what was seen of it by as much.
LAG_INTERVAL: Final = 1.0
#: A lag that ended longer ago than this has nothing to do with what happens now, in seconds.
RECENT_LAG: Final = 10.0
#: Shorter lags are the daily business of a busy loop, in seconds.
NOTABLE_LAG: Final = 1.0


class fail_after:  # noqa: N801  # used like a function, as asyncio.timeout is
    """Raise ``BrokerUnavailable`` when the body takes longer than ``timeout`` seconds; None for no limit.

    ``what`` is what did not happen in time. A ``TimeoutError`` of the body's own passes.
    """

    # Not a decorated generator: that costs more than the timer, and this is entered with every task that is sent.
    __slots__ = ("_scope", "_timeout", "_what")

    def __init__(self, timeout: float | None, what: str = "no answer from the broker") -> None:
        self._scope = asyncio.timeout(timeout)
        self._timeout = timeout
        self._what = what

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            raise BrokerUnavailable(f"{self._what} within {self._timeout:g} s") from expired


class LoopLag:
    """Looks at the clock once a second; a context manager for as long as it does.

    A loop that stands still is the usual cause of a connection that is lost for want of heartbeats.
    """

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
        self._due = self._loop.time() + LAG_INTERVAL
        self._timer = self._loop.call_at(self._due, self._tick)

    def _note(self) -> None:
        now = self._loop.time()
        lag = now - self._due
        if lag >= NOTABLE_LAG and (lag >= self._worst or now - self._ended > RECENT_LAG):
            self._worst, self._ended = lag, now

    def recent(self) -> float:
        """Return the longest time in seconds that the loop stood still, just now or within ``RECENT_LAG``."""
        self._note()
        return self._worst if self._loop.time() - self._ended <= RECENT_LAG else 0.0
