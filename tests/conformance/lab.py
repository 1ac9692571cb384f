"""The setting of a conformance test: a broker, a routing, backends that act as processes, and an outsider's eyes."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import pytest

from aioresults import AMQPBackend, BrokerUnavailable, NotFound, QueuePerTask, ReplyQueue, Request, ResultStream
from aioresults.routing import Routing
from aioresults.transport import Channel, transport_for
from aioresults.transport.base import Connection, DeclareOk, Delivery, Properties
from aioresults.transport.memory import MemoryBroker
from tests.eventually import eventually
from tests.pages import names_of
from tests.proxy import Proxy

#: The digits that all task ids of this process begin with: one group, for a routing that makes groups of them.
GROUP = secrets.token_hex(4)


@dataclass(frozen=True)
class Layout:
    """A routing, and which promises it makes; most of them are facts of the routing."""

    make: Callable[..., Routing]
    #: Reports before the last one stay where they are, and a late one never hides a result.
    history: bool = True
    #: What was delivered to a wait that ended without it is there for the next reader; auto_delete queues lose it.
    returns: bool = True

    @property
    def by_id(self) -> bool:
        """Anyone who has a task's id can look at its reports, and they may be stored before anybody waits."""
        return not self.make().needs_reply_to

    @property
    def shared(self) -> bool:
        """Nobody takes a result: all read the same stream, again and again, and each a moment after it was stored."""
        return self.make().rereads

    @property
    def own_queue(self) -> bool:
        """A task has a queue of its own, or none, which is deleted with its result: whoever waits elsewhere is told.

        Otherwise it is the queue of a group of tasks, and stays.
        """
        return not is_grouping(self.make())

    def fresh(self) -> Self:
        """Return it for one test: with a stream or a group's queue of its own, where all share one."""
        return self if self.own_queue and not self.shared else replace(self, make=partial(self.make, new_name()))


def is_grouping(routing: Routing) -> bool:
    """Whether tasks of one group have one queue."""
    one, other = (routing.queue(routing.rkey(new_id())) for _ in range(2))
    return one is not None and one == other


def new_id() -> str:
    """Return a task id that no other test has: a UUID, which every layout takes."""
    return GROUP + str(uuid.uuid4())[len(GROUP) :]


def new_name() -> str:
    """Return a name for an exchange or a queue that no other test has."""
    return f"test.{secrets.token_hex(6)}"


#: Every routing runs through the whole suite; a test that needs a promise asks for it with `where`.
LAYOUTS = {
    "per_task": Layout(QueuePerTask),
    "last_value": Layout(lambda: QueuePerTask(last_value=True), history=False),
    "reply_queue": Layout(ReplyQueue, returns=False),
    "stream": Layout(ResultStream),
    "group_queue": Layout(partial(names_of("docs/architecture.md")["GroupQueue"], separator="-")),
    "celery": Layout(QueuePerTask.celery, returns=False),
    "celery_amqp_backend": Layout(QueuePerTask.celery_amqp_backend, returns=False),
}


def where(**promises: bool) -> pytest.MarkDecorator:
    """Run a test, or those of a class, with the layouts that make these promises."""
    return only(
        *(name for name, layout in LAYOUTS.items() if all(getattr(layout, key) is promises[key] for key in promises))
    )


def only(*names: str) -> pytest.MarkDecorator:
    """Run a test with these layouts."""
    return pytest.mark.layouts(*names)


async def waiting_for(backend: AMQPBackend, tasks: int, within: float = 30) -> None:
    """Return when `backend` waits for so many tasks, none more and none less, and the broker has done what follows."""

    def waits() -> bool:
        stats = backend.stats()
        consuming = 1 if backend.inbox() else min(tasks, 1) if is_grouping(backend.routing) else tasks
        return stats["waiting"] == tasks and stats["consuming"] == consuming and not stats.get("deleting")

    await eventually(waits, within)


