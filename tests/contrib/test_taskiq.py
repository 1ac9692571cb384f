"""The result backend for taskiq: its interface, and real workers over taskiq-aio-pika."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from taskiq import AsyncTaskiqTask, TaskiqResult, gather
from taskiq.depends.progress_tracker import TaskProgress, TaskState
from taskiq.exceptions import ResultGetError, ResultIsReadyError, ResultSetError, TaskiqResultTimeoutError
from taskiq_aio_pika import AioPikaBroker

from aioresults import (
    AMQPBackend,
    BackendClosed,
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    EncodeError,
    QueuePerTask,
    ResultStream,
    ResultTooLarge,
)
from aioresults.contrib.rabbitmq import Process
from aioresults.contrib.taskiq import AMQPResultBackend, ResultIsMissingError
from aioresults.contrib.taskiq.result_backend import RETURN_TIMEOUT
from aioresults.transport.memory import MemoryBroker, MemoryTransport
from tests.clock import Clock
from tests.contrib import taskiq_tasks as tasks
from tests.eventually import eventually

Open = Callable[[], Awaitable[AMQPResultBackend[Any]]]


@pytest.fixture(params=["stream", "queues"])
def keep_results(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "stream")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Have a busy machine reach no limit that is not the test's point; the seconds for a broker's answers."""
    monkeypatch.setattr("aioresults.contrib.taskiq.result_backend.RETURN_TIMEOUT", 60)
    return 60


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it known for long enough that a result is in its queue, or was taken."""
    monkeypatch.setattr("aioresults.contrib.taskiq.ended.SHORTEST", 20)


@pytest.fixture
async def open_backend(broker_url: str, keep_results: bool, patience: float) -> AsyncIterator[Open]:
    """Open a backend as a process of its own would have; all of a test share one stream."""
    stream = ResultStream(f"test.{secrets.token_hex(6)}")
    async with AsyncExitStack() as stack:

        async def open_backend() -> AMQPResultBackend[Any]:
            backend: AMQPResultBackend[Any] = AMQPResultBackend(
                broker_url, keep_results, 60, stream=stream, rpc_timeout=patience
            )
            await backend.startup()
            stack.push_async_callback(backend.shutdown)
            return backend

        yield open_backend


@pytest.fixture
async def worker(open_backend: Open) -> AMQPResultBackend[Any]:
    return await open_backend()


@pytest.fixture
async def client(open_backend: Open) -> AMQPResultBackend[Any]:
    return await open_backend()


@pytest.fixture
def task_id() -> str:
    return secrets.token_hex(16)


def result_of(value: object = 11, **fields: Any) -> TaskiqResult[Any]:
    given: dict[str, Any] = {"is_err": False, "log": "My Log", "return_value": value, "execution_time": 112.2}
    return TaskiqResult(**(given | fields))


kept = pytest.mark.parametrize("keep_results", [True], ids=["stream"], indirect=False)
taken = pytest.mark.parametrize("keep_results", [False], ids=["queues"], indirect=False)


class TestResults:
    async def test_with_its_log(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str
    ) -> None:
        given = result_of(labels={"some": "label"})
        await worker.set_result(task_id, given)
        await eventually(lambda: client.is_result_ready(task_id))
        assert await client.get_result(task_id, with_logs=True) == given

    async def test_without(self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str) -> None:
        await worker.set_result(task_id, result_of())
        await eventually(lambda: client.is_result_ready(task_id))
        assert await client.get_result(task_id) == result_of(log=None)

    @kept
    async def test_kept(self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str) -> None:
        await worker.set_result(task_id, result_of())
        await eventually(lambda: client.is_result_ready(task_id))
        assert await client.get_result(task_id) == await client.get_result(task_id)
        results = await asyncio.gather(*(client.get_result(task_id) for _ in range(10)))
        assert results == [result_of(log=None)] * 10

    @taken
    async def test_taken(self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str) -> None:
        await worker.set_result(task_id, result_of())
        assert await client.get_result(task_id) == result_of(log=None)
        with pytest.raises(ResultIsMissingError):
            await client.get_result(task_id)
        assert not await client.is_result_ready(task_id)

    async def test_an_unknown_id(self, client: AMQPResultBackend[Any], task_id: str) -> None:
        assert not await client.is_result_ready(task_id)
        with pytest.raises(ResultIsMissingError, match=task_id):
            await client.get_result(task_id)
        assert await client.get_progress(task_id) is None

    async def test_looking_takes_nothing_from_another_process(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], open_backend: Open, task_id: str
    ) -> None:
        other = await open_backend()
        assert not await client.is_result_ready(task_id)
        await worker.set_result(task_id, result_of())
        for _ in range(3):
            await eventually(lambda: client.is_result_ready(task_id))
            await eventually(lambda: other.is_result_ready(task_id))
        assert (await other.get_result(task_id)).return_value == 11

    @pytest.mark.parametrize(
        "error", [ValueError("no such file", 1), tasks.Refused("a", 2)], ids=["builtin", "of_the_project"]
    )
    async def test_an_error(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str, error: Exception
    ) -> None:
        error.__cause__ = KeyError("why")
        await worker.set_result(task_id, result_of(None, is_err=True, error=error))
        await eventually(lambda: client.is_result_ready(task_id))
        result = await client.get_result(task_id)
        assert (result.is_err, result.return_value) == (True, None)
        assert (type(result.error), result.error.args) == (type(error), error.args)  # type: ignore[union-attr]
        assert repr(result.error.__cause__) == "KeyError('why')"  # type: ignore[union-attr]
        with pytest.raises(type(error)):
            result.raise_for_error()

    @pytest.mark.parametrize(
        "result",
        [
            result_of(object()),
            result_of(b"\xff"),
            result_of("x" * 20_000_000),
            result_of(tasks.Unwritable()),
        ],
        ids=["object", "bytes", "too_large", "of_the_project"],
    )
    async def test_what_cannot_be_written_is_a_failure(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str, result: TaskiqResult[Any]
    ) -> None:
        """taskiq's worker logs the error, and no more: who waits must be told by what is stored."""
        await worker.set_progress(task_id, TaskProgress(state="halfway", meta=50))
        with pytest.raises(ResultSetError) as caught:
            await worker.set_result(task_id, result)
        assert isinstance(caught.value.__cause__, EncodeError | ResultTooLarge)
        failed = await AsyncTaskiqTask(task_id, client).wait_result(check_interval=0.01, timeout=30)
        assert failed.is_err
        with pytest.raises(EncodeError, match=re.escape(str(caught.value.__cause__))):
            failed.raise_for_error()

    async def test_what_other_programs_read_and_write(
        self,
        worker: AMQPResultBackend[Any],
        client: AMQPResultBackend[Any],
        broker_url: str,
        keep_results: bool,
        task_id: str,
    ) -> None:
        routing = client._reader.routing if keep_results else QueuePerTask()
        assert isinstance(routing, ResultStream | QueuePerTask)
        async with AMQPBackend(broker_url, routing=routing, expires=60, rpc_timeout=60) as plain:
            await worker.set_result(task_id, result_of({"answer": 42}))
            assert await plain.wait_for(task_id, timeout=30) == {"answer": 42}
            await worker.set_result(f"{task_id}-", result_of(None, is_err=True, error=ValueError("no such file")))
            with pytest.raises(ValueError, match="no such file"):
                await plain.wait_for(f"{task_id}-", timeout=30)
            await plain.store_result(f"{task_id}--", 7)
            await eventually(lambda: client.is_result_ready(f"{task_id}--"))
            assert (await client.get_result(f"{task_id}--")).return_value == 7
            await plain.mark_as_failure(f"{task_id}---", ValueError("theirs"))
            await eventually(lambda: client.is_result_ready(f"{task_id}---"))
            assert repr((await client.get_result(f"{task_id}---")).error) == "ValueError('theirs')"


