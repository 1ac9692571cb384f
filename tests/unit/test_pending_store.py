"""What ``store_result`` returns may be awaited in any of asyncio's ways."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import create_autospec

import anyio
import pytest

from aioresults import AMQPBackend, BackendClosed, ConfigurationError, EncodeError, ResultTimeout, WrongEventLoop
from aioresults.sessions.outbox import PendingStore


def stored(value: object) -> PendingStore:
    """Return one that is confirmed soon."""
    report = PendingStore("t-1", "t-1", b"", value)
    asyncio.get_running_loop().call_soon(report.confirm)
    return report


async def in_a_task_group(call: Coroutine[Any, Any, Any]) -> object:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(call)
    return task.result()


async def under_anyio(call: Coroutine[Any, Any, Any]) -> object:
    results = []

    async def run() -> None:
        results.append(await call)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
    return results[0]


async def when_it_is_done(call: Coroutine[Any, Any, Any]) -> object:
    [done], _ = await asyncio.wait([asyncio.create_task(call)])
    return done.result()


async def gathered(call: Coroutine[Any, Any, Any]) -> object:
    [result] = await asyncio.gather(call)
    return result


WAYS: list[Callable[[Coroutine[Any, Any, Any]], Any]] = [
    lambda call: call,
    asyncio.create_task,
    asyncio.ensure_future,
    asyncio.shield,
    lambda call: asyncio.wait_for(call, 30),
    in_a_task_group,
    under_anyio,
    when_it_is_done,
    gathered,
]


@pytest.mark.parametrize("way", WAYS)
class TestAwaited:
    async def test_returns_the_result(self, way: Callable[[PendingStore], Any]) -> None:
        assert await way(stored(42)) == 42

    async def test_raises_the_error(self, way: Callable[[PendingStore], Any]) -> None:
        failed = PendingStore("t-1", "", b"", None)
        failed.fail(BackendClosed("x"))
        with pytest.raises((BackendClosed, ExceptionGroup)) as caught:
            await way(failed)
        error: BaseException = caught.value
        while isinstance(error, ExceptionGroup):
            [error] = error.exceptions
        assert isinstance(error, BackendClosed)

    async def test_cancelled_it_is_withdrawn(self, way: Callable[[PendingStore], Any]) -> None:
        report = PendingStore("t-1", "", b"", None)

        async def call() -> None:
            await way(report)

        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        # asyncio.wait and shield leave what they wait for alone.
        assert report.cancelled() is (way not in (asyncio.shield, when_it_is_done))
        report.cancel()


async def test_a_task_that_never_ran_withdraws_it() -> None:
    report = PendingStore("t-1", "", b"", None)
    task = asyncio.create_task(report)
    task.cancel()
    await asyncio.wait([task])
    assert report.cancelled()


async def test_a_task_says_what_it_runs() -> None:
    task = asyncio.create_task(stored(1))
    assert "store_result('t-1')" in repr(task)
    await task


async def test_what_was_told_first_stays() -> None:
    report = PendingStore("t-1", "", b"", 1)
    report.confirm()
    report.fail(BackendClosed("x"))
    report.confirm()
    assert await report == 1


class TestStoreResult:
    async def test_is_on_its_way_when_the_call_returns(self) -> None:
        async with AMQPBackend("memory://stored") as backend:
            call = backend.store_result("t-1", 1)
            assert await backend.wait_for("t-1", timeout=30) == 1
            assert await call == 1

    async def test_errors_come_when_it_is_awaited(self) -> None:
        backend = AMQPBackend("memory://stored")
        closed = backend.store_result("t-1", 1)
        with pytest.raises(BackendClosed):
            await closed
        async with backend:
            unwritable = backend.store_result("t-1", object())
            nameless = backend.store_result("", 1)
            with pytest.raises(EncodeError):
                await unwritable
            with pytest.raises(ConfigurationError):
                await nameless
            with pytest.raises(ResultTimeout):
                await backend.wait_for("t-1", timeout=0)

    async def test_may_be_handed_over_from_another_thread(self) -> None:
        async with AMQPBackend("memory://stored") as backend:
            loop = asyncio.get_running_loop()

            def elsewhere() -> object:
                return asyncio.run_coroutine_threadsafe(backend.store_result("t-1", 1, pid=7), loop).result(30)

            assert await asyncio.to_thread(elsewhere) == 1
            with pytest.raises(WrongEventLoop):
                await asyncio.to_thread(lambda: asyncio.run(backend.store_result("t-1", 1)))
            meta = await backend.get_task_meta("t-1")
            assert meta.extra == {"pid": 7}

    async def test_a_mock_of_it_can_be_awaited(self) -> None:
        mock = create_autospec(AMQPBackend, instance=True)
        mock.store_result.return_value = 1
        assert await mock.store_result("t-1", 1) == 1

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are not eager before Python 3.12")
    async def test_where_tasks_are_eager(self) -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with AMQPBackend("memory://stored") as backend:
            async with asyncio.timeout(30):
                assert await backend.store_result("t-1", 1) == 1
                assert await asyncio.gather(*(backend.store_result("t-2", n, "PROGRESS") for n in range(10)))
            assert await backend.wait_for("t-1", timeout=30) == 1
