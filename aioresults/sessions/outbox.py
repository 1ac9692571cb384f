"""What waits to be published: coalesced, confirmed, retried, in order.

Each destination has a queue with one publish in flight. Reports that arrive meanwhile wait in the queue. Where the
destination is an inbox of ours, they leave together as one message: that makes publishing fast. There is no timer: a
lone report leaves at once.

While one publish is in flight a few more may be pipelined, each of another task, because a caller's next request can be
faster than the confirm of its last. Each task has at most one publish in flight, so a retry cannot reorder its reports.
A failing destination delays no other destination. A queue exists only while it has something to send.

A publish is mandatory and confirmed. There are three ways to fail:

- The broker returns it, because there is no queue. If the routing has a queue for the task, that queue is declared
  (measured: faster than declaring first). Otherwise the destination is missing, and is retried by a policy of its own,
  with a single report as a probe. After that it is known to be gone: reports for it fail at once, so that a caller that
  has left costs a worker nothing. Once a second a ready report is sent all the same, and finds it if it is back.
- It fails for a reason that may pass: the retry policy applies.
- It gets no answer at all (the broker blocks publishers, a quorum queue has lost its majority): its callers fail after
  the duration of the retry policy. The publish itself is awaited further, because sending it again would only deliver
  it twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Container, Coroutine, Generator, Iterator, Sequence
from typing import Any, Final, Protocol
from uuid import uuid4

from aioresults.errors import (
    AioResultsError,
    BackendClosed,
    BrokerRefused,
    BrokerUnavailable,
    ChannelClosed,
    MessageNacked,
    MessageReturned,
    NotFound,
    PreconditionFailed,
    ResultNotRouted,
    ResultTooLarge,
)
from aioresults.events import Events, NotRouted, Unroutable
from aioresults.messaging import OutgoingMessage, Producer, Queue, declaring
from aioresults.retry import TRANSIENT_ERRORS, RetryPolicy
from aioresults.serialization.report_codec import ReportCodec
from aioresults.sessions.gone import GoneDestinations
from aioresults.sessions.sessions import Session, Sessions
from aioresults.transport.broker_errors import message_size_limit

#: A batch is bounded by count and bytes: a larger one saves nothing, and delays its first report.
MAX_BATCH_COUNT: Final = 300
MAX_BATCH_BYTES: Final = 1024 * 1024
#: Lone reports in flight to one routing key, besides the first: a confirm takes as long as a caller's next request.
MAX_PIPELINED: Final = 3
#: Reports that may wait, for one destination and for all together. Further stores wait to be admitted.
MAX_WAITING: Final = 10_000
MAX_TOTAL: Final = 50_000


class Destinations(Protocol):
    """Where an outbox publishes, and what must exist there."""

    @property
    def exchange(self) -> str:
        """The name of the exchange to which everything is published."""

    def coalesces(self, routing_key: str) -> bool:
        """Whether many reports for this routing key may travel in one message."""

    def queues_for(self, task_id: str) -> Sequence[Queue]:
        """Return the queues to declare when a report of a task finds none; empty if another process declares them."""

    async def declare(self, session: Session) -> None:
        """Declare the exchange again: a publish did not find it."""

    async def published(self, session: Session, task_id: str) -> None:
        """A report of a task was published to a queue that already existed."""


class PendingStore(asyncio.Future[Any], Coroutine[Any, Any, Any]):
    """One report on its way to the broker: what ``store_result`` returns.

    It resolves to the stored result when the broker has confirmed the report. If it is cancelled, an unsent report is
    withdrawn.

    The report is on its way before this is awaited, so a thousand stores need no thousand tasks (measured: a task with
    its coroutine costs as much as all the rest of a store). It is a future, which ``asyncio.gather``, ``wait_for``,
    ``shield`` and ``ensure_future`` accept. It is also a coroutine, because ``asyncio.create_task`` and task groups
    accept nothing else.
    """

    __slots__ = ("_steps", "correlation_id", "document", "is_ready", "task_id", "value")

    def __init__(
        self, task_id: str, correlation_id: str, document: bytes, value: object = None, *, is_ready: bool = True
    ) -> None:
        super().__init__()
        self.task_id: str = task_id
        self.correlation_id: str = correlation_id
        self.document: bytes = document
        self.value: object = value
        self.is_ready: bool = is_ready
        self._steps: Generator[Any, None, Any] | None = None

    def confirm(self) -> None:
        """Tell the caller, if it still waits, that the report is stored."""
        if not self.done():
            self.set_result(self.value)

    def fail(self, error: BaseException) -> None:
        """Tell the caller, if it still waits, what went wrong."""
        if not self.done():
            self.set_exception(error)

    # As a coroutine

    @property
    def __name__(self) -> str:
        return f"store_result({self.task_id!r})"

    def _step(self) -> Generator[Any, None, Any]:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps

    def send(self, value: Any) -> Any:
        """Take the next step of the task around this."""
        return self._step().send(value)

    def throw(self, *error: Any) -> Any:
        """End with ``error``; when the task around this is cancelled, that is ``CancelledError``."""
        self.cancel()
        return self._step().throw(*error)

    def close(self) -> None:
        """Give up."""
        self.cancel()


class PublishQueue:
    """What goes to one routing key: the batch in flight, and the reports behind it."""

    __slots__ = ("coalesces", "in_flight", "is_retrying", "message", "routing_key", "task", "timer", "waiting")

    def __init__(self, routing_key: str, coalesces: bool) -> None:
        self.routing_key: str = routing_key
        self.coalesces: bool = coalesces
        self.waiting: deque[PendingStore] = deque()
        self.in_flight: list[PendingStore] = []
        #: Whether the batch in flight has failed before.
        self.is_retrying: bool = False
        #: The message in flight; its id marks it as the same one when it is published again.
        self.message: OutgoingMessage | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.waiting) + len(self.in_flight)

    def can_pipeline(self, task_id: str) -> bool:
        """Whether this holds nothing but one report in flight, of another task, that has not failed."""
        return (
            len(self.in_flight) == 1
            and not self.waiting
            and not self.is_retrying
            and self.in_flight[0].task_id != task_id
        )

    def load(self, max_bytes: int, pipelined: Container[str] = ()) -> int:
        """Put the next batch in flight; return how many reports were withdrawn because their callers left.

        The batch ends before a report of a task in ``pipelined``; it may then be empty.
        """
        batch: list[PendingStore] = []
        size, most = 0, MAX_BATCH_COUNT if self.coalesces else 1
        waiting, before = self.waiting, len(self.waiting)
        while waiting and len(batch) < most:
            report = waiting.popleft()
            if report.done():
                continue
            size += len(report.document)
            if (size > max_bytes and batch) or report.task_id in pipelined:
                waiting.appendleft(report)
                break
            batch.append(report)
        self.in_flight, self.message = batch, None
        return before - len(waiting) - len(batch)

    def withdraw(self) -> int:
        """Take the reports whose callers have left out of flight; return how many."""
        kept = [report for report in self.in_flight if not report.done()]
        withdrawn = len(self.in_flight) - len(kept)
        if withdrawn:
            self.in_flight, self.message = kept, None
        return withdrawn

    def unload(self, keep: int) -> None:
        """Leave the first ``keep`` reports in flight, and put the others back in front of the queue, in order."""
        if keep < len(self.in_flight):
            self.waiting.extendleft(reversed(self.in_flight[keep:]))
            self.in_flight, self.message = self.in_flight[:keep], None


class _BatchTooLarge(AioResultsError):
    """The broker's limit for a message is lower than a batch of many reports."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"a batch is larger than {limit} bytes")