class TestLatestResult:
    """An id that is used again, by a schedule or a retry: its latest result counts, as with taskiq-redis."""

    async def test_in_place_of_those_before(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str
    ) -> None:
        async def failed_with(expected: object) -> bool:
            return repr((await client.get_result(task_id)).error) == repr(expected)

        assert not await client.is_result_ready(task_id)
        await worker.set_result(task_id, result_of(None, is_err=True, error=ValueError(1)))
        await eventually(lambda: client.is_result_ready(task_id))
        await worker.set_result(task_id, result_of(None, is_err=True, error=ValueError(2)))
        await worker.set_result(task_id, result_of(3))
        await worker.set_result(task_id, result_of(4))
        await worker.set_result(task_id, result_of(None, is_err=True, error=ValueError(5)))
        await worker.set_progress(task_id, TaskProgress(state="late", meta=None))
        assert await client.is_result_ready(task_id)
        await eventually(lambda: failed_with(ValueError(5)))

    async def test_stored_before_anybody_asked(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str
    ) -> None:
        await worker.set_result(task_id, result_of(1))
        await worker.set_result(task_id, result_of(2))
        await worker.set_result(last := f"{task_id}-", result_of(3))
        await eventually(lambda: client.is_result_ready(last))
        assert (await AsyncTaskiqTask(task_id, client).wait_result(timeout=20)).return_value == 2


