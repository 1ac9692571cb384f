"""The two sides as processes of their own: `python -m tests.adversity.programs store|wait URL PREFIX COUNT`.

What they print is one line per result: for `store` when it is confirmed, for `wait` when it was returned. A line is
written before anything else is awaited, so a killed process has printed all that it has taken.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from aioresults import AMQPBackend, BackendClosed
from tests.process import Process

#: Stores in flight at a time.
STORES = 16
ROOT = Path(__file__).parents[2]


def ids_of(prefix: str, count: int) -> list[str]:
    """Return the task ids of one test."""
    return [f"{prefix}-{n}" for n in range(count)]


def say(line: str) -> None:
    """Print a line at once."""
    os.write(1, f"{line}\n".encode())


async def store_all(backend: AMQPBackend, ids: list[str]) -> list[str]:
    """Store a report that is not ready and the result of each task, several at a time; return the confirmed ids."""
    left, stored = iter(ids), []

    async def store() -> None:
        for task_id in left:
            await backend.store_result(task_id, None, "STARTED")
            await backend.store_result(task_id, f"result of {task_id}")
            stored.append(task_id)

    await asyncio.gather(*(store() for _ in range(STORES)))
    return stored


async def _store(url: str, ids: list[str]) -> None:
    async with AMQPBackend(url, store_only=True) as backend:
        for chunk in range(0, len(ids), 100):
            for task_id in await store_all(backend, ids[chunk : chunk + 100]):
                say(task_id)


async def _wait(url: str, ids: list[str]) -> None:
    async with AMQPBackend(url) as backend:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(backend.close()))

        async def wait(task_id: str) -> None:
            try:
                result = await backend.wait_for(task_id)
            except BackendClosed:
                return
            assert result == f"result of {task_id}"
            say(task_id)

        await asyncio.gather(*map(wait, ids))


def start(program: str, url: str, prefix: str, count: int, log: Path) -> Process:
    """Start one side; its lines are in `log`."""
    command = [sys.executable, "-m", "tests.adversity.programs", program, url, prefix, str(count)]
    return Process(command, log=log, env={**os.environ, "PYTHONPATH": str(ROOT)})


def printed(log: Path, prefix: str) -> list[str]:
    """Return the ids that a side has printed."""
    return (
        [line for line in log.read_text(errors="replace").split("\n")[:-1] if line.startswith(prefix)]
        if log.exists()
        else []
    )


if __name__ == "__main__":
    _, program, url, prefix, count = sys.argv
    asyncio.run({"store": _store, "wait": _wait}[program](url, ids_of(prefix, int(count))))
