"""Consumes queues on one channel."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar, Final, Self
from weakref import ref

import anyio

from aioresults.errors import (
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    ConfigurationError,
    ContentDisallowed,
    DecodeError,
    NotSupported,
)
from aioresults.messaging.content import Content
from aioresults.messaging.intake import Intake
from aioresults.messaging.message import Message
from aioresults.messaging.queue import Queue
from aioresults.messaging.queue_set import QueueSet
from aioresults.serialization import Serializers
from aioresults.transport.base import Arguments, Channel, Delivery

#: Unacknowledged messages per queue of who iterates over a consumer without a ``prefetch_count``.
DEFAULT_PREFETCH: Final = 100
#: Seconds between two looks at a queue whose node is gone.
RESUME_INTERVAL: Final = 1.0
#: Seconds that leaving ``async with`` may take.
CLOSE_TIMEOUT: Final = 3.0

Callback = Callable[[Any, Message], Any]


class Consumer(QueueSet):
    """Consumes any number of queues on ``channel``, at least once each message: after a loss it comes again.

    Messages go to ``on_message``, or decoded to the ``callbacks``, in order and one at a time; all of these may be
    plain or async functions. Without either, iterate: ``async for message in consumer``. That consumes, and ends only
    when the consumer is cancelled by its owner; otherwise it raises the reason: the channel's error, or ``NotFound``
    when the last queue was deleted. What a callback raises is logged, and its message stays unacknowledged.

    ``async with`` consumes on entry, and cancels on exit. Consumer tags are the queues' names, so two consumers of one
    queue on one channel need a ``tag_prefix``. When the broker cancels a consumer (queue deleted, node lost),
    ``on_cancel`` is told, and the queue consumed again where it still exists; it is never declared again for that.

    Args:
        channel: None to be given one later with ``revive``.
        queues: one, or several.
        no_ack: messages need no acknowledgement; None means as each queue says.
        auto_declare: declare the queues before they are consumed. (kombu does so when the consumer is made.)
        callbacks: called with each decoded body and its message.
        on_decode_error: called with the message and the ``DecodeError`` of one that cannot be decoded.
        on_message: called with each message instead of the callbacks; nothing is decoded.
        accept: what is decoded: names or content types; None means every serializer that is known.
        prefetch_count: how many messages of each queue may be unacknowledged; 0 for any number. None leaves the
            channel as it is, and is 100 for who iterates.
        tag_prefix: put before the queues' names to make consumer tags.
        on_cancel: called with the queue's name when the broker has cancelled its consumer.
        serializers: a registry of your own.
    """

    ContentDisallowed: ClassVar = ContentDisallowed

    no_ack: bool | None = None
    on_decode_error: Callable[[Message, DecodeError], Any] | None = None
    on_message: Callable[[Message], Any] | None = None
    prefetch_count: int | None = None
    tag_prefix: str = ""
    on_cancel: Callable[[str], Any] | None = None

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
        super().__init__(channel, queues)
        #: What messages are handed to; it may be changed at any time.
        self.callbacks: list[Callback] = list(callbacks or ())
        self._content = Content(serializers, accept)
        self._intake = Intake(self)
        #: The queues to be consumed, each with its ``no_ack``, and those among them that are.
        self._wanted: dict[str, bool] = {}
        self._active: set[str] = set()
        self._prepared = False
        self._begun = False
        self._work = asyncio.Lock()
        self._resuming: set[asyncio.Task[None]] = set()
        # Bound once, not once per queue: a backend has a hundred thousand of them.
        self._deliver = self._receive
        self._deliver_no_ack = self._receive_no_ack
        self._cancelled = self._on_cancelled

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {list(self._queues)}>"

    @property
    def accept(self) -> frozenset[str] | None:
        """The content types that are decoded; None for every serializer that is known."""
        return self._content.accept

    # Consuming

    def consuming_from(self, queue: Queue | str) -> bool:
        """Whether a queue that was added is being consumed now: ``consume`` was called, and nothing ended it."""
        return _name(queue) in self._active and not self.channel.is_closed

    async def consume(self, no_ack: bool | None = None) -> None:
        """Start to consume the queues that are not consumed yet.

        Args:
            no_ack: instead of the consumer's own; None: as the consumer, or else as each queue says.

        Raises:
            NotFound: there is no such queue; the channel is closed then.
            NotSupported: another consumer on this channel has the same tag.
            ChannelError, BrokerUnavailable: as every operation.

        Cancelled, it leaves the queue it was at as it was.
        """
        no_ack = self.no_ack if no_ack is None else no_ack
        async with self._work:
            await self._prepare()
            for queue in self.queues:
                if queue.name not in self._active:
                    await self._subscribe(queue, queue.no_ack if no_ack is None else no_ack)

    async def _prepare(self) -> None:
        """Do what is done once per channel."""
        if not self._prepared:
            channel = self.channel
            this = ref(self, lambda _: take_back())  # weak, because the channel may outlive many consumers
            take_back = channel.on_close(
                lambda reason: None if (consumer := this()) is None else consumer._on_close(channel, reason)
            )
            if self.auto_declare:
                await self.declare()
            prefetch = self.prefetch_count
            if prefetch is None and not self._intake.has_receiver:
                prefetch = DEFAULT_PREFETCH
            if prefetch is not None:
                await channel.basic_qos(prefetch)
            self._prepared = True
        self._intake.begin()

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
        """Start to consume the queue of that name, which must exist, and keep nothing about it.

        What ``consume`` does for each queue. On its own it is for very many queues: they are not in ``queues``, and a
        consumer that the broker cancels is reported, and not resumed. ``cancel_by_queue`` ends it. Raises as
        ``consume``.
        """
        self._begun = True
        deliver = self._deliver_no_ack if no_ack else self._deliver
        tag = self.tag_prefix + queue if self.tag_prefix else queue
        await self.channel.basic_consume(
            queue, deliver, on_cancel=self._cancelled, no_ack=no_ack, consumer_tag=tag, arguments=arguments
        )

    def _receive(self, delivery: Delivery) -> None:
        self._intake.put(Message(delivery, self._content))

    def _receive_no_ack(self, delivery: Delivery) -> None:
        self._intake.put(Message(delivery, self._content, no_ack=True))

    def register_callback(self, callback: Callback) -> None:
        """Add a callback: a plain or async function that takes the decoded body and the message."""
        self.callbacks.append(callback)

    async def receive(self, body: Any, message: Message) -> None:
        """Call the callbacks, in order, with a decoded body and its message; may be overridden.

        Raises:
            ConfigurationError: there are none.
        """
        if not self.callbacks:
            raise ConfigurationError("the consumer has no callbacks: register one, or iterate over it")
        for callback in tuple(self.callbacks):
            outcome = callback(body, message)
            if inspect.isawaitable(outcome):
                await outcome

    def __aiter__(self) -> Self:
        if self._intake.has_receiver:
            raise ConfigurationError("the consumer's messages go to its callbacks: it cannot be iterated over as well")
        return self

    async def __anext__(self) -> Message:
        if not self._begun:
            if not self._queues:
                raise ConfigurationError("the consumer has no queues: there is nothing to iterate over")
            await self.consume()
        return await self._intake.next()

    # Ending

    async def cancel(self) -> None:
        """Stop to consume, and keep ``queues``; ``consume`` starts again.

        Returns when the callback in progress, if any, is done, unless that is what calls it. What was received and
        handed to nobody goes back to its queue; what was handed over stays unacknowledged. On a closed channel there
        is nothing left to do, and no error.
        """
        names, self._wanted = tuple(self._active), {}
        self._active.clear()
        for name in names:
            await self._detach(name)
        self._intake.stop()
        worker = self._intake.worker
        if worker is not None and worker is not asyncio.current_task():
            await asyncio.wait([worker])

    close = cancel

    async def cancel_by_queue(self, queue: Queue | str) -> None:
        """Stop to consume one queue and drop it from ``queues``; one that is not consumed is no error.

        What was received from it and not acknowledged stays so.
        """
        name = _name(queue)
        self._queues.pop(name, None)
        self._wanted.pop(name, None)
        self._active.discard(name)
        await self._detach(name)
        if self._begun and not self._wanted and not self._intake.has_receiver:
            self._intake.stop()

    async def _detach(self, name: str) -> None:
        with suppress(ChannelError, BrokerUnavailable):  # closed: its consumers are gone with it
            await self.channel.basic_cancel(self.tag_prefix + name)

    async def __aenter__(self) -> Self:
        try:
            await self.consume()
        except BaseException:
            await self.__aexit__()  # those queues that are consumed by now
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self.cancel()

    async def revive(self, channel: Channel) -> None:
        """Go on with ``channel``: the last one was lost. What was consumed is consumed again, with its ``no_ack``.

        The queues are declared again where ``auto_declare`` says so. Raises as ``consume``.
        """
        async with self._work:
            self._channel = channel
            self._active.clear()
            self._prepared = False
            self.queues = self.queues
            await self._prepare()
            for name, no_ack in tuple(self._wanted.items()):
                await self._subscribe(self._queues[name], no_ack)

    # What the broker ends

    def _on_close(self, channel: Channel, reason: BaseException) -> None:
        if channel is self._channel:
            self._intake.end(reason, lost=True)

    def _on_cancelled(self, tag: str) -> None:
        name = tag.removeprefix(self.tag_prefix)
        if name in self._active:
            self._active.discard(name)
            self._spawn(self._resume(self.channel, name))
        if self.on_cancel is not None:
            outcome = self.on_cancel(name)
            if outcome is not None and inspect.isawaitable(outcome):
                self._spawn(outcome)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)

    async def _resume(self, channel: Channel, name: str) -> None:
        """Consume again, unless the queue is gone. A look at a missing queue closes the channel that it is made on."""
        while channel is self._channel and name in self._wanted and not channel.is_closed:
            try:
                probe = await channel.connection.channel()
                try:
                    await probe.queue_declare(name, passive=True)
                finally:
                    await probe.close()
                async with self._work:
                    if channel is self._channel and name in self._wanted and name not in self._active:
                        await self._subscribe(self._queues[name], self._wanted[name])
                return
            except (BrokerUnavailable, ChannelClosed):
                pass  # not now: its node is down, or the connection is
            except ChannelError as error:
                self._gone(name, error)
                return
            await asyncio.sleep(RESUME_INTERVAL)

    def _gone(self, name: str, reason: Exception) -> None:
        self._wanted.pop(name, None)
        if not self._wanted:
            self._intake.end(reason, lost=False)

    # What RabbitMQ has, and what it has not

    async def qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit how many messages of each queue may be unacknowledged; 0 for any number.

        RabbitMQ applies it to queues that are consumed from now on.

        Raises:
            NotSupported: ``prefetch_size``, for which RabbitMQ closes the connection, and ``apply_global``, which
                RabbitMQ 4 ignores.
        """
        if prefetch_size:
            raise NotSupported("prefetch_size: RabbitMQ counts messages, not bytes, and closes the connection for this")
        if apply_global:
            raise NotSupported("apply_global: RabbitMQ 4 ignores it; prefetch_count limits each queue")
        await self.channel.basic_qos(prefetch_count)
        self.prefetch_count = prefetch_count

    async def flow(self, active: bool) -> None:
        """Do nothing for True, which is how it is.

        Raises:
            NotSupported: False, for which RabbitMQ closes the connection. ``prefetch_count`` holds messages back.
        """
        if not active:
            raise NotSupported(
                "flow(False): RabbitMQ closes the connection for this; prefetch_count holds messages back"
            )

    async def recover(self, requeue: bool = False) -> None:
        """With ``requeue=True``, have everything redelivered that is unacknowledged on the channel.

        Raises:
            NotSupported: ``requeue=False``, the original's default, for which RabbitMQ closes the connection.
        """
        if not requeue:
            raise NotSupported("recover(requeue=False): RabbitMQ closes the connection for this; use requeue=True")
        await self.channel.basic_recover()


def _name(queue: Queue | str) -> str:
    return queue if isinstance(queue, str) else queue.name
