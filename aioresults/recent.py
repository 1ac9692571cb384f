"""The reports that were kept or used last, by task id: bounded by count."""

from __future__ import annotations

from collections import OrderedDict

from aioresults.kept import Kept, Packed


class Recent:
    """The last ``limit`` reports that were kept or used, by task id."""

    __slots__ = ("_kept", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Packed] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def get(self, task_id: str) -> Kept | None:
        """Return the report of a task, which is used by that, or None."""
        packed = self._kept.get(task_id)
        if packed is None:
            return None
        self._kept.move_to_end(task_id)
        return Kept.unpack(packed)

    def keep(self, task_id: str, kept: Kept) -> None:
        """Keep a report in place of what there was of its task; the least recently used goes for it."""
        if not self._limit:
            return
        before = len(self._kept)
        self._kept[task_id] = kept.packed()
        if len(self._kept) == before:
            self._kept.move_to_end(task_id)
        elif before == self._limit:
            self._kept.popitem(last=False)

    def drop(self, task_id: str) -> None:
        """Drop the report of a task, if there is one."""
        self._kept.pop(task_id, None)
