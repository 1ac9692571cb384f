"""``recording``: stores the states of a task while its body runs."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, Self


class StateStore(Protocol):
    """What a recording asks of ``AMQPBackend``, where each call is explained."""

    async def mark_as_started(self, task_id: str, request: Any | None = None, **meta: Any) -> None:
        """Store STARTED."""

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

    Made by ``AMQPBackend.recording``. A failure is stored with its traceback, and then raised. An error while storing
    the outcome is raised too.

    When the body is cancelled, no ready report is stored, so the task may run again; the cancellation continues.
    """

    def __init__(self, backend: StateStore, task_id: str, request: Any | None) -> None:
        self._backend = backend
        self._task_id = task_id
        self._request = request
        #: What the task returns; set by the body.
        self.result: Any = None

    async def __aenter__(self) -> Self:
        await self._backend.mark_as_started(
            self._task_id, request=self._request, pid=os.getpid(), hostname=platform.node()
        )
        return self

    async def progress(self, meta: Any, status: str = "PROGRESS") -> None:
        """Store a report that is not ready.

        Example::

            async with backend.recording(task_id, request) as recording:
                await recording.progress({"percent": 50})

        Args:
            meta: any value that the serializer can write.
            status: the state of the report.

        Errors and cancellation: as ``AMQPBackend.store_result``.
        """
        await self._backend.store_result(self._task_id, meta, status, request=self._request)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._backend.mark_as_done(self._task_id, self.result, request=self._request)
        elif isinstance(error, Exception):
            text = "".join(traceback.format_exception(error))
            await self._backend.mark_as_failure(self._task_id, error, text, request=self._request)
