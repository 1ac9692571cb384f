"""Connections lost again and again under load, on either side, in the middle of anything: each result arrives once."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from aioresults import AMQPBackend, NotFound, QueuePerTask, ReplyQueue, Request
from aioresults.routing import Routing
from aioresults.transport import transport_for
from tests.adversity.leaks import no_leaks
from tests.eventually import eventually
from tests.proxy import Direction, Proxy

MakeProxy = Callable[[str], Awaitable[Proxy]]
#: Stores in flight at a time.
STORES = 16


def new_ids(count: int) -> list[str]:
    prefix = secrets.token_hex(4)
    return [f"{prefix}-{n}" for n in range(count)]


async def store_all(backend: AMQPBackend, ids: list[str]) -> None:
    """Store a report that is not ready and the result of each task, several at a time."""
    left = iter(ids)

    async def store() -> None:
        for task_id in left:
            await backend.store_result(task_id, None, "STARTED")
            await backend.store_result(task_id, f"result of {task_id}")

    await asyncio.gather(*(store() for _ in range(STORES)))


async def wait_all(backend: AMQPBackend, ids: list[str]) -> Counter[object]:
    """Wait for each task with a call of its own; count what was returned."""
    return Counter(await asyncio.gather(*map(backend.wait_for, ids)))


@asynccontextmanager
async def at_work(
    worker_url: str, caller_url: str, ids: list[str]
) -> AsyncIterator[asyncio.Future[tuple[Counter[object], None]]]:
    """Store and wait; after the body, check that each result has arrived once."""
    async with (
        no_leaks(),
        AMQPBackend(worker_url, retry_policy={"max_retries": 60}) as worker,
        AMQPBackend(caller_url) as caller,
    ):
        work = asyncio.gather(wait_all(caller, ids), store_all(worker, ids))
        yield work
        returned, _ = await asyncio.wait_for(work, 120)
        assert returned == Counter(f"result of {task_id}" for task_id in ids)
        assert caller.stats()["waiting"] == 0
        assert worker.stats()["unconfirmed"] == 0


@pytest.mark.parametrize("seed", range(2))
async def test_both_sides_again_and_again(amqp_url: str, proxy: MakeProxy, seed: int) -> None:
    rng = random.Random(seed)
    between = await proxy(amqp_url)
    url = between.url_for(amqp_url)
    async with at_work(url, url, new_ids(600)):
        for _ in range(10):
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            between.drop()


@pytest.mark.parametrize("direction", ["to_client", "to_server"])
@pytest.mark.parametrize("side", ["worker", "caller"])
async def test_one_side_after_some_bytes(amqp_url: str, proxy: MakeProxy, side: str, direction: Direction) -> None:
    # Confirms come to the worker, and acks go from the caller: cut off there, nobody knows what was stored or settled.
    rng = random.Random(3)
    between = await proxy(amqp_url)
    urls = {"worker": amqp_url, "caller": amqp_url, side: between.url_for(amqp_url)}
    most = 2_000 if (side, direction) == ("worker", "to_client") else 30_000  # a confirm is small
    async with at_work(urls["worker"], urls["caller"], new_ids(250)) as work:
        cuts = 0
        while cuts < 8 and not work.done():
            between.cut_after(rng.randrange(500, most), direction)
            await eventually(lambda: between.is_cut or work.done(), 30)
            cuts += between.is_cut
            await between.restore()
        assert cuts > 1


async def test_a_store_goes_on_as_soon_as_there_is_a_connection(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    took = []
    async with AMQPBackend(between.url_for(amqp_url)) as backend:
        for task_id in new_ids(12):
            await asyncio.sleep(1.1)  # a session that did not live for a second is not replaced at once
            between.drop()
            began = monotonic()
            await backend.store_result(task_id, 1)
            took.append(monotonic() - began)
            await backend.wait_for(task_id, timeout=30)
            # Connecting takes some milliseconds, on a machine that has time for it; the second wait of the default
            # policy would be a second, each time. The first had no channel yet that looked alive.
            if min(took[1:], default=1) < 0.9:
                return
    pytest.fail(f"each took a second: {took}")


async def test_closing_leaves_no_taken_result_behind_though_deletions_lag(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 0.3)  # too short for the deletions
    ids = new_ids(1_000)
    async with no_leaks():
        async with AMQPBackend(amqp_url, store_only=True) as worker, AMQPBackend(amqp_url) as caller:
            waiting = asyncio.ensure_future(caller.get_many(ids))
            await store_all(worker, ids)
            assert len(await waiting) == len(ids)
        connection = await transport_for(amqp_url).connect()
        left = 0
        for task_id in ids:
            channel = await connection.channel()
            try:
                left += (await channel.queue_declare(f"aioresults.task.{task_id}", passive=True)).message_count
                await channel.queue_delete(f"aioresults.task.{task_id}")
            except NotFound:
                continue
            await channel.close()
        await connection.close()
    assert left == 0


@pytest.mark.parametrize("routing", [QueuePerTask, ReplyQueue])
async def test_states_never_go_backwards(
    amqp_url: str, proxy: MakeProxy, routing: type[QueuePerTask | ReplyQueue]
) -> None:
    rng = random.Random(5)
    here, there = await proxy(amqp_url), await proxy(amqp_url)
    one: Routing = routing()
    other: Routing = routing()
    async with (
        no_leaks(),
        AMQPBackend(here.url_for(amqp_url), routing=one) as caller,
        AMQPBackend(
            there.url_for(amqp_url), routing=other, store_only=True, retry_policy={"max_retries": 60}
        ) as worker,
    ):
        request = Request(reply_to=caller.reply_to)

        async def report(task_id: str) -> None:
            for number in range(25):
                await worker.store_result(task_id, number, "PROGRESS", request=request)
                await asyncio.sleep(rng.uniform(0, 0.02))
            await worker.store_result(task_id, "done", request=request)

        async def watch(task_id: str) -> list[object]:
            return [meta.result async for meta in caller.watch(task_id)]

        ids = new_ids(40)
        watching = asyncio.gather(*map(watch, ids))
        reporting = asyncio.gather(*map(report, ids))
        for _ in range(30):  # and no more: where connecting takes longer than this, there would never be an end
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            if not reporting.done():
                rng.choice([here, there]).drop()
        await reporting
        for seen in await watching:
            assert seen == [*range(25), "done"]
