"""What real Celery workers store, this package awaits. The tasks and the workers know nothing of it."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from typing import Any

import pytest

from aioresults import AMQPBackend, RemoteError, ResultMeta, ResultTimeout, TaskRevoked
from aioresults.errors import RemoteTraceback
from tests.eventually import eventually
from tests.interop.caller import TIMEOUT, watched
from tests.interop.client import CeleryClient
from tests.interop.errors import AppError, CodeError, Outer
from tests.interop.worker import QUEUE_PER_TASK, SOLO, Worker


@dataclass
class Pair:
    """One worker, and this package with its settings."""

    worker: Worker
    client: CeleryClient
    backend: AMQPBackend

    async def send(self, task: str, *args: Any, **options: Any) -> str:
        if self.backend.reply_to:
            options["reply_to"] = self.backend.reply_to
        return await self.worker.send(self.client, task, *args, **options)

    async def call(self, task: str, *args: Any, **options: Any) -> Any:
        return await self.backend.wait_for(await self.send(task, *args, **options), timeout=TIMEOUT)

    async def reports(self, task: str, *args: Any) -> list[ResultMeta]:
        task_id = str(uuid.uuid4())
        reports = self.backend.watch(task_id, timeout=TIMEOUT)
        return await watched(reports, lambda: self.send(task, *args, task_id=task_id))

    async def failure(self, task: str, *args: Any, **options: Any) -> Exception:
        return await self.raised_by(await self.send(task, *args, **options))

    async def raised_by(self, task_id: str) -> Exception:
        """What awaiting the result raises."""
        try:
            value = await self.backend.wait_for(task_id, timeout=TIMEOUT)
        except Exception as error:
            return error
        pytest.fail(f"the task has returned {value!r}")


async def paired(worker: Worker) -> AsyncIterator[Pair]:
    async with worker.client() as client, worker.backend() as backend:
        yield Pair(worker, client, backend)


@pytest.fixture(params=SOLO)
async def pair(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> AsyncIterator[Pair]:
    """Once for each worker."""
    async for pair in paired(workers[request.param]):
        yield pair


@pytest.fixture
async def json_pair(workers: dict[str, Worker]) -> AsyncIterator[Pair]:
    """The worker with Celery's own settings, and STARTED reports."""
    async for pair in paired(workers["json"]):
        yield pair


VALUES = [
    None, True, -7, 0.1, 2**63, "", "naïve ✓ \U0001f389", [], {}, [1, [2, {"a": None}]],
    {"nested": {"list": [1.5, "x"]}},
]  # fmt: skip


async def test_values(pair: Pair) -> None:
    ids = [await pair.send("echo", value) for value in VALUES]

    metas = await pair.backend.get_many(ids, timeout=TIMEOUT)

    assert [(meta.status, type(meta.result), meta.result) for meta in metas.values()] == [
        ("SUCCESS", type(value), value) for value in VALUES
    ]
    assert list(metas) == ids


@pytest.mark.parametrize(
    ("kind", "value"),
    {
        "datetime": datetime.datetime(2026, 5, 4, 3, 2, 1, 999, UTC),
        "naive datetime": datetime.datetime(2026, 5, 4, 3, 2, 1),
        "date": datetime.date(2026, 5, 4),
        "time": datetime.time(3, 2, 1),
        "decimal": Decimal("1.10"),
        "uuid": uuid.UUID(int=2**100),
        "bytes": b"text",
        "binary": b"\xff\x00",
        "bigint": 2**80,
    }.items(),
)
async def test_marked_json(json_pair: Pair, kind: str, value: Any) -> None:
    returned = await json_pair.call("make", kind)

    assert (type(returned), returned) == (type(value), value)


