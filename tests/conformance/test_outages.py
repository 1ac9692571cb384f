"""Connections cut and brokers restarted, while waiting and while storing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from aioresults import AMQPBackend, BrokerUnavailable, QueuePerTask, Request
from aioresults.contrib.rabbitmq import RabbitMQNode
from aioresults.transport.memory import MemoryBroker
from tests.clock import Clock
from tests.conformance.lab import Lab, Layout, new_id, new_name, only, waiting_for, where
from tests.conformance.test_many import awaited
from tests.conformance.test_watching import collect
from tests.eventually import eventually

#: Layouts whose queues are not auto_delete: these lose confirmed results when a connection drops.
LASTING = only("per_task", "last_value", "reply_queue")


async def connected(*backends: AMQPBackend, sessions: int = 1) -> None:
    """Return when each backend has had so many sessions, and is in one."""

    def are() -> bool:
        figures = [backend.stats() for backend in backends]
        return all(each["connected"] and int(each["sessions"]) >= sessions for each in figures)

    await eventually(are)


async def cut(lab: Lab, *backends: AMQPBackend) -> None:
    """Cut every connection, and return when each backend has a new one."""
    before = [int(backend.stats()["sessions"]) for backend in backends]
    lab.cut()
    for backend, sessions in zip(backends, before, strict=True):
        await connected(backend, sessions=sessions + 1)


class TestCutConnections:
    async def test_while_waiting(self, shaky: Lab) -> None:
        worker, caller, raw, task_id = await shaky.open(), await shaky.open(), shaky.raw(), new_id()
        request = Request(reply_to=caller.reply_to)
        waits = [
            asyncio.create_task(caller.wait_for(task_id, timeout=30)),
            asyncio.create_task(caller.wait_for(task_id)),
        ]
        many = asyncio.create_task(awaited(caller, [task_id], timeout=30))
        watching = asyncio.create_task(collect(caller, task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        for _ in range(2):
            await cut(shaky, worker, caller)
            # In this session: a broker that has not seen yet that the last one is over would count its consumer.
            await waiting_for(caller, 1)
            await raw.waited_for(caller, task_id)
        await worker.store_result(task_id, "after all", request=request)
        assert await asyncio.gather(*waits) == ["after all"] * 2
        assert (await many)[task_id].result == "after all"
        assert (await watching)[-1].result == "after all"

    async def test_a_deadline_counts_through_it(self, shaky: Lab) -> None:
        caller = await shaky.open()
        waiting = asyncio.create_task(caller.wait_for(new_id(), timeout=0.3))
        shaky.go_down()
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), TimeoutError)
        await shaky.come_up()

    async def test_a_wait_outlasts_what_a_store_does_not(self, shaky: Lab) -> None:
        worker, caller, task_id = await shaky.open(retry_policy={"max_retries": 1}), await shaky.open(), new_id()
        request = Request(reply_to=caller.reply_to)
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=60))
        await waiting_for(caller, 1)
        shaky.go_down()
        await eventually(lambda: not worker.stats()["connected"])
        with pytest.raises(BrokerUnavailable):
            await worker.store_result(task_id, 1, request=request)
        await eventually(lambda: int(caller.stats()["failed_connects"]) >= 3)
        assert not waiting.done()
        await shaky.come_up()
        await connected(worker, caller, sessions=2)
        await worker.store_result(task_id, 2, request=request)
        assert await waiting == 2

    async def test_a_wait_may_begin_while_the_broker_is_away(self, shaky: Lab) -> None:
        worker, caller, task_id = await shaky.open(), await shaky.open(), new_id()
        request = Request(reply_to=caller.reply_to)
        shaky.go_down()
        await eventually(lambda: not (worker.stats()["connected"] or caller.stats()["connected"]))
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=60))
        storing = asyncio.create_task(worker.store_result(task_id, 1, request=request))
        await eventually(lambda: caller.stats()["waiting"] == 1 and int(worker.stats()["retried"]) >= 1)
        await shaky.come_up()
        assert await storing == 1
        assert await waiting == 1

    @where(by_id=True)
    async def test_a_look_while_the_broker_is_away(self, shaky: Lab, clock: Clock) -> None:
        caller = await shaky.open()
        shaky.go_down()
        await eventually(lambda: not caller.stats()["connected"])
        for call in (caller.get_task_meta, caller.forget, caller.reload_task_result):
            with pytest.raises(BrokerUnavailable):
                await clock.fly(call(new_id()))
        with pytest.raises(BrokerUnavailable):
            await clock.fly(caller.wait_for(new_id(), timeout=0))
        await shaky.come_up()

    @LASTING
    async def test_while_storing(self, shaky: Lab) -> None:
        worker = await shaky.open(retry_policy={"max_retries": None, "interval_max": 0.1})
        caller, ids = await shaky.open(), [new_id() for _ in range(150)]
        request = Request(reply_to=caller.reply_to)
        many = asyncio.create_task(awaited(caller, ids, timeout=150))

        stored = 0

        async def work(some: list[str]) -> None:
            nonlocal stored
            for task_id in some:
                assert await worker.store_result(task_id, task_id, request=request) == task_id
                stored += 1
                if stored in (20, 60, 110):
                    shaky.cut()

        async with asyncio.TaskGroup() as group:
            for start in range(10):
                group.create_task(work(ids[start::10]))
        metas = await many
        assert {task_id: meta.result for task_id, meta in metas.items()} == {task_id: task_id for task_id in ids}
        assert int(worker.stats()["sessions"]) > 1

    @where(history=True)
    @LASTING
    async def test_a_result_that_was_delivered_and_not_taken_comes_again(self, shaky: Lab) -> None:
        worker, caller, first, second = await shaky.open(), await shaky.open(), new_id(), new_id()
        request = Request(reply_to=caller.reply_to)
        seen: list[str] = []
        many = asyncio.create_task(
            awaited(caller, [first, second], timeout=30, on_message=lambda meta: seen.append(meta.task_id))
        )
        await worker.store_result(first, 1, request=request)
        await eventually(lambda: caller.stats()["received"] == 1)
        await cut(shaky, worker, caller)
        await worker.store_result(second, 2, request=request)
        assert [meta.result for meta in (await many).values()] == [1, 2]
        assert seen == [first, second]

    @LASTING
    async def test_what_was_seen_is_not_forgotten(self, shaky: Lab) -> None:
        worker, caller, task_id = await shaky.open(), await shaky.open(), new_id()
        request = Request(reply_to=caller.reply_to)
        watching = asyncio.create_task(collect(caller, task_id, timeout=30))
        await waiting_for(caller, 1)
        await worker.store_result(task_id, 1, "PROGRESS", request=request)
        await eventually(lambda: caller.stats()["received"] == 1)
        await cut(shaky, worker, caller)
        assert (await caller.get_task_meta(task_id)).status == "PROGRESS"
        await worker.store_result(task_id, 2, request=request)
        seen = [meta.status for meta in await watching]
        # Twice, when the connection was cut before the broker had its acknowledgement.
        assert seen in (["PROGRESS", "SUCCESS"], ["PROGRESS", "PROGRESS", "SUCCESS"])

    @LASTING
    async def test_a_hundred_waits(self, shaky: Lab) -> None:
        worker, caller, ids = await shaky.open(), await shaky.open(), [new_id() for _ in range(100)]
        request = Request(reply_to=caller.reply_to)
        waiting = [asyncio.create_task(caller.wait_for(task_id, timeout=150)) for task_id in ids]
        await waiting_for(caller, 100)
        await asyncio.gather(*(worker.store_result(task_id, 1, request=request) for task_id in ids[:50]))
        await cut(shaky, worker, caller)
        await asyncio.gather(*(worker.store_result(task_id, 1, request=request) for task_id in ids[50:]))
        assert await asyncio.gather(*waiting) == [1] * 100


class TestDeletedExchange:
    @only("per_task")
    async def test_is_declared_again_by_who_stores(self, lab: Lab) -> None:
        routing, raw, before, after = QueuePerTask(exchange_name=new_name()), lab.raw(), new_id(), new_id()
        worker, caller = await lab.open(routing=routing), await lab.open(routing=routing)
        waiting = asyncio.create_task(caller.wait_for(before, timeout=30))
        await raw.waited_for(caller, before)
        await (await raw.channel()).exchange_delete(routing.exchange_name)
        many = [new_id() for _ in range(20)]
        await asyncio.gather(*(worker.store_result(task_id, task_id) for task_id in (before, after, *many)))
        assert await waiting == before
        assert await caller.wait_for(after, timeout=30) == after
        assert set(await awaited(caller, many, timeout=30)) == set(many)
        assert worker.stats()["sessions"] == 1
        await (await raw.channel()).exchange_delete(routing.exchange_name)


class Stoppable:
    """A broker that may be stopped and started."""

    def __init__(self, lab: Lab, broker: MemoryBroker | RabbitMQNode) -> None:
        self.lab = lab
        self.stop: Callable[[], None] = broker.stop
        self.start: Callable[[], None] = broker.start


@pytest.fixture(params=["memory", "rabbitmq"])
async def stoppable(request: pytest.FixtureRequest, layout: Layout) -> AsyncIterator[Stoppable]:
    if request.param == "memory":
        async with Lab(f"memory://{secrets.token_hex(8)}", layout) as lab:
            assert lab.memory is not None
            yield Stoppable(lab, lab.memory)
    else:
        node: RabbitMQNode = request.getfixturevalue("private_rabbitmq")
        async with Lab(node.url, layout) as lab:
            yield Stoppable(lab, node)


@LASTING
class TestRestartedBroker:
    async def test_while_waiting(self, stoppable: Stoppable) -> None:
        """What was stored before is there, what waits goes on, what is stored meanwhile arrives."""
        lab = stoppable.lab
        # A node may take longer to stop and to start than the default policy lasts.
        worker, caller = await lab.open(retry_policy={"max_retries": None}), await lab.open()
        request = Request(reply_to=caller.reply_to)
        unread, ids = new_id(), [new_id() for _ in range(20)]
        await worker.store_result(unread, "kept", request=request)
        many = asyncio.create_task(awaited(caller, ids, timeout=150))
        await waiting_for(caller, 20)
        await asyncio.gather(*(worker.store_result(task_id, task_id, request=request) for task_id in ids[:10]))
        await asyncio.to_thread(stoppable.stop)
        await eventually(lambda: not worker.stats()["connected"])
        late = [asyncio.create_task(worker.store_result(task_id, task_id, request=request)) for task_id in ids[10:]]
        await asyncio.to_thread(stoppable.start)
        assert await asyncio.gather(*late) == ids[10:]
        assert [meta.result for meta in (await many).values()] == ids
        assert await caller.wait_for(unread, timeout=30) == "kept"


async def test_transient_results_do_not_survive_a_restart_and_persistent_ones_do() -> None:
    url, kept, lost = f"memory://{secrets.token_hex(8)}", new_id(), new_id()
    async with AMQPBackend(url) as worker, AMQPBackend(url, persistent=False) as careless:
        await worker.store_result(kept, 1)
        await careless.store_result(lost, 1)
        MemoryBroker.named(url.partition("://")[2]).restart()
        await connected(worker, sessions=2)
        assert (await worker.get_task_meta(kept)).result == 1
        assert (await worker.get_task_meta(lost)).status == "PENDING"
