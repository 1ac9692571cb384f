"""``ResultBackend``: workers that store through this package."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from aioresults import AsyncResult, GroupResult, TaskRevoked
from aioresults.contrib.celery import CeleryClient
from tests.interop.caller import TIMEOUT, Caller, calling
from tests.interop.errors import AppError
from tests.interop.worker import Worker


@pytest.fixture
async def prefork(workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    async for caller in calling(workers["plug-in"]):
        yield caller


@pytest.fixture
async def threads(workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    async for caller in calling(workers["plug-in-threads"]):
        yield caller


@pytest.fixture
async def per_task(workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    """A queue per task."""
    async for caller in calling(workers["plug-in-per-task"]):
        yield caller


@pytest.fixture
async def stream(workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    """One stream, that everybody reads."""
    async for caller in calling(workers["plug-in-stream"]):
        yield caller


async def test_one_bridge_for_each_process(prefork: Caller, threads: Caller) -> None:
    for caller, processes in ((prefork, 2), (threads, 1)):
        seen: set[tuple[int, int]] = set()
        while len({pid for pid, bridges in seen if bridges}) < processes:
            seen |= {(pid, bridges) for pid, bridges in await asyncio.gather(*(caller.bridges() for _ in range(20)))}

        assert {bridges for _, bridges in seen} <= {0, 1}  # none before the first result of a process
        assert len({pid for pid, _ in seen}) == processes


async def test_threads_share_it(threads: Caller) -> None:
    assert await asyncio.gather(*(threads.add(number, 1) for number in range(200))) == list(range(1, 201))
    with pytest.raises(AppError):
        await threads.fail("AppError")


async def test_processes_forked_beside_a_bridge(prefork: Caller) -> None:
    """The main process stores what is revoked; then another child is forked off it."""
    doomed = prefork.echo.s("never").freeze()
    await prefork.client.revoke(doomed.result.id, destination=prefork.worker.name, timeout=TIMEOUT)
    with pytest.raises(TaskRevoked):
        await doomed.call(TIMEOUT)
    await prefork.client.control("pool_grow", n=1, destination=prefork.worker.name, timeout=TIMEOUT)

    seen: set[int] = set()
    while len(seen) < 3:
        seen |= {pid for pid, _ in await asyncio.gather(*(prefork.bridges() for _ in range(20)))}
    await prefork.client.control("pool_shrink", n=1, destination=prefork.worker.name, timeout=TIMEOUT)


async def test_a_stream_that_everybody_reads(stream: Caller) -> None:
    values = await stream.client.group(stream.add.s(number, 1) for number in range(100)).call(TIMEOUT)
    assert values == list(range(1, 101))
    reporting = await stream.report.send(2)
    assert [meta.status async for meta in reporting.updates(TIMEOUT)][-1] == "SUCCESS"
    doomed = stream.echo.s("never").freeze()
    await stream.client.revoke(doomed.result.id, destination=stream.worker.name, timeout=TIMEOUT)
    await doomed.send()

    async with stream.worker.caller() as late:  # it was not there, and reads all of it
        assert await late.backend.wait_for(reporting.id, timeout=TIMEOUT) == "reported"
        with pytest.raises(TaskRevoked):
            await late.backend.wait_for(doomed.result.id, timeout=TIMEOUT)


async def test_workers_look_where_they_store(per_task: Caller) -> None:
    waiting = await per_task.add.send(1, 1)
    assert await per_task.states_of(str(uuid.uuid4())) == "PENDING"

    assert await per_task.states_of(waiting.id) == "SUCCESS"
    assert await waiting.get(TIMEOUT) == 2


async def test_groups_are_saved_by_either_side(prefork: Caller, per_task: Caller, stream: Caller) -> None:
    for caller in (prefork, per_task, stream):
        backend = caller.client.backend
        group_id, *members = await caller.saved_group()

        restored = await backend.restore_group(group_id)
        assert restored is not None
        assert [*restored.task_ids()] == members
        assert await restored.join(TIMEOUT) == [1, 2, 3]

        ours = GroupResult(str(uuid.uuid4()), [AsyncResult(member, backend) for member in members])
        await ours.save()
        assert await caller.members_of(ours.id) == members
        assert await caller.members_of("no such group") is None


async def test_chords_are_refused_when_they_are_called(prefork: Caller) -> None:
    assert "does not support chords" in await prefork.refused_chord()


async def test_a_caller_that_is_gone_holds_up_nobody(prefork: Caller) -> None:
    async with prefork.worker.caller() as leaving:
        tasks = [await leaving.send("tests.interop.tasks.nap", 0.5) for _ in range(2)]
    assert len(tasks) == 2

    # Both processes have had a result for nobody.
    assert await asyncio.gather(*(prefork.add(number, 1) for number in range(10))) == list(range(1, 11))


async def test_an_app_finds_the_layout_by_itself(prefork: Caller) -> None:
    app = prefork.worker.app()
    async with CeleryClient.from_app(app) as client:
        assert await client.call("tests.interop.tasks.add", 1, 1, timeout=TIMEOUT) == 2
