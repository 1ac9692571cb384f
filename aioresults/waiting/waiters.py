"""Who waits for which task: pure, no I/O.

``Waiters`` is the meeting point of the two halves of a result. Reports come in through ``report``; calls that wait
``join`` with a listener and end in exactly one of two ways: they ``take`` what arrived, or they ``leave`` without it.
That is what makes it safe to cancel a wait: a ready report that no caller has taken is not settled. Whoever brings the
reports in (``Source``) is told when waits begin and end, and keeps what nobody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

from aioresults.errors import AioResultsError, ResultForgotten, ResultTimeout
from aioresults.results import ResultMeta
from aioresults.serialization import Document
from aioresults.waiting.memory import Precedence


class Source(Protocol):
    """Whoever brings reports in, as waits see it. It must not call back from any of these methods."""

    def wait_began(self, task_id: str) -> tuple[Sequence[ResultMeta], Document | None]:
        """Return the reports of a task that are known already, in order, and the document of the last one.

        Called for each listener that joins. Raises ``AioResultsError`` when nothing will come for this listener.
        """
        ...

    def wait_ended(self, task_id: str, last: ResultMeta | None, document: Document | None, *, taken: bool) -> None:
        """Keep what the last listener to leave has left behind: the report that counts, and whether it was taken."""
        ...

    def keep(self, meta: ResultMeta, document: Document | None) -> bool:
        """Keep a report that nobody waits for; return whether it counts."""
        ...


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
        """All known reports of one task, oldest first; may repeat reports that this listener has already seen."""
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

    __slots__ = ("document", "latest", "listeners", "taken")

    def __init__(self, listener: Waiting) -> None:
        self.latest: ResultMeta | None = None
        self.document: Document | None = None
        self.listeners: Waiting | dict[Waiting, None] = listener
        self.taken = False

    def add(self, listener: Waiting) -> None:
        if not isinstance(self.listeners, dict):
            self.listeners = {self.listeners: None}
        self.listeners[listener] = None

    def discard(self, listener: Waiting) -> bool | None:
        """Remove a listener; return whether it was the last one, None when it is not here."""
        if listener is self.listeners:
            return True
        if not isinstance(self.listeners, dict) or listener not in self.listeners:
            return None
        del self.listeners[listener]
        return not self.listeners

    def __iter__(self) -> Iterator[Waiting]:
        """Iterate over those who wait now, in the order they came."""
        return iter(tuple(self.listeners) if isinstance(self.listeners, dict) else (self.listeners,))


class Waiters:
    """All waits of one backend.

    Args:
        source: brings reports in, and keeps those that nobody waits for.
        precedence: says which of two reports counts.
    """

    def __init__(self, source: Source, precedence: Precedence) -> None:
        self._source = source
        self._precedence = precedence
        self._entries: dict[str, _Entry] = {}
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

    # Waiting

    def join(self, task_id: str, listener: Waiting) -> None:
        """Start to wait; ``listener`` is told at once of what has already arrived and was not taken."""
        entry = self._entries.get(task_id)
        if entry is None:
            entry = self._entries[task_id] = _Entry(listener)
        else:
            entry.add(listener)
        try:
            # Also when others wait already: they may just have been told of an error, and not have left yet.
            known, document = self._source.wait_began(task_id)
        except AioResultsError as error:
            listener.on_error(task_id, error)
            return
        if known:
            entry.latest, entry.document = known[-1], document
            listener.on_history(known)
        elif entry.latest is not None:
            listener.on_history((entry.latest,))

    def take(self, task_id: str, listener: Waiting) -> None:
        """End a wait whose caller has the ready report in its hands. Once is enough; more is no error."""
        entry = self._entries.get(task_id)
        if entry is not None and (last := entry.discard(listener)) is not None:
            entry.taken = True
            if last:
                self._end(task_id, entry)

    def leave(self, task_id: str, listener: Waiting) -> None:
        """End a wait that took nothing: cancelled, timed out, failed. Leaving twice, or after ``take``, is no error."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.discard(listener):
            self._end(task_id, entry)

    def _end(self, task_id: str, entry: _Entry) -> None:
        del self._entries[task_id]
        self._source.wait_ended(task_id, entry.latest, entry.document, taken=entry.taken)

    # Arriving

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it."""
        return self._precedence.supersedes(new, old)

    def report(self, meta: ResultMeta, document: Document | None = None) -> bool:
        """Pass a report on to whoever waits; return whether it counts.

        ``document`` is what the report was read from.
        """
        entry = self._entries.get(meta.task_id)
        if entry is None:
            counts = self._source.keep(meta, document)
        elif counts := entry.latest is None or self._precedence.supersedes(meta.status, entry.latest.status):
            entry.latest, entry.document = meta, document
            for listener in entry:
                listener.on_report(meta)
        if not counts:
            self.redundant += 1
        elif self._observers:
            self.show(meta)
        return counts

    def tell(self, task_id: str, reports: Sequence[ResultMeta]) -> None:
        """Tell those who wait for a task all that is known of it, in order, though they may know some of it."""
        entry = self._entries.get(task_id)
        if entry is None or not reports:
            return
        is_news = entry.latest is None or self.supersedes(reports[-1].status, entry.latest.status)
        entry.latest = reports[-1]
        for listener in entry:
            listener.on_history(reports)
        if is_news:
            self.show(entry.latest)

    def fail(self, task_id: str, error: AioResultsError) -> None:
        """End every wait for ``task_id`` with ``error``."""
        for listener in self._entries.get(task_id, ()):
            listener.on_error(task_id, error)

    def fail_all(self, error: AioResultsError) -> None:
        """End every wait with ``error``, those of observers too."""
        for task_id in tuple(self._entries):
            self.fail(task_id, error)
        for observer in tuple(self._observers):
            observer.on_error("", error)

    def forget(self, task_id: str) -> None:
        """End every wait for ``task_id`` with ``ResultForgotten``, and drop what those who wait were told of it."""
        entry = self._entries.get(task_id)
        if entry is not None:
            entry.latest = entry.document = None
        self.fail(task_id, ResultForgotten(task_id))

    def latest(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts among those that the current waits were told of, or None."""
        entry = self._entries.get(task_id)
        return None if entry is None else entry.latest

    # Observing

    @property
    def is_observed(self) -> bool:
        """Whether anybody wants to be told of reports that nobody waits for."""
        return bool(self._observers)

    def observe(self, observer: Listener) -> None:
        """Have ``observer`` told of every ready report that counts, without waiting for any."""
        self._observers.append(observer)

    def unobserve(self, observer: Listener) -> None:
        """End what ``observe`` began."""
        self._observers.remove(observer)

    def show(self, meta: ResultMeta) -> None:
        """Tell the observers of a report that counts."""
        if meta.is_ready:
            for observer in tuple(self._observers):
                observer.on_report(meta)
