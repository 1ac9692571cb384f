"""What is remembered of tasks, within a limit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

_Value = TypeVar("_Value")

#: Tasks of which something is remembered.
REMEMBERED: Final = 10_000


class Recent(Generic[_Value]):
    """What was kept last, up to ``REMEMBERED``."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, _Value] = OrderedDict()

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._values

    def get(self, task_id: str) -> _Value | None:
        """Return what is remembered of a task, or None."""
        return self._values.get(task_id)

    def put(self, task_id: str, value: _Value) -> None:
        """Remember ``value``, in place of what was."""
        self._values[task_id] = value
        self._values.move_to_end(task_id)
        if len(self._values) > REMEMBERED:
            self._values.popitem(last=False)

    def pop(self, task_id: str) -> _Value | None:
        """Return what is remembered of a task, or None, and forget it."""
        return self._values.pop(task_id, None)
