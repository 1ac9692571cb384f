"""Brings in results from a queue per task: deliveries -> decode -> waiters -> acknowledgement.

``QueuePerTaskReader`` compares which queues must be consumed (somebody waits for their task) with those that are, and
acts on the difference. A new wait, a wait that ends, a cancelled consumer and a new session are all the same: a task id
whose queue is looked at again. At most ``PARALLEL`` ids are worked on at a time, and one id never twice at once.

A ready report is kept unacknowledged until a caller has it in its hands; then its queue is deleted. When every caller
has left without it, the consumer is cancelled first and the report then requeued, for whoever asks next; so is what
cannot be read here. Reports that are not ready are acknowledged when the waiters have them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, ClassVar, Final

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
from aioresults.messaging import Consumer, Message, Queue, declaring
from aioresults.results import ResultMeta
from aioresults.routing.base import DEFAULT_BACKLOG_LIMIT, Reader, ReaderParts
from aioresults.routing.look import Look
from aioresults.routing.queue_per_task.subscription import PREFETCH, Subscription, SubscriptionState, shared_queue
from aioresults.serialization import Document
from aioresults.sessions.channel_pool import POOL_SIZE
from aioresults.sessions.sessions import Session
from aioresults.states import SUCCESS
from aioresults.timing import fail_after
from aioresults.transport import Channel

logger: Final = logging.getLogger("aioresults")

#: Queues that are opened or closed at a time.
PARALLEL: Final = 16
#: Queues that are deleted at a time: apart from the others, so that a wait does not stand behind a thousand deletions.
PARALLEL_DELETIONS: Final = 4
#: Channels that share the consumers, at the most. Each does one operation at a time: where all are busy, one more is
#: opened.
CHANNELS: Final = 8
#: Seconds before an id is looked at again that the broker could not attend to.
RETRY_INTERVAL: Final = 1.0


class QueuePerTaskReader(Reader):
    """Consumes the queues of the tasks that somebody waits for, and looks into the others."""

    keeps_unclaimed: ClassVar[bool] = False

    def __init__(self, parts: ReaderParts) -> None:
        super().__init__(parts)
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
        #: The consumers, each on a channel of its own, and how many operations are under way there.
        self._consumers: list[Consumer] = []
        self._operations: Counter[Consumer] = Counter()
        self._opening = asyncio.Lock()
        self._looks: dict[str, tuple[int, asyncio.Task[Look]]] = {}
        #: Whether it was told in this session that the broker does not answer for a queue.
        self._warned = False

    @property
    def consuming(self) -> int:
        """How many queues are consumed."""
        return len(self._subscriptions)

    @property
    def has_to_delete(self) -> bool:
        """Whether there are queues of results that were taken."""
        return bool(self._taken)

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures."""
        return {**super().stats(), "deleting": len(self._taken)}

    # Waits that begin and end

    def wait_began(self, task_id: str) -> tuple[Sequence[ResultMeta], Document | None]:
        """Have the queue of a task consumed."""
        self._look_at(task_id)
        return super().wait_began(task_id)

    def wait_ended(self, task_id: str, last: ResultMeta | None, document: Document | None, *, taken: bool) -> None:
        """Have the queue of a task consumed no longer, and deleted where its result was taken."""
        super().wait_ended(task_id, last, document, taken=taken)
        if taken:
            self._take_off(task_id)
        else:
            self._look_at(task_id)

    def _look_at(self, task_id: str) -> None:
        """Have a worker compare what should be with what is."""
        if task_id in self._busy:
            self._busy[task_id] = True
        else:
            is_over = task_id in self._taken and task_id not in self.waiters  # else somebody waits for it anew
            (self._deletions if is_over else self._changed).put_nowait(task_id)

    def _take_off(self, task_id: str) -> None:
        """Acknowledge a result that was taken, and have its queue deleted.

        The first at once: deleting queues may lag behind, and ends with the process.
        """
        self._taken.setdefault(task_id, None)
        self._settled.clear()
        subscription = self._subscription(task_id)
        if subscription is not None and subscription.message is not None:
            subscription.message.ack()
            subscription.message = subscription.meta = None
        self._look_at(task_id)

    def _queue_for(self, task_id: str) -> Queue | None:
        return self.parts.overrides.queue_for(task_id)

    def _name_of(self, task_id: str) -> str:
        queue = self._queue_for(task_id)
        return "" if queue is None else queue.name

    def _subscription(self, task_id: str) -> Subscription | None:
        queue = self._queue_for(task_id)
        subscription = None if queue is None else self._subscriptions.get(queue.name)
        return subscription if subscription is not None and subscription.task_id == task_id else None

    # From session to session

    async def run(self, session: Session) -> None:
        """Work until ``session`` is lost. Cancelled: stop at once; the broker has what is not taken."""
        for name in tuple(self._subscriptions):
            self._drop(name)
        self._consumers = []
        self._operations = Counter()
        # What is left of the last session; whatever still matters is noted again.
        self._changed, self._deletions = asyncio.Queue(), asyncio.Queue()
        self._busy.clear()
        self._warned = False
        for task_id in (*self._taken, *self.waiters):
            self._look_at(task_id)
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

    async def finish(self, session: Session) -> None:
        """Return when the queue of every result that was taken is deleted; nothing else matters now."""
        workers = [asyncio.create_task(self._work(session, self._deletions)) for _ in range(PARALLEL)]
        try:
            await self._settled.wait()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

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
                    self._try_again(task_id, error)
            except ChannelError as error:
                if task_id in self._taken:
                    logger.warning("the queue of task %r cannot be deleted: %s", task_id, error)
                    self._settle(task_id)
                else:
                    self.waiters.fail(task_id, error)
            finally:
                if self._busy.pop(task_id, False):
                    self._look_at(task_id)

    def _try_again(self, task_id: str, error: AioResultsError) -> None:
        """Look at an id again, later: the broker is slow, the queue's node is down, or the channel was closed."""
        # One line for it: there may be as many queues as there are waits, each tried again and again.
        level, self._warned = logging.DEBUG if self._warned else logging.WARNING, True
        logger.log(level, "the queue of task %r could not be attended to, trying again: %s", task_id, error)
        asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._look_at, task_id)

    async def _reconcile(self, session: Session, task_id: str) -> None:
        queue = self._queue_for(task_id)
        if queue is None:
            return
        subscription = self._subscriptions.get(queue.name)
        if subscription is not None and subscription.task_id != task_id:
            self._refuse_shared(queue, task_id, subscription.task_id)
        elif task_id in self._taken:
            await self._delete(session, queue, subscription)
            self._settle(task_id)
        elif subscription is not None:
            if subscription.state is SubscriptionState.CANCELLED:
                if await self._is_deleted(session, queue, subscription) and task_id not in self._forgetting:
                    self.waiters.fail(task_id, ResultForgotten(task_id))
                    return
            elif task_id not in self.waiters:
                async with self._closing(queue, subscription):
                    await subscription.put_back()
            else:
                self._offer(subscription)
        if task_id in self.waiters and queue.name not in self._subscriptions and task_id not in self._forgetting:
            await self._open(session, queue, task_id)

    def _refuse_shared(self, queue: Queue, task_id: str, other: str) -> None:
        """End the waits for a task whose queue is that of another one, and leave the queue alone."""
        self.waiters.fail(task_id, shared_queue(queue.name, task_id, other))
        self._settle(task_id)

    async def _open(self, session: Session, queue: Queue, task_id: str) -> None:
        await session.run(declaring(queue))
        consumer = await self._consumer(session)
        if (other := self._subscriptions.get(queue.name)) is not None:  # meanwhile
            self._refuse_shared(queue, task_id, other.task_id)
            return
        self._subscriptions[queue.name] = Subscription(task_id, queue.name, consumer)
        try:
            with self._operating(consumer):
                await consumer.attach(queue.name)
        except (ChannelError, NotSupported) as error:
            self._drop(queue.name)
            if not isinstance(error, (NotFound, ChannelClosed, NotSupported)):
                raise
            # Deleted between the two calls, the channel was closed by another call, or a consumer of the queue that was
            # there before is not cancelled yet, and has the tag: look again, on another channel.
            if isinstance(error, NotSupported):
                self._operations[consumer] += 1
                asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._end_operation, consumer)
            self._look_at(task_id)

    async def _consumer(self, session: Session) -> Consumer:
        """Return the shared consumer with the fewest operations under way, a new one where all are busy."""
        async with self._opening:
            consumers = self._consumers = [each for each in self._consumers if not each.channel.is_closed]
            free = min(consumers, key=self._operations.__getitem__, default=None)
            if free is None or (self._operations[free] and len(consumers) < CHANNELS):
                free = self._consumer_on(await session.consumer(PREFETCH))
                consumers.append(free)
            return free

    @contextmanager
    def _operating(self, consumer: Consumer) -> Iterator[None]:
        self._operations[consumer] += 1
        try:
            yield
        finally:
            self._end_operation(consumer)

    def _end_operation(self, consumer: Consumer) -> None:
        self._operations -= Counter((consumer,))  # which keeps none of those that have no operation left

    def _consumer_on(self, channel: Channel) -> Consumer:
        consumer = self.parts.overrides.Consumer(channel)
        consumer.receiver = self
        channel.on_close(partial(self._on_close, consumer))
        return consumer

    async def _delete(self, session: Session, queue: Queue, subscription: Subscription | None) -> None:
        """Delete the queue of a result that was taken, unless another task has reports in it."""
        if subscription is not None:
            async with self._closing(queue, subscription):
                if self._is_shared(subscription):
                    await subscription.put_back()
                    return
        await session.run(lambda channel: queue(channel).delete())

    def _is_shared(self, subscription: Subscription) -> bool:
        """Whether what has come from a queue holds reports of another task, too."""
        for message in subscription.set_aside:
            with suppress(DecodeError):
                if self.settings.codec.read(message).task_id != subscription.task_id:
                    return True
        return False

    @asynccontextmanager
    async def _closing(self, queue: Queue, subscription: Subscription) -> AsyncIterator[None]:
        """Cancel the consumer of a queue; the block deals with what came from there."""
        subscription.state = SubscriptionState.CLOSING
        try:
            with self._operating(subscription.consumer):
                await subscription.consumer.cancel_by_queue(queue.name)
                yield
        finally:
            self._drop(queue.name)

    def _drop(self, queue: str) -> Subscription | None:
        subscription = self._subscriptions.pop(queue, None)
        if subscription is not None:
            subscription.decide()
        return subscription

    async def _is_deleted(self, session: Session, queue: Queue, subscription: Subscription) -> bool:
        """Drop a consumer that the broker cancelled; return whether that was because others deleted the queue."""
        try:
            await session.run(lambda channel: queue(channel).declare(passive=True))
        except NotFound:
            return self._drop(queue.name) is subscription  # else we did: ``_deleting``
        self._drop(queue.name)
        return False

    def _offer(self, subscription: Subscription) -> None:
        """Offer what was not returned yet to those who came after everyone had left."""
        subscription.decide()
        meta = subscription.meta
        is_news = subscription.asking is None and self.waiters.latest(subscription.task_id) is not meta
        if meta is not None and is_news:  # else those who wait were told, or will be
            self.deliver(meta)
        set_aside, subscription.set_aside = subscription.set_aside, ()
        for message in set_aside:
            self.on_message(message)

    def _settle(self, task_id: str) -> None:
        if (done := self._taken.pop(task_id, None)) is not None:
            done.set_result(None)
        if not self._taken:
            self._settled.set()

    # Called by the consumers

    def on_message(self, message: Message) -> None:
        """Take in one message."""
        subscription = self._subscriptions.get(message.queue or "")
        if subscription is None:
            message.requeue()
            return
        if subscription.state is not SubscriptionState.OPEN or subscription.task_id not in self.waiters:
            subscription.set_aside += (message,)
            return
        self.received += 1
        try:
            meta = self.settings.codec.read(message)
        except DecodeError as error:
            error.task_id, error.task_ids = subscription.task_id, ()
            if self.refuse(error, leave=True):
                subscription.set_aside += (message,)
            else:
                message.reject()
            return
        if meta.task_id != subscription.task_id:
            subscription.set_aside += (message,)
            shared = shared_queue(message.queue or "", subscription.task_id, meta.task_id)
            self.waiters.fail(subscription.task_id, shared)
        elif meta.is_ready:
            self._hold(subscription, message, meta)
        else:
            # What is ready is settled when it is taken, and not remembered here.
            if not self.is_repeated(message.properties.message_id):
                self.deliver(meta)
                self.deduplicator.note(message.properties.message_id)
            message.ack()

    def _hold(self, subscription: Subscription, message: Message, meta: ResultMeta) -> None:
        """Keep the ready report that counts unacknowledged until somebody takes it."""
        before = subscription.meta
        if before is not None and not self.waiters.supersedes(meta.status, before.status):
            message.ack()
            return
        if subscription.message is not None:
            subscription.message.ack()
        subscription.message, subscription.meta = message, meta
        if before is None and self.waiters.supersedes(SUCCESS, meta.status):
            subscription.asking = asyncio.create_task(self._tell_later(subscription))
        elif subscription.asking is None or not self.waiters.supersedes(SUCCESS, meta.status):
            self.deliver(meta)

    async def _tell_later(self, subscription: Subscription) -> None:
        """Tell of a failure when no report stands behind it that replaces it: a task that was run again, and succeeded.

        The broker delivers what a queue holds in one go, and answers a call after that.
        """
        with suppress(AioResultsError):
            async with fail_after(self.settings.rpc_timeout):
                await subscription.consumer.channel.basic_qos(PREFETCH)
        subscription.asking = None
        if self._subscriptions.get(subscription.queue) is subscription and subscription.task_id in self.waiters:
            self._offer(subscription)

    def on_cancel(self, consumer: Consumer, queue: str) -> None:
        """Have a queue looked at whose consumer the broker cancelled."""
        subscription = self._subscriptions.get(queue)
        is_open = subscription is not None and subscription.state is SubscriptionState.OPEN
        if subscription is not None and is_open and subscription.consumer is consumer:
            subscription.state = SubscriptionState.CANCELLED
            self._look_at(subscription.task_id)

    def _on_close(self, consumer: Consumer, reason: BaseException) -> None:
        for name, subscription in tuple(self._subscriptions.items()):
            if subscription.consumer is consumer and subscription.state is not SubscriptionState.CLOSING:
                self._drop(name)
                self._look_at(subscription.task_id)

    # Looking

    async def peek(self, task_id: str, backlog_limit: int = DEFAULT_BACKLOG_LIMIT) -> ResultMeta | None:
        """Return the report that counts, without consuming it; None when there is none.

        Looks for one task at the same time share one: each would hide the report from the others.
        """
        while task_id not in self.waiters:
            limit, running = self._looks.get(task_id, (0, None))
            if running is None:
                running = asyncio.create_task(self._look(task_id, backlog_limit))
                self._looks[task_id] = backlog_limit, running
                running.add_done_callback(partial(self._looked, task_id))
            elif limit != backlog_limit:  # it may say another thing
                await asyncio.wait([running])
                continue
            await asyncio.wait([running])  # which leaves it alone when this call is cancelled
            seen = running.result().only_report(task_id)
            return self.known(task_id) if seen is None else self.learn(seen)
        return self.known(task_id)

    async def take(self, task_ids: Sequence[str]) -> list[ResultMeta]:
        """Look once for each task, some at a time, take the ready reports that are there, and return them.

        Cancelled, or when one look fails, nothing is taken. Two processes that look at the same moment may both get it.
        """
        here = [each for each in task_ids if each in self.waiters or self._queue_for(each) is None]
        elsewhere = list(set(task_ids).difference(here))
        looks: list[Look] = []
        while len(looks) < len(elsewhere):  # the limit of a look is that of its own turn
            some = elsewhere[len(looks) : len(looks) + POOL_SIZE]
            looks += await asyncio.gather(*(self._look(task_id, DEFAULT_BACKLOG_LIMIT) for task_id in some))
        metas: list[ResultMeta] = []
        for task_id, look in zip(elsewhere, looks, strict=True):
            for other in set(look.task_ids).difference((task_id,)):
                raise shared_queue(self._name_of(task_id), task_id, other)
            if (meta := look.only_report(task_id)) is not None:
                metas.append(meta)
        # Nothing waits from here on: what is taken is returned.
        ready = [meta for meta in metas if meta.is_ready]
        for meta in metas:
            self.learn(meta)
        for meta in ready:
            self.memory.take(meta)
            self._take_off(meta.task_id)
        return [*ready, *await super().take(here)]

    def _looked(self, task_id: str, look: asyncio.Task[Look]) -> None:
        del self._looks[task_id]
        if not look.cancelled():
            look.exception()  # every caller may have left

    async def _look(self, task_id: str, backlog_limit: int) -> Look:
        """Look into the queue of a task on a channel of the pool, which costs a third of ``look``; all goes back."""
        look = Look(self.settings.codec, self.waiters)
        queue = self._queue_for(task_id)
        if queue is None or task_id in self._taken:
            return look  # what was taken here is not there, though its queue may be for a while

        async def read(channel: Channel) -> None:
            try:
                await look.read(queue(channel), task_id, backlog_limit)
            finally:
                await look.put_back(queue(channel))

        async with self.parts.sessions.within(self.settings.rpc_timeout) as session:
            while task_id not in self.waiters and (subscription := self._subscriptions.get(queue.name)) is not None:
                if subscription.task_id != task_id and subscription.task_id in self.waiters:
                    raise shared_queue(queue.name, task_id, subscription.task_id)
                await subscription.decided.wait()
            if task_id not in self.waiters:
                await session.run(read)
        return look

    # Forgetting

    async def delete(self, task_id: str) -> None:
        """Delete the queue of a task."""
        queue = self._queue_for(task_id)
        if queue is not None:
            async with self.parts.sessions.within(self.settings.rpc_timeout) as session:
                if (deletion := self.deletion(task_id)) is not None:
                    await asyncio.wait([deletion])  # later it might delete a new one
                with self._deleting(task_id, queue.name):
                    await session.run(lambda channel: queue(channel).delete())

    def deletion(self, task_id: str) -> asyncio.Future[None] | None:
        """Return a future that completes once the queue of an already taken result is deleted.

        None if no deletion is pending.
        """
        if task_id in self._taken and self._taken[task_id] is None:
            self._taken[task_id] = asyncio.get_running_loop().create_future()
        return self._taken.get(task_id)

    @contextmanager
    def _deleting(self, task_id: str, queue: str) -> Iterator[None]:
        """Mark the queue of a task as being deleted by us.

        A waiter that is still there when the block ends arrived during the deletion, and needs a new queue.
        """
        self._forgetting[task_id] += 1
        try:
            yield
            subscription = self._subscriptions.get(queue)
            if subscription is not None and subscription.state is not SubscriptionState.CLOSING:
                self._drop(queue)
        finally:
            self._forgetting[task_id] -= 1
            if not self._forgetting[task_id]:
                del self._forgetting[task_id]
            self._look_at(task_id)
