"""What a broker holds: exchanges, bindings, queues; how a message finds its queues; declare, bind, delete.

Plain synchronous code without clients: it raises the errors that RabbitMQ would answer with, and ``channel`` turns them
into a closed channel. Everything is called with ``lock`` held.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from aioresults.errors import (
    AccessRefused,
    AioResultsError,
    MessageNacked,
    MessageReturned,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from aioresults.transport.memory.declare import (
    Settings,
    check_argument,
    check_equivalent,
    check_queue,
    check_same,
    key_of,
)
from aioresults.transport.memory.exchange import PREDECLARED, TYPES, Binding, Bindings, Exchange
from aioresults.transport.memory.message import Message, dead_letter, died_in_a_circle
from aioresults.transport.memory.queue import ClassicQueue, Queue
from aioresults.transport.memory.stream import Stream

if TYPE_CHECKING:
    from aioresults.transport.memory.connection import MemoryConnection


def no_queue(name: str) -> NotFound:
    """404 for a queue."""
    return NotFound(404, f"NOT_FOUND - no queue '{name}' in vhost '/'")


def no_exchange(name: str) -> NotFound:
    """404 for an exchange."""
    return NotFound(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")


def locked(name: str) -> ResourceLocked:
    """405: another connection's own."""
    return ResourceLocked(
        405,
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration.",
    )


def refused(text: str) -> AccessRefused:
    """403."""
    return AccessRefused(403, f"ACCESS_REFUSED - {text}")


def failed(text: str) -> PreconditionFailed:
    """406."""
    return PreconditionFailed(406, f"PRECONDITION_FAILED - {text}")


def default_exchange_refused() -> AccessRefused:
    """403: the default exchange cannot be declared, deleted, or bound."""
    return refused("operation not permitted on the default exchange")


