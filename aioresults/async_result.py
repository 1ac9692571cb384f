"""A handle on one task's result."""

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
    """The result of ``task_id``, wherever it is now; ``await`` it for the value.

    Holds no state of its own: equal to every other handle on the same task, cheap to make and to throw away.

    Args:
        type: what the value is converted to, as in ``AMQPBackend.wait_for``.
        parent: the result of the task that came before it, as Celery tells; it is only kept.
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
        """The task id (Celery's name for it)."""
        return self.task_id

    async def get(self, timeout: float | None = None, propagate: bool = True) -> T:
        """Wait for the value; see ``AMQPBackend.wait_for``."""
        value: Any = self._type
        return await self.backend.wait_for(self.task_id, timeout, propagate=propagate, type=value)

    async def meta(self) -> ResultMeta:
        """Return the latest report without waiting; see ``AMQPBackend.get_task_meta``."""
        return await self.backend.get_task_meta(self.task_id)

    async def state(self) -> str:
        """Return the latest state without waiting."""
        return (await self.meta()).status

    async def ready(self) -> bool:
        """Whether the task has ended."""
        return (await self.meta()).is_ready

    async def successful(self) -> bool:
        """Whether the task has ended with a result."""
        meta = await self.meta()
        return meta.is_ready and not meta.is_failure

    async def failed(self) -> bool:
        """Whether the task has ended with an error, or was revoked."""
        return (await self.meta()).is_failure

    def updates(self, timeout: float | None = None) -> Watch:
        """Iterate over the state reports until the ready one; see ``AMQPBackend.watch``."""
        return self.backend.watch(self.task_id, timeout=timeout)

    async def forget(self) -> None:
        """Delete the result; see ``AMQPBackend.forget``."""
        await self.backend.forget(self.task_id)

    def as_tuple(self) -> tuple[tuple[str, Any], None]:
        """Return the form in which Celery writes a result inside a result: ``((id, parent), None)``."""
        return (self.task_id, self.parent and self.parent.as_tuple()), None
