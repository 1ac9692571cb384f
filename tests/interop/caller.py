"""This package's client beside a real worker, with handles on the worker's tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aioresults import MessageReturned, ResultMeta
from aioresults.contrib.celery import CeleryClient, Task
from tests.interop.worker import Worker

TIMEOUT = 180  # seconds; the first task of a worker waits for it to start


@dataclass
class Caller:
    """This package's client for one worker, and handles on the worker's tasks."""

    worker: Worker
    client: CeleryClient

    def __getattr__(self, name: str) -> Task[Any]:
        return self.client.task(f"tests.interop.tasks.{name}", timeout=TIMEOUT)

    async def declared(self) -> None:
        """Return when the worker has begun to listen: before, there is no queue for its tasks."""
        deadline = monotonic() + TIMEOUT
        while True:
            try:
                await self.add(1, 1)
                return
            except MessageReturned:
                assert monotonic() < deadline, "the worker does not start"
                await asyncio.sleep(0.05)


async def watched(reports: AsyncIterator[ResultMeta], send: Callable[[], Awaitable[object]]) -> list[ResultMeta]:
    """Every report of a task: who watches before it is sent misses none."""

    async def collect() -> list[ResultMeta]:
        return [report async for report in reports]

    async with asyncio.TaskGroup() as group:
        collecting = group.create_task(collect())
        await asyncio.sleep(0)
        await send()
    return collecting.result()


async def calling(worker: Worker) -> AsyncIterator[Caller]:
    async with worker.caller() as client:
        caller = Caller(worker, client)
        await caller.declared()
        yield caller
