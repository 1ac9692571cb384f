"""Reading again: documents that the index has let go of, and tasks that it has let go of altogether.

Of the first the index knows the message, which is fetched by its offset; calls for the same message share the fetch,
and messages that are near each other are read in one go. For the second the stream is read from its beginning to where
the index begins; one such search serves all that ask until it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from heapq import heappop, heappush
from time import monotonic
from time import time as wall_clock
from typing import Any, Final

from aioresults.errors import AioResultsError, BrokerUnavailable, DecodeError
from aioresults.messaging import Message, Queue
from aioresults.routing.base import ReaderParts
from aioresults.routing.result_stream.index import Index, Position
from aioresults.serialization import Document
from aioresults.sessions.sessions import Session
from aioresults.waiting.memory import Deduplicator

#: Fetches at a time; each has a channel of its own.
PARALLEL: Final = 4
#: Messages that are read and passed over rather than starting another fetch: one takes as long as about 100 of them.
GAP: Final = 100
#: Seconds between two searches, at least; more when a search takes longer.
SEARCH_INTERVAL: Final = 1.0
#: Unacknowledged messages of a search.
PREFETCH: Final = 1000
#: Seconds that clocks of brokers and workers may differ.
CLOCK_SKEW: Final = 60.0
#: The last second that the index has room for; what claims to be later is as young as can be.
LATEST: Final = 2**32 - 1


def position_of(message: Message) -> Position:
    """Return where a message is in its stream, and when its writer sent it; now, if that does not say."""
    offset = message.headers.get("x-stream-offset", 0)
    sent = message.properties.timestamp
    return Position(int(offset), min(max(0, int(wall_clock() if sent is None else sent)), LATEST))


class Replay:
    """Reads from the stream what the index lacks, and puts it there.

    Args:
        stream: the queue that it is.
        max_age: seconds after which a result counts no longer; None: never.
    """

    def __init__(self, parts: ReaderParts, stream: Queue, index: Index, max_age: float | None) -> None:
        self._parts = parts
        self._stream = stream
        self._index = index
        self._max_age = max_age
        self._fetches: dict[str, asyncio.Future[None]] = {}
        #: The offsets that each of these still lacks.
        self._left: dict[str, set[int]] = {}
        self._searches: dict[str, asyncio.Future[None]] = {}
        #: The offsets to be fetched, and who wants something of each.
        self._offsets: list[int] = []
        self._wanted: dict[int, set[str]] = {}
        self._fetchers: set[asyncio.Task[None]] = set()
        self._searcher: asyncio.Task[None] | None = None
        #: Messages fetched and searches made.
        self.fetched: int = 0
        self.searched: int = 0

    def beginning(self) -> datetime | str:
        """Return what ``x-stream-offset`` is for where what still counts begins; the broker begins a little before."""
        if self._max_age is None:
            return "first"
        return datetime.fromtimestamp(max(0.0, wall_clock() - self._max_age - CLOCK_SKEW), UTC)

    def fetch(self, task_id: str) -> asyncio.Future[None]:
        """Have the documents of a task fetched; the future is done when they are in the index, or gone for good.

        It raises ``AioResultsError`` when they could not be fetched. It is shared: shield it.
        """
        future = self._fetches.get(task_id)
        if future is None:
            future = self._fetches[task_id] = asyncio.get_running_loop().create_future()
            offsets = self._left[task_id] = set(self._index.missing(task_id))
            if not offsets:
                self._end_fetch(task_id, None)
            for offset in offsets:
                if offset not in self._wanted:
                    self._wanted[offset] = set()
                    heappush(self._offsets, offset)
                self._wanted[offset].add(task_id)
            if self._offsets and len(self._fetchers) < PARALLEL:
                fetcher = asyncio.create_task(self._fetch_all(), name="aioresults fetch")
                self._fetchers.add(fetcher)
                fetcher.add_done_callback(self._fetchers.discard)
        return future

    def search(self, task_id: str) -> asyncio.Future[None]:
        """Have the stream searched for a task; otherwise as ``fetch``."""
        future = self._searches.get(task_id)
        if future is None:
            future = self._searches[task_id] = asyncio.get_running_loop().create_future()
            if self._searcher is None:
                self._searcher = asyncio.create_task(self._search_all(), name="aioresults search")
        return future

    def __contains__(self, task_id: str) -> bool:
        """Whether a task is being read again: it must stay in the index, with what comes, until all of it is there."""
        return task_id in self._fetches or task_id in self._searches

    async def stop(self, error: AioResultsError) -> None:
        """End what is being read; who waits for it gets ``error``."""
        tasks = [*self._fetchers, *([self._searcher] if self._searcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task_id in tuple(self._fetches):
            self._end_fetch(task_id, error)
        for future in self._searches.values():
            _settle(future, error)
        self._searches.clear()

    def _end_fetch(self, task_id: str, error: AioResultsError | None) -> None:
        self._left.pop(task_id, None)
        _settle(self._fetches.pop(task_id, None), error)

    # Fetching

    async def _fetch_all(self) -> None:
        await asyncio.sleep(0)  # others of the same turn may want what stands beside it
        while self._offsets:
            run = self._next_run()
            error: AioResultsError | None = None
            try:
                await self._fetch(run)
            except AioResultsError as failure:
                error = failure
            for offset, task_ids in run.items():
                for task_id in task_ids:
                    left = self._left.get(task_id, set())
                    left.discard(offset)
                    if error is not None or not left:
                        self._end_fetch(task_id, error)

    def _next_run(self) -> dict[int, set[str]]:
        """Take the first offset and those not far behind each other."""
        run: dict[int, set[str]] = {}
        offset = heappop(self._offsets)
        run[offset] = self._wanted.pop(offset)
        while self._offsets and self._offsets[0] - offset <= GAP:
            offset = heappop(self._offsets)
            run[offset] = self._wanted.pop(offset)
        return run

    async def _fetch(self, run: dict[int, set[str]]) -> None:
        first, last = next(iter(run)), next(reversed(run))
        found: dict[tuple[int, str], list[Document]] = {}
        positions: dict[int, Position] = {}

        def receive(position: Position, message: Message) -> None:
            wanted = run.get(position.offset)
            if wanted is not None:
                positions[position.offset] = position
                for document in self._open(message):
                    if document.task_id not in wanted:
                        continue
                    if document.body:
                        found.setdefault((position.offset, document.task_id), []).append(document)
                    else:
                        found.pop((position.offset, document.task_id), None)  # forgotten

        await self._scan(first, last, receive, prefetch=min(len(run), PREFETCH))
        self.fetched += len(positions)
        for offset, task_ids in run.items():
            for task_id in task_ids:
                position = positions.get(offset, Position(offset, 0))
                self._index.restore(position, task_id, found.get((offset, task_id), ()))

    # Searching

    async def _search_all(self) -> None:
        try:
            await asyncio.sleep(0)  # others of the same turn may ask, too
            while self._searches:
                error, began = None, monotonic()
                searches = dict(self._searches)
                try:
                    await self._search(searches)
                except AioResultsError as failure:
                    error = failure
                for task_id, future in searches.items():
                    del self._searches[task_id]
                    _settle(future, error)
                # Those who ask for one unknown id after another do not have the whole stream read without end.
                await asyncio.sleep(max(SEARCH_INTERVAL, monotonic() - began))
        finally:
            self._searcher = None

    async def _search(self, wanted: dict[str, asyncio.Future[None]]) -> None:
        found: dict[str, list[tuple[Position, Document]]] = {}
        seen = Deduplicator()

        def receive(position: Position, message: Message) -> None:
            if message.properties.message_id in seen:
                return
            documents = self._open(message)
            if documents:
                seen.note(message.properties.message_id)
            for document in documents:
                if document.task_id not in wanted:
                    continue
                if document.body:
                    found.setdefault(document.task_id, []).append((position, document))
                else:
                    found.pop(document.task_id, None)  # forgotten

        self.searched += 1
        await self._scan(self.beginning(), self._index.floor - 1, receive, prefetch=PREFETCH)
        for task_id, read in found.items():
            self._index.prepend(task_id, read)

    # Reading

    def _open(self, message: Message) -> list[Document]:
        try:
            return self._parts.settings.codec.open(message)
        except DecodeError:
            return []  # told when it arrived

    async def _scan(
        self, start: Any, stop: int, receive: Callable[[Position, Message], None], *, prefetch: int
    ) -> None:
        """Hand over the messages from ``start`` to the offset ``stop``.

        Raises:
            BrokerUnavailable: no session, or no message for ``rpc_timeout`` seconds.
        """
        session = await self._parts.sessions.wait(self._parts.settings.rpc_timeout)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        progress, ack_every = 0, max(1, prefetch // 10)

        def on_message(message: Message) -> None:
            nonlocal progress
            progress += 1
            position = position_of(message)
            if position.offset <= stop:
                receive(position, message)
            if position.offset >= stop and not done.done():
                done.set_result(None)
            if not progress % ack_every:
                message.ack(multiple=True)

        channel = await session.consumer(prefetch)
        try:
            consumer = self._parts.overrides.Consumer(channel, on_message=on_message)
            await consumer.attach(self._stream.name, arguments={"x-stream-offset": start})
            await self._until(done, session, lambda: progress)
        finally:
            await channel.close()

    async def _until(self, done: asyncio.Future[None], session: Session, progress: Callable[[], int]) -> None:
        before = -1
        while not done.done():
            if session.lost.done():
                raise BrokerUnavailable("the connection was lost while the stream was read")
            if progress() == before:
                raise BrokerUnavailable(f"nothing came from the stream within {self._parts.settings.rpc_timeout:g} s")
            before = progress()
            ends: list[asyncio.Future[Any]] = [done, session.lost]
            await asyncio.wait(ends, timeout=self._parts.settings.rpc_timeout, return_when=asyncio.FIRST_COMPLETED)


def _settle(future: asyncio.Future[None] | None, error: AioResultsError | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # nobody may be waiting any more
