"""The background task that brings in results: deliveries -> decode -> waiters -> ack.

``Drain`` compares which queues must be consumed (somebody waits for their task) with those that are, and acts on the
difference. A new wait, a wait that ends, a cancelled consumer and a new session are all the same: a task id whose
queue is looked at again. At most ``PARALLEL`` ids are worked on at a time, and one id never twice at once.

A ready report is kept unacknowledged until a caller has it in its hands; then its queue is deleted. When every caller
has left without it, the consumer is cancelled first and the report then requeued, for whoever asks next. Reports that
are not ready are acknowledged when the waiters have them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from aioresults.background.repeats import Repeats
from aioresults.background.sessions import Session
from aioresults.background.subscription import State, Subscription
from aioresults.errors import (
    AioResultsError,
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    DecodeError,
    NotFound,
    NotSupported,
    ResultForgotten,
)
from aioresults.events import Dropped, Emit, log
from aioresults.messaging import Consumer, Message, Queue, declaring
from aioresults.results import ResultMeta
from aioresults.transport import Channel
from aioresults.waiting.waiters import Waiters

logger = logging.getLogger("aioresults")

#: Queues that are opened or closed at a time.
PARALLEL: Final = 16
#: Queues that are deleted at a time: apart from the others, so that a wait does not stand behind a thousand deletions.
PARALLEL_DELETIONS: Final = 4
#: Channels that share the consumers: an operation that the broker refuses closes its channel, and with it these.
CHANNELS: Final = 8
#: Unacknowledged messages per consumer. A task's reports are few; this bounds a worker that reports in a loop.
PREFETCH: Final = 100
#: Seconds before an id is looked at again that the broker could not attend to.
RETRY_INTERVAL: Final = 1.0


class Drain:
    """Consumes the queues of the tasks that somebody waits for.

    Args:
        waiters: who waits.
        queue_for: the queue that holds the reports of a task.
        read: decodes a message into a report; raises ``DecodeError``.
        consumer: the class of what consumes.
        emit: is told of messages that cannot be read.
    """

    def __init__(
        self,
        waiters: Waiters,
        queue_for: Callable[[str], Queue | None],
        read: Callable[[Message], ResultMeta],
        consumer: type[Consumer] = Consumer,
        emit: Emit = log,
    ) -> None:
        self._emit = emit
        self._waiters = waiters
        waiters.on_change = self.on_change
        self._queue_for = queue_for
        self._read = read
        self._make_consumer = consumer
        #: Ids whose consumer may not be as it should, and those in work: whether they have changed meanwhile.
        self._changed: asyncio.Queue[str] = asyncio.Queue()
        self._deletions: asyncio.Queue[str] = asyncio.Queue()
        self._busy: dict[str, bool] = {}
        #: Ids whose result was taken and whose queue is still to be deleted; outlives a session.
        self._taken: dict[str, asyncio.Future[None] | None] = {}
        self._settled = asyncio.Event()
        self._settled.set()
        #: Ids whose queue is being deleted because somebody here said so.
        self._forgetting: Counter[str] = Counter()
        self._subscriptions: dict[str, Subscription] = {}
        self._consumers: list[Consumer | None] = []
        self._next_consumer = 0
        self._opening = asyncio.Lock()
        self.received = 0
        self.undecodable = 0
        self.repeated = 0
        self._repeats = Repeats()
        #: Whether it was told in this session that the broker does not answer for a queue.
        self._warned = False

    def __len__(self) -> int:
        """How many queues are consumed."""
        return len(self._subscriptions)

    def on_change(self, task_id: str, taken: bool = False) -> None:
        """Note that a wait began or ended, and whether its result was taken."""
        if taken:
            self._taken.setdefault(task_id, None)
            self._settled.clear()
            self._acknowledge(task_id)
        if task_id in self._busy:
            self._busy[task_id] = True
        else:
            (self._deletions if taken else self._changed).put_nowait(task_id)

    async def start(self, session: Session) -> None:
        """Do nothing: queues are opened when somebody waits for their tasks."""

    async def finish(self, session: Session) -> None:
        """Return when the queue of every result that was taken is deleted; nothing else matters now."""
        workers = [asyncio.create_task(self._work(session, self._deletions)) for _ in range(PARALLEL)]
        try:
            await self._settled.wait()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def caught_up(self, timeout: float) -> None:
        """Return at once: the broker keeps what is not here."""

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost. Cancelled: stop at once; the broker has what is not taken."""
        self._subscriptions.clear()
        self._consumers = [None] * CHANNELS
        # What is left of the last session; whatever still matters is noted again.
        self._changed, self._deletions = asyncio.Queue(), asyncio.Queue()
        self._busy.clear()
        self._warned = False
        for task_id in self._taken:
            self.on_change(task_id, taken=True)
        for task_id in self._waiters:
            self.on_change(task_id)
        queues = [self._changed] * PARALLEL + [self._deletions] * PARALLEL_DELETIONS
        workers = [asyncio.create_task(self._work(session, queue)) for queue in queues]
        try:
            ends: list[asyncio.Future[Any]] = [*workers, session.lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for worker in workers:
                worker.cancel()
            outcomes = await asyncio.gather(*workers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _work(self, session: Session, changed: asyncio.Queue[str]) -> None:
        while not session.lost.done():
            task_id = await changed.get()
            if task_id in self._busy:
                self._busy[task_id] = True
                continue
            self._busy[task_id] = False
            try:
                await self._reconcile(session, task_id)
            except (BrokerUnavailable, ChannelClosed) as error:
                if not session.lost.done():
                    # The broker is slow, the queue's node is down, or the channel was closed by something else. One
                    # line for it: there may be as many queues as there are waits, each tried again and again.
                    level, self._warned = logging.DEBUG if self._warned else logging.WARNING, True
                    logger.log(level, "the queue of task %r could not be attended to, trying again: %s", task_id, error)
                    asyncio.get_running_loop().call_later(RETRY_INTERVAL, self.on_change, task_id)
            except ChannelError as error:
                if task_id in self._taken:
                    logger.warning("the queue of task %r cannot be deleted: %s", task_id, error)
                    self._settle(task_id)
                else:
                    self._waiters.fail(task_id, error)
            finally:
                if self._busy.pop(task_id, False):
                    self.on_change(task_id)

    async def _reconcile(self, session: Session, task_id: str) -> None:
        queue = self._queue_for(task_id)
        if queue is None:
            return
        subscription = self._subscriptions.get(queue.name)
        if task_id in self._taken:
            await self._delete(session, queue, subscription)
            self._settle(task_id)
        elif subscription is not None:
            if subscription.state is State.CANCELLED:
                if await self._is_deleted(session, queue, subscription) and task_id not in self._forgetting:
                    self._waiters.fail(task_id, ResultForgotten(task_id))
                    return
            elif task_id not in self._waiters:
                await self._release(queue, subscription)
            else:
                self._offer(subscription)
        if task_id in self._waiters and queue.name not in self._subscriptions and task_id not in self._forgetting:
            await self._open(session, queue, task_id)

    async def _open(self, session: Session, queue: Queue, task_id: str) -> None:
        await session.run(declaring(queue))
        consumer = await self._consumer(session)
        self._subscriptions[queue.name] = Subscription(task_id, consumer)
        try:
            await consumer.attach(queue.name)
        except (ChannelError, NotSupported) as error:
            self._subscriptions.pop(queue.name, None)
            if not isinstance(error, (NotFound, ChannelClosed, NotSupported)):
                raise
            # Deleted between the two calls, the channel was closed by another call, or a consumer of the queue that was
            # there before is not cancelled yet, and has the tag: look again, on the next channel.
            self.on_change(task_id)

    async def _consumer(self, session: Session) -> Consumer:
        """Return one of the shared consumers in turn, on a new channel where the last was closed."""
        async with self._opening:
            index = self._next_consumer = (self._next_consumer + 1) % CHANNELS
            consumer = self._consumers[index]
            if consumer is None or consumer.channel.is_closed:
                consumer = self._consumers[index] = self._consumer_on(await session.consumer(PREFETCH))
            return consumer

    def _consumer_on(self, channel: Channel) -> Consumer:
        consumer = self._make_consumer(
            channel, on_message=self._receive, on_cancel=lambda queue: self._on_cancel(consumer, queue)
        )
        channel.on_close(partial(self._on_close, consumer))
        return consumer

    async def _delete(self, session: Session, queue: Queue, subscription: Subscription | None) -> None:
        """Delete the queue of a result that was taken, and the result with it."""
        if subscription is not None:
            await self._cancel(queue, subscription)
        await session.run(lambda channel: queue(channel).delete())

    async def _release(self, queue: Queue, subscription: Subscription) -> None:
        """Stop to consume a queue that nobody waits for, and return what nobody took."""
        await self._cancel(queue, subscription)
        subscription.requeue()

    async def _cancel(self, queue: Queue, subscription: Subscription) -> None:
        subscription.state = State.CLOSING
        try:
            await subscription.consumer.cancel_by_queue(queue.name)
        finally:
            self._subscriptions.pop(queue.name, None)

    async def _is_deleted(self, session: Session, queue: Queue, subscription: Subscription) -> bool:
        """Drop a consumer that the broker cancelled; return whether that was because others deleted the queue."""
        try:
            await session.run(lambda channel: queue(channel).declare(passive=True))
        except NotFound:
            return self._subscriptions.pop(queue.name, None) is subscription  # else we did: ``forgetting``
        self._subscriptions.pop(queue.name, None)
        return False

    def _offer(self, subscription: Subscription) -> None:
        """Offer what was not returned yet to those who came after everyone had left."""
        meta = subscription.meta
        if meta is not None and self._waiters.latest(subscription.task_id) is not meta:  # else they were told
            self._waiters.report(meta)
        strays, subscription.strays = subscription.strays, None
        for message in strays or ():
            self._receive(message)

    @property
    def has_to_delete(self) -> bool:
        """Whether there are queues of results that were taken."""
        return bool(self._taken)

    async def stop(self, error: AioResultsError) -> None:
        """Do nothing: all that goes on goes on in ``run``."""

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures."""
        return {
            "consuming": len(self),
            "deleting": len(self._taken),
            "received": self.received,
            "repeated": self.repeated,
            "undecodable": self.undecodable,
        }

    def deletion(self, task_id: str) -> asyncio.Future[None] | None:
        """Return what is done when the queue of a result that was taken is deleted; None when that is not to be."""
        if task_id in self._taken and self._taken[task_id] is None:
            self._taken[task_id] = asyncio.get_running_loop().create_future()
        return self._taken.get(task_id)

    @contextmanager
    def forgetting(self, task_id: str) -> Iterator[None]:
        """Know that we delete the queue of a task: who waits at the end has begun since, and needs another."""
        self._forgetting[task_id] += 1
        try:
            yield
            queue = self._queue_for(task_id)
            subscription = None if queue is None else self._subscriptions.get(queue.name)
            if queue is not None and subscription is not None and subscription.state is not State.CLOSING:
                del self._subscriptions[queue.name]
        finally:
            self._forgetting[task_id] -= 1
            if not self._forgetting[task_id]:
                del self._forgetting[task_id]
            self.on_change(task_id)

    def _acknowledge(self, task_id: str) -> None:
        """Take a result off its queue at once: deleting queues may lag behind, and end with the process."""
        queue = self._queue_for(task_id)
        subscription = None if queue is None else self._subscriptions.get(queue.name)
        if subscription is not None and subscription.message is not None:
            subscription.message.ack()
            subscription.message = subscription.meta = None

    def _settle(self, task_id: str) -> None:
        if (done := self._taken.pop(task_id, None)) is not None:
            done.set_result(None)
        if not self._taken:
            self._settled.set()

    # Called by the transport

    def _receive(self, message: Message) -> None:
        subscription = self._subscriptions.get(message.queue or "")
        if subscription is None:
            message.requeue()
            return
        if subscription.state is not State.OPEN or subscription.task_id not in self._waiters:
            subscription.set_aside(message)
            return
        self.received += 1
        try:
            meta = self._read(message)
        except DecodeError as error:
            self._drop(message, subscription.task_id, error)
            return
        if self._is_repeated(meta, message):
            message.ack()
            return
        counts = self._waiters.report(meta)
        if meta.task_id != subscription.task_id:
            subscription.set_aside(message)
        elif not meta.is_ready:
            self._repeats.note(message.properties.message_id)
            message.ack()
        elif counts or subscription.message is None:
            # After a reconnect the report that counts comes again, and is to be settled again.
            if subscription.message is not None:
                subscription.message.ack()
            subscription.message, subscription.meta = message, meta
        else:
            message.ack()

    def _is_repeated(self, meta: ResultMeta, message: Message) -> bool:
        """Whether it was passed on before; what is ready is settled when it is taken, and not remembered here."""
        repeated = not meta.is_ready and message.properties.message_id in self._repeats
        self.repeated += repeated
        return repeated

    def _drop(self, message: Message, task_id: str, error: DecodeError) -> None:
        self.undecodable += 1
        self._emit(Dropped(task_id, str(error)))
        message.reject()
        self._waiters.fail(task_id, error)

    def _on_cancel(self, consumer: Consumer, queue: str) -> None:
        subscription = self._subscriptions.get(queue)
        if subscription is not None and subscription.consumer is consumer and subscription.state is State.OPEN:
            subscription.state = State.CANCELLED
            self.on_change(subscription.task_id)

    def _on_close(self, consumer: Consumer, reason: BaseException) -> None:
        for name, subscription in tuple(self._subscriptions.items()):
            if subscription.consumer is consumer and subscription.state is not State.CLOSING:
                del self._subscriptions[name]
                self.on_change(subscription.task_id)