class TestProgress:
    async def test_the_last_one_counts(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str
    ) -> None:
        async def seen(expected: TaskProgress[Any]) -> bool:
            return await client.get_progress(task_id) == expected

        for percent in (1, 2):
            progress: TaskProgress[Any] = TaskProgress(state=TaskState.STARTED, meta={"percent": percent})
            await worker.set_progress(task_id, progress)
            assert await worker.get_progress(task_id) == progress
            await eventually(lambda progress=progress: seen(progress))  # type: ignore[misc]
        await worker.set_result(task_id, result_of())
        await eventually(lambda: client.is_result_ready(task_id))
        assert await client.get_progress(task_id) == progress
        await client.get_result(task_id)
        assert await client.get_progress(task_id) == progress

    async def test_it_never_ends_a_task(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str
    ) -> None:
        await worker.set_progress(task_id, TaskProgress(state=TaskState.SUCCESS, meta=None))
        assert not await client.is_result_ready(task_id)
        await worker.set_result(task_id, result_of())
        await eventually(lambda: client.is_result_ready(task_id))


class TestWaiting:
    """`AsyncTaskiqTask.wait_result`, which asks again and again."""

    async def test_until_it_is_there(
        self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any], task_id: str
    ) -> None:
        waiting = asyncio.create_task(AsyncTaskiqTask(task_id, client).wait_result(check_interval=0.01, timeout=30))
        await asyncio.sleep(0.05)
        await worker.set_result(task_id, result_of())
        assert (await waiting).return_value == 11

    async def test_not_for_ever(self, client: AMQPResultBackend[Any], task_id: str) -> None:
        with pytest.raises(TaskiqResultTimeoutError):
            await AsyncTaskiqTask(task_id, client).wait_result(check_interval=0.01, timeout=0.1)

    async def test_many_at_once(self, worker: AMQPResultBackend[Any], client: AMQPResultBackend[Any]) -> None:
        ids = [secrets.token_hex(16) for _ in range(100)]
        waiting = [
            asyncio.create_task(AsyncTaskiqTask(each, client).wait_result(check_interval=0.02, timeout=150))
            for each in ids
        ]
        await asyncio.gather(*(worker.set_result(each, result_of(each)) for each in ids))
        assert [result.return_value for result in await asyncio.gather(*waiting)] == ids


@pytest.fixture
def memory() -> Iterator[MemoryBroker]:
    name = secrets.token_hex(8)
    yield MemoryBroker.named(name)
    MemoryBroker.forget(name)


async def stop(memory: MemoryBroker, backend: AMQPResultBackend[Any]) -> None:
    memory.stop()
    await eventually(lambda: not backend._reader.stats()["connected"])


@pytest.mark.usefixtures("remembered")
async def test_the_broker_is_not_polled(memory: MemoryBroker, keep_results: bool, task_id: str) -> None:
    """A broker that is gone is not missed by who asks again; and who asked is told when it is back."""
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results, rpc_timeout=0.5)
    await backend.startup()
    try:
        assert not await backend.is_result_ready(task_id)
        await stop(memory, backend)
        for _ in range(100):
            assert not await backend.is_result_ready(task_id)
        assert not await backend.is_result_ready(f"{task_id}-")  # nobody knows
        memory.start()
        await backend.set_result(f"{task_id}-", result_of())
        await eventually(lambda: backend.is_result_ready(f"{task_id}-"))
        await backend.set_result(task_id, result_of())
        await eventually(lambda: backend.is_result_ready(task_id))
        await stop(memory, backend)
        for _ in range(100):  # what is in a queue cannot be got now
            assert await backend.is_result_ready(task_id) is keep_results
        getting = asyncio.create_task(backend.get_result(task_id))
        await asyncio.sleep(0)
        memory.start()
        assert (await getting).return_value == 11
    finally:
        await backend.shutdown()


