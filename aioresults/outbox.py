"""What waits to be published: confirmed, retried, in order.

Each destination has a lane with one publish in flight, so a retry cannot reorder the reports of a task, and a
destination that fails holds up no other. A lane exists only while it has something to send.

A publish is mandatory and confirmed. When it is returned because there is no queue, the destination's queue is
declared and the report published again: measured, that is faster than declaring first. What fails for a reason that
may pass is tried again by the retry policy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from aioresults.errors import (
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
from aioresults.messaging import Producer
from aioresults.retry import RetryPolicy
from aioresults.routing import Destination
from aioresults.sessions import Session, Sessions
from aioresults.transport.base import Properties
from aioresults.transport.replies import message_size_limit

#: Errors that may pass by themselves. A confirm lost with its channel is one: nobody knows, so it is published again.
TRANSIENT: Final = (BrokerUnavailable, ChannelClosed, MessageNacked, MessageReturned)


@dataclass(slots=True, eq=False)
class Report:
    """One report on its way: a message, and the future of the call that stores it."""

    task_id: str
    body: bytes
    properties: Properties
    stored: asyncio.Future[None]


class Lane:
    """What waits for one destination."""

    __slots__ = ("destination", "in_flight", "task", "waiting")

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.waiting: deque[Report] = deque()
        self.in_flight: Report | None = None
        self.task: asyncio.Task[None] | None = None


class Outbox:
    """Publishes reports and returns when the broker has them.

    Args:
        sessions: where the current session is found.
        policy: the waits between attempts.
    """

    def __init__(self, sessions: Sessions, policy: RetryPolicy) -> None:
        self._sessions = sessions
        self._policy = policy
        self._lanes: dict[Destination, Lane] = {}
        self.stored = 0
        self.retried = 0

    def __len__(self) -> int:
        """How many reports are not confirmed yet."""
        return sum(len(lane.waiting) + (lane.in_flight is not None) for lane in self._lanes.values())

    async def put(self, destination: Destination, task_id: str, body: bytes, properties: Properties) -> None:
        """Publish a report; return when the broker has confirmed it.

        Raises:
            ResultNotRouted, ResultTooLarge: it cannot be stored.
            BrokerUnavailable: not within the retry policy; the last error is its cause.
            ChannelError: the broker refused the queue or the publish.
            BackendClosed: the outbox was stopped before.

        Cancellation: withdrawn if it is not sent yet, else stored or unknown.
        """
        report = Report(task_id, body, properties, asyncio.get_running_loop().create_future())
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = Lane(destination)
            lane.task = asyncio.get_running_loop().create_task(self._run(lane))
        lane.waiting.append(report)
        await report.stored

    async def _run(self, lane: Lane) -> None:
        try:
            while lane.waiting:
                report = lane.waiting.popleft()
                if report.stored.done():
                    continue  # its caller has left
                lane.in_flight = report
                try:
                    await self._deliver(lane.destination, report)
                except Exception as error:
                    if not report.stored.done():
                        report.stored.set_exception(error)
                else:
                    self.stored += 1
                    if not report.stored.done():
                        report.stored.set_result(None)
                lane.in_flight = None
        finally:
            del self._lanes[lane.destination]
            self._abandon(lane)

    def _abandon(self, lane: Lane) -> None:
        """Fail what a lane that was stopped leaves behind."""
        left = [*lane.waiting, *([lane.in_flight] if lane.in_flight else [])]
        for report in left:
            if not report.stored.done():
                report.stored.set_exception(BackendClosed("the backend was closed before the result was confirmed"))

    async def _deliver(self, destination: Destination, report: Report) -> None:
        """Publish one report, again and again as the policy says."""
        delays = self._policy.delays()
        while True:
            try:
                # Before a session there is nothing to wait for but the next one, and that is what the delays are.
                session = self._sessions.current or await self._sessions.wait(0)
                return await self._publish(session, destination, report)
            except BrokerRefused:
                raise
            except TRANSIENT as error:
                delay = next(delays, None)
                if delay is None:
                    raise BrokerUnavailable(f"the result of task {report.task_id!r} could not be stored") from error
            self.retried += 1
            await self._pause(delay)

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

    async def _publish(self, session: Session, destination: Destination, report: Report) -> None:
        producer = Producer(await session.publisher())
        try:
            await self._send(producer, destination, report)
        except MessageReturned:
            if not destination.declare:
                raise ResultNotRouted(report.task_id, str(destination)) from None
            for queue in destination.declare:
                await session.run(queue.declare, publishing=True)
            await self._send(producer, destination, report)

    async def _send(self, producer: Producer, destination: Destination, report: Report) -> None:
        try:
            await producer.publish(
                report.body, report.properties, destination.routing_key, exchange=destination.exchange, mandatory=True
            )
        except PreconditionFailed as error:
            limit = message_size_limit(error.reply_text)
            if limit is not None and len(report.body) > limit:
                raise ResultTooLarge(report.task_id, len(report.body), limit) from error
            # The channel was closed by another publish on it, which fails with the same words.
            raise ChannelClosed(error.reply_code, error.reply_text) from error
        except NotFound as error:
            # The exchange was deleted. aiormq then loses the connection too (504), and the next session declares it.
            raise ChannelClosed(error.reply_code, error.reply_text) from error

    async def flush(self) -> None:
        """Return when everything that was put so far is stored or has failed."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Give up what is not confirmed: those who wait for it get ``BackendClosed``."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
