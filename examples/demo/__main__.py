"""The command ``python -m examples.demo [FOLDER]``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import aio_pika
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aioresults import AioResultsError, AMQPBackend, BrokerUnavailable
from aioresults.contrib.rabbitmq import RabbitMQError
from examples.demo.broker import broker
from examples.demo.caller import Outcome, WorkerEnded, call
from examples.demo.files import STANDARD_LIBRARY, files_in, standard_library
from examples.demo.tasks import KEPT, ROUTING, BrokerLost

#: Rows in a table of the summary.
ROWS = 5
#: Seconds to find the broker.
CONNECT_TIMEOUT = 5.0


def main() -> int:
    """Do the main job, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="Count the lines of many files.")
    parser.add_argument("folder", nargs="?", type=Path, help="by default the Python standard library")
    folder: Path | None = parser.parse_args().folder
    # What goes wrong is said once, below.
    logging.basicConfig(handlers=[logging.NullHandler()])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # clean up as for Ctrl-C
    console = Console(highlight=False)
    try:
        root, files = choose_files(folder)
        with broker(console) as (url, origin):
            outcome = asyncio.run(run(url, origin, files, console))
    except (RabbitMQError, AioResultsError, BrokerLost, WorkerEnded, OSError, aio_pika.exceptions.AMQPError) as error:
        print(f"demo: {(str(error) or repr(error)).splitlines()[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    summary(outcome, root, console)
    return 0


def choose_files(folder: Path | None) -> tuple[Path, list[Path]]:
    """Return where the files are, and which to work on; raises ``FileNotFoundError`` when there are none."""
    if folder is None:
        return STANDARD_LIBRARY, standard_library()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = files_in(folder.resolve())
    if not files:
        raise FileNotFoundError(f"there are no files in {folder}")
    return folder.resolve(), files


async def run(url: str, origin: str, files: list[Path], console: Console) -> Outcome:
    """Connect, and do the job."""
    backend = AMQPBackend(url, routing=ROUTING, expires=KEPT, max_cached_results=0, connect_timeout=CONNECT_TIMEOUT)
    try:
        await backend.open()
    except BrokerUnavailable as error:
        raise BrokerUnavailable(f"no use of the broker {backend.as_uri()} ({origin}): {error}") from error
    try:
        console.print(f"broker: {backend.as_uri()} ({origin})", soft_wrap=True)
        return await call(backend, url, files, console)
    finally:
        await backend.close()


def summary(outcome: Outcome, root: Path, console: Console) -> None:
    """Print what came of the tasks."""
    done = outcome.done.values()
    console.print(
        f"{outcome.results:,} results in {outcome.seconds:.1f} s: {outcome.results / outcome.seconds:,.0f} results/s, "
        f"after {outcome.progress_reports:,} progress reports",
        soft_wrap=True,
    )
    console.print(
        f"{len(done):,} files, {sum(f['bytes'] for f in done):,} bytes, {sum(f['lines'] for f in done):,} lines, "
        f"{sum(f['words'] for f in done):,} words, {len({f['sha256'] for f in done}):,} different contents",
        soft_wrap=True,
    )
    if done:
        table = Table("lines", "words", "SHA-256", "the longest files", box=None)
        for path, figures in sorted(outcome.done.items(), key=lambda item: -item[1]["lines"])[:ROWS]:
            name = readable(path.relative_to(root))
            table.add_row(f"{figures['lines']:,}", f"{figures['words']:,}", figures["sha256"][:16], name)
        console.print(table)
    if outcome.failed:
        console.print(f"{len(outcome.failed):,} failed:")
        for path, error in list(outcome.failed.items())[:ROWS]:
            name = readable(path.relative_to(root))
            console.print(f"  {name}: {type(error).__name__}: {escape(str(error))}", soft_wrap=True)
        if len(outcome.failed) > ROWS:
            console.print(f"  and {len(outcome.failed) - ROWS:,} more")


def readable(path: Path) -> str:
    """Return a path as text that any terminal takes: names of files are bytes."""
    return escape(os.fsencode(path).decode(errors="replace"))


if __name__ == "__main__":
    raise SystemExit(main())