@pytest.mark.usefixtures("remembered")
async def test_a_result_that_was_told_of_is_let_go(memory: MemoryBroker, task_id: str) -> None:
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results=False, rpc_timeout=0.5)
    await backend.startup()
    assert not await backend.is_result_ready(task_id)
    await backend.set_result(task_id, result_of())
    await eventually(lambda: backend.is_result_ready(task_id))
    await eventually(lambda: [queue.ready for queue in memory.queues()] == [1])
    await stop(memory, backend)
    assert not await backend.is_result_ready(task_id)  # it cannot be got now
    getting = asyncio.create_task(backend.get_result(task_id))
    await asyncio.sleep(0)
    memory.start()
    assert (await getting).return_value == 11
    await backend.shutdown()


async def test_what_was_taken_is_not_waited_for(memory: MemoryBroker) -> None:
    """taskiq's `gather` goes on to ask for all of its tasks until the last one has ended."""
    worker: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results=False)
    client: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results=False)
    ids = [secrets.token_hex(16) for _ in range(10)]
    gathering = asyncio.create_task(gather(*(AsyncTaskiqTask(each, client) for each in ids), periodicity=0.001))
    await asyncio.gather(*(worker.set_result(each, result_of(each)) for each in ids[1:]))
    await eventually(lambda: len(memory.queues()) == 1)
    asked = client._reader.stats()["received"]
    for _ in range(100):
        assert not await client.is_result_ready(ids[1])
    assert [queue.name.removeprefix("aioresults.task.") for queue in memory.queues()] == ids[:1]
    assert client._reader.stats()["received"] == asked
    await worker.set_result(ids[0], result_of(ids[0]))
    assert [result.return_value for result in await gathering] == ids
    await client.shutdown()
    await worker.shutdown()
    assert memory.queues() == []


async def test_a_result_after_the_one_that_was_taken(memory: MemoryBroker, task_id: str) -> None:
    backend = AMQPResultBackend[Any](memory.url, keep_results=False)
    for number in range(2):
        await backend.set_result(task_id, result_of(number))
        assert (await AsyncTaskiqTask(task_id, backend).wait_result(0.01, timeout=20)).return_value == number
        await eventually(lambda: not memory.queues())
    await backend.shutdown()


@pytest.mark.usefixtures("remembered")
async def test_another_process_was_quicker(memory: MemoryBroker, task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioresults.contrib.taskiq.result_backend.RETURN_TIMEOUT", 0.1)
    worker, client, other = (AMQPResultBackend[Any](memory.url, keep_results=False) for _ in range(3))
    assert not await client.is_result_ready(task_id)
    await worker.set_result(task_id, result_of())
    await eventually(lambda: client.is_result_ready(task_id))
    await eventually(lambda: [queue.ready for queue in memory.queues()] == [1])
    assert (await other.get_result(task_id)).return_value == 11
    await eventually(lambda: not memory.queues())
    with pytest.raises(ResultIsMissingError):
        await client.get_result(task_id)
    assert not await client.is_result_ready(task_id)
    for backend in (worker, client, other):
        await backend.shutdown()


async def test_another_process_was_quicker_long_ago(
    memory: MemoryBroker, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioresults.contrib.taskiq.ended.SHORTEST", -1)
    worker, client, other = (AMQPResultBackend[Any](memory.url, keep_results=False) for _ in range(3))
    await worker.set_result(task_id, result_of())
    assert await client.is_result_ready(task_id)
    assert (await other.get_result(task_id)).return_value == 11
    await eventually(lambda: not memory.queues())
    assert not await client.is_result_ready(task_id)
    with pytest.raises(ResultIsMissingError):
        await client.get_result(task_id)
    assert memory.queues() == []
    for backend in (worker, client, other):
        await backend.shutdown()


@pytest.mark.usefixtures("remembered")
async def test_a_result_that_was_seen_outlasts_its_broker(memory: MemoryBroker, task_id: str) -> None:
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results=False, rpc_timeout=3)
    await backend.startup()
    await backend.set_result(task_id, result_of())
    assert await backend.is_result_ready(task_id)
    await stop(memory, backend)
    getting = asyncio.create_task(backend.get_result(task_id))
    await asyncio.sleep(3.2)  # more than the broker is given to answer
    memory.start()
    assert (await getting).return_value == 11
    await backend.shutdown()


@pytest.mark.usefixtures("remembered")
async def test_the_broker_is_lost_before_a_result_is_back_in_its_queue(
    memory: MemoryBroker, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results=False)
    await backend.set_result(task_id, result_of())
    assert await backend.is_result_ready(task_id)
    other = await MemoryTransport(memory).connect()
    assert await (await other.channel()).basic_get(f"aioresults.task.{task_id}") is not None
    getting = asyncio.create_task(backend.get_result(task_id))
    await eventually(lambda: backend._reader.stats()["waiting"] == 1)  # it is not to be found
    await stop(memory, backend)
    clock.advance(RETURN_TIMEOUT)
    await asyncio.sleep(0.2)
    memory.start()
    assert (await getting).return_value == 11
    await backend.shutdown()


async def test_asked_for_while_it_is_taken(memory: MemoryBroker, task_id: str) -> None:
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results=False)
    await backend.set_result(task_id, result_of())
    asking = (backend.is_result_ready(task_id) for _ in range(2))
    result, *_ = await asyncio.gather(backend.get_result(task_id), *asking)
    assert result.return_value == 11
    await eventually(lambda: not memory.queues())
    assert not await backend.is_result_ready(task_id)
    with pytest.raises(ResultIsMissingError):
        await backend.get_result(task_id)
    await backend.shutdown()
    assert memory.queues() == []


