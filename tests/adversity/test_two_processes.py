"""One process stores the results of 2,000 tasks, another waits: each arrives once, whatever happens half-way."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from aioresults import AMQPBackend
from aioresults.transport import transport_for
from tests.adversity.leaks import no_leaks
from tests.adversity.programs import ids_of, printed, start, store_all
from tests.eventually import eventually
from tests.process import Process
from tests.proxy import Direction, Proxy
from tests.rabbitmq import RabbitMQNode

TASKS = 2_000
MakeProxy = Callable[[str], Awaitable[Proxy]]
#: Starts a program of the other side with a URL; it ends with the test. Returns the process, and the log of its lines.
Run = Callable[[str, str], tuple[Process, Path]]


@pytest.fixture
def prefix() -> str:
    return f"two-{secrets.token_hex(4)}"


@pytest.fixture
def run(tmp_path: Path, prefix: str) -> Iterator[Run]:
    with ExitStack() as stack:

        def run(program: str, url: str) -> tuple[Process, Path]:
            log = tmp_path / program
            process = start(program, url, prefix, TASKS, log)
            stack.callback(process.kill)
            return process, log

        yield run


async def queues_left(url: str, ids: list[str]) -> list[str]:
    """Return the ids that still have a queue with something in it."""
    connection = await transport_for(url).connect()
    left = []
    try:
        for task_id in ids:
            channel = await connection.channel()
            try:
                ok = await channel.queue_declare(f"aioresults.task.{task_id}", passive=True)
            except Exception:
                continue
            await channel.close()
            if ok.message_count:
                left.append(task_id)
    finally:
        await connection.close()
    return left


class Caller:
    """Waits for tasks with single calls, and counts what each returned."""

    def __init__(self, backend: AMQPBackend) -> None:
        self.backend = backend
        self.returned: Counter[str] = Counter()

    async def wait(self, task_id: str) -> None:
        assert await self.backend.wait_for(task_id) == f"result of {task_id}"
        self.returned[task_id] += 1

    async def wait_all(self, ids: list[str]) -> None:
        await asyncio.gather(*map(self.wait, ids))

    def missing(self, ids: list[str]) -> list[str]:
        return [task_id for task_id in ids if task_id not in self.returned]


@asynccontextmanager
async def steady(url: str, ids: list[str]) -> AsyncIterator[Caller]:
    """Store and wait in two backends of this process; after the body, check that each result arrived once."""
    async with no_leaks(), AMQPBackend(url, retry_policy={"max_retries": 60}) as worker, AMQPBackend(url) as backend:
        caller = Caller(backend)
        waiting = asyncio.ensure_future(caller.wait_all(ids))
        storing = asyncio.ensure_future(store_all(worker, ids))
        yield caller
        assert len(await asyncio.wait_for(storing, 40)) == len(ids)
        await asyncio.wait_for(waiting, 20)
        assert set(caller.returned.values()) == {1}
        assert len(caller.returned) == len(ids)
        stats = backend.stats()
        assert stats["waiting"] == 0
        assert stats["undecodable"] == 0


async def test_the_waits_are_cancelled_and_start_again(amqp_url: str, prefix: str, run: Run) -> None:
    ids = ids_of(prefix, TASKS)
    rng = random.Random(1)
    rounds = 0
    _, log = run("store", amqp_url)
    async with no_leaks(), AMQPBackend(amqp_url, max_cached_results=0) as backend:
        caller = Caller(backend)
        while len(printed(log, prefix)) < TASKS:
            waits = [asyncio.create_task(caller.wait(task_id)) for task_id in caller.missing(ids)]
            await asyncio.sleep(rng.uniform(0, 0.3))
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            rounds += 1
        await asyncio.wait_for(caller.wait_all(caller.missing(ids)), 20)
        assert caller.returned == dict.fromkeys(ids, 1)
        assert rounds > 5
        assert backend.stats()["waiting"] == 0
    assert await queues_left(amqp_url, ids) == []


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_another_process_takes_over(amqp_url: str, prefix: str, run: Run, end: str) -> None:
    ids = ids_of(prefix, TASKS)
    first, taken_by_first = run("wait", amqp_url)
    _, stored = run("store", amqp_url)
    await eventually(lambda: len(printed(taken_by_first, prefix)) > TASKS // 3, 30)
    await asyncio.to_thread(getattr(first, end))
    taken = printed(taken_by_first, prefix)
    async with no_leaks(), AMQPBackend(amqp_url) as backend:
        caller = Caller(backend)
        await asyncio.wait_for(caller.wait_all([task_id for task_id in ids if task_id not in set(taken)]), 30)
    assert sorted([*taken, *caller.returned.elements()]) == sorted(ids)
    await eventually(lambda: len(printed(stored, prefix)) == TASKS, 10)
    if end == "stop":
        assert await queues_left(amqp_url, ids) == []


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_the_broker_is_restarted(private_rabbitmq: RabbitMQNode, prefix: str, end: str) -> None:
    ids = ids_of(prefix, TASKS)
    async with steady(private_rabbitmq.url, ids) as caller:
        await eventually(lambda: len(caller.returned) > TASKS // 3, 30)
        await asyncio.to_thread(getattr(private_rabbitmq, end))
        await asyncio.to_thread(private_rabbitmq.start)
    assert await queues_left(private_rabbitmq.url, ids) == []


async def test_the_connection_is_lost_again_and_again(amqp_url: str, prefix: str, proxy: MakeProxy) -> None:
    ids = ids_of(prefix, TASKS // 2)
    rng = random.Random(2)
    between = await proxy(amqp_url)
    async with steady(between.url_for(amqp_url), ids):
        for _ in range(10):
            await asyncio.sleep(rng.uniform(0.05, 1.0))
            between.drop()


@pytest.mark.parametrize("direction", ["to_client", "to_server"])
@pytest.mark.parametrize("side", ["worker", "caller"])
async def test_one_side_is_cut_off_after_some_bytes(
    amqp_url: str, prefix: str, proxy: MakeProxy, side: str, direction: Direction
) -> None:
    # Confirms come to the worker, and acks go from the caller: cut off there, nobody knows what was stored or settled.
    ids = ids_of(prefix, TASKS // 8)
    rng = random.Random(3)
    between = await proxy(amqp_url)
    urls = {"worker": amqp_url, "caller": amqp_url, side: between.url_for(amqp_url)}
    async with (
        no_leaks(),
        AMQPBackend(urls["worker"], retry_policy={"max_retries": 60}) as worker,
        AMQPBackend(urls["caller"]) as backend,
    ):
        caller = Caller(backend)
        work = asyncio.ensure_future(asyncio.gather(caller.wait_all(ids), store_all(worker, ids)))
        most = 2_000 if (side, direction) == ("worker", "to_client") else 30_000  # a confirm is small
        cuts = 0
        while cuts < 8 and not work.done():
            between.cut_after(rng.randrange(500, most), direction)
            await eventually(lambda: between.is_cut or work.done(), 30)
            cuts += between.is_cut
            await between.restore()
        await asyncio.wait_for(work, 20)
        assert caller.returned == dict.fromkeys(ids, 1)
        assert cuts > 1
