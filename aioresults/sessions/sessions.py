"""Live sessions with the broker, one after another.

A session lasts from connect to loss; a reconnect is the next session. Whatever belongs to a session dies with it.
Whatever must survive (waits, unsent reports) lives outside and looks at ``Sessions.current``.

Reconnecting never gives up: the first attempt is immediate, later ones are up to a second apart with jitter. When the
broker refuses this client for good (credentials, vhost, TLS, a declaration), nothing is tried until a call asks again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Final, Protocol, TypeVar

from aioresults.errors import AioResultsError, BrokerRefused, BrokerUnavailable, ChannelClosed
from aioresults.events import Blocked, Connected, ConnectFailed, ConnectionLost, ConnectRefused, Events, Unblocked
from aioresults.sessions.channel_pool import ChannelPool
from aioresults.timing import fail_after
from aioresults.transport.base import Channel, Connection, Transport

T = TypeVar("T")

#: Seconds between two attempts to connect, at the most.
RECONNECT_INTERVAL: Final = 1.0
#: Seconds between two looks at the clock. A lag may be longer than measured by up to as much.
LAG_INTERVAL: Final = 1.0
#: Seconds after which a past lag no longer explains a loss.
RECENT_LAG: Final = 10.0
#: Seconds; shorter lags are normal in a busy loop.
NOTABLE_LAG: Final = 1.0


class SessionOwner(Protocol):
    """The user of the sessions."""

    async def prepare(self, session: Session) -> None:
        """Declare what must exist before a new session is used.

        An error other than ``BrokerUnavailable`` or ``ChannelClosed`` counts as a refusal for good.
        """

    def refused(self, error: AioResultsError) -> None:
        """The broker refuses this client, and trying again does not help."""


class Session:
    """One live connection to the broker, or two where something is consumed.

    The broker's alarms block a connection that publishes, and its RPCs with it. Consumers therefore have a connection
    of their own.

    Args:
        sessions: owns this session; told when it is lost, and when the broker blocks it.
        connections: one to publish, and one to consume if anything is consumed; one more is added when it is needed.
    """

    def __init__(self, sessions: Sessions, connections: list[Connection]) -> None:
        self._sessions = sessions
        self._connections = connections
        self._publishing, self._consuming = connections[0], connections[-1]
        self._rpc_timeout = sessions.rpc_timeout
        self._publish_pool = self._consume_pool = ChannelPool(self._publishing, self._rpc_timeout)
        if self._consuming is not self._publishing:
            self._consume_pool = ChannelPool(self._consuming, self._rpc_timeout)
        self._publisher: Channel | None = None
        self._apart: Connection | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._is_over = False
        self._opening = asyncio.Lock()
        self._opening_apart = asyncio.Lock()
        self.lost: asyncio.Future[BrokerUnavailable] = asyncio.get_running_loop().create_future()
        #: Why the broker blocks publishers; None while it does not.
        self.blocked: str | None = None
        for connection in connections:
            connection.on_close(self._on_close)
        self._publishing.on_blocked(self._on_blocked)
        self._loop = asyncio.get_running_loop()
        self._worst_lag = self._lag_ended = 0.0
        self._look_at_the_clock()

    def _on_close(self, reason: BaseException) -> None:
        if not self.lost.done():
            lost = reason if isinstance(reason, BrokerUnavailable) else BrokerUnavailable(str(reason))
            self.lost.set_result(lost)
            self._sessions.session_lost(self)

    def _on_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        self._sessions.session_blocked(self)

    def _look_at_the_clock(self) -> None:
        self._due = self._loop.time() + LAG_INTERVAL
        self._clock_timer = self._loop.call_at(self._due, self._note_lag)

    def _note_lag(self) -> None:
        """Measure how late this call is, and schedule the next one."""
        now = self._loop.time()
        lag = now - self._due
        if lag >= NOTABLE_LAG and (lag >= self._worst_lag or now - self._lag_ended > RECENT_LAG):
            self._worst_lag, self._lag_ended = lag, now
        self._clock_timer.cancel()
        self._look_at_the_clock()

    def recent_lag(self) -> float:
        """Return the longest time that the event loop was blocked within the last ``RECENT_LAG`` seconds, in seconds.

        That is the usual cause of a connection that is lost for lack of heartbeats.
        """
        self._note_lag()
        return self._worst_lag if self._loop.time() - self._lag_ended <= RECENT_LAG else 0.0

    @property
    def publisher(self) -> Channel | None:
        """The channel with confirms that all publishing shares; None when ``open_publisher`` must be called."""
        channel = self._publisher
        return None if channel is None or channel.is_closed else channel

    async def open_publisher(self) -> Channel:
        """Return the channel that all publishing shares; open a new one if the last was closed."""
        async with fail_after(self._rpc_timeout), self._opening:
            channel = self.publisher
            if channel is None:
                channel = self._publisher = await self._publishing.channel(confirms=True)
            return channel

    def replace_publisher(self, channel: Channel) -> None:
        """Publish over another channel from now on: the broker refused a publish on this one.

        RabbitMQ 3.10 refuses, for ever on one channel, every publish to a quorum queue whose leader was lost after the
        channel first published there. On a new channel it knows the new leader.
        """
        if self._publisher is channel:
            self._publisher = None
            # Later, because other publishes may await their confirms on it.
            asyncio.get_running_loop().call_later(self._rpc_timeout, self._close_later, channel)

    def _close_later(self, channel: Channel) -> None:
        closing = asyncio.ensure_future(channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def consumer(self, prefetch_count: int) -> Channel:
        """Open a channel for consumers, each with at most ``prefetch_count`` unacknowledged messages."""
        async with fail_after(self._rpc_timeout):
            channel = await self._consuming.channel()
            await channel.basic_qos(prefetch_count)
        return channel

    async def run(self, operation: Callable[[Channel], Awaitable[T]], *, publishing: bool = False) -> T:
        """Run an operation on a channel of its own; with ``publishing``, on the connection that publishes."""
        return await (self._publish_pool if publishing else self._consume_pool).run(operation)

    async def channel(self) -> Channel:
        """Open a channel for the user's own work, on a separate connection: an error there disturbs nothing else."""
        async with fail_after(self._rpc_timeout), self._opening_apart:
            if self._apart is None or self._apart.is_closed:
                self._apart = await self._sessions.transport.connect()
                self._connections.append(self._apart)
                if self._is_over:  # closed meanwhile: nothing else would close this connection
                    await self._apart.close()
                    raise BrokerUnavailable("the session is over")
            return await self._apart.channel(confirms=True)

    async def close(self) -> None:
        """Close the connections, which limit how long that takes."""
        self._is_over = True
        self._clock_timer.cancel()
        await asyncio.gather(*(connection.close() for connection in self._connections))


