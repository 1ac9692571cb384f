"""Values by task id, bounded by count."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class LRUCache(Generic[V]):
    """The ``limit`` values that were kept or used last, by task id."""

    __slots__ = ("_limit", "_values")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, task_id: str) -> V | None:
        """Return the value of a task, or None; it counts as used."""
        value = self._values.get(task_id)
        if value is not None:
            self._values.move_to_end(task_id)
        return value

    def keep(self, task_id: str, value: V) -> None:
        """Keep a value in place of what there was of its task; the least recently used one makes room."""
        self._values[task_id] = value
        self._values.move_to_end(task_id)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)

    def pop(self, task_id: str) -> V | None:
        """Return the value of a task, or None, and keep it no longer."""
        return self._values.pop(task_id, None)
