"""One lifetime of a backend, from ``open`` to ``close``, and its background work.

The work is one root task, because ``open`` and ``close`` may be called from different tasks (fixtures, lifespans). A
task group that the caller enters would break there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from enum import Enum
from typing import Any, Final, Protocol

import anyio

from aioresults import messaging
from aioresults.errors import (
    AioResultsError,
    BackendClosed,
    BrokerUnavailable,
    PreconditionFailed,
    WrongEventLoop,
)
from aioresults.events import QueuesLeft, Unconfirmed
from aioresults.groups import Groups
from aioresults.routing.base import Overrides, ReaderParts, Routing
from aioresults.sessions.outbox import Outbox
from aioresults.sessions.sessions import Session, Sessions
from aioresults.settings import BackendSettings
from aioresults.transport import Channel

logger: Final = logging.getLogger("aioresults")

#: Seconds that ``open`` gives a reader to catch up with what is already stored.
CATCH_UP_TIMEOUT: Final = 1.0
#: Seconds that ``close`` waits for what is on its way.
CLOSE_TIMEOUT: Final = 5.0


class Lifecycle(Enum):
    """Where a backend stands between ``open`` and ``close``; the value completes the text of an error."""

    NEW = "was not opened yet"
    OPEN = "is open"
    CLOSED = "is closed"


class RuntimeOwner(Overrides, Protocol):
    """What a lifetime asks of its backend."""

    Exchange: type[messaging.Exchange]
    Queue: type[messaging.Queue]

    def on_reply_declare(self, task_id: str) -> list[messaging.Queue]:
        """Return the queues to declare when a report about ``task_id`` finds none."""

    async def revive(self, channel: Channel) -> None:
        """Declare what the user's own code needs; called before a session is used."""


def own_queue(queue: messaging.Queue, owner: RuntimeOwner) -> messaging.Queue:
    """Return a queue, and its exchange, as instances of the backend's own classes."""
    if type(queue.exchange) is not owner.Exchange:
        return owner.Queue(**{**queue.as_dict(), "exchange": owner.Exchange.of(queue.exchange)})
    return owner.Queue.of(queue)


