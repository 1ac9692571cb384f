"""Publishes messages on one channel."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Self

from aioresults import validation
from aioresults.errors import ConfigurationError, MessageReturned, NotBoundError, NotSupported
from aioresults.messaging.content import Content, default_content
from aioresults.messaging.delivery_mode import delivery_mode as mode_of
from aioresults.messaging.entity import Entity
from aioresults.messaging.exchange import IMMEDIATE, Exchange, name_of
from aioresults.messaging.queue import Queue
from aioresults.messaging.retrying import retrying
from aioresults.retry import RetryPolicy
from aioresults.serialization import Serializers
from aioresults.timing import fail_after
from aioresults.transport.base import PERSISTENT, Channel, Connection, OutgoingMessage, Properties

#: What is called with a message that came back: the error, exchange, routing key, and the message.
OnReturn = Callable[[MessageReturned, str, str, OutgoingMessage], Any]


class Producer:
    """Publishes on ``channel``, by default to the default exchange.

    On a channel with confirms, such as ``AMQPBackend.channel()`` gives, ``publish`` returns when the broker has the
    message. Any number of tasks may publish at once. When the channel is lost, ``revive`` gives it the next one;
    whoever publishes with ``retry`` waits for that.

    Args:
        channel: None to be given one later with ``revive``.
        exchange: where messages go; declared before the first one, unless it is the default exchange.
        routing_key: of messages that come without one.
        serializer: ``json``, ``msgpack``, ...; None: text and bytes are sent as such, anything else as JSON.
        auto_declare: whether ``exchange`` is declared.
        compression: ``zlib``, ``bz2``, ``lzma``, ``zstd``, or None.
        on_return: called, instead of an error being raised, when a mandatory message reached no queue, with the
            ``MessageReturned``, exchange, routing key and message; may be an async function.
        serializers: a registry of your own.

    A subclass may set ``serializer`` and the like as class attributes.
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
        self._channel = channel
        exchange = Exchange(exchange or "") if exchange is None or isinstance(exchange, str) else exchange
        self.exchange = exchange if channel is None else exchange(channel)
        self._content = default_content() if serializers is None else Content(serializers)
        self._declared: set[Entity] = set()
        if routing_key is not None:
            self.routing_key = routing_key
        if serializer is not None:
            self.serializer = serializer
        if auto_declare is not None:
            self.auto_declare = auto_declare
        if compression is not None:
            self.compression = compression
        if on_return is not None:
            self.on_return = on_return

    @property
    def channel(self) -> Channel:
        """The channel; ``NotBoundError`` when it has none."""
        if self._channel is None:
            raise NotBoundError("the producer has no channel: give it one with revive(channel)")
        return self._channel

    def is_on(self, channel: Channel) -> bool:
        """Whether it publishes on that channel now."""
        return self._channel is channel

    @property
    def connection(self) -> Connection:
        """The connection of its channel."""
        return self.channel.connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.release()

    async def declare(self) -> None:
        """Declare the exchange, unless it is the default one; raises as ``Exchange.declare``."""
        await self.exchange(self.channel).declare()

    async def maybe_declare(self, entity: Exchange | Queue | None, retry: bool = False, **retry_policy: Any) -> bool:
        """Declare ``entity``, unless this producer has done so on this channel; return whether it did.

        What may be gone again by itself (auto_delete, expiring, a ``NoCacheQueue``) is declared each time. None is
        nothing to declare.

        Args:
            retry: try again what fails for a reason that may pass, as in ``publish``.
            retry_policy: the fields of a ``RetryPolicy``.

        Raises:
            InequivalentArgument, ChannelError, BrokerUnavailable: as ``declare`` of the entity.
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

        Args:
            body: a value, which is serialized; or an ``OutgoingMessage``, which is sent as it is.
            delivery_mode: 1 or ``transient``, 2 or ``persistent``; None: as the exchange says, else persistent.
            mandatory: tell when it reaches no queue.
            content_type: then the body is bytes or text of yours, and not serialized.
            exchange: instead of the producer's own; it must exist.
            retry: try again after a negative confirm, and with a lost channel, until somebody gives the next one to
                ``revive``. The message may then arrive twice.
            retry_policy: how often and how far apart; a ``RetryPolicy`` or a mapping of its fields.
            declare: what must exist; passed to ``maybe_declare``.
            expiration: seconds after which it is dropped from its queue.
            timeout: seconds for all of it, attempts, declarations and confirm together; None for no limit.
            properties: ``reply_to`` (a queue, or its name), ``correlation_id``, ``message_id``, ``timestamp``, ...

        Raises:
            MessageReturned: it is ``mandatory``, there is no queue for it, and no ``on_return``.
            MessageNacked: the broker did not take it.
            EncodeError: it cannot be written; nothing was sent.
            NotSupported: ``immediate``; nothing was sent.
            NotFound: there is no such exchange; the channel is closed then.
            NotBoundError: there is no channel.
            ChannelError, BrokerUnavailable: it is not known to be stored; publish it again.

        Cancellation: the message may or may not be sent; nothing else is disturbed.
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
            message = self._content.write(
                body, fields, serializer=serializer or self.serializer, compression=compression or self.compression
            )
        name = name_of(target)
        key = self.routing_key if routing_key is None else routing_key
        entities = tuple(declare or ())
        if self.auto_declare and self.exchange.name:
            entities += (self.exchange,)
        if retry or timeout is not None:
            await self._persist(
                lambda: self._send(message, name, key, mandatory, entities), retry_policy if retry else _ONCE, timeout
            )
        else:
            await self._send(message, name, key, mandatory, entities)

    async def _persist(
        self,
        send: Callable[[], Awaitable[None]],
        policy: RetryPolicy | Mapping[str, Any] | None,
        timeout: float | None,
    ) -> None:
        seconds = None if timeout is None else validation.seconds("timeout", timeout)
        async with fail_after(seconds, "not confirmed by the broker"):
            await retrying(send, policy)

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

    async def revive(self, channel: Channel) -> None:
        """Go on with ``channel``: the last one was lost. What was declared on that one is declared again."""
        self._channel = channel
        self._declared.clear()
        self.exchange = self.exchange(channel)

    async def release(self) -> None:
        """Do nothing: the channel belongs to who opened it. Safe to call twice."""

    close = release


_ONCE = RetryPolicy(max_retries=0)