@pytest.mark.parametrize(
    ("serializer", "kind", "value"),
    [
        ("msgpack", "binary", b"\xff\x00"),
        ("msgpack", "int keys", {1: "one"}),  # Celery's own client cannot read this one
        ("yaml", "datetime", datetime.datetime(2026, 5, 4, 3, 2, 1, 999, UTC)),
        ("yaml", "date", datetime.date(2026, 5, 4)),
        ("yaml", "binary", b"\xff\x00"),
        ("yaml", "bigint", 2**80),
        ("yaml", "int keys", {1: "one"}),
        ("yaml", "set", {1, 2}),
    ],
)
async def test_other_serializers(workers: dict[str, Worker], serializer: str, kind: str, value: Any) -> None:
    async for pair in paired(workers[serializer]):
        returned = await pair.call("make", kind)

        assert (type(returned), returned) == (type(value), value)


async def test_value_that_the_worker_cannot_write(pair: Pair) -> None:
    error = await pair.failure("make", "object")

    assert isinstance(error, RemoteError)
    assert (error.exc_module, error.exc_type) == ("kombu.exceptions", "EncodeError")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ValueError", ValueError("no", 1)),
        ("KeyError", KeyError("k")),
        ("OSError", FileNotFoundError(2, "No such file")),
        ("AppError", AppError("app", {"a": 1})),
        ("CodeError", CodeError(7, "seven")),
        ("InnerError", Outer.InnerError("inside")),
    ],
)
async def test_failures(pair: Pair, kind: str, expected: Exception) -> None:
    error = await pair.failure("fail", kind)

    assert (type(error), error.args) == (type(expected), expected.args)
    assert isinstance(error.__cause__, RemoteTraceback)
    text = str(error.__cause__)
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in fail" in text
    assert type(expected).__qualname__ in text.splitlines()[-1]


async def test_failure_without_propagation(json_pair: Pair) -> None:
    task_id = await json_pair.send("fail", "AppError")

    error = await json_pair.backend.wait_for(task_id, timeout=TIMEOUT, propagate=False)
    meta = await json_pair.backend.get_task_meta(task_id)

    assert isinstance(error, AppError)
    assert (meta.status, meta.result) == ("FAILURE", error)
    assert meta.traceback is not None
    assert "tests.interop.errors.AppError" in meta.traceback


async def test_error_that_is_not_registered(json_pair: Pair) -> None:
    async with json_pair.worker.backend(serializers=None) as backend:
        task_id = await json_pair.send("fail", "CodeError")

        with pytest.raises(RemoteError) as raised:
            await backend.wait_for(task_id, timeout=TIMEOUT)

    error = raised.value
    assert (error.exc_module, error.exc_type, error.exc_message) == ("tests.interop.errors", "CodeError", [7, "seven"])
    assert error.traceback is not None
    assert error.traceback.endswith("tests.interop.errors.CodeError: (7, 'seven')\n")


async def test_error_that_celery_wraps(json_pair: Pair) -> None:
    error = await json_pair.failure("fail", "KwOnlyError")

    assert isinstance(error, RemoteError)
    assert error.exc_type == "UnpickleableExceptionWrapper"
    assert error.exc_message[:2] == ["tests.interop.errors", "KwOnlyError"]


async def test_error_argument_that_the_worker_cannot_write(json_pair: Pair) -> None:
    error = await json_pair.failure("fail", "object")

    assert isinstance(error, ValueError)
    assert error.args[0] == "fine"
    assert error.args[1].startswith("<object object at")


async def test_task_that_the_worker_does_not_know(json_pair: Pair) -> None:
    error = await json_pair.failure("nothing")

    assert isinstance(error, RemoteError)
    assert (error.exc_type, error.exc_message) == ("NotRegistered", ["tests.interop.tasks.nothing"])


