"""A project of taskiq's: `taskiq worker tests.contrib.taskiq_tasks:broker`, as configured by the environment."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, model_serializer
from taskiq import Context, SimpleRetryMiddleware, TaskiqDepends
from taskiq.depends.progress_tracker import ProgressTracker
from taskiq.exceptions import NoResultError
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

from aioresults import ResultStream
from aioresults.contrib.taskiq import AMQPResultBackend


def make_broker(url: str, name: str, *, keep_results: bool) -> AioPikaBroker:
    """Return a broker as a project has one, with names of its own."""
    classic = QueueType.CLASSIC
    return (
        AioPikaBroker(
            url,
            exchange=Exchange(name=name),
            task_queues=[Queue(name=name, type=classic)],
            dead_letter_queue=Queue(name=f"{name}.dead", type=classic),
        )
        .with_result_backend(
            AMQPResultBackend(
                url, keep_results, result_ex_time=60, stream=ResultStream(f"{name}.results"), rpc_timeout=60
            )
        )
        .with_middlewares(SimpleRetryMiddleware(no_result_on_retry=False))
    )


broker = make_broker(
    os.environ.get("TASKIQ_URL", "memory://taskiq"),
    os.environ.get("TASKIQ_NAME", "taskiq"),
    keep_results=os.environ.get("TASKIQ_KEEP") == "yes",
)


class Refused(Exception):
    """An error of the project's own."""


class Unwritable(BaseModel):
    """A model whose own code fails."""

    @model_serializer
    def write(self) -> str:
        raise RuntimeError("no")


class Figures(BaseModel):
    words: int
    when: datetime


@broker.task
async def add(a: int, b: int) -> int:
    return a + b


@broker.task
async def measure(text: str) -> Figures:
    return Figures(words=len(text.split()), when=datetime(2026, 1, 2))


@broker.task
async def fail(text: str) -> None:
    raise ValueError(text)


@broker.task
async def refuse(text: str, number: int) -> None:
    try:
        raise KeyError(text)
    except KeyError as error:
        raise Refused(text, number) from error


@broker.task
async def report(tracker: Annotated[ProgressTracker[int], TaskiqDepends()]) -> str:
    await tracker.set_progress("halfway", 50)
    await tracker.set_progress("nearly")
    await asyncio.sleep(0.3)
    return "done"


@broker.task(retry_on_error=True, max_retries=3)
async def insist(context: Annotated[Context, TaskiqDepends()]) -> None:
    attempt = int(context.message.labels.get("_retries", 0))
    raise ValueError(attempt)


@broker.task
async def no_result(why: str) -> None:
    raise NoResultError
