"""Reports that have arrived and that nobody has asked for yet: pure, bounded by count, bytes and age.

The oldest go first. The ids of those that had to go are remembered, within a bound too, so that whoever asks for one
learns at once what became of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from aioresults import states
from aioresults.events import Emit, Evicted, LateResult, log
from aioresults.waiting.kept import Kept

#: How many ids of evicted reports are remembered.
REMEMBERED: Final = 100_000
#: How many ids are remembered of waits that ended without a result.
MISSED: Final = 10_000


class Held(NamedTuple):
    """A report, and when it arrived."""

    kept: Kept
    arrived: float


class Unclaimed:
    """Keeps the report that counts of each task until somebody claims it.

    Args:
        max_count, max_bytes: how much is kept.
        max_age: seconds; None for no limit.
        clock: seconds on a monotonic clock.
        supersedes: whether a report in the first state replaces an earlier one in the second.
        emit: is told of results that come late, and of those that had to go.
    """

    def __init__(
        self,
        max_count: int,
        max_bytes: int,
        max_age: float | None,
        clock: Callable[[], float] = monotonic,
        supersedes: Callable[[str, str], bool] = states.supersedes,
        emit: Emit = log,
    ) -> None:
        self._supersedes = supersedes
        self._emit = emit
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._missed: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0
        self.evicted = 0
        #: Results that came when those who had waited for them had left.
        self.late = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        """How many bytes are kept, as they were on the wire."""
        return self._bytes

    def put(self, task_id: str, kept: Kept) -> bool:
        """Keep a report, unless a better one of its task is here; return whether it counts."""
        held = self._held.get(task_id)
        if held is not None:
            if not self._supersedes(kept.status, held.kept.status):
                return False
            self._drop(task_id, held)
        self._gone.pop(task_id, None)
        if kept.is_ready and self._missed and task_id in self._missed:
            del self._missed[task_id]
            self.late += 1
            self._emit(LateResult(task_id, kept.status))
        self._held[task_id] = Held(kept, self._clock())
        self._bytes += kept.size
        self._make_room()
        return True

    def _drop(self, task_id: str, held: Held) -> None:
        del self._held[task_id]
        self._bytes -= held.kept.size

    def _make_room(self) -> None:
        oldest_allowed = -1.0 if self._max_age is None else self._clock() - self._max_age
        while self._held:
            task_id, held = next(iter(self._held.items()))
            crowded = len(self._held) > self._max_count or self._bytes > self._max_bytes
            if not crowded and held.arrived >= oldest_allowed:
                return
            self._evict(task_id, held)

    def _evict(self, task_id: str, held: Held) -> None:
        self._drop(task_id, held)
        if not held.kept.is_ready:
            return  # a later report of the task says more
        self.evicted += 1
        self._gone[task_id] = None
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        self._emit(Evicted(task_id, self.evicted))

    def missed(self, task_id: str) -> None:
        """Note that a wait for a task ended without its result: one that still comes is late."""
        self._missed[task_id] = None
        if len(self._missed) > MISSED:
            self._missed.popitem(last=False)

    def get(self, task_id: str) -> Kept | None:
        """Return the report of a task, and leave it here."""
        held = self._held.get(task_id)
        return None if held is None else held.kept

    def claim(self, task_id: str) -> Kept | None:
        """Return the report of a task and keep it no longer; somebody waits for the task from here on."""
        if self._missed:
            self._missed.pop(task_id, None)
        held = self._held.get(task_id)
        if held is None:
            return None
        self._drop(task_id, held)
        return held.kept

    def was_evicted(self, task_id: str) -> bool:
        """Whether the result of a task was here and had to go."""
        return task_id in self._gone

    def forget(self, task_id: str) -> None:
        """Drop what is known of a task."""
        self.claim(task_id)
        self._gone.pop(task_id, None)
