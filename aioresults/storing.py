"""The half of a backend that stores: what a worker calls."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from aioresults import states, validation
from aioresults.background.lifetime import Lifetime
from aioresults.errors import AioResultsError, TaskRevoked, WrongEventLoop
from aioresults.recording import Recording
from aioresults.results import ResultMeta
from aioresults.serialization.report_codec import ReportCodec
from aioresults.stored import Stored, coroutine_function


class Storing:
    """``store_result``, and Celery's named ways to call it, which raise what it raises."""

    _lifetime: Lifetime
    _reports: ReportCodec

    def destination_for(self, task_id: str, request: Any | None = None) -> tuple[str, str]:
        """Return routing key and correlation id of a report about ``task_id``."""
        raise NotImplementedError

    @coroutine_function
    def store_result(
        self,
        task_id: str,
        result: Any,
        status: str = states.SUCCESS,
        traceback: str | None = None,
        request: Any | None = None,
        **extra: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Store one state report; awaited, return ``result`` when the broker has confirmed it.

        The report is on its way when the call returns, and what is returned is a future: many stores may be awaited
        together without a task for each. ``asyncio.wait`` alone refuses it, because it is a coroutine as well, for
        task groups: give it ``asyncio.create_task(...)`` of it, or use ``asyncio.gather``.

        Args:
            result: the return value, an exception for FAILURE, RETRY and REVOKED, or any report.
            status: a known state, or your own, such as ``PROGRESS``.
            traceback: the text of a traceback.
            request: a ``Request``, or anything with some of its attributes.
            extra: further fields of the report.

        Raises, when it is awaited:
            EncodeError: the serializer cannot write it; nothing was sent.
            StoreError: it cannot be stored: too large, or not routed.
            BrokerUnavailable: not stored within the retry policy, or nobody knows; the last error is the cause.
            ChannelError: the broker refused the queue, for example one that exists with other arguments.
            BackendClosed: the backend is not open.
            WrongEventLoop: the backend belongs to another event loop.
            ConfigurationError: an argument cannot be, or ``request`` has no ``reply_to`` where the routing needs one.

        Cancelled: withdrawn if it was not sent yet, else stored or unknown, never half.
        """
        try:
            self._lifetime.check()
            routing_key, correlation_id = self.destination_for(task_id, request)
            validation.non_empty("a status", status)
            document = self._reports.write(
                ResultMeta.of(task_id, result, status, traceback, request, extra), correlation_id
            )
        except WrongEventLoop:
            # No future here, but a coroutine that may be handed over to where the backend belongs.
            return self._store_there(task_id, result, status, traceback, request, **extra)
        except AioResultsError as error:
            stored = Stored(task_id, "", b"", None)
            stored.set_exception(error)
            return stored
        stored = Stored(task_id, correlation_id, document, result)
        self._lifetime.outbox.put(routing_key, stored)
        return stored

    async def _store_there(self, *args: Any, **extra: Any) -> Any:
        self._lifetime.check()
        return await self.store_result(*args, **extra)

    def recording(self, task_id: str, request: Any | None = None) -> Recording:
        """Return an async context manager that stores STARTED, and then what came of its body."""
        return Recording(self, task_id, request)

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
