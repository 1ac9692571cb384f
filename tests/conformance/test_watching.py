"""`watch` and `drain_events`: every report of one task, and the ready ones of all."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import monotonic
from typing import Any

import pytest

from aioresults import AMQPBackend, AsyncResult, ResultMeta, ResultTimeout
from tests.clock import Clock
from tests.conformance.conftest import Store
from tests.conformance.lab import Raw, arrived, new_id, only, waiting_for, where
from tests.eventually import eventually


async def collect(backend: AMQPBackend, task_id: str, **options: Any) -> list[ResultMeta]:
    return [meta async for meta in backend.watch(task_id, **options)]


class TestWatch:
    async def test_every_report_in_order_to_the_ready_one(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        watching = asyncio.create_task(collect(caller, task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        for number, status in enumerate(("RECEIVED", "STARTED", "PROGRESS", "PROGRESS", "RETRY")):
            await store(task_id, number, status)
            received = number + 1
            await eventually(lambda count=received: caller.stats()["received"] == count)  # type: ignore[misc]
        await store(task_id, 5)
        metas = await watching
        assert [meta.status for meta in metas] == ["RECEIVED", "STARTED", "PROGRESS", "PROGRESS", "RETRY", "SUCCESS"]
        assert [meta.result for meta in metas[:4]] == [0, 1, 2, 3]
        assert metas[-1].result == 5
        await raw.gone(caller, task_id)

    @where(by_id=True, history=True)
    async def test_what_was_stored_before(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        for status in ("STARTED", "PROGRESS", "FAILURE"):
            await store(task_id, None, status)
        metas = await collect(caller, task_id, timeout=30)
        assert [meta.status for meta in metas] == ["STARTED", "PROGRESS", "FAILURE"]

    async def test_of_a_result_that_is_known(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await caller.wait_for(task_id, timeout=30)
        assert [meta.result for meta in await collect(caller, task_id)] == [1]

    async def test_beside_a_wait(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        watching = [asyncio.create_task(collect(caller, task_id, timeout=30)) for _ in range(2)]
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        await store(task_id, None, "STARTED")
        await eventually(lambda: caller.stats()["received"] == 1)
        await store(task_id, "done")
        assert await waiting == "done"
        for metas in await asyncio.gather(*watching):
            assert [meta.status for meta in metas] == ["STARTED", "SUCCESS"]

    async def test_one_who_comes_later_gets_the_latest_report(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        first = asyncio.create_task(collect(caller, task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        await store(task_id, {"done": 0.5}, "PROGRESS")
        await eventually(lambda: caller.stats()["received"] == 1)
        async with aclosing(_watch(caller, task_id, timeout=30)) as late:
            assert (await anext(late)).result == {"done": 0.5}
        await store(task_id, 1)
        assert len(await first) == 2

    async def test_one_deadline_for_all_of_it(self, caller: AMQPBackend, store: Store, raw: Raw, clock: Clock) -> None:
        task_id = new_id()
        watching = asyncio.create_task(collect(caller, task_id, timeout=20))
        await raw.waited_for(caller, task_id)
        clock.advance(15)
        await store(task_id, None, "STARTED")
        await eventually(lambda: caller.stats()["received"] == 1)
        clock.advance(5)
        await eventually(watching.done, within=5)
        error = watching.exception()
        assert isinstance(error, ResultTimeout)
        assert (error.timeout, error.pending) == (20, [task_id])

    async def test_zero_is_one_look(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        with pytest.raises(ResultTimeout):
            await collect(caller, task_id, timeout=0)
        await store(task_id, 1)
        await arrived(caller, task_id)
        assert [meta.result for meta in await collect(caller, task_id, timeout=0)] == [1]

    @where(by_id=True, returns=True)
    async def test_leaving_early_loses_nothing(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        await store(task_id, None, "STARTED")
        async with aclosing(_watch(caller, task_id, timeout=30)) as reports:
            assert (await anext(reports)).status == "STARTED"
            await store(task_id, "for the next one")
            await eventually(lambda: caller.stats()["received"] == 2)
        assert await third.wait_for(task_id, timeout=30) == "for the next one"

    @only("per_task", "reply_queue", "stream")  # those of Celery lose what is stored while they are deleted
    async def test_goes_on_after_a_cancelled_step(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        reports = _watch(caller, task_id, timeout=30)
        seen = []
        for number, status in enumerate(["STARTED", "PROGRESS", "SUCCESS"]):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(reports), 0.01)
            await raw.left(caller, task_id)
            await store(task_id, number, status)
            seen.append((await anext(reports)).result)
        assert seen == [0, 1, 2]
        with pytest.raises(StopAsyncIteration):
            await anext(reports)

    async def test_no_report_twice_after_a_cancelled_step(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        reports = _watch(caller, task_id, timeout=30)
        first = asyncio.create_task(anext(reports))
        await raw.waited_for(caller, task_id)
        for number in range(3):
            await store(task_id, ValueError(number), "RETRY")
        seen = [str((await meta).result) for meta in (first, anext(reports), anext(reports))]
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(reports), 0.01)
        assert seen == ["0", "1", "2"]
        await reports.aclose()

    async def test_one_that_is_slow_misses_some_reports_and_never_the_ready_one(
        self, caller: AMQPBackend, store: Store, raw: Raw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioresults.watch.BUFFER", 5)
        task_id = new_id()
        slow = _watch(caller, task_id, timeout=20)
        first = asyncio.create_task(anext(slow))
        await raw.waited_for(caller, task_id)
        quick = asyncio.create_task(collect(caller, task_id, timeout=20))
        await asyncio.sleep(0)
        await store(task_id, "first", "PROGRESS")
        assert (await first).result == "first"
        for number in range(20):
            await store(task_id, number, "PROGRESS")
            received = number + 2
            await eventually(lambda count=received: caller.stats()["received"] == count)  # type: ignore[misc]
        await store(task_id, "end")
        assert [meta.result for meta in await quick] == ["first", *range(20), "end"]
        assert [meta.result async for meta in slow] == [16, 17, 18, 19, "end"]

    @where(by_id=True, returns=True)
    async def test_without_taking_the_result(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        watching = asyncio.create_task(collect(caller, task_id, timeout=10, take=False))
        await raw.waited_for(caller, task_id)
        await store(task_id, None, "STARTED")
        await eventually(lambda: caller.stats()["received"] == 1)
        await store(task_id, 1)
        assert [meta.status for meta in await watching] == ["STARTED", "SUCCESS"]
        await raw.left(caller, task_id)
        for timeout in (10, 0):  # it is there again and again
            assert (await collect(third, task_id, timeout=timeout, take=False))[-1].result == 1
            await raw.left(third, task_id)
            await raw.returned(third, task_id)
        with pytest.raises(ResultTimeout):
            await collect(caller, new_id(), timeout=0, take=False)
        assert await third.wait_for(task_id, timeout=10) == 1

    @only("per_task", "reply_queue", "stream")  # those of Celery lose what nobody takes
    async def test_without_taking_the_result_from_who_waits_here(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        watching = asyncio.create_task(collect(caller, task_id, timeout=10, take=False))
        await raw.waited_for(caller, task_id)
        await store(task_id, 1)
        assert [meta.result for meta in await watching] == [1]
        assert await caller.wait_for(task_id, timeout=10) == 1
        await raw.gone(caller, task_id)

    async def test_breaking_out_of_the_loop(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        store_soon = asyncio.create_task(_store_when_consumed(store, raw, caller, task_id))
        async for meta in caller.watch(task_id, timeout=30):
            assert meta.status == "STARTED"
            break
        await store_soon
        await raw.left(caller, task_id)
        await store(task_id, "later")
        assert await caller.wait_for(task_id, timeout=30) == "later"


def _watch(backend: AMQPBackend, task_id: str, **options: Any) -> Any:
    """Return the iteration behind a loop, to be stepped by hand."""
    return backend.watch(task_id, **options)


async def _store_when_consumed(store: Store, raw: Raw, caller: AMQPBackend, task_id: str) -> None:
    await raw.waited_for(caller, task_id)
    await store(task_id, None, "STARTED")


class TestDrainEvents:
    async def test_shows_what_arrives_for_others(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        draining = [asyncio.create_task(caller.drain_events(timeout=30)) for _ in range(2)]
        await store(task_id, None, "STARTED")
        await store(task_id, "seen")
        assert await waiting == "seen"
        for seen in await asyncio.gather(*draining):
            assert {key: meta.result for key, meta in seen.items()} == {task_id: "seen"}

    @where(shared=False)
    @where(by_id=True)
    async def test_takes_nothing_and_subscribes_to_nothing(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store
    ) -> None:
        task_id = new_id()
        await store(task_id, "untouched")
        with pytest.raises(ResultTimeout) as caught:
            await caller.drain_events(timeout=0.1)
        assert caught.value.timeout == 0.1
        assert caught.value.pending == []
        assert caller.stats()["consuming"] == 0
        assert await caller.wait_for(task_id, timeout=30) == "untouched"

    async def test_zero_does_not_wait(self, caller: AMQPBackend) -> None:
        began = monotonic()
        with pytest.raises(ResultTimeout):
            await caller.drain_events(timeout=0)
        assert monotonic() - began < 5

    async def test_can_be_cancelled(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        draining = asyncio.create_task(caller.drain_events())
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await waiting_for(caller, 1)
        draining.cancel()
        await asyncio.wait([draining])
        await store(task_id, 1)
        assert await waiting == 1


class TestAsyncResult:
    async def test_is_a_handle_over_the_calls(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        handle: AsyncResult[Any] = AsyncResult(task_id, caller)
        assert (handle.id, handle.task_id) == (task_id, task_id)
        assert handle == AsyncResult(task_id, caller)
        assert hash(handle) == hash(AsyncResult(task_id, caller))
        assert handle != AsyncResult(new_id(), caller)
        assert repr(handle) == f"<AsyncResult: {task_id}>"
        assert handle.as_tuple() == ((task_id, None), None)
        assert await handle.state() == "PENDING"
        assert not await handle.ready()
        await store(task_id, 7)
        assert await handle.get(timeout=30) == 7
        assert await handle == 7
        assert [meta.status async for meta in handle.updates()] == ["SUCCESS"]
        assert (await handle.state(), await handle.ready(), await handle.successful()) == ("SUCCESS", True, True)
        assert not await handle.failed()
        await handle.forget()
        assert await handle.state() == "PENDING"

    async def test_of_a_failure(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        handle: AsyncResult[Any] = AsyncResult(task_id, caller)
        await store(task_id, ValueError("no"), "FAILURE")
        with pytest.raises(ValueError, match="no"):
            await handle
        assert isinstance(await handle.get(propagate=False), ValueError)
        assert await handle.failed()
        assert not await handle.successful()

    async def test_as_a_result(self, caller: AMQPBackend, store: Store) -> None:
        task_id, child = new_id(), new_id()
        await store(task_id, AsyncResult(child, caller), children=[AsyncResult(child, caller)])
        meta = await caller.consume(task_id, timeout=30)
        assert meta.result == [[child, None], None]
        assert meta.children == [[[child, None], None]]
