"""Exchanges, the bindings that lead from them, and what exchanges and queues have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from aioresults.errors import ConfigurationError, NotBoundError, NotSupported
from aioresults.messaging.body_codec import raw
from aioresults.transport.base import PERSISTENT, TRANSIENT, Channel, OutgoingMessage, Properties

if TYPE_CHECKING:
    from aioresults.messaging.queue import Queue

IMMEDIATE: Final = "immediate=True: RabbitMQ has no such flag, and closes the connection that sends it"
_DELIVERY_MODES: Final = {"transient": TRANSIENT, "persistent": PERSISTENT}


class Entity:
    """The immutable description of an exchange or a queue.

    ``entity(channel)`` returns a copy that is bound to a channel and can act. Equality and hash ignore the channel.
    """

    #: The names of the attributes that describe the entity.
    attrs: ClassVar[tuple[str, ...]] = ()

    #: Those of them that are compared by ``==``.
    compared: ClassVar[tuple[str, ...]] = ()

    name: str
    channel: Channel | None

    def __eq__(self, other: object) -> bool:
        # A NoCacheQueue equals a Queue with the same attributes: the broker cannot tell them apart.
        if not isinstance(other, Entity) or self.compared is not other.compared:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.compared)

    def __hash__(self) -> int:
        return hash(self.name)

    def __call__(self, channel: Channel) -> Self:
        """Return a copy that is bound to ``channel``."""
        return self.bind(channel)

    def bind(self, channel: Channel) -> Self:
        """Return a copy that is bound to ``channel``; the original stays as it is.

        Example::

            orders = Queue("orders").bind(channel)  # the same as Queue("orders")(channel)
        """
        return self.copy(channel=channel)

    @property
    def is_bound(self) -> bool:
        """Whether this copy is bound to a channel, and so can act."""
        return self.channel is not None

    @property
    def can_cache_declaration(self) -> bool:
        """Whether the entity stays once it is declared, so that one declaration per channel is enough."""
        raise NotImplementedError

    @classmethod
    def of(cls, entity: Entity) -> Self:
        """Return ``entity`` as an instance of this very class; ``entity`` itself if it is one.

        Example::

            class Orders(Queue):
                pass

            orders = Orders.of(Queue("orders"))
        """
        return entity if type(entity) is cls else cls(**entity.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes named in ``attrs``; ``type(self)(**attributes)`` makes an equal, unbound entity.

        Example::

            copy = Queue(**queue.as_dict())
        """
        return {name: getattr(self, name) for name in self.attrs}

    def copy(self, **changes: Any) -> Self:
        """Return a copy with some attributes changed. The new values are not checked.

        Example::

            other = queue.copy(name="other")
        """
        # By hand, because dataclasses.replace would check everything again, and each result copies a queue twice.
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy

    def _bound(self) -> Channel:
        """Return the channel; raise ``NotBoundError`` if there is none."""
        channel = self.channel
        if channel is None:
            kind = type(self).__name__
            raise NotBoundError(f"{kind} {self.name!r} is not bound to a channel; bind(channel) returns a copy that is")
        return channel


