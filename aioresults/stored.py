"""One report on its way to the broker: what ``store_result`` returns."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


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
