"""`make web`: a broker, a worker and the service, until interrupted. PORT=8000 says where the page is."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import uvicorn
from rich.console import Console

from aioresults import AioResultsError, AMQPBackend
from aioresults.contrib.rabbitmq import RabbitMQError
from examples.demo.broker import broker

#: Seconds before another worker is started in place of one that died.
PAUSE: Final = 1.0
#: Seconds that the service, when it is stopped, waits for clients that do not read what it sends.
GRACE: Final = 3
MAX_PORT: Final = 65535


def main() -> int:
    """Serve, and return the exit status."""
    logging.basicConfig(format="web: %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # clean up as for Ctrl-C
    console = Console(highlight=False, soft_wrap=True)
    try:
        port = port_of(os.environ.get("PORT", "8000"))
        with broker(console) as (url, origin):
            os.environ["AMQP_URL"] = url
            return asyncio.run(serve(url, port, console, origin))
    except (RabbitMQError, AioResultsError, ValueError) as error:
        print(f"web: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def port_of(text: str) -> int:
    """Return the port that PORT names; raises ``ValueError``."""
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise ValueError(f"PORT must be a number up to {MAX_PORT}, not {text!r}")
    return int(text)


async def serve(url: str, port: int, console: Console, origin: str) -> int:
    """Run the service and its worker; return the exit status."""
    async with AMQPBackend(url, store_only=True):
        pass  # or it is said here what is wrong with the broker, in one line
    config = uvicorn.Config(
        "examples.fastapi_app.app:app", port=port, log_level="warning", timeout_graceful_shutdown=GRACE
    )
    server = uvicorn.Server(config)
    async with worker(url):
        console.print(f"[bold]http://127.0.0.1:{port}/[/]  ({origin}; Ctrl-C ends it)")
        await server.serve()
    return 0 if server.started else 1


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[None]:
    """Have a worker process, unless the broker is inside the service, which then works, too."""
    if url.startswith("memory:"):
        yield
        return
    working = asyncio.create_task(work())
    try:
        yield
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def work() -> None:
    """Run a worker, and another one when it dies, which does anew what that one had begun."""
    while True:
        process = await create_subprocess_exec(sys.executable, "-m", "examples.fastapi_app.worker")
        try:
            status = await process.wait()
        finally:
            await end(process)
        if status == 0:
            return  # it was told to
        print(f"web: the worker ended with status {status}, starting another one", file=sys.stderr)
        await asyncio.sleep(PAUSE)


async def end(process: Process) -> None:
    """End a process, if it runs."""
    with suppress(ProcessLookupError):
        process.terminate()
    await process.wait()


sys.exit(main())
