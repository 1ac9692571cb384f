"""The command ``python -m tests.benchmarks [SUITE...]``."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Final

from rich.console import Console

from aioresults.contrib.rabbitmq import RabbitMQError, RabbitMQNode
from tests.benchmarks import celery_calls, compare, plugin, retained, service, waiters
from tests.benchmarks.compare import Comparison, RunFailed
from tests.benchmarks.pair import Figures


@dataclass
class Bench:
    """What a suite needs to run: a broker, and how much is wanted."""

    console: Console
    broker: Callable[[], tuple[str, int | None]]
    rounds: int
    count: int | None
    plot: Path | None

    @cached_property
    def url_and_pid(self) -> tuple[str, int | None]:
        """The broker's URL, and its process when that is ours; started for the first suite that asks."""
        return self.broker()


@dataclass(frozen=True)
class PeersSuite:
    """A comparison of peers on one broker."""

    comparison: Comparison

    def __call__(self, bench: Bench) -> None:
        url, pid = bench.url_and_pid
        comparison = self.comparison.scaled(bench.count)
        figures = comparison.run(url, broker_pid=pid, rounds=bench.rounds, console=bench.console)
        bench.console.print(comparison.table(figures))
        if bench.plot is not None:
            plot(comparison.title, figures, bench.plot)
            bench.console.print(f"plotted to {bench.plot}")


def run_waiters(bench: Bench) -> None:
    """Run the suite ``waiters``."""
    counts = waiters.COUNTS if bench.count is None else (bench.count,)
    with bench.console.status("waiting"):
        costs = waiters.run(counts)
    bench.console.print(waiters.table(costs))


def run_plugin(bench: Bench) -> None:
    """Run the suite ``plugin``."""
    with bench.console.status("importing"):
        of_pytest, of_plugin = plugin.measure(plugin.RUNS if bench.count is None else 1)
    bench.console.print(f"import pytest: {of_pytest:.1f} ms; the plug-in {of_plugin:.1f} ms more")


def run_service(bench: Bench) -> None:
    """Run the suite ``service``."""
    url, _ = bench.url_and_pid
    counts = (service.REQUESTS, service.STREAMS) if bench.count is None else (bench.count, bench.count)
    with bench.console.status("asking"):
        loads = asyncio.run(service.measure(url, *counts))
    bench.console.print(service.table(loads))


def run_retained(bench: Bench) -> None:
    """Run the suite ``retained``."""
    url, _ = bench.url_and_pid
    counts = retained.COUNTS if bench.count is None else (bench.count,)
    with bench.console.status("storing and reading"):
        rows = retained.run(url, counts)
    bench.console.print(retained.table(rows))


def run_codec(bench: Bench) -> None:
    """Run the suite ``codec``."""
    command = [sys.executable, "-m", "tests.benchmarks.codec"]
    if bench.count is not None:
        command += ["--rounds", "3"]
    subprocess.run(command, cwd=compare.CHECKOUT, check=False)


def run_celery(bench: Bench) -> None:
    """Run the suite ``celery``."""
    count = bench.count or celery_calls.COUNT
    figures = celery_calls.run(bench.url_and_pid[0], count=count, rounds=bench.rounds, console=bench.console)
    bench.console.print(celery_calls.table(figures, count))


REPLY: Final = (
    "aiormq-confirm",
    "aioresults-reply",
    "aioresults-reply-persistent",
    "aioresults-reply-json",
    "celery-rpc",
)
STREAM: Final = ("aioresults-reply", "aioresults-reply-persistent", "aioresults-stream")
SUITES: Final[dict[str, Callable[[Bench], None]]] = {
    "per-task": PeersSuite(
        Comparison(
            "a queue per task",
            ("celery-amqp-backend", "aioresults-per-task", "aioresults-per-task-transient"),
            1000,
            100,
        )
    ),
    "reply": PeersSuite(Comparison("one inbox per process", REPLY, 5000, 100)),
    "reply-10": PeersSuite(Comparison("one inbox per process", REPLY, 5000, 10)),
    "stream": PeersSuite(Comparison("one shared stream", STREAM, 5000, 100)),
    "retained": run_retained,
    "celery": run_celery,
    "waiters": run_waiters,
    "codec": run_codec,
    "plugin": run_plugin,
    "service": run_service,
}


def plot(title: str, figures: dict[str, list[Figures]], path: Path) -> None:
    """Draw the rates of all runs, one bar per peer up to the median, one dot per run."""
    # By name: type checkers run without it.
    import_module("matplotlib").use("agg")
    plt = import_module("matplotlib.pyplot")
    _, axes = plt.subplots(figsize=(8, 1 + 0.5 * len(figures)), layout="constrained")
    for name, runs in figures.items():
        rates = sorted(run.per_second for run in runs)
        axes.barh(name, rates[len(rates) // 2], color="lightsteelblue")
        axes.plot(rates, [name] * len(rates), "k.")
    axes.invert_yaxis()
    axes.set(title=title, xlabel="results/s")
    plt.savefig(path)


@contextmanager
def broker(url: str | None, pid: int | None, console: Console) -> Iterator[Callable[[], tuple[str, int | None]]]:
    """Yield what returns the broker: the given one, or a private node that ends with the block."""
    nodes: list[RabbitMQNode] = []

    def start() -> tuple[str, int | None]:
        if url is not None:
            return url, pid
        with console.status("starting a private RabbitMQ node"):
            node = RabbitMQNode()
            nodes.append(node)
            node.start()
        return node.url, node.pid

    try:
        yield start
    finally:
        for node in nodes:
            node.close()


def main() -> int:
    """Run the suites that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--url", default=os.environ.get("AMQP_URL"), help="instead of a private RabbitMQ node")
    parser.add_argument("--broker-pid", type=int, help="the process of that broker, for its CPU time")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of each peer")
    parser.add_argument("--count", type=int, help="results, or waits, instead of what each suite has")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the suite that compares peers")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'aioresults[bench]'")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        with broker(arguments.url, arguments.broker_pid, console) as start:
            bench = Bench(console, start, arguments.rounds, arguments.count, arguments.plot)
            for name in arguments.suites or SUITES:
                SUITES[name](bench)
    except (RabbitMQError, RunFailed) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
