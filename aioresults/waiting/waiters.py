"""The waits of one process, by task: pure, no I/O.

``Waiters`` is where the two halves of a result meet. Reports come in through ``report``. A call that waits calls
``join`` with a listener and ends in exactly one of two ways: it calls ``take`` for what arrived, or ``leave`` without
it. This makes it safe to cancel a wait: a ready report that no caller has taken is not settled. The reader that brings
reports in (``Source``) is told when waits begin and end, and keeps the reports that nobody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from aioresults.errors import AioResultsError, ResultForgotten, ResultTimeout
from aioresults.results import ResultMeta
from aioresults.serialization import Document
from aioresults.waiting.memory import Precedence


class Source(Protocol):
    """The reader that brings reports in, as waits see it. No method of it may call back."""

    def wait_began(self, task_id: str) -> tuple[Sequence[ResultMeta], Document | None]:
        """Return the known reports of a task in order, and the document of the last one.

        Called for each listener that joins. Raises ``AioResultsError`` when nothing will come for this listener.
        """

    def wait_ended(self, task_id: str, last: ResultMeta | None, document: Document | None, *, taken: bool) -> None:
        """Keep what the last listener leaves behind: the report that counts, and whether it was taken."""

    def keep(self, meta: ResultMeta, document: Document | None) -> bool:
        """Keep a report that nobody waits for; return whether it counts."""

    def refused(self, task_ids: Iterable[str]) -> dict[str, str]:
        """Return how many messages of these tasks were refused, and why."""


class Listener(Protocol):
    """One call that receives reports; its methods only note them and wake the caller."""

    def on_report(self, meta: ResultMeta) -> None:
        """A report that counts has arrived, ready or not."""

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        """Nothing more will come for ``task_id``."""


class Waiting(Listener, Protocol):
    """One call that waits for tasks."""

    def on_history(self, reports: Sequence[ResultMeta]) -> None:
        """All known reports of one task, oldest first; may repeat reports that this listener has already seen."""


class Waiter(asyncio.Future[ResultMeta]):
    """One call that waits for one task, from its creation until ``leave``.

    There may be a hundred thousand of them, so the future, the listener and the deadline of the call are one object.
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
        """End the wait, whatever its outcome."""
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
            refused = self._waiters.refused([self._task_id])
            self.set_exception(ResultTimeout(self._timeout or 0, [self._task_id], refused=refused))


