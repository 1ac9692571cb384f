"""What the outbox promises and no broker shows: what is in flight together; that waiting to be let in is cheap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    BackendClosed,
    BrokerUnavailable,
    ChannelClosed,
    MessageNacked,
    Producer,
    ReplyQueue,
    Request,
)
from aioresults.transport.memory import MemoryBroker
from tests.clock import Clock


async def test_many_destinations_may_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report has a destination of its own; going through all of them for each would take minutes."""
    monkeypatch.setattr("aioresults.sessions.outbox.MAX_TOTAL", 1_000)
    async with AMQPBackend("memory://crowd") as backend:
        stores = [asyncio.create_task(backend.store_result(f"t{n}", n)) for n in range(20_000)]
        await asyncio.sleep(0)
        assert backend.stats()["unconfirmed"] == 1_000
        assert await asyncio.gather(*stores) == list(range(20_000))
        assert backend.stats()["unconfirmed"] == 0
    MemoryBroker.forget("crowd")


async def test_a_publish_that_is_not_answered_fails_its_callers_in_time_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker, clock = MemoryBroker.named("unanswered"), Clock(monkeypatch)
    options = {"retry_policy": {"max_retries": 0}, "rpc_timeout": 60}
    async with AMQPBackend("memory://unanswered", **options) as backend:  # type: ignore[arg-type]
        broker.block()
        stores = [asyncio.create_task(backend.store_result("task", n, "PROGRESS")) for n in range(3)]
        stores.append(asyncio.create_task(backend.store_result("task", "last")))
        began = clock.now()
        outcomes = await clock.fly(asyncio.gather(*stores, return_exceptions=True))
        assert clock.now() - began < 150
        for outcome in outcomes:
            assert isinstance(outcome, BrokerUnavailable)
            assert str(outcome) == (
                "the result of task 'task' was not confirmed within 60 s: the broker blocks publishers, an alarm"
            )
        broker.unblock()
        # What was on its way arrives; what waited behind it was withdrawn, and others get in.
        await backend.store_result("task", "another")
        assert await backend.wait_for("task", timeout=30) == "another"
        assert backend.stats()["unconfirmed"] == 0
    MemoryBroker.forget("unanswered")


async def test_stopped_before_its_first_step_it_fails_its_callers() -> None:
    async with AMQPBackend("memory://hasty") as backend:
        stored = backend.store_result("task", 1)
        await backend._opened().outbox.stop()
        with pytest.raises(BackendClosed):
            await asyncio.wait_for(stored, 30)
        assert backend.stats()["unconfirmed"] == 0
    MemoryBroker.forget("hasty")


class Gate:
    """A backend's way to the broker, where each publish waits until it is let through."""

    def __init__(self) -> None:
        #: What was published, by the correlation id of single messages; None for a batch.
        self.published: list[str | None] = []
        self._open: list[asyncio.Future[None]] = []
        gate = self

        class Gated(Producer):
            async def publish(self, body: Any, *arguments: Any, **options: Any) -> None:
                gate.published.append(body.properties.correlation_id)
                gate._open.append(asyncio.get_running_loop().create_future())
                await gate._open[-1]

        class Backend(AMQPBackend):
            Producer = Gated

        self.backend = Backend("memory://gate", routing=ReplyQueue(), store_only=True)
        self.request = Request(reply_to="aioresults.inbox.gate")
        self.stores: list[Awaitable[object]] = []

    async def store(self, *task_ids: str) -> None:
        """Store a report of each task, and let them leave."""
        for task_id in task_ids:
            self.stores.append(self.backend.store_result(task_id, 1, "PROGRESS", request=self.request))
        await self.turn()

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def let_through(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self._open[number].set_result(None)
        else:
            self._open[number].set_exception(error)
        await self.turn()

    async def close(self) -> None:
        for each in self._open:
            if not each.done():
                each.set_result(None)
        await self.backend.close()


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    await gate.backend.open()
    yield gate
    await gate.close()


class TestInFlight:
    async def test_a_few_lone_reports_go_beside_one_another(self, gate: Gate) -> None:
        for task_id in "abcdef":
            await gate.store(task_id)
        assert gate.published == ["a", "b", "c", "d"]
        await gate.let_through(0)
        assert gate.published[4:] == [None]  # e and f, together
        for number in range(1, 5):
            await gate.let_through(number)
        assert gate.backend.stats()["unconfirmed"] == 0
        assert gate.backend.stats()["stored"] == 6

    async def test_nothing_goes_beside_a_batch(self, gate: Gate) -> None:
        await gate.store("a", "b")
        await gate.store("c")
        assert gate.published == [None]
        await gate.let_through(0)
        assert gate.published == [None, "c"]

    @pytest.mark.parametrize("first", [["a"], ["x", "a"]], ids=["in the lane", "beside it"])
    async def test_of_a_task_there_is_one(self, gate: Gate, first: list[str]) -> None:
        for task_id in first:
            await gate.store(task_id)
        await gate.store("a")
        assert gate.published == first
        if len(first) == 2:
            await gate.let_through(0)  # the lane is free, and the task is not
            assert gate.published == first
        await gate.let_through(len(first) - 1)
        assert gate.published == [*first, "a"]

    async def test_a_retry_does_not_reorder_the_reports_of_a_task(self, gate: Gate) -> None:
        await gate.store("x")
        await gate.store("a")
        await gate.let_through(0)
        await gate.store("a")
        await gate.let_through(1, MessageNacked("no"))
        assert gate.published == ["x", "a", "a"]  # the first one again
        assert gate.backend.stats()["unconfirmed"] == 2
        await gate.let_through(2)
        assert gate.published == ["x", "a", "a", "a"]

    async def test_who_comes_while_one_fails_joins_its_attempts(self, gate: Gate) -> None:
        await gate.store("a")
        await gate.let_through(0, ChannelClosed())
        await gate.store("b")
        assert gate.published == ["a", "a"]

    async def test_closing_ends_them_all(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 0.05)
        stores = []
        for task_id in "abcde":
            stores.append(gate.backend.store_result(task_id, 1, request=gate.request))
            await gate.turn()
        await gate.backend.close()
        outcomes = await asyncio.gather(*stores, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BackendClosed] * 5
