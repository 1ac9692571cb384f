"""Three nodes, of which one is lost or frozen, and regained, with the client on it and not on it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from aioresults import AMQPBackend, QueuePerTask, ReplyQueue, Request, ResultStream, ResultTimeout
from aioresults.routing import Routing
from aioresults.transport import transport_for
from tests.adversity.leaks import no_leaks
from tests.eventually import eventually
from tests.nodes import Node, cluster, settle_streams

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with cluster() as nodes:
        settle_streams([nodes[1], nodes[0], nodes[2]])
        yield nodes


def new_ids(count: int) -> list[str]:
    prefix = secrets.token_hex(4)
    return [f"{prefix}-{n}" for n in range(count)]


async def store(worker: AMQPBackend, caller: AMQPBackend, ids: list[str]) -> None:
    request = Request(reply_to=caller.reply_to)
    await asyncio.gather(*(worker.store_result(task_id, task_id, request=request) for task_id in ids))


async def results(backend: AMQPBackend, ids: list[str]) -> list[object]:
    return [meta.result for meta in (await backend.get_many(ids, timeout=60)).values()]


Pairs = list[tuple[AMQPBackend, AMQPBackend]]


@asynccontextmanager
async def three_pairs(urls: list[str], **options: object) -> AsyncIterator[Pairs]:
    """Open a caller and a worker for a quorum inbox, a stream, and queues per task; all on the first node.

    What outlives a node has its leader on the second one.
    """

    def of(routing: Routing, *, at: list[str] = urls, **further: object) -> AMQPBackend:
        policy = {"max_retries": 120}
        return AMQPBackend(at, routing=routing, retry_policy=policy, expires=600, **options, **further)  # type: ignore[arg-type]

    name = secrets.token_hex(4)
    inbox, stream = ReplyQueue(name, queue_type="quorum"), ResultStream(f"aioresults.cluster.{name}")
    for routing in (inbox, stream):
        async with of(routing, at=urls[1:]):
            pass
    async with (
        no_leaks(),
        of(inbox) as asking, of(ReplyQueue(), store_only=True) as answering,
        of(stream) as reading, of(stream, store_only=True) as writing,
        of(QueuePerTask()) as taking, of(QueuePerTask(), store_only=True) as putting,
    ):  # fmt: skip
        yield [(asking, answering), (reading, writing), (taking, putting)]
    connection = await transport_for(urls[1]).connect()
    channel = await connection.channel()
    for queue in (stream.name, f"aioresults.inbox.{name}"):
        await channel.queue_delete(queue)
    await connection.close()


@pytest.mark.parametrize("frozen", [0, 2], ids=["the client's", "another"])
async def test_a_node_is_frozen_and_woken(nodes: list[Node], frozen: int) -> None:
    """What the others can serve is served: at once, or when the client has noticed. The rest is told in time.

    To the others a frozen node is there, for a minute. It still consumes what the client on it had asked for, RabbitMQ
    3.10 waits for it with every declaration, and 4.3 for half a minute where a stream is first used on a channel, if it
    comes first among the nodes. This comes before a node is lost: until then the second one leads.
    """
    ids = new_ids(20)
    streams_go_on = frozen != 0 or nodes[1].ctl("version").startswith("3.")
    async with three_pairs([node.url for node in nodes], heartbeat=1) as pairs:
        (asking, _), (reading, _), _ = pairs
        for caller, worker in pairs:
            await store(worker, caller, ids[:10])
        await asyncio.to_thread(nodes[frozen].freeze)
        try:
            began = monotonic()
            storing = [asyncio.ensure_future(store(worker, caller, ids[10:])) for caller, worker in pairs]
            await storing[0]
            if streams_go_on:
                await storing[1]
                assert await results(reading, ids) == ids
            if frozen != 0:
                assert await results(asking, ids) == ids
            # Three intervals until the connection is given up, and a third of connect_timeout for the silent node.
            assert monotonic() - began < (20 if frozen == 0 else 8)
            began = monotonic()
            for caller, _ in pairs:
                with pytest.raises(ResultTimeout):
                    await caller.wait_for(new_ids(1)[0], timeout=1)
            assert monotonic() - began < 15  # nobody waits as long as for the silent node
        finally:
            nodes[frozen].thaw()
        await asyncio.wait_for(asyncio.gather(*storing), 30)
        for caller, _ in pairs:
            assert await results(caller, ids) == ids
        await eventually(lambda: all(backend.stats()["connected"] for pair in pairs for backend in pair))


@pytest.mark.parametrize("lost", [0, 1, 2], ids=["the client's", "the leaders'", "another"])
async def test_a_node_is_lost_and_regained(nodes: list[Node], lost: int) -> None:
    """A quorum inbox and a stream outlast it; the queues that were on it come back with it."""
    urls = [node.url for node in nodes]
    async with three_pairs(urls) as pairs:
        before = new_ids(20)
        for caller, worker in pairs:
            await store(worker, caller, before[:10])
        waiting = [asyncio.ensure_future(results(caller, before)) for caller, _ in pairs]
        await asyncio.to_thread(nodes[lost].kill)
        try:
            during = new_ids(20)
            for caller, worker in pairs[:-1]:  # with a node missing
                await asyncio.wait_for(store(worker, caller, during), 60)
                assert await results(caller, during) == during
            reading, _ = pairs[1]
            async with AMQPBackend(urls, routing=reading.routing, expires=600) as late:
                assert await results(late, before[:10] + during) == before[:10] + during
                for backend in (reading, late):
                    assert (await backend.get_task_meta("unknown")).status == "PENDING"
            storing = asyncio.gather(*(store(worker, caller, before[10:]) for caller, worker in pairs))
        finally:
            await asyncio.to_thread(nodes[lost].start)
        await asyncio.wait_for(storing, 60)
        for wait in waiting:
            assert await asyncio.wait_for(wait, 60) == before
        await eventually(lambda: all(backend.stats()["connected"] for pair in pairs for backend in pair))
