"""A million results with reconnects, and what grows meanwhile: `make soak ARGS="--results 1000000"`.

Memory is measured after a first tenth, when caches are full, and at the end; between the two it may not grow by more
than a few MB. Descriptors and tasks are compared at the end with the beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tracemalloc
from itertools import islice
from time import monotonic
from urllib.parse import urlsplit

from aioresults import AMQPBackend, ReplyQueue, Request
from tests.adversity.leaks import backend_tasks, descriptors
from tests.chaos.tally import Tally, complaints
from tests.eventually import eventually
from tests.nodes import Node, one_node
from tests.proxy import Proxy

#: Results that one call waits for, and calls under way.
BATCH, CALLS = 250, 8
#: Bytes that may be allocated more at the end than after the first tenth.
GROWTH = 4 * 2**20
#: Results between two reconnects.
BETWEEN = 20_000


async def run(node: Node, total: int) -> list[str]:
    """Store and await ``total`` results; return what is wrong in the end."""
    parts = urlsplit(node.url)
    async with Proxy(parts.hostname or "", parts.port or 5672) as between:
        url = between.url_for(node.url)
        async with (
            AMQPBackend(url, routing=ReplyQueue(), max_cached_results=1_000) as caller,
            AMQPBackend(url, routing=ReplyQueue(), store_only=True) as worker,
        ):
            return await _work(caller, worker, between, total)


async def _work(caller: AMQPBackend, worker: AMQPBackend, between: Proxy, total: int) -> list[str]:
    began, awaited, next_cut = monotonic(), 0, BETWEEN
    files = descriptors()
    tasks = len(backend_tasks())
    after_a_tenth = 0
    ids = (f"soak-{n}" for n in range(total))

    async def call() -> None:
        nonlocal awaited, next_cut, after_a_tenth
        while batch := list(islice(ids, BATCH)):
            request = Request(reply_to=caller.reply_to)
            many = asyncio.ensure_future(_all(caller, batch))
            await asyncio.gather(*(worker.store_result(task_id, task_id, request=request) for task_id in batch))
            assert await many == batch
            awaited += len(batch)
            if awaited >= next_cut:
                next_cut += BETWEEN
                between.drop()
            if not after_a_tenth and awaited >= total // 10:
                after_a_tenth = _allocated()

    await asyncio.gather(*(call() for _ in range(CALLS)))
    growth = _allocated() - after_a_tenth
    await eventually(lambda: caller.stats()["connected"] is worker.stats()["connected"] is True)
    await eventually(lambda: descriptors() <= files and len(backend_tasks()) <= tasks, 10)
    stats = {**caller.stats(), "worker's sessions": worker.stats()["sessions"]}
    print(f"{awaited} results in {monotonic() - began:.0f} s, {stats['sessions']} sessions, growth {growth} bytes")
    print(f"descriptors {files} -> {descriptors()}, tasks {tasks} -> {len(backend_tasks())}")
    print(stats)
    wrong = [f"memory grew by {growth} bytes"] if growth > GROWTH else []
    for name in ("waiting", "unclaimed", "evicted"):
        wrong += [f"{name}: {stats[name]}"] if stats[name] else []
    return wrong


async def _all(caller: AMQPBackend, ids: list[str]) -> list[object]:
    return [meta.result for meta in (await caller.get_many(ids)).values()]


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def main() -> int:
    """Run, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.partition(":")[0])
    parser.add_argument("--results", type=int, default=1_000_000)
    options = parser.parse_args()
    tally = Tally()
    tracemalloc.start()
    with one_node() as node, complaints(tally):
        wrong = asyncio.run(run(node, options.results)) + tally.leaked
    print("\n".join(["FAILED", *wrong] if wrong else ["ok"]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