class Runtime:
    """Connects the parts of one lifetime, and runs them from ``open`` to ``close``.

    It prepares each session (``SessionOwner``), and tells the outbox where to publish (``Destinations``).

    Args:
        revives: the backend overrides ``revive``. It is called only then: its channel needs a connection of its own.
    """

    def __init__(self, settings: BackendSettings, routing: Routing, backend: RuntimeOwner, *, revives: bool) -> None:
        self._settings = settings
        self._backend = backend
        self._revives = revives
        self._routing = routing
        self._events = settings.events
        self.exchange: Final = routing.exchange.name
        self.sessions: Final = Sessions(
            settings.transport, self, settings.events,
            store_only=settings.store_only,
            connect_timeout=settings.connect_timeout,
            rpc_timeout=settings.rpc_timeout,
        )  # fmt: skip
        self.outbox: Final = Outbox(
            self.sessions, settings.codec, self, settings.events,
            policy=settings.retry_policy, unroutable=settings.unroutable_policy, producer=backend.Producer,
        )  # fmt: skip
        self.groups: Final = Groups(self.sessions, settings, backend.Producer)
        self.reader: Final = routing.reader(ReaderParts(self.sessions, self.outbox, backend, settings))
        self._reads = not settings.store_only
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._root: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._opening = 0
        self._detached: set[asyncio.Task[None]] = set()
        self._state = Lifecycle.NEW

    def check(self) -> None:
        """Raise unless the backend is open in this event loop.

        Raises:
            BackendClosed: it is not open, or was closed.
            WrongEventLoop: it was opened in another event loop or process.
        """
        if self._state is not Lifecycle.OPEN:
            raise BackendClosed(f"the backend {self._state.value}")
        self._check_place()

    def _check_place(self) -> None:
        if self._loop is None or asyncio._get_running_loop() is self._loop:
            return  # the loop that ran at a fork does not run in the child
        if os.getpid() != self._pid:
            raise WrongEventLoop("the backend belongs to the process that opened it; open another after the fork")
        if self._loop.is_closed():
            raise WrongEventLoop("the event loop in which the backend was opened is closed; open another backend")
        raise WrongEventLoop(
            "the backend belongs to the event loop and thread that opened it; open one backend in each, or pass the "
            "call to that loop with asyncio.run_coroutine_threadsafe"
        )

    # Opening and closing

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called; the next ``open`` of the backend then begins another lifetime."""
        return self._state is Lifecycle.CLOSED

    async def open(self) -> None:
        """Start, and return when the first session can be used. Opening twice is no error."""
        self._check_place()
        if self._root is None:
            self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
            self._root = asyncio.create_task(self._run(), name="aioresults")
            self._root.add_done_callback(self._ended)
        self._opening += 1
        try:
            await self.sessions.wait(self._settings.connect_timeout)
            if self._reads:
                await self.reader.caught_up(CATCH_UP_TIMEOUT)
        except BaseException:
            if self._state is Lifecycle.NEW and self._opening == 1:  # otherwise another caller still opens it
                await self._end(flush=False)
            raise
        finally:
            self._opening -= 1
        if self._state is Lifecycle.CLOSED:
            raise BackendClosed("the backend was closed while it was opened")
        self._state = Lifecycle.OPEN

    async def _run(self) -> None:
        async with aclosing(self.sessions.live()) as live:
            async for session in live:
                if self._reads:
                    await self.reader.run(session)
                else:
                    await asyncio.wait([session.lost])

    def _ended(self, root: asyncio.Task[None]) -> None:
        if root.cancelled() or (error := root.exception()) is None:
            return
        # A defect of this package: an error is better than a wait without end.
        logger.error("the background task failed", exc_info=error)
        self._state = Lifecycle.CLOSED
        failure = BackendClosed(f"the background task failed: {error!r}")
        failure.__cause__ = error
        self.sessions.end(failure)
        self.reader.waiters.fail_all(failure)

    async def to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``; it continues when the caller is cancelled."""
        task = asyncio.create_task(work)
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Flush within ``CLOSE_TIMEOUT``, end every wait with ``BackendClosed``, and disconnect.

        Safe to call twice, from several tasks at once, and in a cancelled scope: it goes on to its end.
        """
        self._check_place()
        await self._end(flush=True)

    async def closed(self) -> None:
        """Return when the ``close`` that was called before has ended."""
        if self._closing is not None and self._loop is asyncio.get_running_loop():
            await asyncio.shield(self._closing)

    async def _end(self, *, flush: bool) -> None:
        if self._closing is None:
            self._state = Lifecycle.CLOSED
            self._closing = asyncio.create_task(self._close(flush), name="aioresults close")
        with anyio.CancelScope(shield=True):
            await asyncio.shield(self._closing)

    async def _close(self, flush: bool) -> None:
        outboxes = (self.outbox, self.groups.outbox)
        try:
            if flush:
                await self._flush(outboxes)
        finally:  # even if a class of the user has raised
            await asyncio.gather(*(outbox.stop() for outbox in outboxes))
            closed = BackendClosed("the backend was closed")
            self.sessions.end(closed)
            self.reader.waiters.fail_all(closed)
            await self._stop()
            await self.reader.stop(closed)

    async def _flush(self, outboxes: Sequence[Outbox]) -> None:
        session = self.sessions.current
        reason = "there is no connection" if session is None else ""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if session is not None:
                    await asyncio.gather(*(outbox.flush() for outbox in outboxes))
                    if self._reads:
                        await self.reader.finish(session)
        except (TimeoutError, AioResultsError) as error:
            reason = str(error) or f"not done within {CLOSE_TIMEOUT:g} s"
        if any(outboxes):
            self._events.emit(Unconfirmed(sum(map(len, outboxes)), reason))
        elif reason and self._reads and self.reader.has_to_delete:
            self._events.emit(QueuesLeft(reason))

    async def _stop(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([root])  # not gather: it would cancel the task again together with its caller

    # For the sessions

    async def prepare(self, session: Session) -> None:
        """Declare what the routing and the user's code need, and start the reader."""
        await self.declare(session)
        if self._revives:
            await self._backend.revive(await session.channel())
        if self._reads:
            await self.reader.start(session)

    def refused(self, error: AioResultsError) -> None:
        """End every wait: the broker refuses this client."""
        self.reader.waiters.fail_all(error)

    # Where the outbox publishes

    def coalesces(self, routing_key: str) -> bool:
        """Whether many reports for this routing key may travel in one message."""
        return self._routing.coalesces(routing_key)

    def queues_for(self, task_id: str) -> Sequence[messaging.Queue]:
        """Return the queues to declare when a report of a task finds none."""
        return self._backend.on_reply_declare(task_id)

    async def declare(self, session: Session) -> None:
        """Declare what the routing needs."""
        for entity in self._routing.topology():
            if isinstance(entity, messaging.Queue):
                own: messaging.Exchange | messaging.Queue = own_queue(entity, self._backend)
            else:
                own = self._backend.Exchange.of(entity)
            try:
                await session.run(messaging.declaring(own), publishing=True)
            except (PreconditionFailed, BrokerUnavailable) as error:
                explained = self._routing.explain(error)
                if explained is error:
                    raise
                raise explained from error

    async def published(self, session: Session, task_id: str) -> None:
        """Do nothing: only the reader uses the queue of a report."""

    # Figures

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures: plain values, cheap to get. From another thread or after a fork they may be out of date."""
        session = self.sessions.current
        return {
            "open": self._state is Lifecycle.OPEN,
            "connected": session is not None,
            "blocked": session is not None and session.blocked is not None,
            "last_error": str(self.sessions.last_error) if session is None else "",
            "sessions": self.sessions.count,
            "failed_connects": self.sessions.failures,
            "blocks": self.sessions.blocks,
            **self.reader.stats(),
            "unconfirmed": len(self.outbox),
            "stored": self.outbox.stored,
            "messages": self.outbox.messages,
            "retried": self.outbox.retried,
            "unrouted": self.outbox.unrouted,
            "not_routed": self.outbox.not_routed,
        }
