"""What it costs to wait: memory and time per pending ``wait_for``, its task included, on ``memory://``.

Each row is measured in a process of its own: ``python -m tests.benchmarks.waiters ROUTING COUNT TIMEOUT [trace]``
(TIMEOUT 0: none) prints it as JSON, and with ``trace`` the lines of code that allocated the bytes.

With ``ReplyQueue`` a wait is what this package holds of it. With ``QueuePerTask`` every wait has a consumer, and the
broker inside this process a queue, which count too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
import tracemalloc
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from aioresults import AMQPBackend, QueuePerTask, ReplyQueue, Request

CHECKOUT = Path(__file__).parents[2]
COUNTS = (1_000, 10_000, 100_000)
TIMEOUT = 3600.0
#: Bytes that a wait may cost, without and with a timeout.
LIMITS = (1800, 2200)


ROUTINGS: Final = {"ReplyQueue": ReplyQueue, "QueuePerTask": QueuePerTask}


@dataclass(frozen=True)
class Cost:
    """What was measured, per wait."""

    routing: str
    count: int
    timeout: float | None
    #: Resident bytes that the process grew by.
    bytes: float
    #: Microseconds from the first call until all wait, and every queue is consumed.
    start_us: float
    #: Microseconds from storing the first result to having the last one in hand, storing included.
    result_us: float
    #: Microseconds to cancel a wait.
    cancel_us: float


def resident() -> int:
    """Return the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def begin(backend: AMQPBackend, task_ids: list[str], timeout: float | None) -> list[asyncio.Task[Any]]:
    """Have one task wait for each id, and return when all do."""
    tasks = [asyncio.create_task(backend.wait_for(task_id, timeout)) for task_id in task_ids]
    while backend.stats()["waiting"] != len(tasks):
        await asyncio.sleep(0)
    while backend.reply_to is None and backend.stats()["consuming"] != len(tasks):
        await asyncio.sleep(0.001)
    return tasks


async def cancel(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel all, and return when all have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def ids(count: int) -> list[str]:
    """Return ids as users have them."""
    return [str(uuid.uuid4()) for _ in range(count)]


async def measure(routing: str, count: int, timeout: float | None, *, trace: bool = False) -> Cost:
    """Measure ``count`` waits that end with a result, and as many that are cancelled."""
    caller = AMQPBackend("memory://waiters", routing=ROUTINGS[routing](), max_cached_results=0)
    worker = AMQPBackend("memory://waiters", routing=ROUTINGS[routing](), store_only=True)
    async with caller, worker:
        await cancel(await begin(caller, ids(10), timeout))
        task_ids = ids(count)
        gc.collect()
        if trace:
            tracemalloc.start(1)
        before, started = resident(), time.perf_counter()
        tasks = await begin(caller, task_ids, timeout)
        start_us = (time.perf_counter() - started) / count * 1e6
        size = (resident() - before) / count
        if trace:
            print_allocations(count)
        request = Request(reply_to=caller.reply_to)
        started = time.perf_counter()
        for part in range(0, count, 1000):
            stores = (worker.store_result(each, None, request=request) for each in task_ids[part : part + 1000])
            await asyncio.gather(*stores)
        await asyncio.gather(*tasks)
        result_us = (time.perf_counter() - started) / count * 1e6
        tasks = await begin(caller, ids(count), timeout)
        started = time.perf_counter()
        await cancel(tasks)
        cancel_us = (time.perf_counter() - started) / count * 1e6
    return Cost(routing, count, timeout, size, start_us, result_us, cancel_us)


def print_allocations(count: int) -> None:
    """Print which lines allocated what is held now, in bytes per wait."""
    lines: Counter[str] = Counter()
    for statistic in tracemalloc.take_snapshot().statistics("lineno"):
        frame = statistic.traceback[0]
        lines[f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"] += statistic.size
    tracemalloc.stop()
    print(f"{sum(lines.values()) / count:8.0f} bytes a wait, of these", file=sys.stderr)
    for line, size in lines.most_common(20):
        if size >= count:
            print(f"{size / count:8.0f} {line}", file=sys.stderr)


def run(counts: tuple[int, ...] = COUNTS) -> list[Cost]:
    """Measure every routing and count, without and with a timeout, each in a process of its own."""
    costs = []
    for routing in ROUTINGS:
        for timeout in (0.0, TIMEOUT):
            for count in counts:
                command = [sys.executable, "-m", "tests.benchmarks.waiters", routing, str(count), str(timeout)]
                done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
                costs.append(Cost(**json.loads(done.stdout)))
    return costs


def table(costs: list[Cost]) -> Table:
    """Return one row per measurement; microseconds and bytes are per wait."""
    table = Table(title="pending waits, each with its task", title_justify="left")
    table.add_column("routing")
    for name in ("waits", "timeout", "bytes", "limit", "start us", "result us", "cancel us"):
        table.add_column(name, justify="right")
    for cost in costs:
        table.add_row(
            cost.routing,
            f"{cost.count:,}",
            "yes" if cost.timeout else "no",
            f"{cost.bytes:,.0f}",
            f"{LIMITS[bool(cost.timeout)]:,}",
            f"{cost.start_us:.1f}",
            f"{cost.result_us:.1f}",
            f"{cost.cancel_us:.1f}",
        )
    return table


def main() -> None:
    """Measure one row."""
    routing, count, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    cost = asyncio.run(measure(routing, count, timeout or None, trace="trace" in sys.argv[4:]))
    print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main()
