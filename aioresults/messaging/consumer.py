"""Consumes queues on one channel."""

from __future__ import annotations

from collections.abc import Callable

from aioresults.messaging.message import Message
from aioresults.transport.base import Channel, Delivery


class Consumer:
    """Consumes any number of queues on ``channel``, at least once each message: after a loss it comes again.

    Consumer tags are the queues' names, so a message says which queue it came from and nothing is kept per queue.

    Args:
        on_message: called with each message, in order; a plain function that does not wait.
        on_cancel: called with the queue's name when the broker has cancelled its consumer: queue deleted, node lost.
    """

    __slots__ = ("_on_cancel", "_on_delivery", "_on_message", "channel")

    def __init__(
        self, channel: Channel, *, on_message: Callable[[Message], None], on_cancel: Callable[[str], None]
    ) -> None:
        self.channel = channel
        self._on_message = on_message
        self._on_delivery = self._receive  # bound once, not once per queue
        self._on_cancel = on_cancel

    def _receive(self, delivery: Delivery) -> None:
        self._on_message(Message(delivery))

    async def consume(self, queue: str) -> None:
        """Start to consume ``queue``, which must exist.

        Raises:
            NotFound: there is no such queue; the channel is closed then.
            ChannelError, BrokerUnavailable: as every operation.
        """
        await self.channel.basic_consume(queue, self._on_delivery, on_cancel=self._on_cancel, consumer_tag=queue)

    async def cancel_by_queue(self, queue: str) -> None:
        """Stop to consume ``queue``; what was received and not acknowledged stays so."""
        await self.channel.basic_cancel(queue)
