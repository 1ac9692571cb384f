"""A FastAPI service under load: requests that each await a task, and event streams that stay open.

Three processes: the clients here, one service (uvicorn, one process, `ReplyQueue`), and one worker. Clients speak HTTP
over plain sockets, so that what is measured is the service and not an HTTP client.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from rich.table import Table

from aioresults import AMQPBackend, Consumer, Message, Producer, Queue, ReplyQueue, Request
from aioresults.contrib.fastapi import Results, health_router, lifespan, router
from aioresults.contrib.rabbitmq import Process, free_ports
from tests.benchmarks.compare import RunFailed

CHECKOUT: Final = Path(__file__).parents[2]
#: Requests at once, and open streams of events.
REQUESTS: Final = 1000
STREAMS: Final = 500
#: Requests that each client sends, one after another.
TURNS: Final = 5
TIMEOUT: Final = 60.0


@dataclass(frozen=True)
class Load:
    """What was measured. Latencies in milliseconds, as the client sees them; bytes of the service process."""

    what: str
    count: int
    answered: int
    seconds: float
    p50: float
    p99: float
    bytes_before: int
    bytes_after: int


def service(url: str, tasks: str) -> FastAPI:
    """Return an application that sends a task for each request and awaits its result."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        backend = AMQPBackend(url, routing=ReplyQueue())
        async with lifespan(lambda: backend)(app) as state:
            channel = await backend.channel()
            await Queue(tasks, expires=60)(channel).declare()
            app.state.producer = Producer(channel)
            yield state

    app = FastAPI(lifespan=running)
    app.include_router(router)
    app.include_router(health_router)

    @app.get("/work")
    async def work(results: Results) -> Any:
        task_id = str(uuid.uuid4())
        await app.state.producer.publish({"id": task_id}, tasks, "transient", reply_to=results.reply_to)
        return await results.wait_for(task_id, timeout=TIMEOUT)

    @app.get("/inbox")
    async def inbox(results: Results) -> str | None:
        return results.reply_to

    return app


async def work(url: str, tasks: str) -> None:
    """Answer every task at once."""
    async with AMQPBackend(url, routing=ReplyQueue(), store_only=True) as backend:
        # A result is on its way when it is stored; the message goes when that is confirmed.
        def do(body: Any, message: Message) -> None:
            request = Request(reply_to=message.properties.reply_to)
            stored = asyncio.ensure_future(backend.store_result(body["id"], {"answer": 42}, request=request))
            stored.add_done_callback(lambda _: message.ack())

        queue = Queue(tasks, expires=60)
        async with Consumer(await backend.channel(), queue, callbacks=[do], prefetch_count=2 * REQUESTS):
            await asyncio.Future()


@contextmanager
def processes(url: str) -> Iterator[tuple[int, Process]]:
    """Run the service and the worker; yield the service's port and process."""
    tasks = f"aioresults.bench.{uuid.uuid4()}"
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.service"]
        env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        worker = Process([*command, "work", url, tasks], log=Path(folder, "worker"), env=env)
        server = Process([*command, "serve", url, tasks, str(port)], log=Path(folder, "server"), env=env)
        try:
            yield port, server
        finally:
            server.stop()
            worker.stop()


def resident(process: Process) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Client:
    """One connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, path: str) -> None:
        """Write a request."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    async def get(self, path: str) -> bytes:
        """Return the body of the answer, if it is a good one."""
        self.send(path)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = head.lower().partition(b"content-length:")[2].split(b"\r")[0]
        return await self.reader.readexactly(int(length))


async def clients(port: int, count: int) -> list[Client]:
    """Connect so many clients."""
    return [await Client.connect(port) for _ in range(count)]


def load(what: str, count: int, took: list[float], seconds: float, before: int, after: int) -> Load:
    """Return the figures."""
    percent = quantiles(sorted(took), n=100, method="inclusive")
    return Load(what, count, len(took), seconds, 1000 * percent[49], 1000 * percent[98], before, after)


async def requests(port: int, server: Process, count: int) -> Load:
    """Have `count` clients send requests, each one after another, all of them at once."""
    connected = await clients(port, count)
    await asyncio.gather(*(client.get("/work") for client in connected[:10]))
    before = resident(server)
    took: list[float] = []

    async def ask(client: Client) -> None:
        for _ in range(TURNS):
            started = time.perf_counter()
            assert await client.get("/work") == b'{"answer":42}'
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*map(ask, connected))
    seconds = time.perf_counter() - started
    after = resident(server)
    for client in connected:
        client.writer.close()
    return load(f"{count} requests at once", count * TURNS, took, seconds, before, after)


async def streams(port: int, server: Process, count: int, url: str) -> Load:
    """Open `count` streams of events, then report to each; the latency is from the store to the client."""
    asking = await Client.connect(port)
    request = Request(reply_to=(await asking.get("/inbox")).decode().strip('"'))
    connected = await clients(port, count)
    before = resident(server)
    for number, client in enumerate(connected):
        client.send(f"/tasks/{number}/events")
    await asyncio.gather(*(client.reader.readuntil(b"PENDING") for client in connected))
    after = resident(server)
    took: list[float] = []

    async def report(number: int, client: Client, backend: AMQPBackend) -> None:
        started = time.perf_counter()
        await backend.store_result(str(number), number, request=request)
        await client.reader.readuntil(b'"ready":true')
        took.append(time.perf_counter() - started)

    async with AMQPBackend(url, routing=ReplyQueue(), store_only=True) as backend, asyncio.timeout(TIMEOUT):
        started = time.perf_counter()
        await asyncio.gather(*(report(number, client, backend) for number, client in enumerate(connected)))
        seconds = time.perf_counter() - started
    for client in connected:
        client.writer.transport.abort()
    while b'"waiting":0' not in await asking.get("/health"):
        await asyncio.sleep(0.01)
    asking.writer.close()
    return load(f"{count} open streams", count, took, seconds, before, after)


async def answers(port: int, server: Process) -> None:
    """Return when the service does."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            if not server.running:
                raise RunFailed(f"the service ended, status {server.returncode}")
            try:
                client = await Client.connect(port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            await client.get("/health")
            client.writer.close()
            return


async def measure(url: str, requests_count: int, streams_count: int) -> list[Load]:
    """Measure both."""
    with processes(url) as (port, server):
        await answers(port, server)
        first = await requests(port, server, requests_count)
        return [first, await streams(port, server, streams_count, url)]


def table(loads: list[Load]) -> Table:
    """Show the figures."""
    shown = Table("load", "answered", "per s", "p50 ms", "p99 ms", "MB before", "MB after", title="a FastAPI service")
    for each in loads:
        memory = (f"{size / 1e6:.1f}" for size in (each.bytes_before, each.bytes_after))
        rates = (f"{each.answered / each.seconds:,.0f}", f"{each.p50:.0f}", f"{each.p99:.0f}")
        shown.add_row(each.what, f"{each.answered:,} of {each.count:,}", *rates, *memory)
    return shown


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", url, tasks, port]:
            uvicorn.run(service(url, tasks), port=int(port), log_level="warning", access_log=False)
        case ["work", url, tasks]:
            asyncio.run(work(url, tasks))