async def test_a_broker_that_is_away_when_somebody_first_asks(
    memory: MemoryBroker, keep_results: bool, task_id: str
) -> None:
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results, connect_timeout=1)
    await backend.startup()
    memory.stop()
    assert not await backend.is_result_ready(task_id)
    with pytest.raises(ResultGetError) as caught:
        await backend.get_result(task_id)
    assert isinstance(caught.value.__cause__, BrokerUnavailable)
    memory.refuse("no")
    memory.start()
    with pytest.raises(ResultIsReadyError) as refused:
        await backend.is_result_ready(task_id)
    assert isinstance(refused.value.__cause__, BrokerRefused)
    memory.refuse(None)
    await backend.set_result(task_id, result_of())
    await eventually(lambda: backend.is_result_ready(task_id))
    await backend.shutdown()


async def test_results_that_were_there_before_are_got_at_once(memory: MemoryBroker, keep_results: bool) -> None:
    """However many they are: none is missing because the broker is busy with the others."""
    worker: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results)
    client: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results, rpc_timeout=60)
    ids = [secrets.token_hex(16) for _ in range(300)]
    await asyncio.gather(*(worker.set_result(each, result_of(each)) for each in ids))
    results = await asyncio.gather(*(AsyncTaskiqTask(each, client).wait_result(timeout=60) for each in ids))
    assert [result.return_value for result in results] == ids
    assert client._reader.stats()["received"] == (len(ids) if keep_results else 0)  # looked at, and no consumer made
    await client.shutdown()
    await worker.shutdown()


async def test_used_without_a_startup(memory: MemoryBroker, keep_results: bool, task_id: str) -> None:
    """As with the InMemoryBroker of taskiq 0.12, which starts no result backend."""
    worker: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results)
    client: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results)
    await asyncio.gather(*(worker.set_result(f"{task_id}-{number}", result_of(number)) for number in range(5)))
    results = await asyncio.gather(*(client.get_result(f"{task_id}-{number}") for number in range(5)))
    assert [result.return_value for result in results] == list(range(5))
    await worker.shutdown()
    await client.shutdown()
    assert memory.connection_count == 0


def test_started_again_in_another_loop(memory: MemoryBroker, keep_results: bool, task_id: str) -> None:
    """As a suite does whose tests start and shut down the broker of a module."""
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results)

    async def use(task_id: str) -> None:
        await backend.startup()
        assert not await backend.is_result_ready(task_id)
        await backend.set_result(task_id, result_of())
        await eventually(lambda: backend.is_result_ready(task_id))
        assert (await backend.get_result(task_id)).return_value == 11
        await backend.shutdown()

    for number in range(3):
        asyncio.run(use(f"{task_id}-{number}"))


async def test_nobody_is_told_for_ever(
    memory: MemoryBroker, keep_results: bool, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioresults.contrib.taskiq.watch.LEASE", 1)
    worker: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results)
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results)
    await worker.startup()
    await backend.startup()
    assert not await backend.is_result_ready(task_id)
    assert backend._watches
    progress: TaskProgress[Any] = TaskProgress(state="halfway", meta=50)
    await worker.set_progress(task_id, progress)
    await eventually(lambda: not backend._watches)
    assert backend._reader.stats()["waiting"] == 0
    assert await backend.get_progress(task_id) == progress  # the watch has taken it off its queue
    assert not await backend.is_result_ready(task_id)
    await backend.shutdown()
    await worker.shutdown()


