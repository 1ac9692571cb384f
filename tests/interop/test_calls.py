"""``CeleryClient`` calls the tasks of real, unmodified workers."""

from __future__ import annotations

import asyncio
import datetime
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from aioresults import MessageReturned, RemoteError, ResultMeta, ResultTimeout, TaskRevoked
from aioresults.errors import RemoteTraceback
from tests.clock import Clock
from tests.eventually import eventually
from tests.interop.caller import TIMEOUT, Caller, calling, watched
from tests.interop.errors import AppError
from tests.interop.worker import Worker


@pytest.fixture(params=["rpc", "rpc-prefork", "json", "plug-in"])
async def caller(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    """For workers on ``rpc://``, solo and prefork, with celery-amqp-backend, and with this package's plug-in."""
    async for caller in calling(workers[request.param]):
        yield caller


async def test_calls(caller: Caller) -> None:
    name = "tests.interop.tasks.describe"

    result = await caller.client.send("tests.interop.tasks.add", 2, 3)
    described = await caller.client.call(name, 1, kwargs={"queue": "an argument"}, timeout=TIMEOUT)

    assert await result.get(timeout=TIMEOUT) == 5
    assert (described["args"], described["kwargs"]) == ([1], {"queue": "an argument"})
    assert await caller.echo({"a": [None, 1.5, "✓"]}) == {"a": [None, 1.5, "✓"]}
    assert await caller.echo(value=datetime.date(2026, 5, 4)) == datetime.date(2026, 5, 4)


async def test_failures(caller: Caller) -> None:
    with pytest.raises(AppError) as raised:
        await caller.fail("AppError")
    with pytest.raises(FileNotFoundError):
        await caller.fail("OSError")
    with pytest.raises(RemoteError, match="UnpickleableExceptionWrapper"):
        await caller.fail("KwOnlyError")
    with pytest.raises(RemoteError, match="NotRegistered"):
        await caller.nothing()

    assert raised.value.args == ("app", {"a": 1})
    assert isinstance(raised.value.__cause__, RemoteTraceback)


async def test_reports_and_retries(caller: Caller) -> None:
    async def watch(task: str, *args: Any) -> list[ResultMeta]:
        task_id = str(uuid.uuid4())
        reports = caller.client.result(task_id).updates(timeout=TIMEOUT)
        return await watched(reports, lambda: getattr(caller, task).using(task_id=task_id).send(*args))

    progress = [(meta.status, meta.result) for meta in await watch("report", 2)]
    retried = await watch("succeed_after", 2)

    assert [report for report in progress if report[0] != "STARTED"] == [
        ("PROGRESS", {"step": 0}), ("PROGRESS", {"step": 1}), ("SUCCESS", "reported"),
    ]  # fmt: skip
    assert progress[0][1]["hostname"] == caller.worker.name
    assert (retried[-1].status, retried[-1].result) == ("SUCCESS", 2)
    retries = [meta.result.args for meta in retried if meta.status == "RETRY"]
    if caller.worker.is_solo:
        assert retries == [("again", 0), ("again", 1)]
    else:
        # Each try runs in a process of its own: the last may answer before those that asked for it have said so.
        assert {*retries} <= {("again", 0), ("again", 1)}


async def test_values_of_a_type(caller: Caller) -> None:
    @dataclass
    class Point:
        x: int
        y: int

    point = caller.client.task("tests.interop.tasks.echo", result_type=Point, timeout=TIMEOUT)

    assert await point({"x": 1, "y": 2}) == Point(1, 2)
    assert await (await point.send(value={"x": 3, "y": 4})) == Point(3, 4)


async def test_options_reach_the_worker(caller: Caller) -> None:
    eta = datetime.datetime(2020, 1, 1, tzinfo=UTC)
    described = await caller.describe.using(
        task_id="c0ffee00-0000-4000-8000-000000000001",
        eta=eta,
        expires=datetime.timedelta(hours=1),
        time_limit=60,
        soft_time_limit=50.5,
        priority=7,
        headers={"x-tenant": "acme"},
        shadow="shown",
        kwargsrepr="{'password': '***'}",
        compression="zlib",
    )(1, password="secret")

    assert described["id"] == described["root_id"] == "c0ffee00-0000-4000-8000-000000000001"
    assert described["eta"] == eta.isoformat()
    left = datetime.datetime.fromisoformat(described["expires"]) - datetime.datetime.now(UTC)
    assert datetime.timedelta(minutes=55) < left < datetime.timedelta(hours=1)
    assert described["timelimit"] == [60, 50.5]
    assert (described["priority"], described["header"], described["shadow"]) == (7, "acme", "shown")
    assert (described["argsrepr"], described["kwargsrepr"]) == ("(1,)", "{'password': '***'}")
    assert described["kwargs"] == {"password": "secret"}
    assert (described["exchange"], described["routing_key"]) == ("", caller.worker.settings["task_default_queue"])


async def test_countdown(solo: Caller) -> None:
    started = monotonic()

    assert await solo.echo.using(countdown=0.5)("later") == "later"

    assert monotonic() - started > 0.5


async def test_expired(caller: Caller) -> None:
    with pytest.raises(TaskRevoked, match="expired"):
        await caller.echo.using(expires=datetime.datetime.now(UTC) - datetime.timedelta(seconds=1))("late")


async def test_expired_in_the_queue(solo: Caller, tmp_path: Path) -> None:
    busy = await solo.hold.send(str(tmp_path / "gate"))
    late = await solo.echo.using(expires=0.1).send("late")
    await asyncio.sleep(0.2)
    (tmp_path / "gate").touch()

    with pytest.raises(TaskRevoked, match="expired"):
        await late.get(timeout=TIMEOUT)
    assert await busy.get(timeout=TIMEOUT) == "released"


async def test_ignored_result(caller: Caller) -> None:
    ignored = await caller.echo.using(ignore_result=True).send("nobody reads this")
    assert await caller.echo("after") == "after"

    with pytest.raises(ResultTimeout):
        await ignored.get(timeout=0.2)


async def test_soft_time_limit(prefork: Caller) -> None:
    with pytest.raises(RemoteError) as raised:
        await prefork.nap.using(soft_time_limit=3)(20)

    assert (raised.value.exc_module, raised.value.exc_type) == ("billiard.exceptions", "SoftTimeLimitExceeded")


async def test_hard_time_limit_reports_twice(prefork: Caller) -> None:
    backend = prefork.client.backend
    before = backend.stats()["received"]
    result = await prefork.nap.using(time_limit=4).send(20)  # its process is new, and has to say STARTED in that time

    with pytest.raises(RemoteError) as raised:
        await result.get(timeout=TIMEOUT)
    assert await prefork.echo("after") == "after"

    assert (raised.value.exc_type, raised.value.exc_message) == ("TimeLimitExceeded", [4])
    # STARTED twice, SUCCESS, and the same FAILURE two times: nobody minds, and nothing is kept of the second.
    await eventually(lambda: int(backend.stats()["received"]) - int(before) >= 5)
    assert backend.stats()["unclaimed"] == 0
    assert str(await result.get(timeout=TIMEOUT, propagate=False)) == str(raised.value)


async def test_many(caller: Caller) -> None:
    values = await asyncio.gather(*(caller.add(number, 1) for number in range(500)))

    assert values == [number + 1 for number in range(500)]


async def test_unknown_queue_and_deadline(solo: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MessageReturned, match=r"no queue for routing key 'aioresults\.interop\.nobody'"):
        await solo.echo.using(queue="aioresults.interop.nobody")(1)
    slow = await solo.hold.send(str(tmp_path / "gate"))
    clock = Clock(monkeypatch)
    calling = asyncio.create_task(solo.client.call("tests.interop.tasks.echo", 1, timeout=20))
    await eventually(lambda: solo.client.backend.stats()["waiting"] == 1)  # before, it would not be known to be sent
    clock.advance(20)
    with pytest.raises(ResultTimeout):
        await calling
    (tmp_path / "gate").touch()

    assert await slow.get(timeout=TIMEOUT) == "released"


async def test_no_thread(solo: Caller) -> None:
    before = set(threading.enumerate())

    await asyncio.gather(*(solo.add(1, 1) for _ in range(10)))

    assert set(threading.enumerate()) <= before
