"""The time of the event loop in the hands of a test: deadlines pass when it says so, however slow the machine is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

T = TypeVar("T")


class Clock:
    """The running loop's clock, which can be put forward: what is due by then happens in the next turn.

    Timers, timeouts and sleeps of asyncio go by it, those of connections too: aiormq gives up one that was silent for
    three heartbeats and more, 33 seconds by default.
    """

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self._ahead = 0.0
        patched.setattr(loop, "time", self.now)

    def now(self) -> float:
        """Return what the loop takes for the time."""
        return self._now() + self._ahead

    def advance(self, seconds: float) -> None:
        """Have so many seconds pass at once."""
        self._ahead += seconds

    async def fly(self, call: Awaitable[T]) -> T:
        """Await a call during which half a second passes with each turn of the loop; for when no broker is there."""
        task = asyncio.ensure_future(call)
        while not task.done():
            self.advance(0.5)
            await asyncio.sleep(0)
        return await task
