"""Saved groups: which tasks belong to a group, kept by the broker for whoever asks.

A group is a durable queue of one message, ``aioresults.group.<group_id>``, whatever the routing of results is. It
expires when nobody has looked for as long as results are kept. The message is a report whose result is Celery's form
of a group, so it has the same serializers, limits and signatures as every other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from aioresults import checks, states
from aioresults.errors import DecodeError, NotFound
from aioresults.messaging import NoCacheQueue, Producer, Queue
from aioresults.outbox import Outbox
from aioresults.reports import Reports
from aioresults.results import ResultMeta
from aioresults.retry import RetryPolicy
from aioresults.routing import OURS
from aioresults.sessions import Sessions
from aioresults.stored import Stored

PREFIX: Final = OURS + "group."
#: A queue of a group that is there and empty: another process looks at this moment. Seconds between two looks of ours,
#: and how many there are.
RETRY_INTERVAL: Final = 0.01
ATTEMPTS: Final = 100


class Groups:
    """Saves, restores and deletes groups, by Celery's form: ``((id, parent), [member, ...])``.

    Args:
        policy: how a failed save is tried again.
        expires: seconds that a group is kept which nobody looks for.
        max_cached: how many members of groups are remembered, all groups together.
        rpc_timeout: seconds to wait for a session.
    """

    def __init__(
        self,
        sessions: Sessions,
        reports: Reports,
        *,
        policy: RetryPolicy,
        expires: float | None,
        max_cached: int,
        rpc_timeout: float,
        producer: type[Producer],
    ) -> None:
        self._sessions = sessions
        self._reports = reports
        self._expires = expires
        self._max_cached = max_cached
        self._rpc_timeout = rpc_timeout
        self._cache: OrderedDict[str, Any] = OrderedDict()
        self._cached = 0
        #: What is on its way to the broker.
        self.outbox: Final = Outbox(
            sessions,
            reports,
            exchange="",
            queues_for=lambda group_id: [self.queue(group_id)],
            coalesces=lambda _: False,
            policy=policy,
            unroutable=(),
            producer=producer,
        )

    def queue(self, group_id: str) -> Queue:
        """Return the queue of a group.

        Raises:
            ConfigurationError: an id that cannot be a queue's name.
        """
        name = checks.short_string("the queue name of a group", PREFIX + checks.non_empty("a group id", group_id))
        arguments: dict[str, Any] = {"x-queue-type": "classic", "x-max-length": 1}
        if self._expires is not None:
            arguments["x-expires"] = int(self._expires * 1000)
        return NoCacheQueue(name, routing_key=name, queue_arguments=arguments)

    async def save(self, group_id: str, form: Any) -> None:
        """Store a group, in place of what there is of its id; return when the broker has confirmed it.

        Raises as ``AMQPBackend.store_result``.
        """
        routing_key = self.queue(group_id).name
        document = self._reports.write(ResultMeta.of(group_id, form, states.SUCCESS), group_id)
        self.discard(group_id)
        saved = Stored(group_id, group_id, document, None)
        self.outbox.put(routing_key, saved)
        await saved

    async def restore(self, group_id: str, *, cache: bool) -> Any | None:
        """Return the form of a group, or None when there is none.

        Args:
            cache: whether what this process has seen before will do.

        Raises:
            DecodeError: what is there cannot be read; it stays there.
            BrokerUnavailable: there is no session, and none within ``rpc_timeout``.
        """
        queue = self.queue(group_id)
        if cache and (known := self._cache.get(group_id)) is not None:
            self._cache.move_to_end(group_id)
            return known
        async with self._sessions.within(self._rpc_timeout) as session:
            form = await session.run(lambda channel: self._look(queue(channel), group_id))
        if form is not None:
            self._keep(group_id, form)
        return form

    async def _look(self, queue: Queue, group_id: str) -> Any | None:
        for _ in range(ATTEMPTS):
            try:
                message = await queue.get()
            except NotFound:
                return None
            if message is not None:
                try:
                    meta = self._reports.read(message)
                finally:
                    message.requeue()
                if meta.task_id != group_id:
                    raise DecodeError(f"the queue of group {group_id!r} holds something else")
                return meta.result
            await asyncio.sleep(RETRY_INTERVAL)
        return None  # whoever saved it was stopped between declaring and publishing

    async def delete(self, group_id: str) -> None:
        """Delete what the broker and this process hold of a group; one that is not there is no error."""
        queue = self.queue(group_id)
        self.discard(group_id)
        async with self._sessions.within(self._rpc_timeout) as session:
            await session.run(lambda channel: queue(channel).delete())

    # The cache

    def _keep(self, group_id: str, form: Any) -> None:
        self.discard(group_id)
        self._cache[group_id] = form
        self._cached += _size(form)
        while self._cached > self._max_cached:
            _, oldest = self._cache.popitem(last=False)
            self._cached -= _size(oldest)

    def discard(self, group_id: str) -> None:
        """Forget what this process has seen of a group."""
        form = self._cache.pop(group_id, None)
        if form is not None:
            self._cached -= _size(form)


def _size(form: Any) -> int:
    """Return how many members a group has, at least one; those of groups inside it count as one."""
    return max(1, len(form[1])) if isinstance(form, Sequence) and len(form) == 2 and form[1] else 1
