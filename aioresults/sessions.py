"""Live sessions with the broker, one after another.

A session lasts from connect to loss; a reconnect is the next session. Whatever belongs to a session dies with it;
whatever must survive (waits, unsent reports) lives outside and looks at ``Sessions.current``.

Reconnecting never gives up: at once, then up to a second apart with jitter. When the broker refuses us for good
(credentials, vhost, TLS, our own declarations), nothing is tried until somebody asks again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Final, TypeVar

from aioresults.errors import AioResultsError, BrokerRefused, BrokerUnavailable
from aioresults.transport.base import Channel, Connection, Transport

T = TypeVar("T")

logger = logging.getLogger("aioresults")

#: Seconds between two attempts to connect, at the most.
RECONNECT_INTERVAL: Final = 1.0
#: Operations at a time per connection: declarations are 2-3 times as fast on 8 to 16 channels as on one.
POOL_SIZE: Final = 16


@asynccontextmanager
async def limited(timeout: float) -> AsyncIterator[None]:
    """Raise ``BrokerUnavailable`` when the body takes longer than ``timeout`` seconds."""
    try:
        async with asyncio.timeout(timeout) as scope:
            yield
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise BrokerUnavailable(f"no answer from the broker within {timeout:g} s") from error


class ChannelPool:
    """Channels for declare, get and delete on one connection, each used by one operation at a time.

    An operation runs as a task of its own: cancelling its caller neither cancels it nor closes a channel. A channel
    that an operation broke is dropped, with whatever was unacknowledged on it.
    """

    def __init__(self, connection: Connection, timeout: float, size: int = POOL_SIZE) -> None:
        self._connection = connection
        self._timeout = timeout
        self._free: list[Channel] = []
        self._turns = asyncio.Semaphore(size)
        self._running: set[asyncio.Task[object]] = set()

    async def run(self, operation: Callable[[Channel], Awaitable[T]]) -> T:
        """Run ``operation`` with a channel; ``BrokerUnavailable`` when it takes longer than ``rpc_timeout``."""
        task = asyncio.get_running_loop().create_task(self._run(operation))
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have left

    async def _run(self, operation: Callable[[Channel], Awaitable[T]]) -> T:
        async with self._turns:
            channel: Channel | None = None
            try:
                async with limited(self._timeout):
                    channel = self._take() or await self._connection.channel()
                    result = await operation(channel)
            except BaseException:
                if channel is not None:
                    await channel.close()
                raise
            if not channel.is_closed:
                self._free.append(channel)
            return result

    def _take(self) -> Channel | None:
        while self._free:
            channel = self._free.pop()
            if not channel.is_closed:
                return channel
        return None


class Session:
    """One live connection to the broker; two of them, when something is consumed.

    A connection that publishes is blocked by the broker's alarms, and its RPCs with it, so what is consumed has a
    connection of its own.

    Args:
        connections: one to publish, and one to consume if anything is; a further one is added when it is needed.
    """

    def __init__(self, transport: Transport, connections: list[Connection], rpc_timeout: float) -> None:
        self._transport = transport
        self._connections = connections
        self._publishing, self._consuming = connections[0], connections[-1]
        self._rpc_timeout = rpc_timeout
        self._publish_pool = self._consume_pool = ChannelPool(self._publishing, rpc_timeout)
        if self._consuming is not self._publishing:
            self._consume_pool = ChannelPool(self._consuming, rpc_timeout)
        self._publisher: Channel | None = None
        self._apart: Connection | None = None
        self._opening = asyncio.Lock()
        self._opening_apart = asyncio.Lock()
        self.lost: asyncio.Future[BrokerUnavailable] = asyncio.get_running_loop().create_future()
        for connection in connections:
            connection.on_close(self._on_close)

    def _on_close(self, reason: BaseException) -> None:
        if not self.lost.done():
            lost = reason if isinstance(reason, BrokerUnavailable) else BrokerUnavailable(str(reason))
            self.lost.set_result(lost)

    @property
    def publisher(self) -> Channel | None:
        """The channel with confirms that all publishing shares; None when ``open_publisher`` has to be called."""
        channel = self._publisher
        return None if channel is None or channel.is_closed else channel

    async def open_publisher(self) -> Channel:
        """Return the channel that all publishing shares, a new one when the last was closed."""
        async with self._opening, limited(self._rpc_timeout):
            channel = self.publisher
            if channel is None:
                channel = self._publisher = await self._publishing.channel(confirms=True)
            return channel

    async def consumer(self, prefetch_count: int) -> Channel:
        """Open a channel for consumers of at most ``prefetch_count`` unacknowledged messages each."""
        async with limited(self._rpc_timeout):
            channel = await self._consuming.channel()
            await channel.basic_qos(prefetch_count)
        return channel

    async def run(self, operation: Callable[[Channel], Awaitable[T]], *, publishing: bool = False) -> T:
        """Run an operation with a channel of its own, on the connection that publishes if so asked."""
        return await (self._publish_pool if publishing else self._consume_pool).run(operation)

    async def channel(self) -> Channel:
        """Open a channel for the user's own work, on a connection apart: what goes wrong there disturbs nothing."""
        async with self._opening_apart, limited(self._rpc_timeout):
            if self._apart is None or self._apart.is_closed:
                self._apart = await self._transport.connect()
                self._connections.append(self._apart)
            return await self._apart.channel(confirms=True)

    async def close(self) -> None:
        """Close the connections; they bound how long that takes."""
        await asyncio.gather(*(connection.close() for connection in self._connections))


