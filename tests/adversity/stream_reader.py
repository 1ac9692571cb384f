"""A process that reads a stream: ``python -m tests.adversity.stream_reader URL STREAM COUNT``.

It awaits every task, watches one, and looks at every one; it prints how many of them it had, and of how many it knew.
"""

from __future__ import annotations

import asyncio
import sys

from aioresults import AMQPBackend, ResultStream
from tests.adversity.party import task_id


async def read(url: str, stream: str, count: int) -> None:
    """Ask for every result, in three ways."""
    asked = [task_id(stream, number) for number in range(count)]
    backend = AMQPBackend(url, routing=ResultStream(stream), expires=600, connect_timeout=60, rpc_timeout=60)
    async with backend:
        print("open", flush=True)  # noqa: T201
        metas = await backend.get_many(asked, timeout=150)
        had = sum(metas[each].result == number for number, each in enumerate(asked))
        seen = [meta.status async for meta in backend.watch(asked[0], timeout=30)]
        knows = sum([(await backend.get_task_meta(each)).result == number for number, each in enumerate(asked)])
        print(had, knows, *seen, flush=True)  # noqa: T201


if __name__ == "__main__":
    url, stream, count = sys.argv[1:]
    asyncio.run(read(url, stream, int(count)))
