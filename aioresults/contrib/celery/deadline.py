"""One limit in seconds for several steps together."""

from __future__ import annotations

from time import monotonic

from aioresults import validation


class Deadline:
    """Seconds for several steps together; None for no limit."""

    def __init__(self, timeout: float | None) -> None:
        limit = validation.timeout(timeout)
        self._end = None if limit is None else monotonic() + limit

    def left(self) -> float | None:
        """Return the seconds that are left, a millisecond at least: 0 would mean one look."""
        return None if self._end is None else max(self._end - monotonic(), 0.001)
