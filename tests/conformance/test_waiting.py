"""`wait_for` and `consume`: who waits, for how long, what comes out, and what stays for others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from time import monotonic
from typing import Any

import anyio
import pytest

from aioresults import (
    AMQPBackend,
    DecodeError,
    RemoteError,
    Request,
    ResultForgotten,
    ResultMeta,
    ResultTimeout,
    Serializers,
    TaskRevoked,
)
from aioresults.errors import RemoteTraceback
from aioresults.many_results import ManyResults
from aioresults.watch import Watch
from tests.clock import Clock
from tests.conformance.conftest import Store
from tests.conformance.lab import Lab, Raw, arrived, new_id, only, queue_of, waiting_for, where
from tests.eventually import eventually

VALUES: list[Any] = [None, 0, "naïve 結果", {"a": [1, 2.5, None, True, {"b": "c"}], "": []}, "x" * 300_000]


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def waiting(backend: AMQPBackend, task_id: str, raw: Raw, **options: Any) -> asyncio.Task[Any]:
    """Start to wait, and return when the broker knows."""
    task = asyncio.create_task(backend.wait_for(task_id, **options))
    await raw.waited_for(backend, task_id)
    return task


@only("per_task", "stream", "celery", "celery_amqp_backend")
class TestATaskThatFailedAndWasRunAgain:
    """A lost worker or a hard time limit is a FAILURE; then the task is delivered again, and succeeds."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda backend, task_id: backend.wait_for(task_id, timeout=30),
            lambda backend, task_id: backend.wait_for(task_id, timeout=0),
            lambda backend, task_id: value_of(backend.consume(task_id, timeout=30)),
            lambda backend, task_id: value_of(backend.get_task_meta(task_id)),
            lambda backend, task_id: value_of(first_of(backend.get_many([task_id], timeout=30))),
            lambda backend, task_id: value_of(ready_of(backend.watch(task_id, timeout=30))),
        ],
        ids=["wait_for", "wait_for 0", "consume", "get_task_meta", "get_many", "watch"],
    )
    async def test_has_succeeded_for_every_call(self, caller: AMQPBackend, store: Store, call: Any) -> None:
        task_id = new_id()
        await store(task_id, ValueError("worker lost"), "FAILURE")
        await store(task_id, 42)
        assert await call(caller, task_id) == 42

    async def test_failed_when_nothing_follows(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, ValueError("worker lost"), "FAILURE")
        with pytest.raises(ValueError, match="worker lost"):
            await caller.wait_for(task_id, timeout=30)


async def value_of(meta: Awaitable[ResultMeta]) -> Any:
    return (await meta).value()


async def first_of(many: ManyResults) -> ResultMeta:
    return next(iter((await many).values()))


async def ready_of(reports: Watch) -> ResultMeta:
    [ready] = [meta async for meta in reports if meta.is_ready]
    return ready


