"""A handle on one task of the workers: called like the function that it is over there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast

from aioresults.async_result import AsyncResult
from aioresults.contrib.celery.options import TaskOptions, checked

if TYPE_CHECKING:
    from aioresults.contrib.celery.client import CeleryClient

T = TypeVar("T")


class Task(Generic[T]):
    """The task ``name``: ``await task(2, 2)`` sends it and returns its value. All arguments are the task's own.

    Made by ``CeleryClient.task``. Immutable.
    """

    __slots__ = ("_client", "_options", "_timeout", "_type", "name")

    def __init__(
        self,
        client: CeleryClient,
        name: str,
        timeout: float | None,
        result_type: type[T] | None,
        options: TaskOptions,
    ) -> None:
        self.name = name
        self._client = client
        self._timeout = timeout
        self._type = result_type
        self._options = options

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def using(self, **options: Unpack[TaskOptions]) -> Task[T]:
        """Return a handle with other options; those that are not named stay."""
        merged = cast("TaskOptions", {**self._options, **options})
        checked(cast("Mapping[str, Any]", merged))
        return Task(self._client, self.name, self._timeout, self._type, merged)

    async def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Send the task and return its value; raises as ``CeleryClient.call``."""
        result_type: Any = self._type
        value: T = await self._client.call(
            self.name, *args, kwargs=kwargs, timeout=self._timeout, result_type=result_type, **self._options
        )
        return value

    async def send(self, *args: Any, **kwargs: Any) -> AsyncResult[T]:
        """Send the task and return a handle on its result; raises as ``CeleryClient.send``."""
        result_type: Any = self._type
        result: AsyncResult[T] = await self._client.send(
            self.name, *args, kwargs=kwargs, result_type=result_type, **self._options
        )
        return result
