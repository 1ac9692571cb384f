"""What this process knows of the tasks in a stream, and whom it tells.

Reports come in undecoded, and most stay so. One is decoded when somebody waits for its task, or asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from aioresults import states
from aioresults.errors import DecodeError
from aioresults.events import Dropped, Emit
from aioresults.reports import Reports
from aioresults.results import ResultMeta
from aioresults.serialization import Document
from aioresults.stream.index import Index, Position
from aioresults.stream.recall import Recall
from aioresults.waiters import Waiters

#: Seconds before what could not be read again is tried once more.
RETRY_INTERVAL: Final = 1.0

_Read = Callable[[str], "asyncio.Future[None]"]


class Known:
    """The reports of a stream as its readers see them.

    Args:
        index: what was read.
        recall: reads again what the index has let go of.
        emit: is told of reports that cannot be read.
    """

    def __init__(self, index: Index, recall: Recall, waiters: Waiters, reports: Reports, emit: Emit) -> None:
        self._emit = emit
        self.index = index
        self.recall = recall
        self._waiters = waiters
        self._reports = reports
        #: Whether what comes is new; not before the stream was once read to its end.
        self.is_live = False
        #: The tasks that somebody waits for and whose documents are being fetched: they are told all of it in order.
        self._fetching: set[str] = set()
        self._searching: set[str] = set()
        self.received = 0
        self.undecodable = 0
        waiters.history = self.history

    def go_live(self) -> None:
        """Note that the stream was read to its end: what somebody waits for and has not come by now is searched for."""
        if self.is_live:
            return
        self.is_live = True
        for task_id in self._waiters:
            self._search_dropped(task_id)

    # What is read at the end of the stream

    def take_in(self, position: Position, document: Document, task_id: str) -> None:
        """Take in a report, and tell who waits for it."""
        if not self.index.add(position, document):
            return
        self.received += 1
        if task_id in self._waiters:
            if task_id in self._fetching:
                return
            try:
                self._waiters.report(self._reports.decode(document))
            except DecodeError as error:
                self.drop(error)
        elif self.is_live and self._waiters.is_observed:
            self._show(task_id)

    def take_in_tombstone(self, position: Position, task_id: str) -> None:
        """Take in that a task was forgotten; who waits for it is told, unless that was before anybody did."""
        self.index.forget(position, task_id)
        if self.is_live:
            self._waiters.forget(task_id)
        else:
            self._waiters.restart(task_id)

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
            if not reports or states.supersedes(meta.status, reports[-1].status):
                reports.append(meta)
        if unreadable is not None and not (reports and reports[-1].is_ready):
            raise unreadable
        return reports

    # For those who wait

    def history(self, task_id: str) -> Sequence[ResultMeta]:
        """Return what is known of a task that somebody begins to wait for; raises ``DecodeError``.

        What has to be read again is reported to the waiters when it is here.
        """
        documents = self.index.documents(task_id)
        if documents is None:
            self._again(task_id, self._fetching, self.recall.fetch)
        elif documents:
            return self._read(documents)
        elif self.is_live:
            self._search_dropped(task_id)
        return ()

    def _search_dropped(self, task_id: str) -> None:
        """Have a task searched for that the index may have dropped.

        It may be new as well: what comes at the end of the stream goes past the search.
        """
        if not self.index.is_complete and task_id not in self.index:
            self._again(task_id, self._searching, self.recall.search)

    def _again(self, task_id: str, running: set[str], read: _Read) -> None:
        if task_id in self._waiters and task_id not in running:
            running.add(task_id)
            read(task_id).add_done_callback(lambda done: self._read_again(task_id, running, read, done))

    def _read_again(self, task_id: str, running: set[str], read: _Read, done: asyncio.Future[None]) -> None:
        running.discard(task_id)
        if task_id not in self._waiters:
            return
        documents = self.index.documents(task_id)
        if done.cancelled() or done.exception() is not None or documents is None:
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._again, task_id, running, read)
            return
        told = self._waiters.latest(task_id) is not None
        try:
            for meta in self._read(documents):
                if not told or meta.is_ready:
                    self._waiters.report(meta)
        except DecodeError as error:
            self._waiters.fail(task_id, error)

    # For those who look

    async def here(self, task_id: str) -> list[ResultMeta]:
        """Return what is known of a task, in order; documents that the index has let go of are fetched.

        Raises:
            DecodeError: it cannot be read.
            BrokerUnavailable: it cannot be fetched.
        """
        while (documents := self.index.documents(task_id)) is None:
            await asyncio.shield(self.recall.fetch(task_id))
        return self._read(documents)

    async def anywhere(self, task_id: str) -> list[ResultMeta]:
        """Return what the stream holds of a task, in order; it is searched if the index had to drop tasks.

        Raises as ``here``.
        """
        reports = await self.here(task_id)
        if not reports and not self.index.is_complete and task_id not in self.index:
            await asyncio.shield(self.recall.search(task_id))
            reports = await self.here(task_id)
        return reports
