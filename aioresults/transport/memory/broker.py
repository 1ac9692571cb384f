"""The broker: its queues and exchanges, how a message finds its queues, and faults on request."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

from aioresults.errors import AioResultsError, BrokerRefused, BrokerUnavailable, MessageNacked, MessageReturned
from aioresults.transport.memory.queues import ClassicQueue, Clock, MemoryQueue, StreamQueue
from aioresults.transport.memory.values import (
    EXCHANGE_TYPES,
    PREDECLARED,
    BindingIndex,
    MemoryBinding,
    MemoryExchange,
    QueueSettings,
    StoredMessage,
    check_match,
    check_same,
    default_exchange_refused,
    failed,
    locked,
    not_found,
    refused,
)

T = TypeVar("T")


class Client(Protocol):
    """A connection, as the broker sees it."""

    downlink: Downlink

    def end(self, reason: BrokerUnavailable) -> None:
        """Lose this connection."""

    def resume(self) -> None:
        """Run the calls that waited until the broker was unblocked."""


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


class MemoryBroker:
    """One broker inside this process; what it holds outlives connections and event loops.

    Args:
        name: for ``url`` and error messages.
        clock: monotonic seconds; every expiry is measured with it, so a test that passes its own decides when.
        max_message_size: bytes; larger messages close their channel with 406 (RabbitMQ 4: 16 MiB).

    Safe to use from several threads, each with its own event loop.
    """

    #: The brokers of this process by name, for ``memory://NAME``: process-wide by nature, as a URL is. `forget` drops.
    _named: ClassVar[dict[str, MemoryBroker]] = {}

    def __init__(
        self, name: str = "memory", *, clock: Clock = time.monotonic, max_message_size: int = 16 * 1024 * 1024
    ) -> None:
        self.name = name
        self.max_message_size = max_message_size
        #: Seconds that each delivery is held on its way to the consumer.
        self.delay: float = 0.0
        #: Deliver every message twice, as happens when a publisher repeats what was stored but not confirmed.
        self.duplicate = False
        #: Whether publishers are blocked; see `block`.
        self.blocked: bool = False
        self.running: bool = True
        #: Held while anything below is read or changed.
        self.lock: threading.RLock = threading.RLock()
        self._clock = clock
        self._refusal: str | None = None
        self._clients: dict[Client, None] = {}
        self._queues: dict[str, MemoryQueue] = {}
        #: The connection that each exclusive queue belongs to.
        self._owners: dict[str, Client] = {}
        self._exchanges = {name: MemoryExchange(name, kind) for name, kind in PREDECLARED.items()}
        #: The bindings that lead to a queue (True) or an exchange (False) of that name.
        self._bindings_to: BindingIndex[tuple[bool, str]] = BindingIndex()
        self._settings: dict[str, QueueSettings] = {}
        #: The number of queues at which the next declaration deletes those that expired.
        self._sweep_at = 1024
        self._numbers = itertools.count(1)

    @classmethod
    def named(cls, name: str) -> MemoryBroker:
        """Return the broker of that name in this process, made on first use."""
        broker = cls._named.get(name)
        if broker is None:
            broker = cls._named.setdefault(name, cls(name))
        return broker

    @classmethod
    def forget(cls, name: str) -> None:
        """Drop the broker of that name, if there is one. Its connections are lost, and the next use makes a new one."""
        broker = cls._named.pop(name, None)
        if broker is not None:
            broker.stop()

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name!r}: {len(self._queues)} queues, {self.connection_count} connections>"

    # --- inspection, as an operator

    @property
    def url(self) -> str:
        """The URL that leads to this broker inside the process, if it came from ``named``."""
        return f"memory://{self.name}"

    @property
    def connection_count(self) -> int:
        return len(self._clients)

    def queues(self) -> list[QueueInfo]:
        """Return all queues in the order they were declared; looking does not count as a use."""
        with self.lock:
            self._sweep()
            return [self._info(queue) for queue in self._queues.values()]

    def queue(self, name: str) -> QueueInfo | None:
        """Return the queue of that name, or None; looking does not count as a use."""
        with self.lock:
            queue = self.find(name)
            return None if queue is None else self._info(queue)

    @staticmethod
    def _info(queue: MemoryQueue) -> QueueInfo:
        its = queue.settings
        flags = (its.durable, its.exclusive, its.auto_delete)
        return QueueInfo(queue.name, queue.ready, queue.unacked, len(queue.subscribers), *flags, its.arguments)

    # --- faults on request

    def delete_queue(self, name: str) -> None:
        """Delete a queue as an operator would: its consumers are cancelled. A queue that is not there is no error."""
        with self.lock:
            queue = self.find(name)
            if queue is not None:
                self.remove_queue(queue)

    def cut(self, reason: str = "the connection was cut") -> None:
        """Lose every connection now; new ones work at once."""
        with self.lock:
            for client in list(self._clients):
                client.end(BrokerUnavailable(reason))

    def stop(self) -> None:
        """Stop the broker: it loses every connection, accepts none, and loses transient queues and messages."""
        with self.lock:
            if not self.running:
                return
            self.running = False
            self.cut(f"the memory broker {self.name!r} was stopped")
            for queue in list(self._queues.values()):
                if queue.settings.durable:
                    queue.restart()
                else:
                    self.remove_queue(queue)
            for exchange in list(self._exchanges.values()):
                if not exchange.durable:
                    self._remove_exchange(exchange)

    def start(self) -> None:
        """Accept connections again after ``stop``."""
        self.running = True

    def restart(self) -> None:
        """``stop`` and ``start``: durable queues stay, with their persistent messages."""
        self.stop()
        self.start()

    def refuse(self, reason: str | None) -> None:
        """Answer every new connection with ``BrokerRefused(reason)``, as for a wrong password; None ends that."""
        self._refusal = reason

    def block(self) -> None:
        """Hold publishes, as RabbitMQ does under a memory alarm.

        The first publish stalls its connection: every later call on it waits, too. ``unblock`` has these calls run in
        order, even those whose callers were cancelled. Connections that do not publish notice nothing.
        """
        self.blocked = True

    def unblock(self) -> None:
        """End ``block``, and have the calls run that waited."""
        with self.lock:
            self.blocked = False
            for client in list(self._clients):
                client.resume()

    # --- connections

    def admit(self, client: Client) -> None:
        """Add a new connection.

        Raises:
            BrokerUnavailable: the broker is stopped.
            BrokerRefused: it was told to ``refuse``.
        """
        with self.lock:
            if not self.running:
                raise BrokerUnavailable(f"the memory broker {self.name!r} is stopped")
            if self._refusal is not None:
                raise BrokerRefused(self._refusal)
            self.drop_abandoned()
            self._clients[client] = None

    def drop_abandoned(self) -> None:
        """End the connections that were left open in an event loop that is closed now."""
        for client in [client for client in self._clients if client.downlink.loop.is_closed()]:
            client.end(BrokerUnavailable("the event loop of this connection is closed"))

    def dismiss(self, client: Client) -> None:
        """Remove a connection that ended, and delete its exclusive queues."""
        self._clients.pop(client, None)
        for name in [name for name, owner in self._owners.items() if owner is client]:
            self.remove_queue(self._queues[name])

    def next_number(self) -> int:
        """Draw a number for a name that must be unique at this broker."""
        return next(self._numbers)

    # --- queues

    def find(self, name: str) -> MemoryQueue | None:
        """Return the queue of that name; None if there is none, or it expired."""
        queue = self._queues.get(name)
        if queue is not None and queue.expired:
            self.remove_queue(queue)
            return None
        return queue

    def queue_for(self, client: Client, name: str) -> MemoryQueue:
        """Return the queue of that name for use by ``client``.

        Raises:
            NotFound: there is none.
            ResourceLocked: it is exclusive to another connection.
        """
        queue = self.find(name)
        if queue is None:
            raise not_found("queue", name)
        if self._owners.get(name, client) is not client:
            raise locked(name)
        return queue

    def declare_queue(
        self,
        client: Client,
        name: str,
        arguments: Mapping[str, Any],
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
    ) -> MemoryQueue:
        if name.startswith("amq."):  # even one that is there: a server-named queue can be declared only passively
            raise refused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        if self.find(name) is not None:
            queue = self.queue_for(client, name)
            if exclusive != queue.settings.exclusive:
                raise locked(name)
            queue.settings.check_equivalent(name, arguments, durable, auto_delete)
            queue.touch()
            return queue
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        # The 100,000 queues of as many tasks are declared alike, and share one settings object.
        key = repr((sorted(arguments.items()), durable, exclusive, auto_delete))
        settings = self._settings.get(key)
        if settings is None:
            settings = QueueSettings.parse(name, arguments, durable, exclusive, auto_delete)
            self._settings[key] = settings
        if len(self._queues) >= self._sweep_at:
            self._sweep()
        queue = (StreamQueue if settings.queue_type == "stream" else ClassicQueue)(name, settings, self._clock)
        self._queues[name] = queue
        if exclusive:
            self._owners[name] = client
        return queue

    def _sweep(self) -> None:
        """Delete all queues that expired; without this, each stays until it is asked for."""
        for name in list(self._queues):
            self.find(name)
        self._sweep_at = max(1024, 2 * len(self._queues))

    def remove_queue(self, queue: MemoryQueue) -> int:
        """Delete a queue and its bindings, cancel its consumers, and return how many messages went with it."""
        count = 0 if queue.expired else queue.ready
        del self._queues[queue.name]
        self._owners.pop(queue.name, None)
        for binding in self._bindings_to.of((True, queue.name)):
            self._remove_binding(binding)
        for subscriber in queue.subscribers:
            queue.unsubscribe(subscriber)
            subscriber.recipient.cancelled(subscriber)
        return count

    def left(self, queue: MemoryQueue) -> None:
        """Follow up on a consumer that left ``queue``: an auto_delete queue goes with its last consumer."""
        if queue.settings.auto_delete and not queue.subscribers:
            self.remove_queue(queue)
        else:
            queue.pump()  # where only one consumer may be active, it is the next one's turn

    def delete_queue_if(self, client: Client, name: str, if_unused: bool, if_empty: bool) -> int:
        if self.find(name) is None:
            return 0  # RabbitMQ, too, says it is deleted
        queue = self.queue_for(client, name)
        if isinstance(queue, ClassicQueue):  # a stream ignores both conditions
            if if_unused and queue.subscribers:
                raise failed(f"queue '{name}' in vhost '/' in use")
            if if_empty and queue.ready:
                raise failed(f"queue '{name}' in vhost '/' not empty")
        return self.remove_queue(queue)

    # --- exchanges and bindings

    def exchange(self, name: str) -> MemoryExchange:
        exchange = self._exchanges.get(name)
        if exchange is None:
            raise not_found("exchange", name)
        return exchange

    def declare_exchange(self, name: str, type: str, durable: bool, auto_delete: bool) -> None:
        if not name:
            raise default_exchange_refused()
        if type not in EXCHANGE_TYPES:
            raise failed(f"unknown exchange type '{type}'")  # 3.10 closes the connection
        there = self._exchanges.get(name)
        if there is not None:
            check_same("exchange", name, "type", type, there.type)
            check_same("exchange", name, "durable", durable, there.durable)
            check_same("exchange", name, "auto_delete", auto_delete, there.auto_delete)
        elif name.startswith("amq."):
            raise refused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        else:
            self._exchanges[name] = MemoryExchange(name, type, durable, auto_delete)

    def delete_exchange(self, name: str, if_unused: bool) -> None:
        if not name:
            raise default_exchange_refused()
        exchange = self._exchanges.get(name)
        if exchange is None:
            return
        if name.startswith("amq."):
            raise refused(f"deletion of system exchange '{name}' in vhost '/' not allowed")
        if if_unused and exchange.bindings:
            raise failed(f"exchange '{name}' in vhost '/' in use")
        self._remove_exchange(exchange)

    def _remove_exchange(self, exchange: MemoryExchange) -> None:
        # An auto_delete exchange goes with its last binding, so this one may be gone already.
        if self._exchanges.pop(exchange.name, None) is not None:
            for binding in exchange.bindings:
                self._bindings_to.remove((binding.to_queue, binding.destination), binding)
            for binding in self._bindings_to.of((False, exchange.name)):
                self._remove_binding(binding)

    def bind(self, binding: MemoryBinding) -> None:
        """Add a binding. RabbitMQ looks for a destination queue first (the caller did), then for the source."""
        if not binding.source or not (binding.to_queue or binding.destination):
            raise default_exchange_refused()
        source = self.exchange(binding.source)
        if not binding.to_queue:
            self.exchange(binding.destination)
        if source.type == "headers":
            check_match(dict(binding.arguments))
        source.bindings.add(binding.routing_key, binding)
        self._bindings_to.add((binding.to_queue, binding.destination), binding)

    def unbind(self, binding: MemoryBinding) -> None:
        """Remove a binding; RabbitMQ does not mind if it is not there."""
        if not binding.source or not (binding.to_queue or binding.destination):
            raise default_exchange_refused()
        self._remove_binding(binding)

    def _remove_binding(self, binding: MemoryBinding) -> None:
        self._bindings_to.remove((binding.to_queue, binding.destination), binding)
        source = self._exchanges.get(binding.source)
        if source is None or not source.bindings.remove(binding.routing_key, binding):
            return
        if source.auto_delete and not source.bindings:
            self._remove_exchange(source)

    # --- messages

    def publish(self, message: StoredMessage, mandatory: bool) -> AioResultsError | None:
        """Put a message into its queues, and return its confirm: None, or the error that the publisher gets."""
        size = len(message.body)
        if size > self.max_message_size:
            raise failed(f"message size {size} is larger than configured max size {self.max_message_size}")
        queues = self._queues_for(message)
        if not queues and mandatory:
            return MessageReturned(message.exchange, message.routing_key)
        outcome = None
        for queue in queues:
            if queue.is_full(size):
                outcome = MessageNacked(f"queue '{queue.name}' is full")
                continue
            for _ in range(1 + self.duplicate):
                queue.put(message.copy())
        return outcome

    def _queues_for(self, message: StoredMessage) -> list[MemoryQueue]:
        """Return the queues that a message goes to, directly or through other exchanges, each once."""
        if not message.exchange:
            queue = self.find(message.routing_key)
            return [] if queue is None else [queue]
        found: dict[MemoryQueue, None] = {}
        seen = {message.exchange: self.exchange(message.exchange)}
        todo = list(seen.values())
        while todo:
            for binding in todo.pop().matching(message.routing_key, message.properties.headers):
                name = binding.destination
                if binding.to_queue:
                    if (queue := self.find(name)) is not None:
                        found[queue] = None
                elif name not in seen:
                    seen[name] = self._exchanges[name]
                    todo.append(seen[name])
        return list(found)

    def dead_letter(self, queue: MemoryQueue, message: StoredMessage) -> None:
        """Send a rejected message to the dead-letter exchange of ``queue``; without one, the message is gone."""
        its = queue.settings
        exchange, key = its.dead_letter_exchange, its.dead_letter_routing_key
        if exchange in self._exchanges and self._queues.get(queue.name) is queue:
            properties = replace(message.properties, expiration=None)
            key = message.routing_key if key is None else key
            self.publish(StoredMessage(message.body, properties, exchange, key), mandatory=False)


class Downlink:
    """The way from the broker to one client: it calls back in the client's loop, in order, never inside a call."""

    __slots__ = ("_broker", "_held", "_is_open", "_thread", "loop")

    def __init__(self, broker: MemoryBroker) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._broker = broker
        self._thread = threading.get_ident()
        #: The deliveries held by ``broker.delay``, each with the loop's time at which it is due.
        self._held: deque[tuple[float, Callable[[Any], None], Any]] = deque()
        self._is_open = True

    def post(self, function: Callable[[T], None], argument: T) -> None:
        """Call ``function(argument)`` in the client's loop, in one of its next turns."""
        call_soon = self.loop.call_soon if threading.get_ident() == self._thread else self.loop.call_soon_threadsafe
        with suppress(RuntimeError):  # the loop is closed; `drop_abandoned` will end the connection
            call_soon(function, argument)

    def post_held(self, function: Callable[[T], None], argument: T) -> None:
        """Like ``post``, but after the broker's ``delay``, and not before what is held already."""
        if not self._held and not self._broker.delay:
            self.post(function, argument)
            return
        due = self.loop.time() + self._broker.delay
        if self._held:
            due = max(due, self._held[-1][0])
        self._held.append((due, function, argument))
        if len(self._held) == 1:
            self.post(self._release, None)

    def _release(self, _: None) -> None:
        while self._held:
            due, function, argument = self._held[0]
            if due > self.loop.time() and self._is_open:
                self.loop.call_at(due, self._release, None)
                return
            self._held.popleft()
            self.post(function, argument)

    async def caught_up(self) -> None:
        """Wait until every delivery that is held now has arrived."""
        if self._held:
            arrived = asyncio.Event()
            self.post_held(lambda _: arrived.set(), None)
            await arrived.wait()

    def close(self) -> None:
        """Hold nothing any longer: closed channels ignore deliveries, but a call may wait in ``caught_up``."""
        self._is_open = False
        self.post(self._release, None)