async def arrived(backend: AMQPBackend, task_id: str) -> None:
    """Return when a task's report is where `backend` finds it with one look."""

    async def known() -> bool:
        return (await backend.get_task_meta(task_id)).status != "PENDING"

    if backend.queue_for(task_id) is None:
        await eventually(known)


def queue_of(backend: AMQPBackend, task_id: str) -> str:
    """Return the name of the queue in which `backend` gets the reports of a task."""
    reply_to = backend.reply_to if backend.routing.needs_reply_to else None
    return backend.destination_for(task_id, Request(reply_to=reply_to))[0]


class Raw:
    """The broker as any other client sees it."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], layout: Layout) -> None:
        self._connect = connect
        self._layout = layout
        self._connection: Connection | None = None

    async def channel(self) -> Channel:
        """Open a channel, with confirms."""
        if self._connection is None or self._connection.is_closed:
            self._connection = await self._connect()
        return await self._connection.channel(confirms=True)

    async def queue(self, name: str) -> DeclareOk | None:
        """Return the counts of a queue, by a passive declare; None when there is none."""
        while True:
            try:
                return await self._queue(name)
            except BrokerUnavailable:
                # A queue that is declared while the files of a former one of its name are still being deleted crashes
                # in RabbitMQ 4.3.6 (badmatch in rabbit_classic_queue_index_v2), and with it the connections of those
                # who ask about it (541). Where there is no broker any more, connecting says so.
                self._connection = None

    async def _queue(self, name: str) -> DeclareOk | None:
        channel = await self.channel()
        try:
            return await channel.queue_declare(name, passive=True)
        except NotFound:
            return None
        finally:
            await channel.close()

    async def ready(self, name: str) -> int | None:
        """Return how many messages of a queue are ready; None when there is no such queue."""
        queue = await self.queue(name)
        return None if queue is None else queue.message_count

    async def consumers(self, name: str) -> int | None:
        """Return how many consumers a queue has; None when there is no such queue."""
        queue = await self.queue(name)
        return None if queue is None else queue.consumer_count

    @property
    def nothing(self) -> int | None:
        """What ``ready`` returns for the queue of a task of which nothing is left."""
        return None if self._layout.own_queue else 0

    async def is_ready(self, name: str, count: int | None) -> bool:
        """Whether a queue has so many ready messages; None: whether it is not there."""
        return await self.ready(name) == count

    async def waited_for(self, backend: AMQPBackend, task_id: str, processes: int = 1) -> None:
        """Return when so many processes wait for a task, and the broker knows where they have queues for it."""

        async def consumed() -> bool:
            if queue is None:
                return task_id in backend._opened().reader.waiters
            return await self.consumers(queue.name) == processes

        queue = backend.queue_for(task_id)
        await eventually(consumed)

    async def left(self, backend: AMQPBackend, *task_ids: str) -> None:
        """Return when `backend` waits for nothing, and the broker has done what it does when these are left.

        A result that is stored while the broker deletes an auto_delete queue is lost; so it is in Celery.
        """
        await waiting_for(backend, 0)
        for task_id in task_ids:
            queue = backend.queue_for(task_id)
            if queue is not None and queue.auto_delete:
                await self.gone(backend, task_id)

    async def gone(self, backend: AMQPBackend, task_id: str) -> None:
        """Return when the broker has nothing of a task, and `backend` will not delete any more of it."""
        queue = backend.queue_for(task_id)
        if queue is not None:
            await eventually(lambda: not backend.stats().get("deleting"))
            await eventually(lambda: self.is_ready(queue.name, self.nothing))

    async def returned(self, backend: AMQPBackend, task_id: str) -> None:
        """Return when the one report of a task that was handed back is in its queue again, where it has one.

        What is handed back has no answer, so whoever looks next, on another channel, may come before it.
        """
        queue = backend.queue_for(task_id)
        if queue is not None:
            await eventually(lambda: self.is_ready(queue.name, 1))

    async def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        """Publish to a queue."""
        channel = await self.channel()
        await channel.basic_publish(body, Properties(**properties), "", queue, mandatory=True)
        await channel.close()

    async def get(self, queue: str) -> Delivery:
        """Take one message out of a queue."""
        channel = await self.channel()
        delivery = await channel.basic_get(queue, no_ack=True)
        assert delivery is not None
        await channel.close()
        return delivery


class Lab:
    """A broker at `url`, reached through `proxy` if there is one, and what was opened on it. Ends all that it began."""

    def __init__(self, url: str, layout: Layout, proxy: Proxy | None = None) -> None:
        self.url = proxy.url_for(url) if proxy is not None else url
        self.layout = layout
        self._direct_url = url
        self._proxy = proxy
        self._stack = AsyncExitStack()
        self._opened: list[AMQPBackend] = []

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
        if self.memory is None:
            await self._delete_shared()
        if self.memory is not None:
            MemoryBroker.forget(self.memory.name)

    async def _delete_shared(self) -> None:
        """Delete the queue of this test that no task takes with it."""
        routing = self.layout.make()
        if self.layout.shared:
            queue = routing.inbox()
        else:
            queue = None if self.layout.own_queue else routing.queue(routing.rkey(new_id()))
        if queue is not None:
            connection = await transport_for(self._direct_url).connect()
            await (await connection.channel()).queue_delete(queue.name)
            await connection.close()

    @property
    def memory(self) -> MemoryBroker | None:
        """The broker, if it is one inside this process."""
        scheme, _, name = self._direct_url.partition("://")
        return MemoryBroker.named(name) if scheme == "memory" else None

    def make(self, cls: type[AMQPBackend] = AMQPBackend, **options: Any) -> AMQPBackend:
        """Return a backend as a process of its own would have; not opened, and not closed by anybody.

        The limit of what is awaited of the broker is no test's point that does not set it; a busy machine may reach it.
        """
        return cls(self.url, **{"routing": self.layout.make(), "rpc_timeout": 60, **options})

    async def open(self, cls: type[AMQPBackend] = AMQPBackend, **options: Any) -> AMQPBackend:
        """Return an open backend; it is closed at the end, at the latest."""
        backend = await self._stack.enter_async_context(self.make(cls, **options))
        self._opened.append(backend)
        return backend

    async def settled(self) -> None:
        """Return when what was stored so far has been read by every backend, where all of them read all."""
        if self.layout.shared:
            # Each returns when its own tombstone has come back to it.
            await asyncio.gather(*(each.forget(new_id()) for each in self._opened if each.stats()["open"]))

    def raw(self) -> Raw:
        """Return any other client, which connects around the proxy."""
        return Raw(self._connect, self.layout)

    async def _connect(self) -> Connection:
        connection = await transport_for(self._direct_url).connect()
        self._stack.push_async_callback(connection.close)
        return connection

    # What may go wrong with the network; needs the fixture `shaky`.

    def cut(self) -> None:
        """Lose every connection; new ones work at once."""
        if self.memory is not None:
            self.memory.cut()
        elif self._proxy is not None:
            self._proxy.drop()

    def go_down(self) -> None:
        """Lose every connection, and refuse new ones until `come_up`."""
        if self.memory is not None:
            self.memory.stop()
        elif self._proxy is not None:
            self._proxy.cut()

    async def come_up(self) -> None:
        """End `go_down`."""
        if self.memory is not None:
            self.memory.start()
        elif self._proxy is not None:
            await self._proxy.restore()

    def stall(self) -> None:
        """Hold what is published on its way until `resume`."""
        if self.memory is not None:
            self.memory.block()
        elif self._proxy is not None:
            self._proxy.stall()

    def resume(self) -> None:
        """End `stall`."""
        if self.memory is not None:
            self.memory.unblock()
        elif self._proxy is not None:
            self._proxy.resume()
