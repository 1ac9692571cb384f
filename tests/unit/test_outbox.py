"""What the outbox promises and no broker shows: that waiting to be let in is cheap, and fair."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from aioresults import AMQPBackend, BackendClosed, BrokerUnavailable
from aioresults.transport.memory import MemoryBroker


async def test_many_destinations_may_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report has a destination of its own; going through all of them for each would take minutes."""
    monkeypatch.setattr("aioresults.outbox.MAX_TOTAL", 1_000)
    async with AMQPBackend("memory://crowd") as backend:
        stores = [asyncio.create_task(backend.store_result(f"t{n}", n)) for n in range(20_000)]
        await asyncio.sleep(0)
        assert backend.stats()["unconfirmed"] == 1_000
        assert await asyncio.gather(*stores) == list(range(20_000))
        assert backend.stats()["unconfirmed"] == 0
    MemoryBroker.forget("crowd")


async def test_a_publish_that_is_not_answered_fails_its_callers_in_time_and_goes_on() -> None:
    broker = MemoryBroker.named("unanswered")
    options = {"retry_policy": {"max_retries": 0}, "rpc_timeout": 0.1}
    async with AMQPBackend("memory://unanswered", **options) as backend:  # type: ignore[arg-type]
        broker.block()
        stores = [asyncio.create_task(backend.store_result("task", n, "PROGRESS")) for n in range(3)]
        stores.append(asyncio.create_task(backend.store_result("task", "last")))
        began = monotonic()
        outcomes = await asyncio.gather(*stores, return_exceptions=True)
        assert monotonic() - began < 2
        for outcome in outcomes:
            assert isinstance(outcome, BrokerUnavailable)
            assert str(outcome) == (
                "the result of task 'task' was not confirmed within 0.1 s: the broker blocks publishers, an alarm"
            )
        broker.unblock()
        # What was on its way arrives; what waited behind it was withdrawn, and others get in.
        await backend.store_result("task", "another")
        assert await backend.wait_for("task", timeout=5) == "another"
        assert backend.stats()["unconfirmed"] == 0
    MemoryBroker.forget("unanswered")


async def test_stopped_before_its_first_step_it_fails_its_callers() -> None:
    async with AMQPBackend("memory://hasty") as backend:
        stored = backend.store_result("task", 1)
        await backend._lifetime.outbox.stop()
        with pytest.raises(BackendClosed):
            await asyncio.wait_for(stored, 5)
        assert backend.stats()["unconfirmed"] == 0
    MemoryBroker.forget("hasty")
