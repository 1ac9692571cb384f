"""What one process remembers: reports of tasks that nobody waits for, and the messages that it has handled.

There may be a hundred thousand reports. Each is therefore kept as it arrived, undecoded, where its document is at hand.
That takes a fraction of the memory, leaves the garbage collector next to nothing to visit, and gives each caller a new
report, so that no two callers share what they may change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, Protocol, TypeAlias, TypeVar

from aioresults import states
from aioresults.errors import DecodeError, ResultEvicted
from aioresults.events import Events, Evicted, LateResult
from aioresults.results import ResultMeta
from aioresults.serialization import Document

V = TypeVar("V")

#: The form in which a report is kept: its status and its document as one flat tuple of text and bytes, which the
#: garbage collector ignores; or the report itself where there is no document.
Kept: TypeAlias = "tuple[str, str | None, str | None, str | None, bytes] | ResultMeta"

#: How many ids of evicted reports are remembered.
MAX_EVICTED: Final = 100_000
#: How many task ids are remembered whose waits ended without a result.
MAX_MISSED: Final = 10_000
#: How many task ids are remembered of which messages were refused.
MAX_REFUSED: Final = 10_000
#: How many message ids are remembered at least; at most it is twice as many.
MAX_MESSAGE_IDS: Final = 10_000


class Decoder(Protocol):
    """Reads the documents that are kept."""

    def decode(self, document: Document) -> ResultMeta:
        """Return the report in a document; raises ``DecodeError``."""


class Precedence(Protocol):
    """Decides which of two reports counts."""

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it."""


class Holder(Protocol):
    """What holds messages until the results in them are done with."""

    def release(self, task_id: str) -> None:
        """Take in that the result of a task is done with: taken, evicted or forgotten."""


class Deduplicator:
    """Remembers the ids of the last messages, in two halves of which the older one is dropped.

    A message is repeated when its acknowledgement was lost, or when it was published again because its confirm was
    lost.
    """

    def __init__(self, remembered: int = MAX_MESSAGE_IDS) -> None:
        self._size = remembered
        self._new: set[str] = set()
        self._old: set[str] = set()

    def __contains__(self, message_id: str | None) -> bool:
        return message_id in self._new or message_id in self._old

    def note(self, message_id: str | None) -> None:
        """Remember a handled message; one without an id cannot be told from others."""
        if message_id is not None:
            self._new.add(message_id)
            if len(self._new) >= self._size:
                self._new, self._old = set(), self._new


