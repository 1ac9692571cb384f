"""What is known of the results of tasks that have ended, where each is in a queue of its own."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from aioresults.contrib.taskiq.lru_cache import LRUCache

#: Seconds that an answer is good for: at least, and at most. Another process may take the result, or store a new one.
SHORTEST: Final = 0.5
LONGEST: Final = 60.0
#: Seconds without a question after which the next one is a new one, as if nothing was known.
PAUSE: Final = 10.0
#: Tasks of which this process remembers what it saw.
REMEMBERED: Final = 10_000


class _Seen(NamedTuple):
    is_there: bool
    since: float
    until: float


class Ended:
    """Whether the results of tasks are in their queues, as this process last saw. Good for as long as it has been so.

    That spares the broker those who go on to ask, as taskiq's ``gather`` does until the last of its tasks has ended.
    And what was taken is not waited for meanwhile: that would make a queue for it, once more.

    Args:
        clock: seconds on a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seen: LRUCache[_Seen] = LRUCache(REMEMBERED)

    def __contains__(self, task_id: str) -> bool:
        """Whether a result of this task was seen, and has been asked for since."""
        seen = self._seen.get(task_id)
        return seen is not None and self._clock() <= seen.until + PAUSE

    def is_there(self, task_id: str) -> bool | None:
        """Return whether the result of a task is in its queue; None when the broker is to be asked."""
        seen = self._seen.get(task_id)
        return None if seen is None or self._clock() > seen.until else seen.is_there

    def note(self, task_id: str, *, is_there: bool) -> None:
        """Take in what was seen of the result of a task that has ended."""
        now, seen = self._clock(), self._seen.get(task_id)
        since = seen.since if seen is not None and seen.is_there is is_there and task_id in self else now
        until = now + min(max(now - since, SHORTEST), LONGEST)
        self._seen.keep(task_id, _Seen(is_there, since, until))
