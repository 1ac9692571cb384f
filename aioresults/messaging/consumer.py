"""Consumes queues on one channel."""

from __future__ import annotations

import asyncio
import inspect
import logging
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final, Protocol, Self
from weakref import ref

import anyio

from aioresults import errors
from aioresults.errors import (
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    ConfigurationError,
    DecodeError,
    NotBoundError,
    NotSupported,
)
from aioresults.messaging.body_codec import BodyCodec
from aioresults.messaging.exchange import name_of
from aioresults.messaging.message import Message
from aioresults.messaging.queue import Queue
from aioresults.serialization import Serializers
from aioresults.transport.base import Arguments, Channel, Connection, Delivery

logger: Final = logging.getLogger("aioresults")

#: How many messages of each queue may be unacknowledged if a consumer is iterated over and sets no ``prefetch_count``.
DEFAULT_PREFETCH: Final = 100
#: Seconds between two attempts to consume a queue again whose node is down.
RESUME_INTERVAL: Final = 1.0
#: Seconds that leaving ``async with`` may take.
CLOSE_TIMEOUT: Final = 3.0

Callback = Callable[[Any, Message], Any]


class Receiver(Protocol):
    """An object that takes everything a consumer receives. Its methods are plain functions and must not block."""

    def on_message(self, message: Message, /) -> None:
        """Take one message. An exception is logged, and the message stays unacknowledged."""

    def on_cancel(self, consumer: Consumer, queue: str, /) -> None:
        """Note that the broker has cancelled a consumer of this queue: the queue was deleted, or its node lost."""


