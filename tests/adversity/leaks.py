"""What a backend leaves behind: tasks and file descriptors, compared before and after."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.eventually import eventually


def descriptors() -> int:
    """Return how many file descriptors this process has open."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def backend_tasks() -> set[asyncio.Task[object]]:
    """Return the tasks of this loop, without those of the proxy."""
    return {task for task in asyncio.all_tasks() if "Proxy." not in repr(task.get_coro())}


@asynccontextmanager
async def no_leaks(within: float = 30) -> AsyncIterator[None]:
    """Fail when, some time after the body, there are tasks or file descriptors that were not there before it."""
    gc.collect()
    tasks, files = backend_tasks(), descriptors()
    yield
    gc.collect()
    try:
        await eventually(lambda: backend_tasks() <= tasks, within)
        await eventually(lambda: descriptors() <= files, within)
    except AssertionError as error:
        left = "\n".join(map(repr, backend_tasks() - tasks))
        raise AssertionError(f"left behind: {descriptors() - files} descriptors, tasks:\n{left}") from error
