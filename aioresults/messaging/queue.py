"""Queues: how one is described, and what can be done with it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

from aioresults import validation
from aioresults.errors import ChannelClosed, NotFound
from aioresults.messaging.body_codec import BodyCodec
from aioresults.messaging.exchange import Binding, Entity, Exchange, name_of
from aioresults.messaging.message import Message
from aioresults.transport.base import Channel, DeclareOk
from aioresults.transport.broker_errors import is_of_queue

#: The arguments that RabbitMQ knows the attributes of a queue by; those in seconds become milliseconds.
_LIMITS: Final = {
    "expires": "x-expires",
    "message_ttl": "x-message-ttl",
    "max_length": "x-max-length",
    "max_length_bytes": "x-max-length-bytes",
    "max_priority": "x-max-priority",
}
_IN_SECONDS: Final = ("expires", "message_ttl")


@dataclass(frozen=True, init=False, eq=False)
class Queue(Entity):
    """A queue and its bindings, as a value: immutable, hashable, and equal to every queue with the same properties.

    ``queue(channel)`` returns a copy that can act.

    Example::

        orders = Queue("orders", Exchange("shop", "topic"), "order.#", expires=3600)(channel)
        await orders.declare()
        message = await orders.get()

    Every operation raises ``NotBoundError`` if this copy is bound to no channel, ``ChannelClosed`` if the channel is
    closed, ``BrokerUnavailable`` if the connection is lost, and another ``ChannelError`` if the broker refuses.
    Cancelling an operation is safe: it runs to its end in the background, and closes nothing. A cancelled ``get`` may
    leave a message unacknowledged until the channel closes.

    Args:
        name: empty to let the broker choose one: ``(await queue(channel).declare()).queue``.
        exchange: the exchange to bind the queue to, or its name; or, as in kombu, a list of bindings.
        routing_key: the key of the binding to ``exchange``.
        channel: the channel to bind to.
        bindings: further bindings. (kombu ignores ``exchange`` if there are any.)
        on_declared: called after each declaration with the queue's name and its numbers of messages and consumers; a
            plain or an async function.
        durable: whether the queue survives a restart of the broker.
        exclusive: whether only the declaring connection may use the queue, which is deleted with that connection.
            (kombu makes it ``auto_delete`` too, and so loses it with its first consumer.)
        auto_delete: whether the queue is deleted when its last consumer is cancelled.
        no_ack: whether deliveries need no acknowledgement, unless a consumer or ``get`` says otherwise.
        queue_arguments: ``x-queue-type`` and the like; ``expires`` and the parameters below add to them.
        binding_arguments: the arguments of the binding to ``exchange``.
        consumer_arguments: the arguments for consumers of this queue.
        expires: seconds without use after which the queue is deleted.
        message_ttl: seconds after which a message is dropped from the queue.
        max_length, max_length_bytes: how much the queue holds; beyond that the oldest messages are dropped.
        max_priority: the highest priority of a message.

    Raises:
        ConfigurationError: ``expires`` is no such number, or too large for RabbitMQ.
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
        # All at once, because a queue is made for each task.
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
        """Return the queue named ``queue`` that one of kombu's option dicts describes.

        Example::

            orders = Queue.from_dict("orders", exchange="shop", exchange_type="topic", binding_key="order.#")

        Args:
            options: ``exchange``, ``exchange_type``, ``exchange_arguments``, ``delivery_mode``; ``binding_key`` or
                ``routing_key``; ``durable`` and ``auto_delete`` for both the exchange and the queue, or for one of
                them with the prefix ``exchange_`` or ``queue_``; and any other parameter of ``Queue``. An option that
                is None is ignored.
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
        """Return a copy that is bound to ``channel``, as is its exchange.

        Example::

            orders = Queue("orders").bind(channel)  # the same as Queue("orders")(channel)
        """
        return self.copy(channel=channel, exchange=self.exchange.bind(channel))

    @property
    def can_cache_declaration(self) -> bool:
        """Whether the queue stays once it is declared: True unless it is ``auto_delete`` or expires."""
        return not self.auto_delete and "x-expires" not in (self.arguments or ())

    @property
    def arguments(self) -> Mapping[str, Any] | None:
        """The arguments of the declaration: ``queue_arguments``, and what ``expires`` and the like add to them."""
        limits = {}
        for name, argument in _LIMITS.items():
            value = getattr(self, name)
            if value is not None:
                limits[argument] = int(value * 1000) if name in _IN_SECONDS else int(value)
        return {**(self.queue_arguments or {}), **limits} if limits else self.queue_arguments

    # Declaring

    async def declare(self, passive: bool = False) -> DeclareOk:
        """Create the exchange, the queue and its bindings, or check that they exist with these properties.

        The answer holds the queue's name and its numbers of messages and consumers. The broker itself binds every queue
        to the default exchange.

        Example::

            ok = await queue.declare()
            print(ok.queue, ok.message_count, ok.consumer_count)

        Args:
            passive: only check that the queue exists.

        Raises:
            InequivalentArgument: it exists with other properties; the error names one of them, and both values.
            NotFound: ``passive``, and it does not exist.
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

    async def queue_declare(self, passive: bool = False) -> DeclareOk:
        """Declare the queue alone; answers and raises as ``declare`` does.

        Example::

            ok = await queue.queue_declare()
        """
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

    async def queue_bind(self) -> None:
        """Bind the queue to its exchange by its routing key; raises as ``bind_to`` does.

        Example::

            await Queue(queue.name, exchange, "eu.#")(channel).queue_bind()
        """
        await self.bind_to(self.exchange, self.routing_key, self.binding_arguments)

    async def queue_unbind(self, arguments: Mapping[str, Any] | None = None) -> None:
        """Remove the binding to the queue's exchange.

        Example::

            await Queue(queue.name, exchange, "eu.#")(channel).queue_unbind()

        Args:
            arguments: None means ``binding_arguments``.
        """
        arguments = self.binding_arguments if arguments is None else arguments
        await self.unbind_from(self.exchange, self.routing_key, arguments)

    async def bind_to(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind the queue to an exchange, whose messages with ``routing_key`` then come into the queue.

        Example::

            await queue.bind_to("amq.topic", "eu.#")

        Raises:
            NotFound: the queue or the exchange does not exist.
        """
        await self._bound().queue_bind(self.name, name_of(exchange), routing_key, arguments=arguments)

    async def unbind_from(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding that was made with the same key and arguments. If there is none, that is no error.

        Example::

            await queue.unbind_from("amq.topic", "eu.#")
        """
        await self._bound().queue_unbind(self.name, name_of(exchange), routing_key, arguments=arguments)

    # Its messages

    async def get(self, no_ack: bool | None = None, accept: Iterable[str] | None = None) -> Message | None:
        """Fetch one message; return None if the queue is empty.

        Example::

            message = await queue.get()
            if message is not None:
                print(message.payload)
                message.ack()

        Args:
            no_ack: remove the message from the queue at once; None means as the queue says.
            accept: what ``Message.decode`` reads: names or content types; None means every serializer that is known.

        Raises:
            NotFound: the queue does not exist.
            ConfigurationError: ``accept`` contains an unknown name.
        """
        no_ack = self.no_ack if no_ack is None else no_ack
        codec = None if accept is None else BodyCodec(accept=accept)
        delivery = await self._bound().basic_get(self.name, no_ack=no_ack)
        return None if delivery is None else Message(delivery, codec, queue=self.name, no_ack=no_ack)

    async def purge(self) -> int:
        """Drop the messages that are ready, but not those that were delivered; return how many were dropped.

        Example::

            dropped = await queue.purge()

        Raises:
            NotFound: the queue does not exist.
        """
        return await self._bound().queue_purge(self.name)

    async def delete(self, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete the queue; return how many messages were deleted with it: 0 if the queue does not exist.

        Example::

            deleted = await queue.delete()

        Args:
            if_unused: delete it only if it has no consumers.
            if_empty: delete it only if it holds no messages.

        Raises:
            PreconditionFailed: ``if_unused`` and it has consumers, or ``if_empty`` and it holds messages.
        """
        return await self._bound().queue_delete(self.name, if_unused=if_unused, if_empty=if_empty)


class NoCacheQueue(Queue):
    """A queue that is declared again each time it is needed, because it comes and goes with the results it holds.

    Example::

        results = NoCacheQueue("results")
        await producer.publish("a result", "results", declare=[results])  # each publish declares the queue
    """

    @property
    def can_cache_declaration(self) -> bool:
        """False."""
        return False


def declaring(entity: Exchange | Queue) -> Callable[[Channel], Awaitable[object]]:
    """Return the operation that declares ``entity`` on whatever channel it is given.

    An auto_delete queue disappears before it is bound if its last consumer leaves in between. The operation then raises
    ``ChannelClosed``, because a second attempt may succeed.
    """

    async def declare(channel: Channel) -> object:
        try:
            return await entity(channel).declare()
        except NotFound as error:
            if is_of_queue(error, entity.name):
                raise ChannelClosed(error.reply_code, error.reply_text) from error
            raise

    return declare