class RefusedMessages:
    """What was refused of each task: messages that could not be read, that are no reports, or that are forged.

    A caller that waits, or that comes later, learns of it. Bounded by the number of tasks; the oldest go first.
    """

    def __init__(self, remembered: int = MAX_REFUSED) -> None:
        self._remembered = remembered
        self._by_task: OrderedDict[str, tuple[int, str, DecodeError | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_task)

    def note(self, task_id: str, error: DecodeError, *, ends_waits: bool) -> None:
        """Remember a refused message."""
        count, _, before = self._by_task.get(task_id, (0, "", None))
        _keep(self._by_task, task_id, (count + 1, str(error), error if ends_waits else before), self._remembered)

    def check(self, task_id: str) -> None:
        """Raise the error of a task whose report is there, and cannot be read here."""
        _, _, error = self._by_task.get(task_id, (0, "", None))
        if error is not None:
            raise error.with_traceback(None)

    def told(self, task_ids: Iterable[str]) -> dict[str, str]:
        """Return how much was refused of these tasks, and why."""
        if not self._by_task:
            return {}
        refused = {task_id: self._by_task[task_id] for task_id in task_ids if task_id in self._by_task}
        return {
            task_id: f"{count} message{'s were' if count > 1 else ' was'} refused: {why}"
            for task_id, (count, why, _) in refused.items()
        }

    def forget(self, task_id: str) -> None:
        """Forget what was refused of a task: a report of it could be read."""
        if self._by_task:
            self._by_task.pop(task_id, None)


class Memory:
    """The reports of tasks that nobody waits for.

    There are three kinds:

    - unclaimed reports arrived before anybody asked for them;
    - taken reports are those that a caller of this process has;
    - seen reports told something, and were not taken.

    Unclaimed reports are bounded by count, bytes and age; the oldest are evicted first. The ids of evicted reports are
    remembered, so that a caller that asks for one learns at once what happened to it.

    Args:
        precedence: decides which report counts.
        decoder: reads the reports that are kept undecoded.
        events: told of late results and of evictions.
        max_cached: how many taken reports, and how many seen ones, are remembered; the least recently used go first.
        max_unclaimed: how many unclaimed reports are kept; None where the broker keeps them.
        max_bytes: bytes of unclaimed reports that are kept.
        max_age: seconds that an unclaimed report is kept; None for no limit.
        clock: seconds on a monotonic clock.
    """

    def __init__(
        self,
        precedence: Precedence,
        decoder: Decoder,
        events: Events,
        *,
        max_cached: int,
        max_unclaimed: int | None = None,
        max_bytes: int = 0,
        max_age: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._precedence = precedence
        self._decoder = decoder
        self._events = events
        self._max_cached = max_cached
        #: Taken and seen reports, the least recently used first.
        self._taken: OrderedDict[str, Kept] = OrderedDict()
        self._seen: OrderedDict[str, Kept] = OrderedDict()
        self._max_unclaimed = max_unclaimed
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        #: Unclaimed reports, each with the time at which it arrived.
        self._unclaimed: OrderedDict[str, tuple[Kept, float]] = OrderedDict()
        self._evicted: OrderedDict[str, None] = OrderedDict()
        self._missed: OrderedDict[str, None] = OrderedDict()
        #: Told which results are done with.
        self.holder: Holder | None = None
        #: The size of all unclaimed reports on the wire, in bytes.
        self.unclaimed_bytes: int = 0
        self.evicted: int = 0
        #: How many results arrived after every wait for them had ended.
        self.late: int = 0

    @property
    def cached(self) -> int:
        """The number of taken and seen reports."""
        return len(self._taken) + len(self._seen)

    @property
    def unclaimed(self) -> int:
        """The number of unclaimed reports."""
        return len(self._unclaimed)

    # Arriving

    def keep(self, meta: ResultMeta, document: Document | None) -> bool:
        """Keep a report that nobody waits for, if this is the place; return whether it says more than what is known."""
        if self._max_unclaimed is None:
            return False
        kept = _kept(meta, document)
        taken = _use(self._taken, meta.task_id)
        if taken is None:
            return self._put(meta.task_id, kept)
        if self._precedence.supersedes(meta.status, _status(taken)):
            self._remember(meta.task_id, kept)
            return True
        return False

    def _put(self, task_id: str, kept: Kept) -> bool:
        held = self._unclaimed.get(task_id)
        if held is not None:
            if not self._precedence.supersedes(_status(kept), _status(held[0])):
                return False
            self._drop(task_id, held[0])
        self._evicted.pop(task_id, None)
        if self._missed and task_id in self._missed and _status(kept) in states.READY_STATES:
            del self._missed[task_id]
            self.late += 1
            self._events.emit(LateResult(task_id, _status(kept)))
        self._unclaimed[task_id] = (kept, self._clock())
        self.unclaimed_bytes += _size(kept)
        self._make_room()
        return True

    def _drop(self, task_id: str, kept: Kept) -> None:
        del self._unclaimed[task_id]
        self.unclaimed_bytes -= _size(kept)

    def expire(self) -> None:
        """Evict the unclaimed reports that are too old; otherwise that happens when the next one comes."""
        self._make_room()

    def drop_unclaimed(self) -> None:
        """Drop all unclaimed reports without a word: they are somebody else's now."""
        self._unclaimed.clear()
        self.unclaimed_bytes = 0

    def _release(self, task_id: str) -> None:
        if self.holder is not None:
            self.holder.release(task_id)

    def _make_room(self) -> None:
        oldest_allowed = -1.0 if self._max_age is None else self._clock() - self._max_age
        while self._unclaimed:
            task_id, (kept, arrived) = next(iter(self._unclaimed.items()))
            crowded = len(self._unclaimed) > (self._max_unclaimed or 0) or self.unclaimed_bytes > self._max_bytes
            if not crowded and arrived >= oldest_allowed:
                return
            self._drop(task_id, kept)
            if _status(kept) in states.READY_STATES:  # a later report will say more of a task that is not ready
                self._evict(task_id)
                self._release(task_id)

    def _evict(self, task_id: str) -> None:
        self.evicted += 1
        _keep(self._evicted, task_id, None, MAX_EVICTED)
        self._events.emit(Evicted(task_id, self.evicted))

    # Waits that begin and end

    def claim(self, task_id: str) -> tuple[ResultMeta, Document | None] | None:
        """Return what was known of a task before anybody waits for it, unless that is ready and taken.

        An unclaimed report is then no longer kept.

        Raises:
            ResultEvicted: the result was here and was evicted to make room.
            DecodeError: the report cannot be read.
        """
        if self._missed:
            self._missed.pop(task_id, None)
        held = self._unclaimed.get(task_id)
        if held is not None:
            self._drop(task_id, held[0])
            return self._read(held[0]), _document(held[0])
        # A ready report is still with the broker, or was taken: a new wait is for it, or for a new result.
        seen = _use(self._seen, task_id)
        if seen is not None and _status(seen) not in states.READY_STATES:
            return self._read(seen), _document(seen)
        if task_id in self._evicted:
            raise ResultEvicted(task_id)
        return None

    def settle(self, task_id: str, last: ResultMeta | None, document: Document | None, *, taken: bool) -> None:
        """Keep what the last wait for a task leaves behind.

        Args:
            last: the report that counts among those that the waits received.
            document: the document of that report.
            taken: whether a caller has the report.
        """
        if last is not None and taken:
            self._remember(task_id, _kept(last, document))
        elif last is not None and last.is_ready:
            if self._max_unclaimed is not None:
                self._put(task_id, _kept(last, document))
        else:
            if last is not None:
                self.see(last, document)
            if self._max_unclaimed is not None:
                _keep(self._missed, task_id, None, MAX_MISSED)

    def take(self, meta: ResultMeta) -> None:
        """Remember a result that a caller took without a wait."""
        self._remember(meta.task_id, meta)

    def _remember(self, task_id: str, kept: Kept) -> None:
        _keep(self._taken, task_id, kept, self._max_cached)
        self._seen.pop(task_id, None)
        self._release(task_id)

    def see(self, meta: ResultMeta, document: Document | None = None) -> None:
        """Remember a report that was not taken, unless it says less than the taken result."""
        taken = _use(self._taken, meta.task_id)
        if taken is None or self._precedence.supersedes(meta.status, _status(taken)):
            _keep(self._seen, meta.task_id, _kept(meta, document), self._max_cached)

    # Knowing

    def latest(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts among those that are remembered, or None."""
        held = self._unclaimed.get(task_id)
        kept = held[0] if held is not None else _use(self._seen, task_id) or _use(self._taken, task_id)
        return None if kept is None else self._read(kept)

    def ready(self, task_id: str) -> ResultMeta | None:
        """Return the ready report of a task if it was taken in this process, or None."""
        taken = _use(self._taken, task_id)
        return None if taken is None else self._read(taken)

    def _read(self, kept: Kept) -> ResultMeta:
        return self._decoder.decode(Document(*kept[1:])) if isinstance(kept, tuple) else kept

    # Forgetting

    def discard(self, task_id: str) -> None:
        """Drop the taken and the seen report of a task."""
        self._taken.pop(task_id, None)
        self._seen.pop(task_id, None)

    def forget(self, task_id: str) -> None:
        """Drop all that is remembered of a task."""
        self.discard(task_id)
        self._missed.pop(task_id, None)
        self._evicted.pop(task_id, None)
        held = self._unclaimed.get(task_id)
        if held is not None:
            self._drop(task_id, held[0])
        self._release(task_id)


def _kept(meta: ResultMeta, document: Document | None) -> Kept:
    return meta if document is None else (meta.status, *document)


def _status(kept: Kept) -> str:
    return kept[0] if isinstance(kept, tuple) else kept.status


def _document(kept: Kept) -> Document | None:
    return Document(*kept[1:]) if isinstance(kept, tuple) else None


def _size(kept: Kept) -> int:
    """Return the size of a report on the wire in bytes; 0 where it is unknown."""
    return len(kept[4]) if isinstance(kept, tuple) else 0


def _keep(values: OrderedDict[str, V], task_id: str, value: V, limit: int) -> None:
    """Keep the value of a task; the least recently used value makes room."""
    values[task_id] = value
    values.move_to_end(task_id)
    if len(values) > limit:
        values.popitem(last=False)


def _use(values: OrderedDict[str, V], task_id: str) -> V | None:
    """Return the value of a task, or None, and count it as used."""
    value = values.get(task_id)
    if value is not None:
        values.move_to_end(task_id)
    return value
