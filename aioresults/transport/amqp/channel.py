"""The operations of one channel, on the aiormq channel under the aio-pika channel.

Why under it, measured on aiormq 7.2: cancelling or timing out an RPC closes its channel (aiormq#55), so each RPC runs
as a task of its own, shielded from its caller; and consumers are told of a broker's cancel through a plain callback,
because an RPC inside that callback deadlocks aiormq's reader.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from aio_pika.abc import AbstractChannel
from aiormq import Channel as UnderlayChannel
from aiormq import spec
from aiormq.abc import ChannelFrame, ConsumerCallback, DeliveredMessage

from aioresults.errors import AioResultsError, BrokerUnavailable, ChannelClosed, ChannelError, NotSupported
from aioresults.transport.amqp import frames
from aioresults.transport.amqp.outcome import CLOSE_TIMEOUT, Translating, detached, translate
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
from aioresults.transport.replies import is_of_publish

T = TypeVar("T")


class AMQPChannel:
    """One channel; the aio-pika channel is kept beside the aiormq one so that it lives as long."""

    def __init__(
        self,
        connection: Connection,
        is_lost: Callable[[], bool],
        channel: AbstractChannel,
        underlay: UnderlayChannel,
    ) -> None:
        self._connection = connection
        self._is_lost = is_lost
        self._translating = Translating(is_lost)
        self._channel = channel
        self._underlay = underlay
        # aiormq tells by the message id which message came back, so each has one of its own.
        self._name = uuid4().hex
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()
        self._closing = False
        self._closed = underlay.closing
        self._reason: AioResultsError | None = None
        self._callbacks: list[OnClose] = []
        self._on_cancel: dict[str, OnCancel] = {}
        # Weak, because the channel may outlive many consumers; aiormq has a callback for as long as its consumers.
        self._deliver: WeakValueDictionary[OnMessage, ConsumerCallback] = WeakValueDictionary()
        underlay.on_consumer_cancel_callbacks.add(self._cancelled)
        self._closed.add_done_callback(self._lost)

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def is_closed(self) -> bool:
        # aiormq answers the broker's close some turns of the loop before it calls itself closed; a frame written in
        # between would cost the connection (504).
        refused = self._underlay._close_exception is not None
        return self._closing or refused or self._underlay.is_closed or self._is_lost()

    def on_close(self, callback: OnClose) -> None:
        if self._reason is not None:
            asyncio.get_running_loop().call_soon(callback, self._reason)
        self._callbacks.append(callback)

    def _lost(self, closed: asyncio.Future[Any]) -> None:
        reason = None if self._closing or closed.cancelled() else closed.exception()
        self._reason = translate(reason, connection_lost=self._is_lost())
        for callback in self._callbacks:
            callback(self._reason)

    async def _rpc(self, operation: Coroutine[Any, Any, T]) -> T:
        return await detached(self._in_turn(operation), self._is_lost)

    async def _in_turn(self, operation: Coroutine[Any, Any, T]) -> T:
        # aiormq gives the error of the one that was refused to every call that waits for its turn in there.
        async with self._turn:
            if self.is_closed:
                operation.close()
                raise self._closed_error()
            return await operation

    def _closed_error(self) -> BrokerUnavailable | ChannelClosed:
        if self._is_lost():
            return BrokerUnavailable("the connection to the broker was lost")
        return ChannelClosed()

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
        await self._rpc(
            self._underlay.exchange_declare(
                exchange,
                exchange_type=type,
                durable=durable,
                auto_delete=auto_delete,
                passive=passive,
                arguments=_table(arguments),
            )
        )

    async def exchange_delete(self, exchange: str, *, if_unused: bool = False) -> None:
        await self._rpc(self._underlay.exchange_delete(exchange, if_unused=if_unused))

    async def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        await self._rpc(self._underlay.exchange_bind(destination, source, routing_key, arguments=_table(arguments)))

    async def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        await self._rpc(self._underlay.exchange_unbind(destination, source, routing_key, arguments=_table(arguments)))

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
        frame = frames.QueueDeclare(
            queue=queue,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            passive=passive,
            arguments=_table(arguments),
        )
        ok = await self._rpc(self._underlay.rpc(frame))
        return DeclareOk(ok.queue or queue, ok.message_count or 0, ok.consumer_count or 0)

    async def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        frame = frames.QueueBind(0, queue, exchange, routing_key, arguments=_table(arguments))
        await self._rpc(self._underlay.rpc(frame))

    async def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None:
        frame = frames.QueueUnbind(0, queue, exchange, routing_key, arguments=_table(arguments))
        await self._rpc(self._underlay.rpc(frame))

    async def queue_purge(self, queue: str) -> int:
        ok = await self._rpc(self._underlay.rpc(frames.QueuePurge(queue=queue)))
        return ok.message_count or 0

    async def queue_delete(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        frame = frames.QueueDelete(queue=queue, if_unused=if_unused, if_empty=if_empty)
        ok = await self._rpc(self._underlay.rpc(frame))
        return ok.message_count or 0

    async def basic_publish(
        self, body: bytes, properties: Properties, exchange: str = "", routing_key: str = "", *, mandatory: bool = False
    ) -> None:
        if self.is_closed:
            raise self._closed_error()
        try:
            with self._translating:
                await self._underlay.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=_to_wire(properties, f"{self._name}.{next(self._numbers)}"),
                    mandatory=mandatory,
                    # The confirm says more than the drain of a socket, which would hold the channel's lock meanwhile.
                    wait=False,
                )
        except ChannelError as error:
            # aiormq gives everyone the error that closed the channel.
            if is_of_publish(error, body, exchange):
                raise
            raise ChannelClosed(error.reply_code, error.reply_text) from error

    def _delivering_to(self, on_message: OnMessage) -> ConsumerCallback:
        """Return what aiormq calls; one for all consumers of a callback, since there may be many thousand of them."""
        callback = self._deliver.get(on_message)
        if callback is None:

            def deliver(message: DeliveredMessage) -> Coroutine[Any, Any, None]:
                # aiormq makes a task of what is returned. The message is handed over before, a turn of the loop sooner.
                try:
                    if not self._closing:
                        on_message(_from_wire(self, message))
                except Exception as error:
                    return _handed_over(error)
                return _handed_over(None)

            callback = self._deliver[on_message] = deliver
        return callback

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
        async def consume() -> str:
            # What aiormq's basic_consume does, which would make a frame of its own.
            tag = consumer_tag or f"aioresults.{uuid4().hex}"
            if tag in self._underlay.consumers:
                raise NotSupported(f"attempt to reuse consumer tag {tag!r}")
            self._underlay.consumers[tag] = self._delivering_to(on_message)
            await self._underlay.rpc(
                frames.BasicConsume(
                    queue=queue, consumer_tag=tag, no_ack=no_ack, exclusive=exclusive, arguments=_table(arguments)
                )
            )
            if on_cancel is not None:
                self._on_cancel[tag] = on_cancel
            return tag

        return await self._rpc(consume())

    def _cancelled(self, frame: spec.Basic.CancelOk | spec.Basic.Cancel) -> None:
        callback = self._on_cancel.pop(frame.consumer_tag or "", None)
        if callback is not None and not self._closing:
            # Not from inside aiormq's reader.
            asyncio.get_running_loop().call_soon(callback, frame.consumer_tag or "")

    async def basic_cancel(self, consumer_tag: str) -> None:
        self._on_cancel.pop(consumer_tag, None)
        await self._rpc(self._underlay.basic_cancel(consumer_tag))

    async def basic_get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        message = await self._rpc(self._get(frames.BasicGet(queue=queue, no_ack=no_ack)))
        if isinstance(message.delivery, spec.Basic.GetEmpty):
            return None
        return _from_wire(self, message)

    async def _get(self, frame: frames.BasicGet) -> DeliveredMessage:
        # What aiormq's basic_get does, which would make a frame of its own.
        underlay = self._underlay
        async with underlay.getter_lock:
            underlay.getter = getter = underlay.create_future()
            try:
                await underlay.rpc(frame)
                message: DeliveredMessage
                _, message = await getter
            finally:
                getter.cancel()
                del underlay.getter
            return message

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        self._write(spec.Basic.Ack(delivery_tag=delivery_tag, multiple=multiple))

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        self._write(spec.Basic.Nack(delivery_tag=delivery_tag, multiple=multiple, requeue=requeue))

    def _write(self, frame: spec.Basic.Ack | spec.Basic.Nack | spec.Channel.Close) -> None:
        """Queue a frame without waiting; aiormq's writer takes it from there."""
        if self.is_closed:
            return
        marshalled = ChannelFrame.marshall(channel_number=self._underlay.number, frames=[frame])
        try:
            self._underlay.write_queue.put_nowait(marshalled)
        except asyncio.QueueFull:
            self._underlay.create_task(self._underlay.write_queue.put(marshalled))

    async def basic_qos(self, prefetch_count: int) -> None:
        await self._rpc(self._underlay.basic_qos(prefetch_count=prefetch_count))

    async def basic_recover(self) -> None:
        await self._rpc(self._underlay.basic_recover(requeue=True))

    async def close(self) -> None:
        if not self.is_closed:
            self.discard()
            await asyncio.wait([self._closed], timeout=CLOSE_TIMEOUT)
        self._closing = True

    def discard(self) -> None:
        """Close without waiting for the broker's answer.

        Past aiormq's own ``close``, which waits behind a call that is not answered, and gives up with the channel open.
        """
        self._write(spec.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0))
        self._closing = True