class Topology:
    """Exchanges, queues and bindings under one lock and one clock."""

    def __init__(self, clock: Callable[[], float], max_message_size: int) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.max_message_size = max_message_size
        #: Deliver every message twice, as happens when a publisher repeats what was stored but not confirmed.
        self.duplicate = False
        self._epoch = time.time() - clock()
        self._queues: dict[str, Queue] = {}
        self._owners: dict[str, MemoryConnection] = {}
        self._exchanges = {name: Exchange(name, kind, True, False, {}) for name, kind in PREDECLARED.items()}
        self._to_queue = Bindings()
        self._to_exchange = Bindings()
        self._settings: WeakValueDictionary[Hashable, Settings] = WeakValueDictionary()
        self._deadlines: list[tuple[float, int, ClassicQueue]] = []
        self._sweep_at = 1024
        self.next_position: Callable[[], int] = itertools.count(1).__next__

    def wall(self) -> float:
        """Seconds since the epoch, moving with the clock of this broker."""
        return self._epoch + self.clock()

    # --- time

    def watch(self, due: float, queue: ClassicQueue) -> None:
        """Have ``queue.look`` called when ``due`` has come."""
        heappush(self._deadlines, (due, self.next_position(), queue))

    def settle(self) -> None:
        """Do what is due; called at the start of every operation."""
        while self._deadlines and self._deadlines[0][0] <= self.clock():
            due, _, queue = heappop(self._deadlines)
            if self.holds(queue):
                queue.look(due)

    def sweep(self) -> None:
        """Delete the queues that expired; otherwise one goes when somebody asks for it."""
        for queue in [queue for queue in self._queues.values() if queue.expired]:
            self.remove_queue(queue)
        self._sweep_at = max(1024, 2 * len(self._queues))

    # --- queues

    def holds(self, queue: Queue) -> bool:
        return self._queues.get(queue.name) is queue

    def find(self, name: str) -> Queue | None:
        """The queue of that name, unless it expired."""
        queue = self._queues.get(name)
        if queue is not None and queue.settings.expires is not None and queue.expired:
            self.remove_queue(queue)
            return None
        return queue

    def queue_for(self, name: str, connection: MemoryConnection) -> Queue:
        """The queue of that name for use on ``connection``; 404, or 405 when it is another connection's own."""
        queue = self.find(name)
        if queue is None:
            raise no_queue(name)
        if queue.settings.exclusive and self._owners.get(name) is not connection:
            raise locked(name)
        return queue

    def declare_queue(
        self,
        connection: MemoryConnection,
        name: str,
        arguments: Mapping[str, Any],
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
    ) -> Queue:
        if name.startswith("amq."):  # even one that is there: a server-named queue can be declared only passively
            raise refused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        if name and self.find(name) is not None:
            queue = self.queue_for(name, connection)
            if exclusive != queue.settings.exclusive:
                raise locked(name)
            check_equivalent(name, queue.settings, arguments, durable, auto_delete)
            queue.touch()
            return queue
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        settings = self._settings_of(name, arguments, durable, exclusive, auto_delete)
        if len(self._queues) >= self._sweep_at:
            self.sweep()
        queue = (Stream if settings.queue_type == "stream" else ClassicQueue)(self, name, settings)
        self._queues[name] = queue
        if exclusive:
            self._owners[name] = connection
            connection.exclusive[name] = None
        return queue

    def _settings_of(
        self, name: str, arguments: Mapping[str, Any], durable: bool, exclusive: bool, auto_delete: bool
    ) -> Settings:
        key = key_of(arguments, durable, exclusive, auto_delete)
        settings = None if key is None else self._settings.get(key)
        if settings is None:
            check_queue(name, arguments, durable, exclusive, auto_delete)
            settings = Settings(arguments, durable, exclusive, auto_delete)
            if key is not None:
                self._settings[key] = settings
        return settings

    def remove_queue(self, queue: Queue) -> int:
        """Delete a queue: its consumers are cancelled, its bindings go, and so do its messages (counted)."""
        count = queue.ready if not queue.expired else 0
        del self._queues[queue.name]
        if queue.settings.exclusive:
            owner = self._owners.pop(queue.name)
            owner.exclusive.pop(queue.name, None)
        for binding in self._to_queue.of(queue.name):
            self._remove_binding(binding)
        for consumer in queue.consumer_list():
            queue.remove_consumer(consumer)
            consumer.channel.consumer_cancelled(consumer)
        if isinstance(queue, ClassicQueue):
            queue.purge()
        return count

    def delete_if(self, connection: MemoryConnection, name: str, if_unused: bool, if_empty: bool) -> int:
        queue = self.find(name)
        if queue is None:
            return 0  # RabbitMQ, too, says it is deleted
        queue = self.queue_for(name, connection)
        if isinstance(queue, ClassicQueue):  # a stream ignores both conditions
            if if_unused and queue.consumers is not None:
                raise failed(f"queue '{name}' in vhost '/' in use")
            if if_empty and queue.ready:
                raise failed(f"queue '{name}' in vhost '/' not empty")
        return self.remove_queue(queue)

    # --- exchanges and bindings

    def exchange(self, name: str) -> Exchange:
        exchange = self._exchanges.get(name)
        if exchange is None:
            raise no_exchange(name)
        return exchange

    def declare_exchange(
        self, name: str, type: str, durable: bool, auto_delete: bool, arguments: Mapping[str, Any]
    ) -> None:
        if not name:
            raise default_exchange_refused()
        if type not in TYPES:
            raise failed(f"unknown exchange type '{type}'")  # 3.10 closes the connection
        there = self._exchanges.get(name)
        if there is None:
            if name.startswith("amq."):
                raise refused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
            self._exchanges[name] = Exchange(name, type, durable, auto_delete, dict(arguments))
            return
        check_same("exchange", name, "type", type, there.type)
        check_same("exchange", name, "durable", durable, there.durable)
        check_same("exchange", name, "auto_delete", auto_delete, there.auto_delete)
        alternate = "alternate-exchange"
        check_argument("exchange", name, alternate, arguments.get(alternate), there.arguments.get(alternate))

    def delete_exchange(self, name: str, if_unused: bool) -> None:
        if not name:
            raise default_exchange_refused()
        exchange = self._exchanges.get(name)
        if exchange is None:
            return
        if name.startswith("amq."):
            raise refused(f"deletion of system exchange '{name}' in vhost '/' not allowed")
        if if_unused and exchange.in_use:
            raise failed(f"exchange '{name}' in vhost '/' in use")
        self._remove_exchange(exchange)

    def _remove_exchange(self, exchange: Exchange) -> None:
        del self._exchanges[exchange.name]
        for binding in exchange:
            (self._to_queue if binding.to_queue else self._to_exchange).remove(binding.destination, binding)
        for binding in self._to_exchange.of(exchange.name):
            self._remove_binding(binding)

    def bind(self, binding: Binding) -> None:
        """Bind; queue bindings have looked for their queue before, and RabbitMQ looks for the source first."""
        if not binding.source or not (binding.to_queue or binding.destination):
            raise default_exchange_refused()
        source = self.exchange(binding.source)
        if not binding.to_queue:
            self.exchange(binding.destination)
        source.bind(binding)
        (self._to_queue if binding.to_queue else self._to_exchange).add(binding.destination, binding)

    def unbind(self, binding: Binding) -> None:
        """Unbind; what is not there, RabbitMQ does not miss."""
        if not binding.source or not (binding.to_queue or binding.destination):
            raise default_exchange_refused()
        self._remove_binding(binding)

    def _remove_binding(self, binding: Binding) -> None:
        (self._to_queue if binding.to_queue else self._to_exchange).remove(binding.destination, binding)
        source = self._exchanges.get(binding.source)
        if source is not None and source.unbind(binding) and source.auto_delete and not source.in_use:
            self._remove_exchange(source)

    # --- messages

    def route(self, exchange: str, routing_key: str, headers: Mapping[str, Any] | None) -> list[Queue]:
        """The queues a message goes to, each once; through other exchanges, and alternates where nothing matched."""
        if not exchange:
            queue = self.find(routing_key)
            return [] if queue is None else [queue]
        found: dict[Queue, None] = {}
        todo = [self.exchange(exchange)]
        seen = {exchange}
        while todo:
            current = todo.pop()
            bindings = list(current.matching(routing_key, headers))
            further = [binding.destination for binding in bindings if not binding.to_queue]
            if not bindings and (alternate := current.arguments.get("alternate-exchange")) is not None:
                further = [alternate]
            for binding in bindings:
                if binding.to_queue and (queue := self.find(binding.destination)) is not None:
                    found[queue] = None
            for name in further:
                if name not in seen and name in self._exchanges:
                    seen.add(name)
                    todo.append(self._exchanges[name])
        return list(found)

    def publish(self, message: Message, mandatory: bool) -> AioResultsError | None:
        """Put a message where it belongs; what comes back is the confirm: None, or the error it amounts to."""
        size = len(message.body)
        if size > self.max_message_size:
            raise failed(f"message size {size} is larger than configured max size {self.max_message_size}")
        queues = self.route(message.exchange, message.routing_key, message.properties.headers)
        if not queues:
            return MessageReturned(message.exchange, message.routing_key) if mandatory else None
        outcome = None
        for number, queue in enumerate(queues):
            one = message if not number else message.copy()
            if queue.refuses(size):
                if queue.settings.overflow == "reject-publish-dlx":
                    self.dead_letter(queue, one, "maxlen")
                outcome = MessageNacked(f"queue '{queue.name}' is full")
                continue
            if self.duplicate:
                queue.put(one.copy())
            queue.put(one)
        return outcome

    def dead_letter(self, queue: Queue, message: Message, reason: str) -> None:
        """Send what ``queue`` gives up to its dead-letter exchange; without one it is gone."""
        settings = queue.settings
        if settings.dead_letter_exchange is None or settings.dead_letter_exchange not in self._exchanges:
            return
        key = settings.dead_letter_routing_key
        key = message.routing_key if key is None else key
        letter = dead_letter(message, reason, queue.name, settings.dead_letter_exchange, key, self.wall())
        for target in self.route(letter.exchange, key, letter.properties.headers):
            if reason != "rejected" and died_in_a_circle(letter, target.name):
                continue
            if not target.refuses(len(letter.body)):
                target.put(letter.copy())

    def lose_transient(self) -> None:
        """What a restart does: durable queues and exchanges stay, with their persistent messages; streams entirely."""
        for queue in list(self._queues.values()):
            if not queue.settings.durable:
                self.remove_queue(queue)
                continue
            if isinstance(queue, ClassicQueue):
                queue.keep_persistent()
            queue.touch()
        for exchange in [one for one in self._exchanges.values() if not one.durable]:
            if exchange.name in self._exchanges:
                self._remove_exchange(exchange)
