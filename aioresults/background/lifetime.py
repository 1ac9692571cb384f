"""One lifetime of a backend: opened once, used, closed once; and the background work in between.

The work is one root task, because ``open`` and ``close`` may be called from different tasks (fixtures, lifespans),
where a task group that the caller enters would break.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from enum import Enum
from typing import Any, Final

import anyio

from aioresults.background.groups import Groups
from aioresults.background.hooks import Hooks
from aioresults.background.outbox import Outbox
from aioresults.background.readers import reading
from aioresults.background.sessions import Session, Sessions
from aioresults.errors import AioResultsError, BackendClosed, ConfigurationError, WrongEventLoop
from aioresults.events import Events, OnEvent, QueuesLeft, Unconfirmed
from aioresults.limits import Limits
from aioresults.retry import RetryPolicy
from aioresults.routing import Routing
from aioresults.serialization.report_codec import ReportCodec
from aioresults.transport import Transport
from aioresults.waiting.unclaimed import Unclaimed
from aioresults.waiting.waiters import Waiters

logger = logging.getLogger("aioresults")

#: Seconds that ``open`` gives a reader to come to what is stored already.
CATCH_UP_TIMEOUT: Final = 1.0
#: Seconds that ``close`` gives to what is on its way.
CLOSE_TIMEOUT: Final = 5.0


class State(Enum):
    """What may be done with a backend."""

    NEW = "was not opened yet"
    OPEN = "is open"
    CLOSED = "is closed"


class Lifetime:
    """Puts the parts together, and runs them from ``open`` to ``close``.

    Args:
        store_only: nothing is consumed.
        on_event: is told what happens.
        unroutable: seconds between attempts at a destination that is not there.
        expires: seconds that results are kept which nobody asks for.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _root: asyncio.Task[None] | None = None
    _closing: asyncio.Task[None] | None = None
    _opening = 0

    def __init__(
        self,
        transport: Transport,
        routing: Routing,
        reports: ReportCodec,
        hooks: Hooks,
        limits: Limits,
        *,
        retry_policy: RetryPolicy,
        unroutable: Sequence[float],
        expires: float | None,
        store_only: bool,
        on_event: OnEvent | None,
    ) -> None:
        self._events = Events(on_event)
        self._hooks = hooks
        self._connect_timeout = limits.connect_timeout
        self.sessions = Sessions(
            transport,
            prepare=self._prepare,
            on_refused=lambda error: self.waiters.fail_all(error),
            store_only=store_only,
            connect_timeout=limits.connect_timeout,
            rpc_timeout=limits.rpc_timeout,
            emit=self._events.emit,
        )
        self.outbox = Outbox(
            self.sessions,
            reports,
            exchange=routing.exchange.name,
            declare=hooks.declare,
            queues_for=hooks.on_reply_declare,
            coalesces=routing.coalesces,
            policy=retry_policy,
            unroutable=unroutable,
            producer=hooks.Producer,
            emit=self._events.emit,
        )
        self.groups = Groups(
            self.sessions,
            reports,
            policy=retry_policy,
            expires=expires,
            max_cached=limits.max_cached_results,
            rpc_timeout=limits.rpc_timeout,
            producer=hooks.Producer,
        )
        self._unclaimed = Unclaimed(
            limits.max_unclaimed_results, limits.max_unclaimed_bytes, expires,
            supersedes=hooks.supersedes, emit=self._events.emit,
        )  # fmt: skip
        unclaimed = self._unclaimed if hooks.inbox() else None
        self.waiters = Waiters(limits.max_cached_results, reports.decode, unclaimed, hooks.supersedes)
        self._reads = not store_only
        self._reader, self.lookup = reading(
            hooks, self.sessions, self.waiters, reports, self.outbox,
            keeps_inbox=routing.keeps_inbox, reads=self._reads, rpc_timeout=limits.rpc_timeout, emit=self._events.emit,
        )  # fmt: skip
        self._detached: set[asyncio.Task[None]] = set()
        self._state = State.NEW
        self._pid = os.getpid()

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

    def check_reads(self) -> None:
        """Raise unless results can be waited for here, and have a refused connection tried again.

        Raises:
            ConfigurationError: the backend only stores.
            BackendClosed, WrongEventLoop: as ``check``.
        """
        if not self._reads:
            raise ConfigurationError("this backend is store_only: it cannot wait for results, and has no reply_to")
        self.check()
        self.sessions.ask()

    def _check_place(self) -> None:
        if self._loop is None or asyncio._get_running_loop() is self._loop:
            return  # a loop that was running when the process was forked is not running in the child
        if os.getpid() != self._pid:
            raise WrongEventLoop("the backend belongs to the process that opened it; open another one after the fork")
        if self._loop.is_closed():
            raise WrongEventLoop("the event loop that the backend was opened in is closed; open another backend")
        raise WrongEventLoop(
            "the backend belongs to the event loop and thread that opened it; open one in each, or hand the call "
            "over with asyncio.run_coroutine_threadsafe"
        )

    async def open(self) -> None:
        """Start, and return when the first session can be used. Opening twice is no error."""
        self._check_not_closed()
        self._check_place()
        if self._root is None:
            self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
            self._root = asyncio.create_task(self._run(), name="aioresults")
            self._root.add_done_callback(self._ended)
        self._opening += 1
        try:
            await self.sessions.wait(self._connect_timeout)
            if self._reads:
                await self._reader.caught_up(CATCH_UP_TIMEOUT)
        except BaseException:
            if self._state is State.NEW and self._opening == 1:  # others may go on to open it
                await self._stop()
            raise
        finally:
            self._opening -= 1
        self._check_not_closed()  # meanwhile
        self._state = State.OPEN

    def _check_not_closed(self) -> None:
        if self._state is State.CLOSED:
            raise BackendClosed("the backend is closed, and cannot be opened again")

    async def _prepare(self, session: Session) -> None:
        await self._hooks.prepare(session)
        if self._reads:
            await self._reader.start(session)

    async def _run(self) -> None:
        async with aclosing(self.sessions.live()) as live:
            async for session in live:
                if self._reads:
                    await self._reader.run(session)
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
        self.sessions.end(failure)
        self.waiters.fail_all(failure)

    async def to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, which goes on when the caller is cancelled."""
        task = asyncio.create_task(work)
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)
        await asyncio.shield(task)

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
        outboxes = (self.outbox, self.groups.outbox)
        try:
            await self._finish(outboxes)
        finally:  # whatever a class of the user's own has raised
            await asyncio.gather(*(outbox.stop() for outbox in outboxes))
            closed = BackendClosed("the backend was closed")
            self.sessions.end(closed)
            self.waiters.fail_all(closed)
            await self._stop()
            await self._reader.stop(closed)

    async def _finish(self, outboxes: Sequence[Outbox]) -> None:
        session = self.sessions.current
        reason = "there is no connection" if session is None else ""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if session is not None:
                    await asyncio.gather(*(outbox.flush() for outbox in outboxes))
                    if self._reads:
                        await self._reader.finish(session)
        except (TimeoutError, AioResultsError) as error:
            reason = str(error) or "not in time"
        if any(outboxes):
            self._events.emit(Unconfirmed(sum(map(len, outboxes)), reason))
        elif reason and self._reads and self._reader.has_to_delete:
            self._events.emit(QueuesLeft(reason))

    async def _stop(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([root])  # not gather, which would cancel it once more with its caller

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures: plain values, cheap. From another thread, or after a fork, they are those of the moment."""
        session = self.sessions.current
        return {
            "open": self.is_open,
            "connected": session is not None,
            "blocked": session is not None and session.blocked is not None,
            "last_error": str(self.sessions.last_error) if session is None else "",
            "sessions": self.sessions.count,
            "failed_connects": self.sessions.failures,
            "blocks": self.sessions.blocks,
            "waiting": len(self.waiters),
            "cached": self.waiters.cached,
            "unclaimed": len(self._unclaimed),
            "unclaimed_bytes": self._unclaimed.bytes,
            "evicted": self._unclaimed.evicted,
            "late": self._unclaimed.late,
            "redundant": self.waiters.redundant,
            **self._reader.stats(),
            "unconfirmed": len(self.outbox),
            "stored": self.outbox.stored,
            "messages": self.outbox.messages,
            "retried": self.outbox.retried,
            "unrouted": self.outbox.unrouted,
            "not_routed": self.outbox.not_routed,
        }
