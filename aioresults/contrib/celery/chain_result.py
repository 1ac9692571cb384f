"""A handle on the results of tasks that follow each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

from aioresults.handles import AsyncResult
from aioresults.results import ResultMeta
from aioresults.serialization import convert

T = TypeVar("T")


class ChainResult(AsyncResult[T]):
    """The result of a chain: that of its last task, or the failure of any of them, after which no other runs.

    Its ``parent`` is the result of the task before, and so on, as in Celery.
    """

    __slots__ = ("results",)

    def __init__(self, results: Sequence[AsyncResult[Any]]) -> None:
        parent: AsyncResult[Any] | None = None
        for result in results[:-1]:
            parent = AsyncResult(result.task_id, result.backend, parent=parent)
        last = results[-1]
        super().__init__(last.task_id, last.backend, last._type, parent=parent)
        #: The results of all tasks, in order.
        self.results: tuple[AsyncResult[Any], ...] = tuple(results)

    async def get(self, timeout: float | None = None, propagate: bool = True) -> T:
        """Wait for the value of the last task, or the first failure.

        Args:
            timeout: seconds for all of the chain; None for no limit, 0 for one look.
            propagate: raise a failure instead of returning it.

        Raises:
            ResultTimeout: ``done`` and ``pending`` say how far the chain had come.
            RemoteError, TaskRevoked, or the task's own exception: with ``propagate``.

        Cancelling is safe: what was not taken stays with the broker.
        """
        arriving = aiter(self.backend.get_many([result.task_id for result in self.results], timeout))
        async with aclosing(cast("AsyncGenerator[tuple[str, ResultMeta], None]", arriving)) as metas:
            async for task_id, meta in metas:
                if meta.is_failure:
                    return cast("T", meta.value(propagate))
                if task_id == self.task_id:
                    return cast("T", meta.result if self._type is None else convert(meta.result, self._type))
        raise AssertionError("get_many ends with the last of its results")
