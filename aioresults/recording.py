"""``recording``: stores the states of a task while its body runs."""

from __future__ import annotations

import asyncio
import os
import platform
import traceback
from collections import deque
from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Any, Final, Protocol, Self

from aioresults import states
from aioresults.errors import EncodeError, ResultNotRouted, ResultTooLarge
from aioresults.events import Events, Unreported
from aioresults.messaging.message import WRITTEN

#: Reports of one recording that may be on their way before the next one waits.
MAX_UNCONFIRMED: Final = 100


class StateStore(Protocol):
    """What a recording asks of ``AMQPBackend``, where each call is explained."""

    def store_result(
        self, task_id: str, result: Any, status: str, *, request: Any | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Store one report."""

    async def mark_as_done(self, task_id: str, result: Any, request: Any | None = None) -> None:
        """Store SUCCESS."""

    async def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: str | None = None, request: Any | None = None
    ) -> None:
        """Store FAILURE."""


class Recording:
    """Stores STARTED on entry, and on exit the outcome of the body: SUCCESS with ``result``, or FAILURE.

    Example::

        async with backend.recording(task_id, request) as recording:
            recording.result = 42

    Made by ``AMQPBackend.recording``.

    - STARTED and progress are sent and not waited for: a caller that has left holds no worker up. If one cannot be
      stored, an event says so (``Unreported``).
    - A failure is stored with its traceback, and then raised; so is ``SystemExit``.
    - A result that cannot be written, or is too large, is stored as the FAILURE that this is, and then raised.
    - An error while storing the outcome is raised.

    When the body is cancelled, no ready report is stored, so the task may run again; the cancellation continues.
    """

    def __init__(self, backend: StateStore, events: Events, task_id: str, request: Any | None) -> None:
        self._backend = backend
        self._events = events
        self._task_id = task_id
        self._request = request
        #: The reports that are not confirmed yet, oldest first.
        self._unconfirmed: deque[asyncio.Future[Any]] = deque()
        #: What the task returns; set by the body.
        self.result: Any = None

    async def __aenter__(self) -> Self:
        self._send({"pid": os.getpid(), "hostname": platform.node()}, states.STARTED)
        return self

    def progress(self, meta: Any, status: str = "PROGRESS") -> Awaitable[None]:
        """Send a report that is not ready.

        Example::

            async with backend.recording(task_id, request) as recording:
                await recording.progress({"percent": 50})

        The report is on its way when the call returns. Awaiting that takes no time, unless 100 reports of this task are
        not confirmed yet: then it waits until there is room.

        Args:
            meta: any value that the serializer can write.
            status: the state of the report.

        Raises:
            EncodeError, ResultTooLarge: it cannot be stored.
            BackendClosed, WrongEventLoop, ConfigurationError: as ``AMQPBackend.store_result``.

        Cancelling is safe: the report is sent.
        """
        self._send(meta, status)
        while self._unconfirmed and self._unconfirmed[0].done():
            self._unconfirmed.popleft()
        if len(self._unconfirmed) <= MAX_UNCONFIRMED:
            return WRITTEN
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[0].add_done_callback(lambda _: None if room.done() else room.set_result(None))
        return room

    def _send(self, meta: Any, status: str) -> None:
        store = self._backend.store_result(self._task_id, meta, status, request=self._request)
        if not isinstance(store, asyncio.Future):
            store.send(None)  # the backend is of another event loop, and says so
            return
        error = store.exception() if store.done() else None
        if error is not None and not isinstance(error, ResultNotRouted):
            raise error
        self._unconfirmed.append(store)
        store.add_done_callback(lambda done: self._sent(done, status))

    def _sent(self, store: asyncio.Future[Any], status: str) -> None:
        error = None if store.cancelled() else store.exception()
        if error is not None and not isinstance(error, ResultNotRouted):  # that was told of the address
            self._events.emit(Unreported(self._task_id, status, str(error)))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                await self._backend.mark_as_done(self._task_id, self.result, request=self._request)
            except (EncodeError, ResultTooLarge) as unwritable:
                await self._failed(unwritable)
                raise
        elif isinstance(error, (Exception, SystemExit)):
            await self._failed(error)

    async def _failed(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        await self._backend.mark_as_failure(self._task_id, error, text, request=self._request)
