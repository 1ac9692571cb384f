"""What this process knows of the tasks in a stream, and whom it tells.

Reports come in undecoded, and most stay so. One is decoded when somebody waits for its task, or asks for it.

Before the stream was once read to its end nobody is told anything: what comes may be forgotten further on. What is
stored meanwhile comes after the end that is looked for, so nobody waits longer for that.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aioresults.background.stream.index import Index, Position
from aioresults.background.stream.recall import Recall
from aioresults.errors import DecodeError
from aioresults.events import Dropped, Emit
from aioresults.results import ResultMeta
from aioresults.serialization import Document
from aioresults.serialization.report_codec import ReportCodec
from aioresults.waiting.waiters import Waiters

#: Seconds before what could not be read again is tried once more.
RETRY_INTERVAL: Final = 1.0
#: Tasks whose reports are decoded in one turn of the loop, where there may be very many.
AT_A_TIME: Final = 100

_Read = Callable[[str], "asyncio.Future[None]"]


class Known:
    """The reports of a stream as its readers see them.

    Args:
        index: what was read.
        recall: reads again what the index has let go of.
        emit: is told of reports that cannot be read.
    """

    def __init__(self, index: Index, recall: Recall, waiters: Waiters, reports: ReportCodec, emit: Emit) -> None:
        self._emit = emit
        self.index = index
        self.recall = recall
        self._waiters = waiters
        self._reports = reports
        #: Whether what comes is new; not before the stream was once read to its end.
        self.is_live = False
        #: The tasks of which those who wait are still to be told what is known, all of it in order: their documents are
        #: being fetched, or it is not their turn yet.
        self._untold: set[str] = set()
        self._searching: set[str] = set()
        #: The tasks that somebody looks at, while they are read again.
        self._looked_at: Counter[str] = Counter()
        self.received = 0
        self.undecodable = 0
        waiters.history = self.history

    def __contains__(self, task_id: str) -> bool:
        """Whether somebody is being told of a task: it must stay in the index until then."""
        return task_id in self._waiters or task_id in self._looked_at

    def go_live(self) -> None:
        """Note that the stream was read to its end: who waits is told what is known, or it is searched for."""
        if not self.is_live:
            self.is_live = True
            self._untold.update(self._waiters)
            self._tell_in_turn(deque(self._waiters))

    def _tell_in_turn(self, task_ids: deque[str]) -> None:
        for _ in range(min(AT_A_TIME, len(task_ids))):
            task_id = task_ids.popleft()
            self._untold.discard(task_id)
            self._tell(task_id)
        if task_ids:
            asyncio.get_running_loop().call_soon(self._tell_in_turn, task_ids)

    # What is read at the end of the stream

    def take_in(self, position: Position, document: Document, task_id: str) -> None:
        """Take in a report, and tell who waits for it."""
        if not self.index.add(position, document):
            return
        self.received += 1
        if not self.is_live:
            return
        if task_id in self._waiters:
            if task_id in self._untold:
                return
            try:
                self._waiters.report(self._reports.decode(document))
            except DecodeError as error:
                self.drop(error)
        elif self._waiters.is_observed:
            self._show(task_id)

    def take_in_tombstone(self, position: Position, task_id: str) -> None:
        """Take in that a task was forgotten; who waits for it is told, unless that was before anybody did."""
        self.index.forget(position, task_id)
        if self.is_live:
            self._waiters.forget(task_id)

    def drop(self, error: DecodeError) -> None:
        """Take in that something cannot be read."""
        if self.is_live or not self.undecodable:
            self._emit(Dropped(error.task_id, str(error)))  # of what every reader reads again, the first will do
        self.undecodable += 1
        for task_id in (*error.task_ids, *([error.task_id] if error.task_id else ())):
            self._waiters.fail(task_id, error)

    def _show(self, task_id: str) -> None:
        """Tell the observers of a report that nobody waits for, if it counts."""
        documents = self.index.documents(task_id)
        if documents is None:
            self.recall.fetch(task_id).add_done_callback(lambda done: self._show_fetched(task_id, done))
            return
        try:
            before, now = self._read(documents[:-1]), self._read(documents)
        except DecodeError as error:
            self.drop(error)
            return
        if len(now) > len(before):
            self._waiters.show(now[-1])

    def _show_fetched(self, task_id: str, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._show(task_id)

    def _read(self, documents: Iterable[Document]) -> list[ResultMeta]:
        """Return the reports that counted when they came, in order.

        Raises:
            DecodeError: of one that cannot be read, unless there is a ready report besides.
        """
        reports: list[ResultMeta] = []
        unreadable: DecodeError | None = None
        for document in documents:
            try:
                meta = self._reports.decode(document)
            except DecodeError as error:
                unreadable = error
                continue
            if not reports or self._waiters.supersedes(meta.status, reports[-1].status):
                reports.append(meta)
        if unreadable is not None and not (reports and reports[-1].is_ready):
            raise unreadable
        return reports

    # For those who wait

    def history(self, task_id: str) -> Sequence[ResultMeta]:
        """Return what is known of a task that somebody begins to wait for; raises ``DecodeError``.

        What is not known yet, or has to be read again, is told to the waiters when it is here.
        """
        if not self.is_live or task_id in self._untold:
            return ()
        documents = self.index.documents(task_id)
        if documents is None:
            self._again(task_id, self._untold, self.recall.fetch)
        elif not documents and not self.index.is_complete and task_id not in self.index:
            # It may be new as well: what comes at the end of the stream goes past the search.
            self._again(task_id, self._searching, self.recall.search)
        return self._read(documents or ())

    def _tell(self, task_id: str) -> None:
        """Tell who waits for a task what is known of it."""
        if task_id in self._waiters:
            try:
                self._waiters.tell(task_id, self.history(task_id))
            except DecodeError as error:
                self._waiters.fail(task_id, error)

    def _again(self, task_id: str, running: set[str], read: _Read) -> None:
        if task_id in self._waiters and task_id not in running:
            running.add(task_id)
            read(task_id).add_done_callback(lambda done: self._read_again(task_id, running, read, done))

    def _read_again(self, task_id: str, running: set[str], read: _Read, done: asyncio.Future[None]) -> None:
        running.discard(task_id)  # failed, too: what is new is told rather without what was before than never
        if done.cancelled() or done.exception() is not None:
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._again, task_id, running, read)
        elif task_id in self.index:
            self._tell(task_id)

    # For those who look

    async def here(self, task_id: str) -> list[ResultMeta]:
        """Return what is known of a task, in order; documents that the index has let go of are fetched.

        Raises:
            DecodeError: it cannot be read.
            BrokerUnavailable: it cannot be fetched.
        """
        documents = self.index.documents(task_id)
        if documents is None:
            with self._looking_at(task_id):
                while (documents := self.index.documents(task_id)) is None:
                    await asyncio.shield(self.recall.fetch(task_id))
        return self._read(documents)

    async def anywhere(self, task_id: str) -> list[ResultMeta]:
        """Return what the stream holds of a task, in order; it is searched if the index had to drop tasks.

        Raises as ``here``.
        """
        reports = await self.here(task_id)
        if reports or self.index.is_complete or task_id in self.index:
            return reports
        with self._looking_at(task_id):
            await asyncio.shield(self.recall.search(task_id))
            return await self.here(task_id)

    @contextmanager
    def _looking_at(self, task_id: str) -> Iterator[None]:
        self._looked_at[task_id] += 1
        try:
            yield
        finally:
            self._looked_at[task_id] -= 1
            if not self._looked_at[task_id]:
                del self._looked_at[task_id]
