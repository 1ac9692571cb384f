"""The worker: takes tasks, stores a progress report and the result of each.

``AMQP_URL=... python -m examples.demo.worker QUEUE`` works until its standard input ends, so it does not outlive the
process that started it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import aio_pika

from aioresults import AioResultsError, AMQPBackend, Request
from examples.demo.files import figures_of
from examples.demo.tasks import KEPT, ROUTING, LocalTasks, Task

#: Tasks at a time.
CONCURRENCY = 100


async def work(backend: AMQPBackend, task: Task) -> None:
    """Do one task: that is all a worker has to do with this package."""
    request = Request(reply_to=task.reply_to)
    await backend.store_result(task.id, {"reading": Path(task.path).name}, "PROGRESS", request=request)
    try:
        figures = await asyncio.to_thread(figures_of, task.path)
    except OSError as error:
        await backend.mark_as_failure(task.id, error, request=request)
    else:
        await backend.mark_as_done(task.id, figures, request=request)


async def work_on(url: str, queue_name: str) -> None:
    """Work on the tasks of a RabbitMQ queue until standard input ends."""
    async with (
        AMQPBackend(url, routing=ROUTING, expires=KEPT, store_only=True) as backend,
        await aio_pika.connect(url) as connection,
    ):
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=CONCURRENCY)
        queue = await channel.get_queue(queue_name)

        async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                await work(backend, Task.from_bytes(message.body))

        await queue.consume(on_message)
        await asyncio.to_thread(sys.stdin.read)
    # A thread in the middle of a long file cannot be stopped, and would be waited for. Its task is back in the queue.
    os._exit(0)


async def work_here(url: str, tasks: LocalTasks) -> None:
    """Work on the tasks of a queue inside this process, until cancelled."""

    async def one_after_another() -> None:
        while True:
            await work(backend, await tasks.waiting.get())

    async with (
        AMQPBackend(url, routing=ROUTING, expires=KEPT, store_only=True) as backend,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(CONCURRENCY):
            group.create_task(one_after_another())


def main() -> int:
    """Run the worker process."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(work_on(os.environ["AMQP_URL"], sys.argv[1]))
    except (AioResultsError, OSError, aio_pika.exceptions.AMQPError) as error:
        print(f"worker: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
