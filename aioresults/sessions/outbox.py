"""What waits to be published: coalesced, confirmed, retried, in order.

Each destination has a queue with one publish in flight. Reports that come meanwhile wait in it and, where the
destination is an inbox of ours, go out together as one message: that is why this is fast. There is no timer: a lone
report leaves at once. While one is in flight a few more may be pipelined, each of another task, since a caller's next
request can be faster than the confirm of its last. Of a task there is one publish in flight, so a retry cannot reorder
its reports; and a destination that fails holds up no other. A queue exists only while it has something to send.

A publish is mandatory and confirmed. When the broker returns it because there is no queue, the queue is declared where
the routing has one for the task (measured, that is faster than declaring first). Otherwise the destination is not there
yet, or no more, and is tried again by a policy of its own, with a single report to probe. What fails for a reason that
may pass is tried again by the retry policy. A publish that is not answered at all (the broker blocks publishers, a
quorum queue has lost its majority) fails its callers after as long as that policy lasts, and is waited for further:
sent again, it would only arrive twice.
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
from aioresults.sessions.sessions import Session, Sessions
from aioresults.transport.broker_errors import message_size_limit

#: A batch is bounded by count and bytes: more saves nothing, and delays the first of its reports.
MAX_BATCH_COUNT: Final = 300
MAX_BATCH_BYTES: Final = 1024 * 1024
#: Lone reports in flight to one routing key, beside the first. A confirm takes as long as a caller's next request.
MAX_PIPELINED: Final = 3
#: Reports that may wait, for one destination and for all together; beyond, stores wait to be let in.
MAX_WAITING: Final = 10_000
MAX_TOTAL: Final = 50_000


class Destinations(Protocol):
    """Where an outbox publishes, and what must exist there."""

    @property
    def exchange(self) -> str:
        """The name of the exchange that everything is published to."""

    def coalesces(self, routing_key: str) -> bool:
        """Whether many reports for this routing key may travel in one message."""

    def queues_for(self, task_id: str) -> Sequence[Queue]:
        """Return the queues to declare when a report of a task finds none; none where somebody else declares them."""

    async def declare(self, session: Session) -> None:
        """Declare the exchange again: a publish did not find it."""

    async def published(self, session: Session, task_id: str) -> None:
        """A report of a task was published to a queue that was there before."""


class PendingStore(asyncio.Future[Any], Coroutine[Any, Any, Any]):
    """One report on its way to the broker: what ``store_result`` returns.

    Resolves to the result that was stored when the broker has confirmed it; cancelled, it is withdrawn if unsent.

    The report is on its way before anybody awaits this, so a thousand stores need no thousand tasks (measured: a task
    with its coroutine costs as much as all the rest of a store). ``asyncio.gather``, ``wait_for``, ``shield`` and
    ``ensure_future`` take it as the future that it is. It is a coroutine besides, because ``asyncio.create_task`` and
    task groups take nothing else.
    """

    __slots__ = ("_steps", "correlation_id", "document", "task_id", "value")

    def __init__(self, task_id: str, correlation_id: str, document: bytes, value: object = None) -> None:
        super().__init__()
        self.task_id: str = task_id
        self.correlation_id: str = correlation_id
        self.document: bytes = document
        self.value: object = value
        self._steps: Generator[Any, None, Any] | None = None

    def confirm(self) -> None:
        """Tell the caller, if there still is one, that the report is stored."""
        if not self.done():
            self.set_result(self.value)

    def fail(self, error: BaseException) -> None:
        """Tell the caller, if there still is one, what went wrong."""
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
        """Take the next step of the task that wraps this."""
        return self._step().send(value)

    def throw(self, *error: Any) -> Any:
        """End with ``error``, which for a task that is cancelled is ``CancelledError``."""
        self.cancel()
        return self._step().throw(*error)

    def close(self) -> None:
        """Give up."""
        self.cancel()


class PublishQueue:
    """What goes to one routing key: the batch in flight, and what waits behind it."""

    __slots__ = ("coalesces", "in_flight", "is_retrying", "message", "routing_key", "task", "timer", "waiting")

    def __init__(self, routing_key: str, coalesces: bool) -> None:
        self.routing_key: str = routing_key
        self.coalesces: bool = coalesces
        self.waiting: deque[PendingStore] = deque()
        self.in_flight: list[PendingStore] = []
        #: Whether what is in flight has failed before.
        self.is_retrying: bool = False
        #: What is in flight, as it is published; published again, it is known by its id.
        self.message: OutgoingMessage | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.waiting) + len(self.in_flight)

    def can_pipeline(self, task_id: str) -> bool:
        """Whether all there is here is one report in flight, of another task, that has not failed."""
        return (
            len(self.in_flight) == 1
            and not self.waiting
            and not self.is_retrying
            and self.in_flight[0].task_id != task_id
        )

    def load(self, max_bytes: int, pipelined: Container[str] = ()) -> int:
        """Put the next batch in flight; return how many reports were withdrawn, their callers having left.

        The batch ends before a report of a task in ``pipelined``, which may leave it empty.
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
        """Take out of flight the reports whose callers have left; return how many."""
        kept = [report for report in self.in_flight if not report.done()]
        withdrawn = len(self.in_flight) - len(kept)
        if withdrawn:
            self.in_flight, self.message = kept, None
        return withdrawn

    def unload(self, keep: int) -> None:
        """Leave the first ``keep`` reports in flight, and let the others wait again, in order."""
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
    """Publishes reports, and says when the broker has them.

    Args:
        sessions: where the current session is found.
        codec: makes messages of documents.
        destinations: where reports go.
        events: is told of destinations that are not there.
        policy: the waits between attempts.
        unroutable: seconds between attempts at a destination that is not there.
        producer: the class of what publishes.
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
        #: Message ids of this process: drawn here, so that a fork copies none.
        self._writer = uuid4().hex
        self._numbers = itertools.count(1)
        self._destinations = destinations
        self._exchange = destinations.exchange
        self._policy = policy
        self._unroutable = unroutable
        longest = policy.longest()
        #: Seconds that a publish may go unanswered.
        self._confirm_timeout = None if longest is None else longest + sessions.rpc_timeout
        self._queues: dict[str, PublishQueue] = {}
        #: By routing key and task: lone reports in flight beside the one in the queue.
        self._pipelined: dict[str, dict[str, PublishQueue]] = {}
        self._total = 0
        # Ordered, because a dict that loses its first keys is slow to find the next.
        self._blocked: OrderedDict[str, deque[PendingStore]] = OrderedDict()
        self._max_bytes = MAX_BATCH_BYTES
        self.stored: int = 0
        self.messages: int = 0
        self.retried: int = 0
        self.unrouted: int = 0
        self.not_routed: int = 0

    def __len__(self) -> int:
        """How many reports are not confirmed yet."""
        return self._total

    def put(self, routing_key: str, report: PendingStore) -> None:
        """Queue a report, which is told when the broker has confirmed it, or one of these:

        ResultNotRouted, ResultTooLarge: it cannot be stored.
        BrokerUnavailable: not within the retry policy; the last error is its cause.
        ChannelError: the broker refused the queue or the publish.
        BackendClosed: the outbox was stopped before.

        Beyond the limits it waits to be let in; those for one routing key get in in the order they came.
        """
        if self._total < min(MAX_WAITING, MAX_TOTAL) and not self._blocked:  # as nearly always
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
        # Not by the loop's task factory: a queue that begins at once (eager tasks) would find nothing to send.
        queue.task = asyncio.Task(running, loop=asyncio.get_running_loop())

    def _queues_to(self, routing_key: str) -> Iterator[PublishQueue]:
        if routing_key in self._queues:
            yield self._queues[routing_key]
        yield from self._pipelined.get(routing_key, {}).values()

    def _length(self, routing_key: str) -> int:
        return sum(map(len, self._queues_to(routing_key)))

    def _admit(self, count: int) -> None:
        """Let in as many as have left, except into a queue that is full; few can be, since the total is bounded."""
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

    def _name(self, queue: PublishQueue) -> str:
        return f"{self._exchange}/{queue.routing_key}" if self._exchange else queue.routing_key

    async def _settle(self, queue: PublishQueue) -> None:
        """Deliver what is in flight, and tell the callers."""
        try:
            await self._deliver(queue)
        except MessageReturned:
            # What waits behind has shared the attempts.
            queue.in_flight += queue.waiting
            queue.waiting.clear()
            self.not_routed += len(queue.in_flight)
            self._events.emit(NotRouted(self._name(queue), len(queue.in_flight)))
            for report in queue.in_flight:
                report.fail(ResultNotRouted(report.task_id, self._name(queue)))
        except Exception as error:
            for report in queue.in_flight:
                report.fail(error)
        else:
            self.stored += len(queue.in_flight)
            for report in queue.in_flight:
                report.confirm()
        settled, queue.in_flight, queue.is_retrying = len(queue.in_flight), [], False
        self._release(settled)

    def _abandon(self, queue: PublishQueue) -> None:
        """Fail what a queue that was stopped leaves behind."""
        left = [*queue.in_flight, *queue.waiting]
        for report in left:
            report.fail(BackendClosed("the backend was closed before the result was confirmed"))
        self._release(len(left))

    async def _deliver(self, queue: PublishQueue) -> None:
        """Publish what is in flight, again and again as the policies say; what is too much for it waits again."""
        delays: Iterator[float] | None = None
        absent: Iterator[float] | None = None
        while True:
            try:
                return await self._publish(queue)
            except BrokerRefused:
                raise
            except MessageReturned:
                queue.unload(1)
                is_first = absent is None
                absent = iter(self._unroutable) if absent is None else absent
                delay = next(absent, None)
                if delay is None:
                    raise
                self.unrouted += 1
                if is_first:
                    self._events.emit(Unroutable(self._name(queue), len(queue)))
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
        """Wait ``delay`` seconds, less when a lost session is followed by a new one meanwhile."""
        if self._sessions.current is not None:
            await asyncio.sleep(delay)
            return
        try:
            await self._sessions.wait(delay)
        except BrokerRefused:
            raise
        except BrokerUnavailable:
            pass  # the next attempt says so too

    async def _publish(self, queue: PublishQueue) -> None:
        """Publish what is in flight once; twice when there is no queue for it, and one that can be declared."""
        # Without a session there is nothing to wait for but the next one, and that is what the delays are.
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
        except MessageReturned as error:  # deleted since it was declared
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
                # The channel was closed by another publish on it, which fails with the same words.
                raise ChannelClosed(error.reply_code, error.reply_text) from error
            if len(queue.in_flight) == 1:
                raise ResultTooLarge(queue.in_flight[0].task_id, len(message.body), limit) from error
            raise _BatchTooLarge(limit) from error
        finally:
            if queue.timer is not None:
                queue.timer.cancel()

    def _message(self, batch: Sequence[PendingStore]) -> OutgoingMessage:
        if len(batch) == 1:
            message = self._codec.single(batch[0].correlation_id, batch[0].document)
        else:
            message = self._codec.batch([(report.task_id, report.document) for report in batch])
        # Here and not in the transport, so that it stays the same when the message is published again.
        message.properties.message_id = f"{self._writer}.{next(self._numbers)}"
        return message

    def _start_confirm_timer(self, queue: PublishQueue, waiting: int = 0) -> None:
        if self._confirm_timeout is not None:
            loop = asyncio.get_running_loop()
            queue.timer = loop.call_later(self._confirm_timeout, self._confirm_is_late, queue, waiting)

    def _confirm_is_late(self, queue: PublishQueue, waiting: int) -> None:
        """Fail what is in flight without an answer, and the first ``waiting`` reports behind it."""
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
        """Return when everything that was stored so far, and whose caller waits, is confirmed or has failed."""
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
        """Give up what is not confirmed: those who wait for it, or to be let in, get ``BackendClosed``."""
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
