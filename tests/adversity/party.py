"""A process of its own that stores or awaits results: ``python -m tests.adversity.party store|await URL FIRST COUNT``.

Tasks are numbered; the result of each is its number. What was stored or taken is printed, one number a line, at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from itertools import islice

from aioresults import AMQPBackend

#: Stores that one worker has under way.
CONCURRENCY = 40


def task_id(prefix: str, number: int) -> str:
    """Return the id of a task."""
    return f"{prefix}-{number}"


async def store(url: str, prefix: str, numbers: Iterable[int]) -> None:
    """Store the result of every task."""
    left = iter(numbers)
    policy = {"max_retries": None}  # a broker may take longer to start again than the default policy lasts
    async with AMQPBackend(url, store_only=True, expires=600, retry_policy=policy, connect_timeout=60) as backend:

        async def work() -> None:
            for number in left:
                await backend.store_result(task_id(prefix, number), number)
                print(number, flush=True)  # noqa: T201

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def take(url: str, prefix: str, numbers: Iterable[int]) -> None:
    """Await the result of every task, some hundred at a time."""
    left = iter(numbers)
    async with AMQPBackend(url, expires=600, connect_timeout=60) as backend:
        while part := list(islice(left, 500)):
            async for _, meta in backend.get_many([task_id(prefix, number) for number in part]):
                print(meta.result, flush=True)  # noqa: T201


def main() -> None:
    """Do one of the two."""
    what, url, prefix, count = sys.argv[1:]
    asyncio.run({"store": store, "await": take}[what](url, prefix, range(int(count))))


if __name__ == "__main__":
    main()
