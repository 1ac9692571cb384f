"""The port over a memory broker: its transport, connections and channels.

Every call does its work at once, under the broker's lock, and then waits one turn of the loop, as long as an answer
takes. So cancelling a call cannot leave half of it behind, and a connection that is lost in that turn fails the call
although the work is done: the same doubt a real network leaves.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from aioresults.errors import AioResultsError, BrokerUnavailable, ChannelClosed, ChannelError, NotSupported
from aioresults.transport.base import (
    Arguments,
    DeclareOk,
    Delivery,
    OnBlocked,
    OnCancel,
    OnClose,
    OnMessage,
    Properties,
)
from aioresults.transport.memory.broker import Downlink, MemoryBroker
from aioresults.transport.memory.queues import Deliveries, MemoryQueue, Outstanding, StreamQueue, Subscriber, give_back
from aioresults.transport.memory.values import (
    ConnectionRefusal,
    MemoryBinding,
    StoredMessage,
    check_expiration,
    copy_properties,
    unsupported,
)

T = TypeVar("T")
Stalled = deque[tuple[Callable[[], Any], "asyncio.Future[Any]"]]


@types.coroutine
def tick() -> Generator[None, None, None]:
    """Wait for one turn of the loop: the least that a round trip to a broker takes."""
    yield


def _perform(operation: Callable[[], T], future: asyncio.Future[T]) -> None:
    """Run an operation, and give its outcome to the future, unless the caller was cancelled meanwhile."""
    try:
        result = operation()
    except AioResultsError as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


class MemoryTransport:
    """``aioresults.transport.base.Transport`` to a ``MemoryBroker``."""

    __slots__ = ("broker",)

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker: MemoryBroker = broker

    @property
    def nodes(self) -> int:
        return 1

    def skip(self) -> None:
        """Do nothing: there is one."""

    async def connect(self) -> MemoryConnection:
        await tick()
        return MemoryConnection(self.broker)

    def as_uri(self, include_password: bool = False) -> str:
        return self.broker.url

    def __repr__(self) -> str:
        return f"<MemoryTransport {self.as_uri()}>"


class MemoryConnection:
    """One connection of one event loop to a ``MemoryBroker``; see ``aioresults.transport.base.Connection``."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.downlink: Downlink = Downlink(broker)
        self.channels: dict[MemoryChannel, None] = {}
        self.is_closed: bool = False
        #: Why it was lost; None while it lives, and when its owner closed it.
        self._lost: BrokerUnavailable | None = None
        #: The calls behind a publish that was made while the broker was blocked: RabbitMQ stops reading from such a
        #: connection. None while the broker reads.
        self._stalled: Stalled | None = None
        self._on_close: list[OnClose] = []
        self._on_blocked: list[OnBlocked] = []
        broker.admit(self)

    def on_close(self, callback: OnClose) -> None:
        if self._lost is not None:
            self.downlink.post(callback, self._lost)
        self._on_close.append(callback)

    def on_blocked(self, callback: OnBlocked) -> None:
        self._on_blocked.append(callback)

    async def channel(self, *, confirms: bool = False) -> MemoryChannel:
        def open_one() -> MemoryChannel:
            if self.is_closed:
                raise self.unavailable()
            channel = MemoryChannel(self, confirms)
            self.channels[channel] = None
            return channel

        channel = await self.submit(open_one)
        await tick()
        if self._lost is not None:
            raise self.unavailable()
        return channel

    async def close(self) -> None:
        self.end(None)
        await tick()

    def unavailable(self) -> BrokerUnavailable:
        return BrokerUnavailable(str(self._lost) if self._lost is not None else "the connection is closed")

    # --- calls, and a broker that is blocked

    def submit(self, operation: Callable[[], T], *, publishes: bool = False) -> asyncio.Future[T]:
        """Run ``operation`` now or, on a stalled connection, when the broker is unblocked.

        A stalled operation runs even if its caller is cancelled meanwhile: it was sent.
        """
        future: asyncio.Future[T] = self.downlink.loop.create_future()
        with self.broker.lock:
            if publishes and self.broker.blocked and self._stalled is None:
                self._stalled = deque()
                self._tell_blocked("an alarm")
            if self._stalled is not None:
                self._stalled.append((operation, future))
            else:
                _perform(operation, future)
        return future

    def _tell_blocked(self, reason: str | None) -> None:
        for callback in self._on_blocked:
            self.downlink.post(callback, reason)

    def resume(self) -> None:
        """Run the stalled calls in order, in the loop of this connection."""
        if self._stalled is not None:
            self._tell_blocked(None)
            self.downlink.post(self._run_stalled, self._stalled)

    def _run_stalled(self, stalled: Stalled) -> None:
        with self.broker.lock:
            while stalled:
                _perform(*stalled.popleft())
            if self._stalled is stalled:
                self._stalled = None

    # --- the end

    def end(self, reason: BrokerUnavailable | None) -> None:
        """End this connection: lose it for ``reason``, or close it if that is None.

        Unacknowledged messages return to their queues, exclusive queues are deleted, and the callbacks are called.
        """
        with self.broker.lock:
            if self.is_closed:
                return
            self.is_closed = True
            self._lost = reason
            error = self.unavailable()
            channels, self.channels = list(self.channels), {}
            for channel in channels:
                channel.close_reason = error
            _release(self.broker, channels)
            self.broker.dismiss(self)
            if self._stalled is not None:
                self.downlink.post(self._run_stalled, self._stalled)  # each call fails: its channel is closed
            for channel in channels:
                channel.tell(error)
            if reason is not None:
                for callback in self._on_close:
                    self.downlink.post(callback, reason)
            self.downlink.close()


