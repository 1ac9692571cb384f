"""Every public call, cancelled at every turn of the event loop it takes: nothing is lost, and the backend works on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import pytest

from aioresults import AMQPBackend, AsyncResult, GroupResult, ReplyQueue, Request, ResultStream
from aioresults.routing import QueuePerTask, Routing
from aioresults.transport.memory import MemoryBroker
from tests.adversity.leaks import backend_tasks
from tests.eventually import eventually

#: A call that takes longer than this many turns waits for something; it is cancelled there, too.
TURNS = 40


@dataclass
class Setting:
    """Two processes on one broker, and the names of one turn's task."""

    caller: AMQPBackend
    worker: AMQPBackend
    task_id: str = ""
    taken: list[object] = field(default_factory=list)

    @property
    def request(self) -> Request:
        return Request(reply_to=self.caller.reply_to)

    async def store(self, result: object = "result", status: str = "SUCCESS") -> None:
        """Store a result as the worker does; it stays whole whoever is cancelled."""
        await self.worker.store_result(self.task_id, result, status, request=self.request)


@pytest.fixture(params=[QueuePerTask, ReplyQueue, ResultStream])
async def setting(request: pytest.FixtureRequest) -> AsyncIterator[Setting]:
    url, routing = f"memory://{secrets.token_hex(8)}", request.param
    async with AMQPBackend(url, routing=make(routing)) as caller, AMQPBackend(url, routing=make(routing)) as worker:
        yield Setting(caller, worker)
    MemoryBroker.forget(url.removeprefix("memory://"))


def make(routing: type) -> Routing:
    made: Routing = routing()
    return made


Call = Callable[[Setting], Awaitable[object]]


async def wait_for(setting: Setting) -> object:
    return await setting.caller.wait_for(setting.task_id)


async def wait_with_a_timeout(setting: Setting) -> object:
    return await setting.caller.wait_for(setting.task_id, timeout=30)


async def look_once(setting: Setting) -> object:
    try:
        return await setting.caller.wait_for(setting.task_id, timeout=0)
    except TimeoutError:
        return None


async def consume(setting: Setting) -> object:
    return (await setting.caller.consume(setting.task_id)).result


async def get_many(setting: Setting) -> object:
    return (await setting.caller.get_many([setting.task_id]))[setting.task_id].result


async def iterate(setting: Setting) -> object:
    async for _, meta in setting.caller.get_many([setting.task_id]):
        setting.taken.append(meta.result)
    return setting.taken[-1]


async def watch(setting: Setting) -> object:
    async for meta in setting.caller.watch(setting.task_id):
        if meta.is_ready:
            setting.taken.append(meta.result)
    return setting.taken[-1]


