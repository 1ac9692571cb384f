"""`get_task_meta`, `poll`, `reload_task_result`, `forget`: what is seen without being consumed, and what is deleted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    BacklogLimitExceeded,
    DecodeError,
    ResultForgotten,
    ResultMeta,
    ResultTimeout,
)
from aioresults.messaging import NoCacheQueue
from tests.conformance.conftest import Store
from tests.conformance.lab import Lab, Raw, new_id, only, waiting_for, where
from tests.conformance.test_many import awaited
from tests.conformance.test_watching import collect
from tests.eventually import eventually


def body(task_id: str, status: str = "STARTED", result: object = None) -> bytes:
    return json.dumps({"task_id": task_id, "status": status, "result": result}).encode()


@where(by_id=True)
class TestLooking:
    async def test_an_unknown_task_is_pending_and_nothing_is_declared(self, caller: AMQPBackend, raw: Raw) -> None:
        task_id = new_id()
        for look in (caller.get_task_meta, caller.poll, caller.reload_task_result):
            meta = await look(task_id)
            assert (meta.task_id, meta.status, meta.result) == (task_id, "PENDING", None)
        assert await raw.queue(caller.rkey(task_id)) is None

    @where(shared=False)
    async def test_the_latest_state_again_and_again_in_every_process(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        for status in ("RECEIVED", "STARTED", "FAILURE"):
            await store(task_id, KeyError("k") if status == "FAILURE" else None, status)
        for turn in range(40):
            meta = await (third if turn % 2 else caller).get_task_meta(task_id)
            assert (meta.status, repr(meta.result)) == ("FAILURE", "KeyError('k')")
        await raw.returned(caller, task_id)
        with pytest.raises(KeyError):
            await third.wait_for(task_id, timeout=0, cache=False)

    @where(shared=False)
    async def test_the_history_is_acknowledged_and_the_latest_returned(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        for status in ("RECEIVED", "STARTED", "PROGRESS"):
            await store(task_id, status, status)
        assert (await caller.poll(task_id)).status == "PROGRESS"
        await raw.returned(caller, task_id)
        delivery = await raw.get(caller.rkey(task_id))
        assert delivery.redelivered
        assert json.loads(delivery.body)["status"] == "PROGRESS"

    async def test_one_look_moves_with_the_task(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        for status in ("RECEIVED", "STARTED", "PROGRESS", "SUCCESS"):
            await store(task_id, None, status)
            assert (await caller.get_task_meta(task_id)).status == status
        assert await caller.wait_for(task_id, timeout=30, cache=False) is None

    async def test_many_looks_at_once_agree(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, "x", "PROGRESS")
        metas = await asyncio.gather(*(caller.get_task_meta(task_id) for _ in range(20)))
        assert {(meta.status, meta.result) for meta in metas} == {("PROGRESS", "x")}

    @where(shared=False)
    async def test_a_cancelled_look_disturbs_neither_the_report_nor_the_others(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        await store(task_id, "x", "PROGRESS")
        for _ in range(5):
            looks = [asyncio.create_task(caller.get_task_meta(task_id)) for _ in range(2)]
            await asyncio.sleep(0)
            looks[0].cancel()
            assert (await looks[1]).status == "PROGRESS"
            assert looks[0].cancelled()
        await eventually(lambda: raw.is_ready(caller.rkey(task_id), 1))
        assert (await third.get_task_meta(task_id)).result == "x"

    @where(shared=False)
    @where(by_id=True, history=True)
    async def test_the_backlog_has_a_limit(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        """As many reports as the limit are too many: the queue was not found empty."""
        task_id = new_id()
        for number in range(5):
            await store(task_id, number, "PROGRESS")
        with pytest.raises(BacklogLimitExceeded, match=f"queue of task '{task_id}' holds 5 reports or more") as caught:
            await caller.get_task_meta(task_id, backlog_limit=5)
        assert (caught.value.task_id, caught.value.limit) == (task_id, 5)
        # What was read is gone, but for the latest.
        await raw.returned(caller, task_id)
        assert (await caller.get_task_meta(task_id, backlog_limit=2)).result == 4
        for number in range(5, 9):
            await store(task_id, number, "PROGRESS")
        assert (await caller.poll(task_id, backlog_limit=6)).result == 8

    @only("per_task")
    @pytest.mark.parametrize("reports", [999, 1000])
    async def test_the_backlog_s_limit_is_1000(self, caller: AMQPBackend, store: Store, raw: Raw, reports: int) -> None:
        task_id = new_id()
        await store(task_id, 0, "PROGRESS")
        channel = await raw.channel()
        properties = (await raw.get(caller.rkey(task_id))).properties
        properties.message_id = None
        for number in range(reports):
            queue = caller.rkey(task_id)
            document = body(task_id, "PROGRESS", number)
            await channel.basic_publish(document, properties, "", queue)
        if reports == 1000:
            with pytest.raises(caller.BacklogLimitExceeded):
                await caller.get_task_meta(task_id)
        else:
            assert (await caller.get_task_meta(task_id)).result == 998

    @where(shared=False, own_queue=True)
    @where(by_id=True, history=True)
    async def test_foreign_messages_are_left_where_they_were(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id, foreign = new_id(), new_id()
        queue = caller.rkey(task_id)
        await store(task_id, None, "STARTED")
        await raw.publish(queue, body(foreign, "SUCCESS"), content_type="application/json")
        await store(task_id, None, "PROGRESS")
        for _ in range(3):
            assert (await caller.get_task_meta(task_id)).status == "PROGRESS"
            await eventually(lambda: raw.is_ready(queue, 2))
        assert (await caller.get_task_meta(foreign)).status == "PENDING"
        left = [json.loads((await raw.get(queue)).body) for _ in range(2)]
        assert sorted(each["status"] for each in left) == ["PROGRESS", "SUCCESS"]

    @where(by_id=True, history=False)
    async def test_last_value_keeps_one_message(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        for number in range(20):
            await store(task_id, number, "PROGRESS")
        assert await raw.ready(caller.rkey(task_id)) == 1
        assert (await caller.get_task_meta(task_id, backlog_limit=2)).result == 19
        await raw.returned(caller, task_id)

    async def test_while_this_process_waits_it_says_what_it_has_seen(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        assert (await caller.get_task_meta(task_id)).status == "PENDING"
        await store(task_id, {"done": 0.1}, "PROGRESS")
        await eventually(lambda: caller.stats()["received"] == 1)
        assert (await caller.get_task_meta(task_id)).result == {"done": 0.1}
        await store(task_id, "done")
        assert await waiting == "done"
        assert (await caller.get_task_meta(task_id)).result == "done"

    @where(shared=False)
    async def test_after_the_result_was_taken_it_is_remembered_here(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await caller.wait_for(task_id, timeout=30)
        assert (await caller.get_task_meta(task_id)).result == 1
        await raw.gone(caller, task_id)
        assert (await third.get_task_meta(task_id)).status == "PENDING"

    @where(shared=False)
    async def test_what_cannot_be_read_is_told_and_left(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        queue = caller.rkey(task_id)
        await store(task_id, 1, "STARTED")
        await raw.get(queue)
        await raw.publish(queue, b"\xff", content_type="application/json", correlation_id=task_id)
        for _ in range(2):
            with pytest.raises(DecodeError) as caught:
                await caller.get_task_meta(task_id)
            assert caught.value.task_id == task_id
            assert await raw.ready(queue) == 1

    @where(shared=False)
    async def test_a_store_only_backend_may_look(self, lab: Lab, store: Store) -> None:
        backend, task_id = await lab.open(store_only=True), new_id()
        await store(task_id, 1)
        assert (await backend.get_task_meta(task_id)).result == 1

    async def test_taking_what_was_looked_at(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        """`if await result.ready(): await result` must not leave the queue behind."""
        task_id = new_id()
        await store(task_id, 1)
        assert (await caller.get_task_meta(task_id)).is_ready
        assert await caller.wait_for(task_id, timeout=30) == 1
        await raw.gone(caller, task_id)


@where(by_id=True)
class TestReload:
    @where(shared=False)
    async def test_asks_the_broker_again(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await caller.wait_for(task_id, timeout=30)
        await raw.gone(caller, task_id)
        assert (await caller.reload_task_result(task_id)).status == "PENDING"
        with pytest.raises(ResultTimeout):
            await caller.wait_for(task_id, timeout=0)
        await store(task_id, 2)
        assert (await caller.reload_task_result(task_id)).result == 2

    @where(shared=False)
    async def test_shows_another_process_s_new_result(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        await store(task_id, "old")
        assert await caller.wait_for(task_id, timeout=30) == "old"
        await raw.gone(caller, task_id)
        await store(task_id, "new")
        assert (await caller.get_task_meta(task_id)).result == "old"
        assert (await caller.reload_task_result(task_id)).result == "new"


class TestForget:
    async def test_deletes_what_the_broker_and_the_cache_hold(
        self, caller: AMQPBackend, store: Store, raw: Raw
    ) -> None:
        task_id = new_id()
        await store(task_id, 1)
        await caller.get_task_meta(task_id)
        await caller.forget(task_id)
        assert await raw.ready(caller.rkey(task_id)) == (raw.nothing if caller.queue_for(task_id) else None)
        assert caller.stats()["cached"] == 0
        assert (await caller.get_task_meta(task_id)).status == "PENDING"

    async def test_an_unknown_task_is_no_error(self, caller: AMQPBackend) -> None:
        for _ in range(2):
            await caller.forget(new_id())

    async def test_who_waits_is_told(self, caller: AMQPBackend, raw: Raw) -> None:
        task_id = new_id()
        waiters = [
            asyncio.create_task(caller.wait_for(task_id)),
            asyncio.create_task(awaited(caller, [new_id(), task_id])),
            asyncio.create_task(collect(caller, task_id)),
        ]
        await waiting_for(caller, 2)
        await caller.forget(task_id)
        for waiter in waiters:
            with pytest.raises(ResultForgotten) as caught:
                await waiter
            assert caught.value.task_id == task_id
        assert caller.stats()["waiting"] == 0
        await raw.gone(caller, task_id)

    @where(by_id=True, own_queue=True)
    async def test_who_waits_in_another_process_is_told(
        self, caller: AMQPBackend, third: AMQPBackend, raw: Raw
    ) -> None:
        task_id = new_id()
        waiting = asyncio.create_task(third.wait_for(task_id, timeout=30))
        await raw.waited_for(third, task_id)
        await caller.forget(task_id)
        with pytest.raises(ResultForgotten):
            await waiting

    async def test_the_id_may_start_anew(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        for turn in range(10):
            await store(task_id, turn)
            assert await caller.wait_for(task_id, timeout=30) == turn
            await caller.forget(task_id)
        assert (await caller.get_task_meta(task_id)).status == "PENDING"

    async def test_waiting_anew_at_once(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        for turn in range(5):
            before = asyncio.create_task(caller.wait_for(task_id))
            await raw.waited_for(caller, task_id)
            await caller.forget(task_id)
            after = asyncio.create_task(caller.wait_for(task_id, timeout=30))
            with pytest.raises(ResultForgotten):
                await before
            await raw.waited_for(caller, task_id)
            await store(task_id, turn)
            assert await after == turn
            await caller.forget(task_id)

    @where(shared=False)  # those who read a stream know of it when the tombstone has come
    async def test_waiting_anew_beside_it(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        for turn in range(5):
            before = asyncio.create_task(caller.wait_for(task_id))
            await raw.waited_for(caller, task_id)
            forgetting = asyncio.create_task(caller.forget(task_id))
            beside = asyncio.create_task(caller.wait_for(task_id, timeout=30))
            await forgetting
            after = asyncio.create_task(caller.wait_for(task_id, timeout=30))
            with pytest.raises(ResultForgotten):
                await before
            await raw.waited_for(caller, task_id)
            await store(task_id, turn)
            assert (await beside, await after) == (turn, turn)
            await caller.forget(task_id)

    @where(by_id=True, shared=False, own_queue=True)
    async def test_waiting_anew_before_it_is_answered(self, lab: Lab, store: Store, raw: Raw) -> None:
        """The broker cancels the consumer of a queue that it deletes, and may be late to answer who had it deleted."""
        answer = asyncio.Event()

        class Late(NoCacheQueue):
            async def delete(self, *args: Any, **kwargs: Any) -> int:
                count = await super().delete(*args, **kwargs)
                await answer.wait()
                return count

        class Caller(AMQPBackend):
            Queue = Late

        caller, task_id = await lab.open(Caller), new_id()
        before = asyncio.create_task(caller.wait_for(task_id))
        await raw.waited_for(caller, task_id)
        forgetting = asyncio.create_task(caller.forget(task_id))
        beside = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        with pytest.raises(ResultForgotten):
            await before
        await raw.gone(caller, task_id)
        await eventually(lambda: caller.stats()["consuming"] == 0)  # it has noticed
        after = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await asyncio.sleep(0.1)
        answer.set()
        await forgetting
        await raw.waited_for(caller, task_id)
        await store(task_id, 1)
        assert (await beside, await after) == (1, 1)

    @where(by_id=True, history=True)
    async def test_a_lower_state_counts_after_it(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, 1)
        assert (await caller.get_task_meta(task_id)).status == "SUCCESS"
        await caller.forget(task_id)
        await store(task_id, None, "STARTED")
        assert (await caller.get_task_meta(task_id)).status == "STARTED"

    async def test_of_a_result_at_hand(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        """A result that was delivered and not taken goes too."""
        there, missing = new_id(), new_id()
        many = asyncio.create_task(awaited(caller, [there, missing]))
        await waiting_for(caller, 2)
        await store(there, 1)
        await eventually(lambda: caller.stats()["received"] == 1)
        await caller.forget(missing)
        with pytest.raises(ResultForgotten):
            await many
        await caller.forget(there)
        await raw.gone(caller, there)
        assert (await caller.get_task_meta(there)).status == "PENDING"
        with pytest.raises(ResultTimeout):
            await caller.wait_for(there, timeout=0.1)


#: Reports in the order they are stored, and the one that counts.
RANKS = [
    (["SUCCESS", "FAILURE"], 0),
    (["FAILURE", "SUCCESS"], 1),
    (["REVOKED", "SUCCESS"], 1),
    (["FAILURE", "REVOKED"], 0),
    (["REVOKED", "FAILURE"], 0),
    (["SUCCESS", "SUCCESS"], 0),
    (["SUCCESS", "STARTED"], 0),
    (["FAILURE", "PROGRESS", "STARTED"], 0),
    (["STARTED", "RECEIVED"], 1),
    (["STARTED", "SUCCESS", "STARTED", "FAILURE", "SUCCESS"], 1),
]


READY = ("SUCCESS", "FAILURE", "REVOKED")


async def store_one(store: Store, task_id: str, number: int, status: str) -> None:
    failed = status in ("FAILURE", "REVOKED")
    await store(task_id, ValueError(number) if failed else number, status, worker=str(number))


async def stored(store: Store, reports: list[str]) -> str:
    """Store such reports about a new task, each with its number as its worker."""
    task_id = new_id()
    for number, status in enumerate(reports):
        await store_one(store, task_id, number, status)
    return task_id


@where(by_id=True, history=True)
class TestWhichReportCounts:
    async def test_for_one_who_looks(self, caller: AMQPBackend, third: AMQPBackend, store: Store) -> None:
        for reports, winner in RANKS:
            task_id = await stored(store, reports)
            for backend in (caller, third, caller):
                meta = await backend.get_task_meta(task_id)
                assert (meta.status, meta.worker) == (reports[winner], str(winner)), reports

    async def test_for_one_who_looks_after_each(self, caller: AMQPBackend, store: Store) -> None:
        for reports, winner in RANKS:
            task_id, meta = new_id(), None
            for number, status in enumerate(reports):
                await store_one(store, task_id, number, status)
                meta = await caller.get_task_meta(task_id)
            assert isinstance(meta, ResultMeta)
            assert (meta.status, meta.worker) == (reports[winner], str(winner)), reports

    async def test_for_one_who_takes(self, caller: AMQPBackend, store: Store) -> None:
        for reports, winner in RANKS:
            task_id = await stored(store, reports)
            if reports[winner] in READY:
                meta = await caller.consume(task_id, timeout=0)
                assert (meta.status, meta.worker) == (reports[winner], str(winner)), reports
            else:
                with pytest.raises(ResultTimeout):
                    await caller.consume(task_id, timeout=0)

    @only("per_task", "last_value", "stream", "celery", "celery_amqp_backend")
    async def test_for_one_who_waits_it_is_the_same_one(self, caller: AMQPBackend, store: Store) -> None:
        for reports, winner in RANKS:
            if reports[winner] not in READY:
                continue
            meta = await caller.consume(await stored(store, reports), timeout=30)
            assert (meta.status, meta.worker) == (reports[winner], str(winner)), reports
            task_id = await stored(store, reports)
            meta = (await caller.get_many([task_id], timeout=30))[task_id]
            assert (meta.status, meta.worker) == (reports[winner], str(winner)), reports
            *before, last = await collect(caller, await stored(store, reports), timeout=30)
            assert (last.status, last.worker) == (reports[winner], str(winner)), reports
            assert not any(meta.is_ready for meta in before)
