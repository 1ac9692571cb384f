"""The task messages, and how they get from the caller to the worker: through a queue, in plain aio-pika.

This package carries results, not tasks. What stands here is what you have already: Celery, taskiq, or a queue as here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final, Protocol

import aio_pika
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from aioresults import ReplyQueue

#: Where results go, for both sides: the one line to change.
ROUTING: Final = ReplyQueue()
#: Seconds that a result is kept which nobody reads, for example after Ctrl-C; the same on both sides.
KEPT: Final = 3600

#: Milliseconds after which an unused task queue goes by itself.
EXPIRES: Final = 60_000


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker has to know."""

    id: str
    path: str
    #: Where the caller wants the result; None when the routing needs no address.
    reply_to: str | None

    def to_bytes(self) -> bytes:
        """Return the body of the task's message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> Task:
        """Read the body of a task's message."""
        return cls(**json.loads(body))


class BrokerLost(Exception):
    """The tasks that are under way may be lost. Results would not be: a backend connects again."""

    def __str__(self) -> str:
        return "the connection to the broker was lost, and tasks with it"


class Sender(Protocol):
    """The caller's end of a task queue."""

    async def send(self, tasks: Iterable[Task]) -> None:
        """Hand tasks to the worker."""
        ...


class AMQPTasks:
    """A task queue on RabbitMQ."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, queue: str, lost: asyncio.Event) -> None:
        self._channel = channel
        self._lost = lost
        self.queue = queue

    async def send(self, tasks: Iterable[Task]) -> None:
        """Publish tasks; raises ``BrokerLost``."""
        for task in tasks:
            try:
                await self._channel.default_exchange.publish(aio_pika.Message(task.to_bytes()), self.queue)
            except (AMQPError, ChannelInvalidStateError) as error:
                raise BrokerLost from error

    async def until_lost(self) -> None:
        """Wait for the connection to end; raises ``BrokerLost`` then."""
        await self._lost.wait()
        raise BrokerLost


@asynccontextmanager
async def amqp_tasks(url: str, queue: str) -> AsyncIterator[AMQPTasks]:
    """Make a task queue on RabbitMQ, and delete it afterwards."""
    async with await aio_pika.connect(url) as connection:
        lost = asyncio.Event()
        connection.close_callbacks.add(lambda *_: lost.set())
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, durable=True, arguments={"x-expires": EXPIRES})
        try:
            yield AMQPTasks(channel, queue, lost)
        finally:
            if not channel.is_closed:
                await declared.delete(if_unused=False, if_empty=False)


class LocalTasks:
    """A task queue inside this process."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Task] = asyncio.Queue()

    async def send(self, tasks: Iterable[Task]) -> None:
        """Put tasks into the queue."""
        for task in tasks:
            self.waiting.put_nowait(task)