class TestBothHalvesOfTheRace:
    @where(by_id=True)
    async def test_result_before_waiter(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        assert await store(task_id, {"answer": 42}) == {"answer": 42}
        assert await caller.wait_for(task_id, timeout=30) == {"answer": 42}

    async def test_waiter_before_result(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        waiter = await waiting(caller, task_id, raw, timeout=30)
        await store(task_id, {"answer": 42})
        assert await waiter == {"answer": 42}

    async def test_at_the_same_time(self, caller: AMQPBackend, store: Store) -> None:
        ids = [new_id() for _ in range(20)]
        waiters = [asyncio.create_task(caller.wait_for(task_id, timeout=30)) for task_id in ids]
        await asyncio.gather(*(store(task_id, index) for index, task_id in enumerate(ids)))
        assert await asyncio.gather(*waiters) == list(range(20))

    async def test_in_one_process(self, lab: Lab) -> None:
        both, task_id = await lab.open(), new_id()
        waiter = asyncio.create_task(both.wait_for(task_id, timeout=30))
        await both.store_result(task_id, "mine", request=Request(reply_to=both.reply_to))
        assert await waiter == "mine"

    async def test_every_kind_of_value_comes_back(self, caller: AMQPBackend, store: Store) -> None:
        for value in VALUES:
            task_id = new_id()
            await store(task_id, value)
            assert await caller.wait_for(task_id, timeout=30) == value

    async def test_states_before_the_result_do_not_end_the_wait(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        waiter = await waiting(caller, task_id, raw, timeout=30)
        for status in ("RECEIVED", "STARTED", "PROGRESS", "REJECTED", "RETRY", "PENDING", "MY OWN"):
            await store(task_id, None, status)
        assert not waiter.done()
        await store(task_id, "done")
        assert await waiter == "done"

    @only("per_task", "last_value", "celery_amqp_backend")
    async def test_any_text_can_be_an_id(self, caller: AMQPBackend, store: Store) -> None:
        for text in ("a", "0", "a b/c?#%", "größe", "aioresults.task.x", "-", "*", "#.#"):
            task_id = f"{text} {new_id()}"
            await store(task_id, task_id)
            assert await caller.wait_for(task_id, timeout=30) == task_id

    @where(own_queue=True)
    async def test_the_queue_goes_with_the_result(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await caller.wait_for(task_id, timeout=30)
        has_queue = caller.queue_for(task_id) is not None
        assert caller.stats().get("deleting") == (1 if has_queue else None)
        await raw.gone(caller, task_id)
        assert caller.stats().get("deleting") == (0 if has_queue else None)
        assert caller.stats()["waiting"] == 0
        await waiting_for(caller, 0)


class TestSharing:
    async def test_waiters_of_one_id_share_a_subscription_and_all_get_the_answer(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        waiters = [asyncio.create_task(caller.wait_for(task_id, timeout=30)) for _ in range(10)]
        await raw.waited_for(caller, task_id, 1)
        assert caller.stats()["consuming"] == 1
        await store(task_id, "for all")
        assert await asyncio.gather(*waiters) == ["for all"] * 10

    async def test_one_that_leaves_is_not_noticed_by_the_others(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        stays = await waiting(caller, task_id, raw, timeout=30)
        leaves = asyncio.create_task(caller.wait_for(task_id))
        times_out = asyncio.create_task(caller.wait_for(task_id, timeout=0.01))
        await eventually(times_out.done)
        await cancel(leaves)
        assert isinstance(times_out.exception(), ResultTimeout)
        await raw.waited_for(caller, task_id)
        await store(task_id, "still")
        assert await stays == "still"

    @where(shared=False, own_queue=True)
    @where(by_id=True)
    async def test_of_two_processes_one_takes_it_and_the_other_is_told(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        waiters = [asyncio.create_task(each.wait_for(task_id, timeout=30)) for each in (caller, third)]
        await raw.waited_for(caller, task_id, 2)
        await store(task_id, "one of you")
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert sorted(map(str, map(type, outcomes))) == sorted(map(str, [str, ResultForgotten]))
        assert "one of you" in outcomes
        [forgotten] = [each for each in outcomes if isinstance(each, ResultForgotten)]
        assert forgotten.task_id == task_id

    @only("per_task")
    async def test_a_thousand_waits_open_a_thousand_consumers(self, caller: AMQPBackend, store: Store) -> None:
        ids = [new_id() for _ in range(1000)]
        waiters = [asyncio.create_task(caller.wait_for(task_id, timeout=200)) for task_id in ids]
        await waiting_for(caller, 1000, within=100)
        assert caller.stats()["waiting"] == 1000
        for some in range(0, 1000, 50):
            await asyncio.gather(*(store(task_id, task_id) for task_id in ids[some : some + 50]))
        assert await asyncio.gather(*waiters) == ids
        await waiting_for(caller, 0, within=100)


class TestCancelling:
    @where(by_id=True)
    async def test_before_the_result_leaves_it_for_another_process(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        waiter = await waiting(caller, task_id, raw)
        await cancel(waiter)
        assert waiter.cancelled()
        await raw.left(caller, task_id)
        await store(task_id, "late")
        assert await third.wait_for(task_id, timeout=30) == "late"

    @where(shared=False)
    @where(by_id=True, returns=True)
    async def test_with_the_result_at_hand_returns_it(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        """What was delivered but taken by nobody goes back, also when it was delivered a moment before."""
        arrived, missing = new_id(), new_id()
        await store(arrived, "untaken")
        both = asyncio.create_task(_all(caller, arrived, missing))
        await eventually(lambda: caller.stats()["received"] == 1)
        assert await raw.ready(caller.rkey(arrived)) == 0
        await cancel(both)
        assert await third.wait_for(arrived, timeout=30) == "untaken"

    @where(by_id=True, returns=True)
    async def test_again_and_again_while_stores_are_in_flight(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store
    ) -> None:
        ids = [new_id() for _ in range(40)]
        results: dict[str, Any] = {}

        async def impatient(task_id: str) -> None:
            backend, turn = caller, 0
            while task_id not in results:
                with suppress(ResultTimeout):
                    results[task_id] = await backend.wait_for(task_id, timeout=0.01 + turn * 0.01)
                backend, turn = third if backend is caller else caller, turn + 1

        async with asyncio.TaskGroup() as group:
            for task_id in ids:
                group.create_task(impatient(task_id))
            for task_id in ids:
                await store(task_id, task_id)
        assert results == {task_id: task_id for task_id in ids}

    async def test_in_an_anyio_scope(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        with anyio.move_on_after(0.05) as scope:
            await caller.wait_for(task_id)
        assert scope.cancelled_caught
        assert caller.stats()["waiting"] == 0
        await raw.left(caller, task_id)
        await store(task_id, "after")
        assert await caller.wait_for(task_id, timeout=30) == "after"

    async def test_before_it_began(self, caller: AMQPBackend) -> None:
        task = asyncio.create_task(caller.wait_for(new_id()))
        await cancel(task)
        assert task.cancelled()
        assert caller.stats()["waiting"] == 0


async def _all(backend: AMQPBackend, *task_ids: str) -> Any:
    return await backend.get_many(task_ids)


class TestTimeouts:
    @pytest.mark.parametrize("timeout", [0.05, 0.2])
    async def test_in_float_seconds(self, caller: AMQPBackend, timeout: float) -> None:
        task_id, began = new_id(), monotonic()
        with pytest.raises(ResultTimeout, match=f"no result of task '{task_id}' within {timeout:g} s") as caught:
            await caller.wait_for(task_id, timeout=timeout)
        assert timeout - 0.01 <= monotonic() - began < timeout + 15
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.timeout, caught.value.pending, caught.value.done) == (timeout, [task_id], {})

    async def test_one_deadline_for_all_of_it(self, caller: AMQPBackend, store: Store, raw: Raw, clock: Clock) -> None:
        task_id = new_id()
        waiter = await waiting(caller, task_id, raw, timeout=20)
        clock.advance(15)
        await store(task_id, None, "STARTED")
        await eventually(lambda: caller.stats()["received"] == 1)
        clock.advance(5)
        await eventually(waiter.done, within=5)
        assert isinstance(waiter.exception(), ResultTimeout)

    async def test_zero_is_one_look(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        with pytest.raises(ResultTimeout) as caught:
            await caller.wait_for(task_id, timeout=0)
        assert (caught.value.timeout, caught.value.pending) == (0, [task_id])
        assert await raw.queue(caller.rkey(task_id)) is None
        await store(task_id, "here")
        await arrived(caller, task_id)
        assert await caller.wait_for(task_id, timeout=0) == "here"
        await raw.gone(caller, task_id)

    @where(shared=False)
    @where(by_id=True)
    async def test_zero_leaves_what_is_not_ready(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        await store(task_id, {"done": 0.5}, "PROGRESS")
        for _ in range(3):
            with pytest.raises(ResultTimeout):
                await caller.wait_for(task_id, timeout=0)
        await raw.returned(caller, task_id)
        assert (await caller.get_task_meta(task_id)).result == {"done": 0.5}

    async def test_zero_beside_a_wait(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        """One look shows what this process has; the wait for the same id goes on."""
        task_id = new_id()
        waiter = await waiting(caller, task_id, raw, timeout=30)
        with pytest.raises(ResultTimeout):
            await caller.wait_for(task_id, timeout=0)
        await store(task_id, "both")
        assert await waiter == "both"
        assert await caller.wait_for(task_id, timeout=0) == "both"

    async def test_none_has_no_limit(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        waiter = await waiting(caller, task_id, raw, timeout=None)
        await store(task_id, "some day")
        assert await waiter == "some day"

    @where(by_id=True)
    async def test_a_timed_out_wait_can_be_repeated(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        for _ in range(5):
            with pytest.raises(ResultTimeout):
                await caller.wait_for(task_id, timeout=0.01)
        await raw.left(caller, task_id)
        await store(task_id, "finally")
        assert await caller.wait_for(task_id, timeout=30) == "finally"


class Mine(Exception):
    pass


class TestFailures:
    async def test_a_builtin_is_raised_as_itself(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, ZeroDivisionError("by", 0), "FAILURE", "Traceback: far away")
        with pytest.raises(ZeroDivisionError) as caught:
            await caller.wait_for(task_id, timeout=30)
        assert caught.value.args == ("by", 0)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert str(caught.value.__cause__) == "Traceback: far away"

    async def test_a_class_unknown_here_is_a_remote_error(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, Mine("a", 1), "FAILURE", "Traceback: far away")
        with pytest.raises(RemoteError, match=r"Mine\('a', 1\)") as caught:
            await caller.wait_for(task_id, timeout=30)
        assert caught.value.exc_type == "Mine"
        assert caught.value.exc_module == __name__
        assert caught.value.exc_message == ["a", 1]
        assert caught.value.traceback == "Traceback: far away"

    async def test_a_registered_class_is_rebuilt(self, lab: Lab, store: Store) -> None:
        known, task_id = Serializers(), new_id()
        known.register_exception(Mine)
        backend = await lab.open(serializers=known)
        await store(task_id, Mine("a", 1), "FAILURE", to=backend)
        with pytest.raises(Mine) as caught:
            await backend.wait_for(task_id, timeout=30)
        assert caught.value.args == ("a", 1)

    async def test_revoked(self, caller: AMQPBackend, worker: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, TaskRevoked("expired"), "REVOKED")
        with pytest.raises(TaskRevoked) as caught:
            await caller.wait_for(task_id, timeout=30)
        assert caught.value.reason == "expired"

    async def test_a_failure_without_an_exception(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, {"x": 1}, "FAILURE")
        with pytest.raises(RemoteError) as caught:
            await caller.wait_for(task_id, timeout=30)
        assert caught.value.exc_message == {"x": 1}

    async def test_not_propagated_it_is_the_result(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, ValueError("no"), "FAILURE")
        for _ in range(2):  # from the broker, and from the cache
            error = await caller.wait_for(task_id, timeout=30, propagate=False)
            assert isinstance(error, ValueError)
            assert error.args == ("no",)

    async def test_an_exception_of_a_success_is_no_failure(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, {"exc_type": "ValueError", "exc_message": [], "exc_module": "builtins"})
        assert (await caller.wait_for(task_id, timeout=30))["exc_type"] == "ValueError"

    async def test_raised_again_and_again_it_does_not_grow(self, caller: AMQPBackend, store: Store) -> None:
        """A cached error keeps no frames of the callers that it was raised in before."""
        task_id = new_id()
        await store(task_id, ValueError("no"), "FAILURE")
        lengths = []
        for _ in range(5):
            with pytest.raises(ValueError, match="no") as caught:
                await caller.wait_for(task_id, timeout=30)
            lengths.append(len(caught.traceback))
        assert len(set(lengths[1:])) == 1

    async def test_waiters_that_share_a_failure(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        waiters = [asyncio.create_task(caller.wait_for(task_id, timeout=30)) for _ in range(3)]
        await raw.waited_for(caller, task_id)
        await store(task_id, KeyError("k"), "FAILURE")
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [repr(each) for each in outcomes] == ["KeyError('k')"] * 3

    async def test_a_message_that_cannot_be_read_is_told_to_who_waits(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id, other = new_id(), new_id()
        waiter = await waiting(caller, task_id, raw, timeout=30)
        await raw.publish(
            queue_of(caller, task_id), b"{not json", content_type="application/json", correlation_id=task_id
        )
        with pytest.raises(DecodeError):
            await waiter
        assert caller.stats()["undecodable"] == 1
        await store(other, "the drain goes on")
        assert await caller.wait_for(other, timeout=30) == "the drain goes on"


class TestCache:
    @where(shared=False)
    async def test_a_result_is_taken_once_and_remembered(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, [1])
        first = await caller.wait_for(task_id, timeout=30)
        assert await caller.wait_for(task_id, timeout=0) == first
        assert await caller.wait_for(task_id) == first
        assert caller.stats()["cached"] == 1

    @where(shared=False)
    @where(by_id=True)
    async def test_without_it_the_broker_is_asked(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        await store(task_id, 1)
        assert await caller.wait_for(task_id, timeout=30) == 1
        with pytest.raises(ResultTimeout):
            await caller.wait_for(task_id, timeout=0.1, cache=False)
        await raw.left(caller, task_id)
        await store(task_id, 2)
        assert await caller.wait_for(task_id, timeout=30, cache=False) == 2
        assert await caller.wait_for(task_id) == 2

    @where(shared=False)
    @where(by_id=True)
    async def test_it_is_no_other_process_s(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await caller.wait_for(task_id, timeout=30)
        await raw.gone(caller, task_id)  # who waits for it while it is deleted is told that
        with pytest.raises(ResultTimeout):
            await third.wait_for(task_id, timeout=0.1)

    @where(shared=False)
    async def test_it_has_a_limit(self, lab: Lab, store: Store) -> None:
        backend = await lab.open(max_cached_results=2)
        ids = [new_id() for _ in range(3)]
        for task_id in ids:
            await store(task_id, task_id, to=backend)
            await backend.wait_for(task_id, timeout=30)
        assert backend.stats()["cached"] == 2
        assert [await backend.wait_for(task_id, timeout=0) for task_id in ids[1:]] == ids[1:]
        with pytest.raises(ResultTimeout):
            await backend.wait_for(ids[0], timeout=0)

    @where(shared=False)
    async def test_it_can_be_switched_off(self, lab: Lab, store: Store) -> None:
        backend, task_id = await lab.open(max_cached_results=0), new_id()
        await store(task_id, 1, to=backend)
        assert await backend.wait_for(task_id, timeout=30) == 1
        assert backend.stats()["cached"] == 0
        with pytest.raises(ResultTimeout):
            await backend.wait_for(task_id, timeout=0)


class TestConsume:
    async def test_returns_the_ready_meta(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, {"n": 1}, worker="w1", retries=2, mine="x")
        meta = await caller.consume(task_id, timeout=30)
        assert (meta.task_id, meta.status, meta.result, meta.is_ready) == (task_id, "SUCCESS", {"n": 1}, True)
        assert meta.date_done is not None
        assert meta.date_done.utcoffset() is not None
        assert (meta.worker, meta.retries, meta.extra) == ("w1", 2, {"mine": "x"})

    async def test_propagates_nothing(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, ValueError("no"), "FAILURE", "Traceback: far away")
        meta = await caller.consume(task_id, timeout=30)
        assert meta.is_failure
        assert isinstance(meta.result, ValueError)
        assert meta.traceback == "Traceback: far away"

    @where(shared=False)
    async def test_a_result_is_not_there_for_the_next_look_in_this_process(
        self, caller: AMQPBackend, store: Store
    ) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await arrived(caller, task_id)
        assert (await caller.consume(task_id, timeout=0)).result == 1
        with pytest.raises(ResultTimeout):
            await caller.consume(task_id, timeout=0)

    @where(shared=False)
    async def test_does_not_ask_the_cache(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await caller.consume(task_id, timeout=30)
        assert await caller.wait_for(task_id) == 1
        for timeout in (0, 0.1):
            with pytest.raises(ResultTimeout):
                await caller.consume(task_id, timeout=timeout)
