"""What a broker does to its clients: freeze, block, refuse, close channels, delete queues. Others notice nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest

from aioresults import (
    AMQPBackend,
    BrokerUnavailable,
    ChannelError,
    InequivalentArgument,
    NotFound,
    QueuePerTask,
    ReplyQueue,
    Request,
    ResultForgotten,
    ResultTimeout,
)
from aioresults.routing import Routing
from aioresults.routing.queue_per_task.reader import QueuePerTaskReader
from aioresults.transport import transport_for
from tests.adversity.leaks import no_leaks
from tests.eventually import eventually
from tests.nodes import Node
from tests.proxy import Proxy

MakeProxy = Callable[[str], Awaitable[Proxy]]


def new_ids(count: int) -> list[str]:
    prefix = secrets.token_hex(4)
    return [f"{prefix}-{n}" for n in range(count)]


async def consumed(url: str, task_id: str) -> bool:
    connection = await transport_for(url).connect()
    try:
        ok = await (await connection.channel()).queue_declare(f"aioresults.task.{task_id}", passive=True)
        return ok.consumer_count == 1
    except NotFound:
        return False
    finally:
        await connection.close()


async def store_each(backend: AMQPBackend, ids: list[str], reply_to: str | None = None) -> None:
    request = Request(reply_to=reply_to)
    await asyncio.gather(*(backend.store_result(task_id, task_id, request=request) for task_id in ids))


@pytest.mark.parametrize("routing", [QueuePerTask, ReplyQueue])
async def test_frozen_and_woken(own_broker: Node, routing: type[QueuePerTask | ReplyQueue]) -> None:
    """Calls with a limit keep it; waits and stores outlast it; what was asked for in vain holds nothing back."""
    url, ids = own_broker.url, new_ids(40)
    one: Routing = routing()
    other: Routing = routing()
    async with (
        no_leaks(),
        AMQPBackend(url, routing=one, rpc_timeout=0.5) as caller,
        AMQPBackend(url, routing=other, rpc_timeout=0.5) as worker,
    ):
        await store_each(worker, ids[:10], caller.reply_to)
        waiting = asyncio.ensure_future(_results(caller, ids[20:]))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own_broker.freeze)
        try:
            began = monotonic()
            looks = [caller.get_task_meta(task_id) for task_id in ids[:10]]
            outcomes = await asyncio.gather(*looks, return_exceptions=True)
            assert monotonic() - began < 8
            if routing is QueuePerTask:
                assert {type(outcome) for outcome in outcomes} == {BrokerUnavailable}
            with pytest.raises(ResultTimeout):
                await caller.wait_for(ids[15], timeout=0.3)
            storing = asyncio.ensure_future(store_each(worker, ids[10:], caller.reply_to))
            await asyncio.sleep(1)
            assert not storing.done()
        finally:
            own_broker.thaw()
        began = monotonic()
        await asyncio.wait_for(storing, 20)
        assert await asyncio.wait_for(waiting, 20) == ids[20:]
        # Also what the looks had asked for, and got after nobody wanted it any more.
        assert await asyncio.wait_for(_results(caller, ids[:20]), 20) == ids[:20]
        assert monotonic() - began < 20

        # Nobody is told when the broker has taken note of an acknowledgement, or that a connection is gone.
        async def all_settled() -> bool:
            channels = await asyncio.to_thread(own_broker.ctl, "list_channels", "pid", "messages_unacknowledged")
            return {line.split()[-1] for line in channels.splitlines()[1:]} <= {"0"}

        await eventually(all_settled)

    async def all_gone() -> bool:
        return "aioresults" not in await asyncio.to_thread(own_broker.ctl, "list_connections", "client_properties")

    await eventually(all_gone)


async def _results(backend: AMQPBackend, ids: list[str]) -> list[object]:
    return [meta.result for meta in (await backend.get_many(ids)).values()]


async def test_frozen_for_longer_than_the_heartbeat_allows(own_broker: Node) -> None:
    ids = new_ids(20)
    async with (
        no_leaks(),
        AMQPBackend(own_broker.url, heartbeat=1) as caller,
        AMQPBackend(own_broker.url, heartbeat=1) as worker,
    ):
        waiting = asyncio.ensure_future(_results(caller, ids))
        await store_each(worker, ids[:5])
        await asyncio.to_thread(own_broker.freeze)
        try:
            storing = asyncio.ensure_future(store_each(worker, ids[5:]))
            await eventually(lambda: not caller.stats()["connected"] and not worker.stats()["connected"], 20)
        finally:
            own_broker.thaw()
        await asyncio.wait_for(storing, 20)
        assert await asyncio.wait_for(waiting, 20) == ids


async def test_publishers_are_blocked_and_released(own_broker: Node) -> None:
    ids = new_ids(20)
    ctl = own_broker.ctl
    async with no_leaks(), AMQPBackend(own_broker.url) as caller, AMQPBackend(own_broker.url) as worker:
        await store_each(worker, ids[:10])
        await asyncio.to_thread(ctl, "set_vm_memory_high_watermark", "0.00001")
        try:
            storing = asyncio.ensure_future(store_each(worker, ids[10:]))
            # What waits and looks is not held up by those who publish.
            assert await asyncio.wait_for(_results(caller, ids[:10]), 30) == ids[:10]
            assert (await asyncio.wait_for(caller.get_task_meta(ids[19]), 30)).status == "PENDING"
            assert not storing.done()
        finally:
            await asyncio.to_thread(ctl, "set_vm_memory_high_watermark", "0.9")
        await asyncio.wait_for(storing, 20)
        assert await asyncio.wait_for(_results(caller, ids[10:]), 20) == ids[10:]


async def test_a_refused_queue_hurts_no_other_call(amqp_url: str) -> None:
    ids = new_ids(60)
    refused, fine = ids[:10], ids[10:]
    raw = await transport_for(amqp_url).connect()
    channel = await raw.channel()
    for task_id in refused:
        await channel.queue_declare(f"aioresults.task.{task_id}", arguments={"x-expires": 600_000})
    async with no_leaks(), AMQPBackend(amqp_url) as caller, AMQPBackend(amqp_url) as worker:
        waits = [asyncio.ensure_future(caller.wait_for(task_id)) for task_id in ids]
        stores = [asyncio.create_task(worker.store_result(task_id, task_id)) for task_id in ids]
        await asyncio.wait([*waits, *stores], timeout=30)
        for wait in waits[:10]:
            assert isinstance(wait.exception(), InequivalentArgument)
        assert [wait.result() for wait in waits[10:]] == fine
        # The queue is there, and takes the report, whatever its arguments.
        assert [store.result() for store in stores] == ids
        assert caller.stats()["sessions"] == worker.stats()["sessions"] == 1
    for task_id in refused:
        await channel.queue_delete(f"aioresults.task.{task_id}")
    await raw.close()


async def test_a_deleted_queue_ends_its_own_wait(amqp_url: str) -> None:
    ids = new_ids(40)
    raw = await transport_for(amqp_url).connect()
    channel = await raw.channel()
    async with no_leaks(), AMQPBackend(amqp_url) as caller, AMQPBackend(amqp_url) as worker:
        waits = [asyncio.ensure_future(caller.wait_for(task_id)) for task_id in ids]
        for task_id in ids:
            await eventually(lambda task_id=task_id: consumed(amqp_url, task_id))  # type: ignore[misc]
        for task_id in ids[::4]:
            await channel.queue_delete(f"aioresults.task.{task_id}")
        await asyncio.wait(waits[::4], timeout=30)
        for wait in waits[::4]:
            assert isinstance(wait.exception(), ResultForgotten)
        rest = [task_id for task_id in ids if task_id not in ids[::4]]
        await store_each(worker, rest)
        await asyncio.wait(waits, timeout=30)
        assert [wait.result() for wait in waits if wait.exception() is None] == rest
        assert caller.stats()["sessions"] == 1
    for task_id in ids[::4]:
        with pytest.raises(Exception, match="NOT_FOUND"):
            await (await raw.channel()).queue_declare(f"aioresults.task.{task_id}", passive=True)
    await raw.close()


async def test_channels_closed_under_their_consumers(amqp_url: str) -> None:
    ids = new_ids(40)
    async with no_leaks(), AMQPBackend(amqp_url) as caller, AMQPBackend(amqp_url) as worker:
        waits = [asyncio.ensure_future(caller.wait_for(task_id)) for task_id in ids]
        await eventually(lambda: caller.stats()["consuming"] == 40)
        reader = caller._opened().reader
        assert isinstance(reader, QueuePerTaskReader)
        for turn in range(3):
            # As when another consumer on the channel is refused: the broker closes it, and with it its consumers.
            for consumer in tuple(reader._consumers):
                with pytest.raises(ChannelError):
                    await consumer.channel.basic_consume(f"test.missing-{turn}", lambda delivery: None)
            await store_each(worker, ids[turn * 10 : turn * 10 + 10])
        await store_each(worker, ids[30:])
        await asyncio.wait(waits, timeout=30)
        assert [wait.result() for wait in waits] == ids
        assert caller.stats()["sessions"] == 1
