"""A backend belongs to one event loop, thread and process, and says so; opening and closing by several at once."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from aioresults import AMQPBackend, BackendClosed, BrokerUnavailable, ReplyQueue, WrongEventLoop
from aioresults.transport.memory import MemoryBroker
from tests.adversity.leaks import no_leaks
from tests.clock import Clock
from tests.eventually import eventually
from tests.proxy import Proxy

MakeProxy = Callable[[str], Awaitable[Proxy]]


@pytest.fixture
def url() -> Iterator[str]:
    name = secrets.token_hex(8)
    yield f"memory://{name}"
    MemoryBroker.forget(name)


def every_call(backend: AMQPBackend) -> list[Callable[[], Any]]:
    return [
        lambda: backend.store_result("task", 1).send(None),
        lambda: backend.wait_for("task").send(None),
        lambda: backend.consume("task").send(None),
        lambda: backend.get_many(["task"]),
        lambda: backend.watch("task"),
        lambda: backend.get_task_meta("task").send(None),
        lambda: backend.reload_task_result("task").send(None),
        lambda: backend.forget("task").send(None),
        lambda: backend.drain_events().send(None),
        lambda: backend.channel().send(None),
        lambda: backend.reply_to,
        lambda: backend.open().send(None),
        lambda: backend.close().send(None),
    ]


def refusals(backend: AMQPBackend) -> list[str]:
    """Return what each call says here."""
    texts = []
    for call in every_call(backend):
        try:
            call()
        except WrongEventLoop as error:
            texts.append(str(error))
        else:
            texts.append("no error")
    return texts


async def test_in_another_thread(url: str) -> None:
    async with AMQPBackend(url, routing=ReplyQueue()) as backend:
        for text in await asyncio.to_thread(refusals, backend):
            assert "belongs to the event loop and thread that opened it" in text
        assert backend.stats()["open"] is True
        assert await asyncio.to_thread(lambda: backend.stats()["open"]) is True


async def test_in_another_event_loop(amqp_url: str) -> None:
    async with AMQPBackend(amqp_url) as backend:

        async def elsewhere() -> list[str]:
            return refusals(backend)

        for text in await asyncio.to_thread(asyncio.run, elsewhere()):
            assert "run_coroutine_threadsafe" in text
        await backend.store_result("place", 1)
        assert await backend.wait_for("place", timeout=30) == 1


async def test_after_a_fork(amqp_url: str) -> None:
    async with AMQPBackend(amqp_url, routing=ReplyQueue()) as backend:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                os.write(write, "\n".join(refusals(backend)).encode())
            finally:
                os._exit(0)
        os.close(write)
        await asyncio.to_thread(os.waitpid, child, 0)
        texts = os.read(read, 65536).decode().split("\n")
        os.close(read)
        assert len(texts) == len(every_call(backend))
        for text in texts:
            assert "belongs to the process that opened it; open another after the fork" in text
        assert backend.stats()["connected"] is True
        waiting = asyncio.create_task(backend.drain_events(timeout=0.1))
        with pytest.raises(TimeoutError):
            await waiting


def test_the_loop_is_closed_under_it(url: str) -> None:
    async def open_one() -> AMQPBackend:
        return await AMQPBackend(url, routing=ReplyQueue()).open()

    backend = asyncio.run(open_one())

    async def later() -> None:
        for text in refusals(backend):
            assert text == "the event loop in which the backend was opened is closed; open another backend"

    asyncio.run(later())


def test_the_loop_is_closed_under_it_over_amqp(amqp_url: str) -> None:
    async def open_one() -> AMQPBackend:
        backend = await AMQPBackend(amqp_url).open()
        await backend.store_result("closed-under", 1)
        await backend.forget("closed-under")
        return backend

    backend = asyncio.run(open_one())  # cancels what runs in the background, which disconnects

    async def again() -> None:
        with pytest.raises(WrongEventLoop, match="is closed"):
            await backend.close()
        async with AMQPBackend(amqp_url) as other:
            await other.store_result("closed-under", 2)
            assert await other.wait_for("closed-under", timeout=30) == 2

    asyncio.run(again())


async def test_opened_twice_at_once_with_one_of_them_cancelled(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    async with no_leaks():
        between.cut()
        backend = AMQPBackend(between.url_for(amqp_url), connect_timeout=60)
        first, second = asyncio.create_task(backend.open()), asyncio.create_task(backend.open())
        await eventually(lambda: backend.stats()["failed_connects"] not in (0, 1))
        first.cancel()
        await asyncio.wait([first])
        await between.restore()
        assert await asyncio.wait_for(second, 30) is backend
        await backend.store_result("twice", 1)
        assert await backend.wait_for("twice", timeout=30) == 1
        await backend.close()


async def test_closed_by_many_at_once_and_from_another_task(url: str) -> None:
    for moment in range(20):
        backend = await AMQPBackend(url).open()
        waiting = asyncio.create_task(backend.wait_for("never"))
        closing = [asyncio.create_task(backend.close()) for _ in range(5)]
        for _ in range(moment):
            await asyncio.sleep(0)
        closing[0].cancel()
        await asyncio.gather(*closing[1:], backend.close())
        await asyncio.wait([waiting, closing[0]])
        assert isinstance(waiting.exception(), BackendClosed)


async def test_a_silent_node_leaves_time_for_the_next(
    amqp_url: str, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = await proxy(amqp_url)
    silent.stall()
    urls = [silent.url_for(amqp_url), amqp_url]
    async with no_leaks():
        clock = Clock(monkeypatch)
        backend = AMQPBackend(urls, connect_timeout=60)
        opening = asyncio.create_task(backend.open())
        await eventually(lambda: silent.accepted == 1)
        clock.advance(30)  # the share of the first; the other one has as much
        await opening
        async with backend:
            await backend.store_result(task_id := secrets.token_hex(8), 1)
            assert await backend.wait_for(task_id, timeout=30) == 1
        silent.resume()  # the proxy's own sockets


async def test_nodes_that_are_all_silent_end_open_in_time(amqp_url: str, proxy: MakeProxy) -> None:
    silent = await proxy(amqp_url)
    silent.stall()
    async with no_leaks():
        backend = AMQPBackend([silent.url_for(amqp_url)] * 2, connect_timeout=1)
        began = monotonic()
        with pytest.raises(BrokerUnavailable):
            await backend.open()
        assert monotonic() - began < 10  # a moment more for an attempt to be given up
        await backend.close()
        silent.resume()
