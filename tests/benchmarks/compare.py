"""Peers compared: interleaved runs, medians, ratios to the first one, in one table."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.benchmarks.pair import Figures, Run
from tests.benchmarks.peers import PEERS

CHECKOUT = Path(__file__).parents[2]
#: Seconds that one run may take.
LIMIT = 120


class RunFailed(Exception):
    """One run did not end as it should."""


@dataclass(frozen=True)
class Comparison:
    """What is compared. The first peer is what the others are measured against."""

    title: str
    peers: tuple[str, ...]
    count: int
    chunk: int
    outstanding: int = 1000
    samples: int = 50

    def scaled(self, count: int | None) -> Comparison:
        """Return the same with another number of results, and as few samples of the latency."""
        if count is None:
            return self
        return replace(self, count=count, chunk=min(self.chunk, count), samples=min(self.samples, count))

    def run(self, url: str, *, broker_pid: int | None, rounds: int, console: Console) -> dict[str, list[Figures]]:
        """Run every peer that is installed, in turn, ``rounds`` times."""
        figures: dict[str, list[Figures]] = {}
        for name in self.peers:
            if missing := PEERS[name].missing():
                console.print(f"{name}: left out, not installed: {', '.join(missing)}")
            else:
                figures[name] = []
        for turn in range(rounds):
            for name, runs in figures.items():
                with console.status(f"round {turn + 1} of {rounds}: {name}"):
                    run = Run(name, url, self.count, self.chunk, self.outstanding, self.samples, broker_pid)
                    runs.append(run_once(run))
        return figures

    def table(self, figures: dict[str, list[Figures]]) -> Table:
        """Return medians, and the ratios of results/s to the first peer that ran."""
        table = Table(title=f"{self.title}: {self.count} results, {self.chunk} at a time", title_justify="left")
        table.add_column("peer", no_wrap=True)
        for name in ("results/s", "lowest", "highest", "x", "caller us", "worker us", "broker us", "latency ms"):
            table.add_column(name, justify="right")
        first = next(iter(figures), "")
        for name, runs in figures.items():
            rates = [run.per_second for run in runs]
            broker = [run.broker_us for run in runs if run.broker_us is not None]
            table.add_row(
                name,
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f}",
                f"{max(rates):,.0f}",
                f"{median(rates) / median(run.per_second for run in figures[first]):.2f}",
                f"{median(run.caller_us for run in runs):,.0f}",
                f"{median(run.worker_us for run in runs):,.0f}",
                f"{median(broker):,.0f}" if broker else "",
                f"{median(run.latency_ms for run in runs):.2f}",
            )
        return table


def run_once(run: Run) -> Figures:
    """Run one peer in two processes of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.pair"]
    parameters = json.dumps(asdict(run)) + "\n"
    try:
        done = subprocess.run(
            command, input=parameters, capture_output=True, text=True, timeout=LIMIT, cwd=CHECKOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{run.peer}: not done within {LIMIT} s") from None
    if done.returncode:
        raise RunFailed(f"{run.peer}: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
    return Figures(**json.loads(done.stdout))
