"""Saved groups: which tasks belong to a group, kept by the broker for every process.

A group is a durable queue of one message, ``aioresults.group.<group_id>``, whatever the routing of results is. It
expires when nobody has saved it or looked at it for as long as results are kept. The message is a report whose result
is Celery's form of a group, so the serializers, limits and signatures of all reports apply to it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from aioresults import states, validation
from aioresults.errors import ChannelClosed, DecodeError, NotFound
from aioresults.messaging import Consumer, Message, NoCacheQueue, Producer, Queue
from aioresults.results import ResultMeta
from aioresults.routing.base import OURS
from aioresults.sessions.outbox import Outbox, PendingStore
from aioresults.sessions.sessions import Session, Sessions
from aioresults.settings import BackendSettings

PREFIX: Final = OURS + "group."


class Groups:
    """Saves, restores and deletes groups in Celery's form: ``((id, parent), [member, ...])``.

    It tells its outbox where to publish (``Destinations``): each group has a queue.

    A group is kept for as long as results are; of all groups together as many members are remembered as results.
    """

    exchange: Final = ""

    def __init__(self, sessions: Sessions, settings: BackendSettings, producer: type[Producer]) -> None:
        self._sessions = sessions
        self._settings = settings
        self._codec = settings.codec
        self._cache: OrderedDict[str, Any] = OrderedDict()
        self._cached = 0
        #: The newest look of this process at each group, unless the group was saved or deleted afterwards.
        self._looks: dict[str, asyncio.Task[Any]] = {}
        #: What is on its way to the broker.
        self.outbox: Final = Outbox(
            sessions, settings.codec, self, settings.events, policy=settings.retry_policy, producer=producer
        )

    # Where the outbox publishes

    def coalesces(self, routing_key: str) -> bool:
        """Return False: a queue holds one group."""
        return False

    def queues_for(self, task_id: str) -> Sequence[Queue]:
        """Return the queue of the group with this id."""
        return [self.queue(task_id)]

    async def declare(self, session: Session) -> None:
        """Do nothing: the default exchange is always there."""

    async def published(self, session: Session, task_id: str) -> None:
        """Reset the expiry of an existing queue, which publishing does not do.

        Declared passively, because another process may have declared the queue with another expiry.
        """
        try:
            await session.run(lambda channel: self.queue(task_id)(channel).declare(passive=True))
        except NotFound as error:  # it has just expired: publish the group again
            raise ChannelClosed(error.reply_code, error.reply_text) from error

    # Saving and restoring

    def queue(self, group_id: str) -> Queue:
        """Return the queue of a group.

        Raises:
            ConfigurationError: the id cannot be the name of a queue.
        """
        validation.non_empty("a group id", group_id)
        name = validation.short_string("the queue name of a group", PREFIX + group_id)
        arguments: dict[str, Any] = {"x-queue-type": "classic", "x-max-length": 1}
        if self._settings.expires is not None:
            arguments["x-expires"] = int(self._settings.expires * 1000)
        return NoCacheQueue(name, routing_key=name, queue_arguments=arguments)

    async def save(self, group_id: str, form: Any) -> None:
        """Store a group in place of the one with the same id; return when the broker has confirmed it.

        Raises as ``AMQPBackend.store_result``.
        """
        routing_key = self.queue(group_id).name
        document = self._codec.write(ResultMeta.of(group_id, form, states.SUCCESS), group_id)
        self.discard(group_id)
        saved = PendingStore(group_id, group_id, document)
        self.outbox.put(routing_key, saved)
        try:
            await saved
        finally:
            self.discard(group_id)  # what a look saw meanwhile

    async def restore(self, group_id: str, *, cache: bool) -> Any | None:
        """Return the form of a group, or None when there is none.

        Args:
            cache: whether the group will do as this process last saw it.

        Raises:
            DecodeError: the saved group cannot be read; it stays with the broker.
            BrokerUnavailable: there was no session within ``rpc_timeout``.
        """
        queue = self.queue(group_id)
        if cache and (known := self._cache.get(group_id)) is not None:
            self._cache.move_to_end(group_id)
            return known
        look = self._looks.get(group_id) if cache else None
        if look is None:
            look = self._looks[group_id] = asyncio.create_task(self._look(queue, group_id))
            look.add_done_callback(partial(self._seen, group_id))
        return await asyncio.shield(look)

    async def _look(self, queue: Queue, group_id: str) -> Any | None:
        async with self._sessions.within(self._settings.rpc_timeout) as session:
            return await session.run(lambda channel: self._read(queue(channel), group_id))

    def _seen(self, group_id: str, look: asyncio.Task[Any]) -> None:
        if self._looks.get(group_id) is not look:
            return
        del self._looks[group_id]
        if not look.cancelled() and look.exception() is None and look.result() is not None:
            self._keep(group_id, look.result())

    async def _read(self, queue: Queue, group_id: str) -> Any | None:
        try:
            message = await queue.get() or await self._given_back(queue)
        except NotFound:
            return None
        if message is None:
            return None
        try:
            meta = self._codec.read(message)
        finally:
            message.requeue()
        if meta.task_id != group_id:
            raise DecodeError(f"the queue of group {group_id!r} does not hold that group")
        return meta.result

    async def _given_back(self, queue: Queue) -> Message | None:
        """Return the message once another look gives it back, or None when there is no message.

        There is none if the process that saved the group was stopped between declaring and publishing. Consumers
        receive the message one after another, in the order in which they came. All of them together may take half of
        the time of one look: some tens of milliseconds each, where forty look at once on a busy machine.
        """
        async with Consumer(queue.channel, queue, auto_declare=False, prefetch_count=1) as consumer:
            try:
                async with asyncio.timeout(self._settings.rpc_timeout / 2):
                    return await anext(consumer)
            except TimeoutError:
                return None

    async def delete(self, group_id: str) -> None:
        """Delete what the broker and this process hold of a group. A group that is not there is no error."""
        queue = self.queue(group_id)
        self.discard(group_id)
        async with self._sessions.within(self._settings.rpc_timeout) as session:
            await session.run(lambda channel: queue(channel).delete())
        self.discard(group_id)  # what a look saw meanwhile

    # The cache

    def _keep(self, group_id: str, form: Any) -> None:
        self._drop(group_id)
        self._cache[group_id] = form
        self._cached += _size(form)
        while self._cached > self._settings.max_cached_results:
            _, oldest = self._cache.popitem(last=False)
            self._cached -= _size(oldest)

    def discard(self, group_id: str) -> None:
        """Forget what this process has seen of a group, and what a look in progress will see."""
        self._looks.pop(group_id, None)
        self._drop(group_id)

    def _drop(self, group_id: str) -> None:
        form = self._cache.pop(group_id, None)
        if form is not None:
            self._cached -= _size(form)


def _size(form: Any) -> int:
    """Return how many members a group has, at least one; a group inside the group counts as one."""
    return (
        max(1, len(form[1])) if isinstance(form, Sequence) and len(form) == 2 and isinstance(form[1], Sequence) else 1
    )
