"""What a consumer received: handed to callbacks one after another, or kept for who iterates."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from aioresults.errors import DecodeError
from aioresults.messaging.message import Message

if TYPE_CHECKING:
    from aioresults.messaging.consumer import Consumer

logger = logging.getLogger("aioresults")


class Intake:
    """Takes messages in, in order, and never two callbacks at once.

    A plain ``on_message`` is called at once, which costs nothing; async functions, and callbacks, which get the
    decoded body, run in one task that ends when it has caught up.
    """

    __slots__ = ("_arrived", "_consumer", "_ended", "_stopped", "_waiting", "worker")

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()
        #: Why nothing more will come; None while something may.
        self._ended: BaseException | None = None
        self._stopped = False
        self.worker: asyncio.Task[None] | None = None

    @property
    def has_receiver(self) -> bool:
        """Whether there is somebody to hand messages to, other than who iterates."""
        return self._consumer.on_message is not None or bool(self._consumer.callbacks)

    def put(self, message: Message) -> None:
        """Take in one message."""
        on_message = self._consumer.on_message
        if on_message is None or self.worker is not None:
            self._keep(message)
            return
        try:
            outcome = on_message(message)
        except Exception as error:
            self._failed(error)
            return
        if outcome is not None and inspect.isawaitable(outcome):
            self.worker = asyncio.get_running_loop().create_task(self._work(outcome))

    def _keep(self, message: Message) -> None:
        if self._stopped and not message.acknowledged:
            message.requeue()  # it was on its way when the consumer was cancelled
            return
        self._waiting.append(message)
        if self.worker is None and self.has_receiver:
            self.worker = asyncio.get_running_loop().create_task(self._work(None))
        else:
            self._arrived.set()

    async def _work(self, first: Awaitable[Any] | None) -> None:
        try:
            if first is not None:
                await self._guarded(first)
            while self._waiting and self.has_receiver:
                await self._guarded(self._handle(self._waiting.popleft()))
        finally:
            self.worker = None

    async def _guarded(self, work: Awaitable[Any]) -> None:
        try:
            await work
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        # There is nobody to raise it to, and the next message must not wait for it.
        logger.error("a consumer's callback failed; its message stays unacknowledged", exc_info=error)

    async def _handle(self, message: Message) -> None:
        consumer = self._consumer
        if consumer.on_message is not None:
            await _maybe(consumer.on_message(message))
            return
        try:
            body = message.decode()
        except DecodeError as error:
            if consumer.on_decode_error is None:
                raise
            await _maybe(consumer.on_decode_error(message, error))
            return
        await consumer.receive(body, message)

    async def next(self) -> Message:
        """Return the next message for who iterates.

        Raises:
            StopAsyncIteration: the consumer was cancelled by its owner.
            AioResultsError: why nothing more will come.

        Cancelling is safe: no message is lost.
        """
        while not self._waiting:
            if self._ended is not None:
                raise self._ended
            if self._stopped:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def begin(self) -> None:
        """Expect messages."""
        self._ended = None
        self._stopped = False

    def stop(self) -> None:
        """Expect none, by the owner's will: return to their queues those that nobody has seen."""
        self._stopped = True
        kept = [message for message in self._waiting if message.acknowledged]
        for message in self._waiting:
            if not message.acknowledged:
                message.requeue()
        self._waiting = deque(kept)
        self._arrived.set()

    def end(self, reason: BaseException, *, lost: bool) -> None:
        """Expect none any more, for ``reason``; with ``lost`` the channel is gone, and the broker has them again."""
        self._ended = reason
        if lost:
            self._waiting = deque(message for message in self._waiting if message.acknowledged)
        self._arrived.set()


async def _maybe(outcome: Any) -> None:
    if inspect.isawaitable(outcome):
        await outcome
