"""What is between a channel and the queues: its consumers, and what was delivered and is not acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aioresults.errors import AioResultsError, PreconditionFailed
from aioresults.transport.base import Delivery
from aioresults.transport.memory.message import Message, copy_properties
from aioresults.transport.memory.queue import NO_ACK, ClassicQueue, Consumer, Queue
from aioresults.transport.memory.stream import Stream
from aioresults.transport.memory.wire import unsupported

if TYPE_CHECKING:
    from aioresults.transport.memory.connection import MemoryConnection

#: What was delivered, from where, to whom (None: ``basic.get``).
Unacked = tuple[Message, Queue, Consumer | None]


class Deliveries:
    """The broker's half of a channel. Everything is called with the broker's lock held."""

    __slots__ = ("_lowest", "_tag", "closed", "connection", "consumers", "prefetch", "unacked")

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.prefetch = 0
        self.consumers: dict[str, Consumer] = {}
        #: By delivery tag.
        self.unacked: dict[int, Unacked] = {}
        #: Why it is closed; None while it is open.
        self.closed: AioResultsError | None = None
        self._tag = 0
        self._lowest = 1  # no tag below this one is unacked

    def deliver(self, consumer: Consumer, queue: Queue, message: Message) -> None:
        """Send one message to a consumer of this channel."""
        delivery = self._delivery(message, queue, consumer, bool(consumer.mode & NO_ACK))
        self.connection.post_delivery(consumer.on_message, delivery, self)

    def _delivery(self, message: Message, queue: Queue, consumer: Consumer | None, no_ack: bool) -> Delivery:
        self._tag = tag = self._tag + 1
        if not no_ack:
            self.unacked[tag] = (message, queue, consumer)
            queue.unacked += 1
            if consumer is not None:
                consumer.unacked += 1
        return Delivery(
            self,  # type: ignore[arg-type]  # there are no others than MemoryChannel
            message.body,
            copy_properties(message.properties),
            tag,
            message.redelivered,
            message.exchange,
            message.routing_key,
            consumer.tag if consumer is not None else None,
            queue.ready if consumer is None else None,
        )

    def consumer_cancelled(self, consumer: Consumer) -> None:
        """The queue of this consumer is gone."""
        self.consumers.pop(consumer.tag, None)
        if consumer.on_cancel is not None:
            self.connection.post_delivery(consumer.on_cancel, consumer.tag, self)

    def _taken(self, delivery_tag: int, multiple: bool) -> list[Unacked]:
        """Take the deliveries a tag names off the books; 0 with ``multiple`` is all of them."""
        unacked = self.unacked
        if multiple and delivery_tag == 0:
            self.unacked = {}
            return list(unacked.values())
        if delivery_tag not in unacked:
            raise PreconditionFailed(406, f"PRECONDITION_FAILED - unknown delivery tag {delivery_tag}")
        if not multiple:
            return [unacked.pop(delivery_tag)]
        # Counting up instead of iterating over the dict, whose deleted entries would be walked over each time.
        tags = range(self._lowest, delivery_tag + 1)
        self._lowest = delivery_tag + 1
        return [unacked.pop(tag) for tag in tags if tag in unacked]

    def _ack(self, delivery_tag: int, multiple: bool) -> None:
        for _, queue, consumer in self._taken(delivery_tag, multiple):
            queue.settled(consumer)

    def _nack(self, delivery_tag: int, multiple: bool, requeue: bool) -> None:
        taken = self._taken(delivery_tag, multiple)
        streams = [queue for _, queue, _ in taken if isinstance(queue, Stream)]
        if streams:  # RabbitMQ 4 takes it for an ack
            self._give_back(taken)
            raise unsupported("basic.nack and basic.reject", streams[0].name)
        if requeue:
            self._give_back(taken)
            return
        for message, queue, consumer in taken:
            if isinstance(queue, ClassicQueue) and queue.broker.holds(queue):
                queue.broker.dead_letter(queue, message, "rejected")
            queue.settled(consumer)

    def _give_back(self, taken: list[Unacked]) -> None:
        """Requeue, all before the first goes out again, so that the order is the old one."""
        returned: dict[Queue, list[Message]] = {}
        for message, queue, consumer in taken:
            queue.unacked -= 1
            if consumer is not None:
                consumer.unacked -= 1
            returned.setdefault(queue, []).append(message)
        for queue, messages in returned.items():
            if queue.broker.holds(queue):
                queue.requeue(messages)
                queue.pump()

    def _recover(self) -> None:
        taken, self.unacked = list(self.unacked.values()), {}
        self._give_back(taken)


def release(channels: Sequence[Deliveries]) -> None:
    """Take closed channels off their queues: consumers first, or a message would go to the next dead one.

    An auto_delete queue goes with its last consumer, and with it what was just put back: so it is in RabbitMQ.
    """
    left: dict[Queue, None] = {}
    returned: dict[Queue, list[Message]] = {}
    for channel in channels:
        for consumer in channel.consumers.values():
            queue = consumer.queue
            assert queue is not None  # a consumer of a deleted queue is off its channel
            queue.remove_consumer(consumer)
            left[queue] = None
        channel.consumers = {}
        for message, queue, one in channel.unacked.values():
            queue.unacked -= 1
            if one is not None:
                one.unacked -= 1
            returned.setdefault(queue, []).append(message)
        channel.unacked = {}
    for queue, messages in returned.items():
        if queue.broker.holds(queue):
            queue.requeue(messages)
    for queue in left | dict.fromkeys(returned):
        if not queue.broker.holds(queue):
            continue
        if queue.consumers is None and queue in left and queue.settings.auto_delete:
            queue.broker.remove_queue(queue)
        else:
            queue.pump()