async def _handed_over(error: Exception | None) -> None:
    if error is not None:
        raise error  # aiormq logs it


def _table(arguments: Arguments) -> dict[str, Any] | None:
    return None if arguments is None else dict(arguments)


def _to_wire(properties: Properties, message_id: str) -> frames.Properties:
    timestamp = properties.timestamp
    return frames.Properties(
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=properties.headers,
        delivery_mode=properties.delivery_mode,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=properties.expiration,
        message_id=properties.message_id or message_id,
        timestamp=None if timestamp is None else datetime.fromtimestamp(timestamp, UTC),
        message_type=properties.type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )


def _from_wire(channel: AMQPChannel, message: DeliveredMessage) -> Delivery:
    wire, delivery = message.header.properties, message.delivery
    return Delivery(
        channel=channel,
        body=message.body,
        properties=Properties(
            content_type=wire.content_type,
            content_encoding=wire.content_encoding,
            headers=wire.headers,
            delivery_mode=wire.delivery_mode,
            priority=wire.priority,
            correlation_id=wire.correlation_id,
            reply_to=wire.reply_to,
            expiration=wire.expiration,
            message_id=wire.message_id,
            timestamp=None if wire.timestamp is None else int(wire.timestamp.timestamp()),
            type=wire.message_type,
            user_id=wire.user_id,
            app_id=wire.app_id,
        ),
        delivery_tag=message.delivery_tag or 0,
        redelivered=bool(message.redelivered),
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        consumer_tag=getattr(delivery, "consumer_tag", None),
        message_count=getattr(delivery, "message_count", None),
    )
