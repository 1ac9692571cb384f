"""The queues that a consumer was given, under the names that they have on the broker."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from aioresults.errors import NotBoundError
from aioresults.messaging.queue import Queue
from aioresults.transport.base import Channel, Connection


class QueueSet:
    """Queues on one channel: added, declared and purged together; what ``Consumer`` stands on.

    Args:
        channel: None to be given one later.
        queues: one, or several.
    """

    #: Whether queues are declared as they are added, and all before they are consumed.
    auto_declare: bool = True

    def __init__(self, channel: Channel | None, queues: Queue | Iterable[Queue] | None) -> None:
        self._channel = channel
        self._queues: dict[str, Queue] = {}
        self.queues = [queues] if isinstance(queues, Queue) else list(queues or ())

    @property
    def channel(self) -> Channel:
        """The channel; ``NotBoundError`` when it has none."""
        if self._channel is None:
            raise NotBoundError("there is no channel yet: give it one with revive(channel)")
        return self._channel

    @property
    def connection(self) -> Connection:
        """The connection of its channel."""
        return self.channel.connection

    @property
    def queues(self) -> list[Queue]:
        """The queues it was given, consumed or not; a new list."""
        return list(self._queues.values())

    @queues.setter
    def queues(self, queues: Iterable[Queue]) -> None:
        channel = self._channel
        self._queues = {queue.name: queue if channel is None else queue(channel) for queue in queues}

    async def add_queue(self, queue: Queue) -> Queue:
        """Add a queue, and declare it where ``auto_declare`` says so; ``consume`` consumes it. Return the bound copy.

        Raises:
            InequivalentArgument, ChannelError, BrokerUnavailable: as ``Queue.declare``; it is not added then.
        """
        queue = queue(self.channel)
        if self.auto_declare:
            queue = await _declared(queue)
        self._queues[queue.name] = queue
        return queue

    async def add_queue_from_dict(self, queue: str, **options: Any) -> Queue:
        """Add the queue that kombu's options describe; deprecated: ``add_queue(Queue.from_dict(...))``."""
        warnings.warn(
            "add_queue_from_dict is deprecated: use add_queue(Queue.from_dict(name, **options))",
            DeprecationWarning,
            stacklevel=2,
        )
        return await self.add_queue(Queue.from_dict(queue, **options))

    async def declare(self) -> None:
        """Declare the queues, their exchanges and bindings; raises as ``Queue.declare``."""
        declared = [await _declared(queue(self.channel)) for queue in self.queues]
        self._queues = {queue.name: queue for queue in declared}

    async def purge(self) -> int:
        """Drop the messages that are ready in the queues; return how many."""
        return sum([await queue(self.channel).purge() for queue in self.queues])


async def _declared(queue: Queue) -> Queue:
    """Declare a bound queue, and return it under the name that it has by then."""
    ok = await queue.declare()
    return queue if queue.name else queue.copy(name=ok.queue)
