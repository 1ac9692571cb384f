"""The background task that reads a stream: deliveries -> index, and to whoever waits.

Each session begins where the last one ended, so there is neither a gap nor a report twice; the first begins with what
still counts. A marker, which is published when a session begins and comes back in its turn, says that everything that
was stored before has been read. From then on an id that is not in the index is not in the stream either.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from time import time as wall_clock
from typing import Any, Final

from aioresults.background.repeats import Repeats
from aioresults.background.sessions import Session, Sessions
from aioresults.background.stream.index import Index, Position
from aioresults.background.stream.known import Known
from aioresults.background.stream.reading import Credit, position_of
from aioresults.background.stream.recall import Recall
from aioresults.errors import (
    AccessRefused,
    AioResultsError,
    BrokerUnavailable,
    ChannelClosed,
    DecodeError,
    NotFound,
)
from aioresults.events import Emit, QueueLost
from aioresults.messaging import Consumer, Message, Producer, Queue, declaring
from aioresults.results import ResultMeta
from aioresults.routing import OURS, Stream
from aioresults.serialization.report_codec import ReportCodec
from aioresults.timing import fail_after
from aioresults.transport import Channel
from aioresults.waiting.waiters import Waiters

logger = logging.getLogger("aioresults")

#: Unacknowledged messages, each of up to some hundred reports.
PREFETCH: Final = 1000
#: Seconds before a stream is consumed again whose replica was not ready.
ATTACH_INTERVAL: Final = 0.1
#: Seconds for a replica to be ready. Later another node may be tried sooner than this one is.
ATTACH_PATIENCE: Final = 1.0
#: Seconds before what could not be read, or the marker that could not be published, is tried again.
RETRY_INTERVAL: Final = 1.0
#: Seconds without a message, the marker among them, after which this is held to be another stream of the same name.
STALL: Final = 10.0
#: Seconds that clocks of brokers and workers may differ.
CLOCK_SKEW: Final = 60.0
MARKER: Final = OURS + "marker."
#: The document that hides those before it. No report is empty.
TOMBSTONE: Final = b""

#: Publishes a tombstone for a task; the future is done when it is confirmed.
Forget = Callable[[str], asyncio.Future[Any]]


class Tail:
    """Reads one stream for as long as the backend lives.

    Args:
        forget: publishes a tombstone. A marker is one, too, of a task that never was.
        consumer, producer: the classes of what consumes and publishes.
        rpc_timeout: seconds to wait for the broker, where something must come.
        emit: is told when the stream was lost, and of reports that cannot be read.
    """

    def __init__(
        self,
        stream: Stream,
        waiters: Waiters,
        reports: ReportCodec,
        sessions: Sessions,
        forget: Forget,
        *,
        consumer: type[Consumer],
        producer: type[Producer],
        rpc_timeout: float,
        emit: Emit,
    ) -> None:
        self._emit = emit
        self._stream = stream
        self._queue: Final[Queue] = stream.queue
        self._waiters = waiters
        self._reports = reports
        self._sessions = sessions
        self._forget = forget
        self._make_consumer = consumer
        self._make_producer = producer
        self._rpc_timeout = rpc_timeout
        index = Index(
            stream.index_bytes, stream.index_count, stream.max_age,
            keep=lambda task_id: task_id in self.known or task_id in recall,
        )  # fmt: skip
        recall = Recall(
            sessions, stream.queue, index, reports, start=self._beginning, consumer=consumer, rpc_timeout=rpc_timeout
        )
        self.known: Final = Known(index, recall, waiters, reports, emit)
        #: The last offset that was read; None before the first, and when the stream turned out to be another.
        self._offset: int | None = None
        self._marker = ""
        #: Set when the marker has come back, or was refused.
        self._marked = asyncio.Event()
        self._refusal: AioResultsError | None = None
        self._channel: Channel | None = None
        self._ended: asyncio.Future[None] | None = None
        #: Who waits for a tombstone of their own to come back, by task id.
        self._tombstones: dict[str, asyncio.Future[None]] = {}
        self._messages = 0
        self._repeats = Repeats()
        self.repeated = 0

    def __len__(self) -> int:
        """How many queues are consumed."""
        return int(self._ended is not None and not self._ended.done())

    @property
    def is_caught_up(self) -> bool:
        """Whether everything is in the index that was stored before this session began."""
        return self._marked.is_set() and self._refusal is None

    # Reading

    async def start(self, session: Session) -> None:
        """Consume the stream, from where the last session ended.

        Raises:
            ChannelClosed: it cannot be consumed here, yet.
        """
        deadline = monotonic() + ATTACH_PATIENCE
        while True:
            try:
                return await self._consume(session)
            except ChannelClosed:
                # Another process declares the stream at this moment, or the node has just come back.
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(ATTACH_INTERVAL)

    async def _consume(self, session: Session) -> None:
        if self._channel is not None:
            await self._channel.close()
        self._channel = channel = await session.consumer(PREFETCH)
        ended = asyncio.get_running_loop().create_future()
        credit = Credit(PREFETCH)

        def end(_: object) -> None:
            if not ended.done():
                ended.set_result(None)

        def receive(message: Message) -> None:
            # Of a consumer that was given up nothing counts: it would move the offset past what the next one reads.
            if not ended.done():
                self._receive(message)
                credit.received(message)

        channel.on_close(end)
        consumer = self._make_consumer(channel, on_message=receive, on_cancel=end)
        start = self._beginning() if self._offset is None else self._offset + 1
        await consumer.attach(self._queue.name, arguments={"x-stream-offset": start})
        self._ended = ended

    def _beginning(self) -> datetime | str:
        """Return where what still counts begins; the broker begins a little before."""
        if self._stream.max_age is None:
            return "first"
        return datetime.fromtimestamp(max(0.0, wall_clock() - self._stream.max_age - CLOCK_SKEW), UTC)

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost; a stream that was deleted meanwhile is declared again."""
        while not session.lost.done():
            marking = asyncio.create_task(self._mark(session))
            try:
                ends: list[asyncio.Future[Any]] = [session.lost, *([self._ended] if self._ended else [])]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                marking.cancel()
                self._marked.clear()
                self._refusal = None
                await asyncio.gather(marking, return_exceptions=True)
            while not session.lost.done() and not len(self):
                await self._begin_again(session)

    async def _begin_again(self, session: Session) -> None:
        try:
            await self._look_for_stream(session)
            await self.start(session)
        except (BrokerUnavailable, ChannelClosed) as error:
            logger.warning("the stream could not be consumed, trying again: %s", error)
            await asyncio.wait([session.lost], timeout=RETRY_INTERVAL)
        except AioResultsError as error:
            self._waiters.fail_all(error)
            await asyncio.wait([session.lost], timeout=RETRY_INTERVAL)

    async def _look_for_stream(self, session: Session) -> None:
        try:
            await session.run(lambda channel: self._queue(channel).declare(passive=True))
        except NotFound:
            self._emit(QueueLost(self._queue.name))
            self._start_over()
            await session.run(declaring(self._queue))

    def _start_over(self) -> None:
        self._offset = None
        self._repeats = Repeats()  # what is read once more is none
        self.known.is_live = False
        self.known.index.clear()

    async def _mark(self, session: Session) -> None:
        """Publish a marker, and see to it that it comes back."""
        await self._publish_marker(session)
        if not self.is_caught_up:
            self._marked.clear()
        if await self._is_stalled():
            self._emit(QueueLost(self._queue.name))  # there is another one of its name
            self._start_over()
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    async def _publish_marker(self, session: Session) -> None:
        self._marker = MARKER + uuid.uuid4().hex
        message = self._reports.single(self._marker, TOMBSTONE)
        while True:
            try:
                producer = self._make_producer(await session.open_publisher())
                await producer.publish(message, self._queue.name, mandatory=True, timeout=self._rpc_timeout)
                return
            except AccessRefused as error:
                if self._refusal is None:
                    logger.warning("who reads a stream must be allowed to write to it, too: %s", error)
                self._refusal = error
                self._marked.set()
                self._waiters.fail_all(error)
            except AioResultsError as error:
                logger.warning("no marker could be published to the stream, trying again: %s", error)
                self.known.go_live()  # nobody can say what is still to come: better an old answer than none
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

    async def finish(self, session: Session) -> None:
        """Do nothing: the stream is everybody's."""

    @property
    def has_to_delete(self) -> bool:
        """The stream stays."""
        return False

    async def stop(self, error: AioResultsError) -> None:
        """End what is being read again; who waits for it gets ``error``."""
        await self.known.recall.stop(error)

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures."""
        return {
            "consuming": len(self),
            "received": self.known.received,
            "repeated": self.repeated,
            "undecodable": self.known.undecodable,
            "caught_up": self.is_caught_up,
            "indexed": len(self.known.index),
            "indexed_bytes": self.known.index.bytes,
            "fetched": self.known.recall.fetched,
            "searched": self.known.recall.searched,
        }

    # Called by the transport

    def _receive(self, message: Message) -> None:
        position = position_of(message)
        if self._offset is not None and position.offset <= self._offset:
            return  # the broker begins at the start of a chunk
        self._offset = position.offset
        self._messages += 1
        if message.properties.message_id in self._repeats:
            self.repeated += 1
            return
        self._repeats.note(message.properties.message_id)
        try:
            documents = self._reports.open(message)
        except DecodeError as error:
            self.known.drop(error)
            return
        for document in documents:
            if document.task_id is None:
                continue
            if document.body:
                self.known.take_in(position, document, document.task_id)
            else:
                self._take_in_tombstone(position, document.task_id)

    def _take_in_tombstone(self, position: Position, task_id: str) -> None:
        if task_id.startswith(MARKER):
            if task_id == self._marker:
                self.known.go_live()
                self._refusal = None
                self._marked.set()
            return
        self.known.take_in_tombstone(position, task_id)
        noticed = self._tombstones.get(task_id)
        if noticed is not None and not noticed.done():
            noticed.set_result(None)

    # Looking and forgetting

    async def look(self, task_id: str) -> Sequence[ResultMeta]:
        """Return the reports of a task, in order, without waiting for any to come.

        An id that is not in a complete index costs no traffic.

        Raises:
            BrokerUnavailable: it is not known here, and the broker cannot be asked; or the stream was not read to its
                end within ``rpc_timeout``.
            AccessRefused: it never will be.
            DecodeError: what is there cannot be read.
        """
        while not self.is_caught_up:
            # Before the stream was once read to its end, what is known may be forgotten further on.
            reports = await self.known.here(task_id) if self.known.is_live else ()
            if reports and (reports[-1].is_ready or self._sessions.current is None):
                return reports  # nothing can be known that would say more
            await self._sessions.wait(self._rpc_timeout)
            async with fail_after(self._rpc_timeout, "the stream was not read to its end"):
                await self._until_marked()
        return await self.known.anywhere(task_id)

    async def forget(self, task_id: str) -> None:
        """Hide what the stream holds of a task from every reader; return when this one has noticed, if it reads."""
        await self._sessions.wait(self._rpc_timeout)
        while (before := self._tombstones.get(task_id)) is not None:
            await asyncio.wait([before])  # or its tombstone would be taken for the one that follows
        noticed = self._tombstones[task_id] = asyncio.get_running_loop().create_future()
        try:
            await self._forget(task_id)
            if len(self):
                await asyncio.wait([noticed], timeout=self._rpc_timeout)
        finally:
            del self._tombstones[task_id]
            if not noticed.done():
                noticed.set_result(None)
