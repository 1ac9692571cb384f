"""Opening and closing connections to RabbitMQ."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url

from aioresults.errors import BrokerUnavailable
from aioresults.transport.amqp.channel import CLOSE_TIMEOUT, AMQPChannel, translated
from aioresults.transport.amqp.plain_channel import PlainChannel
from aioresults.transport.amqp.shared_socket import SharedSocket, SocketFactory
from aioresults.transport.amqp.translate_errors import translate, translate_connect
from aioresults.transport.base import OnBlocked, OnClose

logger: Final = logging.getLogger("aioresults")

#: Seconds for an attempt to connect to succeed after its caller has left.
GIVE_UP_TIMEOUT: Final = 0.5
#: The most channels that AMQP 0-9-1 has numbers for.
MAX_CHANNELS: Final = 65535


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
        self._is_plain = False

    @property
    def nodes(self) -> int:
        return max(1, len(self._urls))

    def skip(self) -> None:
        if self._urls:
            self._next = (self._next + 1) % len(self._urls)

    async def connect(self) -> AMQPConnection:
        opener = self._open_theirs(self._connection) if self._connection else self._open(self._urls[self._next])
        opening = asyncio.ensure_future(opener)
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            self.skip()
            # A task of its own, because its caller may be cancelled once more.
            giving_up = asyncio.create_task(_give_up(opening))
            self._giving_up.add(giving_up)
            giving_up.add_done_callback(self._giving_up.discard)
            await asyncio.wait([giving_up])
            raise
        try:
            return opening.result()
        except (Exception, asyncio.CancelledError) as error:
            self.skip()
            raise translate_connect(error) from error

    async def _open_theirs(self, opener: Callable[[], Awaitable[AbstractConnection]]) -> AMQPConnection:
        return AMQPConnection(await opener())

    async def _open(self, url: Any) -> AMQPConnection:
        parameters: dict[str, Any] = {} if "heartbeat" in url.query else {"heartbeat": self._heartbeat}
        connection = aio_pika.Connection(
            make_url(url, **parameters),
            ssl_context=self._ssl_context,
            client_properties={"connection_name": self._name},
        )
        factory = SocketFactory()
        if hasattr(aiormq, "TransportFactory"):
            connection.kwargs["transport_factory"] = factory
        try:
            await connection.connect()
            if factory.socket is None and not self._is_plain:
                self._is_plain = True
                logger.warning(
                    "this aiormq or aio-pika does not let us open the socket: messages go through it, slower"
                )
            return AMQPConnection(connection, factory.socket)
        except BaseException as error:
            await connection.close()  # see AMQPConnection.close
            if factory.socket is not None:
                factory.socket.abort()
                if factory.socket.fault is not None:
                    raise factory.socket.fault from error
            raise

    def as_uri(self, include_password: bool = False) -> str:
        if not self._urls:
            return "amqp://"
        url = self._urls[self._next].with_query(None)
        return str(url) if include_password or url.password is None else str(url.with_password("**"))


class AMQPConnection:
    """One aio-pika connection.

    Args:
        socket: the socket under it, if that is ours. Without it, nothing of the connection is changed or watched but
            what everybody may.
    """

    def __init__(self, connection: AbstractConnection, socket: SharedSocket | None = None) -> None:
        if connection.transport is None:
            raise BrokerUnavailable("the connection is not open")
        self._connection = connection
        self._underlay: Any = connection.transport.connection
        self._socket = socket
        self._closing = False
        self._reason: BrokerUnavailable | None = None
        #: Done once the connection is lost.
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callbacks: list[OnClose] = []
        self._on_blocked: list[OnBlocked] = []
        #: By number, until its close was answered; None while it is opened.
        self._channels: dict[int, AMQPChannel | PlainChannel | None] = {}
        self._last_number = 0
        self._max_number: int = self._underlay.connection_tune.channel_max or MAX_CHANNELS
        if socket is None:
            # aiormq counts on from the highest number in use, past the limit: the others' channels need room above.
            self._max_number = (self._max_number + 1) // 2
        else:
            socket.owner = self
        self._closed: asyncio.Future[Any] = self._underlay.closing
        self._closed.add_done_callback(self._aiormq_closed)

    @property
    def is_closed(self) -> bool:
        return self._closing or self._reason is not None or self._closed.done()

    def on_close(self, callback: OnClose) -> None:
        if self._reason is not None:
            asyncio.get_running_loop().call_soon(callback, self._reason)
        self._callbacks.append(callback)

    def on_blocked(self, callback: OnBlocked) -> None:
        self._on_blocked.append(callback)

    def blocked(self, reason: str | None) -> None:
        """The broker blocks publishers, or does so no longer (None)."""
        for callback in self._on_blocked:
            asyncio.get_running_loop().call_soon(callback, reason)

    def lost(self, error: BrokerUnavailable) -> None:
        """The connection is gone; the first error counts."""
        if self._reason is None:
            self._reason = error
            self._gone.set_result(None)
            for channel in self._open_channels():
                channel.ended(error)
            if not self._closing:
                for callback in self._callbacks:
                    asyncio.get_running_loop().call_soon(callback, error)

    def _aiormq_closed(self, closed: asyncio.Future[Any]) -> None:
        if self._socket is not None:
            self._socket.abort()
        error = translate(None if closed.cancelled() else closed.exception(), connection_lost=True)
        assert isinstance(error, BrokerUnavailable)
        self.lost(error)

    async def channel(self, *, confirms: bool = False) -> AMQPChannel | PlainChannel:
        opening = asyncio.get_running_loop().create_task(translated(self._open_channel(confirms), self))
        ends: list[asyncio.Future[Any]] = [opening, self._gone]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard)
            raise
        if not opening.done():
            opening.add_done_callback(_discard)
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, opening.cancel)  # aiormq may leave it as it is
            raise BrokerUnavailable("the connection to the broker was lost")
        return opening.result()

    async def _open_channel(self, confirms: bool) -> AMQPChannel | PlainChannel:
        number = self._last_number = self._free_number()
        self._channels[number] = None
        channel: AMQPChannel | PlainChannel
        try:
            if self._socket is None:
                # Not aio-pika's: robust ones would be opened again by themselves.
                underlay = await self._underlay.channel(number, confirms, on_return_raises=confirms)
                channel = PlainChannel(self, underlay)
            else:
                outer = self._connection.channel(number, publisher_confirms=confirms, on_return_raises=confirms)
                await outer.initialize()
                underlay = await outer.get_underlay_channel()
                channel = AMQPChannel(self, outer, underlay, self._socket, confirms=confirms)
        except BaseException:
            del self._channels[number]
            raise
        self._channels[number] = channel
        underlay.closing.add_done_callback(lambda _: self._channels.pop(number))
        return channel

    def _open_channels(self) -> list[AMQPChannel | PlainChannel]:
        return [channel for channel in self._channels.values() if channel is not None]

    def _free_number(self) -> int:
        """Return the number whose last use is longest ago.

        aiormq takes a number for free when it reads that the broker closed the channel. Its answer to that is sent by
        another task, a moment later. A channel opened in between, with the same number, makes the broker close the
        connection: 504, second 'channel.open' seen.
        """
        last, most = self._last_number, self._max_number
        for number in chain(range(last + 1, most + 1), range(1, last + 1)):
            if number not in self._underlay.channels and number not in self._channels:
                return number
        raise BrokerUnavailable(f"all {most} channels of the connection are in use")

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        for channel in self._open_channels():
            channel.is_closed = True
        # Also when it was lost: aio-pika's object would close itself when it is collected, and warn where that has no
        # event loop, in another thread for example.
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._connection.close()
        if self._socket is not None:
            self._socket.abort()


async def _give_up(opening: asyncio.Future[AMQPConnection]) -> None:
    """End an attempt whose caller has left: cancelled in the moment of success, aiormq leaves a connection behind."""
    await asyncio.wait([opening], timeout=GIVE_UP_TIMEOUT)
    opening.cancel()
    with suppress(Exception, asyncio.CancelledError):
        await (await opening).close()


def _discard(opening: asyncio.Task[AMQPChannel | PlainChannel]) -> None:
    """Close a channel whose caller left while it was opened."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().discard()
