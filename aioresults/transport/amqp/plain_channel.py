"""A channel whose messages go through aiormq, over its public calls alone.

For connections that others opened (``connection=``), which stay as they are, and for an aiormq that does not let us
open the socket. Slower, and with two gaps that nothing public closes: nobody is told that the broker blocks publishers,
and before aiormq 7.1 not that it cancelled a consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from aiormq import spec
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import DeliveryError, PublishError

from aioresults.errors import ChannelError, MessageNacked, MessageReturned, NotSupported
from aioresults.transport.amqp.channel import ChannelCalls, detached, hand_over, refused_publish
from aioresults.transport.amqp.properties import write_properties
from aioresults.transport.amqp.translate_errors import translated
from aioresults.transport.base import Connection, Delivery, Properties

#: Names of properties here and in pamqp; `timestamp` has another type there.
_NAMES: Final = {
    field.name: "message_type" if field.name == "type" else field.name
    for field in fields(Properties)
    if field.name != "timestamp"
}


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
        write_properties(properties)  # raises what it raises on a socket of ours

        async def publish() -> None:
            try:
                await self._underlay.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=_to_pamqp(properties),
                    mandatory=mandatory,
                )
            except PublishError as error:
                frame: Any = error.message and error.message.delivery
                raise MessageReturned(exchange, routing_key, frame.reply_code, frame.reply_text) from error
            except DeliveryError as error:
                raise MessageNacked("the broker did not take the message (negative confirm)") from error

        try:
            await detached(translated(publish(), self.connection))
        except ChannelError as error:
            raise refused_publish(error, body, exchange) from error

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        if not self.is_closed:
            self._run(self._underlay.basic_ack(delivery_tag, multiple=multiple))

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        if not self.is_closed:
            self._run(self._underlay.basic_nack(delivery_tag, multiple=multiple, requeue=requeue))

    async def basic_get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        message = await self._call(_checked(queue, self._underlay.basic_get(queue, no_ack=no_ack)))
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else self._delivery(message)

    async def _consume(self, **fields: Any) -> None:
        on_message = self._consumers[fields["consumer_tag"]]

        async def deliver(message: DeliveredMessage) -> None:
            if not self.is_closed:
                hand_over(on_message, self._delivery(message))

        await _checked(fields["queue"], self._underlay.basic_consume(fields.pop("queue"), deliver, **fields))

    def discard(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._run(self._underlay.close())

    def _run(self, operation: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await translated(operation, self.connection)
            except Exception:
                return  # the channel is closed, and what is unacknowledged is back in its queue

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


async def _checked(queue: str, operation: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await operation
    except ValueError as error:
        raise NotSupported(f"aiormq cannot read from a queue named {queue!r} ({error}); connect by a URL") from error


def _to_pamqp(properties: Properties) -> spec.Basic.Properties:
    values: dict[str, Any] = {theirs: getattr(properties, name) for name, theirs in _NAMES.items()}
    if properties.timestamp is not None:
        values["timestamp"] = datetime.fromtimestamp(properties.timestamp, UTC)
    return spec.Basic.Properties(**values)
