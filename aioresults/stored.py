"""One report on its way to the broker: what ``store_result`` returns."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


def coroutine_function(function: F) -> F:
    """Mark a function that returns a ``Stored`` as what it is to its callers: mocks, and frameworks that would run
    others in a thread, ask ``iscoroutinefunction``.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


class Stored(asyncio.Future[Any], Coroutine[Any, Any, Any]):
    """Resolves to the result that was stored when the broker has confirmed it; cancelled, it is withdrawn if unsent.

    The report is on its way before anybody awaits this, so a thousand stores need no thousand tasks (measured: a task
    with its coroutine costs as much as all the rest of a store). ``asyncio.gather``, ``wait_for``, ``shield`` and
    ``ensure_future`` take it as the future that it is. It is a coroutine besides, because ``asyncio.create_task`` and
    task groups take nothing else.
    """

    __slots__ = ("_steps", "correlation_id", "document", "task_id", "value")

    def __init__(self, task_id: str, correlation_id: str, document: bytes, value: object) -> None:
        super().__init__()
        self.task_id = task_id
        self.correlation_id = correlation_id
        self.document = document
        self.value = value
        self._steps: Generator[Any, None, Any] | None = None

    def confirm(self) -> None:
        """Tell the caller, if there still is one, that the report is stored."""
        if not self.done():
            self.set_result(self.value)

    def fail(self, error: BaseException) -> None:
        """Tell the caller, if there still is one, what went wrong."""
        if not self.done():
            self.set_exception(error)

    # As a coroutine

    @property
    def __name__(self) -> str:
        return f"store_result({self.task_id!r})"

    def _step(self) -> Generator[Any, None, Any]:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps

    def send(self, value: Any) -> Any:
        """Take the next step of the task that wraps this."""
        return self._step().send(value)

    def throw(self, *error: Any) -> Any:
        """End with ``error``, which for a task that is cancelled is ``CancelledError``."""
        self.cancel()
        return self._step().throw(*error)

    def close(self) -> None:
        """Give up."""
        self.cancel()