class Waiters:
    """All waits of one backend.

    Args:
        source: brings reports in, and keeps those that nobody waits for.
        precedence: decides which of two reports counts.
    """

    def __init__(self, source: Source, precedence: Precedence) -> None:
        self._source = source
        self._precedence = precedence
        #: The listeners by task id; nearly always there is one, so a dict is made only for the second.
        self._listeners: dict[str, Waiting | dict[Waiting, None]] = {}
        #: The report that counts among those that the current waits received, and its document.
        self._latest: dict[str, tuple[ResultMeta, Document | None]] = {}
        #: The ids of tasks whose result one of the current waits has taken.
        self._taken: set[str] = set()
        self._observers: list[Listener] = []
        #: How many reports told nothing new: repeated, or of a lower rank than a known one.
        self.redundant: int = 0

    def __len__(self) -> int:
        return len(self._listeners)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._listeners

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of the tasks that somebody waits for."""
        return iter(self._listeners)

    def listeners(self, task_id: str) -> tuple[Waiting, ...]:
        """Return the listeners that wait for a task now, in the order in which they came."""
        listeners = self._listeners.get(task_id, ())
        return tuple(listeners) if isinstance(listeners, (dict, tuple)) else (listeners,)

    # Waiting

    def join(self, task_id: str, listener: Waiting) -> None:
        """Begin to wait; ``listener`` receives at once what has arrived and was not taken."""
        others = self._listeners.get(task_id)
        if others is None:
            self._listeners[task_id] = listener
        elif isinstance(others, dict):
            others[listener] = None
        else:
            self._listeners[task_id] = {others: None, listener: None}
        try:
            # Also when others already wait: they may just have received an error, and not have left yet.
            known, document = self._source.wait_began(task_id)
        except AioResultsError as error:
            listener.on_error(task_id, error)
            return
        if known:
            self._latest[task_id] = known[-1], document
            listener.on_history(known)
        elif (latest := self.latest(task_id)) is not None:
            listener.on_history((latest,))

    def take(self, task_id: str, listener: Waiting) -> None:
        """End a wait whose caller has the ready report. Calling it more than once is no error."""
        self._remove(task_id, listener, taken=True)

    def leave(self, task_id: str, listener: Waiting) -> None:
        """End a wait that took nothing: cancelled, timed out, failed. Leaving twice, or after ``take``, is no error."""
        self._remove(task_id, listener, taken=False)

    def _remove(self, task_id: str, listener: Waiting, *, taken: bool) -> None:
        listeners = self._listeners.get(task_id)
        if isinstance(listeners, dict):
            if listener not in listeners:
                return
            del listeners[listener]
        elif listeners is not listener:
            return
        if isinstance(listeners, dict) and listeners:
            if taken:
                self._taken.add(task_id)
            return
        del self._listeners[task_id]
        last, document = self._latest.pop(task_id, (None, None))
        if self._taken and task_id in self._taken:
            self._taken.discard(task_id)
            taken = True
        self._source.wait_ended(task_id, last, document, taken=taken)

    # Arriving

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it."""
        return self._precedence.supersedes(new, old)

    def report(self, meta: ResultMeta, document: Document | None = None) -> bool:
        """Pass a report on to its listeners; return whether it counts.

        ``document`` is the document of the report.
        """
        task_id = meta.task_id
        if task_id not in self._listeners:
            counts = self._source.keep(meta, document)
        else:
            latest = self._latest.get(task_id)
            counts = latest is None or self._precedence.supersedes(meta.status, latest[0].status)
            if counts:
                self._latest[task_id] = meta, document
                for listener in self.listeners(task_id):
                    listener.on_report(meta)
        if not counts:
            self.redundant += 1
        elif self._observers:
            self.show(meta)
        return counts

    def tell(self, task_id: str, reports: Sequence[ResultMeta]) -> None:
        """Pass all known reports of a task to its listeners, in order; a listener may have seen some of them."""
        if task_id not in self._listeners or not reports:
            return
        before, newest = self.latest(task_id), reports[-1]
        self._latest[task_id] = newest, None
        for listener in self.listeners(task_id):
            listener.on_history(reports)
        if before is None or self.supersedes(newest.status, before.status):
            self.show(newest)

    def refused(self, task_ids: Iterable[str]) -> dict[str, str]:
        """Return how many messages of these tasks were refused, and why."""
        return self._source.refused(task_ids)

    def fail(self, task_id: str, error: AioResultsError) -> None:
        """End every wait for ``task_id`` with ``error``."""
        for listener in self.listeners(task_id):
            listener.on_error(task_id, error)

    def fail_all(self, error: AioResultsError) -> None:
        """End every wait with ``error``, those of observers included."""
        for task_id in tuple(self._listeners):
            self.fail(task_id, error)
        for observer in tuple(self._observers):
            observer.on_error("", error)

    def forget(self, task_id: str) -> None:
        """End every wait for ``task_id`` with ``ResultForgotten``, and drop what the listeners received."""
        self._latest.pop(task_id, None)
        self.fail(task_id, ResultForgotten(task_id))

    def latest(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts among those that the current waits received, or None."""
        latest = self._latest.get(task_id)
        return None if latest is None else latest[0]

    # Observing

    @property
    def is_observed(self) -> bool:
        """Whether anybody observes reports that nobody waits for."""
        return bool(self._observers)

    def observe(self, observer: Listener) -> None:
        """Let ``observer`` receive every ready report that counts, without waiting for any."""
        self._observers.append(observer)

    def unobserve(self, observer: Listener) -> None:
        """End what ``observe`` began."""
        self._observers.remove(observer)

    def show(self, meta: ResultMeta) -> None:
        """Pass a report that counts to the observers, if it is ready."""
        if meta.is_ready:
            for observer in tuple(self._observers):
                observer.on_report(meta)
