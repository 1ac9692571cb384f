"""A channel whose messages go through aiormq, over its public calls alone.

For connections that others opened (``connection=``), which stay as they are, and for an aiormq that does not let us
open the socket. It is slower, and two things stay unknown, because nothing public tells them: that the broker blocks
publishers, and, before aiormq 7.1, that the broker has cancelled a consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from aiormq import spec
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import DeliveryError, PublishError

from aioresults.errors import ChannelClosed, ChannelError, MessageNacked, MessageReturned
from aioresults.transport.amqp import frames
from aioresults.transport.amqp.channel import ChannelCalls, hand_over, translated
from aioresults.transport.amqp.properties import write_properties
from aioresults.transport.base import Connection, Delivery, Properties
from aioresults.transport.broker_errors import is_of_publish

#: Names of properties here and in pamqp; `timestamp` has another type there.
_NAMES: Final = {
    field.name: "message_type" if field.name == "type" else field.name
    for field in fields(Properties)
    if field.name != "timestamp"
}
#: Frames that wait for aiormq's writer, of the ten that it has room for.
_MAX_QUEUED: Final = 5


class PlainChannel(ChannelCalls):
    """A channel on a connection whose socket is not ours."""

    def __init__(self, connection: Connection, underlay: Any) -> None:
        super().__init__(connection, None, underlay)
        self._running: set[asyncio.Task[None]] = set()
        if hasattr(underlay, "on_consumer_cancel_callbacks"):  # since aiormq 7.1
            underlay.on_consumer_cancel_callbacks.add(lambda frame: self.cancelled(frame.consumer_tag or ""))

    async def basic_publish(
        self, body: bytes, properties: Properties, exchange: str = "", routing_key: str = "", *, mandatory: bool = False
    ) -> None:
        if self.is_closed:
            raise self.closed_error()
        write_properties(properties)  # raises EncodeError for the same as on a socket of ours

        async def publish() -> None:
            await self._until_room()
            try:
                await self._underlay.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=_to_pamqp(properties),
                    mandatory=mandatory,
                    wait=False,
                )
            except PublishError as error:
                frame: Any = error.message and error.message.delivery
                raise MessageReturned(exchange, routing_key, frame.reply_code, frame.reply_text) from error
            except DeliveryError as error:
                raise MessageNacked("the broker did not take the message (negative confirm)") from error

        try:
            await self._detached(translated(publish(), self.connection))
        except ChannelError as error:
            if is_of_publish(error, body, exchange):
                raise
            raise ChannelClosed(error.reply_code, error.reply_text) from error

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        self._settle(self._underlay.basic_ack, delivery_tag, multiple=multiple)

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        self._settle(self._underlay.basic_nack, delivery_tag, multiple=multiple, requeue=requeue)

    def _settle(self, settle: Callable[..., Coroutine[Any, Any, None]], delivery_tag: int, **flags: bool) -> None:
        async def run() -> None:
            await self._until_room()
            await settle(delivery_tag, **flags, wait=False)

        if not self.is_closed:
            self._run(run())

    async def _until_room(self) -> None:
        """Wait until what is written next goes out at once, and raise if the channel is closed by then.

        aiormq writes on behind its own ``channel.close-ok``, for which the broker closes the connection (504): it takes
        a few turns from reading the close to calling the channel closed, but takes it from ``channels`` at once. It
        also leaves the answer out when its queue is full; so some room stays.
        """
        connection = self._underlay.connection
        while connection.write_queue.qsize() >= _MAX_QUEUED and not connection.is_closed:  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0)
        if connection.channels.get(self._underlay.number) is not self._underlay:
            raise self.closed_error()

    async def basic_get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        async def get() -> Any:
            try:
                return await self._underlay.basic_get(queue, no_ack=no_ack)
            except ValueError:  # pamqp refuses the name: what aiormq does, with a frame that takes any
                self._underlay.getter = self._underlay.create_future()
                await self._underlay.rpc(frames.call(spec.Basic.Get, queue=queue, no_ack=no_ack))
                return (await self._underlay.getter)[1]

        message = await self._call(get)
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else self._delivery(message)

    async def _consume(self, queue: str, consumer_tag: str, **options: Any) -> None:
        on_message = self._consumers[consumer_tag]

        async def deliver(message: DeliveredMessage) -> None:
            if not self.is_closed:
                hand_over(on_message, self._delivery(message))

        try:
            await self._underlay.basic_consume(queue, deliver, consumer_tag=consumer_tag, **options)
        except ValueError:  # pamqp refuses the name, as above
            self._underlay.consumers[consumer_tag] = deliver
            await self._underlay.rpc(frames.call(spec.Basic.Consume, queue=queue, consumer_tag=consumer_tag, **options))

    def discard(self) -> None:
        async def close() -> None:
            await self._until_room()  # behind the acknowledgements that wait there
            await self._underlay.close()

        if not self.is_closed:
            self.is_closed = True
            self._run(close())

    def _run(self, operation: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            with suppress(Exception):  # the channel is closed, and what is unacknowledged is back in its queue
                await translated(operation, self.connection)

        task = asyncio.get_running_loop().create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _delivery(self, message: DeliveredMessage) -> Delivery:
        properties = message.header.properties
        moment = properties.timestamp
        return Delivery(
            self,
            message.body,
            Properties(
                **{name: getattr(properties, theirs) for name, theirs in _NAMES.items()},
                timestamp=None if moment is None else int(moment.timestamp()),
            ),
            message.delivery_tag or 0,
            bool(message.redelivered),
            message.exchange or "",
            message.routing_key or "",
            message.consumer_tag,
            message.message_count,
        )


def _to_pamqp(properties: Properties) -> spec.Basic.Properties:
    values: dict[str, Any] = {theirs: getattr(properties, name) for name, theirs in _NAMES.items()}
    if properties.timestamp is not None:
        values["timestamp"] = datetime.fromtimestamp(properties.timestamp, UTC)
    return spec.Basic.Properties(**values)
