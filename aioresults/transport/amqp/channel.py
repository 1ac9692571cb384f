"""The operations of one channel, on the aiormq channel under an aio-pika channel.

Why under it, measured on aiormq 7.2: cancelling or timing out a call closes its channel (aiormq#55), so each call runs
as a task of its own. What goes with each message (publish, confirm, delivery, acknowledgement) passes aiormq by where
the socket is ours: see ``shared_socket``; for other connections there is ``plain_channel``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar
from uuid import uuid4

from aiormq import spec
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from aioresults.errors import (
    AioResultsError,
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    MessageNacked,
    MessageReturned,
    NotSupported,
)
from aioresults.transport.amqp import frames
from aioresults.transport.amqp.shared_socket import SharedSocket
from aioresults.transport.amqp.translate_errors import translate
from aioresults.transport.base import (
    Arguments,
    Connection,
    DeclareOk,
    Delivery,
    OnCancel,
    OnClose,
    OnMessage,
    Properties,
)
from aioresults.transport.broker_errors import channel_error, is_of_publish

T = TypeVar("T")

logger: Final = logging.getLogger("aioresults")

#: Closing is bounded: aiormq waits up to a heartbeat for the broker's answer, without limit when heartbeats are off.
CLOSE_TIMEOUT: Final = 3.0


class ChannelCalls:
    """The calls that have an answer of their own, and the end of a channel: both are the same on every connection.

    Args:
        channel: the aio-pika channel, kept so that it lives as long.
        underlay: the aiormq channel.
    """

    def __init__(self, connection: Connection, channel: object, underlay: Any) -> None:
        self.connection = connection
        self.is_closed: bool = False
        self._channel = channel
        self._underlay = underlay
        self._turn = asyncio.Lock()
        self._closed: asyncio.Future[Any] = underlay.closing
        self._closed.add_done_callback(self._aiormq_closed)
        self._reason: AioResultsError | None = None
        #: Done once the connection is lost.
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callbacks: dict[object, OnClose] = {}
        self._consumers: dict[str, OnMessage] = {}
        self._on_cancel: dict[str, OnCancel] = {}

    # How it ends

    def on_close(self, callback: OnClose) -> Callable[[], object]:
        if self._reason is not None:
            asyncio.get_running_loop().call_soon(callback, self._reason)
        key = object()
        self._callbacks[key] = callback
        return lambda: self._callbacks.pop(key, None)

    def ended(self, reason: AioResultsError) -> None:
        """End the channel: later calls fail, and the callbacks are called. Only the first reason counts."""
        if self._reason is None:
            self._reason = reason
            self.is_closed = True
            if isinstance(reason, BrokerUnavailable):
                self._lost.set_result(None)
            for callback in self._callbacks.values():
                asyncio.get_running_loop().call_soon(callback, reason)

    def _aiormq_closed(self, closed: asyncio.Future[Any]) -> None:
        reason = None if closed.cancelled() else closed.exception()
        self.ended(translate(None if self.is_closed else reason, connection_lost=self.connection.is_closed))

    def closed_error(self) -> BrokerUnavailable | ChannelClosed:
        """Return the error for a call on this channel once it is closed."""
        if isinstance(self._reason, BrokerUnavailable):
            return BrokerUnavailable(str(self._reason))  # with the broker's own words, if there are any
        if self.connection.is_closed:
            return BrokerUnavailable("the connection to the broker was lost")
        return ChannelClosed()

    async def close(self) -> None:
        if not self.is_closed:
            self.discard()
            await asyncio.wait([self._closed], timeout=CLOSE_TIMEOUT)

    def discard(self) -> None:
        """Close without waiting for the broker's answer."""
        raise NotImplementedError

    # Calls

    async def _call(self, call: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, **options: Any) -> T:
        """Make a call of aiormq, one at a time: it gives the error of a refused one to all that wait in there."""

        async def in_turn() -> T:
            async with self._turn:
                if self.is_closed:
                    raise self.closed_error()
                return await translated(call(*arguments, **options), self.connection)

        return await self._detached(in_turn())

    async def _detached(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run ``operation`` as a task of its own, which goes on when the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(operation)
        task.add_done_callback(_retrieve)
        # Not `asyncio.shield`: since Python 3.14 that reports the failure of a task whose caller has left.
        ends: list[asyncio.Future[Any]] = [task, self._lost]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, task.cancel)  # aiormq may leave it as it is
            raise self.closed_error()
        return task.result()

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
        await self._call(
            self._underlay.exchange_declare,
            exchange,
            exchange_type=type,
            durable=durable,
            auto_delete=auto_delete,
            passive=passive,
            arguments=dict(arguments or {}),
        )

    async def exchange_delete(self, exchange: str, *, if_unused: bool = False) -> None:
        await self._call(self._underlay.exchange_delete, exchange, if_unused=if_unused)

    async def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        table = dict(arguments or {})
        await self._call(self._underlay.exchange_bind, destination, source, routing_key, arguments=table)

    async def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        table = dict(arguments or {})
        await self._call(self._underlay.exchange_unbind, destination, source, routing_key, arguments=table)

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
        frame = frames.call(
            spec.Queue.Declare,
            queue=queue,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            passive=passive,
            arguments=dict(arguments or {}),
        )
        ok = await self._call(self._underlay.rpc, frame)
        return DeclareOk(ok.queue or queue, ok.message_count or 0, ok.consumer_count or 0)

    async def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        names = {"queue": queue, "exchange": exchange, "routing_key": routing_key}
        await self._call(self._underlay.rpc, frames.call(spec.Queue.Bind, **names, arguments=dict(arguments or {})))

    async def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        names = {"queue": queue, "exchange": exchange, "routing_key": routing_key}
        await self._call(self._underlay.rpc, frames.call(spec.Queue.Unbind, **names, arguments=dict(arguments or {})))

    async def queue_purge(self, queue: str) -> int:
        ok = await self._call(self._underlay.rpc, frames.call(spec.Queue.Purge, queue=queue))
        return ok.message_count or 0

    async def queue_delete(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        frame = frames.call(spec.Queue.Delete, queue=queue, if_unused=if_unused, if_empty=if_empty)
        ok = await self._call(self._underlay.rpc, frame)
        return ok.message_count or 0

    async def basic_qos(self, prefetch_count: int) -> None:
        await self._call(self._underlay.basic_qos, prefetch_count=prefetch_count)

    async def basic_recover(self) -> None:
        await self._call(self._underlay.basic_recover, requeue=True)

    # Consumers

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
        tag = consumer_tag or f"aioresults.{uuid4().hex}"

        async def consume() -> None:
            if tag in self._consumers:
                raise NotSupported(f"attempt to reuse consumer tag {tag!r}")
            # Before the answer: a message, or a cancel, may come right behind it.
            self._consumers[tag] = on_message
            if on_cancel is not None:
                self._on_cancel[tag] = on_cancel
            table = dict(arguments or {})
            await self._consume(queue, tag, no_ack=no_ack, exclusive=exclusive, arguments=table)

        await self._call(consume)
        return tag

    async def _consume(self, queue: str, consumer_tag: str, **options: Any) -> None:
        """Send ``basic.consume`` and wait for the answer."""
        raise NotImplementedError

    async def basic_cancel(self, consumer_tag: str) -> None:
        self._on_cancel.pop(consumer_tag, None)

        async def cancel() -> None:
            await self._underlay.basic_cancel(consumer_tag)
            self._consumers.pop(consumer_tag, None)

        await self._call(cancel)

    def cancelled(self, consumer_tag: str) -> None:
        """Tell the consumer that the broker has cancelled it."""
        self._consumers.pop(consumer_tag, None)
        callback = self._on_cancel.pop(consumer_tag, None)
        if callback is not None and not self.is_closed:
            asyncio.get_running_loop().call_soon(callback, consumer_tag)


class AMQPChannel(ChannelCalls):
    """A channel on a connection whose socket is ours.

    Args:
        confirms: whether the broker confirms what is published.
    """

    def __init__(
        self, connection: Connection, channel: object, underlay: Any, socket: SharedSocket, *, confirms: bool
    ) -> None:
        super().__init__(connection, channel, underlay)
        self._number: int = underlay.number
        self._socket = socket
        self._is_confirming = confirms
        #: What publishes wait for, and their message ids, by the number that the broker counts them with.
        self._unconfirmed: dict[int, tuple[asyncio.Future[None], str]] = {}
        self._published = 0
        self._getting: asyncio.Future[Delivery | None] | None = None
        socket.channels[self._number] = frames.FrameAssembler(self)

    async def basic_publish(
        self, body: bytes, properties: Properties, exchange: str = "", routing_key: str = "", *, mandatory: bool = False
    ) -> None:
        if self.is_closed:
            raise self.closed_error()
        # A message that comes back is known by its id, so each has one of its own.
        message_id = properties.message_id or uuid4().hex
        if message_id != properties.message_id:
            properties = replace(properties, message_id=message_id)
        written = frames.publish(
            self._number, body, properties, exchange, routing_key, mandatory=mandatory, max_size=self._socket.frame_max
        )
        confirm = self._expect(message_id) if self._is_confirming else None
        self._socket.write(written)
        if confirm is not None:
            try:
                await confirm
            except ChannelError as error:
                if is_of_publish(error, body, exchange):
                    raise
                # Whatever closes the channel ends all that wait for their confirms.
                raise ChannelClosed(error.reply_code, error.reply_text) from error

    def _expect(self, message_id: str) -> asyncio.Future[None]:
        """Return what the publish that comes next waits for."""
        self._published += 1
        confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[self._published] = (confirm, message_id)
        return confirm

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        if not self.is_closed:
            self._socket.write_soon(frames.ack(self._number, delivery_tag, multiple=multiple))

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        if not self.is_closed:
            self._socket.write_soon(frames.nack(self._number, delivery_tag, multiple=multiple, requeue=requeue))

    async def basic_get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        async def get() -> Delivery | None:
            self._getting = asyncio.get_running_loop().create_future()
            self._socket.write(frames.get(self._number, queue, no_ack=no_ack))
            return await self._getting

        return await self._call(get)

    async def _consume(self, queue: str, consumer_tag: str, **options: Any) -> None:
        await self._underlay.rpc(frames.call(spec.Basic.Consume, queue=queue, consumer_tag=consumer_tag, **options))

    def discard(self) -> None:
        # Past aiormq's own `close`, which waits behind a call that is not answered, and gives up with the channel open.
        if not self.is_closed:
            self.is_closed = True
            self._socket.write(frames.close(self._number))
            self._socket.closing.add(self._number)

    def ended(self, reason: AioResultsError) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for confirm, _ in unconfirmed.values():
            _fail(confirm, reason)  # nobody knows what became of its message
        if self._getting is not None:
            _fail(self._getting, reason)
        super().ended(reason)

    def _aiormq_closed(self, closed: asyncio.Future[Any]) -> None:
        self._socket.channels.pop(self._number, None)
        super()._aiormq_closed(closed)

    # Called with what arrived

    def delivered(self, delivery: Delivery) -> None:
        """Hand a message to its consumer."""
        on_message = self._consumers.get(delivery.consumer_tag or "")
        if on_message is not None and not self.is_closed:
            hand_over(on_message, delivery)

    def fetched(self, delivery: Delivery | None) -> None:
        """End the pending get, with None when the queue is empty."""
        if self._getting is not None and not self._getting.done():
            self._getting.set_result(delivery)

    def returned(self, message_id: str | None, error: MessageReturned) -> None:
        """Fail a publish whose message found no queue; the confirm that follows says nothing more."""
        for number, (confirm, expected) in self._unconfirmed.items():
            if expected == message_id:  # among the first: the broker returns messages in order
                del self._unconfirmed[number]
                _fail(confirm, error)
                return

    def confirmed(self, delivery_tag: int, *, multiple: bool, ack: bool) -> None:
        """End the publish that the broker has answered, or all up to that one, when ``multiple``."""
        # In the order of their numbers.
        up_to = itertools.takewhile(lambda number: number <= delivery_tag, self._unconfirmed)
        for number in list(up_to) if multiple else [delivery_tag]:
            confirm, _ = self._unconfirmed.pop(number, (None, ""))
            if confirm is not None and not ack:
                _fail(confirm, MessageNacked("the broker did not take the message (negative confirm)"))
            elif confirm is not None and not confirm.done():
                confirm.set_result(None)

    def cancelled(self, consumer_tag: str) -> None:
        capabilities = self._underlay.connection.server_properties.get("capabilities") or {}
        # RabbitMQ 4.3.7 keeps the tag until it is answered; older ones close the channel over an answer.
        if capabilities.get("accept_consumer_cancel_ok") and not self.is_closed:
            self._socket.write(frames.cancel_ok(self._number, consumer_tag))
        super().cancelled(consumer_tag)

    def refused(self, reply_code: int, reply_text: str) -> None:
        """The broker has closed the channel. A frame but aiormq's answer to that would cost the connection (504)."""
        self._socket.closing.add(self._number)
        self.ended(ChannelClosed() if self.is_closed else channel_error(reply_code, reply_text))


def _fail(future: asyncio.Future[Any], error: AioResultsError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # or asyncio logs it, where its caller is cancelled at this moment


def _retrieve(task: asyncio.Task[Any]) -> None:
    # The outcome of an operation whose caller left is nobody's; asyncio would log it.
    if not task.cancelled():
        task.exception()


async def translated(operation: Coroutine[Any, Any, T], connection: Connection) -> T:
    """Await an operation of aiormq on ``connection``, and raise its errors as ours."""
    try:
        return await operation
    except AioResultsError:
        raise
    except (asyncio.CancelledError, AMQPError, OSError, RuntimeError) as error:
        # When a connection dies, aiormq ends pending calls with a bare CancelledError, though nobody cancelled them.
        is_cancelled = isinstance(error, asyncio.CancelledError)
        task = asyncio.current_task()
        if is_cancelled and task is not None and task.cancelling():
            raise
        is_lost = is_cancelled or connection.is_closed
        if isinstance(error, RuntimeError) and not (is_lost or isinstance(error, ChannelInvalidStateError)):
            raise  # but "Connection was not opened", "... closed" when it is lost
        raise translate(error, connection_lost=is_lost) from error


def hand_over(on_message: OnMessage, delivery: Delivery) -> None:
    """Give a message to its consumer, whose failure is its own."""
    try:
        on_message(delivery)
    except Exception:
        logger.exception("what consumes %s has failed", delivery.consumer_tag)
