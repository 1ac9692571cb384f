"""The caller: sends the tasks, awaits all results under a progress bar, sums them up."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aioresults import AMQPBackend, ResultMeta
from examples.demo.files import Figures
from examples.demo.tasks import LocalTasks, Sender, Task, amqp_tasks
from examples.demo.worker import work_here

#: Where ``python -m examples.demo.worker`` is found.
CHECKOUT: Final = Path(__file__).resolve().parents[2]
#: Seconds that the worker has to end.
PATIENCE: Final = 5.0


class WorkerEnded(Exception):
    """The worker ended before its work did."""


@dataclass
class Outcome:
    """What came of all tasks."""

    done: dict[Path, Figures] = field(default_factory=dict)
    failed: dict[Path, BaseException] = field(default_factory=dict)
    progress_reports: int = 0
    seconds: float = 0.0

    @property
    def results(self) -> int:
        """How many tasks have ended, well or not."""
        return len(self.done) + len(self.failed)


@asynccontextmanager
async def worker_process(url: str) -> AsyncIterator[tuple[Sender, asyncio.Task[None]]]:
    """Start a worker process; yield the way to it, and what fails when it cannot go on."""
    async with amqp_tasks(url, f"aioresults-demo-{secrets.token_hex(8)}") as tasks:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.demo.worker", tasks.queue),
            cwd=CHECKOUT,
            env=os.environ | {"AMQP_URL": url},  # not an argument: every user of the machine can read those
            stdin=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for this process; the worker is told by the end of its input
        )
        ended = asyncio.create_task(process.wait())
        lost = asyncio.create_task(tasks.until_lost())

        async def until_cut_short() -> None:
            await asyncio.wait({ended, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                await lost
            raise WorkerEnded(f"the worker ended too early, with status {ended.result()}")

        working = asyncio.create_task(until_cut_short())
        try:
            yield tasks, working
        finally:
            for task in (working, lost):
                task.cancel()
            await asyncio.gather(working, lost, return_exceptions=True)
            if process.stdin is not None:
                process.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), PATIENCE)
            if process.returncode is None:
                process.kill()
            await ended


@asynccontextmanager
async def worker_here(url: str) -> AsyncIterator[tuple[Sender, asyncio.Task[None]]]:
    """Start a worker inside this process, for ``memory://``."""
    tasks = LocalTasks()

    worker = asyncio.create_task(work_here(url, tasks))
    try:
        yield tasks, worker
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def call(backend: AMQPBackend, url: str, files: list[Path], console: Console) -> Outcome:
    """Have a worker do one task per file; return what came of them."""
    start_worker = worker_here if url.startswith("memory:") else worker_process
    async with start_worker(url) as (tasks, working):
        collecting = asyncio.create_task(collect(backend, tasks, files, console))
        try:
            await asyncio.wait({collecting, working}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                await working
            return collecting.result()
        finally:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)


async def collect(backend: AMQPBackend, tasks: Sender, files: list[Path], console: Console) -> Outcome:
    """Send a task for every file, and await their results."""
    paths = {str(uuid.uuid4()): path for path in files}
    outcome = Outcome()
    with progress_bar(console) as bar:
        row = bar.add_task("results", total=len(paths))

        def on_message(meta: ResultMeta) -> None:
            if meta.is_ready:
                bar.advance(row)
            else:
                outcome.progress_reports += 1

        started = time.perf_counter()
        metas, _ = await asyncio.gather(
            backend.get_many(paths, on_message=on_message),
            tasks.send(Task(task_id, str(path), backend.reply_to) for task_id, path in paths.items()),
        )
        outcome.seconds = time.perf_counter() - started
    sort_out(outcome, paths, metas)
    return outcome


def progress_bar(console: Console) -> Progress:
    """Return the bar: how many of how many, and how long still."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def sort_out(outcome: Outcome, paths: Mapping[str, Path], metas: Mapping[str, ResultMeta]) -> None:
    """Part what succeeded from what failed."""
    for task_id, meta in metas.items():
        if meta.is_failure:
            outcome.failed[paths[task_id]] = meta.result
        else:
            outcome.done[paths[task_id]] = meta.result
