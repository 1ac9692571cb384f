"""A result backend for taskiq over RabbitMQ (``aioresults[taskiq]``).

::

    broker = AioPikaBroker(URL).with_result_backend(AMQPResultBackend(URL))

Results are kept in a stream that every process may read again and again; with ``keep_results=False`` each is in a
queue of its own, and gone when it was read. A return value is what any other ``AMQPBackend`` reads as the result of
the task, too, and an error its failure; what only taskiq knows travels beside it.

taskiq waits by asking ``is_result_ready`` again and again. Here that asks the broker once at most: afterwards this
process is told, and a broker that is away meanwhile ends no wait.

A value that cannot be written, or is too large, is stored as the failure of its task: who waits is told.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultBackendError, ResultGetError, ResultIsReadyError, ResultSetError

from aioresults import (
    AioResultsError,
    AMQPBackend,
    BackendClosed,
    EncodeError,
    QueuePerTask,
    ResultMeta,
    ResultStream,
    ResultTimeout,
    ResultTooLarge,
    states,
)

_Return = TypeVar("_Return")
_Value = TypeVar("_Value")

#: The state of a progress report. Not the one that the user gives: his SUCCESS is not the end of a task.
PROGRESS: Final = "PROGRESS"
#: Seconds that this process stays told of a task that nobody asks for any more.
LEASE: Final = 60.0
#: Seconds to wait for a result that is on its way back into its queue.
TAKE_TIMEOUT: Final = 5.0
#: Tasks whose last progress, or whose end, is remembered.
REMEMBERED: Final = 10_000


class ResultIsMissingError(ResultGetError):
    """There is no result of this task: it has not ended, it was read before, or it has expired."""

    __template__ = "There is no result of task {task_id}"
    task_id: str


class _Recent(Generic[_Value]):
    """What was kept last, up to ``REMEMBERED``."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, _Value] = OrderedDict()

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._values

    def get(self, task_id: str) -> _Value | None:
        return self._values.get(task_id)

    def put(self, task_id: str, value: _Value) -> None:
        self._values[task_id] = value
        self._values.move_to_end(task_id)
        if len(self._values) > REMEMBERED:
            self._values.popitem(last=False)

    def pop(self, task_id: str) -> _Value | None:
        return self._values.pop(task_id, None)


class _Ended(Exception):
    """Ends a wait, which has then taken nothing."""


class _Watch:
    """Waits for the end of one task without taking its result, until nobody has asked for ``LEASE`` seconds.

    Args:
        told: is told of every report, and raises ``_Ended`` at the ready one.
    """

    def __init__(self, reader: AMQPBackend, task_id: str, told: Callable[[ResultMeta], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.renew()
        self.task = asyncio.create_task(self._run(reader, task_id, told))

    def renew(self) -> None:
        """Somebody asks."""
        self._until = self._loop.time() + LEASE

    async def stop(self) -> None:
        """Wait no longer."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self, reader: AMQPBackend, task_id: str, told: Callable[[ResultMeta], None]) -> None:
        while (left := self._until - self._loop.time()) > 0:
            try:
                await reader.get_many([task_id], left, on_message=told)
            except _Ended:
                return
            except ResultTimeout:
                continue  # or not, if nobody has asked meanwhile
            except AioResultsError:
                return  # forgotten, say: who asks next looks again


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
        routing = stream if keep_results else QueuePerTask()
        self._keep_results = keep_results
        self._make = partial(AMQPBackend, url, routing=routing, expires=result_ex_time, **options)
        self._new()
        #: The last progress that was set here, of tasks that have not ended.
        self._progress: _Recent[dict[str, Any]] = _Recent()
        #: The last progress that came here of tasks with a queue of their own, where it is no more.
        self._seen: _Recent[dict[str, Any]] = _Recent()
        #: Those with a queue of their own that this process was told have ended.
        self._ended: _Recent[bool] = _Recent()
        self._watches: dict[str, _Watch] = {}
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
            await watch.stop()
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
            self._progress.put(task_id, record)

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
        """Whether a task has ended. Takes nothing, and asks the broker once at most, however often it is called."""
        with _as(ResultIsReadyError):
            reader = await self._opened(self._reader)
            if task_id in self._ended:
                return True
            if (watch := self._watches.get(task_id)) is not None:
                watch.renew()
                return False
            if (await reader.get_task_meta(task_id)).is_ready:
                self._end(task_id)
                return True
            self._watch(reader, task_id)
            return False

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        """Return how far a task is, or was before its end; None when it never said."""
        with _as(ResultGetError):
            record = self._progress.get(task_id)
            if record is None:
                meta = await (await self._opened(self._reader)).get_task_meta(task_id)
                record = meta.result if meta.status == PROGRESS else _record(meta).get("progress")
            if record is None:
                record = self._seen.get(task_id)
            return None if record is None else TaskProgress[Any].model_validate(record)

    def _watch(self, reader: AMQPBackend, task_id: str) -> None:
        if task_id not in self._watches:  # another call may have come first while this one looked
            watch = self._watches[task_id] = _Watch(reader, task_id, self._told)
            watch.task.add_done_callback(lambda _: self._watches.pop(task_id))

    def _told(self, meta: ResultMeta) -> None:
        if meta.is_ready:
            self._end(meta.task_id)
            raise _Ended
        if meta.status == PROGRESS and not self._keep_results:
            self._seen.put(meta.task_id, meta.result)

    def _end(self, task_id: str) -> None:
        if not self._keep_results:  # what a stream holds is asked of no broker
            self._ended.put(task_id, True)

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
        # What a watch has let go a moment ago may not be back in its queue; nor is it while the broker is away.
        told = self._ended.pop(task_id)
        while True:
            try:
                return await reader.consume(task_id, TAKE_TIMEOUT if told else 0)
            except ResultTimeout:
                if not told or not (await reader.get_task_meta(task_id)).is_ready:
                    return None


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


@contextmanager
def _as(kind: type[ResultBackendError]) -> Iterator[None]:
    """Raise what goes wrong as ``kind``; ``ValueError`` is what pydantic raises."""
    try:
        yield
    except (AioResultsError, ValueError) as error:
        raise kind from error
