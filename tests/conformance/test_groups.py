"""Groups of tasks: saved, restored, joined, looked at; the same with every routing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult as CeleryResult
from celery.result import GroupResult as CeleryGroup
from celery.result import result_from_tuple

from aioresults import (
    AMQPBackend,
    AsyncResult,
    BrokerUnavailable,
    ConfigurationError,
    DecodeError,
    GroupResult,
    Request,
    ResultTimeout,
)
from aioresults.transport.memory import MemoryBroker
from tests.clock import Clock
from tests.conformance.conftest import Store
from tests.conformance.lab import Lab, Layout, Raw, arrived, new_id, only, waiting_for
from tests.eventually import eventually


def handles(backend: AMQPBackend, count: int) -> list[AsyncResult[Any]]:
    return [AsyncResult(new_id(), backend) for _ in range(count)]


def group_of(backend: AMQPBackend, count: int) -> GroupResult:
    return GroupResult(new_id(), handles(backend, count))


def queue_name(group: GroupResult) -> str:
    return f"aioresults.group.{group.id}"


async def consumed(raw: Raw, name: str, consumers: int) -> bool:
    return await raw.consumers(name) == consumers


def nested(backend: AMQPBackend) -> GroupResult:
    inner = GroupResult(new_id(), [*handles(backend, 1), group_of(backend, 2)])
    parent = AsyncResult[Any](new_id(), backend, parent=AsyncResult(new_id(), backend))
    return GroupResult(new_id(), [*handles(backend, 1), inner, *handles(backend, 1)], parent=parent)


class TestSaving:
    async def test_any_process_restores_it_again_and_again(
        self, worker: AMQPBackend, caller: AMQPBackend, third: AMQPBackend, raw: Raw
    ) -> None:
        group = group_of(worker, 3)
        assert await caller.restore_group(group.id) is None
        await group.save()
        for cache in (True, False, True):
            for backend in (caller, third, worker):
                restored = await backend.restore_group(group.id, cache=cache)
                assert restored == group
                assert restored.backend is backend
                assert [member.backend for member in restored] == [backend] * 3
        await eventually(lambda: raw.is_ready(queue_name(group), 1))

    async def test_of_an_unknown_group_there_is_none(self, caller: AMQPBackend, raw: Raw) -> None:
        group = group_of(caller, 1)
        assert await caller.restore_group(group.id) is None
        assert await GroupResult.restore(group.id, caller) is None
        assert await caller.reload_group_result(group.id) is None
        await group.delete()
        assert await raw.queue(queue_name(group)) is None

    async def test_groups_in_a_group_and_parents(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        group = nested(worker)
        await worker.save_group(group.id, group)
        restored = await caller.restore_group(group.id)
        assert restored == group
        assert restored.as_tuple() == group.as_tuple()
        assert list(restored.task_ids()) == list(group.task_ids())

    async def test_saved_again_the_last_one_counts(self, worker: AMQPBackend, caller: AMQPBackend, raw: Raw) -> None:
        group = group_of(worker, 2)
        await group.save()
        assert await caller.restore_group(group.id) == group
        larger = GroupResult(group.id, [*group, *handles(worker, 1)])
        await larger.save()
        assert await worker.restore_group(group.id) == larger
        assert await caller.restore_group(group.id) == group
        assert await caller.reload_group_result(group.id) == larger
        assert await caller.restore_group(group.id) == larger

    @only("per_task")
    async def test_saved_again_it_is_kept_as_long_as_if_it_were_new(self, lab: Lab) -> None:
        backend = await lab.open(expires=10, store_only=True)
        group = group_of(backend, 1)
        await group.save()
        await asyncio.sleep(5.5)
        await group.save()
        await asyncio.sleep(5)  # the first would be gone by now, and this one has as much time left
        assert await backend.restore_group(group.id) == group

    async def test_deleted_it_is_gone(self, worker: AMQPBackend, caller: AMQPBackend, raw: Raw) -> None:
        group = group_of(worker, 2)
        await group.save()
        assert await caller.restore_group(group.id) == group
        await worker.delete_group(group.id)
        assert await raw.queue(queue_name(group)) is None
        assert await worker.restore_group(group.id) is None
        assert await caller.restore_group(group.id) == group  # seen here before
        assert await caller.reload_group_result(group.id) is None

    async def test_many_processes_at_once(self, lab: Lab, worker: AMQPBackend) -> None:
        group = group_of(worker, 50)
        await group.save()
        # Each of the forty waits for its turn; how long, on a busy machine, is not the question.
        readers = [await lab.open(store_only=True, rpc_timeout=60) for _ in range(4)]
        restored = await asyncio.gather(
            *(reader.restore_group(group.id, cache=False) for reader in readers for _ in range(10))
        )
        assert restored == [group] * 40

    async def test_who_looks_waits_for_others_who_do(self, lab: Lab, raw: Raw) -> None:
        """What another process holds is not gone: it comes when it is given back, and without asking for it again."""
        worker, caller = [await lab.open(rpc_timeout=60) for _ in range(2)]
        group = group_of(worker, 3)
        await group.save()
        channel = await raw.channel()
        held = await channel.basic_get(queue_name(group))
        assert held is not None
        looking = [asyncio.create_task(backend.restore_group(group.id)) for backend in (caller, caller, worker)]
        await eventually(lambda: consumed(raw, queue_name(group), 2))
        channel.basic_nack(held.delivery_tag)
        assert await asyncio.gather(*looking) == [group] * 3
        await eventually(lambda: raw.is_ready(queue_name(group), 1))
        await eventually(lambda: consumed(raw, queue_name(group), 0))

    async def test_a_queue_without_its_message_is_no_group(self, lab: Lab, raw: Raw, clock: Clock) -> None:
        caller = await lab.open(rpc_timeout=20)
        group = group_of(caller, 3)
        await group.save()
        await (await raw.channel()).queue_purge(queue_name(group))
        looking = asyncio.create_task(caller.restore_group(group.id))
        await eventually(lambda: consumed(raw, queue_name(group), 1))
        # Little less than it waits: the broker may know of the consumer sooner than who waits, whose time begins then.
        clock.advance(9.5)
        assert await looking is None
        await eventually(lambda: consumed(raw, queue_name(group), 0))

    async def test_what_is_seen_while_it_is_replaced_is_not_remembered(self, lab: Lab, raw: Raw) -> None:
        caller = await lab.open(rpc_timeout=60)
        group = group_of(caller, 1)
        await group.save()
        channel = await raw.channel()
        held = await channel.basic_get(queue_name(group))
        assert held is not None
        looking = asyncio.create_task(caller.restore_group(group.id))
        await eventually(lambda: consumed(raw, queue_name(group), 1))
        await group.delete()
        assert await looking is None
        larger = GroupResult(group.id, [*group, *handles(caller, 1)])
        looking = asyncio.create_task(caller.restore_group(group.id))
        await larger.save()
        assert await looking in (None, larger)
        assert await caller.restore_group(group.id) == larger

    async def test_is_a_durable_queue_that_expires(self, lab: Lab, raw: Raw) -> None:
        backend = await lab.open(store_only=True, expires=60)
        group = group_of(backend, 1)
        await group.save()
        arguments = {"x-queue-type": "classic", "x-max-length": 1, "x-expires": 60_000}
        channel = await raw.channel()
        await channel.queue_declare(queue_name(group), durable=True, arguments=arguments)
        delivery = await raw.get(queue_name(group))
        assert delivery.properties.delivery_mode == 2
        assert json.loads(delivery.body)["result"] == [[group.id, None], [[[group.results[0].id, None], None]]]

    async def test_ten_thousand_members(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        group = group_of(worker, 10_000)
        await group.save()
        assert await caller.restore_group(group.id) == group

    async def test_survives_an_outage(self, shaky: Lab) -> None:
        backend = await shaky.open()
        group = group_of(backend, 2)
        shaky.go_down()
        await eventually(lambda: not backend.stats()["connected"])
        saving = asyncio.create_task(group.save())
        await asyncio.sleep(0)
        await shaky.come_up()
        await saving
        assert await backend.restore_group(group.id, cache=False) == group

    async def test_a_restart_of_the_broker_and_its_absence(self, lab: Lab, memory: MemoryBroker, clock: Clock) -> None:
        backend = await lab.open(retry_policy={"max_retries": 0})
        kept, not_kept = group_of(backend, 2), group_of(backend, 2)
        await kept.save()
        memory.stop()
        with pytest.raises(BrokerUnavailable):
            await clock.fly(backend.restore_group(kept.id))
        with pytest.raises(BrokerUnavailable):
            await clock.fly(not_kept.save())
        memory.start()
        await eventually(lambda: bool(backend.stats()["connected"]))
        assert await backend.restore_group(kept.id) == kept
        assert await backend.restore_group(not_kept.id) is None

    async def test_the_cache_has_a_limit(self, lab: Lab) -> None:
        backend, other = await lab.open(max_cached_results=10), await lab.open()
        groups = [group_of(other, 4) for _ in range(3)]
        for group in groups:
            await group.save()
            assert await backend.restore_group(group.id) == group
            await group.delete()
        assert [await backend.restore_group(group.id) for group in groups] == [None, *groups[1:]]

    async def test_what_cannot_be_read_is_told_and_stays(self, caller: AMQPBackend, raw: Raw) -> None:
        for body in (
            b"\xff",
            b'{"task_id": "other", "status": "SUCCESS"}',
            b'{"status": "SUCCESS", "result": 1}',
            b'{"status": "SUCCESS", "result": [["g", null], 5]}',
        ):
            group = group_of(caller, 1)
            await group.save()
            await raw.get(queue_name(group))
            await raw.publish(queue_name(group), body, content_type="application/json", correlation_id=group.id)
            for _ in range(2):
                with pytest.raises(DecodeError):
                    await caller.restore_group(group.id)

    async def test_bad_input_is_named(self, caller: AMQPBackend) -> None:
        group = group_of(caller, 1)
        with pytest.raises(ConfigurationError, match="'another'"):
            await caller.save_group("another", group)
        wrongs: list[Any] = ["text", 5, None, AsyncResult("single", caller), [["id"], []], [["g", None], "members"]]
        for wrong in wrongs:
            with pytest.raises(ConfigurationError, match="a group is a GroupResult"):
                await caller.save_group("g", wrong)
        for long in ("", "x" * 250):
            with pytest.raises(ConfigurationError, match="group"):
                await caller.restore_group(long)
        with pytest.raises(ConfigurationError, match="group id"):
            GroupResult("", [])
        with pytest.raises(ConfigurationError, match="'g' has no members"):
            GroupResult("g", [])
        with pytest.raises(ConfigurationError, match="not 'id'"):
            GroupResult("g", ["id"], caller)  # type: ignore[list-item]
        assert await GroupResult("g", [], caller).join() == []


class TestJoining:
    async def test_the_values_in_the_order_of_the_members(self, caller: AMQPBackend, store: Store) -> None:
        group = nested(caller)
        first, second, third, fourth, fifth = group.task_ids()
        for number, task_id in enumerate((fifth, first, third, second, fourth)):
            await store(task_id, number)
        assert await group.join(timeout=30) == [1, [3, [2, 4]], 0]
        assert await group == [1, [3, [2, 4]], 0]
        assert await group.get(timeout=0) == [1, [3, [2, 4]], 0]

    @only("per_task", "last_value", "reply_queue", "stream")  # auto_delete queues lose what is not taken
    async def test_a_failure_ends_it_at_once_and_takes_nothing(self, caller: AMQPBackend, store: Store) -> None:
        group = group_of(caller, 3)
        done, failed, missing = group.task_ids()
        joining = asyncio.create_task(group.join())
        await store(done, 1)
        await store(failed, KeyError("k"), "FAILURE")
        with pytest.raises(KeyError):
            await joining
        with pytest.raises(KeyError):
            await group.join(timeout=30)
        await store(missing, 3)
        one, error, three = await group.join(timeout=30, propagate=False)
        assert (one, type(error), three) == (1, KeyError, 3)
        with pytest.raises(KeyError):
            await group.join(timeout=30)

    async def test_a_failure_in_one_look(self, caller: AMQPBackend, store: Store) -> None:
        group = group_of(caller, 2)
        failed, _ = group.task_ids()
        await store(failed, KeyError("k"), "FAILURE")
        await arrived(caller, failed)
        with pytest.raises(KeyError):
            await group.join(timeout=0)
        with pytest.raises(ResultTimeout):
            await group.join(timeout=0, propagate=False)

    async def test_one_deadline_for_all(self, caller: AMQPBackend, store: Store, clock: Clock) -> None:
        group = group_of(caller, 2)
        first, second = group.task_ids()
        await store(first, 1)
        joining = asyncio.create_task(group.join(timeout=20))
        await waiting_for(caller, 2)
        await eventually(lambda: caller.stats()["received"] == 1)
        clock.advance(20)
        with pytest.raises(ResultTimeout) as caught:
            await joining
        assert (list(caught.value.done), caught.value.pending) == ([first], [second])

    async def test_as_they_end(self, caller: AMQPBackend, store: Store) -> None:
        group = nested(caller)
        order = [list(group.task_ids())[number] for number in (2, 0, 4, 3, 1)]
        seen = []
        await store(order[0], 0)
        async for task_id, meta in group.as_completed(timeout=30):
            seen.append((task_id, meta.result))
            if len(seen) < len(order):
                await store(order[len(seen)], len(seen))
        assert seen == [(task_id, number) for number, task_id in enumerate(order)]

    @only("per_task", "reply_queue", "stream")
    async def test_ten_thousand_results(self, layout: Layout) -> None:
        name = f"groups-{new_id()}"
        async with AMQPBackend(f"memory://{name}", routing=layout.make()) as backend:
            group, request = group_of(backend, 10_000), Request(reply_to=backend.reply_to)
            joining = asyncio.create_task(group.join(timeout=200))
            await asyncio.gather(*(backend.store_result(each, each, request=request) for each in group.task_ids()))
            assert await joining == list(group.task_ids())
        MemoryBroker.forget(name)


class TestLooking:
    async def test_how_far_it_is(self, caller: AMQPBackend, store: Store) -> None:
        group = GroupResult(new_id(), [*handles(caller, 1), group_of(caller, 2)])
        single, *inner = group.task_ids()

        async def figures() -> tuple[bool, int, bool, bool]:
            return await group.ready(), await group.completed_count(), await group.successful(), await group.failed()

        assert await figures() == (False, 0, False, False)
        await store(inner[0], 1)
        await arrived(caller, inner[0])
        assert await figures() == (False, 0, False, False)
        await store(single, 1)
        await arrived(caller, single)
        assert await figures() == (False, 1, False, False)
        await store(inner[1], 1)
        await arrived(caller, inner[1])
        assert await figures() == (True, 2, True, False)

    async def test_of_a_failure(self, caller: AMQPBackend, store: Store) -> None:
        group = group_of(caller, 2)
        for task_id, status in zip(group.task_ids(), ("FAILURE", "SUCCESS"), strict=True):
            await store(task_id, ValueError("no") if status == "FAILURE" else 1, status)
            await arrived(caller, task_id)
        assert await group.ready()
        assert await group.failed()
        assert not await group.successful()
        assert await group.completed_count() == 1
        await group.forget()
        assert not await group.ready()


@only("per_task")
async def test_a_group_of_celery_s_goes_in_and_comes_out_as_it_was(worker: AMQPBackend, caller: AMQPBackend) -> None:
    app = Celery("groups", set_as_current=False, backend="cache+memory://")
    inner = CeleryGroup(new_id(), [CeleryResult(new_id(), app=app)], app=app)
    parent = CeleryResult(new_id(), app=app)
    group = CeleryGroup(new_id(), [CeleryResult(new_id(), app=app, parent=parent), inner], parent=parent, app=app)
    await worker.save_group(group.id, group)
    restored = await caller.restore_group(group.id)
    assert restored is not None
    assert result_from_tuple(restored.as_tuple(), app) == group
    assert result_from_tuple(restored.as_tuple(), app).as_tuple() == group.as_tuple()
