"""Every public call has an example in its docstring, and the examples run: as they stand, on a broker in memory.

To have the examples of another class run, name it in `SETTINGS` with what its examples may use.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import aioresults
from aioresults import (
    AMQPBackend,
    AsyncResult,
    Consumer,
    Exchange,
    GroupResult,
    Message,
    Producer,
    Queue,
    QueuePerTask,
    ReplyQueue,
    Request,
    ResultMeta,
    ResultStream,
    RetryPolicy,
    Serializers,
    states,
)
from aioresults.many_results import ManyResults
from aioresults.messaging import Binding, NoCacheQueue
from aioresults.recording import Recording
from aioresults.routing import Routing
from aioresults.transport import Channel
from aioresults.transport.memory import MemoryBroker
from aioresults.watch import Watch

Namespace = dict[str, Any]

BROKER = "docstring-examples"


@asynccontextmanager
async def backend() -> AsyncIterator[Namespace]:
    """Every public name, and an open backend."""
    async with AMQPBackend(f"memory://{BROKER}") as opened:
        yield {**{name: getattr(aioresults, name) for name in aioresults.__all__}, "backend": opened}
    MemoryBroker.forget(BROKER)


@asynccontextmanager
async def messaging() -> AsyncIterator[Namespace]:
    """What `backend` has, and one of each noun: the queue holds a message, and another one was fetched from it."""
    async with backend() as names:
        channel = await names["backend"].channel()
        exchange = Exchange("exchange", "topic")(channel)
        queue = Queue("queue", exchange, "#")(channel)
        producer = Producer(channel, exchange)
        for number in range(2):
            await producer.publish({"number": number}, "key", declare=[queue])
        yield {
            **names, "Binding": Binding, "NoCacheQueue": NoCacheQueue,
            "channel": channel, "exchange": exchange, "queue": queue, "producer": producer,
            "consumer": Consumer(channel, queue), "message": await queue.get(),
        }  # fmt: skip


@asynccontextmanager
async def results() -> AsyncIterator[Namespace]:
    """What `backend` has, the stored results of a task and of a group of two, and what a caller would import."""
    async with backend() as names:
        opened = names["backend"]
        results = {"task": 42, "first": 1, "second": 2}
        await asyncio.gather(*(opened.store_result(task_id, result) for task_id, result in results.items()))
        task_ids = ["first", "second"]
        yield {
            **names, "asyncio": asyncio, "traceback": traceback, "states": states, "Channel": Channel,
            "task_id": "task", "request": Request(), "task_ids": task_ids, "serializers": Serializers(),
            "group": GroupResult("group", [AsyncResult(task_id, opened) for task_id in task_ids]),
        }  # fmt: skip


#: The classes whose examples run, and the names that these may use.
SETTINGS: dict[type, Callable[[], AbstractAsyncContextManager[Namespace]]] = {
    Binding: messaging,
    Consumer: messaging,
    Exchange: messaging,
    Message: messaging,
    NoCacheQueue: messaging,
    Producer: messaging,
    Queue: messaging,
    AMQPBackend: results,
    AsyncResult: results,
    GroupResult: results,
    ManyResults: results,
    QueuePerTask: results,
    Recording: results,
    ReplyQueue: results,
    Request: results,
    ResultMeta: results,
    ResultStream: results,
    RetryPolicy: results,
    Serializers: results,
    Watch: results,
}


def calls(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the name and docstring of a class and of each public method, inherited ones of this package as well.

    Not what a backend alone calls: the methods of `Routing`.
    """
    yield cls.__name__, inspect.cleandoc(vars(cls)["__doc__"] or "")
    for name, member in inspect.getmembers(cls):
        if issubclass(cls, Routing) and hasattr(Routing, name):
            continue
        if name.startswith("_") or not (inspect.isfunction(member) or inspect.ismethod(member)):
            continue
        if member.__module__.partition(".")[0] == "aioresults":
            yield f"{cls.__name__}.{name}", inspect.getdoc(member) or ""


def examples(docstring: str) -> Iterator[str]:
    """Yield the indented blocks that follow `Example::`."""
    for block in re.findall(r"^Example::\n\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE):
        yield textwrap.dedent(block).strip() + "\n"


async def run(source: str, name: str, names: Namespace) -> None:
    """Run the source of an example, which may await."""
    code = compile(source, f"<example of {name}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, names)
    if inspect.iscoroutine(outcome):
        async with asyncio.timeout(10):
            await outcome


CALLS = [pytest.param(cls, name, text, id=name) for cls in SETTINGS for name, text in calls(cls)]


@pytest.mark.parametrize(("cls", "name", "text"), CALLS)
async def test_every_public_call_has_an_example_that_runs(
    cls: type, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = list(examples(text))
    assert sources, f"the docstring of {name} has no `Example::`"
    for source in sources:
        async with SETTINGS[cls]() as names:
            await run(source, name, names)


def test_all_public_classes_are_among_them() -> None:
    public = {getattr(aioresults, name) for name in aioresults.__all__}
    assert {cls for cls in public if not issubclass(cls, Exception)} <= set(SETTINGS)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("await queue.get(", SyntaxError),
        ("await nothing()", NameError),
        ("assert False", AssertionError),
        ("await queue.purge(nowait=True)", TypeError),
    ],
)
async def test_an_example_that_is_wrong_is_found(source: str, error: type[Exception]) -> None:
    async with messaging() as names:
        with pytest.raises(error):
            await run(source, "this", names)


def test_where_examples_end() -> None:
    text = "First.\n\nExample::\n\n    a = 1\n\n    if a:\n        b = 2\n\nArgs:\n    x: y.\n\nExample::\n\n    c = 3"
    assert list(examples(text)) == ["a = 1\n\nif a:\n    b = 2\n", "c = 3\n"]
