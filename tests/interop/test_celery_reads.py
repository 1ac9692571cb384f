"""What this package stores, Celery's own client reads."""

from __future__ import annotations

import asyncio
import datetime
import math
import uuid
from decimal import Decimal
from typing import Any

import aio_pika
import celery.exceptions
import pytest
from celery.app.task import Context
from celery.result import GroupResult, ResultSet
from celery_amqp_backend import AMQPBackend as CeleryAMQPBackend
from celery_amqp_backend.exceptions import AMQPWaitTimeoutException

from aioresults import AMQPBackend, RemoteError, Request
from tests.eventually import eventually
from tests.interop.client import CeleryClient
from tests.interop.errors import AppError, CodeError, Outer
from tests.interop.layouts import Layout

VALUES: dict[str, list[Any]] = {
    "json": [
        None, True, -7, 2**80, 0.1, math.inf, "", "text", "naïve ✓ \U0001f389", [], {}, [1, [2, {"a": None}]],
        {"nested": {"list": [1.5, "x"]}}, b"text", b"\xff\x00",
        datetime.datetime(2026, 5, 4, 3, 2, 1, 999, datetime.UTC), datetime.datetime(2026, 5, 4, 3, 2, 1),
        datetime.date(2026, 5, 4), datetime.time(3, 2, 1, 5), Decimal("1.10"), uuid.UUID(int=2**100),
    ],
    "msgpack": [None, True, -7, 2**63, 0.1, math.inf, "naïve ✓", b"\xff\x00", [], {}, [1, [2, {"a": None}]]],
    "yaml": [
        None, True, -7, 2**80, 0.1, math.inf, "naïve ✓ \U0001f389", "null", "1e3", b"\xff\x00", [], {}, {1: "int key"},
        {"nested": {"list": [1.5, "x"]}}, {1, 2},
        datetime.datetime(2026, 5, 4, 3, 2, 1, 999, datetime.UTC), datetime.date(2026, 5, 4),
    ],
}  # fmt: skip


def new_id() -> str:
    return str(uuid.uuid4())


def typed(value: Any) -> tuple[type, Any]:
    """A value that equals another only if their types do too: True is not 1."""
    return type(value), value


@pytest.mark.parametrize("serializer", VALUES)
async def test_values(celery: CeleryClient, layout: Layout, amqp_url: str, serializer: str) -> None:
    expected = {new_id(): value for value in VALUES[serializer]}
    async with layout.backend(amqp_url, serializer=serializer) as backend:
        await asyncio.gather(*(backend.store_result(task_id, value) for task_id, value in expected.items()))

    def read() -> dict[str, Any]:
        return dict(celery.app.backend.get_many(list(expected), timeout=30))

    metas = await celery.run(read)

    assert {task_id: typed(meta["result"]) for task_id, meta in metas.items()} == {
        task_id: typed(value) for task_id, value in expected.items()
    }
    assert {meta["status"] for meta in metas.values()} == {"SUCCESS"}


@pytest.mark.parametrize("compression", ["zlib", "bz2", "lzma", "zstd"])
async def test_compressed_results(celery: CeleryClient, layout: Layout, amqp_url: str, compression: str) -> None:
    task_id, value = new_id(), {"rows": ["much the same"] * 1000}
    async with layout.backend(amqp_url, compression=compression) as backend:
        await backend.store_result(task_id, value)

        assert await celery.get(task_id) == value


