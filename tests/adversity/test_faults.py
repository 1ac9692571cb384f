"""Faults at exact moments, and callers that do not keep up: each result arrives once, and every call ends in time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from time import monotonic, sleep

import pytest

from aioresults import AMQPBackend, BrokerUnavailable, NotFound, ReplyQueue, Request, ResultNotRouted, ResultStream
from aioresults.events import ConnectionLost, Event, QueueLost, Unroutable
from aioresults.transport import transport_for
from tests.adversity.leaks import no_leaks
from tests.eventually import eventually
from tests.proxy import Proxy

MakeProxy = Callable[[str], Awaitable[Proxy]]


def new_ids(count: int) -> list[str]:
    prefix = secrets.token_hex(4)
    return [f"{prefix}-{n}" for n in range(count)]


async def consumers(url: str, queue: str) -> int | None:
    """Return how many consumers a queue has; None when it is not there."""
    connection = await transport_for(url).connect()
    try:
        return (await (await connection.channel()).queue_declare(queue, passive=True)).consumer_count
    except NotFound:
        return None
    finally:
        await connection.close()


async def has_consumers(url: str, queue: str, count: int | None) -> None:
    """Return when a queue has so many consumers; None: when it is gone."""

    async def holds() -> bool:
        return await consumers(url, queue) == count

    await eventually(holds, 20)


async def test_cut_between_publish_and_confirm(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    async with (
        no_leaks(),
        AMQPBackend(amqp_url) as caller,
        # A heartbeat of the broker would be the first byte that comes back.
        AMQPBackend(between.url_for(amqp_url), store_only=True, heartbeat=0) as worker,
    ):
        warm, *ids = new_ids(6)
        await worker.store_result(warm, 0)  # opens the channel
        await caller.wait_for(warm, timeout=30)
        for task_id in ids:
            waiting = asyncio.create_task(caller.wait_for(task_id, timeout=20))
            await has_consumers(amqp_url, caller.rkey(task_id), 1)
            between.cut_after(1, "to_client")  # the first byte that comes back is that of the confirm
            storing = asyncio.create_task(worker.store_result(task_id, f"result of {task_id}"))
            await eventually(lambda: between.is_cut)
            assert await waiting == f"result of {task_id}"  # the broker has it, and the worker does not know
            assert not storing.done()
            await between.restore()
            await asyncio.wait_for(storing, 30)
            await caller.forget(task_id)  # the second copy
        assert int(worker.stats()["retried"]) >= 5


async def test_cut_between_delivery_and_ack(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    async with (
        no_leaks(),
        # A heartbeat of ours would be the first byte that goes out.
        AMQPBackend(between.url_for(amqp_url), heartbeat=0) as caller,
        AMQPBackend(amqp_url, store_only=True) as worker,
    ):
        for task_id in new_ids(5):
            waiting = asyncio.create_task(caller.wait_for(task_id, timeout=20))
            await has_consumers(amqp_url, caller.rkey(task_id), 1)
            between.cut_after(1, "to_server")  # the first byte that goes out is that of the ack
            await worker.store_result(task_id, f"result of {task_id}")
            assert await waiting == f"result of {task_id}"
            await eventually(lambda: between.is_cut)
            await between.restore()
            await has_consumers(amqp_url, caller.rkey(task_id), None)


async def test_cut_in_the_middle_of_a_batch(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    async with (
        no_leaks(),
        AMQPBackend(amqp_url, routing=ReplyQueue()) as caller,
        AMQPBackend(between.url_for(amqp_url), routing=ReplyQueue(), store_only=True) as worker,
    ):
        request = Request(reply_to=caller.reply_to)
        await worker.store_result("warm", 0, request=request)
        for n_bytes in (1, 500, 5_000, 20_000):
            ids = new_ids(300)
            between.cut_after(n_bytes, "to_server")
            storing = asyncio.gather(*(worker.store_result(task_id, "x" * 100, request=request) for task_id in ids))
            await eventually(lambda: between.is_cut)
            await between.restore()
            metas = await caller.get_many(ids, timeout=20)
            await storing
            assert {meta.result for meta in metas.values()} == {"x" * 100}
        assert caller.stats()["unclaimed"] == 1  # "warm": nothing came that nobody asked for


async def test_the_event_loop_stands_still_past_the_heartbeat(amqp_url: str) -> None:
    ids = new_ids(20)
    events: list[Event] = []
    async with (
        no_leaks(),
        AMQPBackend(amqp_url, heartbeat=1, on_event=events.append) as caller,
        AMQPBackend(amqp_url, heartbeat=1, store_only=True) as worker,
    ):
        waiting = asyncio.ensure_future(_all(caller, ids))
        await asyncio.gather(*(worker.store_result(task_id, task_id) for task_id in ids[:10]))
        sleep(7)  # RabbitMQ hangs up after two heartbeats that it misses
        await asyncio.gather(*(worker.store_result(task_id, task_id) for task_id in ids[10:]))
        assert await asyncio.wait_for(waiting, 20) == ids
        lost = [event for event in events if isinstance(event, ConnectionLost)]
        assert max(event.lag for event in lost) >= 3.5


async def _all(backend: AMQPBackend, ids: list[str]) -> list[object]:
    return [meta.result for meta in (await backend.get_many(ids)).values()]


async def test_an_outage_longer_than_the_retry_policy_while_someone_waits(amqp_url: str, proxy: MakeProxy) -> None:
    [task_id] = new_ids(1)
    between = await proxy(amqp_url)
    url = between.url_for(amqp_url)
    policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.05, "interval_max": 0.05}
    async with (
        no_leaks(),
        AMQPBackend(url) as caller,
        AMQPBackend(url, store_only=True, retry_policy=policy) as worker,
    ):
        waiting = asyncio.create_task(caller.wait_for(task_id))
        await eventually(lambda: caller.stats()["consuming"] == 1)
        between.cut()
        with pytest.raises(BrokerUnavailable, match="could not be stored") as caught:
            await worker.store_result(task_id, 1)
        assert isinstance(caught.value.__cause__, BrokerUnavailable)
        assert not waiting.done()
        await between.restore()
        await eventually(lambda: worker.stats()["connected"] is True)
        await worker.store_result(task_id, 2)
        assert await asyncio.wait_for(waiting, 30) == 2


async def test_an_inbox_that_expired_while_the_caller_was_away(amqp_url: str, proxy: MakeProxy) -> None:
    before, after = new_ids(2)
    between = await proxy(amqp_url)
    events: list[Event] = []
    async with (
        no_leaks(),
        AMQPBackend(between.url_for(amqp_url), routing=ReplyQueue(), expires=3, on_event=events.append) as caller,
        AMQPBackend(amqp_url, routing=ReplyQueue(), store_only=True, unroutable_policy=(0.01,)) as worker,
    ):
        reply_to = caller.reply_to
        assert reply_to is not None
        request = Request(reply_to=reply_to)
        waiting = asyncio.create_task(caller.wait_for(after))
        between.cut()

        async def is_there() -> bool:  # to declare the queue, even passively, would keep it alive; a store does not
            try:
                await worker.store_result(before, 1, request=request)
            except ResultNotRouted:
                return False
            return True

        async def is_gone() -> bool:
            return not await is_there()

        await eventually(is_gone)
        await between.restore()
        await eventually(lambda: caller.stats()["connected"] is True)
        assert QueueLost(reply_to) in events
        await eventually(is_there)  # it is looked for once a second
        await worker.store_result(after, 2, request=request)
        assert await asyncio.wait_for(waiting, 30) == 2


async def test_an_inbox_that_appears_late(amqp_url: str) -> None:
    [task_id] = new_ids(1)
    events: list[Event] = []
    options = {"unroutable_policy": [0.1] * 600, "on_event": events.append}  # for a minute
    async with AMQPBackend(amqp_url, routing=ReplyQueue(), store_only=True, **options) as worker:  # type: ignore[arg-type]
        name = secrets.token_hex(8)
        request = Request(reply_to=f"aioresults.inbox.{name}")
        storing = asyncio.create_task(worker.store_result(task_id, 1, request=request))
        await eventually(lambda: any(isinstance(event, Unroutable) for event in events))
        async with AMQPBackend(amqp_url, routing=ReplyQueue(name=name), expires=60) as caller:
            assert await caller.wait_for(task_id, timeout=30) == 1
        await storing


async def test_a_look_at_a_stream_that_is_read_slowly(amqp_url: str, proxy: MakeProxy) -> None:
    """A call with a deadline ends one round trip after it, though what it waits for goes on coming."""
    between, stream = await proxy(amqp_url), ResultStream(f"aioresults.test.{secrets.token_hex(4)}")
    ids = new_ids(1_000)
    async with AMQPBackend(amqp_url, routing=stream, store_only=True, expires=600) as worker:
        await asyncio.gather(*(worker.store_result(task_id, "x" * 1_000) for task_id in ids))
        reader = AMQPBackend(between.url_for(amqp_url), routing=stream, expires=600, rpc_timeout=0.5)
        between.slow(100_000)
        async with no_leaks(), reader:
            began = monotonic()
            with pytest.raises(BrokerUnavailable, match="not read to its end"):
                await reader.wait_for("unknown", timeout=0)
            assert 0.5 <= monotonic() - began < 5  # ten seconds, until all of it would have been read
            between.slow(None)
            await eventually(lambda: reader.stats()["caught_up"] is True)
            assert (await reader.get_task_meta("unknown")).status == "PENDING"
            assert await reader.wait_for(ids[-1], timeout=0) == "x" * 1_000
        await (await worker.channel()).queue_delete(stream.name)


async def test_a_caller_that_does_not_keep_up(amqp_url: str) -> None:
    ids = new_ids(3_000)
    async with (
        no_leaks(),
        AMQPBackend(amqp_url, routing=ReplyQueue(), heartbeat=2) as caller,
        AMQPBackend(amqp_url, routing=ReplyQueue(), store_only=True) as worker,
    ):
        request = Request(reply_to=caller.reply_to)
        storing = asyncio.gather(*(worker.store_result(task_id, "x" * 1_000, request=request) for task_id in ids))
        seen = []
        async for task_id, _ in caller.get_many(ids, timeout=60):
            seen.append(task_id)
            if len(seen) % 10 == 0:
                await asyncio.sleep(0.02)
        await storing
        assert sorted(seen) == sorted(ids)
        assert caller.stats()["sessions"] == 1


@pytest.mark.parametrize("url", ["amqp://guest:guest@no-such-host.invalid/", "amqp://guest:guest@127.0.0.1:1/"])
async def test_a_host_or_a_port_that_is_wrong(url: str) -> None:
    async with no_leaks():
        backend = AMQPBackend(url, connect_timeout=0.5)
        began = monotonic()
        with pytest.raises(BrokerUnavailable, match="no connection to"):
            await backend.open()
        assert monotonic() - began < 5
        await backend.close()
