"""An exchange: its name and type, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aioresults.errors import NotSupported
from aioresults.messaging.binding import Binding
from aioresults.messaging.content import raw
from aioresults.messaging.delivery_mode import delivery_mode as mode_of
from aioresults.messaging.entity import Entity
from aioresults.transport.base import PERSISTENT, TRANSIENT, Channel, OutgoingMessage, Properties

IMMEDIATE = "immediate=True: RabbitMQ has no such flag, and closes the connection that sends it"


@dataclass(frozen=True, init=False, eq=False)
class Exchange(Entity):
    """An exchange; the empty name is the default exchange, which routes to the queue named by the routing key.

    A value: immutable, equal to another of the same properties, hashable. ``exchange(channel)`` is a copy that can act.
    Every operation raises ``NotBoundError`` when it is not bound, ``ChannelClosed`` when its channel is closed, and
    otherwise ``ChannelError`` or ``BrokerUnavailable``. Cancelling one is safe: it runs to its end, and closes nothing.
    ``nowait`` is accepted and waited for all the same: measured, it saves nothing, and it loses the error.

    Args:
        type: ``direct``, ``fanout``, ``topic``, ``headers``, or one of the broker's own.
        channel: what it is bound to.
        durable: survives a restart of the broker.
        auto_delete: deleted when the last queue is unbound from it.
        delivery_mode: of what is published through it where nothing else is said: 1 or ``transient``, 2 or
            ``persistent``; None means persistent.
        passive: ``declare`` only checks that it is there.
    """

    TRANSIENT_DELIVERY_MODE: ClassVar[int] = TRANSIENT
    PERSISTENT_DELIVERY_MODE: ClassVar[int] = PERSISTENT
    compared: ClassVar[tuple[str, ...]] = ("name", "type", "durable", "auto_delete", "delivery_mode", "arguments")
    attrs: ClassVar[tuple[str, ...]] = (
        "name", "type", "durable", "auto_delete", "delivery_mode", "arguments", "passive",
    )  # fmt: skip

    name: str
    type: str
    channel: Channel | None = field(repr=False)
    durable: bool
    auto_delete: bool
    delivery_mode: int | None
    arguments: Mapping[str, Any] | None
    passive: bool

    def __init__(
        self,
        name: str = "",
        type: str = "direct",
        channel: Channel | None = None,
        durable: bool = True,
        auto_delete: bool = False,
        delivery_mode: int | str | None = None,
        arguments: Mapping[str, Any] | None = None,
        passive: bool = False,
    ) -> None:
        self.__dict__.update(
            name=name,
            type=type or "direct",
            channel=channel,
            durable=durable,
            auto_delete=auto_delete,
            delivery_mode=delivery_mode if delivery_mode is None else mode_of(delivery_mode),
            arguments=arguments,
            passive=passive,
        )

    @property
    def can_cache_declaration(self) -> bool:
        """Whether it stays once it was declared: not with ``auto_delete``."""
        return not self.auto_delete

    async def declare(self, nowait: bool = False, passive: bool | None = None) -> None:
        """Create the exchange, or check that it is there as described; with ``passive`` only that it is there.

        The default exchange and the broker's own (``amq.*``) always exist and are left alone.

        Raises:
            InequivalentArgument: it exists with other properties; says which, and both values.
            NotFound: ``passive``, and it is not there.
        """
        channel = self._bound()
        if not self.name or self.name.startswith("amq."):
            return
        await channel.exchange_declare(
            self.name,
            self.type,
            durable=self.durable,
            auto_delete=self.auto_delete,
            passive=self.passive if passive is None else passive,
            arguments=self.arguments,
        )

    async def delete(self, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete the exchange; one that is not there is no error.

        Raises:
            PreconditionFailed: ``if_unused``, and something is bound to it.
        """
        await self._bound().exchange_delete(self.name, if_unused=if_unused)

    async def bind_to(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
    ) -> None:
        """Have what ``exchange`` routes by ``routing_key`` come through this exchange as well.

        Raises:
            NotFound: one of the two is not there.
        """
        await self._bound().exchange_bind(self.name, name_of(exchange), routing_key, arguments=arguments)

    async def unbind_from(
        self,
        source: Exchange | str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """End a binding made with ``bind_to``, named by the same key and arguments; none there is no error."""
        await self._bound().exchange_unbind(self.name, name_of(source), routing_key, arguments=arguments)

    def binding(
        self,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        unbind_arguments: Mapping[str, Any] | None = None,
    ) -> Binding:
        """Return a binding from this exchange, to be given to queues."""
        return Binding(self, routing_key, arguments, unbind_arguments)

    def Message(  # noqa: N802  # the original's name
        self,
        body: str | bytes,
        delivery_mode: int | str | None = None,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        properties: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> OutgoingMessage:
        """Return a message to be sent with ``publish``, here or by a ``Producer``. Nothing is serialized.

        Args:
            body: bytes, or text, which is written in ``content_encoding`` (UTF-8).
            properties: further ones, by the names of ``Properties``.

        Raises:
            EncodeError: a body of another type, or text that cannot be written so.
        """
        if isinstance(body, str):
            content_encoding = content_encoding or "utf-8"
        return OutgoingMessage(
            raw(body, content_encoding or "binary"),
            Properties(
                content_type=content_type,
                content_encoding=content_encoding,
                headers=dict(headers or {}),
                delivery_mode=mode_of(delivery_mode) or self.delivery_mode or PERSISTENT,
                priority=priority,
                **(properties or {}),
            ),
        )

    async def publish(
        self,
        message: OutgoingMessage | str | bytes,
        routing_key: str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        exchange: str | None = None,
    ) -> None:
        """Publish one message through this exchange, or the one named ``exchange``; text becomes a ``Message``.

        On a channel with confirms it returns when the broker has the message; raises as ``Producer.publish``.
        """
        if immediate:
            raise NotSupported(IMMEDIATE)
        body, properties = message if isinstance(message, OutgoingMessage) else self.Message(message)
        name = self.name if exchange is None else exchange
        await self._bound().basic_publish(body, properties, name, routing_key or "", mandatory=mandatory)


def name_of(exchange: Exchange | str) -> str:
    """Return the name of an exchange that may be given by its name."""
    return exchange if isinstance(exchange, str) else exchange.name