class MemoryChannel:
    """One channel of a ``MemoryConnection``; see ``aioresults.transport.base.Channel``."""

    def __init__(self, connection: MemoryConnection, confirms: bool) -> None:
        self.connection = connection
        #: Why it is closed; None while it is open.
        self.close_reason: ChannelError | BrokerUnavailable | None = None
        self.subscribers: dict[str, Subscriber] = {}
        self.deliveries: Deliveries = Deliveries()
        self._broker = connection.broker
        self._confirms = confirms
        self._prefetch = 0
        self._last_queue = ""
        self._callbacks: dict[object, OnClose] = {}

    @property
    def is_closed(self) -> bool:
        return self.close_reason is not None

    def on_close(self, callback: OnClose) -> Callable[[], object]:
        if self.close_reason is not None:
            self.connection.downlink.post(callback, self.close_reason)
        key = object()
        self._callbacks[key] = callback
        return lambda: self._callbacks.pop(key, None)

    async def close(self) -> None:
        with self._broker.lock:
            self._close(ChannelClosed())
        await tick()

    def _close(self, reason: ChannelError) -> None:
        if self.close_reason is None:
            self.close_reason = reason
            self.connection.channels.pop(self, None)
            _release(self._broker, [self])
            self.tell(reason)

    def tell(self, reason: BaseException) -> None:
        """Call the callbacks of ``on_close``."""
        for callback in tuple(self._callbacks.values()):  # one may add another
            self.connection.downlink.post(callback, reason)

    # --- how calls run and fail

    def _check_open(self) -> None:
        """Raise, on a closed channel, what every call on it raises."""
        if isinstance(self.close_reason, ChannelError):
            raise ChannelClosed(self.close_reason.reply_code, self.close_reason.reply_text)
        if self.close_reason is not None:
            raise self.connection.unavailable()

    async def _call(self, operation: Callable[[], T], *, publishes: bool = False) -> T:
        try:
            result = await self.connection.submit(lambda: self._run(operation), publishes=publishes)
        finally:
            await tick()
        self._check_open()  # the answer did not come before the channel was closed
        return result

    def _run(self, operation: Callable[[], T]) -> T:
        """Run an operation at the broker; a refusal closes the channel, or the whole connection."""
        self._check_open()
        self._broker.drop_abandoned()
        try:
            return operation()
        except ChannelError as refusal:
            self._close(refusal)
            raise
        except ConnectionRefusal as refusal:
            self.connection.end(BrokerUnavailable(str(refusal)))
            raise self.connection.unavailable() from None

    def _queue(self, name: str) -> MemoryQueue:
        """Return the queue of that name; an empty name is the last one declared on this channel, as in AMQP."""
        return self._broker.queue_for(self.connection, name or self._last_queue)

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
        if passive:
            await self._call(lambda: self._broker.exchange(exchange))
        else:
            await self._call(lambda: self._broker.declare_exchange(exchange, type, durable, auto_delete))

    async def exchange_delete(self, exchange: str, *, if_unused: bool = False) -> None:
        await self._call(lambda: self._broker.delete_exchange(exchange, if_unused))

    async def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        binding = MemoryBinding(source, False, destination, routing_key, _items(arguments))
        await self._call(lambda: self._broker.bind(binding))

    async def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        binding = MemoryBinding(source, False, destination, routing_key, _items(arguments))
        await self._call(lambda: self._broker.unbind(binding))

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
                found = self._broker.declare_queue(
                    self.connection, queue, arguments or {}, durable, exclusive, auto_delete
                )
                self._last_queue = found.name
            return DeclareOk(found.name, found.ready, len(found.subscribers))

        return await self._call(declare)

    async def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        def bind() -> None:
            name = self._queue(queue).name
            key = routing_key or ("" if queue else name)
            self._broker.bind(MemoryBinding(exchange, True, name, key, _items(arguments)))

        await self._call(bind)

    async def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        def unbind() -> None:
            if self._broker.find(queue or self._last_queue) is not None:
                name = self._queue(queue).name
                self._broker.unbind(MemoryBinding(exchange, True, name, routing_key, _items(arguments)))

        await self._call(unbind)

    async def queue_purge(self, queue: str) -> int:
        return await self._call(lambda: self._queue(queue).purge())

    async def queue_delete(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        name = queue or self._last_queue
        return await self._call(lambda: self._broker.delete_queue_if(self.connection, name, if_unused, if_empty))

    # --- publishing

    async def basic_publish(
        self, body: bytes, properties: Properties, exchange: str = "", routing_key: str = "", *, mandatory: bool = False
    ) -> None:
        self._check_open()
        message = StoredMessage(bytes(body), copy_properties(properties), exchange, routing_key)
        try:
            outcome = await self._call(lambda: self._publish(message, mandatory), publishes=True)
        except ChannelError:
            if self._confirms:
                raise
        else:
            if self._confirms and outcome is not None:
                raise outcome

    def _publish(self, message: StoredMessage, mandatory: bool) -> AioResultsError | None:
        properties = message.properties
        if properties.message_id is None:
            properties.message_id = f"{self._broker.name}.{self._broker.next_number()}"
        if properties.expiration is not None:
            check_expiration(properties.expiration)
        return self._broker.publish(message, mandatory)

    # --- consuming

    async def basic_qos(self, prefetch_count: int) -> None:
        def qos() -> None:
            self._prefetch = prefetch_count

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
        tag = consumer_tag or f"amq.ctag-{self._broker.next_number()}"
        if tag in self.subscribers:
            raise NotSupported(f"attempt to reuse consumer tag {tag!r}")

        def consume() -> str:
            found = self._queue(queue)
            subscriber = Subscriber(tag, found, self, on_message, on_cancel, self._prefetch, no_ack, exclusive)
            found.subscribe(subscriber, (arguments or {}).get("x-stream-offset"))
            self.subscribers[tag] = subscriber
            found.pump()
            return tag

        return await self._call(consume)

    async def basic_cancel(self, consumer_tag: str) -> None:
        def cancel() -> None:
            subscriber = self.subscribers.pop(consumer_tag, None)
            if subscriber is not None:
                subscriber.queue.unsubscribe(subscriber)
                self._broker.left(subscriber.queue)

        await self._call(cancel)
        await self.connection.downlink.caught_up()
        self._check_open()

    async def basic_get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        def get() -> Delivery | None:
            found = self._queue(queue)
            message = found.take()
            return None if message is None else self._delivery(message, found, None, no_ack)

        return await self._call(get)

    def deliver(self, subscriber: Subscriber, message: StoredMessage) -> None:
        """Send one message to a subscriber of this channel."""
        delivery = self._delivery(message, subscriber.queue, subscriber, subscriber.no_ack)
        self.connection.downlink.post_held(self._hand_over, (subscriber.on_message, delivery))

    def cancelled(self, subscriber: Subscriber) -> None:
        """Tell a subscriber of this channel that its queue is gone."""
        del self.subscribers[subscriber.tag]
        if subscriber.on_cancel is not None:
            self.connection.downlink.post_held(self._hand_over, (subscriber.on_cancel, subscriber.tag))

    def _hand_over(self, event: tuple[Callable[[Any], None], Any]) -> None:
        function, argument = event
        if self.close_reason is None:
            function(argument)

    def _delivery(
        self, message: StoredMessage, queue: MemoryQueue, subscriber: Subscriber | None, no_ack: bool
    ) -> Delivery:
        tag = self.deliveries.next_tag()
        if not no_ack:
            self.deliveries.add(tag, Outstanding(message, queue, subscriber))
        return Delivery(
            self,
            message.body,
            copy_properties(message.properties),
            tag,
            message.redelivered,
            message.exchange,
            message.routing_key,
            consumer_tag=None if subscriber is None else subscriber.tag,
            message_count=queue.ready if subscriber is None else None,
        )

    # --- acknowledging

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        def ack() -> None:
            for queue in {one.queue: None for one in self.deliveries.take(delivery_tag, multiple)}:
                queue.pump()

        self._write(ack)

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        def nack() -> None:
            taken = self.deliveries.take(delivery_tag, multiple)
            streams = [one.queue for one in taken if isinstance(one.queue, StreamQueue)]
            if requeue or streams:
                give_back(taken)
            else:
                for one in taken:
                    self._broker.dead_letter(one.queue, one.message)
            for queue in {one.queue: None for one in taken}:
                queue.pump()
            if streams:  # RabbitMQ 4 takes it for an ack
                raise unsupported("basic.nack and basic.reject", streams[0].name)

        self._write(nack)

    def _write(self, operation: Callable[[], None]) -> None:
        """Run an operation that has no answer. If it fails, the callbacks of ``on_close`` hear of it."""

        def quietly() -> None:
            with suppress(AioResultsError):
                self._run(operation)

        self.connection.submit(quietly)

    async def basic_recover(self) -> None:
        def recover() -> None:
            for queue in give_back(self.deliveries.take_all()):
                queue.pump()

        await self._call(recover)


def _items(arguments: Arguments) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((arguments or {}).items()))


def _release(broker: MemoryBroker, channels: Iterable[MemoryChannel]) -> None:
    """Take closed channels off their queues.

    Every subscriber leaves before the first message is requeued: it would go to the next subscriber that is leaving.
    """
    left: dict[MemoryQueue, None] = {}
    taken: list[Outstanding] = []
    for channel in channels:
        for subscriber in channel.subscribers.values():
            subscriber.queue.unsubscribe(subscriber)
            left[subscriber.queue] = None
        channel.subscribers = {}
        taken += channel.deliveries.take_all()
    returned = give_back(taken)
    for queue in left:
        broker.left(queue)
    for queue in returned:
        queue.pump()
