"""Races, step by step: each pair of moments at which one thing may happen during another, on the memory broker."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from itertools import product

import pytest

from aioresults import AMQPBackend, ResultForgotten
from aioresults.transport.memory import MemoryBroker
from tests.eventually import eventually


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    name = secrets.token_hex(8)
    yield MemoryBroker.named(name)
    MemoryBroker.forget(name)


@pytest.fixture
async def caller(broker: MemoryBroker) -> AsyncIterator[AMQPBackend]:
    async with AMQPBackend(f"memory://{broker.name}", max_cached_results=0) as backend:
        yield backend


@pytest.fixture
async def worker(broker: MemoryBroker) -> AsyncIterator[AMQPBackend]:
    async with AMQPBackend(f"memory://{broker.name}", store_only=True) as backend:
        yield backend


async def turns(count: int) -> None:
    """Let the event loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def queues(broker: MemoryBroker) -> list[str]:
    return [queue.name for queue in broker.queues()]


async def test_leaving_and_coming_back_while_a_result_arrives(
    broker: MemoryBroker, caller: AMQPBackend, worker: AMQPBackend
) -> None:
    for left, back in product(range(24), range(8)):
        task_id = f"{left}-{back}"
        first = asyncio.create_task(caller.wait_for(task_id))
        storing = asyncio.create_task(worker.store_result(task_id, "result"))
        await turns(left)
        first.cancel()
        await asyncio.wait([first])
        if first.cancelled():
            await turns(back)
            assert await caller.wait_for(task_id, timeout=30) == "result", (left, back)
        await storing
    await eventually(lambda: queues(broker) == [])


async def test_leaving_and_coming_back_when_there_is_more_to_do_than_workers(
    broker: MemoryBroker, caller: AMQPBackend, worker: AMQPBackend
) -> None:
    for left, stored, back in product(range(0, 60, 4), (0, 3), (0, 3)):
        ids = [f"{left}-{stored}-{back}-{n}" for n in range(40)]
        first = [asyncio.create_task(caller.wait_for(task_id)) for task_id in ids]
        await turns(left)
        for task in first:
            task.cancel()
        await turns(stored)
        storing = [asyncio.create_task(worker.store_result(task_id, "result")) for task_id in ids]
        await turns(back)
        assert len(await caller.get_many(ids, timeout=30)) == 40, (left, stored, back)
        await asyncio.gather(*storing)
    await eventually(lambda: queues(broker) == [])


async def test_a_deleted_queue_ends_the_wait_and_stays_deleted(broker: MemoryBroker, caller: AMQPBackend) -> None:
    for moment in range(20):
        task_id = f"deleted-{moment}"
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        name = f"aioresults.task.{task_id}"

        def consumed(name: str = name) -> bool:
            queue = broker.queue(name)
            return queue is not None and queue.consumers == 1

        await eventually(consumed)
        await turns(moment)
        broker.delete_queue(name)
        with pytest.raises(ResultForgotten):
            await waiting
        await turns(50)
        assert queues(broker) == []


async def test_joining_a_wait_that_is_just_being_failed(
    broker: MemoryBroker, caller: AMQPBackend, worker: AMQPBackend
) -> None:
    for moment in range(20):
        task_id = f"joined-{moment}"
        first = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await eventually(lambda: len(queues(broker)) == 1 and broker.queues()[0].consumers == 1)
        broker.delete_queue(f"aioresults.task.{task_id}")
        await turns(moment)
        second = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        with pytest.raises(ResultForgotten):
            await first
        await turns(20)
        await worker.store_result(task_id, "anew")
        # It joined before the deletion was seen, and shares its end; or after it, and waits for what comes.
        outcome = (await asyncio.gather(second, return_exceptions=True))[0]
        assert outcome == "anew" or isinstance(outcome, ResultForgotten), (moment, outcome)
        await caller.forget(task_id)


async def test_one_look_that_is_cancelled_takes_nothing(caller: AMQPBackend, worker: AMQPBackend) -> None:
    for moment in range(24):
        task_id = f"look-{moment}"
        await worker.store_result(task_id, "result")
        looking = asyncio.create_task(caller.wait_for(task_id, timeout=0))
        await turns(moment)
        looking.cancel()
        await asyncio.wait([looking])
        if looking.cancelled():
            assert await caller.wait_for(task_id, timeout=30) == "result", moment


async def test_one_look_at_many_that_is_cancelled_takes_nothing(caller: AMQPBackend, worker: AMQPBackend) -> None:
    for moment in range(0, 30, 3):
        ids = [f"looks-{moment}-{n}" for n in range(5)]
        for task_id in ids:
            await worker.store_result(task_id, task_id)
        looking = asyncio.ensure_future(_all(caller, ids))
        await turns(moment)
        looking.cancel()
        await asyncio.wait([looking])
        if looking.cancelled():
            assert list(await caller.get_many(ids, timeout=30)) == ids, moment


async def _all(backend: AMQPBackend, ids: list[str]) -> object:
    return await backend.get_many(ids, timeout=0)
