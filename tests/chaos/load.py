"""A steady load of stores and waits on one pair of backends, checked as it runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

from aioresults import (
    AioResultsError,
    AMQPBackend,
    BackendClosed,
    BrokerUnavailable,
    ChannelError,
    Request,
    ResultTimeout,
    StoreError,
)
from aioresults.routing import Routing
from tests.chaos.tally import Tally
from tests.proxy import Proxy

T = TypeVar("T")

#: What a call may raise while the broker is away, refuses us, or the backend is replaced. It is then made again.
TOLD = (BrokerUnavailable, ChannelError, StoreError, BackendClosed)
REPORTS = ("STARTED", "PROGRESS", "PROGRESS", "PROGRESS", "SUCCESS")


class Pair:
    """A caller and a worker, each behind a proxy of its own, with one routing.

    Args:
        batch: results that one call waits for, where it waits for many.
        jobs: calls under way.
        pause: seconds at most between two jobs of one kind.
    """

    def __init__(
        self,
        name: str,
        routing: Callable[[], Routing],
        urls: Callable[[Proxy], str | list[str]],
        here: Proxy,
        there: Proxy,
        tally: Tally,
        rng: random.Random,
        *,
        batch: int,
        jobs: int,
        pause: float,
        replaceable: bool,
    ) -> None:
        self.name = name
        self.here, self.there = here, there
        self.replaceable = replaceable
        self._routing = routing
        self._urls = urls
        self._tally = tally
        self._rng = rng
        self._batch, self._jobs, self._pause = batch, jobs, pause
        self._number = 0
        #: Confirmed, and not awaited yet.
        self.under_way: set[str] = set()
        #: Awaited, and not known to be confirmed yet.
        self._awaited: set[str] = set()
        self.caller = self._make(here)
        self.worker = self._make(there, store_only=True)

    def _make(self, proxy: Proxy, **options: Any) -> AMQPBackend:
        return AMQPBackend(
            self._urls(proxy),
            routing=self._routing(),
            heartbeat=2,
            expires=600,
            max_cached_results=1_000,
            connect_timeout=30,
            **options,
        )

    async def open(self) -> None:
        """Connect both."""
        await asyncio.gather(self.caller.open(), self.worker.open())

    async def close(self) -> None:
        """Disconnect both, and count what they have seen."""
        await asyncio.gather(self.caller.close(), self.worker.close())
        self._count(self.caller, self.worker)

    def _count(self, *backends: AMQPBackend) -> None:
        for backend in backends:
            stats = backend.stats()
            self._tally.sessions += int(stats["sessions"])
            self._tally.duplicates += int(stats["redundant"]) + int(stats["repeated"])

    async def replace_caller(self) -> None:
        """Close the caller under its calls, and open another one."""
        old, self.caller = self.caller, self._make(self.here)
        await asyncio.gather(old.close(), self._ask(self.caller.open))
        self._count(old)

    async def work(self, stop: asyncio.Event) -> None:
        """Run jobs until ``stop``, and return when the last of them has ended."""
        kinds = (self.one, self.one_left_and_asked_again, self.many, self.each, self.watch, self.nothing)
        async with asyncio.TaskGroup() as group:
            for number in range(self._jobs):
                group.create_task(self._repeat(kinds[number % len(kinds)], stop))

    async def _repeat(self, job: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        while not stop.is_set():
            await job()
            await asyncio.sleep(self._rng.uniform(0, self._pause))

    def new_ids(self, count: int) -> list[str]:
        """Return ids that nobody has."""
        self._number += count
        return [f"{self.name}-{n}" for n in range(self._number - count, self._number)]

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, again and again while it is told that the broker is not there for us."""
        while True:
            try:
                return await call()
            except TOLD as error:
                self._tally.told[type(error).__name__] += 1
                await asyncio.sleep(0.05)

    async def _store(self, task_id: str, result: object, status: str = "SUCCESS") -> None:
        async def store() -> None:
            request = Request(reply_to=self._reply_to)
            await self.worker.store_result(task_id, result, status, request=request)

        await self._ask(store)
        if status == "SUCCESS":
            self._tally.stored += 1
            if task_id in self._awaited:
                self._awaited.discard(task_id)
            else:
                self.under_way.add(task_id)

    @property
    def _reply_to(self) -> str | None:
        return self.caller.reply_to

    def _check(self, task_id: str, result: object) -> None:
        self._tally.awaited += 1
        if task_id in self.under_way:
            self.under_way.discard(task_id)
        else:
            self._awaited.add(task_id)
        if result != f"result of {task_id}":
            self._tally.wrong.append(f"{task_id}: {result!r}")

    async def _stored(self, *ids: str) -> None:
        await asyncio.gather(*(self._store(task_id, f"result of {task_id}") for task_id in ids))

    # The jobs

    async def one(self) -> None:
        """One call for one result."""
        [task_id] = self.new_ids(1)
        _, result = await asyncio.gather(
            self._stored(task_id), self._ask(lambda: self.caller.wait_for(task_id, cache=False))
        )
        self._check(task_id, result)

    async def one_left_and_asked_again(self) -> None:
        """A wait that is cancelled, with and without the result on its way, and asked again."""
        [task_id] = self.new_ids(1)
        storing = asyncio.create_task(self._stored(task_id))
        while True:
            wait = asyncio.ensure_future(self._ask(lambda: self.caller.wait_for(task_id, cache=False)))
            await asyncio.wait([wait], timeout=self._rng.choice([0, 0.001, 0.02, 0.1, None]))
            wait.cancel()
            await asyncio.wait([wait])
            if not wait.cancelled():
                break
        await storing
        self._check(task_id, wait.result())

    async def many(self) -> None:
        """One call for many results."""
        ids = self.new_ids(self._batch)

        async def get() -> dict[str, Any]:
            return await self.caller.get_many(ids)

        metas, _ = await asyncio.gather(self._ask(get), self._stored(*ids))
        for task_id in ids:
            self._check(task_id, metas[task_id].result)

    async def each(self) -> None:
        """Many results, each as it arrives, once."""
        ids = self.new_ids(self._batch)
        left = dict.fromkeys(ids)

        async def get() -> None:
            async for task_id, meta in self.caller.get_many(list(left)):
                if task_id not in left:
                    self._tally.wrong.append(f"{task_id} came twice")
                left.pop(task_id, None)
                self._check(task_id, meta.result)

        await asyncio.gather(self._ask(get), self._stored(*ids))

    async def watch(self) -> None:
        """Every report of one task, in order."""
        [task_id] = self.new_ids(1)

        async def report() -> None:
            for number, status in enumerate(REPORTS):
                result = f"result of {task_id}" if status == "SUCCESS" else number
                await self._store(task_id, result, status)

        async def watch() -> None:
            seen: list[int] = []  # by one call: another one may see it all again
            async for meta in self.caller.watch(task_id):
                if meta.is_ready:
                    self._check(task_id, meta.result)
                seen.append(len(REPORTS) - 1 if meta.is_ready else meta.result)
                if seen != sorted(seen):
                    self._tally.wrong.append(f"{task_id}: reports out of order: {seen}")

        await asyncio.gather(report(), self._ask(watch))

    async def nothing(self) -> None:
        """A wait for what never comes ends at its deadline; so does a look."""
        timeout = self._rng.choice([0.0, 0.1, 0.5])
        [task_id] = self.new_ids(1)
        began = monotonic()
        try:
            await self.caller.wait_for(task_id, timeout=timeout)
        except ResultTimeout:
            pass
        except AioResultsError as error:
            self._tally.told[type(error).__name__] += 1
        self._tally.overrun = max(self._tally.overrun, monotonic() - began - timeout)
