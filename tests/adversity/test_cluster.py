"""Three nodes, of which one is lost and regained, with the client on it and not on it."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator

import pytest

from aioresults import AMQPBackend, QueuePerTask, ReplyQueue, Request, ResultStream
from aioresults.routing import Routing
from aioresults.transport import transport_for
from tests.adversity.leaks import no_leaks
from tests.eventually import eventually
from tests.nodes import BROKERCTL, Node, cluster

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with cluster() as nodes:
        yield nodes


def new_ids(count: int) -> list[str]:
    prefix = secrets.token_hex(4)
    return [f"{prefix}-{n}" for n in range(count)]


async def store(worker: AMQPBackend, caller: AMQPBackend, ids: list[str]) -> None:
    request = Request(reply_to=caller.reply_to)
    await asyncio.gather(*(worker.store_result(task_id, task_id, request=request) for task_id in ids))


async def results(backend: AMQPBackend, ids: list[str]) -> list[object]:
    return [meta.result for meta in (await backend.get_many(ids, timeout=60)).values()]


@pytest.mark.parametrize("lost", [0, 2], ids=["the client's", "another"])
async def test_a_node_is_lost_and_regained(nodes: list[Node], lost: int) -> None:
    """A quorum inbox and a stream outlast it; the queues that were on it come back with it."""
    urls = [node.url for node in nodes]
    name = f"aioresults.cluster.{secrets.token_hex(4)}"

    def of(routing: Routing, **options: object) -> AMQPBackend:
        return AMQPBackend(urls, routing=routing, retry_policy={"max_retries": 120}, expires=600, **options)  # type: ignore[arg-type]

    inbox, stream = ReplyQueue(queue_type="quorum"), ResultStream(name)
    async with (
        no_leaks(within=10),
        of(inbox) as asking, of(ReplyQueue(), store_only=True) as answering,
        of(stream) as reading, of(stream, store_only=True) as writing,
        of(QueuePerTask()) as taking, of(QueuePerTask(), store_only=True) as putting,
    ):  # fmt: skip
        pairs = [(asking, answering), (reading, writing), (taking, putting)]
        if BROKERCTL in os.environ:
            # RabbitMQ 4.3 has lost a stream for minutes whose node was killed seconds after it was declared.
            pairs.remove((reading, writing))
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
            storing = asyncio.gather(*(store(worker, caller, before[10:]) for caller, worker in pairs))
        finally:
            await asyncio.to_thread(nodes[lost].start)
        await asyncio.wait_for(storing, 60)
        for wait in waiting:
            assert await asyncio.wait_for(wait, 60) == before
        await eventually(lambda: all(backend.stats()["connected"] for pair in pairs for backend in pair))
    connection = await transport_for(urls[1]).connect()
    await (await connection.channel()).queue_delete(name)
    await connection.close()
