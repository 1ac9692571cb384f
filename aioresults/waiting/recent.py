"""What was kept or used last, by task id: bounded by count."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """The last ``limit`` values that were kept or used."""

    __slots__ = ("_limit", "_values")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, V] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._values)

    def __contains__(self, task_id: str) -> bool:
        """Whether there is one of this task; it is not used by that."""
        return task_id in self._values

    def get(self, task_id: str) -> V | None:
        """Return the value of a task, which is used by that, or None."""
        value = self._values.get(task_id)
        if value is not None:
            self._values.move_to_end(task_id)
        return value

    def keep(self, task_id: str, value: V) -> None:
        """Keep a value in place of what there was of its task; the least recently used goes for it."""
        if not self._limit:
            return
        before = len(self._values)
        self._values[task_id] = value
        if len(self._values) == before:
            self._values.move_to_end(task_id)
        elif before == self._limit:
            self._values.popitem(last=False)

    def pop(self, task_id: str) -> V | None:
        """Return the value of a task, or None, and keep it no longer."""
        return self._values.pop(task_id, None)