class Sessions:
    """Connects, again and again.

    Args:
        transport: where connections come from.
        prepare: awaited with each new session before anyone uses it, to declare what must exist; an error of it
            that is not ``BrokerUnavailable`` counts as being refused for good.
        on_refused: called when trying again does not help.
        store_only: no connection to consume.
        connect_timeout, rpc_timeout: seconds, for one attempt to connect and for one operation.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        prepare: Callable[[Session], Awaitable[None]],
        on_refused: Callable[[AioResultsError], None],
        store_only: bool,
        connect_timeout: float,
        rpc_timeout: float,
    ) -> None:
        self._transport = transport
        self._prepare = prepare
        self._on_refused = on_refused
        self._store_only = store_only
        self._connect_timeout = connect_timeout
        self._rpc_timeout = rpc_timeout
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        self._refusal: AioResultsError | None = None
        self._end: AioResultsError | None = None
        self._current: Session | None = None
        #: Why there is no session now.
        self.last_error: AioResultsError = BrokerUnavailable("no attempt to connect has ended yet")
        #: Sessions so far, failed attempts to connect so far.
        self.count = 0
        self.failures = 0

    @property
    def current(self) -> Session | None:
        """The session that can be used now; none from the moment it is lost, though it may take seconds to close."""
        session = self._current
        return None if session is None or session.lost.done() else session

    async def live(self) -> AsyncGenerator[Session, None]:
        """Yield sessions for ever, the next one when the caller has finished with the last.

        To be closed with ``aclosing``: a generator that is merely dropped leaves its connection behind.
        """
        attempt = 0
        while True:
            try:
                session = await self._open()
            except BrokerUnavailable as error:
                if isinstance(error, BrokerRefused):
                    await self._refused(error)
                else:
                    self._failed(error, attempt)
            except AioResultsError as error:
                await self._refused(error)
            else:
                established = monotonic()
                try:
                    self._establish(session)
                    yield session
                finally:
                    self._current = None
                    if session.lost.done():
                        self._lost(session.lost.result())
                    await session.close()
                if monotonic() - established > RECONNECT_INTERVAL:
                    attempt = 0
            await asyncio.sleep(min(attempt * 0.25, RECONNECT_INTERVAL) * random.uniform(0.5, 1.0))
            attempt += 1

    async def _open(self) -> Session:
        opened: list[Connection | Session] = []
        try:
            async with limited(self._connect_timeout):
                connections = [await self._connect(opened) for _ in range(1 if self._store_only else 2)]
                session = Session(self._transport, connections, self._rpc_timeout)
                opened.append(session)
                await self._prepare(session)
            return session
        except BaseException as error:
            for each in reversed(opened):
                await each.close()
            if isinstance(error, Exception) and not isinstance(error, AioResultsError):
                raise AioResultsError(f"preparing the session failed: {error!r}") from error
            raise

    async def _connect(self, opened: list[Connection | Session]) -> Connection:
        connection = await self._transport.connect()
        opened.append(connection)
        return connection

    def _establish(self, session: Session) -> None:
        self.count += 1
        if self.count > 1 or self.failures:
            logger.info("connected to %s", self._transport.as_uri())
        self._current = session
        self._notify()

    def _lost(self, error: BrokerUnavailable) -> None:
        self.last_error = error
        logger.warning("connecting again to %s: %s", self._transport.as_uri(), error)

    def _failed(self, error: BrokerUnavailable, attempt: int) -> None:
        self.failures += 1
        self.last_error = error
        if attempt == 0:
            logger.warning("no connection to %s, trying again: %s", self._transport.as_uri(), error)
        self._notify()

    async def _refused(self, error: AioResultsError) -> None:
        self.failures += 1
        self.last_error = self._refusal = error
        logger.error("refused by %s: %s", self._transport.as_uri(), error)
        self._asked.clear()
        self._on_refused(error)
        self._notify()
        await self._asked.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def ask(self) -> None:
        """Have the next attempt made now, if the last one was refused."""
        if self._refusal is not None:
            self.last_error = BrokerUnavailable(f"trying again after: {self._refusal}")
            self._refusal = None
        self._asked.set()

    async def wait(self, timeout: float | None) -> Session:
        """Return the current session, or wait for the next one up to ``timeout`` seconds.

        Raises:
            BrokerUnavailable: there is none, for the reason of the last attempt.
            AioResultsError: the error that the broker refused us with, or the one of ``end``.
        """
        self.ask()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.current is None and self._end is None:
                    await self._changed.wait()
                    if self._refusal is not None:
                        raise self._refusal.with_traceback(None)
        if self._end is not None:
            raise self._end.with_traceback(None)
        if self.current is None:
            if timeout and not isinstance(self.last_error, BrokerRefused):
                text = f"no connection to {self._transport.as_uri()} within {timeout:g} s: {self.last_error}"
                raise BrokerUnavailable(text) from self.last_error
            raise self.last_error.with_traceback(None)
        return self.current

    def end(self, error: AioResultsError) -> None:
        """Tell those who wait for a session, now and from now on, that none will come."""
        self.last_error = self._end = error
        self._notify()
