"""Who waits for which task, and what is known about it: pure, no I/O.

``Waiters`` is the meeting point of the two halves of a result. Deliveries come in through ``report``; calls that wait
``join`` with a listener and end in exactly one of two ways: they ``take`` what arrived, or they ``leave`` without.
That is what makes cancelling a wait safe: a ready report that no caller has taken is not settled. Where each task has
a queue of its own, whoever holds the delivery returns it to the broker when everyone has left. Where all results
come to one inbox, they are kept here until they are asked for (``unclaimed``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from aioresults import states
from aioresults.errors import AioResultsError, DecodeError, ResultEvicted, ResultForgotten, ResultTimeout
from aioresults.results import ResultMeta
from aioresults.serialization import Document
from aioresults.waiting.kept import Decode, Kept, Packed
from aioresults.waiting.recent import Recent
from aioresults.waiting.unclaimed import Unclaimed


class Listener(Protocol):
    """One call that is told what happens; its methods only note that and wake the caller."""

    def on_report(self, meta: ResultMeta) -> None:
        """A report that counts has arrived, ready or not."""
        ...

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """Nothing more will come for ``task_id``."""
        ...


class Waiting(Listener, Protocol):
    """One call that waits for tasks."""

    def on_history(self, reports: Sequence[ResultMeta]) -> None:
        """What is known of one task, in order; not all of it need be new to who was told of some, or waited before."""
        ...


class Waiter(asyncio.Future[ResultMeta]):
    """One call that waits for one task, from here until ``leave``.

    There may be a hundred thousand of them, so the call's future, its listener and its deadline are one object.
    """

    __slots__ = ("_task_id", "_timeout", "_timer", "_waiters")

    def __init__(self, waiters: Waiters, task_id: str, timeout: float | None) -> None:
        super().__init__()
        self._waiters = waiters
        self._task_id = task_id
        self._timeout = timeout
        self._timer = None if timeout is None else self.get_loop().call_later(timeout, self._expire)
        waiters.join(task_id, self)

    def take(self) -> None:
        """Take the result: the caller has it."""
        self._waiters.take(self._task_id, self)

    def leave(self) -> None:
        """End the wait, whatever became of it."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiters.leave(self._task_id, self)

    def on_report(self, meta: ResultMeta) -> None:
        """Resolve with the first ready report."""
        if meta.is_ready and not self.done():
            self.set_result(meta)

    def on_history(self, reports: Sequence[ResultMeta]) -> None:
        """Resolve with the first ready report."""
        for meta in reports:
            self.on_report(meta)

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """Fail."""
        if not self.done():
            self.set_exception(error)

    def _expire(self) -> None:
        if not self.done():
            self.set_exception(ResultTimeout(self._timeout or 0, [self._task_id]))


class _Entry:
    """A task id that somebody waits for; nearly always that is one listener, so a dict is made for the second."""

    __slots__ = ("_listeners", "document", "latest", "taken")

    def __init__(self, listener: Waiting) -> None:
        self.latest: ResultMeta | None = None
        self.document: Document | None = None
        self._listeners: Waiting | dict[Waiting, None] = listener
        self.taken = False

    def add(self, listener: Waiting) -> None:
        if not isinstance(self._listeners, dict):
            self._listeners = {self._listeners: None}
        self._listeners[listener] = None

    def discard(self, listener: Waiting) -> bool | None:
        """Remove a listener; return whether it was the last one, None when it is not here."""
        if listener is self._listeners:
            return True
        if not isinstance(self._listeners, dict) or listener not in self._listeners:
            return None
        del self._listeners[listener]
        return not self._listeners

    def listeners(self) -> tuple[Waiting, ...]:
        """Return those who wait now, in the order they came."""
        return tuple(self._listeners) if isinstance(self._listeners, dict) else (self._listeners,)


