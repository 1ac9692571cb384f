"""The service behind a real server: clients that stay, and clients that go."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from aioresults import AMQPBackend
from aioresults.contrib.fastapi import Results, lifespan, router, wait_or_202
from aioresults.transport.memory import MemoryBroker
from tests.eventually import eventually

STREAMS = 500


class Service:
    """One server in the loop of the test."""

    def __init__(self, backend: AMQPBackend, server: uvicorn.Server, port: int) -> None:
        self.backend = backend
        self.server = server
        self.port = port

    @asynccontextmanager
    async def stream(self, task_id: str) -> AsyncIterator[asyncio.StreamReader]:
        """Open a stream of events; leave it as a client does that is killed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET /tasks/{task_id}/events HTTP/1.1\r\nHost: service\r\n\r\n".encode())
            await reader.readuntil(b"data: ")
            yield reader
        finally:
            writer.transport.abort()

    async def waits_for(self, count: int) -> None:
        await eventually(lambda: self.backend.stats()["waiting"] == count, within=100)


@asynccontextmanager
async def serving(broker: MemoryBroker, send_timeout: float) -> AsyncIterator[Service]:
    """Run a server; a stall of this process for longer than `send_timeout` would cost a client its stream."""
    backend = AMQPBackend(broker.url)
    app = FastAPI(lifespan=lifespan(lambda: backend, heartbeat=0.2, send_timeout=send_timeout))
    app.include_router(router)

    @app.get("/soon/{task_id}")
    async def soon(task_id: str, timeout: float, request: Request, results: Results) -> Any:
        return await wait_or_202(results, task_id, request, timeout)

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    running = asyncio.create_task(server.serve([listening]))  # which closes it
    await eventually(lambda: server.started)
    try:
        yield Service(backend, server, listening.getsockname()[1])
    finally:
        server.should_exit = True
        await asyncio.wait_for(running, 60)


@pytest.fixture
async def service(result_broker: MemoryBroker) -> AsyncIterator[Service]:
    async with serving(result_broker, send_timeout=60) as service:
        yield service


async def test_an_idle_stream_has_a_heartbeat(service: Service) -> None:
    async with service.stream("task") as events:
        await events.readuntil(b": ping")
        await events.readuntil(b": ping")


async def test_clients_that_go_leave_nothing(service: Service) -> None:
    """500 streams at once: each gets its report, and what is left of those that go is nothing."""
    before = len(asyncio.all_tasks())
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(service.stream(str(number))) for number in range(STREAMS)]
        await service.waits_for(STREAMS)
        for number in range(0, STREAMS, 2):
            await service.backend.store_result(str(number), number)
        for number in range(0, STREAMS, 2):
            line = await streams[number].readuntil(b'"ready":true')
            assert f'"task_id":"{number}"'.encode() in line
        await service.waits_for(STREAMS // 2)
    await service.waits_for(0)
    await eventually(lambda: service.backend.stats()["consuming"] == 0)
    await eventually(lambda: not service.server.server_state.connections)
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 1)  # sse-starlette has one for all streams
    await service.backend.store_result("1", "after its client has gone")
    assert await service.backend.wait_for("1", timeout=30) == "after its client has gone"


KEY = base64.b64encode(bytes(16)).decode()
SOCKET = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"


@pytest.mark.parametrize("headers", ["", SOCKET], ids=["stream", "socket"])
async def test_a_client_that_reads_nothing_is_given_up(result_broker: MemoryBroker, headers: str) -> None:
    async with serving(result_broker, send_timeout=0.3) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1)
        writer.write(f"GET /tasks/task/events HTTP/1.1\r\nHost: service\r\n{headers}\r\n".encode())
        await service.waits_for(1)
        for number in itertools.count():
            if not service.backend.stats()["waiting"]:
                break
            await service.backend.store_result("task", [number, "x" * 100_000], "PROGRESS")
            await asyncio.sleep(0)  # or the server never has a turn
        writer.transport.abort()


async def test_sockets_that_go_leave_nothing(service: Service) -> None:
    before = len(asyncio.all_tasks())
    async with AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{service.port}/tasks"
        sockets = [await stack.enter_async_context(connect(f"{url}/{number}/events")) for number in range(20)]
        await service.waits_for(20)
        sockets[0].transport.abort()
        await service.waits_for(19)
        await service.backend.store_result("1", 42)
        assert [json.loads(message)["status"] async for message in sockets[1]] == ["PENDING", "SUCCESS"]
    await service.waits_for(0)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_the_server_can_stop_while_clients_listen(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    async with service.stream("one") as events, connect(f"ws://127.0.0.1:{service.port}/tasks/two/events") as socket:
        await service.waits_for(2)
        service.server.should_exit = True
        await asyncio.wait_for(events.read(), 30)
        assert json.loads(await socket.recv())["status"] == "PENDING"
        with pytest.raises(ConnectionClosedError, match="1012"):
            await socket.recv()
    await eventually(lambda: service.backend.stats()["open"] is False)
    assert not caplog.messages, "the stream ended as streams do"


async def test_a_client_that_gives_up_a_request(service: Service) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"GET /soon/task?timeout=3 HTTP/1.1\r\nHost: service\r\n\r\n")
    await service.waits_for(1)
    writer.transport.abort()
    await service.waits_for(0)
    await service.backend.store_result("task", 42)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}") as client:
        assert (await client.get("/soon/task", params={"timeout": 5})).json() == 42
