"""A connection: the loop it belongs to, what is on its way to the client, and how it ends.

The outbox is the wire from the broker to the client. It is emptied by one callback in the connection's own loop,
so deliveries, cancels and close notices arrive in order and never inside a call; whoever finds its channel closed by
then is dropped.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aioresults.errors import AioResultsError, BrokerUnavailable
from aioresults.transport.base import OnBlocked, OnClose
from aioresults.transport.memory.channel import MemoryChannel
from aioresults.transport.memory.deliveries import Deliveries, release
from aioresults.transport.memory.wire import settle, tick

if TYPE_CHECKING:
    from aioresults.transport.memory.broker import MemoryBroker

Event = tuple[Callable[[Any], None], Any, Deliveries | None]
Stalled = tuple[Callable[[], Any], "asyncio.Future[Any] | None"]


class MemoryConnection:
    """One connection of one event loop to a ``MemoryBroker``; see ``aioresults.transport.base.Connection``."""

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_held",
        "_on_blocked",
        "_outbox",
        "_scheduled",
        "_thread",
        "_timer",
        "broker",
        "channels",
        "closed",
        "exclusive",
        "loop",
        "lost",
        "stalled",
    )

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.loop = asyncio.get_running_loop()
        self.channels: dict[MemoryChannel, None] = {}
        #: The names of its exclusive queues.
        self.exclusive: dict[str, None] = {}
        self.closed = False
        #: Why it was lost; None while it lives, and when its owner closed it.
        self.lost: BrokerUnavailable | None = None
        #: What waits behind a publish while the broker is blocked: RabbitMQ stops reading from such a connection.
        self.stalled: deque[Stalled] | None = None
        self._thread = threading.get_ident()
        self._outbox: deque[Event] = deque()
        self._held: deque[tuple[float, Event]] | None = None
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._callbacks: tuple[OnClose, ...] = ()
        self._on_blocked: tuple[OnBlocked, ...] = ()

    # --- the port

    @property
    def is_closed(self) -> bool:
        return self.closed

    def on_close(self, callback: OnClose) -> None:
        if self.lost is not None:
            self.post(callback, self.lost)
        self._callbacks += (callback,)

    def on_blocked(self, callback: OnBlocked) -> None:
        self._on_blocked += (callback,)

    async def channel(self, *, confirms: bool = False) -> MemoryChannel:
        def open_one() -> MemoryChannel:
            with self.broker.lock:
                if self.closed:
                    raise self.unavailable()
                channel = MemoryChannel(self, confirms)
                self.channels[channel] = None
                return channel

        channel: MemoryChannel = await self.stall(open_one) if self.stalled is not None else open_one()
        await tick()
        if self.lost is not None:
            raise self.unavailable()
        return channel

    async def close(self) -> None:
        self.end(None)
        await tick()

    # --- the wire

    def post(self, function: Callable[[Any], None], argument: Any, channel: Deliveries | None = None) -> None:
        """Have ``function(argument)`` called in this connection's loop, unless ``channel`` is closed by then."""
        self._outbox.append((function, argument, channel))
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    def post_delivery(self, function: Callable[[Any], None], argument: Any, channel: Deliveries) -> None:
        """Like ``post``, held for the broker's ``delay`` and behind what is held already."""
        if self._held is None and not self.broker.delay:
            self.post(function, argument, channel)
            return
        if self._held is None:
            self._held = deque()
        due = self.loop.time() + self.broker.delay
        if self._held:
            due = max(due, self._held[-1][0])
        self._held.append((due, (function, argument, channel)))
        if len(self._held) == 1:
            self._call_soon(self._release_held)

    async def caught_up(self, channel: MemoryChannel) -> None:
        """Wait until what is held now has been delivered."""
        if self._held is not None:
            future = self.loop.create_future()
            self.post_delivery(settle, (future, None, None), channel)
            await future

    def _release_held(self) -> None:
        while self._held and not self.closed:
            due, event = self._held[0]
            if due > self.loop.time():
                self.loop.call_at(due, self._release_held)
                return
            self._held.popleft()
            self.post(*event)
        self._held = None

    def _call_soon(self, function: Callable[[], None]) -> None:
        try:
            if threading.get_ident() == self._thread:
                self.loop.call_soon(function)
            else:
                self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop was closed, and this connection was left behind in it
            self.end(BrokerUnavailable("the event loop of this connection is closed"))

    def _flush(self) -> None:
        self._scheduled = False
        outbox = self._outbox
        try:
            for _ in range(len(outbox)):
                function, argument, channel = outbox.popleft()
                if channel is not None and channel.closed is not None:
                    continue
                try:
                    function(argument)
                except Exception as error:
                    context = {"message": "a callback of the memory transport failed", "exception": error}
                    self.loop.call_exception_handler(context)
        finally:
            if outbox and not self._scheduled:
                self._scheduled = True
                self.loop.call_soon(self._flush)

    def alarm(self, due: float) -> None:
        """Have the broker look at its clock at ``due``; one timer at most."""

        def start() -> None:
            if self.closed:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(max(due - self.broker.clock(), 0.001), self.broker.alarmed)

        self._call_soon(start)

    # --- blocked

    async def stall(self, operation: Callable[[], Any]) -> Any:
        """Have ``operation`` run when the broker is unblocked, even if the caller has gone by then."""
        with self.broker.lock:
            if self.closed:
                raise self.unavailable()
            if self.stalled is None:
                if not self.broker.blocked:
                    return operation()
                self.stalled = deque()
                self._tell_blocked("an alarm")
            future = self.loop.create_future()
            self.stalled.append((operation, future))
        return await future

    def _tell_blocked(self, reason: str | None) -> None:
        for callback in self._on_blocked:
            self.post(callback, reason)

    def resume(self) -> None:
        """Run what was stalled, in order."""
        stalled, self.stalled = self.stalled, None
        if stalled is not None:
            self._tell_blocked(None)
        for operation, future in stalled or ():
            result: Any = None
            error: BaseException | None = None
            try:
                result = operation()
            except AioResultsError as failure:
                error = failure
            if future is not None:
                self.post(settle, (future, result, error))

    # --- the end

    def unavailable(self) -> BrokerUnavailable:
        return BrokerUnavailable(str(self.lost) if self.lost is not None else "the connection is closed")

    def end(self, reason: BrokerUnavailable | None) -> None:
        """Close, or lose for ``reason``: requeue what is unacked, delete exclusive queues, tell who asked to know."""
        broker = self.broker
        with broker.lock:
            if self.closed:
                return
            self.closed = True
            self.lost = reason
            channels = list(self.channels)
            self.channels.clear()
            for channel in channels:
                channel.closed = reason or self.unavailable()
            release(channels)
            for name in list(self.exclusive):
                queue = broker.find(name)
                if queue is not None:
                    broker.remove_queue(queue)
            broker.disconnected(self)
            stalled, self.stalled = self.stalled, None
            if self.loop.is_closed():
                return
            error = self.unavailable()
            for _, future in stalled or ():
                if future is not None:
                    self.post(settle, (future, None, error))
            for channel in channels:
                channel.tell(error)
            if reason is not None:
                for callback in self._callbacks:
                    self.post(callback, reason)
            self._call_soon(self._stop_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
