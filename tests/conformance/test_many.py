"""`get_many`: awaited, iterated, interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest

from aioresults import AMQPBackend, ResultMeta, ResultTimeout
from tests.clock import Clock
from tests.conformance.conftest import Store
from tests.conformance.lab import Lab, Raw, arrived, new_id, only, waiting_for, where
from tests.eventually import eventually


def ids(count: int) -> list[str]:
    return [new_id() for _ in range(count)]


async def awaited(backend: AMQPBackend, task_ids: list[str], **options: Any) -> dict[str, ResultMeta]:
    return await backend.get_many(task_ids, **options)


class TestAwaited:
    async def test_in_the_order_asked(self, caller: AMQPBackend, store: Store) -> None:
        asked = ids(20)
        for task_id in reversed(asked):
            await store(task_id, task_id)
        metas = await caller.get_many(asked, timeout=30)
        assert list(metas) == asked
        assert [meta.result for meta in metas.values()] == asked
        assert {meta.status for meta in metas.values()} == {"SUCCESS"}

    async def test_waits_for_those_that_come_later(self, caller: AMQPBackend, store: Store) -> None:
        asked = ids(4)
        await store(asked[2], 2)
        many = asyncio.create_task(awaited(caller, asked, timeout=30))
        await eventually(lambda: caller.stats()["waiting"] == 4)
        for number in (3, 0):
            await store(asked[number], number)
        assert not many.done()
        await store(asked[1], 1)
        assert [meta.result for meta in (await many).values()] == [0, 1, 2, 3]

    async def test_duplicates_are_one(self, caller: AMQPBackend, store: Store) -> None:
        first, second = ids(2)
        await store(first, 1)
        await store(second, 2)
        metas = await caller.get_many([second, first, second, first], timeout=30)
        assert list(metas) == [second, first]

    async def test_an_iterator_is_read_once(self, caller: AMQPBackend, store: Store) -> None:
        asked = ids(3)
        for task_id in asked:
            await store(task_id, 1)
        assert list(await caller.get_many(iter(asked), timeout=30)) == asked

    @pytest.mark.parametrize("timeout", [None, 0, 1])
    async def test_none_at_all(self, caller: AMQPBackend, timeout: float | None) -> None:
        assert await caller.get_many([], timeout=timeout) == {}
        assert [pair async for pair in caller.get_many(iter(()), timeout=timeout)] == []

    async def test_failures_are_metas_too(self, caller: AMQPBackend, store: Store) -> None:
        bad, good = ids(2)
        await store(bad, ValueError("no"), "FAILURE")
        await store(good, 1)
        metas = await caller.get_many([bad, good], timeout=30)
        assert [meta.status for meta in metas.values()] == ["FAILURE", "SUCCESS"]
        assert isinstance(metas[bad].result, ValueError)

    async def test_the_queues_go_with_the_results(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        asked = ids(3)
        for task_id in asked:
            await store(task_id, 1)
        await caller.get_many(asked, timeout=30)
        for task_id in asked:
            await raw.gone(caller, task_id)
        assert caller.stats()["waiting"] == 0

    async def test_cached_ones_are_not_asked_for(self, caller: AMQPBackend, store: Store) -> None:
        known, new = ids(2)
        await store(known, "known")
        await caller.wait_for(known, timeout=30)
        await store(new, "new")
        metas = await caller.get_many([new, known], timeout=30)
        assert [meta.result for meta in metas.values()] == ["new", "known"]

    async def test_one_deadline_for_all(self, caller: AMQPBackend, store: Store, clock: Clock) -> None:
        asked = ids(3)
        many = asyncio.create_task(awaited(caller, asked, timeout=20))
        await waiting_for(caller, 3)
        await store(asked[1], "one")
        await eventually(lambda: caller.stats()["received"] == 1)
        clock.advance(15)
        await store(asked[0], None, "STARTED")
        await eventually(lambda: caller.stats()["received"] == 2)
        clock.advance(5)
        await eventually(many.done, within=5)
        error = many.exception()
        assert isinstance(error, ResultTimeout)
        assert error.timeout == 20
        assert {task_id: meta.result for task_id, meta in error.done.items()} == {asked[1]: "one"}
        assert error.pending == [asked[0], asked[2]]
        assert str(error) == "1 of 3 results within 20 s"

    async def test_what_a_timeout_hands_over_is_taken(
        self, caller: AMQPBackend, store: Store, raw: Raw, clock: Clock
    ) -> None:
        there, missing = ids(2)
        await store(there, "there")
        many = asyncio.create_task(awaited(caller, [there, missing], timeout=20))
        await waiting_for(caller, 2)
        await eventually(lambda: caller.stats()["received"] == 1)
        clock.advance(20)
        with pytest.raises(ResultTimeout) as caught:
            await many
        assert list(caught.value.done) == [there]
        assert await caller.wait_for(there, timeout=0) == "there"
        await raw.left(caller, missing)
        await store(missing, "late")
        assert list(await caller.get_many([there, missing], timeout=30)) == [there, missing]

    async def test_zero_is_one_look_each(self, lab: Lab, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        there, missing = ids(2)
        await store(there, "there")
        await arrived(caller, there)
        with pytest.raises(ResultTimeout) as caught:
            await caller.get_many([missing, there], timeout=0)
        assert (list(caught.value.done), caught.value.pending) == ([there], [missing])
        if lab.layout.own_queue:
            assert await raw.queue(caller.rkey(missing)) is None
        assert list(await caller.get_many([there], timeout=0)) == [there]

    async def test_zero_tells_of_what_is_there(self, caller: AMQPBackend, store: Store) -> None:
        asked, heard = ids(3), list[str]()
        for task_id in asked[:2]:
            await store(task_id, 1)
            await arrived(caller, task_id)
        with pytest.raises(ResultTimeout):
            await caller.get_many(asked, timeout=0, on_message=lambda meta: heard.append(meta.task_id))
        assert sorted(heard) == sorted(asked[:2])

    async def test_two_at_once_for_the_same_ids(self, caller: AMQPBackend, store: Store) -> None:
        asked = ids(3)
        both = [asyncio.create_task(awaited(caller, asked, timeout=30)) for _ in range(2)]
        single = asyncio.create_task(caller.wait_for(asked[1], timeout=30))
        await eventually(lambda: caller.stats()["waiting"] == 3)
        for task_id in asked:
            await store(task_id, task_id)
        assert await single == asked[1]
        assert [list(many) for many in await asyncio.gather(*both)] == [asked, asked]

    @where(by_id=True, returns=True)
    async def test_cancelled_it_takes_nothing(self, caller: AMQPBackend, third: AMQPBackend, store: Store) -> None:
        asked = ids(3)
        many = asyncio.create_task(awaited(caller, asked))
        for number in (0, 1):
            await store(asked[number], number)
        await eventually(lambda: caller.stats()["received"] == 2)
        many.cancel()
        await asyncio.wait([many])
        await store(asked[2], 2)
        assert [meta.result for meta in (await third.get_many(asked, timeout=30)).values()] == [0, 1, 2]


class TestIterated:
    async def test_cached_first_then_as_they_arrive_each_once(self, caller: AMQPBackend, store: Store) -> None:
        asked = ids(5)
        for number in (3, 1):
            await store(asked[number], number)
            await caller.wait_for(asked[number], timeout=30)
        seen = []
        async with aclosing(_pairs(caller, [*asked, *asked], timeout=30)) as pairs:
            for expected in (1, 3, 4, 0, 2):
                if expected not in (1, 3):
                    await store(asked[expected], expected)
                task_id, meta = await anext(pairs)
                assert asked[meta.result] == task_id == meta.task_id
                seen.append(meta.result)
            with pytest.raises(StopAsyncIteration):
                await anext(pairs)
        assert seen == [1, 3, 4, 0, 2]

    async def test_what_was_yielded_is_taken_when_the_next_is_asked_for(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        first, second = ids(2)
        await store(first, 1)
        async with aclosing(_pairs(caller, [first, second], timeout=30)) as pairs:
            assert (await anext(pairs))[0] == first
            assert caller._opened().reader.ready(first) is None
            following = asyncio.ensure_future(anext(pairs))
            await raw.gone(caller, first)
            await store(second, 2)
            assert (await following)[0] == second

    @where(shared=False, returns=True)
    async def test_a_loop_that_ends_early_can_be_begun_again(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        asked = ids(3)
        await store(asked[1], 1)
        async for task_id, _ in caller.get_many(asked, timeout=30):
            assert task_id == asked[1]
            break
        await raw.left(caller, asked[0], asked[2])
        await store(asked[0], 0)
        await store(asked[2], 2)
        again = {task_id: meta.result async for task_id, meta in caller.get_many(asked, timeout=30)}
        assert again == {asked[0]: 0, asked[1]: 1, asked[2]: 2}

    @where(shared=False)
    @where(by_id=True, returns=True)
    async def test_a_loop_that_ends_early_leaves_the_rest_to_others(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store
    ) -> None:
        asked = ids(5)
        for task_id in asked:
            await store(task_id, task_id)
        async with aclosing(_pairs(caller, asked)) as pairs:
            await eventually(lambda: caller.stats()["received"] == 0)
            taken, _ = await anext(pairs)
            await eventually(lambda: caller.stats()["received"] == 5)
        rest = [task_id for task_id in asked if task_id != taken]
        assert list(await third.get_many(rest, timeout=30)) == rest

    async def test_a_timeout_comes_after_what_arrived(self, caller: AMQPBackend, store: Store, clock: Clock) -> None:
        asked = ids(3)
        seen: list[str] = []
        await store(asked[1], 1)
        collecting = asyncio.create_task(_collect(seen, caller, asked, timeout=20))
        await eventually(lambda: bool(seen))
        await waiting_for(caller, 2)
        clock.advance(20)
        with pytest.raises(ResultTimeout) as caught:
            await collecting
        assert seen == [asked[1]]
        assert (list(caught.value.done), caught.value.pending) == (seen, [asked[0], asked[2]])

    async def test_zero_yields_what_is_there(self, caller: AMQPBackend, store: Store) -> None:
        there, missing = ids(2)
        await store(there, 1)
        await arrived(caller, there)
        seen: list[str] = []
        with pytest.raises(ResultTimeout) as caught:
            await _collect(seen, caller, [missing, there], timeout=0)
        assert (seen, caught.value.pending) == ([there], [missing])

    async def test_a_cancelled_step_loses_nothing(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        asked = ids(2)
        many = asyncio.create_task(_collect([], caller, asked))
        await waiting_for(caller, 2)
        many.cancel()
        await asyncio.wait([many])
        await raw.left(caller, *asked)
        for task_id in asked:
            await store(task_id, 1)
        assert len([pair async for pair in caller.get_many(asked, timeout=30)]) == 2

    @only("per_task", "last_value", "reply_queue")  # those of Celery lose what is stored while they are deleted
    async def test_goes_on_after_a_cancelled_step(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        asked = ids(3)
        pairs = _pairs(caller, asked, timeout=30)
        arrived = []
        for task_id in asked:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(pairs), 0.01)
            await raw.left(caller, *asked)
            await store(task_id, 1)
            arrived.append((await anext(pairs))[0])
        assert arrived == asked
        with pytest.raises(StopAsyncIteration):
            await anext(pairs)

    async def test_the_deadline_outlasts_a_cancelled_step(self, caller: AMQPBackend, clock: Clock) -> None:
        asked = ids(2)
        pairs = _pairs(caller, asked, timeout=20)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(pairs), 0.01)
        clock.advance(20)
        with pytest.raises(ResultTimeout) as caught:
            await asyncio.wait_for(anext(pairs), 10)
        assert (caught.value.timeout, caught.value.pending) == (20, asked)

    async def test_two_steps_at_once_get_one_each(self, caller: AMQPBackend, store: Store) -> None:
        asked = ids(2)
        pairs = _pairs(caller, asked, timeout=30)
        steps = [asyncio.create_task(anext(pairs)) for _ in asked]
        await waiting_for(caller, 2)
        for task_id in asked:
            await store(task_id, 1)
        assert sorted(task_id for task_id, _ in await asyncio.gather(*steps)) == sorted(asked)


def _pairs(backend: AMQPBackend, task_ids: list[str], **options: Any) -> Any:
    """Return the iteration behind a loop, to be stepped by hand."""
    return cast("AsyncIterator[Any]", aiter(backend.get_many(task_ids, **options)))


async def _collect(seen: list[str], backend: AMQPBackend, task_ids: list[str], **options: Any) -> None:
    async for task_id, _ in backend.get_many(task_ids, **options):
        seen.append(task_id)


class TestOnMessage:
    @where(history=True)
    async def test_every_report_in_order(self, caller: AMQPBackend, store: Store) -> None:
        first, second = ids(2)
        seen: list[tuple[str, str]] = []
        many = asyncio.create_task(
            awaited(
                caller, [first, second], timeout=30, on_message=lambda meta: seen.append((meta.task_id, meta.status))
            )
        )
        await waiting_for(caller, 2)
        for status in ("RECEIVED", "STARTED", "PROGRESS", "SUCCESS"):
            await store(first, None, status)
        for status in ("STARTED", "FAILURE"):
            await store(second, None, status)
        await many
        assert [status for task_id, status in seen if task_id == first] == [
            "RECEIVED", "STARTED", "PROGRESS", "SUCCESS",
        ]  # fmt: skip
        assert [status for task_id, status in seen if task_id == second] == ["STARTED", "FAILURE"]

    async def test_one_that_raises_ends_this_wait_alone(self, caller: AMQPBackend, store: Store) -> None:
        task_id, other = ids(2)

        def explode(meta: ResultMeta) -> None:
            raise ZeroDivisionError(meta.task_id)

        bad = asyncio.create_task(awaited(caller, [task_id, other], on_message=explode))
        good = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await waiting_for(caller, 2)
        await store(task_id, {"done": 1}, "PROGRESS")
        with pytest.raises(ZeroDivisionError, match=task_id):
            await bad
        await store(task_id, "result")
        assert await good == "result"

    @where(returns=True)
    async def test_one_that_raises_at_the_last_report_takes_nothing(self, caller: AMQPBackend, store: Store) -> None:
        [task_id] = ids(1)

        def explode(meta: ResultMeta) -> None:
            raise ZeroDivisionError(meta.task_id)

        bad = asyncio.create_task(awaited(caller, [task_id], on_message=explode))
        await waiting_for(caller, 1)
        await store(task_id, "result")
        with pytest.raises(ZeroDivisionError, match=task_id):
            await bad
        assert await caller.wait_for(task_id, timeout=30) == "result"

    async def test_it_may_be_iterated_too(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        seen: list[str] = []
        await store(task_id, 1)
        many = caller.get_many([task_id], timeout=30, on_message=lambda meta: seen.append(meta.status))
        assert [meta.result async for _, meta in many] == [1]
        assert seen == ["SUCCESS"]


async def test_a_hundred_at_once(lab: Lab, caller: AMQPBackend, store: Store) -> None:
    asked = ids(100)

    async def work() -> None:
        for task_id in asked:
            await store(task_id, None, "STARTED")
            await store(task_id, task_id)

    working = asyncio.create_task(work())
    metas = await caller.get_many(asked, timeout=150)
    await working
    assert {task_id: meta.result for task_id, meta in metas.items()} == {task_id: task_id for task_id in asked}