class Consumer:
    """Consumes any number of queues on one channel. Each message comes at least once: after a loss it comes again.

    Messages go to ``on_message``, or decoded to the ``callbacks``: in order, and one at a time. All of these may be
    plain or async functions. If one raises, the error is logged and its message stays unacknowledged.
    Without them, iterate over the consumer. The iteration ends when the owner cancels the consumer. Otherwise it raises
    the reason: the error of the channel, or ``NotFound`` after the last queue was deleted.

    ``async with`` starts to consume on entry, and cancels on exit. Consumer tags are the names of the queues, so a
    second consumer of the same queue on the same channel needs a ``tag_prefix``. When the broker cancels a consumer
    (its queue was deleted, or a node lost), ``on_cancel`` is called, and the queue is consumed again if it still
    exists. It is never declared again for that.

    Example::

        async with Consumer(channel, queue, prefetch_count=10) as consumer:
            async for message in consumer:
                print(message.payload)
                message.ack()
                break

    Args:
        channel: None to hand the consumer one later, with ``revive``.
        queues: one queue, or several.
        no_ack: whether messages need no acknowledgement; None means as each queue says.
        auto_declare: whether the queues are declared before they are consumed. (kombu declares them when it makes the
            consumer.)
        callbacks: functions that are called with each decoded body and its message.
        on_decode_error: called with a message that cannot be decoded, and the ``DecodeError``.
        on_message: called with each message instead of the callbacks; nothing is decoded.
        accept: what is decoded: names or content types; None means every serializer that is known.
        prefetch_count: how many messages of each queue may be unacknowledged; 0 means any number. None leaves the
            channel as it is, but means 100 if the consumer is iterated over.
        tag_prefix: put before the names of the queues to make consumer tags.
        on_cancel: called with the name of a queue when the broker has cancelled its consumer.
        serializers: a registry of your own.

    Raises:
        ConfigurationError: ``accept`` contains an unknown name.

    A subclass may set ``no_ack``, ``auto_declare``, ``on_decode_error``, ``on_message``, ``prefetch_count``,
    ``tag_prefix`` and ``on_cancel`` as class attributes.
    """

    ContentDisallowed: ClassVar[type[errors.ContentDisallowed]] = errors.ContentDisallowed

    no_ack: bool | None = None
    auto_declare: bool = True
    on_decode_error: Callable[[Message, DecodeError], Any] | None = None
    on_message: Callable[[Message], Any] | None = None
    prefetch_count: int | None = None
    tag_prefix: str = ""
    on_cancel: Callable[[str], Any] | None = None
    #: Takes the place of ``on_message``, ``callbacks`` and ``on_cancel`` where it is set: one object for all calls.
    receiver: Receiver | None = None

    def __init__(
        self,
        channel: Channel | None = None,
        queues: Queue | Iterable[Queue] | None = None,
        no_ack: bool | None = None,
        auto_declare: bool | None = None,
        callbacks: Iterable[Callback] | None = None,
        on_decode_error: Callable[[Message, DecodeError], Any] | None = None,
        on_message: Callable[[Message], Any] | None = None,
        accept: Iterable[str] | None = None,
        prefetch_count: int | None = None,
        tag_prefix: str | None = None,
        *,
        on_cancel: Callable[[str], Any] | None = None,
        serializers: Serializers | None = None,
    ) -> None:
        given = {
            "no_ack": no_ack,
            "auto_declare": auto_declare,
            "on_decode_error": on_decode_error,
            "on_message": on_message,
            "prefetch_count": prefetch_count,
            "tag_prefix": tag_prefix,
            "on_cancel": on_cancel,
        }
        self.__dict__.update((name, value) for name, value in given.items() if value is not None)
        #: The functions that are called with each decoded body; they may be changed at any time.
        self.callbacks: list[Callback] = list(callbacks or ())
        # None where Message's own default will do: most consumers never decode a body.
        self._codec = None if accept is None and serializers is None else BodyCodec(serializers, accept)

        self._channel = channel
        #: The queues that were added, by name; those to be consumed, each with its ``no_ack``; those that are consumed.
        self._queues: dict[str, Queue] = {}
        self._wanted: dict[str, bool] = {}
        self._active: set[str] = set()
        self.queues = [queues] if isinstance(queues, Queue) else list(queues or ())
        #: Whether this channel is prepared, and whether anything was ever consumed.
        self._is_prepared = False
        self._has_begun = False
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()

        #: Messages that wait for the worker or the iteration.
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()
        #: Runs async functions and callbacks, one after another; None when it has caught up.
        self._worker: asyncio.Task[None] | None = None
        #: What the iteration ends with; None while messages may come.
        self._ended: BaseException | type[StopAsyncIteration] | None = None

        # Bound once and not once per queue: the consumer of a backend may have a hundred thousand queues.
        self._deliver = self._receive
        self._deliver_no_ack = partial(self._receive, no_ack=True)
        self._notice_cancel = self._on_cancelled

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {list(self._queues)}>"

    @property
    def channel(self) -> Channel:
        """The channel; raises ``NotBoundError`` if the consumer has none."""
        if self._channel is None:
            raise NotBoundError("there is no channel yet: give it one with revive(channel)")
        return self._channel

    @property
    def connection(self) -> Connection:
        """The connection of the channel."""
        return self.channel.connection

    @property
    def accept(self) -> frozenset[str] | None:
        """The content types that are decoded; None means every serializer that is known."""
        return None if self._codec is None else self._codec.accept

    # Its queues

    @property
    def queues(self) -> list[Queue]:
        """The queues that were added, whether they are consumed or not; a new list."""
        return list(self._queues.values())

    @queues.setter
    def queues(self, queues: Iterable[Queue]) -> None:
        channel = self._channel
        self._queues = {queue.name: queue if channel is None else queue(channel) for queue in queues}

    async def add_queue(self, queue: Queue) -> Queue:
        """Add a queue, and declare it if ``auto_declare`` is set; return the bound copy. ``consume`` consumes it.

        Example::

            await consumer.add_queue(Queue("orders"))
            await consumer.consume()

        Raises:
            InequivalentArgument, ChannelError, BrokerUnavailable: as ``Queue.declare``; the queue is not added then.
        """
        queue = queue(self.channel)
        if self.auto_declare:
            queue = await _declared(queue)
        self._queues[queue.name] = queue
        return queue

    async def add_queue_from_dict(self, queue: str, **options: Any) -> Queue:
        """Add the queue that kombu's options describe. Deprecated: use ``add_queue(Queue.from_dict(...))``.

        Example::

            await consumer.add_queue(Queue.from_dict("orders", exchange="shop", binding_key="eu"))
        """
        warnings.warn(
            "add_queue_from_dict is deprecated: use add_queue(Queue.from_dict(name, **options))",
            DeprecationWarning,
            stacklevel=2,
        )
        return await self.add_queue(Queue.from_dict(queue, **options))

    async def declare(self) -> None:
        """Declare the queues, their exchanges and their bindings; raises as ``Queue.declare`` does.

        Example::

            await consumer.declare()
        """
        declared = [await _declared(queue(self.channel)) for queue in self.queues]
        self._queues = {queue.name: queue for queue in declared}

    async def purge(self) -> int:
        """Drop the messages that are ready in the queues; return how many were dropped.

        Example::

            dropped = await consumer.purge()

        Raises:
            NotFound: one of the queues does not exist.
        """
        return sum([await queue(self.channel).purge() for queue in self.queues])

    # Consuming

    def consuming_from(self, queue: Queue | str) -> bool:
        """Whether a queue is being consumed now: ``consume`` was called after it was added, and nothing has ended that.

        Example::

            assert not consumer.consuming_from(queue)
            await consumer.consume()
            assert consumer.consuming_from(queue)
        """
        return name_of(queue) in self._active and not self.channel.is_closed

    async def consume(self, no_ack: bool | None = None) -> None:
        """Start to consume the queues that are not consumed yet.

        Example::

            consumer.register_callback(lambda body, message: message.ack())
            await consumer.consume()

        Args:
            no_ack: instead of the consumer's own ``no_ack``. If both are None, each queue decides.

        Raises:
            NotFound: a queue does not exist; the broker has closed the channel.
            NotSupported: another consumer on this channel has the same tag.
            ChannelError, BrokerUnavailable: as every operation on the channel.

        Cancelling it is safe: the queue that is being started is not consumed, those before it are.
        """
        no_ack = self.no_ack if no_ack is None else no_ack
        async with self._changing:
            await self._prepare()
            for queue in self.queues:
                if queue.name not in self._active:
                    await self._subscribe(queue, queue.no_ack if no_ack is None else no_ack)

    async def _prepare(self) -> None:
        """Do what is done once per channel, and expect messages."""
        if not self._is_prepared:
            channel = self.channel
            this = ref(self, lambda _: take_back())  # weak, because the channel may outlive many consumers
            take_back = channel.on_close(
                lambda reason: None if (consumer := this()) is None else consumer._on_close(channel, reason)
            )
            if self.auto_declare:
                await self.declare()
            prefetch = self.prefetch_count
            if prefetch is None and not self._hands_over:
                prefetch = DEFAULT_PREFETCH
            if prefetch is not None:
                await channel.basic_qos(prefetch)
            self._is_prepared = True
        self._ended = None

    async def _subscribe(self, queue: Queue, no_ack: bool) -> None:
        self._wanted[queue.name] = no_ack
        self._active.add(queue.name)
        try:
            await self.attach(queue.name, no_ack=no_ack, arguments=queue.consumer_arguments)
        except BaseException as error:
            self._active.discard(queue.name)
            if isinstance(error, asyncio.CancelledError):
                self._spawn(self._detach(queue.name))  # the operation goes on to its end without its caller
            raise
        if queue.name not in self._wanted:  # cancelled meanwhile
            await self._detach(queue.name)

    async def attach(self, queue: str, *, no_ack: bool = False, arguments: Arguments = None) -> None:
        """Start to consume the queue of that name, which must exist, without adding it to ``queues``.

        ``consume`` does this for each of its queues. Call it yourself to consume very many queues: it remembers nothing
        about them. If the broker cancels the consumer of such a queue, ``on_cancel`` is called, but the queue is not
        consumed again. ``cancel_by_queue`` stops consuming it. Raises as ``consume`` does.

        Example::

            await consumer.attach(queue.name, arguments={"x-priority": 1})
            message = await anext(consumer)
        """
        self._has_begun = True
        await self.channel.basic_consume(
            queue,
            self._deliver_no_ack if no_ack else self._deliver,
            on_cancel=self._notice_cancel,
            no_ack=no_ack,
            consumer_tag=self.tag_prefix + queue,
            arguments=arguments,
        )

    async def _detach(self, queue: str) -> None:
        with suppress(ChannelError, BrokerUnavailable):  # closed: its consumers are gone with it
            await self.channel.basic_cancel(self.tag_prefix + queue)

    # Handing messages over

    @property
    def _hands_over(self) -> bool:
        """Whether messages are handed to a function or a receiver, and not to whoever iterates."""
        return self.receiver is not None or self.on_message is not None or bool(self.callbacks)

    def _receive(self, delivery: Delivery, no_ack: bool = False) -> None:
        """Take one delivery from the channel.

        A receiver and a plain ``on_message`` are called at once, which costs nothing. Async functions, and callbacks,
        which need the decoded body, are run by the worker.
        """
        tag = delivery.consumer_tag or ""
        message = Message(delivery, self._codec, queue=tag.removeprefix(self.tag_prefix), no_ack=no_ack)
        try:
            if self.receiver is not None:
                self.receiver.on_message(message)
            elif self.on_message is None or self._worker is not None:
                self._keep(message)
            else:
                outcome = self.on_message(message)
                if outcome is not None and inspect.isawaitable(outcome):
                    self._start_worker(outcome)
        except Exception as error:
            _log_failure(error)

    def _keep(self, message: Message) -> None:
        """Keep a message for the worker or the iteration."""
        if self._ended is StopAsyncIteration and not message.acknowledged:
            message.requeue()  # it was on its way when the consumer was cancelled
            return
        self._waiting.append(message)
        if self._worker is None and self._hands_over:
            self._start_worker(None)
        else:
            self._arrived.set()

    def _start_worker(self, outcome: Awaitable[Any] | None) -> None:
        # Not by the loop's task factory: an eager task may have ended before it is assigned here.
        self._worker = asyncio.Task(self._work(outcome), loop=asyncio.get_running_loop())

    async def _work(self, outcome: Awaitable[Any] | None) -> None:
        """Wait for the outcome of a call, and then handle what came meanwhile, until nothing waits."""
        try:
            while outcome is not None or (self._waiting and self._hands_over):
                try:
                    await (self._handle(self._waiting.popleft()) if outcome is None else outcome)
                except Exception as error:
                    _log_failure(error)
                outcome = None
        finally:
            self._worker = None

    async def _handle(self, message: Message) -> None:
        if self.on_message is not None:
            await _maybe(self.on_message(message))
            return
        try:
            body = message.decode()
        except DecodeError as error:
            if self.on_decode_error is None:
                raise
            await _maybe(self.on_decode_error(message, error))
            return
        await self.receive(body, message)

    async def receive(self, body: Any, message: Message) -> None:
        """Call the callbacks in order, with a decoded body and its message. A subclass may override it.

        Example::

            class Tolerant(Consumer):
                async def receive(self, body, message):
                    if isinstance(body, dict):
                        await super().receive(body, message)
                    else:
                        message.reject()

        Raises:
            ConfigurationError: there are no callbacks.
        """
        if not self.callbacks:
            raise ConfigurationError("the consumer has no callbacks: register one, or iterate over it")
        for callback in tuple(self.callbacks):
            await _maybe(callback(body, message))

    def register_callback(self, callback: Callback) -> None:
        """Add a callback: a plain or async function of the decoded body and the message.

        Example::

            consumer.register_callback(lambda body, message: message.ack())
        """
        self.callbacks.append(callback)

    # Iterating

    def __aiter__(self) -> Self:
        if self._hands_over:
            raise ConfigurationError("the consumer's messages go to its callbacks: it cannot be iterated over as well")
        return self

    async def __anext__(self) -> Message:
        """Return the next message; the first call starts to consume.

        Raises:
            StopAsyncIteration: the owner has cancelled the consumer.
            AioResultsError: the reason why no more messages will come.

        Cancelling it is safe: no message is lost.
        """
        if not self._has_begun:
            if not self._queues:
                raise ConfigurationError("the consumer has no queues: there is nothing to iterate over")
            await self.consume()
        while not self._waiting:
            if self._ended is not None:
                raise self._ended
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def _end(self, reason: BaseException | type[StopAsyncIteration]) -> None:
        """Have the iteration end with ``reason``, after what waits for it."""
        self._ended = self._ended or reason
        self._arrived.set()

    def _end_and_return(self, reason: BaseException | type[StopAsyncIteration]) -> None:
        """Have the iteration end with ``reason``, and return to their queues the messages that nobody has seen.

        What is consumed with ``no_ack`` is kept: the broker has forgotten it.
        """
        unseen = [message for message in self._waiting if not message.acknowledged]
        self._waiting = deque(message for message in self._waiting if message.acknowledged)
        for message in unseen:
            message.requeue()
        self._end(reason)

    # Ending

    async def cancel(self) -> None:
        """Stop consuming, and keep ``queues``; ``consume`` starts again. Also named ``close``.

        Returns once the callback in progress, if any, has ended, unless that callback is the caller. Messages that were
        received and handed to nobody return to their queues. Messages that were handed over stay unacknowledged. On a
        closed channel there is nothing left to do, and no error is raised.

        Example::

            await consumer.cancel()
        """
        names, self._wanted = tuple(self._active), {}
        self._active.clear()
        for name in names:
            await self._detach(name)
        self._end_and_return(StopAsyncIteration)
        worker = self._worker
        if worker is not None and worker is not asyncio.current_task():
            await asyncio.wait([worker])

    close = cancel

    async def cancel_by_queue(self, queue: Queue | str) -> None:
        """Stop consuming one queue, and remove it from ``queues``. If it is not consumed, that is no error.

        Messages that were received from it and not acknowledged stay unacknowledged.

        Example::

            await consumer.cancel_by_queue("orders")
        """
        name = name_of(queue)
        self._queues.pop(name, None)
        self._wanted.pop(name, None)
        self._active.discard(name)
        await self._detach(name)
        if self._has_begun and not self._wanted and not self._hands_over:
            self._end_and_return(StopAsyncIteration)

    async def __aenter__(self) -> Self:
        try:
            await self.consume()
        except BaseException:
            await self.__aexit__()  # the queues that are consumed by now
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self.cancel()

    # Losing the channel or a queue

    async def revive(self, channel: Channel) -> None:
        """Go on with ``channel``, because the last one was lost: consume again what was consumed, with its ``no_ack``.

        The queues are declared again if ``auto_declare`` is set. Raises as ``consume`` does.

        Example::

            await consumer.revive(await backend.channel())
        """
        async with self._changing:
            self._channel = channel
            self._active.clear()
            self._is_prepared = False
            self.queues = self.queues  # bound to the new channel
            await self._prepare()
            for name, no_ack in tuple(self._wanted.items()):
                await self._subscribe(self._queues[name], no_ack)

    def _on_close(self, channel: Channel, reason: BaseException) -> None:
        if channel is self._channel:
            self._end_and_return(reason)  # the broker has them already: requeue does nothing on a closed channel

    def _on_cancelled(self, tag: str) -> None:
        """Tell that the broker has cancelled a consumer, and try to resume it."""
        queue = tag.removeprefix(self.tag_prefix)
        if queue in self._active:
            self._active.discard(queue)
            self._spawn(self._resume(self.channel, queue))
        if self.receiver is not None:
            self.receiver.on_cancel(self, queue)
        elif self.on_cancel is not None and inspect.isawaitable(outcome := self.on_cancel(queue)):
            self._spawn(outcome)

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resume(self, channel: Channel, name: str) -> None:
        """Consume a queue again, unless it is gone.

        The broker closes the channel on which a missing queue is looked for, so that is a channel of its own.
        """
        while channel is self._channel and name in self._wanted and not channel.is_closed:
            try:
                probe = await channel.connection.channel()
                try:
                    await probe.queue_declare(name, passive=True)
                finally:
                    await probe.close()
                async with self._changing:
                    if channel is self._channel and name in self._wanted and name not in self._active:
                        await self._subscribe(self._queues[name], self._wanted[name])
                return
            except (BrokerUnavailable, ChannelClosed):
                pass  # not now: its node is down, or the connection is
            except ChannelError as error:
                self._wanted.pop(name, None)
                if not self._wanted:
                    self._end(error)
                return
            await asyncio.sleep(RESUME_INTERVAL)

    # What RabbitMQ has, and what it has not

    async def qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit how many messages of each queue may be unacknowledged; 0 means any number.

        RabbitMQ applies the limit to queues that are consumed from now on.

        Example::

            await consumer.qos(prefetch_count=10)

        Raises:
            NotSupported: ``prefetch_size``, for which RabbitMQ closes the connection, or ``apply_global``, which
                RabbitMQ 4 ignores.
        """
        if prefetch_size:
            raise NotSupported("prefetch_size: RabbitMQ counts messages, not bytes, and closes the connection for this")
        if apply_global:
            raise NotSupported("apply_global: RabbitMQ 4 ignores it; prefetch_count limits each queue")
        await self.channel.basic_qos(prefetch_count)
        self.prefetch_count = prefetch_count

    async def flow(self, active: bool) -> None:
        """Do nothing for True: messages always flow.

        Example::

            await consumer.flow(True)

        Raises:
            NotSupported: for False, for which RabbitMQ closes the connection. Use ``prefetch_count`` to hold messages
                back.
        """
        if not active:
            raise NotSupported(
                "flow(False): RabbitMQ closes the connection for this; prefetch_count holds messages back"
            )

    async def recover(self, requeue: bool = False) -> None:
        """With ``requeue=True``, have the broker deliver again whatever is unacknowledged on the channel.

        Example::

            await consumer.recover(requeue=True)

        Raises:
            NotSupported: for ``requeue=False``, the original's default, for which RabbitMQ closes the connection.
        """
        if not requeue:
            raise NotSupported("recover(requeue=False): RabbitMQ closes the connection for this; use requeue=True")
        await self.channel.basic_recover()


async def _declared(queue: Queue) -> Queue:
    """Declare a bound queue, and return it with the name that the broker has given it, if it had none."""
    ok = await queue.declare()
    return queue if queue.name else queue.copy(name=ok.queue)


async def _maybe(outcome: Any) -> None:
    if inspect.isawaitable(outcome):
        await outcome


def _log_failure(error: Exception) -> None:
    # There is nobody to raise it to, and the next message must not wait for it.
    logger.error("a consumer's callback failed; its message stays unacknowledged", exc_info=error)