class Sessions:
    """Connects, again and again.

    Args:
        transport: opens connections.
        owner: prepares each new session, and is told when the broker refuses this client.
        events: told of each loss, failure, refusal and success, and of blocked publishers.
        store_only: whether there is no connection to consume.
        connect_timeout: seconds in which every address is tried; each attempt has an equal share.
        rpc_timeout: seconds that one operation may take.
    """

    def __init__(
        self,
        transport: Transport,
        owner: SessionOwner,
        events: Events,
        *,
        store_only: bool,
        connect_timeout: float,
        rpc_timeout: float,
    ) -> None:
        self.transport: Final = transport
        #: The address of the last attempt, without the password.
        self._uri = transport.as_uri()
        self._events = events
        self._owner = owner
        self._store_only = store_only
        self._attempt_timeout = connect_timeout / transport.nodes
        self.rpc_timeout: Final = rpc_timeout
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        #: Why the broker refused this client; None if it did not, or if another attempt was asked for.
        self.refusal: AioResultsError | None = None
        self._end: AioResultsError | None = None
        #: The session that can be used now; None from the moment of its loss, even if closing it takes seconds. An
        #: attribute, because every store looks here.
        self.current: Session | None = None
        #: The reason why there is no session now.
        self.last_error: AioResultsError = BrokerUnavailable("no attempt to connect has ended yet")
        #: The sessions, and the failed attempts to connect, up to now.
        self.count: int = 0
        self.failures: int = 0
        #: How often the broker blocked publishers.
        self.blocks: int = 0
        self._blocked_at = 0.0
        self._away_since = monotonic()

    async def live(self) -> AsyncGenerator[Session, None]:
        """Yield sessions for ever; the next one when the caller has finished with the last.

        Close it with ``aclosing``: a generator that is merely dropped leaves its connection open.
        """
        self._away_since = monotonic()
        attempt = failed = 0
        is_starting = False
        while True:
            self._uri = self.transport.as_uri()
            try:
                session = await self._open()
            except BrokerUnavailable as error:
                failed += 1
                is_starting = False
                if isinstance(error, BrokerRefused):
                    await self._refused(error)
                else:
                    self._failed(error, failed)
            except ChannelClosed as error:  # for example, a queue on a dead node, or a stream that is starting
                failed += 1
                if not is_starting:
                    is_starting, attempt = True, min(attempt, 1)  # the broker is back and may soon be ready
                self._failed(BrokerUnavailable(str(error)), failed)
            except AioResultsError as error:
                failed += 1
                await self._refused(error)
            else:
                established = monotonic()
                try:
                    self._establish(session, failed + 1)
                    yield session
                finally:
                    self.current = None
                    if session.lost.done():
                        self._lost(session.lost.result(), session.recent_lag())
                    await session.close()
                failed, is_starting = 0, False
                if monotonic() - established > RECONNECT_INTERVAL:
                    attempt = 0
            await asyncio.sleep(min(attempt * 0.25, RECONNECT_INTERVAL) * random.uniform(0.5, 1.0))
            attempt += 1

    async def _open(self) -> Session:
        opened: list[Connection | Session] = []
        try:
            async with fail_after(self._attempt_timeout):
                connections = [await self._connect(opened) for _ in range(1 if self._store_only else 2)]
                session = Session(self, connections)
                opened.append(session)
                await self._owner.prepare(session)
            return session
        except BaseException as error:
            if opened:
                self.transport.skip()  # this node accepted us but could not be used
            for each in reversed(opened):
                await each.close()
            if isinstance(error, Exception) and not isinstance(error, AioResultsError):
                raise AioResultsError(f"preparing the session failed: {error!r}") from error
            raise

    async def _connect(self, opened: list[Connection | Session]) -> Connection:
        connection = await self.transport.connect()
        opened.append(connection)
        return connection

    def _establish(self, session: Session, attempts: int) -> None:
        self.count += 1
        if not session.lost.done():
            self.current = session
        self._notify()
        away = monotonic() - self._away_since
        self._events.emit(Connected(self._uri, self.count, attempts, away))
        if session.blocked is not None:
            self.session_blocked(session)

    def session_lost(self, session: Session) -> None:
        """Note that a session can no longer be used."""
        if self.current is session:
            self.current = None

    def session_blocked(self, session: Session) -> None:
        """Report that the broker blocks what a session publishes, or that it accepts messages again."""
        if session is not self.current:
            return  # not used yet, or no longer
        if session.blocked is None:
            self._events.emit(Unblocked(self._uri, monotonic() - self._blocked_at))
        else:
            self.blocks += 1
            self._blocked_at = monotonic()
            self._events.emit(Blocked(self._uri, session.blocked))

    def _lost(self, error: BrokerUnavailable, lag: float) -> None:
        self.last_error = error
        self._away_since = monotonic()
        self._events.emit(ConnectionLost(self._uri, str(error), lag))

    def _failed(self, error: BrokerUnavailable, attempt: int) -> None:
        self.failures += 1
        self.last_error = error
        self._events.emit(ConnectFailed(self._uri, str(error), attempt))
        self._notify()

    async def _refused(self, error: AioResultsError) -> None:
        self.failures += 1
        self.last_error = self.refusal = error
        self._asked.clear()
        self._events.emit(ConnectRefused(self._uri, str(error)))
        self._owner.refused(error)
        self._notify()
        await self._asked.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def ask(self) -> None:
        """Make the next attempt now if the last one was refused."""
        if self.refusal is not None:
            self.last_error = BrokerUnavailable(f"trying again after: {self.refusal}")
            self.refusal = None
        self._asked.set()

    async def wait(self, timeout: float | None) -> Session:
        """Return the current session, or wait up to ``timeout`` seconds for the next one.

        Raises:
            BrokerUnavailable: there is no session, for the reason of the last attempt.
            AioResultsError: the broker refused this client with this error, or ``end`` was called with it.
        """
        self.ask()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.current is None and self._end is None:
                    await self._changed.wait()
                    if self.refusal is not None:
                        raise self.refusal.with_traceback(None)
        if self._end is not None:
            raise self._end.with_traceback(None)
        if self.current is None:
            if timeout and not isinstance(self.last_error, BrokerRefused):
                text = f"no connection to {self._uri} within {timeout:g} s: {self.last_error}"
                raise BrokerUnavailable(text) from self.last_error
            raise self.last_error.with_traceback(None)
        return self.current

    @asynccontextmanager
    async def within(self, timeout: float) -> AsyncIterator[Session]:
        """Yield a session as ``wait`` does; raise ``BrokerUnavailable`` after ``timeout`` seconds in all."""
        deadline = monotonic() + timeout
        session = await self.wait(timeout)
        async with fail_after(deadline - monotonic()):
            yield session

    def end(self, error: AioResultsError) -> None:
        """Fail all who wait for a session, now and later: there will be none."""
        self.last_error = self._end = error
        self._notify()
