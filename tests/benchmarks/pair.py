"""One run of one peer: a caller and a worker, two processes.

``python -m tests.benchmarks.pair`` reads the run's parameters from the first line of its standard input, is the caller,
starts the worker as its child, and prints what it measured as one JSON line. The ids of tasks go from caller to worker
through a pipe, the same way for every peer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import PEERS, VALUE, Peer

#: A line on the pipe may be this long.
LIMIT = 1 << 24


@dataclass(frozen=True)
class Run:
    """The parameters of one run."""

    peer: str
    url: str
    #: Results, after a warm-up of a tenth of them.
    count: int
    #: Tasks that the caller asks for at a time, and how many of them are not answered yet at most.
    chunk: int
    outstanding: int
    #: Tasks that are then asked for one at a time.
    samples: int
    #: The broker's process, to measure its CPU time; None when it is not ours.
    broker_pid: int | None = None


@dataclass(frozen=True)
class Figures:
    """What one run measured; microseconds are per result."""

    per_second: float
    caller_us: float
    worker_us: float
    #: None when the broker's process is not known.
    broker_us: float | None
    #: From asking for one task to its result: the median, in milliseconds.
    latency_ms: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """The caller's end of the pipe to its worker."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self._stdin, self._stdout = process, process.stdin, process.stdout

    def tell(self, message: Any) -> None:
        """Send one message."""
        self._stdin.write(json.dumps(message).encode() + b"\n")

    async def ask(self, message: Any) -> Any:
        """Send one message and return the answer."""
        self.tell(message)
        line = await self._stdout.readline()
        if not line:
            raise RuntimeError("the worker has ended")
        return json.loads(line)


async def transfer(peer: Peer, worker: Worker, count: int, chunk: int, outstanding: int) -> None:
    """Ask for ``count`` tasks, ``chunk`` at a time, and take their results."""
    left = count
    waiting: deque[asyncio.Task[list[Any]]] = deque()
    while left or waiting:
        while left and len(waiting) * chunk < outstanding:
            task_ids = [str(uuid.uuid4()) for _ in range(min(chunk, left))]
            left -= len(task_ids)
            waiting.append(asyncio.create_task(peer.collect(task_ids)))
            await asyncio.sleep(0)
            worker.tell(task_ids)
        for value in await waiting.popleft():
            assert value == VALUE, value


async def measure(run: Run, peer: Peer, worker: Worker) -> Figures:
    """Warm up, measure the throughput, then the latency."""
    await transfer(peer, worker, max(run.count // 10, 1), run.chunk, run.outstanding)
    in_worker, in_broker = await worker.ask("cpu"), cpu_seconds(run.broker_pid) if run.broker_pid else 0.0
    in_caller, started = time.process_time(), time.perf_counter()
    await transfer(peer, worker, run.count, run.chunk, run.outstanding)
    seconds = time.perf_counter() - started
    in_caller = time.process_time() - in_caller
    in_broker = cpu_seconds(run.broker_pid) - in_broker if run.broker_pid else 0.0
    in_worker = await worker.ask("cpu") - in_worker
    latencies = [0.0]
    for _ in range(run.samples):
        started = time.perf_counter()
        await transfer(peer, worker, 1, 1, 1)
        latencies.append(time.perf_counter() - started)
    return Figures(
        per_second=run.count / seconds,
        caller_us=in_caller / run.count * 1e6,
        worker_us=in_worker / run.count * 1e6,
        broker_us=in_broker / run.count * 1e6 if run.broker_pid else None,
        latency_ms=sorted(latencies)[len(latencies) // 2] * 1e3,
    )


async def call(run: Run) -> Figures:
    """Be the caller of one run, and start its worker."""
    peer = PEERS[run.peer](run.url)
    address = await peer.open_caller()
    command = (sys.executable, "-m", "tests.benchmarks.pair", "worker")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LIMIT)
    worker = Worker(process)
    try:
        await worker.ask({"peer": run.peer, "url": run.url, "address": address})
        return await measure(run, peer, worker)
    finally:
        # Without its standard input it ends.
        with suppress(ProcessLookupError):
            process.stdin.close()  # type: ignore[union-attr]
            await process.wait()
        await peer.close()


async def work() -> None:
    """Be the worker: store what is asked for until standard input ends."""
    reader = asyncio.StreamReader(limit=LIMIT)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    start = json.loads(await reader.readline())
    peer = PEERS[start["peer"]](start["url"])
    await peer.open_worker(start["address"])
    print(json.dumps("ready"), flush=True)
    async with asyncio.TaskGroup() as group:
        while line := await reader.readline():
            message = json.loads(line)
            if message == "cpu":
                print(json.dumps(time.process_time()), flush=True)
            else:
                group.create_task(peer.store(message))
    await peer.close()


def main() -> None:
    """Be the worker when told so, else the caller."""
    if sys.argv[1:] == ["worker"]:
        asyncio.run(work())
    else:
        run = Run(**json.loads(sys.stdin.readline()))
        print(json.dumps(asdict(asyncio.run(call(run)))))


if __name__ == "__main__":
    main()
