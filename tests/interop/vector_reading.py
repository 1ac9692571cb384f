"""Captured messages, published as they were and read back through this package.

Run as ``python -m tests.interop.vector_reading URL`` it does so with the pickled ones: what is unpickled runs, so only
in a process of its own.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel

from aioresults import AMQPBackend, DecodeError, QueuePerTask, ResultMeta
from tests.celery_vectors import Vector, captured, check_pickled, with_pickle
from tests.interop.layouts import LIMITS

PARALLEL = 32
EXPIRES = 300  # seconds; the reports that are not ready stay in their queues

NamedVector = tuple[str, Vector]


@dataclass
class Seen:
    """What this package showed of one message."""

    name: str
    vector: Vector
    #: What ``get_task_meta`` showed first, and after the wait.
    looked: ResultMeta | DecodeError
    after: ResultMeta | DecodeError | None = None
    #: The first report that ``watch`` yielded, of those that are not ready.
    watched: ResultMeta | None = None
    #: What ``wait_for`` returned, or raised, of all others.
    returned: Any = None
    raised: Exception | None = None
    #: What it returned with ``propagate=False``.
    unpropagated: Any = None


async def read_back(url: str, vectors: Sequence[NamedVector], **options: Any) -> list[Seen]:
    """Publish each message into the queue of its task and read it with every kind of read, in the order given."""
    seen: dict[str, Seen] = {}
    connection = await aio_pika.connect(url)
    async with connection:
        for turn in rounds(vectors):
            # Queues of its own for each turn, since some tasks sent several messages.
            routing = QueuePerTask(prefix=f"aioresults.task.{secrets.token_hex(6)}.")
            async with (
                AMQPBackend(url, routing=routing, expires=EXPIRES, **LIMITS, **options) as backend,
                connection.channel() as channel,
                asyncio.TaskGroup() as group,
            ):
                for start in range(PARALLEL):
                    group.create_task(_read_all(backend, channel, turn[start::PARALLEL], seen))
    return [seen[name] for name, _ in vectors]


def rounds(vectors: Sequence[NamedVector]) -> list[list[NamedVector]]:
    """The vectors in as few lists as possible, each with one message of a task at most."""
    turns: list[list[NamedVector]] = []
    met: defaultdict[str, int] = defaultdict(int)
    for name, vector in vectors:
        task_id = task_of(vector)
        if met[task_id] == len(turns):
            turns.append([])
        turns[met[task_id]].append((name, vector))
        met[task_id] += 1
    return turns


def task_of(vector: Vector) -> str:
    return str(vector["message"]["properties"]["correlation_id"])


async def _read_all(
    backend: AMQPBackend, channel: AbstractChannel, vectors: Sequence[NamedVector], seen: dict[str, Seen]
) -> None:
    for name, vector in vectors:
        seen[name] = await _read(backend, channel, name, vector)


async def _read(backend: AMQPBackend, channel: AbstractChannel, name: str, vector: Vector) -> Seen:
    task_id = task_of(vector)
    [queue] = backend.on_reply_declare(task_id)
    await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.queue_arguments or {}))
    await publish(channel, queue.name, vector)
    looked = await look(backend, task_id)
    seen = Seen(name, vector, looked)
    if isinstance(looked, ResultMeta) and not looked.is_ready:
        watching = backend.watch(task_id, timeout=30)
        async with aclosing(watching) as reports:
            seen.watched = await anext(reports)
    else:
        try:
            seen.returned = await backend.wait_for(task_id, timeout=30, cache=False)
        except Exception as error:
            seen.raised = error
    if isinstance(looked, ResultMeta) and looked.is_ready:
        seen.unpropagated = await backend.wait_for(task_id, timeout=30, propagate=False)
    seen.after = await look(backend, task_id)
    return seen


async def look(backend: AMQPBackend, task_id: str) -> ResultMeta | DecodeError:
    """Look at a task; what cannot be read stays in its queue."""
    try:
        return await backend.get_task_meta(task_id)
    except DecodeError as error:
        return error


async def publish(channel: AbstractChannel, queue: str, vector: Vector) -> None:
    """Publish the very bytes and properties of a captured message."""
    message = vector["message"]
    await channel.default_exchange.publish(
        aio_pika.Message(base64.b64decode(message["body_b64"]), **message["properties"]), queue, mandatory=True
    )


def main(url: str) -> None:
    vectors = list(captured(pickled=True))
    for seen in asyncio.run(read_back(url, vectors, serializers=with_pickle(), accept=["pickle"])):
        assert isinstance(seen.looked, ResultMeta), seen.vector
        for meta in (seen.looked, seen.watched, seen.after):
            if meta is not None:
                assert isinstance(meta, ResultMeta), seen.vector
                check_pickled(meta, seen.vector)
        if seen.looked.is_failure:
            assert seen.raised is seen.unpropagated, seen.vector
    print(len(vectors))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
