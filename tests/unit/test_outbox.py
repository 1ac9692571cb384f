"""What the outbox promises and no broker shows: that waiting to be let in is cheap, and fair."""

from __future__ import annotations

import asyncio

import pytest

from aioresults import AMQPBackend
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