@dataclass(frozen=True, init=False, eq=False)
class Exchange(Entity):
    """An exchange, as a value: immutable, hashable, and equal to every exchange with the same properties.

    ``exchange(channel)`` returns a copy that can act. The exchange with the empty name is the default exchange: it
    routes each message to the queue named by the routing key.

    Example::

        orders = Exchange("orders", "topic")(channel)
        await orders.declare()
        await orders.publish("an order", "eu.de")

    Every operation raises ``NotBoundError`` if this copy is bound to no channel, ``ChannelClosed`` if the channel is
    closed, ``BrokerUnavailable`` if the connection is lost, and another ``ChannelError`` if the broker refuses.
    Cancelling an operation is safe: it runs to its end in the background, and closes nothing.
    ``nowait`` is accepted, but every operation waits for the broker's answer. As measured, not waiting saves nothing,
    and it would lose the error.

    Args:
        type: ``direct``, ``fanout``, ``topic``, ``headers``, or a type of the broker's own.
        channel: the channel to bind to.
        durable: whether the exchange survives a restart of the broker.
        auto_delete: whether the exchange is deleted when the last queue is unbound from it.
        delivery_mode: the default for messages that are published through this exchange: 1 or ``transient``, 2 or
            ``persistent``; None means persistent.
        arguments: further arguments of the declaration, such as ``alternate-exchange``.
        passive: ``declare`` only checks that the exchange exists.

    Raises:
        ConfigurationError: ``delivery_mode`` is something else.
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
            delivery_mode=mode_of(delivery_mode),
            arguments=arguments,
            passive=passive,
        )

    @property
    def can_cache_declaration(self) -> bool:
        """Whether the exchange stays once it is declared: True unless it is ``auto_delete``."""
        return not self.auto_delete

    async def declare(self, nowait: bool = False, passive: bool | None = None) -> None:
        """Create the exchange, or check that it exists with these properties.

        The default exchange and the broker's own (``amq.*``) always exist and are left alone.

        Example::

            await exchange.declare()

        Args:
            passive: only check that the exchange exists; None means as the exchange says.

        Raises:
            InequivalentArgument: it exists with other properties; the error names one of them, and both values.
            NotFound: ``passive``, and it does not exist.
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
        """Delete the exchange. Deleting one that does not exist is no error.

        Example::

            await exchange.delete()

        Args:
            if_unused: delete it only if nothing is bound to it.

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
        """Bind this exchange to another one, whose messages with ``routing_key`` then pass through this one as well.

        Example::

            await exchange.bind_to("amq.topic", "eu.#")

        Raises:
            NotFound: one of the two exchanges does not exist.
        """
        await self._bound().exchange_bind(self.name, name_of(exchange), routing_key, arguments=arguments)

    async def unbind_from(
        self,
        source: Exchange | str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding that ``bind_to`` made with the same key and arguments. If there is none, that is no error.

        Example::

            await exchange.unbind_from("amq.topic", "eu.#")
        """
        await self._bound().exchange_unbind(self.name, name_of(source), routing_key, arguments=arguments)

    def binding(
        self,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        unbind_arguments: Mapping[str, Any] | None = None,
    ) -> Binding:
        """Return a binding that leads from this exchange, to be given to a queue.

        Example::

            orders = Queue("orders", bindings=[exchange.binding("eu.#"), exchange.binding("us.#")])
        """
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
        """Return a message for ``publish``, here or on a ``Producer``. Nothing is serialized.

        Example::

            await exchange.publish(exchange.Message(b"an order", priority=5), "eu.de")

        Args:
            body: bytes; or text, which is encoded with the charset ``content_encoding`` (UTF-8 by default).
            properties: further properties, by the names of ``Properties``.

        Raises:
            EncodeError: the body is neither bytes nor text, or the charset cannot encode it.
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
        """Publish one message. On a channel with confirms, return once the broker has taken it.

        Example::

            await exchange.publish("an order", "eu.de")

        Args:
            message: what ``Message`` returned; text and bytes are passed to ``Message`` first.
            exchange: the name of another exchange to publish through.

        Raises:
            EncodeError: text that cannot be encoded.
            NotSupported: ``immediate``; nothing was sent.
            MessageReturned, MessageNacked, NotFound, ChannelError, BrokerUnavailable: as ``Producer.publish``.
        """
        if immediate:
            raise NotSupported(IMMEDIATE)
        body, properties = message if isinstance(message, OutgoingMessage) else self.Message(message)
        name = self.name if exchange is None else exchange
        await self._bound().basic_publish(body, properties, name, routing_key or "", mandatory=mandatory)


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding that leads from an exchange to a queue or to another exchange. ``Exchange.binding`` makes one.

    Example::

        binding = exchange.binding("eu.#")
        await binding.declare(channel)
        await binding.bind(queue)
        await binding.unbind(queue)

    Args:
        arguments: the arguments of the binding; for a headers exchange, what must match.
        unbind_arguments: the arguments for ``unbind``. None means ``arguments``, because they are part of a binding's
            identity. (kombu then sends none, and the binding stays.)
    """

    exchange: Exchange
    routing_key: str = ""
    arguments: Mapping[str, Any] | None = field(default=None, hash=False)
    unbind_arguments: Mapping[str, Any] | None = field(default=None, compare=False)

    async def declare(self, channel: Channel) -> None:
        """Declare the exchange on ``channel``; raises as ``Exchange.declare`` does.

        Example::

            await exchange.binding("eu.#").declare(channel)
        """
        await self.exchange(channel).declare()

    async def bind(self, entity: Exchange | Queue) -> None:
        """Bind a queue or another exchange, which must be bound to a channel; raises as its ``bind_to`` does.

        Example::

            await exchange.binding("eu.#").bind(queue)
        """
        await entity.bind_to(self.exchange, self.routing_key, self.arguments)

    async def unbind(self, entity: Exchange | Queue) -> None:
        """Remove the binding from a queue or another exchange, which must be bound to a channel.

        Example::

            await exchange.binding("eu.#").unbind(queue)
        """
        arguments = self.arguments if self.unbind_arguments is None else self.unbind_arguments
        await entity.unbind_from(self.exchange, self.routing_key, arguments=arguments)


def mode_of(delivery_mode: int | str | None) -> int | None:
    """Return 1 or 2 for ``transient``, ``persistent`` or the number itself, and None for None.

    Raises:
        ConfigurationError: ``delivery_mode`` is none of these. (kombu finds out when something is published.)
    """
    value = delivery_mode
    if value is None or (value in (TRANSIENT, PERSISTENT) and not isinstance(value, (str, bool))):
        return value
    mode = _DELIVERY_MODES.get(value) if isinstance(value, str) else None
    if mode is None:
        raise ConfigurationError(f"delivery_mode must be 1, 2, 'transient' or 'persistent', not {value!r}")
    return mode


def name_of(entity: Entity | str) -> str:
    """Return the name of an exchange or a queue, which may be given by its name."""
    return entity if isinstance(entity, str) else entity.name
