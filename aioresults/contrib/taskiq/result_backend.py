"""The result backend, as taskiq calls it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultBackendError, ResultGetError, ResultIsReadyError, ResultSetError

from aioresults import (
    AioResultsError,
    AMQPBackend,
    BackendClosed,
    BrokerRefused,
    BrokerUnavailable,
    EncodeError,
    QueuePerTask,
    ResultForgotten,
    ResultMeta,
    ResultStream,
    ResultTimeout,
    ResultTooLarge,
    states,
)
from aioresults.contrib.taskiq.ended import Ended
from aioresults.contrib.taskiq.latest_results import LatestResults
from aioresults.contrib.taskiq.lru_cache import LRUCache
from aioresults.contrib.taskiq.watch import TaskWatch

_Return = TypeVar("_Return")

#: The state of a progress report. Not the one that the user gives: his SUCCESS is not the end of a task.
PROGRESS: Final = "PROGRESS"
#: Seconds to wait for a result that this process was told of: until it is back in its queue, and until the broker is.
RETURN_TIMEOUT: Final = 5.0
OUTAGE_TIMEOUT: Final = 30.0
#: Tasks of which this process remembers what it saw.
REMEMBERED: Final = 10_000


class ResultIsMissingError(ResultGetError):
    """There is no result of this task: it has not ended, it was read before, or it has expired."""

    __template__ = "There is no result of task {task_id}"
    task_id: str


class AMQPResultBackend(AsyncResultBackend[_Return]):
    """Stores and reads the results of taskiq's tasks.

    Args:
        url: as for ``AMQPBackend``.
        keep_results: keep results in ``stream``, for every process and any number of reads; otherwise each is in a
            queue of its own, for the first that reads it.
        result_ex_time: seconds that results are kept.
        stream: the stream, with its name and retention; the same in all processes of a project.
        options: further arguments of ``AMQPBackend``, such as ``serializer``, ``compression`` or ``signing_key``.

    Raises ``ConfigurationError``, as that does. Calls raise ``ResultSetError``, ``ResultGetError`` and
    ``ResultIsReadyError`` with the cause. Errors of tasks are written and rebuilt by taskiq, as ever.

    ``startup`` opens one connection, to store; so does the first result where nobody called it, as the InMemoryBroker
    of taskiq 0.12 does not. What it takes to read is opened when something is first read, so that workers read no
    stream.
    """

    def __init__(
        self,
        url: str = "amqp://guest:guest@localhost/",
        keep_results: bool = True,
        result_ex_time: float | None = 86400,
        *,
        stream: ResultStream = ResultStream("aioresults.taskiq"),  # noqa: B008  # frozen
        **options: Any,
    ) -> None:
        self._keep_results = keep_results
        routing = stream if keep_results else QueuePerTask()
        self._make = partial(LatestResults, url, routing=routing, expires=result_ex_time, **options)
        self._new()
        #: The last progress that was set here, of tasks that have not ended.
        self._progress: LRUCache[dict[str, Any]] = LRUCache(REMEMBERED)
        #: The last progress that came here of tasks with a queue of their own, where it is no more.
        self._seen: LRUCache[dict[str, Any]] = LRUCache(REMEMBERED)
        self._ended = Ended()
        self._watches: dict[str, TaskWatch] = {}
        self._is_shut_down = False

    def _new(self) -> None:
        self._store = self._make(store_only=True)
        # What was read of a queue is gone, here as in every other process.
        self._reader = self._make() if self._keep_results else self._make(max_cached_results=0)

    async def startup(self) -> None:
        """Connect."""
        self._is_shut_down = False
        await self._store.open()

    async def shutdown(self) -> None:
        """Store what is on its way, and disconnect; ``startup`` may follow, in another event loop as well."""
        self._is_shut_down = True
        for watch in tuple(self._watches.values()):
            watch.end()
        await self._reader.close()
        await self._store.close()
        self._new()

    # Storing

    async def set_result(self, task_id: str, result: TaskiqResult[_Return]) -> None:
        """Store what came of a task; returns when the broker has confirmed it.

        Raises:
            ResultSetError: it is not stored. If its value is the reason, a failure of the task is, which says so.
        """
        with _as(ResultSetError):
            progress = self._progress.pop(task_id)
            try:
                await self._set(task_id, result, progress)
            except (EncodeError, ResultTooLarge) as error:
                # taskiq's worker logs this, acknowledges the task and goes on: nothing else would end a wait.
                failed = {"is_err": True, "return_value": None, "error": EncodeError(str(error)), "log": None}
                await self._set(task_id, result.model_copy(update=failed), progress)
                raise

    async def _set(self, task_id: str, result: TaskiqResult[_Return], progress: dict[str, Any] | None) -> None:
        store = await self._opened(self._store)
        record = _dump(result)
        record["progress"] = progress
        if result.is_err:
            error = result.error or Exception("the task failed")
            text = "".join(traceback.format_exception(error))
            await store.store_result(task_id, error, states.FAILURE, text, taskiq=record)
        else:
            value = record.pop("return_value")
            await store.store_result(task_id, value, taskiq=record)

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        """Store how far a task is, in place of what was stored before."""
        with _as(ResultSetError):
            record = _dump(progress)
            await (await self._opened(self._store)).store_result(task_id, record, PROGRESS)
            self._progress.keep(task_id, record)

    # Reading

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[_Return]:
        """Return the result of a task, now; with ``keep_results=False`` it is then gone.

        Args:
            with_logs: the task's log, too.

        Raises:
            ResultIsMissingError: there is none.
        """
        with _as(ResultGetError):
            meta = await self._ready(task_id)
            if meta is None:
                raise ResultIsMissingError(task_id=task_id)
            record = {"return_value": meta.result, **_record(meta)}
            if not with_logs:
                record["log"] = None
            return TaskiqResult[_Return].model_validate(record)

    async def is_result_ready(self, task_id: str) -> bool:
        """Whether there is a result to be got. Takes nothing, and asks the broker once at most.

        While the broker is away that is what is known here; False when nothing is, and for a result that is in a queue.
        With ``keep_results=False``, what was there once is asked for again, ever more rarely.
        """
        with _as(ResultIsReadyError):
            if (watch := self._watches.get(task_id)) is not None:
                watch.renew()
                return watch.is_ready
            try:
                reader = await self._opened(self._reader)
                if (is_there := self._ended.is_there(task_id)) is not None:
                    return is_there and bool(reader.stats()["connected"])
                ready = (await reader.get_task_meta(task_id)).is_ready
                if (is_there := self._ended.is_there(task_id)) is not None:
                    return is_there  # another call has found it meanwhile, or taken it
            except BrokerRefused:
                raise
            except BrokerUnavailable:
                self._watch(task_id)
                return False  # as far as is known
            if not self._keep_results and (ready or task_id in self._ended):
                self._ended.note(task_id, is_there=ready)
            elif not ready:
                self._watch(task_id)
            return ready

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        """Return how far a task is, or was before its end; None when it never said."""
        with _as(ResultGetError):
            record = self._progress.get(task_id)
            if record is None:
                record = _progress(await (await self._opened(self._reader)).get_task_meta(task_id))
            if record is None:
                record = self._seen.get(task_id)
            return None if record is None else TaskProgress[Any].model_validate(record)

    def _watch(self, task_id: str) -> None:
        # Another call may have come first while this one looked; and nothing is open while the broker was never there.
        if task_id not in self._watches and task_id not in self._ended and self._reader.stats()["open"]:
            self._watches[task_id] = TaskWatch(self._reader, task_id, self._watch_ended)

    def _watch_ended(self, watch: TaskWatch) -> None:
        self._watches.pop(watch.task_id, None)
        if self._keep_results or watch.latest is None:
            return
        self._see(watch.latest)
        if watch.is_ready:
            self._ended.note(watch.task_id, is_there=True)

    def _see(self, meta: ResultMeta) -> None:
        """Keep the progress that a report tells of, which its queue may not have any more."""
        if (record := _progress(meta)) is not None:
            self._seen.keep(meta.task_id, record)

    async def _opened(self, backend: AMQPBackend) -> AMQPBackend:
        if self._is_shut_down:
            raise BackendClosed("the result backend is shut down")
        if not backend.stats()["open"]:
            await backend.open()
        return backend

    async def _ready(self, task_id: str) -> ResultMeta | None:
        reader = await self._opened(self._reader)
        if self._keep_results:
            meta = await reader.get_task_meta(task_id)
            return meta if meta.is_ready else None
        watch = self._watches.get(task_id)
        # A watch that was told this very moment is not noted yet.
        was_there = self._ended.is_there(task_id) or (watch is not None and watch.is_ready)
        taken = await self._take(reader, task_id, was_there)
        if taken is not None or was_there:
            self._ended.note(task_id, is_there=False)
        if taken is not None:
            self._see(taken)
            watch = self._watches.get(task_id)  # or the one of a call that looked meanwhile
            if watch is not None:
                watch.latest = None
                watch.end()
        return taken

    async def _take(self, reader: AMQPBackend, task_id: str, was_there: bool) -> ResultMeta | None:
        # One look first: of several results in a queue it finds the latest, and where there is no queue it makes none.
        sessions = reader.stats()["sessions"]
        try:
            return await reader.consume(task_id, 0)
        except ResultTimeout:
            if not was_there:
                return None
            taking = self._take_returning(reader, task_id, sessions)
        except BrokerUnavailable:
            if not was_there:
                raise
            taking = self._take_after_outage(reader, task_id)
        with suppress(ResultForgotten):  # another process has taken it
            return await taking
        return None

    async def _take_returning(self, reader: AMQPBackend, task_id: str, sessions: object) -> ResultMeta | None:
        """Take a result that is on its way back to its queue; that session may be lost meanwhile."""
        try:
            return await reader.consume(task_id, RETURN_TIMEOUT)
        except ResultTimeout:
            stats = reader.stats()
            if stats["connected"] and stats["sessions"] == sessions:
                return None
        return await self._take_after_outage(reader, task_id)

    async def _take_after_outage(self, reader: AMQPBackend, task_id: str) -> ResultMeta | None:
        """Take a result when the broker is back.

        Raises:
            BrokerUnavailable: it is not, in time.
        """
        try:
            return await reader.consume(task_id, OUTAGE_TIMEOUT)
        except ResultTimeout:
            stats = reader.stats()
            if stats["connected"]:
                return None
            raise BrokerUnavailable(f"no connection to {reader.as_uri()}: {stats['last_error']}") from None


def _dump(model: BaseModel) -> dict[str, Any]:
    """Return what taskiq makes of a value for JSON; ``EncodeError`` for whatever that raises: it may be users' code."""
    try:
        return model.model_dump(mode="json")
    except Exception as error:
        raise EncodeError(f"taskiq cannot write this value: {type(error).__name__}: {error}") from error


def _record(meta: ResultMeta) -> dict[str, Any]:
    """Return what only taskiq knows; made up for a report that taskiq did not write."""
    record = meta.extra.get("taskiq")
    if isinstance(record, dict):
        return record
    failed = {"return_value": None, "error": meta.result} if meta.is_failure else {}
    return {"is_err": meta.is_failure, "execution_time": 0.0, **failed}


def _progress(meta: ResultMeta) -> dict[str, Any] | None:
    """Return the progress that a report tells of."""
    record: dict[str, Any] | None = meta.result if meta.status == PROGRESS else _record(meta).get("progress")
    return record


@contextmanager
def _as(kind: type[ResultBackendError]) -> Iterator[None]:
    """Raise what goes wrong as ``kind``; ``ValueError`` is what pydantic raises."""
    try:
        yield
    except (AioResultsError, ValueError) as error:
        raise kind from error
