"""The named ways to store a state, as in Celery's base backend."""

from __future__ import annotations

from typing import Any

from aioresults import states
from aioresults.errors import TaskRevoked


class Marks:
    """``mark_as_*`` on top of ``store_result``; they raise what it raises."""

    async def store_result(
        self,
        task_id: str,
        result: Any,
        status: str = states.SUCCESS,
        traceback: str | None = None,
        request: Any | None = None,
        **extra: Any,
    ) -> Any:
        """Store one state report; to be overridden."""
        raise NotImplementedError

    async def mark_as_started(self, task_id: str, request: Any | None = None, **meta: Any) -> None:
        """Store STARTED; ``meta`` is what it reports, by Celery's custom ``pid`` and ``hostname``."""
        await self.store_result(task_id, meta, states.STARTED, request=request)

    async def mark_as_done(
        self, task_id: str, result: Any, request: Any | None = None, state: str = states.SUCCESS
    ) -> None:
        """Store SUCCESS."""
        await self.store_result(task_id, result, state, request=request)

    async def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any | None = None,
        state: str = states.FAILURE,
    ) -> None:
        """Store FAILURE with the exception, and the text of its traceback."""
        await self.store_result(task_id, exc, state, traceback, request)

    async def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException | None,
        traceback: str | None = None,
        request: Any | None = None,
        state: str = states.RETRY,
    ) -> None:
        """Store RETRY with the exception that made the task try again, if one did."""
        await self.store_result(task_id, exc, state, traceback, request)

    async def mark_as_revoked(
        self, task_id: str, reason: str = "revoked", request: Any | None = None, state: str = states.REVOKED
    ) -> None:
        """Store REVOKED with the reason: ``revoked``, ``expired`` or ``terminated``."""
        await self.store_result(task_id, TaskRevoked(reason), state, request=request)