async def test_a_worker_that_only_stores_reads_no_stream(memory: MemoryBroker, task_id: str) -> None:
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url)
    await backend.startup()
    await backend.set_progress(task_id, TaskProgress(state="halfway", meta=50))
    assert await backend.get_progress(task_id) is not None
    await backend.set_result(task_id, result_of())
    assert memory.connection_count == 1
    await backend.shutdown()


async def test_results_expire(memory: MemoryBroker, keep_results: bool, task_id: str) -> None:
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url, keep_results, result_ex_time=5)
    await backend.startup()
    await backend.set_result(task_id, result_of())

    async def gone() -> bool:
        try:
            await backend.get_result(task_id)
        except ResultIsMissingError:
            return True
        return False

    if keep_results:
        assert await backend.is_result_ready(task_id)
    await asyncio.sleep(5.1 if not keep_results else 0)  # a look would keep a queue from expiring
    await eventually(gone)
    await backend.shutdown()


async def test_errors_are_those_of_taskiq(memory: MemoryBroker, task_id: str) -> None:
    with pytest.raises(ConfigurationError, match="URL scheme 'redis'"):
        AMQPResultBackend("redis://localhost")
    backend: AMQPResultBackend[Any] = AMQPResultBackend(memory.url)
    await backend.startup()
    await backend.shutdown()
    for kind, call in (
        (ResultSetError, backend.set_result(task_id, result_of())),
        (ResultGetError, backend.get_result(task_id)),
        (ResultIsReadyError, backend.is_result_ready(task_id)),
    ):
        with pytest.raises(kind) as caught:
            await call
        assert isinstance(caught.value.__cause__, BackendClosed)


class TestWorkers:
    """Through RabbitMQ, with a worker of taskiq's in a process of its own."""

    @pytest.fixture
    async def project(
        self, amqp_url: str, keep_results: bool, tmp_path: Path, patience: float
    ) -> AsyncIterator[AioPikaBroker]:
        name = f"test.{secrets.token_hex(6)}"
        env = os.environ | {"TASKIQ_URL": amqp_url, "TASKIQ_NAME": name, "TASKIQ_KEEP": "yes" if keep_results else "no"}
        # One task at a time: a retry is sent before the result of the attempt is stored, and would overtake it.
        options = ["-w", "1", "--max-async-tasks", "1"]
        command = [sys.executable, "-m", "taskiq", "worker", *options, "tests.contrib.taskiq_tasks:broker"]
        broker = tasks.make_broker(amqp_url, name, keep_results=keep_results)
        await broker.startup()
        worker = Process(command, log=tmp_path / "log", env=env)
        try:
            yield broker
            assert worker.running, (tmp_path / "log").read_text()
        finally:
            worker.stop()
            await broker.shutdown()

    async def test_a_project(self, project: AioPikaBroker) -> None:
        sent = [await tasks.add.kicker().with_broker(project).kiq(number, 1) for number in range(20)]
        results = await asyncio.gather(*(task.wait_result(timeout=90) for task in sent))
        assert [result.return_value for result in results] == list(range(1, 21))
        measured = await tasks.measure.kicker().with_broker(project).kiq("one two")
        figures = (await measured.wait_result(timeout=20)).return_value
        assert figures == tasks.Figures(words=2, when=datetime(2026, 1, 2))

        failed = await (await tasks.fail.kicker().with_broker(project).kiq("no")).wait_result(timeout=20)
        assert repr(failed.error) == "ValueError('no')"
        refused = await (await tasks.refuse.kicker().with_broker(project).kiq("no", 1)).wait_result(timeout=20)
        with pytest.raises(tasks.Refused) as caught:
            refused.raise_for_error()
        assert caught.value.args == ("no", 1)
        assert repr(caught.value.__cause__) == "KeyError('no')"

        reporting = await tasks.report.kicker().with_broker(project).kiq()  # type: ignore[call-overload]
        seen: list[Any] = []

        async def reported() -> bool:
            progress = await reporting.get_progress()
            seen.append(progress and (progress.state, progress.meta))
            return ("nearly", 50) in seen

        await eventually(reported)
        assert (await reporting.wait_result(timeout=20)).return_value == "done"

        insisting = await tasks.insist.kicker().with_broker(project).kiq()  # type: ignore[call-overload]
        if project.result_backend._keep_results:  # type: ignore[attr-defined]

            async def last() -> bool:
                return repr((await insisting.wait_result(timeout=20)).error) == "ValueError(2)"

            await eventually(last)

        silent = await tasks.no_result.kicker().with_broker(project).kiq("ignored")
        with pytest.raises(TaskiqResultTimeoutError):
            await silent.wait_result(timeout=0.5)
