"""What waits to be published: coalesced, confirmed, retried, in order.

Each destination has a lane with one publish in flight. Reports that come meanwhile queue up and, where the
destination is an inbox of ours, go out together as one message: that is why this is fast. There is no timer: a lone
report leaves at once, and while one is in flight a few more may go beside it, each of another task, since a caller's
next request can be faster than the confirm of its last. Of a task there is one publish in flight, so a retry cannot
reorder its reports; and a destination that fails holds up no other. A lane exists only while it has something to send.

A publish is mandatory and confirmed. When it is returned because there is no queue, the queue is declared where the
routing has one for the task (measured, that is faster than declaring first); otherwise the destination is not there
yet or no more, and it is tried again by a policy of its own, with a single report to probe. What fails for a reason
that may pass is tried again by the retry policy. A publish that is simply not answered (the broker blocks publishers,
a quorum queue has lost its majority) fails its callers after as long as that policy lasts, and is waited for further:
sent again, it would only come twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final
from uuid import uuid4

from aioresults.background.lane import Lane
from aioresults.background.sessions import Session, Sessions
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
from aioresults.events import Emit, NotRouted, Unroutable, log
from aioresults.messaging import OutgoingMessage, Producer, Queue, declaring
from aioresults.messaging.retrying import TRANSIENT
from aioresults.retry import RetryPolicy
from aioresults.serialization.report_codec import ReportCodec
from aioresults.stored import Stored
from aioresults.transport.broker_errors import message_size_limit

#: A batch is bounded by count (see ``lane``) and bytes: more saves nothing, and delays the first of them.
MAX_BATCH_BYTES: Final = 1024 * 1024
#: Lone reports in flight to one routing key, beside the first. A confirm takes as long as a caller's next request.
MAX_BESIDE: Final = 3
#: Reports that may wait, for one destination and for all together; beyond, stores wait to be let in.
MAX_LANE: Final = 10_000
MAX_TOTAL: Final = 50_000


class _BatchTooLarge(AioResultsError):
    """The broker's limit for a message is lower than a batch of many reports."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"a batch is larger than {limit} bytes")


def _not_stored(reports: Sequence[Stored]) -> BrokerUnavailable:
    more = f" and {len(reports) - 1} more" if len(reports) > 1 else ""
    return BrokerUnavailable(f"the result of task {reports[0].task_id!r}{more} could not be stored")


