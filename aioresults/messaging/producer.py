"""Publishes messages on one channel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Self

from aioresults import validation
from aioresults.errors import ConfigurationError, MessageReturned, NotBoundError, NotSupported
from aioresults.messaging.body_codec import BodyCodec
from aioresults.messaging.exchange import IMMEDIATE, Entity, Exchange, mode_of
from aioresults.messaging.queue import Queue
from aioresults.retry import RetryPolicy, retrying
from aioresults.serialization import Serializers
from aioresults.timing import fail_after
from aioresults.transport.base import PERSISTENT, Channel, Connection, OutgoingMessage, Properties

#: Called with a message that came back: the error, the exchange, the routing key, and the message.
OnReturn = Callable[[MessageReturned, str, str, OutgoingMessage], Any]

_ONE_ATTEMPT: Final = RetryPolicy(max_retries=0)


class Producer:
    """Publishes messages on one channel.

    On a channel with confirms, such as ``AMQPBackend.channel()`` returns, ``publish`` returns once the broker has taken
    the message. Any number of tasks may publish at the same time. When the channel is lost, hand ``revive`` the next
    one; a ``publish`` with ``retry`` waits for that.

    Example::

        producer = Producer(channel, Exchange("orders", "topic"), serializer="json")
        await producer.publish({"id": 1}, "eu.de")

    Args:
        channel: None to hand the producer one later, with ``revive``.
        exchange: the exchange to publish to, or its name; None means the default exchange. Declared before the first
            message, unless it is the default exchange.
        routing_key: the key of messages that are published without one.
        serializer: ``json``, ``msgpack``, ...; None sends text and bytes as they are, and other values as JSON.
        auto_declare: whether ``exchange`` is declared.
        compression: ``zlib``, ``bz2``, ``lzma``, ``zstd``, or None.
        on_return: called when a mandatory message reached no queue, instead of raising ``MessageReturned``: with that
            error, the exchange, the routing key and the message. A plain or an async function.
        serializers: a registry of your own.

    A subclass may set ``routing_key``, ``serializer``, ``auto_declare``, ``compression`` and ``on_return`` as class
    attributes.
    """

    routing_key: str = ""
    serializer: str | None = None
    auto_declare: bool = True
    compression: str | None = None
    on_return: OnReturn | None = None

    def __init__(
        self,
        channel: Channel | None = None,
        exchange: Exchange | str | None = None,
        routing_key: str | None = None,
        serializer: str | None = None,
        auto_declare: bool | None = None,
        compression: str | None = None,
        on_return: OnReturn | None = None,
        *,
        serializers: Serializers | None = None,
    ) -> None:
        given = {
            "routing_key": routing_key,
            "serializer": serializer,
            "auto_declare": auto_declare,
            "compression": compression,
            "on_return": on_return,
        }
        self.__dict__.update((name, value) for name, value in given.items() if value is not None)
        self._channel = channel
        exchange = Exchange(exchange or "") if exchange is None or isinstance(exchange, str) else exchange
        self.exchange: Exchange = exchange if channel is None else exchange(channel)
        self._codec = BodyCodec(serializers)
        #: What need not be declared again on this channel.
        self._declared: set[Entity] = set()

    @property
    def channel(self) -> Channel:
        """The channel; raises ``NotBoundError`` if the producer has none."""
        if self._channel is None:
            raise NotBoundError("the producer has no channel: give it one with revive(channel)")
        return self._channel

    @property
    def connection(self) -> Connection:
        """The connection of the channel."""
        return self.channel.connection

    def is_on(self, channel: Channel) -> bool:
        """Whether the producer publishes on this channel.

        Example::

            if not producer.is_on(channel):
                await producer.revive(channel)
        """
        return self._channel is channel

    async def revive(self, channel: Channel) -> None:
        """Go on with ``channel``, because the last one was lost. What was declared there is declared again when needed.

        Example::

            await producer.revive(await backend.channel())
        """
        self._channel = channel
        self._declared.clear()
        self.exchange = self.exchange(channel)

    async def release(self) -> None:
        """Do nothing: the channel belongs to whoever opened it. Also named ``close``; may be called twice.

        Example::

            await producer.release()
        """

    close = release

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.release()

    # Declaring

    async def declare(self) -> None:
        """Declare the exchange, unless it is the default exchange; raises as ``Exchange.declare`` does.

        Example::

            await producer.declare()
        """
        await self.exchange(self.channel).declare()

    async def maybe_declare(self, entity: Exchange | Queue | None, retry: bool = False, **retry_policy: Any) -> bool:
        """Declare an exchange or a queue, unless this producer has done so on this channel; return whether it did.

        What may disappear by itself (auto_delete, expiring, a ``NoCacheQueue``) is declared every time.

        Example::

            await producer.maybe_declare(Queue("orders"), retry=True, max_retries=3)

        Args:
            entity: None is accepted; there is nothing to declare then.
            retry: try again after an error that may pass, as ``publish`` does.
            retry_policy: the fields of a ``RetryPolicy``.

        Raises:
            InequivalentArgument, ChannelError, BrokerUnavailable: as the entity's ``declare``.
        """
        if entity is None or entity in self._declared:
            return False

        async def declare() -> None:
            channel = self.channel
            await entity(channel).declare()
            if entity.can_cache_declaration and channel is self._channel:
                self._declared.add(entity)

        await (retrying(declare, retry_policy) if retry else declare())
        return True

    # Publishing

    async def publish(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: int | str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        compression: str | None = None,
        exchange: Exchange | str | None = None,
        retry: bool = False,
        retry_policy: RetryPolicy | Mapping[str, Any] | None = None,
        declare: Iterable[Exchange | Queue | None] | None = None,
        expiration: float | None = None,
        timeout: float | None = None,
        **properties: Any,
    ) -> None:
        """Publish one message.

        Example::

            orders = Queue("orders", expires=3600)
            await producer.publish({"id": 1}, "orders", exchange="", declare=[orders], mandatory=True, timeout=5)

        Args:
            body: a value, which is serialized; or an ``OutgoingMessage``, which is sent as it is.
            delivery_mode: 1 or ``transient``, 2 or ``persistent``; None means as the exchange says, or else persistent.
            mandatory: raise ``MessageReturned`` if the message reaches no queue.
            content_type: the body is bytes or text of this type, and is not serialized.
            exchange: publish to this exchange instead of the producer's own; it must exist.
            retry: try again after a negative confirm, and after the channel is lost, once ``revive`` has brought the
                next channel. The message may then arrive twice.
            retry_policy: how often and how far apart to try: a ``RetryPolicy``, or a mapping of its fields.
            declare: what must exist; each entity is passed to ``maybe_declare``.
            expiration: seconds after which the message is dropped from its queue.
            timeout: seconds for everything: attempts, declarations and confirm; None means no limit.
            properties: ``reply_to`` (a queue, or its name), ``correlation_id``, ``message_id``, ``timestamp``, ...

        Raises:
            MessageReturned: ``mandatory``, the message reached no queue, and there is no ``on_return``.
            MessageNacked: the broker did not take the message.
            EncodeError: the body cannot be written; nothing was sent.
            ConfigurationError: an unknown property, serializer or compression; nothing was sent.
            NotSupported: ``immediate``; nothing was sent.
            NotFound: the exchange does not exist; the broker has closed the channel.
            NotBoundError: the producer has no channel.
            ChannelError, BrokerUnavailable: nobody knows whether the broker has the message; publish it again.

        Cancelling it is safe: the message may or may not be sent, and nothing else is disturbed.
        """
        if immediate:
            raise NotSupported(IMMEDIATE)
        target = self.exchange if exchange is None else exchange
        if isinstance(body, OutgoingMessage):
            message = body
        else:
            mode = mode_of(delivery_mode) or getattr(target, "delivery_mode", self.exchange.delivery_mode)
            fields = self._properties(properties, priority, content_type, content_encoding, headers, expiration)
            fields.delivery_mode = mode or PERSISTENT
            message = self._codec.write(
                body, fields, serializer=serializer or self.serializer, compression=compression or self.compression
            )
        name = target if isinstance(target, str) else target.name
        key = self.routing_key if routing_key is None else routing_key
        entities = tuple(declare or ())
        if self.auto_declare and self.exchange.name:
            entities += (self.exchange,)
        if not retry and timeout is None:
            await self._send(message, name, key, mandatory, entities)
            return
        seconds = None if timeout is None else validation.seconds("timeout", timeout)
        send = partial(self._send, message, name, key, mandatory, entities)
        async with fail_after(seconds, "not confirmed by the broker"):
            await retrying(send, retry_policy if retry else _ONE_ATTEMPT)

    async def _send(
        self,
        message: OutgoingMessage,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        entities: Iterable[Exchange | Queue | None],
    ) -> None:
        for entity in entities:
            await self.maybe_declare(entity)
        try:
            await self.channel.basic_publish(
                message.body, message.properties, exchange, routing_key, mandatory=mandatory
            )
        except MessageReturned as error:
            if self.on_return is None:
                raise
            outcome = self.on_return(error, exchange, routing_key, message)
            if inspect.isawaitable(outcome):
                await outcome

    def _properties(
        self,
        properties: Mapping[str, Any],
        priority: int,
        content_type: str | None,
        content_encoding: str | None,
        headers: Mapping[str, Any] | None,
        expiration: float | None,
    ) -> Properties:
        reply_to = properties.get("reply_to")
        if isinstance(reply_to, Queue):
            properties = {**properties, "reply_to": reply_to.name}
        try:
            fields = Properties(
                content_type=content_type,
                content_encoding=content_encoding,
                headers=dict(headers or {}),
                priority=validation.count("priority", priority),
                **properties,
            )
        except TypeError:
            unknown = sorted(set(properties) - set(Properties.__slots__))
            raise ConfigurationError(f"unknown properties: {unknown}; known are {list(Properties.__slots__)}") from None
        if expiration is not None:
            fields.expiration = str(int(validation.seconds("expiration", expiration) * 1000))
        return fields
