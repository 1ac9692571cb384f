"""What it costs to call Celery's tasks: ``CeleryClient``, and Celery's own client on ``rpc://``.

One real, unmodified worker (``-P solo``) does nothing, as often as it is asked to, for both in turn; each run is a
process of its own: ``python -m tests.benchmarks.celery_calls PEER URL QUEUE COUNT`` prints what it measured as JSON.
"""
# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from celery import Celery
from celery.result import ResultSet
from rich.console import Console
from rich.table import Table

from aioresults import AMQPBackend, ReplyQueue
from aioresults.contrib.celery import CeleryClient
from aioresults.contrib.rabbitmq import Process

CHECKOUT = Path(__file__).parents[2]
COUNT = 3000
#: Seconds that one run may take.
LIMIT = 120

app = Celery("benchmark", broker=os.environ.get("BENCHMARK_BROKER"), backend="rpc://", set_as_current=False)
# With a few prefetched messages a solo worker stands still at times (kombu 5.7): it acknowledges in the next turn of a
# loop that does not turn before something arrives.
app.conf.worker_prefetch_multiplier = 0


@app.task(name="benchmark.noop")
def noop() -> None:
    pass


@dataclass(frozen=True)
class Figures:
    """What one run measured, from the first call to the last result."""

    per_second: float
    #: Microseconds of CPU time of the client's process, per task.
    client_us: float
    #: Of the client's process, at the end.
    threads: int


def measured(call: Callable[[int], Any], count: int) -> Figures:
    """Call a tenth to warm up, then measure."""
    call(max(count // 10, 1))
    cpu, started = time.process_time(), time.perf_counter()
    call(count)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Figures(count / seconds, cpu / count * 1e6, threading.active_count())


def with_celery(url: str, queue: str, count: int) -> Figures:
    """Send all, then join."""
    app.conf.update(broker_url=url, task_default_queue=queue)

    def call(count: int) -> None:
        ResultSet([noop.apply_async() for _ in range(count)], app=app).join_native(timeout=LIMIT)

    return measured(call, count)


def with_aioresults(url: str, queue: str, count: int) -> Figures:
    """Call all at once."""
    with asyncio.Runner() as runner:
        client = CeleryClient(AMQPBackend(url, routing=ReplyQueue()), queue=queue)
        task = client.task(noop.name, timeout=LIMIT)

        async def gathered(count: int) -> None:
            await asyncio.gather(*(task() for _ in range(count)))

        runner.run(client.backend.open())
        figures = measured(lambda count: runner.run(gathered(count)), count)
        runner.run(client.backend.close())
    return figures


PEERS: Final = {"celery-rpc": with_celery, "aioresults": with_aioresults}


def run(url: str, *, count: int, rounds: int, console: Console) -> dict[str, list[Figures]]:
    """Run the peers in turn, ``rounds`` times, with one worker."""
    queue = f"aioresults.benchmark.{secrets.token_hex(4)}"
    figures: dict[str, list[Figures]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "-A",
            "tests.benchmarks.celery_calls",
            "worker",
            "-P",
            "solo",
            "-Q",
            queue,
            "-n",
            f"{queue}@benchmark",
        ]
        command = [sys.executable, "-m", "celery", *options]
        worker = Process(command, log=Path(folder) / "log", env={**os.environ, "BENCHMARK_BROKER": url})
        try:
            for turn in range(rounds):
                for name, runs in figures.items():
                    with console.status(f"round {turn + 1} of {rounds}: {name}"):
                        runs.append(run_once(name, url, queue, count))
        finally:
            worker.stop()
    return figures


def run_once(name: str, url: str, queue: str, count: int) -> Figures:
    """Run one peer in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.celery_calls", name, url, queue, str(count)]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT)
    return Figures(**json.loads(done.stdout))


def table(figures: dict[str, list[Figures]], count: int) -> Table:
    """Return medians, and ratios to Celery's client."""
    table = Table(title=f"{count} calls of a task that does nothing", title_justify="left")
    table.add_column("client", no_wrap=True)
    for column in ("tasks/s", "lowest", "highest", "x", "client us", "of Celery's", "threads"):
        table.add_column(column, justify="right")
    first = next(iter(figures.values()))
    for name, runs in figures.items():
        rates, cpu = [run.per_second for run in runs], median(run.client_us for run in runs)
        table.add_row(
            name,
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            f"{median(rates) / median(run.per_second for run in first):.2f}",
            f"{cpu:,.0f}",
            f"{cpu / median(run.client_us for run in first):.2f}",
            f"{max(run.threads for run in runs)}",
        )
    return table


def main() -> None:
    """Measure one run."""
    name, url, queue, count = sys.argv[1:]
    prepare(url, queue)
    print(json.dumps(asdict(PEERS[name](url, queue, int(count)))))


def prepare(url: str, queue: str) -> None:
    """Return when the worker listens."""
    app.conf.update(broker_url=url, task_default_queue=queue)
    noop.apply_async().get(timeout=60)


if __name__ == "__main__":
    main()