class Outbox:
    """Publishes reports, and says when the broker has them.

    Args:
        sessions: where the current session is found.
        reports: makes messages of documents.
        exchange: what is published to.
        declare: declares the exchange again, when it was deleted; not needed for the default one.
        queues_for: what to declare when there is no queue for a task; nothing where the caller declares it.
        renew: puts the expiry of a queue off that was there; a publish does not.
        coalesces: whether many reports for a routing key may travel in one message.
        policy: the waits between attempts.
        unroutable: seconds between attempts at a destination that is not there.
        producer: the class of what publishes.
        emit: is told of destinations that are not there.
    """

    def __init__(
        self,
        sessions: Sessions,
        reports: ReportCodec,
        *,
        exchange: str,
        declare: Callable[[Session], Awaitable[None]] | None = None,
        queues_for: Callable[[str], Sequence[Queue]],
        renew: Callable[[Session, str], Awaitable[None]] | None = None,
        coalesces: Callable[[str], bool],
        policy: RetryPolicy,
        unroutable: Sequence[float],
        producer: type[Producer] = Producer,
        emit: Emit = log,
    ) -> None:
        self._emit = emit
        self._sessions = sessions
        self._producer = producer()
        self._reports = reports
        self._writer = uuid4().hex
        self._numbers = itertools.count(1)
        self._exchange = exchange
        self._declare = declare
        self._queues_for = queues_for
        self._renew = renew
        self._coalesces = coalesces
        self._policy = policy
        self._unroutable = unroutable
        longest = policy.longest()
        #: Seconds that a publish may go unanswered.
        self._patience = None if longest is None else longest + sessions.rpc_timeout
        self._lanes: dict[str, Lane] = {}
        #: By routing key and task: lone reports in flight beside one in the lane.
        self._beside: dict[str, dict[str, Lane]] = {}
        self._total = 0
        # Ordered, because a dict that loses its first keys is slow to find the next.
        self._blocked: OrderedDict[str, deque[Stored]] = OrderedDict()
        self._max_bytes = MAX_BATCH_BYTES
        self.stored = 0
        self.messages = 0
        self.retried = 0
        self.unrouted = 0
        self.not_routed = 0

    def __len__(self) -> int:
        """How many reports are not confirmed yet."""
        return self._total

    def put(self, routing_key: str, report: Stored) -> None:
        """Queue a report, which is told when the broker has confirmed it, or one of these:

        ResultNotRouted, ResultTooLarge: it cannot be stored.
        BrokerUnavailable: not within the retry policy; the last error is its cause.
        ChannelError: the broker refused the queue or the publish.
        BackendClosed: the outbox was stopped before.

        Beyond the limits it waits to be let in; those for one routing key get in in the order they came.
        """
        if self._total < min(MAX_LANE, MAX_TOTAL) and not self._blocked:  # as nearly always
            self._enter(routing_key, report)
        elif routing_key in self._blocked or self._total >= MAX_TOTAL or self._length(routing_key) >= MAX_LANE:
            self._blocked.setdefault(routing_key, deque()).append(report)
        else:
            self._enter(routing_key, report)

    def _enter(self, routing_key: str, report: Stored) -> None:
        self._total += 1
        lane = self._lanes.get(routing_key)
        if lane is None:
            lane = self._lanes[routing_key] = Lane(routing_key, self._coalesces(routing_key))
            self._begin(lane, self._run(lane))
        elif lane.is_lone_beside(report.task_id):
            beside = self._beside.setdefault(routing_key, {})
            if len(beside) < MAX_BESIDE and report.task_id not in beside:
                lane = beside[report.task_id] = Lane(routing_key, lane.coalesces)
                self._begin(lane, self._run_beside(lane, report.task_id))
        lane.waiting.append(report)

    def _begin(self, lane: Lane, running: Coroutine[Any, Any, None]) -> None:
        # Not by the loop's task factory: a lane that begins at once (eager tasks) would find nothing to send.
        lane.task = asyncio.Task(running, loop=asyncio.get_running_loop())

    def _lanes_to(self, routing_key: str) -> Iterator[Lane]:
        if routing_key in self._lanes:
            yield self._lanes[routing_key]
        yield from self._beside.get(routing_key, {}).values()

    def _length(self, routing_key: str) -> int:
        return sum(map(len, self._lanes_to(routing_key)))

    def _admit(self, count: int) -> None:
        """Let in as many as have left, except where the lane is full; few lanes can be, since the total is bounded."""
        emptied = []
        for routing_key, reports in self._blocked.items():
            room = min(count, MAX_LANE - self._length(routing_key))
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

    async def _run(self, lane: Lane) -> None:
        try:
            while lane.waiting:
                beside = self._beside.get(lane.routing_key, {})
                self._release(lane.load(self._max_bytes, beside))
                if lane.in_flight:
                    await self._settle(lane)
                elif lane.waiting:
                    tasks = [each.task for each in beside.values() if each.task is not None]
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._lanes[lane.routing_key]
            self._abandon(lane)

    async def _run_beside(self, lane: Lane, task_id: str) -> None:
        beside = self._beside[lane.routing_key]
        try:
            self._release(lane.load(self._max_bytes))
            if lane.in_flight:
                await self._settle(lane)
        finally:
            del beside[task_id]
            if not beside:
                del self._beside[lane.routing_key]
            self._abandon(lane)

    def _name(self, lane: Lane) -> str:
        return f"{self._exchange}/{lane.routing_key}" if self._exchange else lane.routing_key

    async def _settle(self, lane: Lane) -> None:
        """Deliver what is in flight, and tell the callers."""
        try:
            await self._deliver(lane)
        except MessageReturned:
            # What waits behind has shared the attempts.
            lane.in_flight += lane.waiting
            lane.waiting.clear()
            self.not_routed += len(lane.in_flight)
            self._emit(NotRouted(self._name(lane), len(lane.in_flight)))
            for report in lane.in_flight:
                report.fail(ResultNotRouted(report.task_id, self._name(lane)))
        except Exception as error:
            for report in lane.in_flight:
                report.fail(error)
        else:
            self.stored += len(lane.in_flight)
            for report in lane.in_flight:
                report.confirm()
        settled, lane.in_flight, lane.is_retrying = len(lane.in_flight), [], False
        self._release(settled)

    def _abandon(self, lane: Lane) -> None:
        """Fail what a lane that was stopped leaves behind."""
        left = [*lane.in_flight, *lane.waiting]
        for report in left:
            report.fail(BackendClosed("the backend was closed before the result was confirmed"))
        self._release(len(left))

    async def _deliver(self, lane: Lane) -> None:
        """Publish what is in flight, again and again as the policies say; what is too much for it waits again."""
        delays, absent = self._policy.delays(), iter(self._unroutable)
        is_known_absent = False
        while True:
            try:
                return await self._publish(lane)
            except BrokerRefused:
                raise
            except MessageReturned:
                lane.unload(1)
                delay = next(absent, None)
                if delay is None:
                    raise
                self.unrouted += 1
                if not is_known_absent:
                    is_known_absent = True
                    self._emit(Unroutable(self._name(lane), len(lane)))
            except _BatchTooLarge as error:
                self._max_bytes = min(self._max_bytes, error.limit // 2)
                lane.unload(len(lane.in_flight) // 2)
                continue
            except TRANSIENT as error:
                delay = next(delays, None)
                if delay is None:
                    raise _not_stored(lane.in_flight) from error
                self.retried += 1
            lane.is_retrying = True
            await self._pause(delay)
            self._release(lane.withdraw())
            if not lane.in_flight:
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

    async def _publish(self, lane: Lane, *, declared: bool = False) -> None:
        """Publish what is in flight once; twice when there is no queue for it, and one that can be declared."""
        # Without a session there is nothing to wait for but the next one, and that is what the delays are.
        session = self._sessions.current or await self._sessions.wait(0)
        channel = session.publisher or await session.open_publisher()
        if not self._producer.is_on(channel):
            await self._producer.revive(channel)
        batch = lane.in_flight
        message = lane.message = lane.message or self._message(batch)
        self.messages += 1
        self._be_patient(lane)
        try:
            await self._producer.publish(message, lane.routing_key, exchange=self._exchange, mandatory=True)
        except MessageReturned as error:
            if declared:  # and deleted since
                raise ChannelClosed(error.reply_code, error.reply_text) from None
            queues = self._queues_for(batch[0].task_id)
            if not queues:
                raise
        except MessageNacked:
            session.replace_publisher(channel)
            raise
        except PreconditionFailed as error:
            limit = message_size_limit(error.reply_text)
            if limit is None or len(message.body) <= limit:
                # The channel was closed by another publish on it, which fails with the same words.
                raise ChannelClosed(error.reply_code, error.reply_text) from error
            if len(batch) == 1:
                raise ResultTooLarge(batch[0].task_id, len(message.body), limit) from error
            raise _BatchTooLarge(limit) from error
        except NotFound as error:
            if self._declare is not None:
                await self._declare(session)
            raise ChannelClosed(error.reply_code, error.reply_text) from error
        else:
            if self._renew is not None and not declared:
                await self._renew(session, batch[0].task_id)
            return
        finally:
            if lane.timer is not None:
                lane.timer.cancel()
        for queue in queues:
            await session.run(declaring(queue), publishing=True)
        await self._publish(lane, declared=True)

    def _message(self, batch: Sequence[Stored]) -> OutgoingMessage:
        if len(batch) == 1:
            message = self._reports.single(batch[0].correlation_id, batch[0].document)
        else:
            message = self._reports.batch([(report.task_id, report.document) for report in batch])
        # Here and not in the transport, so that it stays the same when the message is published again.
        message.properties.message_id = f"{self._writer}.{next(self._numbers)}"
        return message

    def _be_patient(self, lane: Lane, waiting: int = 0) -> None:
        if self._patience is not None:
            loop = asyncio.get_running_loop()
            lane.timer = loop.call_later(self._patience, self._lose_patience, lane, self._patience, waiting)

    def _lose_patience(self, lane: Lane, patience: float, waiting: int) -> None:
        """Fail what is in flight without an answer, and the first ``waiting`` reports behind it."""
        session = self._sessions.current
        blocked = f": the broker blocks publishers, {session.blocked}" if session and session.blocked else ""
        for report in (*lane.in_flight, *itertools.islice(lane.waiting, waiting)):
            text = f"the result of task {report.task_id!r} was not confirmed within {patience:g} s{blocked}"
            report.fail(BrokerUnavailable(text))
        before = len(lane.waiting)
        lane.waiting = deque(report for report in lane.waiting if not report.done())
        self._release(before - len(lane.waiting))
        self._be_patient(lane, len(lane.waiting))

    async def flush(self) -> None:
        """Return when everything that was stored so far, and whose caller waits, is confirmed or has failed."""
        while pending := [report for report in self._reports_left() if not report.done()]:
            await asyncio.gather(*map(asyncio.shield, pending), return_exceptions=True)

    def _reports_left(self) -> Iterator[Stored]:
        yield from itertools.chain.from_iterable(self._blocked.values())
        for lane in self._all_lanes():
            yield from (*lane.in_flight, *lane.waiting)

    def _all_lanes(self) -> Iterator[Lane]:
        for routing_key in {*self._lanes, *self._beside}:
            yield from self._lanes_to(routing_key)

    async def stop(self) -> None:
        """Give up what is not confirmed: those who wait for it, or to be let in, get ``BackendClosed``."""
        blocked = [*itertools.chain.from_iterable(self._blocked.values())]
        self._blocked.clear()
        for report in blocked:
            report.fail(BackendClosed("the backend was closed before the result could be sent"))
        tasks = [lane.task for lane in self._all_lanes() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        never_began = tuple(self._all_lanes())
        self._lanes.clear()
        self._beside.clear()
        for lane in never_began:
            self._abandon(lane)
