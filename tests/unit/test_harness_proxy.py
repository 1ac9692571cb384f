"""The proxy does to connections what its words say."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic

import pytest

from tests.proxy import Direction, Proxy

OpenProxy = Callable[[str], Awaitable[Proxy]]


@pytest.fixture
async def echo_url() -> AsyncIterator[str]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield f"amqp://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}/vhost?heartbeat=5"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, proxy: Proxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def echo(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))

    async def until_reset(self) -> bytes:
        received = b""
        try:
            while data := await self.reader.read(100):
                received += data
        except ConnectionResetError:
            return received
        raise AssertionError("closed in good order, not reset")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def test_forwards_both_ways_and_counts(proxy: OpenProxy, echo_url: str) -> None:
    between = await proxy(echo_url)
    client = await Client.connect(between)
    big = b"x" * 1_000_000
    assert await client.echo(big) == big
    assert between.forwarded == {"to_server": len(big), "to_client": len(big)}
    assert (between.accepted, between.connections) == (1, 1)
    await client.close()


async def test_url_keeps_all_but_the_address(proxy: OpenProxy, echo_url: str) -> None:
    between = await proxy(echo_url)
    assert between.url_for(echo_url) == f"amqp://guest:guest@127.0.0.1:{between.port}/vhost?heartbeat=5"
    assert between.url_for("amqp://somewhere") == f"amqp://127.0.0.1:{between.port}"


async def test_cut_resets_and_refuses_until_restored(proxy: OpenProxy, echo_url: str) -> None:
    between = await proxy(echo_url)
    client = await Client.connect(between)
    await client.echo(b"hello")
    between.cut()
    with pytest.raises(ConnectionResetError):
        await client.reader.readexactly(1)
    await client.close()
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(between)
    await between.restore()
    again = await Client.connect(between)
    assert await again.echo(b"again") == b"again"
    await again.close()


async def test_drop_resets_and_welcomes_new_ones(proxy: OpenProxy, echo_url: str) -> None:
    between = await proxy(echo_url)
    client = await Client.connect(between)
    await client.echo(b"hello")
    between.drop()
    with pytest.raises(ConnectionResetError):
        await client.reader.readexactly(1)
    await client.close()
    again = await Client.connect(between)
    assert await again.echo(b"again") == b"again"
    await again.close()


async def test_stall_holds_everything_back_and_resume_delivers_it(proxy: OpenProxy, echo_url: str) -> None:
    between = await proxy(echo_url)
    client = await Client.connect(between)
    await client.echo(b"hello")
    between.stall()
    echoed = asyncio.ensure_future(client.echo(b"held back"))
    done, _ = await asyncio.wait([echoed], timeout=0.1)
    assert not done
    assert not client.reader.at_eof()
    between.resume()
    assert await echoed == b"held back"
    await client.close()


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_cut_after_lets_exactly_so_many_bytes_through(
    proxy: OpenProxy, echo_url: str, direction: Direction
) -> None:
    between = await proxy(echo_url)
    client = await Client.connect(between)
    await client.echo(b"hello")
    before = between.forwarded[direction]
    between.cut_after(3, direction)
    client.writer.write(b"abcdef")
    received = await client.until_reset()
    assert between.forwarded[direction] - before == 3
    assert received == (b"abc" if direction == "to_client" else received[:3])
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(between)
    await client.close()


async def test_a_cut_ends_what_cut_after_has_begun(proxy: OpenProxy, echo_url: str) -> None:
    between = await proxy(echo_url)
    between.cut_after(5, "to_server")
    between.cut()
    await between.restore()
    client = await Client.connect(between)
    assert await client.echo(b"more than five") == b"more than five"
    await client.close()


async def test_slow_is_no_faster_than_it_says(proxy: OpenProxy, echo_url: str) -> None:
    between = await proxy(echo_url)
    between.slow(1000)
    client = await Client.connect(between)
    began = monotonic()
    assert await client.echo(b"x" * 200) == b"x" * 200
    assert monotonic() - began >= 0.2
    await client.close()


async def test_no_target_is_a_reset(proxy: OpenProxy) -> None:
    between = await proxy("amqp://127.0.0.1:1/")
    client = await Client.connect(between)
    with pytest.raises(ConnectionResetError):
        await client.reader.readexactly(1)
    await client.close()


async def test_closing_ends_connections_that_are_stalled(echo_url: str) -> None:
    async with Proxy("127.0.0.1", int(echo_url.split(":")[3].split("/")[0])) as between:
        client = await Client.connect(between)
        await client.echo(b"hello")
        between.stall()
        client.writer.write(b"never")
    assert between.connections == 0
    with pytest.raises(ConnectionResetError):
        await client.reader.readexactly(1)
    await client.close()
