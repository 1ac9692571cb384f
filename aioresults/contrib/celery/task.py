"""A handle on one task of the workers: called like the function that it is over there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, Unpack

from aioresults.contrib.celery.canvas import Signature
from aioresults.contrib.celery.options import TaskOptions, checked
from aioresults.contrib.celery.sender import Sender
from aioresults.handles import AsyncResult

T = TypeVar("T")


class Task(Generic[T]):
    """The task ``name``: ``await task(2, 2)`` sends it and returns its value. All arguments are the task's own.

    Made by ``CeleryClient.task``. Immutable.
    """

    __slots__ = ("_options", "_sender", "_timeout", "_type", "name")

    def __init__(
        self,
        sender: Sender,
        name: str,
        timeout: float | None,
        result_type: type[T] | None,
        options: Mapping[str, Any],
    ) -> None:
        self.name: str = name
        self._sender = sender
        self._timeout = timeout
        self._type = result_type
        self._options = options

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def using(self, **options: Unpack[TaskOptions]) -> Task[T]:
        """Return a handle with other options; those that are not named stay."""
        merged = {**self._options, **options}
        checked(merged)
        return Task(self._sender, self.name, self._timeout, self._type, merged)

    def s(self, /, *args: Any, **kwargs: Any) -> Signature[T]:
        """Return a signature: this call, still to be made."""
        return Signature(self._sender, self.name, args, kwargs, self._options, result_type=self._type)

    def si(self, /, *args: Any, **kwargs: Any) -> Signature[T]:
        """Return an immutable signature: it does not take the result of the task before it as an argument."""
        return Signature(self._sender, self.name, args, kwargs, self._options, True, self._type)

    async def __call__(self, /, *args: Any, **kwargs: Any) -> T:
        """Send the task and return its value; raises as ``CeleryClient.call``."""
        return await self.s(*args, **kwargs).call(self._timeout)

    async def send(self, /, *args: Any, **kwargs: Any) -> AsyncResult[T]:
        """Send the task and return a handle on its result; raises as ``CeleryClient.send``."""
        return await self.s(*args, **kwargs).send()
