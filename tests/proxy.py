"""A TCP proxy that fails on command: the network between a client and a broker, in the hands of a test.

It lives in the test's event loop. `cut` and `restore`: nobody is there, then somebody is again. `drop`: the connections
end, new ones are welcome. `stall` and `resume`: the connections stay, and nothing comes through (half-open). `slow`: as
little as you like comes through.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from aioresults.contrib.rabbitmq import free_ports

Direction = Literal["to_server", "to_client"]
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds; closing then sends RST, as a machine does that went away


class Proxy:
    """Forwards 127.0.0.1:`port` to `target_host`:`target_port`. Use it as `async with Proxy(...) as proxy`."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = target_host, target_port
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._budget: dict[Direction, int] = {}
        self._rate: int | None = None
        self.port = 0
        self.accepted = 0  #: connections since the start
        self.forwarded: dict[Direction, int] = {"to_server": 0, "to_client": 0}  #: bytes since the start

    def url_for(self, url: str) -> str:
        """`url` with this proxy in the place of its host and port."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    @property
    def is_cut(self) -> bool:
        """Whether nobody is let in: after `cut`, or when what `cut_after` let through was used up."""
        return self._server is None

    async def start(self) -> None:
        """Listen on a free port."""
        while self._server is None:
            [self.port] = free_ports(1)
            with contextlib.suppress(OSError):
                await self.restore()

    async def close(self) -> None:
        """End everything. Idempotent."""
        links = list(self._links)
        self.cut()
        await asyncio.gather(*links, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def cut(self) -> None:
        """Reset every connection and refuse new ones, until `restore`."""
        self._budget.clear()
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()

    async def restore(self) -> None:
        """End a `cut`: listen again, on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._link, "127.0.0.1", self.port)

    def drop(self) -> None:
        """Reset every connection; new ones are accepted."""
        for writer in self._writers:
            _reset(writer)
        for link in self._links:
            link.cancel()

    def stall(self) -> None:
        """Hold back every byte, and leave every connection open, new ones too."""
        self._flowing.clear()

    def resume(self) -> None:
        """End a `stall`: what was held back arrives."""
        self._flowing.set()

    def slow(self, rate: int | None) -> None:
        """Let no more than `rate` bytes a second through, for each connection and direction; None ends that."""
        self._rate = rate

    def cut_after(self, n_bytes: int, direction: Direction) -> None:
        """Let `n_bytes` more through in that direction, all connections together, then `cut`."""
        self._budget[direction] = n_bytes

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self._writers.add(writer)
        self.accepted += 1
        server_writer = None
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            self._writers.add(server_writer)
            # Whichever side ends first ends both: AMQP has no half-closed connections.
            pumps = [
                asyncio.ensure_future(self._pump(reader, server_writer, "to_server")),
                asyncio.ensure_future(self._pump(server_reader, writer, "to_client")),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            # No target, or `drop`. Not raised again: asyncio would report a cancelled connection as an error.
            _reset(writer)
        finally:
            self._links.discard(task)
            for side in filter(None, (writer, server_writer)):
                self._writers.discard(side)
                side.close()
                with contextlib.suppress(OSError):
                    await side.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536 if self._rate is None else max(1, self._rate // 20)):
                await self._flowing.wait()
                if self._rate is not None:
                    await asyncio.sleep(len(data) / self._rate)
                budget = self._budget.get(direction)
                if budget is not None:
                    data = data[:budget]
                    self._budget[direction] = budget - len(data)
                writer.write(data)
                self.forwarded[direction] += len(data)
                await writer.drain()
                if self._budget.get(direction) == 0:
                    self.cut()
                    return


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
