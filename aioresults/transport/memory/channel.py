"""A channel: the calls of the port, the delivery tags, and the errors that close it.

Every call does its work at once, under the broker's lock, and then waits one turn of the loop, as long as an answer
takes. So cancelling a call cannot leave half of it behind, and a connection that is lost in that turn fails the call
although the work is done: the same doubt a real network leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from aioresults.errors import (
    AioResultsError,
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    NotSupported,
)
from aioresults.transport.base import Arguments, DeclareOk, Delivery, OnCancel, OnClose, OnMessage, Properties
from aioresults.transport.memory.declare import table
from aioresults.transport.memory.deliveries import Deliveries, release
from aioresults.transport.memory.exchange import Binding
from aioresults.transport.memory.message import Message, copy_properties, milliseconds
from aioresults.transport.memory.queue import EXCLUSIVE, NO_ACK, ClassicQueue, Consumer, Queue
from aioresults.transport.memory.stream import Stream, StreamConsumer
from aioresults.transport.memory.topology import failed, no_queue, refused
from aioresults.transport.memory.wire import ConnectionRefusal, tick, unsupported

if TYPE_CHECKING:
    from aioresults.transport.memory.broker import MemoryBroker
    from aioresults.transport.memory.connection import MemoryConnection

T = TypeVar("T")


class MemoryChannel(Deliveries):
    """One channel of a ``MemoryConnection``; see ``aioresults.transport.base.Channel``."""

    __slots__ = ("_callbacks", "_last_queue", "broker", "confirms")

    def __init__(self, connection: MemoryConnection, confirms: bool) -> None:
        super().__init__(connection)
        self.broker: MemoryBroker = connection.broker
        self.confirms = confirms
        self._last_queue = ""
        self._callbacks: dict[object, OnClose] = {}

    @property
    def is_closed(self) -> bool:
        return self.closed is not None

    def on_close(self, callback: OnClose) -> Callable[[], object]:
        if self.closed is not None:
            self.connection.post(callback, self.closed)
        key = object()
        self._callbacks[key] = callback
        return lambda: self._callbacks.pop(key, None)

    # --- how calls run and fail

    def _error(self) -> AioResultsError:
        """What a call on this closed channel raises."""
        if isinstance(self.closed, BrokerUnavailable):
            return self.connection.unavailable()
        if isinstance(self.closed, ChannelError):
            return ChannelClosed(self.closed.reply_code, self.closed.reply_text)
        return ChannelClosed()

    def _run(self, operation: Callable[[], T]) -> T:
        """Run one operation of the broker; what it refuses closes the channel or the connection."""
        with self.broker.lock:
            if self.closed is not None:
                raise self._error()
            self.broker.settle()
            try:
                return operation()
            except ChannelError as refusal:
                self._close(refusal)
                self.tell(refusal)
                raise
            except ConnectionRefusal as refusal:
                self.connection.end(BrokerUnavailable(str(refusal)))
                raise self.connection.unavailable() from None

    async def _call(self, operation: Callable[[], T]) -> T:
        if self.closed is not None:
            raise self._error()
        connection = self.connection
        try:
            if connection.stalled is not None:
                result: T = await connection.stall(lambda: self._run(operation))
            else:
                result = self._run(operation)
        finally:
            await tick()
        if connection.lost is not None:
            raise connection.unavailable()
        return result

    def _close(self, reason: AioResultsError) -> None:
        if self.closed is None:
            self.closed = reason
            self.connection.channels.pop(self, None)
            release([self])

    def tell(self, reason: BaseException) -> None:
        """Tell who asked with ``on_close``."""
        for callback in tuple(self._callbacks.values()):
            self.connection.post(callback, reason)

    def _queue(self, name: str) -> Queue:
        """The queue of that name; an empty name is the last one declared on this channel, as in AMQP."""
        name = name or self._last_queue
        if not name:
            raise no_queue("")
        return self.broker.queue_for(name, self.connection)

    async def close(self) -> None:
        with self.broker.lock:
            if self.closed is None:
                reason = ChannelClosed()
                self._close(reason)
                self.tell(reason)
        await tick()

    # --- exchanges

    async def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Arguments = None,
    ) -> None:
        broker = self.broker
        if passive:
            await self._call(lambda: broker.exchange(exchange))
            return
        await self._call(lambda: broker.declare_exchange(exchange, type, durable, auto_delete, table(arguments)))

    async def exchange_delete(self, exchange: str, *, if_unused: bool = False) -> None:
        await self._call(lambda: self.broker.delete_exchange(exchange, if_unused))

    async def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        binding = Binding(source, False, destination, routing_key, tuple(sorted(table(arguments).items())))
        await self._call(lambda: self.broker.bind(binding))

    async def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        binding = Binding(source, False, destination, routing_key, tuple(sorted(table(arguments).items())))
        await self._call(lambda: self.broker.unbind(binding))

    # --- queues

    async def queue_declare(
        self,
        queue: str = "",
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Arguments = None,
    ) -> DeclareOk:
        def declare() -> DeclareOk:
            if passive:
                found = self._queue(queue)
                found.touch()
            else:
                found = self.broker.declare_queue(
                    self.connection, queue, table(arguments), durable, exclusive, auto_delete
                )
                self._last_queue = found.name
            return DeclareOk(found.name, found.ready, found.consumer_count)

        return await self._call(declare)

    async def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        items = tuple(sorted(table(arguments).items()))

        def bind() -> None:
            name = self._queue(queue).name
            self.broker.bind(Binding(exchange, True, name, routing_key or ("" if queue else name), items))

        await self._call(bind)

    async def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        items = tuple(sorted(table(arguments).items()))

        def unbind() -> None:
            if self.broker.find(queue or self._last_queue) is not None:
                name = self._queue(queue).name
                self.broker.unbind(Binding(exchange, True, name, routing_key, items))

        await self._call(unbind)

    async def queue_purge(self, queue: str) -> int:
        def purge() -> int:
            found = self._queue(queue)
            if not isinstance(found, ClassicQueue):
                raise unsupported("queue.purge", found.name)
            return found.purge()

        return await self._call(purge)

    async def queue_delete(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        return await self._call(
            lambda: self.broker.delete_if(self.connection, queue or self._last_queue, if_unused, if_empty)
        )

    # --- publishing

    async def basic_publish(
        self, body: bytes, properties: Properties, exchange: str = "", routing_key: str = "", *, mandatory: bool = False
    ) -> None:
        if self.closed is not None:
            raise self._error()
        message = Message(bytes(body), copy_properties(properties), exchange, routing_key)
        connection = self.connection
        if self.broker.blocked or connection.stalled is not None:
            outcome = await connection.stall(lambda: self._publish(message, mandatory))
        else:
            outcome = self._publish(message, mandatory)
        await tick()
        if connection.lost is not None:
            raise connection.unavailable()
        if not self.confirms:
            return  # what became of it is known only from the channel's own fate
        if outcome is not None:
            raise outcome
        if self.closed is not None:
            raise self._error()  # the confirm did not come before the channel was closed

    def _publish(self, message: Message, mandatory: bool) -> AioResultsError | None:
        """Publish now; the outcome is returned, because many publishes may share a fate that nobody may look at."""
        broker = self.broker
        with broker.lock:
            if self.closed is not None:
                return self._error()
            broker.settle()
            properties = message.properties
            if properties.message_id is None:
                properties.message_id = f"{broker.name}.{broker.next_position()}"
            try:
                if properties.expiration is not None:
                    milliseconds(properties.expiration)
                return broker.publish(message, mandatory)
            except ChannelError as refusal:
                self._close(refusal)
                self.tell(refusal)
                return refusal

    # --- consuming

    async def basic_qos(self, prefetch_count: int) -> None:
        def qos() -> None:
            self.prefetch = prefetch_count

        await self._call(qos)

    async def basic_consume(
        self,
        queue: str,
        on_message: OnMessage,
        *,
        on_cancel: OnCancel | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: Arguments = None,
    ) -> str:
        """Start a consumer.

        Raises:
            NotSupported: ``consumer_tag`` is in use on this channel; RabbitMQ closes the connection for that (530).
        """
        tag = consumer_tag or f"amq.ctag-{self.broker.next_position()}"
        mode = NO_ACK * no_ack | EXCLUSIVE * exclusive
        if tag in self.consumers:
            raise NotSupported(f"attempt to reuse consumer tag {tag!r}")

        def consume() -> str:
            found = self._queue(queue)
            consumer: Consumer
            if isinstance(found, Stream):
                consumer = StreamConsumer(tag, self, on_message, on_cancel, mode)
                self._attach(found, consumer, table(arguments).get("x-stream-offset"))
            else:
                if found.exclusively_consumed or (exclusive and found.consumers is not None):
                    raise refused(f"queue '{found.name}' in vhost '/' in exclusive use")
                consumer = Consumer(tag, self, on_message, on_cancel, mode)
            self.consumers[tag] = consumer
            found.add_consumer(consumer)
            if found.backlog is not None:
                found.pump()
            return tag

        return await self._call(consume)

    def _attach(self, stream: Stream, consumer: StreamConsumer, offset: object) -> None:
        if consumer.mode & NO_ACK:
            raise unsupported("automatic acknowledgement", stream.name)
        if not self.prefetch:
            raise failed(f"consumer prefetch count is not set for stream queue '{stream.name}' in vhost '/'")
        consumer.offset = stream.locate(offset)

    async def basic_cancel(self, consumer_tag: str) -> None:
        def cancel() -> None:
            consumer = self.consumers.pop(consumer_tag, None)
            queue = consumer.queue if consumer is not None else None
            if consumer is None or queue is None:
                return
            queue.remove_consumer(consumer)
            if queue.consumers is None and queue.settings.auto_delete:
                self.broker.remove_queue(queue)
            elif queue.backlog is not None:
                queue.pump()  # it may have been an exclusive or the single active one

        await self._call(cancel)
        await self.connection.caught_up(self)

    async def basic_get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        def get() -> Delivery | None:
            found = self._queue(queue)
            if not isinstance(found, ClassicQueue):
                raise unsupported("basic.get", found.name)
            found.touch()
            message = found.take()
            if message is None:
                return None
            return self._delivery(message, found, None, no_ack)

        return await self._call(get)

    # --- acknowledging

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        if self.closed is None:
            self._now_or_stalled(lambda: self._ack(delivery_tag, multiple))

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        if self.closed is None:
            self._now_or_stalled(lambda: self._nack(delivery_tag, multiple, requeue))

    def _now_or_stalled(self, operation: Callable[[], None]) -> None:
        if self.connection.stalled is not None:
            self.connection.stalled.append((lambda: self._quietly(operation), None))
        else:
            self._quietly(operation)

    def _quietly(self, operation: Callable[[], None]) -> None:
        # When it fails the channel is closed by then, and who asked is told through on_close.
        with suppress(AioResultsError):
            self._run(operation)

    async def basic_recover(self) -> None:
        await self._call(self._recover)
