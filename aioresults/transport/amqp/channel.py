"""The operations of one channel, on the aiormq channel under the aio-pika channel.

Why under it, measured on aiormq 7.2: cancelling or timing out an RPC closes its channel (aiormq#55), so each RPC runs
as a task of its own, shielded from its caller; and consumers are told of a broker's cancel through a plain callback,
because an RPC inside that callback deadlocks aiormq's reader. What goes with each message (publish, confirm, delivery,
acknowledgement) passes aiormq by: see ``frame_reader``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar, cast
from uuid import uuid4

import pamqp.frame
from aio_pika.abc import AbstractChannel
from aiormq import Channel as UnderlayChannel
from aiormq import spec

from aioresults.errors import (
    AioResultsError,
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    MessageReturned,
    NotSupported,
)
from aioresults.transport.amqp import frames
from aioresults.transport.amqp.arrivals import Arrivals
from aioresults.transport.amqp.confirms import Confirms
from aioresults.transport.amqp.frame_queue import FrameQueue
from aioresults.transport.amqp.outcome import CLOSE_TIMEOUT, detached, translate
from aioresults.transport.amqp.wire import Wire
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

logger: Final = logging.getLogger("aioresults")


class AMQPChannel:
    """One channel; the aio-pika channel is kept beside the aiormq one so that it lives as long.

    Args:
        wire: what frames are written to, and where those of messages come from.
        confirms: whether the broker confirms what is published.
    """

    def __init__(
        self,
        connection: Connection,
        is_lost: Callable[[], bool],
        wire: Wire,
        channel: AbstractChannel,
        underlay: UnderlayChannel,
        *,
        confirms: bool,
    ) -> None:
        self._connection = connection
        self._is_lost = is_lost
        self._wire = wire
        self._channel = channel
        self._underlay = underlay
        self._number: int = underlay.number
        # A message that comes back is known by its id, so each has one of its own.
        self._name = uuid4().hex
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()
        self._closing = False
        self._closed = underlay.closing
        self._reason: AioResultsError | None = None
        self._callbacks: dict[object, OnClose] = {}
        self._on_cancel: dict[str, OnCancel] = {}
        # aiormq's own, which it looks into when the broker cancels a consumer; there may be many thousand of them.
        self._consumers = cast("dict[str, OnMessage]", underlay.consumers)
        self._confirms = Confirms() if confirms else None
        self._getting: asyncio.Future[Delivery | None] | None = None
        wire.attach(self._number, Arrivals(self).take)
        underlay.write_queue = cast("asyncio.Queue[Any]", FrameQueue(wire.write, lambda: self._closing))
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

    def on_close(self, callback: OnClose) -> Callable[[], object]:
        if self._reason is not None:
            asyncio.get_running_loop().call_soon(callback, self._reason)
        key = object()
        self._callbacks[key] = callback
        return lambda: self._callbacks.pop(key, None)

    def _lost(self, closed: asyncio.Future[Any]) -> None:
        reason = None if self._closing or closed.cancelled() else closed.exception()
        self._reason = translate(reason, connection_lost=self._is_lost())
        self._wire.detach(self._number)
        if self._confirms is not None:
            self._confirms.fail(self._reason)
        if self._getting is not None and not self._getting.done():
            self._getting.set_exception(self._reason)
        for callback in tuple(self._callbacks.values()):
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
        message_id = properties.message_id
        if not message_id:
            message_id = f"{self._name}.{next(self._numbers)}"
            properties = replace(properties, message_id=message_id)
        written = frames.publish(
            self._number, body, properties, exchange, routing_key, mandatory=mandatory, max_size=self._wire.frame_max
        )
        confirm = None if self._confirms is None else self._confirms.expect(message_id)
        self._wire.write(written)
        if confirm is None:
            return
        try:
            await confirm
        except ChannelError as error:
            # Whatever closes the channel ends all that wait for their confirms.
            if is_of_publish(error, body, exchange):
                raise
            raise ChannelClosed(error.reply_code, error.reply_text) from error

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
            if tag in self._consumers:
                raise NotSupported(f"attempt to reuse consumer tag {tag!r}")
            self._consumers[tag] = on_message
            if on_cancel is not None:
                self._on_cancel[tag] = on_cancel  # before the answer: a cancel may come right behind it
            await self._underlay.rpc(
                frames.BasicConsume(
                    queue=queue, consumer_tag=tag, no_ack=no_ack, exclusive=exclusive, arguments=_table(arguments)
                )
            )
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
        return await self._rpc(self._get(frames.BasicGet(queue=queue, no_ack=no_ack)))

    async def _get(self, frame: frames.BasicGet) -> Delivery | None:
        getting: asyncio.Future[Delivery | None] = asyncio.get_running_loop().create_future()
        self._getting = getting
        self._wire.write(pamqp.frame.marshal(frame, self._number))
        try:
            return await getting
        finally:
            self._getting = None

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        if not self.is_closed:
            self._wire.write_soon(frames.ack(self._number, delivery_tag, multiple=multiple))

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        if not self.is_closed:
            self._wire.write_soon(frames.nack(self._number, delivery_tag, multiple=multiple, requeue=requeue))

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
        if not self.is_closed:
            frame = spec.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
            self._wire.write(pamqp.frame.marshal(frame, self._number))
        self._closing = True

    # Called with what arrived

    def delivered(
        self,
        consumer_tag: str,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes,
    ) -> None:
        """Hand a message to its consumer."""
        on_message = self._consumers.get(consumer_tag)
        if on_message is None or self._closing:
            return
        try:
            on_message(Delivery(self, body, properties, delivery_tag, redelivered, exchange, routing_key, consumer_tag))
        except Exception:
            logger.exception("what consumes %s has failed", consumer_tag)

    def fetched(
        self,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        message_count: int,
        properties: Properties,
        body: bytes,
    ) -> None:
        """Hand a message to who got it."""
        if self._getting is not None and not self._getting.done():
            self._getting.set_result(
                Delivery(
                    self, body, properties, delivery_tag, redelivered, exchange, routing_key,
                    message_count=message_count,
                )
            )  # fmt: skip

    def fetched_nothing(self) -> None:
        """Tell who got it that the queue is empty."""
        if self._getting is not None and not self._getting.done():
            self._getting.set_result(None)

    def returned(
        self, reply_code: int, reply_text: str, exchange: str, routing_key: str, properties: Properties, body: bytes
    ) -> None:
        """Fail a publish whose message found no queue."""
        if self._confirms is not None:
            error = MessageReturned(exchange, routing_key, reply_code, reply_text)
            self._confirms.give_back(properties.message_id, error)

    def confirmed(self, delivery_tag: int, *, multiple: bool, ack: bool) -> None:
        """End the publishes that the broker has answered."""
        if self._confirms is not None:
            self._confirms.answer(delivery_tag, multiple=multiple, ack=ack)


def _table(arguments: Arguments) -> dict[str, Any] | None:
    return None if arguments is None else dict(arguments)
