"""Opening and closing connections to RabbitMQ."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from aiormq import Channel as UnderlayChannel
from aiormq import Connection as UnderlayConnection
from aiormq import spec

from aioresults.errors import AioResultsError, BrokerUnavailable, NotSupported
from aioresults.transport.amqp.channel import AMQPChannel
from aioresults.transport.amqp.outcome import (
    CLOSE_TIMEOUT,
    is_cancelled_by_caller,
    translate,
    translate_connect,
    translated,
)
from aioresults.transport.amqp.wire import Wire
from aioresults.transport.base import OnBlocked, OnClose

#: Seconds for an attempt to connect to succeed after its caller has left.
GIVE_UP_TIMEOUT: Final = 0.5


class AMQPTransport:
    """Opens connections to one RabbitMQ, or to the nodes of one cluster in turn.

    Args:
        urls: ``amqp://`` or ``amqps://`` URLs; after a failure the next one is tried.
        connection: opens an aio-pika connection instead; ``urls`` then only says what to print.
        heartbeat: seconds; used where a URL does not name its own.
        name: the connection name shown by the broker's management tools.
        ssl_context: for ``amqps://``; by default one is made from the URL's parameters.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        connection: Callable[[], Awaitable[AbstractConnection]] | None = None,
        heartbeat: int = 10,
        name: str = "aioresults",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._urls = [make_url(url) for url in urls]
        self._next = 0
        self._connection = connection
        self._heartbeat = heartbeat
        self._name = name
        self._ssl_context = ssl_context
        self._giving_up: set[asyncio.Task[None]] = set()

    @property
    def nodes(self) -> int:
        return max(1, len(self._urls))

    def skip(self) -> None:
        if self._urls:
            self._next = (self._next + 1) % len(self._urls)

    async def connect(self) -> AMQPConnection:
        opener = self._connection() if self._connection else self._open(self._urls[self._next])
        opening = asyncio.ensure_future(opener)
        try:
            opened = await asyncio.shield(opening)
        except (Exception, asyncio.CancelledError) as error:
            self.skip()
            if is_cancelled_by_caller(error):
                # A task of its own, because its caller may be cancelled once more.
                giving_up = asyncio.create_task(_give_up(opening))
                self._giving_up.add(giving_up)
                giving_up.add_done_callback(self._giving_up.discard)
                await asyncio.shield(giving_up)
                raise
            raise translate_connect(error) from error
        try:
            return AMQPConnection(opened)
        except NotSupported:
            await opened.close()
            raise

    async def _open(self, url: Any) -> AbstractConnection:
        parameters: dict[str, Any] = {} if "heartbeat" in url.query else {"heartbeat": self._heartbeat}
        connection = aio_pika.Connection(
            make_url(url, **parameters),
            ssl_context=self._ssl_context,
            client_properties={"connection_name": self._name},
        )
        try:
            await connection.connect()
        except BaseException:
            await connection.close()  # see AMQPConnection.close
            raise
        return connection

    def as_uri(self, include_password: bool = False) -> str:
        if not self._urls:
            return "amqp://"
        url = self._urls[self._next].with_query(None)
        return str(url) if include_password or url.password is None else str(url.with_password("**"))


class AMQPConnection:
    """One aio-pika connection."""

    def __init__(self, connection: AbstractConnection) -> None:
        if connection.transport is None:
            raise BrokerUnavailable("the connection is not open")
        underlay = cast("UnderlayConnection", connection.transport.connection)
        self._connection = connection
        self._closing = False
        self._closed: asyncio.Future[Any] = underlay.closing
        self._frames: asyncio.Queue[Any] = underlay.write_queue
        self._wire = Wire.of(underlay)
        self._numbers = self._wire.numbers
        self._reason: AioResultsError | None = None
        self._callbacks: list[OnClose] = []
        self._closed.add_done_callback(self._lost)
        # aiormq only writes a log line when it is blocked; its two handlers are the one place that knows.
        handlers: Any = underlay
        handlers._Connection__handle_connection_blocked = self._blocked
        handlers._Connection__handle_connection_unblocked = self._unblocked
        self._on_blocked: list[OnBlocked] = []

    @property
    def is_closed(self) -> bool:
        return self._is_lost()

    def _is_lost(self) -> bool:
        return self._closing or self._closed.done()

    def on_close(self, callback: OnClose) -> None:
        if self._reason is not None:
            asyncio.get_running_loop().call_soon(callback, self._reason)
        self._callbacks.append(callback)

    def on_blocked(self, callback: OnBlocked) -> None:
        self._on_blocked.append(callback)

    async def _blocked(self, frame: spec.Connection.Blocked) -> None:
        for callback in self._on_blocked:
            asyncio.get_running_loop().call_soon(callback, frame.reason or "no reason given")

    async def _unblocked(self, frame: spec.Connection.Unblocked) -> None:
        for callback in self._on_blocked:
            asyncio.get_running_loop().call_soon(callback, None)

    def _lost(self, closed: asyncio.Future[Any]) -> None:
        self._empty_frames()
        if self._closing:
            return
        reason = None if closed.cancelled() else closed.exception()
        self._reason = translate(reason, connection_lost=True)
        for callback in self._callbacks:
            callback(self._reason)

    def _empty_frames(self) -> None:
        """Wake the calls that wait for room among the frames to be sent: aiormq leaves them there for ever."""
        if not self._frames.empty():
            while not self._frames.empty():
                self._frames.get_nowait()
            asyncio.get_running_loop().call_soon(self._empty_frames)  # what they have put there since

    async def channel(self, *, confirms: bool = False) -> AMQPChannel:
        async def opened() -> AMQPChannel:
            with self._numbers.reserved() as number:
                channel = self._connection.channel(number, publisher_confirms=confirms, on_return_raises=confirms)
                await channel.initialize()
                underlay = cast("UnderlayChannel", await channel.get_underlay_channel())
            self._numbers.taken(number, underlay)
            return AMQPChannel(self, self._is_lost, self._wire, channel, underlay, confirms=confirms)

        opening = asyncio.get_running_loop().create_task(translated(opened(), self._is_lost))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard)
            raise

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        # Also when it was lost: aio-pika's object would close itself when it is collected, and warn where that has no
        # event loop, in another thread for example.
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._connection.close()


async def _give_up(opening: asyncio.Future[AbstractConnection]) -> None:
    """End an attempt whose caller has left: cancelled in the moment of success, aiormq leaves a connection behind."""
    await asyncio.wait([opening], timeout=GIVE_UP_TIMEOUT)
    opening.cancel()
    with suppress(Exception, asyncio.CancelledError):
        await (await opening).close()


def _discard(opening: asyncio.Task[AMQPChannel]) -> None:
    """Close a channel whose caller left while it was opened."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().discard()