async def test_retries(pair: Pair) -> None:
    reports: list[ResultMeta] = []
    task_id = str(uuid.uuid4())
    waiting = asyncio.ensure_future(pair.backend.get_many([task_id], timeout=TIMEOUT, on_message=reports.append))
    await asyncio.sleep(0)
    await pair.send("succeed_after", 2, task_id=task_id)

    assert (await waiting)[task_id].result == 2
    retries = [report for report in reports if report.status == "RETRY"]
    assert [(type(report.result), report.result.args) for report in retries] == [
        (AppError, ("again", n)) for n in (0, 1)
    ]
    assert all("AppError" in (report.traceback or "") for report in retries)


async def test_retries_that_run_out(json_pair: Pair) -> None:
    error = await json_pair.failure("succeed_after", 10)

    assert isinstance(error, AppError)
    assert error.args == ("again", 3)


async def test_watch(pair: Pair) -> None:
    reports = [(meta.status, meta.result) for meta in await pair.reports("report", 3)]

    started = [report for report in reports if report[0] == "STARTED"]
    assert [report for report in reports if report not in started] == [
        ("PROGRESS", {"step": 0}), ("PROGRESS", {"step": 1}), ("PROGRESS", {"step": 2}), ("SUCCESS", "reported"),
    ]  # fmt: skip
    if pair.client.app.conf.task_track_started:
        assert [result["hostname"] for _, result in started] == [pair.worker.name]
        assert reports[0] == started[0]


@pytest.mark.parametrize("pair", QUEUE_PER_TASK, indirect=True)
async def test_looks_before_it_takes(pair: Pair) -> None:
    task_id = await pair.send("report", 3)

    async def succeeded() -> bool:
        return (await pair.backend.get_task_meta(task_id)).status == "SUCCESS"

    await eventually(succeeded, within=TIMEOUT)
    async with pair.worker.backend() as other:
        assert (await other.get_task_meta(task_id)).result == "reported"
        assert await other.wait_for(task_id, timeout=TIMEOUT) == "reported"


async def test_expired(pair: Pair) -> None:
    past = datetime.datetime.now(UTC) - datetime.timedelta(hours=1)

    error = await pair.failure("echo", "late", expires=past)

    assert isinstance(error, TaskRevoked)
    assert error.reason == "expired"


async def test_revoked(pair: Pair) -> None:
    assert await pair.call("echo", "the worker runs") == "the worker runs"
    task_id = str(uuid.uuid4())
    control = pair.client.app.control
    answers = await pair.client.run(
        lambda: control.revoke(task_id, destination=[pair.worker.name], reply=True, timeout=30, limit=1)
    )
    assert [list(answer) for answer in answers] == [[pair.worker.name]]

    await pair.send("echo", "never", task_id=task_id)
    # Celery stores REVOKED at the command, and again when the task arrives. Its worker dies when the queue goes while
    # it stores, which is what an auto_delete queue does when its reader leaves; so nobody reads before both are there.
    assert await pair.call("echo", "after") == "after"
    error = await pair.raised_by(task_id)

    assert isinstance(error, TaskRevoked)
    assert error.reason == "revoked"


async def test_ignored_result_never_comes(pair: Pair) -> None:
    ignored = await pair.send("ignored")
    # One task at a time and in order: when this one has answered, that one has ended.
    assert await pair.call("echo", "after") == "after"

    with pytest.raises(ResultTimeout):
        await pair.backend.wait_for(ignored, timeout=0.1)
    assert (await pair.backend.get_task_meta(ignored)).status == "PENDING"


async def test_children(json_pair: Pair) -> None:
    child = str(uuid.uuid4())
    task_id = await json_pair.send("parent", child)

    metas = await json_pair.backend.get_many([task_id, child], timeout=TIMEOUT)

    assert (metas[task_id].result, metas[child].result) == ("parent", "child")
    assert metas[task_id].children == [[[child, None], None]]


async def test_many(pair: Pair) -> None:
    ids = [await pair.send("echo", number) for number in range(100)]

    arrived = {task_id: meta.result async for task_id, meta in pair.backend.get_many(ids, timeout=TIMEOUT)}

    assert arrived == {task_id: number for number, task_id in enumerate(ids)}
