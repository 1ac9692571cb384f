"""One lifetime of a backend: opened once, used, closed once; and the background work in between.

The work is one root task, because ``open`` and ``close`` may be called from different tasks (fixtures, lifespans),
where a task group that the caller enters would break.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import aclosing
from enum import Enum
from typing import Final

import anyio

from aioresults.drain import Drain
from aioresults.errors import BackendClosed, WrongEventLoop
from aioresults.outbox import Outbox
from aioresults.sessions import Sessions
from aioresults.waiters import Waiters

logger = logging.getLogger("aioresults")

#: Seconds that ``close`` gives to what is on its way.
CLOSE_TIMEOUT: Final = 5.0


class State(Enum):
    """What may be done with a backend."""

    NEW = "was not opened yet"
    OPEN = "is open"
    CLOSED = "is closed"


class Lifetime:
    """Runs sessions, drain and outbox from ``open`` to ``close``.

    Args:
        connect_timeout: seconds that ``open`` may take.
        drain: None for a backend that only stores.
    """

    def __init__(
        self, sessions: Sessions, outbox: Outbox, drain: Drain | None, waiters: Waiters, *, connect_timeout: float
    ) -> None:
        self._sessions = sessions
        self._outbox = outbox
        self._drain = drain
        self._waiters = waiters
        self._connect_timeout = connect_timeout
        self._state = State.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._root: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are served."""
        return self._state is State.OPEN

    def check(self) -> None:
        """Raise unless the backend is open, and open here.

        Raises:
            BackendClosed: not opened, or closed.
            WrongEventLoop: opened in another event loop or process.
        """
        if self._state is not State.OPEN:
            raise BackendClosed(f"the backend {self._state.value}")
        self._check_place()

    def _check_place(self) -> None:
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoop("the backend belongs to the event loop that opened it; open one backend in each loop")
        if os.getpid() != self._pid:
            raise WrongEventLoop("the backend belongs to the process that opened it; open one after the fork")

    async def open(self) -> None:
        """Start, and return when the first session can be used. Opening twice is no error."""
        if self._state is State.CLOSED:
            raise BackendClosed("the backend is closed, and cannot be opened again")
        self._check_place()
        if self._root is None:
            self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
            self._root = asyncio.create_task(self._run(), name="aioresults")
            self._root.add_done_callback(self._ended)
        try:
            await self._sessions.wait(self._connect_timeout)
        except BaseException:
            if self._state is State.NEW:
                await self._stop()
            raise
        if self._state is State.NEW:
            self._state = State.OPEN

    async def _run(self) -> None:
        async with aclosing(self._sessions.live()) as live:
            async for session in live:
                if self._drain is not None:
                    await self._drain.run(session)
                else:
                    await asyncio.wait([session.lost])

    def _ended(self, root: asyncio.Task[None]) -> None:
        if root.cancelled() or (error := root.exception()) is None:
            return
        # A defect of this package: better that everyone hears of it than that they wait for ever.
        logger.error("the background task failed", exc_info=error)
        self._state = State.CLOSED
        failure = BackendClosed(f"the background task failed: {error!r}")
        failure.__cause__ = error
        self._waiters.fail_all(failure)

    async def close(self) -> None:
        """Flush within ``CLOSE_TIMEOUT``, then fail whoever still waits with ``BackendClosed``, and disconnect.

        Safe to call twice, from several tasks at once, and in a cancelled scope: it goes on to its end.
        """
        if self._state is State.NEW and self._root is None:
            self._state = State.CLOSED
            return
        self._check_place()
        if self._closing is None:
            self._state = State.CLOSED
            self._closing = asyncio.create_task(self._close(), name="aioresults close")
        with anyio.CancelScope(shield=True):
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self._sessions.current is not None:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._outbox.flush()
                    if self._drain is not None:
                        await self._drain.settled()
        except TimeoutError:
            logger.warning("closing with %d reports unconfirmed", len(self._outbox))
        await self._outbox.stop()
        self._waiters.fail_all(BackendClosed("the backend was closed"))
        await self._stop()

    async def _stop(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.cancel()
            await asyncio.gather(root, return_exceptions=True)
