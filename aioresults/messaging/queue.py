"""A queue: its name, properties and bindings, and what can be done with it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from aioresults import validation
from aioresults.errors import ChannelClosed, NotFound
from aioresults.messaging.binding import Binding
from aioresults.messaging.content import Content
from aioresults.messaging.entity import Entity
from aioresults.messaging.exchange import Exchange, name_of
from aioresults.messaging.message import Message
from aioresults.transport.base import Channel, DeclareOk
from aioresults.transport.broker_errors import is_of_queue

_LIMITS = {
    "expires": "x-expires",
    "message_ttl": "x-message-ttl",
    "max_length": "x-max-length",
    "max_length_bytes": "x-max-length-bytes",
    "max_priority": "x-max-priority",
}
_SECONDS = ("expires", "message_ttl")


@dataclass(frozen=True, init=False, eq=False)
class Queue(Entity):
    """A queue, and its bindings: to ``exchange`` by ``routing_key``, and those in ``bindings``.

    A value: immutable, equal to another of the same properties, hashable. ``queue(channel)`` is a copy that can act.
    Every operation raises ``NotBoundError`` when it is not bound, ``ChannelClosed`` when its channel is closed, and
    otherwise ``ChannelError`` or ``BrokerUnavailable``. Cancelling one is safe: it runs to its end, and closes nothing;
    only ``get`` may leave a message unacknowledged until the channel closes. ``nowait`` is accepted and waited for all
    the same: measured, it saves nothing, and it loses the error.

    Args:
        name: empty to have the broker choose one: ``(await queue(channel).declare()).queue``.
        exchange: an exchange, its name, or, as in kombu, a list of bindings.
        bindings: further bindings (kombu drops ``exchange`` when there are any).
        on_declared: called with name, messages and consumers when the queue was declared; may be an async function.
        durable: survives a restart of the broker.
        exclusive: usable by the declaring connection only, and deleted with it. (kombu makes it auto_delete as well,
            and so loses it with its first consumer.)
        auto_delete: deleted when its last consumer is cancelled.
        no_ack: what is delivered from it needs no acknowledgement, where a consumer does not say otherwise.
        queue_arguments: ``x-queue-type`` and the like; ``expires`` and the others below add to them.
        binding_arguments: for the binding to ``exchange``.
        consumer_arguments: for consumers of this queue.
        expires: seconds without use after which it is deleted.
        message_ttl: seconds that a message stays in it.
        max_length, max_length_bytes: how much it holds; the oldest goes first.
        max_priority: the highest priority of its messages.
    """

    attrs: ClassVar[tuple[str, ...]] = (
        "name", "exchange", "routing_key", "bindings", "on_declared", "durable", "exclusive", "auto_delete", "no_ack",
        "queue_arguments", "binding_arguments", "consumer_arguments",
        "expires", "message_ttl", "max_length", "max_length_bytes", "max_priority",
    )  # fmt: skip

    compared: ClassVar[tuple[str, ...]] = tuple(name for name in attrs if name not in ("on_declared", "no_ack"))

    name: str
    exchange: Exchange
    routing_key: str
    channel: Channel | None = field(repr=False)
    bindings: tuple[Binding, ...]
    on_declared: Callable[[str, int, int], Any] | None
    durable: bool
    exclusive: bool
    auto_delete: bool
    no_ack: bool
    queue_arguments: Mapping[str, Any] | None
    binding_arguments: Mapping[str, Any] | None
    consumer_arguments: Mapping[str, Any] | None
    expires: float | None
    message_ttl: float | None
    max_length: int | None
    max_length_bytes: int | None
    max_priority: int | None

    def __init__(
        self,
        name: str = "",
        exchange: Exchange | str | Iterable[Binding] | None = None,
        routing_key: str = "",
        channel: Channel | None = None,
        bindings: Iterable[Binding] | None = None,
        on_declared: Callable[[str, int, int], Any] | None = None,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        no_ack: bool = False,
        queue_arguments: Mapping[str, Any] | None = None,
        binding_arguments: Mapping[str, Any] | None = None,
        consumer_arguments: Mapping[str, Any] | None = None,
        expires: float | None = None,
        message_ttl: float | None = None,
        max_length: int | None = None,
        max_length_bytes: int | None = None,
        max_priority: int | None = None,
    ) -> None:
        further = tuple(bindings or ())
        if exchange is None or isinstance(exchange, str):
            exchange = Exchange(exchange or "")
        elif not isinstance(exchange, Exchange):
            further, exchange = (*exchange, *further), Exchange()
        # At once, as one queue is made for each task.
        self.__dict__.update(
            name=name,
            exchange=exchange,
            routing_key=routing_key,
            channel=channel,
            bindings=further,
            on_declared=on_declared,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            no_ack=no_ack,
            queue_arguments=queue_arguments,
            binding_arguments=binding_arguments,
            consumer_arguments=consumer_arguments,
            expires=validation.expires(expires),
            message_ttl=message_ttl,
            max_length=max_length,
            max_length_bytes=max_length_bytes,
            max_priority=max_priority,
        )

    @classmethod
    def from_dict(cls, queue: str, **options: Any) -> Self:
        """Return the queue named ``queue`` as kombu's option dicts describe it.

        Args:
            options: ``exchange``, ``exchange_type``, ``exchange_arguments``, ``delivery_mode``; ``binding_key`` or
                ``routing_key``; ``durable`` and ``auto_delete`` for both, or with the prefix ``exchange_`` or
                ``queue_`` for one; and any other parameter of ``Queue``. None is as if it were not there.
        """
        given = {name: value for name, value in options.items() if value is not None}
        durable, auto_delete = given.pop("durable", True), given.pop("auto_delete", False)
        exchange = given.pop("exchange", "")
        kind = given.pop("exchange_type", "direct")
        described = Exchange(
            name_of(exchange),
            kind,
            durable=given.pop("exchange_durable", durable),
            auto_delete=given.pop("exchange_auto_delete", auto_delete),
            delivery_mode=given.pop("delivery_mode", None),
            arguments=given.pop("exchange_arguments", None),
        )
        return cls(
            queue,
            exchange if isinstance(exchange, Exchange) else described,
            given.pop("binding_key", None) or given.pop("routing_key", ""),
            durable=given.pop("queue_durable", durable),
            auto_delete=given.pop("queue_auto_delete", auto_delete),
            **{name: value for name, value in given.items() if name != "routing_key"},
        )

    def bind(self, channel: Channel) -> Self:
        """Return a copy bound to ``channel``, its exchange too."""
        return self.copy(channel=channel, exchange=self.exchange.bind(channel))

    @property
    def can_cache_declaration(self) -> bool:
        """Whether it stays once it was declared: not with ``auto_delete``, and not when it expires."""
        return not self.auto_delete and "x-expires" not in (self.arguments or ())

    @property
    def arguments(self) -> Mapping[str, Any] | None:
        """What it is declared with: ``queue_arguments``, and those that ``expires`` and the like amount to."""
        limits = {}
        for name, argument in _LIMITS.items():
            value = getattr(self, name)
            if value is not None:
                limits[argument] = int(value * 1000) if name in _SECONDS else int(value)
        return {**(self.queue_arguments or {}), **limits} if limits else self.queue_arguments

    async def declare(self, nowait: bool = False, passive: bool = False) -> DeclareOk:
        """Create the exchange, the queue and its bindings, or check that they are there as described.

        Every queue is bound to the default exchange by itself. With ``passive`` only the queue is looked for.

        Raises:
            InequivalentArgument: it exists with other properties; says which, and both values.
            NotFound: ``passive``, and it is not there.
        """
        if passive:
            return await self.queue_declare(passive=True)
        channel = self._bound()
        if self.exchange.name:
            await self.exchange(channel).declare()
        ok = await self.queue_declare()
        if self.exchange.name:
            await channel.queue_bind(ok.queue, self.exchange.name, self.routing_key, arguments=self.binding_arguments)
        for binding in self.bindings:
            await binding.declare(channel)
            await channel.queue_bind(ok.queue, binding.exchange.name, binding.routing_key, arguments=binding.arguments)
        return ok

    async def queue_declare(self, nowait: bool = False, passive: bool = False) -> DeclareOk:
        """Declare the queue alone; the answer has its name and how many messages and consumers it has."""
        ok = await self._bound().queue_declare(
            self.name,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
            passive=passive,
            arguments=self.arguments,
        )
        if self.on_declared is not None:
            outcome = self.on_declared(ok.queue, ok.message_count, ok.consumer_count)
            if inspect.isawaitable(outcome):
                await outcome
        return ok

    async def queue_bind(self, nowait: bool = False) -> None:
        """Bind the queue to its exchange by its routing key."""
        await self.bind_to(self.exchange, self.routing_key, self.binding_arguments)

    async def queue_unbind(self, arguments: Mapping[str, Any] | None = None, nowait: bool = False) -> None:
        """End the binding to its exchange; ``arguments`` are ``binding_arguments`` where nothing else is said."""
        arguments = self.binding_arguments if arguments is None else arguments
        await self.unbind_from(self.exchange, self.routing_key, arguments)

    async def bind_to(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
    ) -> None:
        """Have what ``exchange`` routes by ``routing_key`` come into the queue.

        Raises:
            NotFound: one of the two is not there.
        """
        await self._bound().queue_bind(self.name, name_of(exchange), routing_key, arguments=arguments)

    async def unbind_from(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
    ) -> None:
        """End a binding, named by the same key and arguments that made it; none there is no error."""
        await self._bound().queue_unbind(self.name, name_of(exchange), routing_key, arguments=arguments)

    async def get(
        self, no_ack: bool | None = None, accept: Iterable[str] | None = None, *, content: Content | None = None
    ) -> Message | None:
        """Fetch one message; None when the queue is empty.

        Args:
            no_ack: take it off the queue at once; None means as the queue says.
            accept: what ``decode`` reads: names or content types; None means every serializer that is known.
            content: how bodies are read, instead of ``accept``.

        Raises:
            NotFound: there is no such queue.
        """
        unacknowledged = self.no_ack if no_ack is None else no_ack
        if content is None and accept is not None:
            content = Content(accept=accept)
        delivery = await self._bound().basic_get(self.name, no_ack=unacknowledged)
        return None if delivery is None else Message(delivery, content, no_ack=unacknowledged)

    async def purge(self, nowait: bool = False) -> int:
        """Drop the messages that are ready, not those that were delivered; return how many."""
        return await self._bound().queue_purge(self.name)

    async def delete(self, if_unused: bool = False, if_empty: bool = False, nowait: bool = False) -> int:
        """Delete the queue; return how many messages went with it: 0 for one that is not there.

        Raises:
            PreconditionFailed: ``if_unused`` and it has consumers, or ``if_empty`` and it has messages.
        """
        return await self._bound().queue_delete(self.name, if_unused=if_unused, if_empty=if_empty)


def declaring(entity: Exchange | Queue) -> Callable[[Channel], Awaitable[Any]]:
    """Return the operation that declares ``entity`` on whatever channel it is given.

    An auto_delete queue may go before it is bound, when its last consumer leaves: that is a ``ChannelClosed``, because
    it may be tried again.
    """

    async def declare(channel: Channel) -> Any:
        try:
            return await entity(channel).declare()
        except NotFound as error:
            if is_of_queue(error, entity.name):
                raise ChannelClosed(error.reply_code, error.reply_text) from error
            raise

    return declare


class NoCacheQueue(Queue):
    """A queue that is declared each time it is needed: one that holds results comes and goes with them."""

    @property
    def can_cache_declaration(self) -> bool:
        """False."""
        return False
