"""Brings in results from one stream: deliveries -> index -> whoever waits.

Each session begins where the last one ended, so there is neither a gap nor a report twice; the first begins with what
still counts. A marker, which is published when a session begins and comes back in its turn, says that everything that
was stored before has been read. From then on an id that is not in the index is not in the stream either.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import ClassVar, Final

from aioresults.errors import (
    AccessRefused,
    AioResultsError,
    ChannelClosed,
    ConfigurationError,
    DecodeError,
)
from aioresults.events import QueueLost
from aioresults.messaging import Message, Queue, declaring
from aioresults.results import ResultMeta
from aioresults.routing.base import DEFAULT_BACKLOG_LIMIT, OURS, ReaderParts
from aioresults.routing.result_stream.index import Index, Position
from aioresults.routing.result_stream.replay import Replay, position_of
from aioresults.routing.result_stream.view import StreamView
from aioresults.routing.single_queue import RETRY_INTERVAL, SingleQueueReader
from aioresults.serialization import Document
from aioresults.sessions.outbox import PendingStore
from aioresults.sessions.sessions import Session
from aioresults.timing import fail_after
from aioresults.waiting.memory import Deduplicator

logger: Final = logging.getLogger("aioresults")

#: Unacknowledged messages, each of up to some hundred reports.
PREFETCH: Final = 1000
#: Seconds before a stream is consumed again whose replica was not ready.
ATTACH_INTERVAL: Final = 0.1
#: Seconds for a replica to be ready. Later another node may be tried sooner than this one is.
ATTACH_TIMEOUT: Final = 1.0
#: Seconds without a message, the marker among them, after which this is held to be another stream of the same name.
STALL: Final = 10.0
MARKER: Final = OURS + "marker."
#: The document that hides those before it. No report is empty.
TOMBSTONE: Final = b""


class ResultStreamReader(SingleQueueReader):
    """Reads one stream for as long as the backend is open. Nothing is taken: whoever looks next sees the same.

    Args:
        stream: the queue that it is.
        max_age: seconds after which a result counts no longer; None: never.
        index_bytes, index_count: how much of it is kept in memory, in bytes of documents and in tasks.
    """

    keeps_unclaimed: ClassVar[bool] = False
    # Nothing is taken off a stream by an acknowledgement. It lets the broker send more, and must not be owed for longer
    # than the broker's ``consumer_timeout``.
    ack_count: ClassVar[int] = PREFETCH // 10
    ack_delay: ClassVar[float] = 1.0

    def __init__(
        self, parts: ReaderParts, stream: Queue, *, max_age: float | None, index_bytes: int, index_count: int
    ) -> None:
        super().__init__(parts, stream)
        index = Index(index_bytes, index_count, max_age, keeper=self)
        replay = Replay(parts, stream, index, max_age)
        self.view: Final = StreamView(index, replay, self.waiters, parts.settings.codec, self)
        #: The last offset that was read; None before the first, and when the stream turned out to be another.
        self._offset: int | None = None
        self._marker = ""
        #: Set when the marker has come back, or was refused.
        self._marked = asyncio.Event()
        self._refusal: AioResultsError | None = None
        #: Who waits for a tombstone of their own to come back, by task id.
        self._tombstones: dict[str, asyncio.Future[None]] = {}
        self._messages = 0

    @property
    def is_caught_up(self) -> bool:
        """Whether everything is in the index that was stored before this session began."""
        return self._marked.is_set() and self._refusal is None

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures."""
        return {
            **super().stats(),
            "caught_up": self.is_caught_up,
            "indexed": len(self.view.index),
            "indexed_bytes": self.view.index.bytes,
            "fetched": self.view.replay.fetched,
            "searched": self.view.replay.searched,
        }

    # From session to session

    async def start(self, session: Session) -> None:
        """Consume the stream, from where the last session ended.

        Raises:
            ChannelClosed: it cannot be consumed here, yet.
        """
        deadline = monotonic() + ATTACH_TIMEOUT
        while True:
            start = self.view.replay.beginning() if self._offset is None else self._offset + 1
            try:
                return await self._consume(session, PREFETCH, {"x-stream-offset": start})
            except ChannelClosed:
                # Another process declares the stream at this moment, or the node has just come back.
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(ATTACH_INTERVAL)

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost; a stream that was deleted meanwhile is declared again."""
        while not session.lost.done():
            marking = asyncio.create_task(self._mark(session))
            try:
                await self._until_ended(session)
            finally:
                marking.cancel()
                self._marked.clear()
                self._refusal = None
                await asyncio.gather(marking, return_exceptions=True)
            await self._retrying(session, self._begin_again)

    async def _begin_again(self, session: Session) -> None:
        if not await self._is_there(session):
            self.settings.events.emit(QueueLost(self._queue.name))
            self._start_over()
            await session.run(declaring(self._queue))
        await self.start(session)

    def _start_over(self) -> None:
        self._offset = None
        self.deduplicator: Deduplicator = Deduplicator()  # a message that is read once more is no repeat
        self.view.is_live = False
        self.view.index.clear()

    async def stop(self, error: AioResultsError) -> None:
        """End what is being read again; whoever waits for it gets ``error``."""
        await self.view.replay.stop(error)

    # The marker

    async def _mark(self, session: Session) -> None:
        """Publish a marker, and see to it that it comes back."""
        await self._publish_marker(session)
        if not self.is_caught_up:
            self._marked.clear()
        if await self._is_stalled():
            self.settings.events.emit(QueueLost(self._queue.name))  # there is another one of its name
            self._start_over()
            self._end()

    async def _publish_marker(self, session: Session) -> None:
        self._marker = MARKER + uuid.uuid4().hex
        message = self.settings.codec.single(self._marker, TOMBSTONE, self._marker)
        while True:
            try:
                producer = self.parts.overrides.Producer(await session.open_publisher())
                await producer.publish(message, self._queue.name, mandatory=True, timeout=self.settings.rpc_timeout)
                return
            except AccessRefused as error:
                if self._refusal is None:
                    logger.warning("a reader of a stream must be allowed to write to it, too: %s", error)
                self._refusal = error
                self._marked.set()
                self.waiters.fail_all(error)
            except AioResultsError as error:
                logger.warning("no marker could be published to the stream, trying again: %s", error)
                self.view.go_live()  # nobody can say what is still to come: better an old answer than none
            await asyncio.sleep(RETRY_INTERVAL)

    async def _is_stalled(self) -> bool:
        """Wait for the marker; return whether nothing came within ``STALL`` seconds."""
        while not self.is_caught_up:
            before = self._messages
            with suppress(TimeoutError):
                async with asyncio.timeout(STALL):
                    await self._marked.wait()
            if self._messages == before:
                return True
        return False

    async def caught_up(self, timeout: float) -> None:
        """Return when everything that was stored before is in the index, or after ``timeout`` seconds.

        Raises:
            AccessRefused: nobody will ever know, because the marker is refused.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._until_marked()

    async def _until_marked(self) -> None:
        await self._marked.wait()
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)

    # What is received

    def on_message(self, message: Message) -> None:
        """Take in one message, and have it acknowledged."""
        # Of a consumer that was given up nothing counts: it would move the offset past what the next one reads.
        if self.consuming:
            self._take_in(message)
            self.acknowledge_soon(message)

    def _take_in(self, message: Message) -> None:
        """Take in a report, a tombstone, or a batch of them."""
        position = position_of(message)
        if self._offset is not None and position.offset <= self._offset:
            return  # the broker begins at the start of a chunk
        self._offset = position.offset
        self._messages += 1
        if self.is_repeated(message.properties.message_id):
            return
        try:
            documents = self.settings.codec.open(message)
        except DecodeError as error:
            if not (error.task_id or "").startswith(MARKER):  # of a reader that writes otherwise
                self.refuse(error, leave=True)
            return
        self.deduplicator.note(message.properties.message_id)  # not before it is known to be genuine
        for document in documents:
            if document.task_id is None:
                continue
            if document.body:
                self.received += self.view.take_in(position, document, document.task_id)
            else:
                self._take_in_tombstone(position, document.task_id)

    def _take_in_tombstone(self, position: Position, task_id: str) -> None:
        if task_id.startswith(MARKER):
            if task_id == self._marker:
                self.view.go_live()
                self._refusal = None
                self._marked.set()
            return
        self.view.take_in_tombstone(position, task_id)
        noticed = self._tombstones.get(task_id)
        if noticed is not None and not noticed.done():
            noticed.set_result(None)

    def refuse(self, *errors: DecodeError, leave: bool) -> bool:
        """Take in that something cannot be read; of what every reader reads again at its start, the first is told."""
        if self.view.is_live or not self.undecodable:
            return super().refuse(*errors, leave=leave)
        self.undecodable += len(errors)
        for error in errors:
            self.fail(error)
        return leave

    # Waits that begin and end

    def wait_began(self, task_id: str) -> tuple[Sequence[ResultMeta], Document | None]:
        """Return the reports of a task that were read."""
        reports = self.view.history(task_id)
        if not (reports and reports[-1].is_ready):
            self.refusals.check(task_id)
        return reports, None

    def wait_ended(self, task_id: str, last: ResultMeta | None, document: Document | None, *, taken: bool) -> None:
        """Do nothing: all reports are in the stream, and their places in the index."""

    def ready(self, task_id: str) -> None:
        """Return None: no result is taken here; all are in the stream."""

    def must_stay(self, task_id: str) -> bool:
        """Whether a task must stay in the index."""
        return self.view.must_stay(task_id)

    # Looking

    async def peek(self, task_id: str, backlog_limit: int = DEFAULT_BACKLOG_LIMIT) -> ResultMeta | None:
        """Return the report that counts, without waiting for any to come; None when there is none.

        An id that is not in a complete index costs no traffic. There is no backlog: nothing stands in a queue.

        Raises:
            ConfigurationError: this process does not read the stream.
            BrokerUnavailable: it is not known here, and the broker cannot be asked; or the stream was not read to its
                end within ``rpc_timeout``.
            AccessRefused: it never will be.
            DecodeError: what is there cannot be read.
        """
        if self.settings.store_only:
            raise ConfigurationError(
                "this backend is store_only: it does not read the stream, and cannot know of a result"
            )
        while not self.is_caught_up:
            # Before the stream was once read to its end, what is known may be forgotten further on.
            meta = await self.view.latest(task_id) if self.view.is_live else None
            if meta is not None and (meta.is_ready or self.parts.sessions.current is None):
                return meta  # nothing can be known that would say more
            await self.parts.sessions.wait(self.settings.rpc_timeout)
            async with fail_after(self.settings.rpc_timeout, "the stream was not read to its end"):
                await self._until_marked()
        meta = await self.view.find(task_id)
        if meta is None:
            self.refusals.check(task_id)
        return meta

    async def take(self, task_ids: Sequence[str]) -> list[ResultMeta]:
        """Return the ready reports of these tasks.

        Raises:
            BrokerUnavailable: the stream could not be read so far within ``rpc_timeout``, though it goes on coming.
        """
        async with fail_after(self.settings.rpc_timeout, "the stream was not read to its end"):
            known = await asyncio.gather(*map(self.peek, task_ids))
        return [meta for meta in known if meta is not None and meta.is_ready]

    # Forgetting

    async def delete(self, task_id: str) -> None:
        """Hide what the stream holds of a task from every reader; return when this one has noticed, if it reads."""
        await self.parts.sessions.wait(self.settings.rpc_timeout)
        while (before := self._tombstones.get(task_id)) is not None:
            await asyncio.wait([before])  # or its tombstone would be taken for the one that follows
        noticed = self._tombstones[task_id] = asyncio.get_running_loop().create_future()
        try:
            tombstone = PendingStore(task_id, task_id, TOMBSTONE)
            self.parts.outbox.put(self._queue.name, tombstone)
            await tombstone
            if self.consuming:
                await asyncio.wait([noticed], timeout=self.settings.rpc_timeout)
        finally:
            del self._tombstones[task_id]
            if not noticed.done():
                noticed.set_result(None)
