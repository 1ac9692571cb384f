"""Both Celery layouts are declared exactly as Celery declares them; who is first makes no difference.

RabbitMQ is the judge: it refuses a queue or exchange that exists with another flag or argument.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from celery import Celery
from kombu.transport.base import to_rabbitmq_queue_arguments

from aioresults import AMQPBackend, InequivalentArgument
from tests.eventually import eventually
from tests.interop.client import CeleryClient
from tests.interop.layouts import LIMITS, Layout

#: What both sides may be told about durability and expiry; the first is what they do when told nothing.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"persistent": False},
    {"expires": None},
    {"expires": 60},
    {"expires": 3600.25},
    {"expires": 30 * 86400, "persistent": False},
]


def exchange_of(settings: Mapping[str, Any]) -> str:
    # An exchange cannot be durable for one test and transient for the next.
    return "celeryresults" if settings.get("persistent", True) else "celeryresults-transient"


def celery_client(url: str, layout: Layout, settings: Mapping[str, Any]) -> CeleryClient:
    celerys = {f"result_{name}": value for name, value in settings.items()}
    return CeleryClient(url, result_backend=layout.result_backend, result_exchange=exchange_of(settings), **celerys)


def our_backend(url: str, layout: Layout, settings: Mapping[str, Any]) -> AMQPBackend:
    return AMQPBackend(url, routing=layout.routing(), exchange=exchange_of(settings), **LIMITS, **settings)


async def consuming(backend: AMQPBackend, queues: int) -> None:
    """Return when the backend consumes so many queues, and so has declared them."""
    await eventually(lambda: backend.stats()["consuming"] == queues)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
async def test_entities_are_equal(layout: Layout, settings: dict[str, Any]) -> None:
    task_id = str(uuid.uuid4())
    backend = our_backend("memory://unused", layout, settings)
    async with celery_client("memory://", layout, settings) as client:
        celerys = client.app.backend._create_binding(task_id)

    [ours] = backend.on_reply_declare(task_id)

    assert ours.name == celerys.name == layout.queue(task_id).replace("celeryresults.", f"{exchange_of(settings)}.")
    assert ours.routing_key == celerys.routing_key
    for flag in ("durable", "auto_delete", "exclusive"):
        assert getattr(ours, flag) is getattr(celerys, flag), flag
    arguments = to_rabbitmq_queue_arguments(celerys.queue_arguments or {}, expires=celerys.expires)
    assert {name: (type(value), value) for name, value in (ours.queue_arguments or {}).items()} == {
        name: (type(value), value) for name, value in arguments.items()
    }
    for attribute in ("name", "type", "durable", "auto_delete"):
        assert getattr(ours.exchange, attribute) == getattr(celerys.exchange, attribute), attribute
    assert not celerys.exchange.arguments


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
async def test_ours_first(layout: Layout, amqp_url: str, settings: dict[str, Any]) -> None:
    task_id = str(uuid.uuid4())
    async with celery_client(amqp_url, layout, settings) as client, our_backend(amqp_url, layout, settings) as backend:
        waiting = asyncio.create_task(backend.wait_for(task_id, timeout=30))
        await consuming(backend, 1)

        assert await client.state(task_id) == "PENDING"
        await client.store(task_id, "value")

        assert await waiting == "value"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
async def test_ours_first_by_a_store(layout: Layout, amqp_url: str, settings: dict[str, Any]) -> None:
    task_id = str(uuid.uuid4())
    async with celery_client(amqp_url, layout, settings) as client, our_backend(amqp_url, layout, settings) as backend:
        await backend.store_result(task_id, 1, "PROGRESS")
        await client.store(task_id, 2, "PROGRESS")

        async def second_is_there() -> bool:
            return bool((await backend.get_task_meta(task_id)).result == 2)

        # Celery's store returns without a confirm, so a look right after it may be the first at the broker.
        await eventually(second_is_there)
        await client.store(task_id, "value")
        assert await client.get(task_id) == "value"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
async def test_celery_first(layout: Layout, amqp_url: str, settings: dict[str, Any]) -> None:
    task_id = str(uuid.uuid4())
    async with celery_client(amqp_url, layout, settings) as client, our_backend(amqp_url, layout, settings) as backend:
        assert await client.state(task_id) == "PENDING"
        waiting = asyncio.create_task(backend.wait_for(task_id, timeout=30))
        await consuming(backend, 1)

        await backend.store_result(task_id, "value")

        assert await waiting == "value"


@pytest.mark.parametrize(
    ("difference", "argument", "declared", "existing"),
    [
        ({"expires": 60}, "x-expires", "60000", "86400000"),
        ({"expires": None}, "x-expires", "none", "86400000"),
        ({"auto_delete": False}, "auto_delete", "false", "true"),
    ],
    ids=str,
)
async def test_mismatch_of_a_queue(
    layout: Layout, amqp_url: str, difference: dict[str, Any], argument: str, declared: str, existing: str
) -> None:
    mismatched, other = str(uuid.uuid4()), str(uuid.uuid4())
    async with (
        celery_client(amqp_url, layout, {}) as client,
        AMQPBackend(amqp_url, routing=layout.routing(), **LIMITS, **difference) as backend,
    ):
        assert await client.state(mismatched) == "PENDING"
        waiting = asyncio.create_task(backend.wait_for(other, timeout=30))
        await consuming(backend, 1)

        with pytest.raises(InequivalentArgument, match=argument) as raised:
            await backend.wait_for(mismatched, timeout=30)

        # What else the backend does goes on.
        await backend.store_result(other, "value")
        assert await waiting == "value"
        await backend.forget(mismatched)
    error = raised.value
    assert (error.entity, error.name, error.argument) == ("queue", layout.queue(mismatched), argument)
    assert declared in error.declared.lower()
    assert existing in error.existing.lower()


async def test_mismatch_of_the_exchange(layout: Layout, amqp_url: str) -> None:
    async with celery_client(amqp_url, layout, {}) as client:
        task_id = str(uuid.uuid4())
        await client.store(task_id, "value")
        assert await client.get(task_id) == "value"

        backend = layout.backend(amqp_url, persistent=False)
        with pytest.raises(InequivalentArgument) as raised:
            await backend.open()
        await backend.close()
    error = raised.value
    assert (error.entity, error.name, error.argument) == ("exchange", "celeryresults", "durable")


async def test_celery_refuses_a_mismatch_too(layout: Layout, amqp_url: str) -> None:
    task_id = str(uuid.uuid4())
    async with (
        our_backend(amqp_url, layout, {}) as backend,
        celery_client(amqp_url, layout, {"expires": 60}) as client,
    ):
        await backend.store_result(task_id, "value")

        with pytest.raises(Exception, match=r"PRECONDITION_FAILED.*x-expires"):
            await client.state(task_id)

        assert await backend.wait_for(task_id, timeout=30) == "value"


async def test_exchange_of_another_name_and_type(layout: Layout, amqp_url: str) -> None:
    task_id, exchange = str(uuid.uuid4()), f"interop-{secrets.token_hex(4)}"
    settings = {"result_exchange": exchange, "result_exchange_type": "topic", "result_expires": 60}
    ours = layout.backend(amqp_url, exchange=exchange, exchange_type="topic", expires=60)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            CeleryClient(amqp_url, result_backend=layout.result_backend, **settings)
        )
        stack.push_async_callback(client.run, delete_exchange, client.app, exchange)
        backend = await stack.enter_async_context(ours)
        await backend.store_result(task_id, "ours")
        assert await client.get(task_id) == "ours"

        task_id = str(uuid.uuid4())
        await client.store(task_id, "theirs")
        assert await backend.wait_for(task_id, timeout=30) == "theirs"


def delete_exchange(app: Celery, name: str) -> None:
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.exchange_delete(name)
