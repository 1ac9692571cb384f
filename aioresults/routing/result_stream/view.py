"""What this process knows of the tasks in a stream, and whom it tells.

Reports come in undecoded, and most stay so. One is decoded when somebody waits for its task, or asks for it.

Before the stream was once read to its end nobody is told anything: a report may be forgotten further on. A report that
is stored meanwhile stands behind the end that is looked for, so nobody waits longer for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from aioresults.errors import DecodeError, NotAReport
from aioresults.results import ResultMeta
from aioresults.routing.result_stream.index import Index, Position
from aioresults.routing.result_stream.replay import Replay
from aioresults.serialization import Document
from aioresults.serialization.report_codec import ReportCodec
from aioresults.waiting.waiters import Waiters

#: Seconds before what could not be read again is tried once more.
RETRY_INTERVAL: Final = 1.0
#: Tasks whose reports are decoded in one turn of the loop, where there may be very many.
AT_A_TIME: Final = 100


class Refusals(Protocol):
    """What is told of reports that cannot be read."""

    def refuse(self, *errors: DecodeError, leave: bool) -> bool:
        """Tell of them, and end the waits for their tasks."""


class StreamView:
    """The reports of a stream as its readers see them.

    Args:
        index: what was read; this view says which of its tasks must stay.
        replay: reads again what the index has let go of.
        refusals: is told of reports that cannot be read.
    """

    def __init__(self, index: Index, replay: Replay, waiters: Waiters, codec: ReportCodec, refusals: Refusals) -> None:
        self.index = index
        self.replay = replay
        self._waiters = waiters
        self._codec = codec
        self._refusals = refusals
        #: Whether what comes is new; not before the stream was once read to its end.
        self.is_live: bool = False
        #: The tasks of which those who wait are still to be told what is known, all of it in order: their documents are
        #: being fetched, or it is not their turn yet.
        self._untold: set[str] = set()
        #: The tasks that are searched for on behalf of those who wait.
        self._searching: set[str] = set()
        #: The tasks that somebody looks at, while they are read again.
        self._looked_at: Counter[str] = Counter()

    def must_stay(self, task_id: str) -> bool:
        """Whether somebody is being told of a task: it must stay in the index until then."""
        return task_id in self._waiters or task_id in self._looked_at or task_id in self.replay

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

    def take_in(self, position: Position, document: Document, task_id: str) -> bool:
        """Take in a report, and tell who waits for it; return whether it is young enough to count."""
        if not self.index.add(position, document):
            return False
        if self.is_live and task_id in self._waiters:
            if task_id not in self._untold:
                self._tell_new(document)
        elif self.is_live and self._waiters.is_observed:
            self._show(task_id, position.offset)
        return True

    def _tell_new(self, document: Document) -> None:
        try:
            self._waiters.report(self._codec.decode(document))
        except DecodeError as error:
            self._refusals.refuse(error, leave=True)

    def take_in_tombstone(self, position: Position, task_id: str) -> None:
        """Take in that a task was forgotten; who waits for it is told, unless that was before anybody did."""
        self.index.forget(position, task_id)
        if self.is_live:
            self._waiters.forget(task_id)

    def _show(self, task_id: str, since: int) -> None:
        """Tell the observers of the report that counts of a task that nobody waits for, if it came ``since`` then."""
        documents = self.index.latest(task_id, self, since=since)
        if documents is None:
            self.replay.fetch(task_id).add_done_callback(lambda done: self._show_fetched(task_id, since, done))
            return
        for document in documents:
            try:
                self._waiters.show(self._codec.decode(document))
            except DecodeError as error:
                self._refusals.refuse(error, leave=True)

    def _show_fetched(self, task_id: str, since: int, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._show(task_id, since)

    # Which report counts

    def status_of(self, document: Document) -> str | None:
        """Return the state that a document reports; None when it cannot be read."""
        try:
            return self._codec.decode(document).status
        except DecodeError:
            return None

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it."""
        return self._waiters.supersedes(new, old)

    # For those who wait

    def history(self, task_id: str) -> Sequence[ResultMeta]:
        """Return what is known of a task that somebody begins to wait for: the reports that counted when they came.

        What is not known yet, or has to be read again, is told to the waiters when it is here.

        Raises:
            DecodeError: a report cannot be read, and there is no ready report besides.
        """
        if not self.is_live or task_id in self._untold:
            return ()
        documents = self.index.documents(task_id)
        if documents is None:
            self._fetch(task_id)
            return ()
        if not documents and not self.index.is_complete and task_id not in self.index:
            # It may be new as well: what comes at the end of the stream goes past the search.
            self._search(task_id)
        reports: list[ResultMeta] = []
        unreadable: DecodeError | None = None
        for document in documents:
            try:
                meta = self._codec.decode(document)
            except NotAReport:
                continue
            except DecodeError as error:
                unreadable = error
                continue
            if not reports or self.supersedes(meta.status, reports[-1].status):
                if reports and reports[-1].is_ready:
                    reports.pop()  # a failure that a later success has replaced ends no wait
                reports.append(meta)
        if unreadable is not None and not (reports and reports[-1].is_ready):
            raise unreadable
        return reports

    def _tell(self, task_id: str) -> None:
        """Tell who waits for a task what is known of it."""
        if task_id in self._waiters:
            try:
                self._waiters.tell(task_id, self.history(task_id))
            except DecodeError as error:
                self._waiters.fail(task_id, error)

    def _fetch(self, task_id: str) -> None:
        if task_id in self._waiters and task_id not in self._untold:
            self._untold.add(task_id)
            self.replay.fetch(task_id).add_done_callback(lambda done: self._fetched(task_id, done))

    def _fetched(self, task_id: str, done: asyncio.Future[None]) -> None:
        self._untold.discard(task_id)  # failed, too: rather tell what is new without what was before than never
        if done.cancelled() or done.exception() is not None:
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._fetch, task_id)
        elif task_id in self.index:
            self._tell(task_id)

    def _search(self, task_id: str) -> None:
        if task_id in self._waiters and task_id not in self._searching:
            self._searching.add(task_id)
            self.replay.search(task_id).add_done_callback(lambda done: self._searched(task_id, done))

    def _searched(self, task_id: str, done: asyncio.Future[None]) -> None:
        self._searching.discard(task_id)
        if done.cancelled() or done.exception() is not None:
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._search, task_id)
        elif task_id in self.index:
            self._tell(task_id)

    # For those who look

    def here(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts among those whose documents are here; None for none, or if they are not.

        Raises:
            DecodeError: it cannot be read.
        """
        documents = self.index.latest(task_id, self)
        with suppress(NotAReport):
            return self._codec.decode(documents[0]) if documents else None
        return None

    async def latest(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts of a task that is known; documents that the index has let go of are fetched.

        Raises:
            DecodeError: it cannot be read.
            BrokerUnavailable: it cannot be fetched.
        """
        if self.index.latest(task_id, self) is None:
            with self._looking_at(task_id):
                while self.index.latest(task_id, self) is None:
                    await asyncio.shield(self.replay.fetch(task_id))
                return self.here(task_id)
        return self.here(task_id)

    async def find(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts of a task; the stream is searched for it if the index had to drop tasks.

        Raises as ``latest``.
        """
        meta = await self.latest(task_id)
        if meta is not None or self.index.is_complete or task_id in self.index:
            return meta
        with self._looking_at(task_id):
            await asyncio.shield(self.replay.search(task_id))
            return await self.latest(task_id)

    @contextmanager
    def _looking_at(self, task_id: str) -> Iterator[None]:
        self._looked_at[task_id] += 1
        try:
            yield
        finally:
            self._looked_at[task_id] -= 1
            if not self._looked_at[task_id]:
                del self._looked_at[task_id]