async def cancelled_after(call: Awaitable[object], turns: int) -> tuple[bool, object]:
    """Cancel a call after so many turns of the loop; return whether it ended before, and what it returned."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return (False, None) if task.cancelled() else (True, task.result())


async def in_a_cancelled_scope(call: Awaitable[object], turns: int) -> tuple[bool, object]:
    """The same with a scope of anyio, which cancels every further await in it as well."""
    outcome: tuple[bool, object] = (False, None)

    async def run() -> None:
        nonlocal outcome
        with scope:
            outcome = True, await call

    scope = anyio.CancelScope()
    task = asyncio.ensure_future(run())
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    scope.cancel()
    await task
    return outcome


CANCEL = [cancelled_after, in_a_cancelled_scope]
Cancel = Callable[[Awaitable[object], int], Awaitable[tuple[bool, object]]]


async def check_idle(setting: Setting, tasks: int) -> None:
    for backend in (setting.caller, setting.worker):
        await eventually(lambda backend=backend: backend.stats()["waiting"] == 0)  # type: ignore[misc]
        await eventually(lambda backend=backend: backend.stats()["unconfirmed"] == 0)  # type: ignore[misc]
    await eventually(lambda: len(backend_tasks()) <= tasks)


@pytest.mark.parametrize("cancel", CANCEL)
@pytest.mark.parametrize("call", [wait_for, wait_with_a_timeout, look_once, consume, get_many, iterate, watch])
@pytest.mark.parametrize("stored", ["before", "meanwhile"])
async def test_a_result_is_there_for_the_next_call(setting: Setting, call: Call, cancel: Cancel, stored: str) -> None:
    tasks = len(backend_tasks())
    for turns in range(TURNS):
        setting.task_id, setting.taken = f"{call.__name__}-{turns}", []
        storing = asyncio.ensure_future(setting.store())
        if stored == "before":
            await storing
        ended, result = await cancel(call(setting), turns)
        await storing
        if not setting.taken and (not ended or result is None):
            result = await setting.caller.wait_for(setting.task_id, timeout=30)
        elif setting.taken:
            [result] = setting.taken
        assert result == "result", turns
    await check_idle(setting, tasks)


@pytest.mark.parametrize("cancel", CANCEL)
async def test_a_store_is_whole_or_not_there(setting: Setting, cancel: Cancel) -> None:
    tasks = len(backend_tasks())
    for turns in range(TURNS):
        setting.task_id = f"store-{turns}"
        ended, _ = await cancel(setting.store("first"), turns)
        await setting.store("second")
        result = await setting.caller.wait_for(setting.task_id, timeout=30)
        assert result == "first" if ended else result in ("first", "second"), turns
    await check_idle(setting, tasks)


@pytest.mark.parametrize("cancel", CANCEL)
async def test_a_recording_that_is_cancelled_stores_nothing_ready(setting: Setting, cancel: Cancel) -> None:
    async def record() -> None:
        async with setting.worker.recording(setting.task_id, setting.request) as recording:
            await recording.progress(0.5)
            await asyncio.sleep(0)
            recording.result = "result"

    for turns in range(TURNS):
        setting.task_id = f"record-{turns}"
        ended, _ = await cancel(record(), turns)
        if not ended:
            await record()
        assert await setting.caller.wait_for(setting.task_id, timeout=30) == "result"


async def get_task_meta(setting: Setting) -> object:
    return await setting.caller.get_task_meta(setting.task_id)


async def reload_task_result(setting: Setting) -> object:
    return await setting.caller.reload_task_result(setting.task_id)


async def drain_events(setting: Setting) -> object:
    return await setting.caller.drain_events(timeout=30)


@pytest.mark.parametrize("cancel", CANCEL)
@pytest.mark.parametrize("call", [get_task_meta, reload_task_result, drain_events])
async def test_who_only_looks_takes_nothing(setting: Setting, call: Call, cancel: Cancel) -> None:
    tasks = len(backend_tasks())
    for turns in range(TURNS):
        setting.task_id = f"{call.__name__}-{turns}"
        await setting.store()
        await cancel(call(setting), turns)
        assert await setting.caller.wait_for(setting.task_id, timeout=30) == "result", turns
    await check_idle(setting, tasks)


@pytest.mark.parametrize("cancel", CANCEL)
async def test_an_id_that_was_half_forgotten_may_start_anew(setting: Setting, cancel: Cancel) -> None:
    for turns in range(TURNS):
        setting.task_id = f"forget-{turns}"
        await setting.store("old")
        await cancel(setting.caller.forget(setting.task_id), turns)
        await setting.caller.forget(setting.task_id)
        await setting.store("new")
        assert await setting.caller.wait_for(setting.task_id, timeout=30) == "new", turns


@pytest.mark.parametrize("cancel", CANCEL)
async def test_a_deletion_goes_on_to_its_end(setting: Setting, cancel: Cancel) -> None:
    """Also one that waits for the broker to come back."""
    setting.task_id = "forgotten"
    await setting.store("old")
    group = GroupResult("deleted", [AsyncResult("member", setting.worker)], backend=setting.worker)
    await setting.worker.save_group(group.id, group)
    broker = MemoryBroker.named(setting.caller.as_uri().removeprefix("memory://"))
    broker.stop()
    await eventually(lambda: setting.caller.stats()["connected"] is False)
    await cancel(setting.caller.forget(setting.task_id), TURNS)
    await cancel(setting.caller.delete_group(group.id), TURNS)
    broker.start()

    async def is_over() -> bool:
        meta = await setting.caller.get_task_meta(setting.task_id)
        return meta.status == "PENDING" and await setting.caller.reload_group_result(group.id) is None

    await eventually(is_over)


@pytest.mark.parametrize("cancel", CANCEL)
async def test_a_group_is_saved_and_deleted_whole_or_not_at_all(setting: Setting, cancel: Cancel) -> None:
    tasks = len(backend_tasks())
    for turns in range(TURNS):
        group = GroupResult(f"group-{turns}", [AsyncResult("member", setting.worker)], backend=setting.worker)
        await cancel(setting.worker.save_group(group.id, group), turns)
        await setting.worker.save_group(group.id, group)
        await cancel(setting.caller.restore_group(group.id, cache=False), turns)
        assert await setting.caller.restore_group(group.id, cache=False) == group, turns
        await cancel(setting.caller.reload_group_result(group.id), turns)
        await cancel(setting.caller.delete_group(group.id), turns)
        await setting.caller.delete_group(group.id)
        assert await setting.caller.reload_group_result(group.id) is None, turns
    await check_idle(setting, tasks)


@pytest.mark.parametrize("cancel", CANCEL)
async def test_a_channel_of_the_user_s_own_may_be_asked_for_again(setting: Setting, cancel: Cancel) -> None:
    for turns in range(TURNS):
        await cancel(setting.caller.channel(), turns)
        channel = await setting.caller.channel()
        await channel.queue_declare(f"own-{turns}")
        await channel.close()


@pytest.mark.parametrize("cancel", CANCEL)
async def test_opening_may_be_tried_again(cancel: Cancel) -> None:
    tasks = len(backend_tasks())
    name = secrets.token_hex(8)
    for turns in range(TURNS):
        backend = AMQPBackend(f"memory://{name}")
        ended, _ = await cancel(backend.open(), turns)
        if not ended:
            await backend.open()
        await backend.store_result(f"open-{turns}", turns)
        assert await backend.wait_for(f"open-{turns}", timeout=30) == turns
        await backend.close()
    assert MemoryBroker.named(name).connection_count == 0
    await eventually(lambda: len(backend_tasks()) <= tasks)
    MemoryBroker.forget(name)


@pytest.mark.parametrize("cancel", CANCEL)
async def test_closing_goes_on_to_its_end(cancel: Cancel) -> None:
    name = secrets.token_hex(8)
    for turns in range(1, TURNS):
        backend = await AMQPBackend(f"memory://{name}").open()
        storing = asyncio.ensure_future(backend.store_result(f"close-{turns}", turns))
        await asyncio.sleep(0)
        await cancel(backend.close(), turns)
        await eventually(lambda: MemoryBroker.named(name).connection_count == 0)
        assert await storing == turns
    MemoryBroker.forget(name)
