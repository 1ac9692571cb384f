"""`make web`: a broker, a worker and the service, until interrupted. PORT=8000 says where the page is."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from rich.console import Console

from aioresults.contrib.rabbitmq import RabbitMQError
from examples.demo.broker import broker


def main() -> int:
    """Serve, and return the exit status."""
    logging.basicConfig(format="web: %(levelname)s %(message)s")
    console = Console(highlight=False)
    port = int(os.environ.get("PORT", "8000"))
    try:
        with broker(console) as (url, origin):
            os.environ["AMQP_URL"] = url
            with worker(url):
                console.print(f"[bold]http://127.0.0.1:{port}/[/]  ({origin}; Ctrl-C ends it)")
                uvicorn.run("examples.fastapi_app.app:app", port=port, log_level="warning", timeout_graceful_shutdown=3)
    except RabbitMQError as error:
        print(f"web: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


@contextmanager
def worker(url: str) -> Iterator[None]:
    """Run a worker process, unless the broker is inside the service."""
    if url.startswith("memory:"):
        yield
        return
    process = subprocess.Popen([sys.executable, "-m", "examples.fastapi_app.worker"])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


sys.exit(main())
