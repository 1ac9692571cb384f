"""Opening and closing in every state: everyone is told, soon and rightly, and nothing stays behind."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic

import aio_pika
import anyio
import pytest

from aioresults import AioResultsError, AMQPBackend, BackendClosed, BrokerUnavailable, ConfigurationError
from aioresults.transport import Channel
from tests.adversity.leaks import no_leaks
from tests.clock import Clock
from tests.eventually import eventually
from tests.proxy import Proxy

MakeProxy = Callable[[str], Awaitable[Proxy]]


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port on which nobody listens, nor will: it is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"amqp://guest:guest@127.0.0.1:{taken.getsockname()[1]}/"


async def test_open_with_the_broker_down(amqp_url: str, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    between = await proxy(amqp_url)
    async with no_leaks():
        between.cut()
        backend = AMQPBackend(between.url_for(amqp_url), connect_timeout=60)
        with pytest.raises(BrokerUnavailable):
            await Clock(monkeypatch).fly(backend.open())
        await between.restore()
        await backend.open()
        await backend.store_result(task_id := secrets.token_hex(8), 1)
        await backend.forget(task_id)
        await backend.close()


async def test_open_returns_when_the_broker_comes_up(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    between.cut()
    backend = AMQPBackend(between.url_for(amqp_url), connect_timeout=60)
    opening = asyncio.create_task(backend.open())
    await eventually(lambda: backend.stats()["failed_connects"] not in (0, 1))
    await between.restore()
    await opening
    await backend.close()


async def test_open_that_is_cancelled_leaves_nothing(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    async with no_leaks():
        for moment in range(60):
            backend = AMQPBackend(between.url_for(amqp_url))
            opening = asyncio.create_task(backend.open())
            for _ in range(moment):
                await asyncio.sleep(0)
            opening.cancel()
            opening.cancel()
            await asyncio.wait([opening])
            await backend.close()
        await eventually(lambda: between.connections == 0)


async def test_open_in_a_scope_that_is_cancelled_leaves_nothing(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    async with no_leaks():
        for wait in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03):
            backend = AMQPBackend(between.url_for(amqp_url))
            with anyio.move_on_after(wait):
                await backend.open()
            await backend.close()
        await eventually(lambda: between.connections == 0)


async def test_close_while_it_is_opened(nobody: str) -> None:
    async with no_leaks():
        backend = AMQPBackend(nobody, connect_timeout=30)
        opening = asyncio.create_task(backend.open())
        await eventually(lambda: backend.stats()["failed_connects"] != 0)
        began = monotonic()
        await backend.close()
        with pytest.raises(BackendClosed):
            await opening
        assert monotonic() - began < 10


async def test_close_at_every_moment_of_open(amqp_url: str) -> None:
    async with no_leaks():
        for moment in range(1, 90, 3):  # before the first, there is nothing to close
            backend = AMQPBackend(amqp_url)
            opening = asyncio.create_task(backend.open())
            for _ in range(moment):
                await asyncio.sleep(0)
            await backend.close()
            if (error := (await asyncio.gather(opening, return_exceptions=True))[0]) is not backend:
                assert isinstance(error, BackendClosed)
            with pytest.raises(BackendClosed):
                await backend.store_result("closed", 1)


@pytest.mark.parametrize("frozen", [False, True])
async def test_close_ends_every_call(
    amqp_url: str, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    if not frozen:  # it is for what can be sent
        monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 60)
    between = await proxy(amqp_url)
    async with no_leaks():
        backend = await AMQPBackend(between.url_for(amqp_url), heartbeat=1, rpc_timeout=2).open()
        calls = [
            asyncio.create_task(call)
            for call in (
                backend.wait_for("none-1"),
                _all(backend, "none-2", "none-3"),
                backend.drain_events(),
                _watch(backend, "none-4"),
            )
        ]
        await eventually(lambda: backend.stats()["consuming"] == 4)
        if frozen:
            between.stall()
        else:
            between.drop()
            between.stall()
            await eventually(lambda: not backend.stats()["connected"])
        calls.append(asyncio.create_task(backend.store_result("none-5", 1)))
        calls.append(asyncio.create_task(backend.get_task_meta("none-6")))
        await asyncio.sleep(0.05)
        began = monotonic()
        await asyncio.gather(backend.close(), backend.close())
        await asyncio.wait(calls, timeout=30)
        assert monotonic() - began < 20
        for call in calls[:5]:
            assert isinstance(call.exception(), BackendClosed)
        assert isinstance(calls[5].exception(), (BackendClosed, BrokerUnavailable))
        between.resume()


async def _all(backend: AMQPBackend, *task_ids: str) -> object:
    return await backend.get_many(task_ids)


async def _watch(backend: AMQPBackend, task_id: str) -> None:
    async for _ in backend.watch(task_id):
        pass


async def test_close_that_is_cancelled_goes_on(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    for moment in range(1, 13):
        async with no_leaks():
            backend = await AMQPBackend(between.url_for(amqp_url)).open()
            waiting = asyncio.create_task(backend.wait_for("never"))
            await asyncio.sleep(0)
            closing = asyncio.create_task(backend.close())
            for _ in range(moment):
                await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(BackendClosed):
                await waiting
            await eventually(lambda: between.connections == 0)


async def test_a_session_whose_first_connection_dies_while_the_second_opens_is_replaced(
    amqp_url: str, proxy: MakeProxy
) -> None:
    between = await proxy(amqp_url)
    opened = 0

    async def connect() -> aio_pika.abc.AbstractConnection:
        nonlocal opened
        opened += 1
        if opened == 2:
            between.drop()
            await asyncio.sleep(0.1)
        return await aio_pika.connect(between.url_for(amqp_url))

    async with AMQPBackend(connection=connect) as backend:
        await backend.store_result(task_id := secrets.token_hex(8), 2)
        assert await backend.wait_for(task_id, timeout=30) == 2


async def test_an_error_in_revive_is_raised_by_open(amqp_url: str) -> None:
    class Reviving(AMQPBackend):
        async def revive(self, channel: Channel) -> None:
            raise LookupError("of the user's own")

    async with no_leaks():
        backend = Reviving(amqp_url)
        began = monotonic()
        with pytest.raises(AioResultsError, match="of the user's own"):
            await backend.open()
        assert monotonic() - began < 9  # `connect_timeout` is 10
        await backend.close()


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://user:{SECRET}/more@host/",
        f"amqp://user:{SECRET}#more@host/",
        f"amqp://user:{SECRET}?more@host/",
        f"amqp://user:{SECRET}@host:port/",
        f"amqp://user:{SECRET}[@host/",
        f"amqp://user:{SECRET}@",
        f"amqp:user:{SECRET}@host",
        f"amqp://user:{SECRET}@host:99999/",
        [f"amqp://user:{SECRET}@host".encode()],
        f"amqp://user:{SECRET}%@ho st/",
        f"amqp://user:{SECRET}@host/?heartbeat={SECRET}",
    ],
)
def test_a_bad_url_does_not_say_the_password(url: str | list[str]) -> None:
    try:
        backend = AMQPBackend(url)
    except ConfigurationError as error:
        texts = [str(error), repr(error), repr(error.__cause__)]
    else:
        texts = [repr(backend), backend.as_uri()]
    assert not any(SECRET in text for text in texts), texts


async def test_no_log_line_says_the_password(nobody: str, amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = amqp_url.replace("guest:guest@", f"guest:{SECRET}@")
    errors: list[object] = []
    for url in (wrong, nobody.replace("guest:guest", f"guest:{SECRET}")):
        backend = AMQPBackend(url, connect_timeout=0.5)
        try:
            await backend.open()
        except BrokerUnavailable as error:
            errors.append(error)
        errors.append(str(backend.stats()))
        await backend.close()
    assert SECRET not in caplog.text
    assert SECRET not in str(errors)
