"""What is over is gone: backends, waits and consumers are collected, and memory does not grow with what passed."""

from __future__ import annotations

import asyncio
import gc
import secrets
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioresults
from aioresults import AMQPBackend, Consumer, Queue, QueuePerTask, ReplyQueue, Request, ResultTimeout
from aioresults.routing import Routing
from tests.adversity.leaks import descriptors, no_leaks
from tests.eventually import eventually

PACKAGE = Path(aioresults.__file__).parent
ROUTINGS = [QueuePerTask, ReplyQueue]


async def use(backend: AMQPBackend, task_id: str) -> None:
    """Make every kind of call once."""
    request = Request(reply_to=backend.reply_to)
    await backend.store_result(task_id, 0, "PROGRESS", request=request)
    watching = asyncio.create_task(_watch(backend, task_id))
    await backend.store_result(task_id, 1, request=request)
    await watching
    with pytest.raises(ResultTimeout):
        await backend.wait_for(f"{task_id}-never", timeout=0.001)
    cancelled = asyncio.create_task(backend.wait_for(f"{task_id}-cancelled"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await backend.store_result(f"{task_id}-many", 1, request=request)
    async for _ in backend.get_many([f"{task_id}-many"]):
        break
    await backend.get_task_meta(task_id)
    await backend.forget(task_id)


async def _watch(backend: AMQPBackend, task_id: str) -> None:
    async for _ in backend.watch(task_id):
        pass


@pytest.mark.parametrize("routing", ROUTINGS)
async def test_a_closed_backend_is_collected(broker_url: str, routing: Callable[[], Routing]) -> None:
    async with no_leaks():
        backend = AMQPBackend(broker_url, routing=routing())
        async with backend:
            runtime = backend._opened()
            parts: list[Any] = [backend, runtime, runtime.sessions, runtime.outbox, runtime.reader]
            left = [weakref.ref(part) for part in (*parts, runtime.reader.waiters)]
            await use(backend, f"collected-{routing.__name__}")
        del backend, runtime, parts

        def collected() -> bool:
            gc.collect()
            return all(ref() is None for ref in left)

        await eventually(collected)


@pytest.mark.parametrize("routing", ROUTINGS)
async def test_what_was_awaited_leaves_nothing_behind(routing: Callable[[], Routing]) -> None:
    async with AMQPBackend("memory://leaks", routing=routing(), max_cached_results=0) as backend:

        async def some(first: int) -> None:
            await asyncio.gather(*(use(backend, f"leak-{routing.__name__}-{n}") for n in range(first, first + 50)))

        async def settled() -> int:
            await eventually(lambda: backend.stats()["waiting"] == backend.stats()["unconfirmed"] == 0)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            await some(0)
            before = await settled()
            for turn in range(1, 6):
                await some(turn * 50)
            # A queue that nobody deleted (of a wait that timed out) stays with this broker until it expires.
            growth = await settled() - before
            assert growth < 250 * 12_000, growth
        finally:
            tracemalloc.stop()


async def test_a_consumer_of_the_user_is_collected(broker_url: str) -> None:
    async with no_leaks(), AMQPBackend(broker_url) as backend:
        channel = await backend.channel()
        queue = Queue("test.leaks", expires=60)
        consumer = Consumer(channel, [queue], on_message=lambda message: message.ack())
        await consumer.consume()
        await consumer.cancel()
        await queue(channel).delete()
        left = weakref.ref(consumer)
        await channel.close()
        del consumer, channel
        await backend.channel()  # aiormq's reader keeps the channel of the last frame until the next one

        def collected() -> bool:
            gc.collect()
            return left() is None

        await eventually(collected)


async def test_sessions_leave_no_descriptor(amqp_url: str) -> None:
    before = descriptors()
    for _ in range(10):
        async with AMQPBackend(amqp_url) as backend:
            await backend.store_result("descriptor", 1)
            await backend.forget("descriptor")
    await eventually(lambda: descriptors() <= before)


async def test_a_channel_keeps_no_consumer_that_is_over(broker_url: str) -> None:
    async with AMQPBackend(broker_url) as backend:
        channel = await backend.channel()
        left = []
        for _ in range(3):
            queue = Queue(f"aioresults.test.{secrets.token_hex(6)}", auto_delete=True)
            async with Consumer(channel, queue) as consumer:
                left.append(weakref.ref(consumer))
            del consumer

        def collected() -> bool:
            gc.collect()
            return [each() for each in left] == [None] * 3

        await eventually(collected)
        await channel.close()


async def test_memory_of_a_channel_does_not_grow_with_its_consumers(broker_url: str) -> None:
    async with AMQPBackend(broker_url) as backend:
        channel = await backend.channel()
        queue = Queue("aioresults.test.leaks.many", expires=60)

        async def memory_after(consumers: int) -> int:
            for _ in range(consumers):
                async with Consumer(channel, queue):
                    pass
            gc.collect()
            # Of ours only: CPython keeps names that pamqp makes up until others take their places.
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, f"{PACKAGE}/*")])
            return sum(each.size for each in ours.statistics("filename"))

        tracemalloc.start()
        try:
            before = await memory_after(50)
            growth = await memory_after(300) - before
            assert growth < 300 * 50, growth
        finally:
            tracemalloc.stop()
            await queue(channel).delete()