class Waiters:
    """All waits of one backend, and its cache of metas.

    Args:
        max_cached: how many reports are remembered of tasks that nobody waits for; the least recently used go first.
        decode: reads what is kept undecoded.
        unclaimed: keeps what arrives before it is asked for; None when the broker keeps it.
        supersedes: whether a report in the first state replaces an earlier one in the second.
    """

    def __init__(
        self,
        max_cached: int,
        decode: Decode,
        unclaimed: Unclaimed | None = None,
        supersedes: Callable[[str, str], bool] = states.supersedes,
    ) -> None:
        self.supersedes: Final = supersedes
        self._decode = decode
        self._entries: dict[str, _Entry] = {}
        #: Results that were taken here, and what else was seen of tasks: not ready, or looked at and left where it is.
        self._taken: Final[Recent[Packed]] = Recent(max_cached)
        self._seen: Final[Recent[Packed]] = Recent(max_cached)
        #: Called with a task id when somebody starts to wait for it, and when the last one has left; the second
        #: argument then says whether anybody took the result. Must not call back.
        self.on_change: Callable[[str, bool], None] | None = None
        #: Returns every report of a task that is known before somebody waits for it, in order, where they are all kept:
        #: nothing is taken then, and nothing need be remembered here. Raises ``DecodeError``.
        self.history: Callable[[str], Sequence[ResultMeta]] | None = None
        self._unclaimed = unclaimed
        self._observers: list[Listener] = []
        #: Reports that told nothing new: repeated, or of a lower rank than what was known.
        self.redundant = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids that somebody waits for."""
        return iter(self._entries)

    @property
    def cached(self) -> int:
        """How many metas are in the cache."""
        return len(self._taken) + len(self._seen)

    # Waiting

    def join(self, task_id: str, listener: Waiting) -> None:
        """Start to wait; what has already arrived and was not taken is reported to ``listener`` at once."""
        entry = self._entries.get(task_id)
        if entry is None:
            entry = self._entries[task_id] = _Entry(listener)
            known = self._claim(task_id)
            if known is not None:
                entry.latest, entry.document = known.read(self._decode), known.document
        else:
            entry.add(listener)
        if self.on_change is not None:
            # Also when others wait already: they may just have been told of an error, and not have left yet.
            self.on_change(task_id, False)
        if self.history is not None:
            self._tell_history(task_id, entry, listener, self.history)
        elif entry.latest is not None:
            listener.on_history((entry.latest,))
        elif self._unclaimed is not None and self._unclaimed.was_evicted(task_id):
            listener.on_error(task_id, ResultEvicted(task_id))

    def _tell_history(
        self, task_id: str, entry: _Entry, listener: Waiting, history: Callable[[str], Sequence[ResultMeta]]
    ) -> None:
        try:
            reports = history(task_id)
        except DecodeError as error:
            listener.on_error(task_id, error)
            return
        if reports:
            entry.latest = reports[-1]
            listener.on_history(reports)

    def _claim(self, task_id: str) -> Kept | None:
        """Return what was known before anyone waited, and is still to be taken or not ready."""
        held = None if self._unclaimed is None else self._unclaimed.claim(task_id)
        if held is not None:
            return held
        # What is ready is still with the broker, or was taken: who joins now waits for it, or for a new one.
        seen = _unpacked(self._seen.get(task_id))
        return None if seen is None or seen.is_ready else seen

    def take(self, task_id: str, listener: Waiting) -> None:
        """End a wait whose caller has the ready report in its hands. Once is enough; more is no error."""
        entry = self._entries.get(task_id)
        if entry is not None and (last := entry.discard(listener)) is not None:
            entry.taken = True
            if last:
                self._end(task_id, entry)

    def taken(self, meta: ResultMeta) -> None:
        """Have what the broker holds of a task removed: a caller without a wait has its ready report."""
        self._remember(meta.task_id, Kept(meta, None))
        if self.on_change is not None:
            self.on_change(meta.task_id, True)

    def leave(self, task_id: str, listener: Waiting) -> None:
        """End a wait that took nothing: cancelled, timed out, failed. Leaving twice, or after ``take``, is no error."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.discard(listener):
            self._end(task_id, entry)

    def _end(self, task_id: str, entry: _Entry) -> None:
        del self._entries[task_id]
        latest = entry.latest
        if self.history is not None:
            pass  # nothing need be remembered here
        elif latest is not None and entry.taken:
            self._remember(task_id, Kept(latest, entry.document))
        elif latest is not None and latest.is_ready:
            if self._unclaimed is not None:
                self._unclaimed.put(task_id, Kept(latest, entry.document))
        else:
            if latest is not None:
                self._see(task_id, Kept(latest, entry.document))
            if self._unclaimed is not None:
                self._unclaimed.missed(task_id)
        if self.on_change is not None:
            self.on_change(task_id, entry.taken)

    # Arriving

    def report(self, meta: ResultMeta, document: Document | None = None) -> bool:
        """Pass a report on to whoever waits; return whether it counts (see ``supersedes``).

        ``document`` is what it was read from, and what is kept of it.
        """
        entry = self._entries.get(meta.task_id)
        if entry is None:
            counts = self._keep(meta.task_id, Kept(meta, document))
        elif entry.latest is not None and not self.supersedes(meta.status, entry.latest.status):
            counts = False
            self.redundant += 1
        else:
            counts = True
            entry.latest = meta
            entry.document = document
            for listener in entry.listeners():
                listener.on_report(meta)
        if self._observers and counts and meta.is_ready:
            for observer in tuple(self._observers):
                observer.on_report(meta)
        return counts

    def tell(self, task_id: str, reports: Sequence[ResultMeta]) -> None:
        """Tell those who wait for a task all that is known of it, in order, though they may know some of it."""
        entry = self._entries.get(task_id)
        if entry is None or not reports:
            return
        is_news = entry.latest is None or self.supersedes(reports[-1].status, entry.latest.status)
        entry.latest = reports[-1]
        for listener in entry.listeners():
            listener.on_history(reports)
        if is_news:
            self.show(entry.latest)

    def _keep(self, task_id: str, kept: Kept) -> bool:
        """Keep a report that nobody waits for, if that is done here, and if it says more than what is known."""
        if self._unclaimed is None:
            return False
        known = _unpacked(self._taken.get(task_id))
        if known is None:
            counts = self._unclaimed.put(task_id, kept)
        elif counts := self.supersedes(kept.status, known.status):
            self._remember(task_id, kept)
        self.redundant += not counts
        return counts

    def fail(self, task_id: str, error: AioResultsError) -> None:
        """End every wait for ``task_id`` with ``error``."""
        entry = self._entries.get(task_id)
        if entry is not None:
            for listener in entry.listeners():
                listener.on_error(task_id, error)

    def fail_all(self, error: AioResultsError) -> None:
        """End every wait with ``error``, those of observers too."""
        for task_id in tuple(self._entries):
            self.fail(task_id, error)
        for observer in tuple(self._observers):
            observer.on_error("", error)

    # Observing

    @property
    def is_observed(self) -> bool:
        """Whether anybody wants to be told of reports that nobody waits for."""
        return bool(self._observers)

    def show(self, meta: ResultMeta) -> None:
        """Tell the observers of a report that counts."""
        if meta.is_ready:
            for observer in tuple(self._observers):
                observer.on_report(meta)

    def observe(self, observer: Listener) -> None:
        """Have ``observer`` told of every ready report that counts, without waiting for any."""
        self._observers.append(observer)

    def unobserve(self, observer: Listener) -> None:
        """End what ``observe`` began."""
        self._observers.remove(observer)

    # Knowing

    def latest(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts among those seen, or None."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.latest is not None:
            return entry.latest
        kept = None if self._unclaimed is None else self._unclaimed.get(task_id)
        kept = kept or _unpacked(self._seen.get(task_id)) or _unpacked(self._taken.get(task_id))
        return None if kept is None else kept.read(self._decode)

    def ready(self, task_id: str) -> ResultMeta | None:
        """Return the ready report of ``task_id`` if it was taken in this process, or None."""
        kept = _unpacked(self._taken.get(task_id))
        return None if kept is None else kept.read(self._decode)

    def learn(self, meta: ResultMeta) -> ResultMeta:
        """Take in what a look at the broker showed; return the report that counts of this and what was known."""
        known = self.latest(meta.task_id)
        if known is not None and not self.supersedes(meta.status, known.status):
            return known
        if not self.report(meta):
            self._see(meta.task_id, Kept(meta, None))
        return meta

    def _remember(self, task_id: str, kept: Kept) -> None:
        """Keep a result that was taken."""
        self._taken.keep(task_id, kept.packed())
        self._seen.pop(task_id)

    def _see(self, task_id: str, kept: Kept) -> None:
        """Keep a report that was not taken, unless it says less than the result that was."""
        taken = _unpacked(self._taken.get(task_id))
        if taken is None or self.supersedes(kept.status, taken.status):
            self._seen.keep(task_id, kept.packed())

    def discard(self, task_id: str) -> None:
        """Drop the cached meta of ``task_id``; those who wait for it go on waiting."""
        self._taken.pop(task_id)
        self._seen.pop(task_id)

    def forget(self, task_id: str) -> None:
        """Drop all that is known of ``task_id``; those who wait for it get ``ResultForgotten``."""
        self.discard(task_id)
        if self._unclaimed is not None:
            self._unclaimed.forget(task_id)
        entry = self._entries.get(task_id)
        if entry is not None:
            entry.latest = None
        self.fail(task_id, ResultForgotten(task_id))


def _unpacked(packed: Packed | None) -> Kept | None:
    return None if packed is None else Kept.unpack(packed)
