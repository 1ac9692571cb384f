"""The broker itself: who is connected, what goes wrong on request, and the names it is known by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from aioresults.errors import BrokerRefused, BrokerUnavailable
from aioresults.transport.memory.connection import MemoryConnection
from aioresults.transport.memory.queue import Queue
from aioresults.transport.memory.topology import Topology
from aioresults.transport.memory.wire import tick


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """What an operator sees of a queue."""

    name: str
    #: Messages that wait for a consumer.
    ready: int
    #: Messages delivered and not acknowledged.
    unacked: int
    consumers: int
    durable: bool
    exclusive: bool
    auto_delete: bool
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, queue: Queue) -> QueueInfo:
        its = queue.settings
        count = queue.consumer_count
        flags = (its.durable, its.exclusive, its.auto_delete)
        return cls(queue.name, queue.ready, queue.unacked, count, *flags, its.arguments)


class MemoryBroker(Topology):
    """One broker inside this process; what it holds outlives connections and event loops.

    Args:
        name: for ``MemoryTransport.as_uri`` and error messages.
        clock: monotonic seconds; every expiry is measured with it, so a test that passes its own decides when.
        max_message_size: bytes; larger messages close their channel with 406 (RabbitMQ 4: 16 MiB).

    Safe to use from several threads, each with its own event loop.
    """

    #: The brokers of this process by name, for ``memory://NAME``: process-wide by nature, as a URL is. `forget` drops.
    _named: ClassVar[dict[str, MemoryBroker]] = {}

    def __init__(
        self,
        name: str = "memory",
        *,
        clock: Callable[[], float] = time.monotonic,
        max_message_size: int = 16 * 1024 * 1024,
    ) -> None:
        super().__init__(clock, max_message_size)
        self.name = name
        #: Seconds that each delivery is held on its way to the consumer.
        self.delay = 0.0
        #: Whether publishers are blocked; see `block`.
        self.blocked = False
        self.running = True
        self._refusal: str | None = None
        self._connections: dict[asyncio.AbstractEventLoop, dict[MemoryConnection, None]] = {}
        self._alarm: float | None = None
        self._keeper: MemoryConnection | None = None

    @classmethod
    def named(cls, name: str) -> MemoryBroker:
        """The broker of that name in this process, made on first use."""
        broker = cls._named.get(name)
        if broker is None:
            broker = cls._named.setdefault(name, cls(name))
        return broker

    @classmethod
    def forget(cls, name: str) -> None:
        """Drop the broker of that name, if there is one: its connections are lost, the next use makes a new one."""
        broker = cls._named.pop(name, None)
        if broker is not None:
            broker.stop()

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name!r}: {len(self._queues)} queues, {self.connection_count} connections>"

    @property
    def url(self) -> str:
        """What leads here in this process, if the broker is one of ``named``."""
        return f"memory://{self.name}"

    # --- connections

    @property
    def connection_count(self) -> int:
        return sum(map(len, self._connections.values()))

    async def connect(self) -> MemoryConnection:
        """Open a connection of the running loop."""
        self._check_admission()
        await tick()
        with self.lock:
            self._check_admission()
            for loop in [loop for loop in self._connections if loop.is_closed()]:
                for left_behind in list(self._connections[loop]):
                    left_behind.end(BrokerUnavailable("the event loop of this connection is closed"))
            connection = MemoryConnection(self)
            self._connections.setdefault(connection.loop, {})[connection] = None
            self._rearm()
            return connection

    def _check_admission(self) -> None:
        if not self.running:
            raise BrokerUnavailable(f"the memory broker {self.name!r} is stopped")
        if self._refusal is not None:
            raise BrokerRefused(self._refusal)

    def disconnected(self, connection: MemoryConnection) -> None:
        """Called by a connection that ended."""
        peers = self._connections.get(connection.loop)
        if peers is not None:
            peers.pop(connection, None)
            if not peers:
                del self._connections[connection.loop]
        if self._keeper is connection:
            self._keeper = None
            self._alarm = None
            self._rearm()

    # --- time

    def settle(self) -> None:
        super().settle()
        if self._deadlines:
            self._rearm()

    def _rearm(self) -> None:
        """Keep one timer, in the loop of one connection, for the next dead letter that somebody may wait for."""
        if not self._deadlines or not self._connections:
            return
        due = self._deadlines[0][0]
        if self._alarm is None or due < self._alarm:
            self._alarm = due
            if self._keeper is None:
                self._keeper = next(iter(next(iter(self._connections.values()))))
            self._keeper.alarm(due)

    def watch(self, due: float, queue: Any) -> None:
        super().watch(due, queue)
        self._rearm()

    def alarmed(self) -> None:
        """The timer went off."""
        with self.lock:
            self._alarm = None
            super().settle()
            self._rearm()

    def expire(self) -> None:
        """Look at the clock now: delete the queues that are due and dead-letter what expired.

        Needed only by tests that move a clock of their own; every access does as much for what it touches.
        """
        with self.lock:
            super().settle()
            self.sweep()

    # --- inspection, as an operator

    def queues(self) -> list[QueueInfo]:
        """All queues, in the order they were declared; looking does not count as a use."""
        with self.lock:
            self.expire()
            return [QueueInfo.of(queue) for queue in self._queues.values()]

    def queue(self, name: str) -> QueueInfo | None:
        """The queue of that name, or None; looking does not count as a use."""
        with self.lock:
            super().settle()
            queue = self.find(name)
            return None if queue is None else QueueInfo.of(queue)

    # --- what goes wrong, on request

    def delete_queue(self, name: str) -> None:
        """Delete a queue as an operator would: its consumers are cancelled; nothing happens if there is none."""
        with self.lock:
            queue = self.find(name)
            if queue is not None:
                self.remove_queue(queue)

    def cut(self, reason: str = "the connection was cut") -> None:
        """Lose every connection now; new ones work at once."""
        with self.lock:
            for peers in list(self._connections.values()):
                for connection in list(peers):
                    connection.end(BrokerUnavailable(reason))

    def stop(self) -> None:
        """Stop: every connection is lost, new ones are not accepted, transient messages and queues are gone."""
        with self.lock:
            if self.running:
                self.running = False
                self.cut(f"the memory broker {self.name!r} was stopped")
                self.lose_transient()

    def start(self) -> None:
        """Accept connections again after ``stop``."""
        self.running = True

    def restart(self) -> None:
        """``stop`` and ``start``: durable queues stay, with their persistent messages."""
        self.stop()
        self.start()

    def refuse(self, reason: str | None) -> None:
        """Answer every ``connect`` with ``BrokerRefused(reason)``, as for a wrong password; None ends that."""
        self._refusal = reason

    def block(self) -> None:
        """Hold publishes, as RabbitMQ does under a memory alarm.

        The first publish stops its connection: whatever is called on it afterwards waits, too, and is done in order by
        ``unblock``, also for callers that have gone. Connections that do not publish notice nothing.
        """
        self.blocked = True

    def unblock(self) -> None:
        """End ``block``, and do what waited."""
        with self.lock:
            self.blocked = False
            for peers in list(self._connections.values()):
                for connection in list(peers):
                    connection.resume()


class MemoryTransport:
    """``aioresults.transport.base.Transport`` to a ``MemoryBroker``."""

    __slots__ = ("broker",)

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker

    @property
    def nodes(self) -> int:
        return 1

    def skip(self) -> None:
        """Do nothing: there is one."""

    async def connect(self) -> MemoryConnection:
        return await self.broker.connect()

    def as_uri(self, include_password: bool = False) -> str:
        return self.broker.url

    def __repr__(self) -> str:
        return f"<MemoryTransport {self.as_uri()}>"
