"""What a stream of many results costs a process that opens on it: time, memory, and what a look then takes.

Each row is one process that reads what another one has stored: ``python -m tests.benchmarks.retained read URL STREAM
COUNT`` prints it as JSON, ``... store URL STREAM COUNT PER_MESSAGE`` stores. The documents have about 200 bytes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.table import Table

from aioresults import AMQPBackend, ResultStream
from tests.benchmarks.compare import CHECKOUT
from tests.benchmarks.peers import VALUE
from tests.benchmarks.waiters import resident

COUNTS = (1_000, 10_000, 100_000)
#: Looks that are timed, and fetches of documents that the index had let go of.
LOOKS: Final = 2_000
FETCHES: Final = 50
EXPIRES: Final = 3600


@dataclass(frozen=True)
class Retained:
    """What was measured."""

    count: int
    #: Seconds until ``open`` returned, and until the first and the last result, and an unknown one, were answered.
    open_s: float
    answers_s: float
    #: Resident bytes that the process grew by, per result.
    bytes: float
    #: Microseconds of a look at a known and at an unknown id.
    known_us: float
    unknown_us: float
    #: Milliseconds of a look at a result whose document the index has let go of.
    fetch_ms: float


def task_id(number: int) -> str:
    """Return an id as users have them."""
    return f"{number:08x}-6a7c-4f6e-9d2b-0123456789ab"


def backend(url: str, routing: ResultStream, **options: Any) -> AMQPBackend:
    """Return a backend on a stream."""
    return AMQPBackend(url, routing=routing, serializer="msgpack", expires=EXPIRES, **options)


async def store(url: str, name: str, count: int, per_message: int) -> None:
    """Store results through the outbox; or one per message, as a quiet service does."""
    async with backend(url, ResultStream(name), store_only=True) as worker:
        for start in range(0, count, 2000):
            numbers = range(start, min(count, start + 2000))
            if per_message != 1:
                await asyncio.gather(*(worker.store_result(task_id(number), VALUE) for number in numbers))
            else:
                await store_singly(worker, name, [task_id(number) for number in numbers])


async def store_singly(worker: AMQPBackend, name: str, task_ids: list[str]) -> None:
    """Publish a message for each result, many at a time: only what is stored is to be like that of a quiet service."""
    from aioresults.results import ResultMeta

    reports, channel = worker._settings.codec, await worker.channel()
    messages = [reports.single(each, reports.write(ResultMeta.of(each, VALUE, "SUCCESS"), each)) for each in task_ids]
    await asyncio.gather(*(channel.basic_publish(each.body, each.properties, "", name) for each in messages))
    await channel.close()


async def looks(reader: AMQPBackend, task_ids: list[str]) -> float:
    """Return the seconds that one look takes."""
    started = time.perf_counter()
    for each in task_ids:
        await reader.get_task_meta(each)
    return (time.perf_counter() - started) / len(task_ids)


async def read(url: str, name: str, count: int) -> Retained:
    """Open on a stream, and measure."""
    chosen = random.Random(1)
    some = [task_id(chosen.randrange(count)) for _ in range(LOOKS)]
    async with backend(url, ResultStream(name + ".none"), store_only=True) as other:  # imports and connects
        gc.collect()
        before, started = resident(), time.perf_counter()
        async with backend(url, ResultStream(name), rpc_timeout=60) as reader:  # a look waits no longer for the end
            open_s = time.perf_counter() - started
            for number, status in ((0, "SUCCESS"), (count - 1, "SUCCESS"), (count, "PENDING")):
                assert (await reader.get_task_meta(task_id(number))).status == status
            answers_s = time.perf_counter() - started
            gc.collect()
            size = (resident() - before) / count
            known, unknown = await looks(reader, some), await looks(reader, [f"no {each}" for each in some])
        async with backend(url, ResultStream(name, index_bytes=1), rpc_timeout=60) as small:
            await small.get_task_meta(task_id(count))
            fetch = await looks(small, some[:FETCHES])
        await (await other.channel()).queue_delete(name + ".none")
    return Retained(count, open_s, answers_s, size, known * 1e6, unknown * 1e6, fetch * 1e3)


async def delete(url: str, name: str) -> None:
    """Delete the stream."""
    async with AMQPBackend(url, store_only=True) as any_backend:
        await (await any_backend.channel()).queue_delete(name)


def command(*arguments: object) -> str:
    """Run one step in a process of its own, and return what it prints."""
    words = [sys.executable, "-m", "tests.benchmarks.retained", *map(str, arguments)]
    return subprocess.run(words, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout


def run(url: str, counts: tuple[int, ...] = COUNTS) -> list[tuple[str, Retained]]:
    """Measure every count as the outbox stores it, and the last one with a message per result."""
    rows = []
    for count, per_message in (*((count, 0) for count in counts), (counts[-1], 1)):
        name = f"aioresults.bench.{uuid.uuid4().hex}"
        try:
            command("store", url, name, count, per_message)
            figures = Retained(**json.loads(command("read", url, name, count)))
        finally:
            command("delete", url, name)
        rows.append(("one per message" if per_message else "outbox", figures))
    return rows


def table(rows: list[tuple[str, Retained]]) -> Table:
    """Return one row per measurement."""
    table = Table(title="a stream of retained results", title_justify="left")
    table.add_column("stored")
    for name in ("results", "open s", "answers s", "bytes", "known us", "unknown us", "fetch ms"):
        table.add_column(name, justify="right")
    for stored, row in rows:
        table.add_row(
            stored,
            f"{row.count:,}",
            f"{row.open_s:.2f}",
            f"{row.answers_s:.2f}",
            f"{row.bytes:,.0f}",
            f"{row.known_us:.1f}",
            f"{row.unknown_us:.1f}",
            f"{row.fetch_ms:.1f}",
        )
    return table


def main() -> None:
    """Run one step."""
    step, url, name, *numbers = sys.argv[1:]
    if step == "store":
        asyncio.run(store(url, name, *map(int, numbers)))
    elif step == "read":
        print(json.dumps(asdict(asyncio.run(read(url, name, int(numbers[0]))))))
    else:
        asyncio.run(delete(url, name))


if __name__ == "__main__":
    main()
