"""What is declared, to the last argument: ours, and byte for byte Celery's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from aioresults import AMQPBackend, Exchange, Queue, QueuePerTask
from aioresults.contrib.rabbitmq import RabbitMQNode
from aioresults.transport.memory import MemoryBroker
from tests.conformance.lab import Lab, Raw, new_id, only, where
from tests.eventually import eventually

DAY = 86_400_000

#: For each layout: prefix of the queue's name, its properties, and its exchange.
DECLARED: dict[str, tuple[str, dict[str, Any], str]] = {
    "per_task": (
        "aioresults.task.",
        {"durable": True, "auto_delete": False, "arguments": {"x-queue-type": "classic", "x-expires": DAY}},
        "",
    ),
    "last_value": (
        "aioresults.task.",
        {
            "durable": True,
            "auto_delete": False,
            "arguments": {"x-queue-type": "classic", "x-expires": DAY, "x-max-length": 1},
        },
        "",
    ),
    "celery": ("", {"durable": True, "auto_delete": True, "arguments": {"x-expires": DAY}}, "celeryresults"),
    "celery_amqp_backend": (
        "celeryresults.",
        {"durable": True, "auto_delete": True, "arguments": {"x-expires": DAY}},
        "celeryresults",
    ),
}


def expected(name: str, task_id: str) -> tuple[str, dict[str, Any], str]:
    prefix, properties, exchange = DECLARED[name]
    return prefix + (task_id.replace("-", "") if name == "celery" else task_id), properties, exchange


@pytest.fixture(params=list(DECLARED))
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


ROUTINGS = {
    "per_task": QueuePerTask(),
    "last_value": QueuePerTask(last_value=True),
    "celery": QueuePerTask.celery(),
    "celery_amqp_backend": QueuePerTask.celery_amqp_backend(),
}


class TestDeclarations:
    """Without I/O: what a backend would declare."""

    def test_of_a_queue(self, name: str) -> None:
        task_id = new_id()
        backend = AMQPBackend("memory://layouts", routing=ROUTINGS[name])
        queue_name, properties, exchange = expected(name, task_id)
        assert backend.rkey(task_id) == queue_name
        assert backend.on_reply_declare(task_id) == [
            Queue(
                queue_name,
                Exchange(exchange),
                queue_name,
                durable=properties["durable"],
                auto_delete=properties["auto_delete"],
                queue_arguments=properties["arguments"],
            )
        ]
        [queue] = backend.on_reply_declare(task_id)
        assert type((queue.queue_arguments or {})["x-expires"]) is int
        assert not queue.exclusive

    @pytest.mark.parametrize("expires", [1, 48.3, None])
    def test_of_an_expiry(self, name: str, expires: float | None) -> None:
        backend = AMQPBackend("memory://layouts", routing=ROUTINGS[name], expires=expires)
        [queue] = backend.on_reply_declare(new_id())
        assert (queue.queue_arguments or {}).get("x-expires") == (None if expires is None else int(expires * 1000))

    def test_celery_is_as_durable_as_persistent(self, name: str) -> None:
        backend = AMQPBackend("memory://layouts", routing=ROUTINGS[name], persistent=False)
        [queue] = backend.on_reply_declare(new_id())
        celery = name.startswith("celery")
        assert queue.durable is not celery
        assert queue.exchange.durable is not celery

    def test_parameters_of_the_original(self) -> None:
        options: dict[str, Any] = {"exchange": "mine", "exchange_type": "topic", "auto_delete": False}
        task_id = new_id()
        backend = AMQPBackend("memory://layouts", routing=QueuePerTask.celery_amqp_backend(), **options)
        [queue] = backend.on_reply_declare(task_id)
        assert queue.name == f"mine.{task_id}"
        assert (queue.exchange.name, queue.exchange.type, queue.auto_delete) == ("mine", "topic", False)
        backend = AMQPBackend("memory://layouts", routing=QueuePerTask.celery(), exchange="mine")
        [queue] = backend.on_reply_declare(task_id)
        assert (queue.name, queue.exchange.name, queue.auto_delete) == (task_id.replace("-", ""), "mine", True)


@contextlib.asynccontextmanager
async def pika_channel(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(url)
    async with connection:
        yield await connection.channel()


async def is_gone(channel: aio_pika.abc.AbstractChannel, queue: str) -> bool:
    if channel.is_closed:
        await channel.reopen()
    try:
        await channel.declare_queue(queue, passive=True)
    except ChannelNotFoundEntity:
        return True
    return False


class TestOnRabbitMQ:
    """A client that declares the very same is welcome; one that declares anything else is not."""

    @pytest.mark.parametrize("stored", [True, False], ids=["stored", "waited for"])
    async def test_redeclared_by_another_client(self, amqp_url: str, name: str, stored: bool) -> None:
        task_id = new_id()
        queue_name, properties, exchange = expected(name, task_id)
        async with (
            AMQPBackend(amqp_url, routing=ROUTINGS[name], rpc_timeout=60) as backend,
            pika_channel(amqp_url) as channel,
        ):
            waiting = None
            if stored:
                await backend.store_result(task_id, 1)
            else:
                waiting = asyncio.create_task(backend.wait_for(task_id))
                await eventually(lambda: backend.stats()["consuming"] == 1)
            declared = await channel.declare_queue(queue_name, **properties)
            if exchange:
                found = await channel.declare_exchange(exchange, "direct", durable=True, auto_delete=False)
                assert stored is False or declared.declaration_result.message_count == 1
                await declared.bind(found, queue_name)
            if waiting is not None:
                await backend.store_result(task_id, 1)
                assert await waiting == 1
            else:
                assert await backend.wait_for(task_id, timeout=30) == 1
            await eventually(lambda: is_gone(channel, queue_name))

    @pytest.mark.parametrize(
        "change",
        [{"durable": False}, {"auto_delete": None}, {"arguments": {}}, {"arguments": {"x-expires": DAY + 1}}],
        ids=str,
    )
    async def test_anything_else_is_refused(self, amqp_url: str, name: str, change: dict[str, Any]) -> None:
        task_id = new_id()
        queue_name, properties, _ = expected(name, task_id)
        if "auto_delete" in change:
            change = {"auto_delete": not properties["auto_delete"]}
        async with (
            AMQPBackend(amqp_url, routing=ROUTINGS[name], rpc_timeout=60) as backend,
            pika_channel(amqp_url) as channel,
        ):
            await backend.store_result(task_id, 1)
            with pytest.raises(ChannelPreconditionFailed):
                await channel.declare_queue(queue_name, **{**properties, **change})
            await backend.forget(task_id)

    async def test_as_the_broker_lists_it(self, private_rabbitmq: RabbitMQNode, name: str) -> None:
        task_id = new_id()
        queue_name, properties, _ = expected(name, task_id)
        async with AMQPBackend(private_rabbitmq.url, routing=ROUTINGS[name]) as backend:
            await backend.store_result(task_id, 1)
            columns = ("name", "durable", "auto_delete", "exclusive", "arguments", "messages_persistent")
            listed = await asyncio.to_thread(private_rabbitmq.ctl, "list_queues", *columns)
            [line] = [line for line in listed.splitlines() if line.startswith(queue_name + "\t")]
            _, durable, auto_delete, exclusive, arguments, persistent = line.split("\t")
            assert (durable, auto_delete) == (
                str(properties["durable"]).lower(),
                str(properties["auto_delete"]).lower(),
            )
            assert (exclusive, persistent) == ("false", "1")
            pairs = properties["arguments"]
            assert arguments.count("{") == len(pairs)
            assert all(key in arguments and str(value) in arguments for key, value in pairs.items())
            await backend.forget(task_id)


@where(by_id=True)
async def test_on_the_memory_broker(lab: Lab, memory: MemoryBroker, raw: Raw) -> None:
    backend, task_id = await lab.open(), new_id()
    await backend.store_result(task_id, 1)
    [queue] = backend.on_reply_declare(task_id)
    info = memory.queue(queue.name)
    assert info is not None
    assert (info.durable, info.auto_delete, info.exclusive) == (queue.durable, queue.auto_delete, False)
    assert dict(info.arguments) == dict(queue.arguments or {})
    await queue(await raw.channel()).declare()
    assert await backend.wait_for(task_id, timeout=30) == 1
    await raw.gone(backend, task_id)


@only("per_task")
async def test_a_store_publishes_first_and_declares_when_it_must(lab: Lab) -> None:
    """Once there is a queue, a report is one message."""
    backend, task_id = await lab.open(), new_id()
    await backend.store_result(task_id, None, "STARTED")
    assert backend.stats()["messages"] == 2
    await backend.store_result(task_id, 1)
    assert backend.stats()["messages"] == 3
    assert backend.stats()["stored"] == 2
    await backend.forget(task_id)
