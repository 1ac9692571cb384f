"""A stream between processes, and a broker that has no streams."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest

from aioresults import AMQPBackend, NotSupported, ResultStream
from aioresults.contrib.rabbitmq import RabbitMQNode
from tests.adversity.party import task_id

READERS = 8
COUNT = 10_000


@pytest.fixture
async def stream(amqp_url: str) -> AsyncIterator[str]:
    """Return the name of a stream that is deleted afterwards."""
    name = f"aioresults.test.{secrets.token_hex(6)}"
    yield name
    async with AMQPBackend(amqp_url, store_only=True) as backend:
        await (await backend.channel()).queue_delete(name)


async def open_reader(url: str, stream: str) -> Process:
    """Start a process that reads, and return when it is open."""
    command = [sys.executable, "-m", "tests.adversity.stream_reader", url, stream, str(COUNT)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    return process


async def test_eight_readers_ask_for_every_result_and_get_all(amqp_url: str, stream: str) -> None:
    """Half of them are there before anything is stored, the others come when all of it is."""
    early = await asyncio.gather(*(open_reader(amqp_url, stream) for _ in range(READERS // 2)))
    async with AMQPBackend(amqp_url, routing=ResultStream(stream), store_only=True, expires=600) as worker:
        await worker.store_result(task_id(stream, 0), None, "STARTED")
        await asyncio.gather(*(worker.store_result(task_id(stream, number), number) for number in range(COUNT)))
    late = await asyncio.gather(*(open_reader(amqp_url, stream) for _ in range(READERS // 2)))
    outputs = await asyncio.gather(*(process.communicate() for process in (*early, *late)))
    assert {output for output, _ in outputs} == {b"%d %d STARTED SUCCESS\n" % (COUNT, COUNT)}


class WithoutStreams(RabbitMQNode):
    """A broker as it is after an upgrade, when nobody has enabled what is new."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"RABBITMQ_FEATURE_FLAGS": ""}


@pytest.mark.skipif("AIORESULTS_TEST_URL" in os.environ, reason="about the RabbitMQ that is installed")
async def test_a_broker_without_streams() -> None:
    with WithoutStreams() as node:
        for store_only in (True, False):
            backend = AMQPBackend(node.url, routing=ResultStream(), store_only=store_only)
            with pytest.raises(NotSupported, match="rabbitmqctl enable_feature_flag stream_queue"):
                await backend.open()
        await asyncio.to_thread(node.ctl, "enable_feature_flag", "stream_queue")
        async with AMQPBackend(node.url, routing=ResultStream()) as backend:
            await backend.store_result("task", 1)
            assert await backend.wait_for("task", timeout=30) == 1