def _not_stored(reports: Sequence[PendingStore]) -> BrokerUnavailable:
    more = f" and {len(reports) - 1} more" if len(reports) > 1 else ""
    return BrokerUnavailable(f"the result of task {reports[0].task_id!r}{more} could not be stored")


class Outbox:
    """Publishes reports, and tells when the broker has confirmed them.

    Args:
        sessions: has the current session.
        codec: turns documents into messages.
        destinations: tells where reports go.
        events: told of missing destinations.
        policy: the waits between attempts.
        unroutable: seconds between attempts at a missing destination.
        producer: the class that publishes.
    """

    def __init__(
        self,
        sessions: Sessions,
        codec: ReportCodec,
        destinations: Destinations,
        events: Events,
        *,
        policy: RetryPolicy,
        unroutable: Sequence[float] = (),
        producer: type[Producer] = Producer,
    ) -> None:
        self._events = events
        self._sessions = sessions
        self._producer = producer()
        self._codec = codec
        #: The prefix of this lifetime's message ids: drawn here, so that a fork copies none.
        self._writer = uuid4().hex
        self._numbers = itertools.count(1)
        self._destinations = destinations
        self._exchange = destinations.exchange
        self._policy = policy
        self._unroutable = unroutable
        longest = policy.longest()
        #: Seconds that a publish may remain unanswered.
        self._confirm_timeout = None if longest is None else longest + sessions.rpc_timeout
        self._queues: dict[str, PublishQueue] = {}
        #: By routing key and task: lone reports in flight besides the one in the queue.
        self._pipelined: dict[str, dict[str, PublishQueue]] = {}
        self._total = 0
        # Ordered, because a plain dict that lost its first keys is slow to find the next.
        self._blocked: OrderedDict[str, deque[PendingStore]] = OrderedDict()
        self._gone = GoneDestinations()
        self._max_bytes = MAX_BATCH_BYTES
        self.stored: int = 0
        self.messages: int = 0
        self.retried: int = 0
        self.unrouted: int = 0
        self.not_routed: int = 0

    def __len__(self) -> int:
        """Return how many reports are not confirmed yet."""
        return self._total

    def put(self, routing_key: str, report: PendingStore) -> None:
        """Queue a report; later it is confirmed, or fails with one of these:

        ResultNotRouted, ResultTooLarge: it cannot be stored.
        BrokerUnavailable: it was not confirmed within the retry policy; the last error is the cause.
        ChannelError: the broker refused the queue or the publish.
        BackendClosed: the outbox was stopped first.

        Beyond the limits the report waits to be admitted; reports for one routing key are admitted in order.
        """
        if self._gone and self._gone.keeps_out(routing_key, is_ready=report.is_ready):
            self.not_routed += 1
            report.fail(ResultNotRouted(report.task_id, self._name(routing_key)))
        elif self._total < min(MAX_WAITING, MAX_TOTAL) and not self._blocked:  # nearly always
            self._enter(routing_key, report)
        elif routing_key in self._blocked or self._total >= MAX_TOTAL or self._length(routing_key) >= MAX_WAITING:
            self._blocked.setdefault(routing_key, deque()).append(report)
        else:
            self._enter(routing_key, report)

    def _enter(self, routing_key: str, report: PendingStore) -> None:
        self._total += 1
        queue = self._queues.get(routing_key)
        if queue is None:
            queue = self._queues[routing_key] = PublishQueue(routing_key, self._destinations.coalesces(routing_key))
            self._begin(queue, self._run(queue))
        elif queue.can_pipeline(report.task_id):
            pipelined = self._pipelined.setdefault(routing_key, {})
            if len(pipelined) < MAX_PIPELINED and report.task_id not in pipelined:
                queue = pipelined[report.task_id] = PublishQueue(routing_key, queue.coalesces)
                self._begin(queue, self._run_pipelined(queue, report.task_id))
        queue.waiting.append(report)

    def _begin(self, queue: PublishQueue, running: Coroutine[Any, Any, None]) -> None:
        # Not through the loop's task factory: an eager task would start at once and find nothing to send.
        queue.task = asyncio.Task(running, loop=asyncio.get_running_loop())

    def _queues_to(self, routing_key: str) -> Iterator[PublishQueue]:
        if routing_key in self._queues:
            yield self._queues[routing_key]
        yield from self._pipelined.get(routing_key, {}).values()

    def _length(self, routing_key: str) -> int:
        return sum(map(len, self._queues_to(routing_key)))

    def _admit(self, count: int) -> None:
        """Admit as many reports as have left, except into full queues; they are few, as the total is bounded."""
        emptied = []
        for routing_key, reports in self._blocked.items():
            room = min(count, MAX_WAITING - self._length(routing_key))
            while reports and room > 0:
                report = reports.popleft()
                if not report.done():
                    self._enter(routing_key, report)
                    room -= 1
                    count -= 1
            if not reports:
                emptied.append(routing_key)
            if count <= 0:
                break
        for routing_key in emptied:
            del self._blocked[routing_key]

    def _release(self, count: int) -> None:
        self._total -= count
        if self._blocked and count:
            self._admit(count)

    async def _run(self, queue: PublishQueue) -> None:
        try:
            while queue.waiting:
                pipelined = self._pipelined.get(queue.routing_key, {})
                self._release(queue.load(self._max_bytes, pipelined))
                if queue.in_flight:
                    await self._settle(queue)
                elif queue.waiting:
                    tasks = [each.task for each in pipelined.values() if each.task is not None]
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._queues[queue.routing_key]
            self._abandon(queue)

    async def _run_pipelined(self, queue: PublishQueue, task_id: str) -> None:
        pipelined = self._pipelined[queue.routing_key]
        try:
            self._release(queue.load(self._max_bytes))
            if queue.in_flight:
                await self._settle(queue)
        finally:
            del pipelined[task_id]
            if not pipelined:
                del self._pipelined[queue.routing_key]
            self._abandon(queue)

    def _name(self, routing_key: str) -> str:
        return f"{self._exchange}/{routing_key}" if self._exchange else routing_key

    async def _settle(self, queue: PublishQueue) -> None:
        """Deliver what is in flight, and tell the callers."""
        try:
            await self._deliver(queue)
        except MessageReturned:
            # The reports behind have shared the attempts.
            queue.in_flight += queue.waiting
            queue.waiting.clear()
            self.not_routed += len(queue.in_flight)
            name = self._name(queue.routing_key)
            for report in queue.in_flight:
                report.fail(ResultNotRouted(report.task_id, name))
            if self._gone.add(queue.routing_key):
                self._events.emit(NotRouted(name, len(queue.in_flight)))
        except Exception as error:
            for report in queue.in_flight:
                report.fail(error)
        else:
            self.stored += len(queue.in_flight)
            if self._gone:
                self._gone.pop(queue.routing_key, None)
            for report in queue.in_flight:
                report.confirm()
        settled, queue.in_flight, queue.is_retrying = len(queue.in_flight), [], False
        self._release(settled)

    def _abandon(self, queue: PublishQueue) -> None:
        """Fail the reports that a stopped queue leaves behind."""
        left = [*queue.in_flight, *queue.waiting]
        for report in left:
            report.fail(BackendClosed("the backend was closed before the result was confirmed"))
        self._release(len(left))

    async def _deliver(self, queue: PublishQueue) -> None:
        """Publish what is in flight, with retries as the policies say; an oversized batch is split."""
        delays: Iterator[float] | None = None
        absent: Iterator[float] | None = None
        while True:
            try:
                return await self._publish(queue)
            except BrokerRefused:
                raise
            except MessageReturned:
                queue.unload(1)
                if queue.routing_key in self._gone:
                    raise
                is_first = absent is None
                absent = iter(self._unroutable) if absent is None else absent
                delay = next(absent, None)
                if delay is None:
                    raise
                self.unrouted += 1
                if is_first:
                    self._events.emit(Unroutable(self._name(queue.routing_key), len(queue)))
            except _BatchTooLarge as error:
                self._max_bytes = min(self._max_bytes, error.limit // 2)
                queue.unload(len(queue.in_flight) // 2)
                continue
            except TRANSIENT_ERRORS as error:
                delays = self._policy.delays() if delays is None else delays
                delay = next(delays, None)
                if delay is None:
                    raise _not_stored(queue.in_flight) from error
                self.retried += 1
            queue.is_retrying = True
            await self._pause(delay)
            self._release(queue.withdraw())
            if not queue.in_flight:
                return None

    async def _pause(self, delay: float) -> None:
        """Wait ``delay`` seconds, or less if a new session follows a lost one."""
        if self._sessions.current is not None:
            await asyncio.sleep(delay)
            return
        try:
            await self._sessions.wait(delay)
        except BrokerRefused:
            raise
        except BrokerUnavailable:
            pass  # the next attempt reports it, too

    async def _publish(self, queue: PublishQueue) -> None:
        """Publish what is in flight once; twice if its queue is missing and can be declared."""
        # Without a session there is only the next one to wait for, and the delays do that.
        session = self._sessions.current or await self._sessions.wait(0)
        task_id = queue.in_flight[0].task_id
        try:
            await self._publish_once(session, queue)
        except MessageReturned:
            wanted = self._destinations.queues_for(task_id)
            if not wanted:
                raise
            for each in wanted:
                await session.run(declaring(each), publishing=True)
        except NotFound as error:
            await self._destinations.declare(session)
            raise ChannelClosed(error.reply_code, error.reply_text) from error
        else:
            await self._destinations.published(session, task_id)
            return
        try:
            await self._publish_once(session, queue)
        except MessageReturned as error:  # deleted after it was declared
            raise ChannelClosed(error.reply_code, error.reply_text) from None

    async def _publish_once(self, session: Session, queue: PublishQueue) -> None:
        channel = session.publisher or await session.open_publisher()
        if not self._producer.is_on(channel):
            await self._producer.revive(channel)
        message = queue.message = queue.message or self._message(queue.in_flight)
        self.messages += 1
        self._start_confirm_timer(queue)
        try:
            await self._producer.publish(message, queue.routing_key, exchange=self._exchange, mandatory=True)
        except MessageNacked:
            session.replace_publisher(channel)
            raise
        except PreconditionFailed as error:
            limit = message_size_limit(error.reply_text)
            if limit is None or len(message.body) <= limit:
                # Another publish on this channel closed it, and failed with the same words.
                raise ChannelClosed(error.reply_code, error.reply_text) from error
            if len(queue.in_flight) == 1:
                raise ResultTooLarge(queue.in_flight[0].task_id, len(message.body), limit) from error
            raise _BatchTooLarge(limit) from error
        finally:
            if queue.timer is not None:
                queue.timer.cancel()

    def _message(self, batch: Sequence[PendingStore]) -> OutgoingMessage:
        # Once for the message, not in the transport: it stays the same when the message is published again.
        message_id = f"{self._writer}.{next(self._numbers)}"
        if len(batch) == 1:
            return self._codec.single(batch[0].correlation_id, batch[0].document, message_id)
        return self._codec.batch([(report.task_id, report.document) for report in batch], message_id)

    def _start_confirm_timer(self, queue: PublishQueue, waiting: int = 0) -> None:
        if self._confirm_timeout is not None:
            loop = asyncio.get_running_loop()
            queue.timer = loop.call_later(self._confirm_timeout, self._confirm_is_late, queue, waiting)

    def _confirm_is_late(self, queue: PublishQueue, waiting: int) -> None:
        """Fail the unanswered reports in flight, and the first ``waiting`` reports behind them."""
        session = self._sessions.current
        blocked = f": the broker blocks publishers, {session.blocked}" if session and session.blocked else ""
        for report in (*queue.in_flight, *itertools.islice(queue.waiting, waiting)):
            text = (
                f"the result of task {report.task_id!r} was not confirmed within {self._confirm_timeout:g} s{blocked}"
            )
            report.fail(BrokerUnavailable(text))
        before = len(queue.waiting)
        queue.waiting = deque(report for report in queue.waiting if not report.done())
        self._release(before - len(queue.waiting))
        self._start_confirm_timer(queue, len(queue.waiting))

    async def flush(self) -> None:
        """Return when every report so far whose caller waits is confirmed or has failed."""
        while pending := [report for report in self._reports_left() if not report.done()]:
            await asyncio.gather(*map(asyncio.shield, pending), return_exceptions=True)

    def _reports_left(self) -> Iterator[PendingStore]:
        yield from itertools.chain.from_iterable(self._blocked.values())
        for queue in self._all_queues():
            yield from (*queue.in_flight, *queue.waiting)

    def _all_queues(self) -> Iterator[PublishQueue]:
        for routing_key in {*self._queues, *self._pipelined}:
            yield from self._queues_to(routing_key)

    async def stop(self) -> None:
        """Give up what is not confirmed: its callers get ``BackendClosed``."""
        blocked = [*itertools.chain.from_iterable(self._blocked.values())]
        self._blocked.clear()
        for report in blocked:
            report.fail(BackendClosed("the backend was closed before the result could be sent"))
        tasks = [queue.task for queue in self._all_queues() if queue.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        never_began = tuple(self._all_queues())
        self._queues.clear()
        self._pipelined.clear()
        for queue in never_began:
            self._abandon(queue)