async def test_result_before_the_client(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id = new_id()
    await backend.store_result(task_id, "value")

    assert await celery.get(task_id) == "value"


async def test_client_before_the_result(
    celery: CeleryClient, backend: AMQPBackend, layout: Layout, amqp_url: str
) -> None:
    task_id = new_id()
    assert await celery.state(task_id) == "PENDING"
    getting = asyncio.create_task(celery.get(task_id))
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:

        async def waits() -> bool:
            queue = await channel.declare_queue(layout.queue(task_id), passive=True)
            return queue.declaration_result.consumer_count == 1

        await eventually(waits)
        await backend.store_result(task_id, {"done": 1}, "PROGRESS")
        await backend.store_result(task_id, "value")

        assert await getting == "value"


async def test_builtin_error(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id, text = new_id(), "Traceback (most recent call last):\n  ...\nKeyError: 'k'\n"
    await backend.store_result(task_id, KeyError("k", 1), "FAILURE", text)

    def read() -> tuple[Any, ...]:
        result = celery.result(task_id)
        shown = result.state, result.traceback, typed(result.result), result.result.args
        with pytest.raises(KeyError) as raised:
            result.get(timeout=30)
        return *shown, raised.value.args

    state, traceback, (kind, _), args, raised_args = await celery.run(read)

    assert (state, traceback, kind, args, raised_args) == ("FAILURE", text, KeyError, ("k", 1), ("k", 1))


@pytest.mark.parametrize(
    "error",
    [AppError("app", {"a": 1}), CodeError(7, "seven"), Outer.InnerError("inside")],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("serializer", VALUES)
async def test_custom_error_whose_module_the_client_has(
    celery: CeleryClient, layout: Layout, amqp_url: str, serializer: str, error: Exception
) -> None:
    task_id = new_id()
    async with layout.backend(amqp_url, serializer=serializer) as backend:
        await backend.mark_as_failure(task_id, error, "the traceback")

    with pytest.raises(type(error)) as raised:
        await celery.get(task_id)
    assert raised.value.args == error.args


async def test_error_that_came_from_elsewhere_keeps_its_name(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id = new_id()
    await backend.mark_as_failure(task_id, RemoteError("Teapot", ["short"], "kitchen"))

    with pytest.raises(Exception, match="short") as raised:
        await celery.get(task_id)
    # Celery makes a class of that name where it has none.
    assert (type(raised.value).__name__, raised.value.args) == ("Teapot", ("short",))


async def test_error_with_an_argument_that_cannot_be_written(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id = new_id()
    await backend.mark_as_failure(task_id, ValueError("fine", ...))

    with pytest.raises(ValueError, match="fine") as raised:
        await celery.get(task_id)
    assert raised.value.args == ("fine", "Ellipsis")


async def test_recorded_failure_has_its_traceback(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id = new_id()
    with pytest.raises(ZeroDivisionError):
        async with backend.recording(task_id) as recording:
            recording.result = 1 / 0

    def read() -> tuple[str, str]:
        result = celery.result(task_id)
        return result.state, result.traceback

    state, traceback = await celery.run(read)

    assert state == "FAILURE"
    assert "in test_recorded_failure_has_its_traceback" in traceback
    assert traceback.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("reason", ["revoked", "expired", "terminated"])
async def test_revoked(celery: CeleryClient, backend: AMQPBackend, reason: str) -> None:
    task_id = new_id()
    await backend.mark_as_revoked(task_id, reason)

    assert await celery.state(task_id) == "REVOKED"
    with pytest.raises(celery_error("TaskRevokedError"), match=reason):
        await celery.get(task_id)


def celery_error(name: str) -> type[Exception]:
    error: type[Exception] = getattr(celery.exceptions, name)
    return error


async def test_retry(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id = new_id()
    await backend.mark_as_retry(task_id, AppError("again"), "why")

    def read() -> tuple[str, Any, str]:
        result = celery.result(task_id)
        return result.state, result.result, result.traceback

    state, error, traceback = await celery.run(read)
    assert (state, type(error), error.args, traceback) == ("RETRY", AppError, ("again",), "why")

    await backend.store_result(task_id, "at last")
    assert await celery.get(task_id) == "at last"


async def test_progress(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id = new_id()

    def read() -> tuple[str, Any]:
        result = celery.result(task_id)
        return result.state, result.info

    def is_stored() -> bool:  # a recording does not wait for that
        return backend.stats()["unconfirmed"] == 0

    async with backend.recording(task_id) as recording:
        await eventually(is_stored)
        state, info = await celery.run(read)
        assert (state, info.keys()) == ("STARTED", {"pid", "hostname"})
        await recording.progress({"done": 1, "of": 3})
        await recording.progress({"done": 2, "of": 3})
        await eventually(is_stored)
        assert await celery.run(read) == ("PROGRESS", {"done": 2, "of": 3})
        recording.result = 3
    assert await celery.run(read) == ("SUCCESS", 3)
    assert await celery.get(task_id) == 3


async def test_not_ready_is_no_result(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id = new_id()
    await backend.store_result(task_id, {"done": 1}, "PROGRESS")

    with pytest.raises(AMQPWaitTimeoutException):
        await celery.get(task_id, timeout=0.2)


async def test_children(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id, child, group, member = (new_id() for _ in range(4))
    parent = ((task_id, None), None)
    request = Request(children=[((child, parent), None), ((group, parent), [((member, None), None)])])
    await backend.store_result(task_id, "parent", request=request)
    await backend.store_result(child, "child", request=Request(parent_id=task_id))
    await backend.store_result(member, "member", request=Request(group=group))

    def read() -> tuple[Any, ...]:
        alone, grouped = celery.result(task_id).children
        assert isinstance(grouped, GroupResult)
        return alone.id, alone.parent.id, alone.get(timeout=30), grouped.id, grouped.join(timeout=30)

    assert await celery.run(read) == (child, task_id, "child", group, ["member"])


async def test_children_of_celerys_own_request(celery: CeleryClient, backend: AMQPBackend) -> None:
    task_id, child = new_id(), new_id()
    request = Context(id=task_id)
    request.children.append(celery.result(child))
    await backend.store_result(task_id, 1, request=request)

    assert await celery.run(lambda: [each.id for each in celery.result(task_id).children]) == [child]


async def test_get_many_and_native_join(celery: CeleryClient, backend: AMQPBackend) -> None:
    expected = {new_id(): number for number in range(50)}
    ids = list(expected)
    await asyncio.gather(*(backend.store_result(task_id, number) for task_id, number in expected.items()))

    def join(first: list[str], second: list[str]) -> tuple[Any, Any]:
        assert isinstance(celery.app.backend, CeleryAMQPBackend)
        joined = ResultSet([celery.result(task_id) for task_id in first], app=celery.app).join_native(timeout=30)
        native = GroupResult(new_id(), [celery.result(task_id) for task_id in second], app=celery.app).iter_native(
            timeout=30
        )
        return joined, {task_id: meta["result"] for task_id, meta in native}

    joined, native = await celery.run(join, ids[:25], ids[25:])

    assert joined == list(range(25))
    assert native == {task_id: expected[task_id] for task_id in ids[25:]}


async def test_group_with_a_failure(celery: CeleryClient, backend: AMQPBackend) -> None:
    ids = [new_id() for _ in range(3)]
    await backend.store_result(ids[0], 0)
    await backend.mark_as_failure(ids[1], AppError("in the middle"))
    await backend.store_result(ids[2], 2)

    def join() -> Any:
        return ResultSet([celery.result(task_id) for task_id in ids], app=celery.app).get(timeout=30)

    with pytest.raises(AppError, match="in the middle"):
        await celery.run(join)


@pytest.mark.parametrize(("persistent", "expires"), [(True, None), (True, 3600.5), (False, 60), (False, None)])
async def test_durability_and_expiry_of_both_sides(
    layout: Layout, amqp_url: str, persistent: bool, expires: float | None
) -> None:
    task_id = new_id()
    # An exchange cannot be durable for one test and transient for the next.
    exchange = "celeryresults" if persistent else "celeryresults-transient"
    settings = {"result_persistent": persistent, "result_expires": expires, "result_exchange": exchange}
    ours = layout.backend(amqp_url, persistent=persistent, expires=expires, exchange=exchange)
    async with CeleryClient(amqp_url, result_backend=layout.result_backend, **settings) as client, ours as backend:
        await backend.store_result(task_id, "value")

        assert await client.get(task_id) == "value"
