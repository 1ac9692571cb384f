"""A handle on the result of one task."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aioresults.results import ResultMeta
from aioresults.watch import Watch

if TYPE_CHECKING:
    from aioresults.backend import AMQPBackend
    from aioresults.group_result import GroupResult

T = TypeVar("T")


class AsyncResult(Generic[T]):
    """The result of one task; ``await`` it for the value.

    Example::

        result = AsyncResult(task_id, backend, int)
        assert await result == 42

    A handle holds no state: it is equal to every other handle on the same task, and cheap to make and to throw away.

    Args:
        task_id: the id of the task.
        backend: where the result is looked for.
        type: the type that the value is converted to, as in ``AMQPBackend.wait_for``.
        parent: the result of the task before this one, as Celery reports it; it is only kept.

    Celery: ``celery.result.AsyncResult``.
    """

    __slots__ = ("_type", "backend", "parent", "task_id")

    def __init__(
        self,
        task_id: str,
        backend: AMQPBackend,
        type: type[T] | None = None,
        *,
        parent: AsyncResult[Any] | GroupResult | None = None,
    ) -> None:
        self.task_id: str = task_id
        self.backend: AMQPBackend = backend
        self.parent: AsyncResult[Any] | GroupResult | None = parent
        self._type = type

    def __await__(self) -> Generator[Any, None, T]:
        return self.get().__await__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.task_id == self.task_id

    def __hash__(self) -> int:
        return hash(self.task_id)

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.task_id}>"

    @property
    def id(self) -> str:
        """The task id, by the name that Celery gives it."""
        return self.task_id

    async def get(self, timeout: float | None = None, propagate: bool = True) -> T:
        """Wait for the value; see ``AMQPBackend.wait_for``.

        Example::

            answer = await AsyncResult(task_id, backend).get(timeout=5)

        Args:
            timeout: seconds; None for no limit, 0 for one look.
            propagate: whether the error of a failed or revoked task is raised; False returns it.
        """
        value: Any = self._type
        return await self.backend.wait_for(self.task_id, timeout, propagate=propagate, type=value)

    async def meta(self) -> ResultMeta:
        """Return the latest report without waiting; see ``AMQPBackend.get_task_meta``.

        Example::

            meta = await AsyncResult(task_id, backend).meta()
        """
        return await self.backend.get_task_meta(self.task_id)

    async def state(self) -> str:
        """Return the latest state without waiting; errors as ``meta``.

        Example::

            assert await AsyncResult(task_id, backend).state() == "SUCCESS"
        """
        return (await self.meta()).status

    async def ready(self) -> bool:
        """Return whether the task has ended, without waiting; errors as ``meta``.

        Example::

            assert await AsyncResult(task_id, backend).ready()
        """
        return (await self.meta()).is_ready

    async def successful(self) -> bool:
        """Return whether the task has ended with a result, without waiting; errors as ``meta``.

        Example::

            assert await AsyncResult(task_id, backend).successful()
        """
        meta = await self.meta()
        return meta.is_ready and not meta.is_failure

    async def failed(self) -> bool:
        """Return whether the task has failed or was revoked, without waiting; errors as ``meta``.

        Example::

            assert not await AsyncResult(task_id, backend).failed()
        """
        return (await self.meta()).is_failure

    def updates(self, timeout: float | None = None) -> Watch:
        """Iterate over the state reports until the ready one; see ``AMQPBackend.watch``.

        Example::

            async for meta in AsyncResult(task_id, backend).updates(timeout=30):
                print(meta.status)

        Args:
            timeout: seconds for all of it together; None for no limit, 0 for one look.
        """
        return self.backend.watch(self.task_id, timeout=timeout)

    async def forget(self) -> None:
        """Delete the result; see ``AMQPBackend.forget``.

        Example::

            await AsyncResult(task_id, backend).forget()
        """
        await self.backend.forget(self.task_id)

    def as_tuple(self) -> tuple[tuple[str, Any], None]:
        """Return the form in which Celery writes a result inside a result: ``((id, parent), None)``.

        Example::

            assert AsyncResult("task", backend).as_tuple() == (("task", None), None)
        """
        return (self.task_id, self.parent and self.parent.as_tuple()), None
