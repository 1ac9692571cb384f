"""Streams: a log that is read, never emptied.

Every message is a chunk of its own here, so ``last`` starts at the last message, and retention drops message by
message (RabbitMQ: by segment, and only when a segment is full). Offsets are dense; RabbitMQ's need not be.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aioresults.errors import PreconditionFailed
from aioresults.transport.base import OnCancel, OnMessage
from aioresults.transport.memory.declare import Settings, seconds, type_name
from aioresults.transport.memory.message import Message, copy_properties
from aioresults.transport.memory.queue import Consumer, Queue

if TYPE_CHECKING:
    from aioresults.transport.memory.deliveries import Deliveries
    from aioresults.transport.memory.topology import Topology

#: Dropped entries are kept as None until there are this many of them and they are half of the list.
COMPACT = 1024


class StreamConsumer(Consumer):
    """A consumer with a place in the log: ``offset`` is the next one it gets."""

    __slots__ = ("offset",)

    def __init__(
        self, tag: str, channel: Deliveries, on_message: OnMessage, on_cancel: OnCancel | None, mode: int
    ) -> None:
        super().__init__(tag, channel, on_message, on_cancel, mode)
        self.offset = 0


class Stream(Queue):
    """A stream queue: ``log[i]`` has the offset ``base + i``, and those before ``start`` are dropped."""

    __slots__ = ("base", "bytes", "log", "start", "times")

    def __init__(self, broker: Topology, name: str, settings: Settings) -> None:
        super().__init__(broker, name, settings)
        self.log: list[Message | None] = []
        #: When each message came, seconds since the epoch.
        self.times: list[float] = []
        self.base = 0
        self.start = 0
        self.bytes = 0

    @property
    def ready(self) -> int:
        self.retain()
        return len(self.log) - self.start

    @property
    def end(self) -> int:
        return self.base + len(self.log)

    def put(self, message: Message) -> None:
        self.log.append(message)
        self.times.append(self.broker.wall())
        self.bytes += len(message.body)
        self.retain()
        self.pump()

    def retain(self) -> None:
        """Drop what ``x-max-length-bytes`` and ``x-max-age`` no longer keep; the last message always stays."""
        settings = self.settings
        start, last = self.start, len(self.log) - 1
        oldest = self.broker.wall() - settings.max_age if settings.max_age is not None else None
        while start < last and (
            (settings.max_bytes is not None and self.bytes > settings.max_bytes)
            or (oldest is not None and self.times[start] < oldest)
        ):
            message, self.log[start] = self.log[start], None
            assert message is not None
            self.bytes -= len(message.body)
            start += 1
        self.start = start
        if start > COMPACT and start * 2 > len(self.log):
            del self.log[:start], self.times[:start]
            self.base += start
            self.start = 0

    def pump(self) -> None:
        for consumer in self.consumer_list():
            self.feed(consumer)

    def feed(self, consumer: Consumer) -> None:
        """Deliver to one consumer as long as it has credit and there is something."""
        assert isinstance(consumer, StreamConsumer)
        while consumer.queue is self and consumer.free and consumer.offset < self.end:
            index = max(consumer.offset - self.base, self.start)
            message = self.log[index]
            assert message is not None
            consumer.offset = self.base + index + 1
            consumer.channel.deliver(consumer, self, self._numbered(message, self.base + index))

    @staticmethod
    def _numbered(message: Message, offset: int) -> Message:
        properties = copy_properties(message.properties)
        properties.headers = {**(properties.headers or {}), "x-stream-offset": offset}
        return Message(message.body, properties, message.exchange, message.routing_key)

    def add_consumer(self, consumer: Consumer) -> None:
        super().add_consumer(consumer)
        self.retain()
        self.feed(consumer)

    def settled(self, consumer: Consumer | None) -> None:
        """Acknowledged: credit for one more, and nothing else."""
        super().settled(consumer)
        if consumer is not None:
            self.feed(consumer)

    def requeue(self, messages: list[Message]) -> None:
        """Nothing ever left."""

    def locate(self, spec: Any) -> int:
        """Translate an ``x-stream-offset`` argument; absent means ``next``.

        Raises:
            PreconditionFailed: as RabbitMQ 4.3 says it (3.10 closes the connection for most of these).
        """
        self.retain()
        first = self.base + self.start
        if spec is None or spec == "next":
            return self.end
        if spec == "first":
            return first
        if spec == "last":
            return max(self.end - 1, first)
        if isinstance(spec, int) and not isinstance(spec, bool):
            return max(spec, first)
        since: float | None = None
        if isinstance(spec, datetime):
            since = (spec if spec.tzinfo is not None else spec.replace(tzinfo=UTC)).timestamp()
        elif (interval := seconds(spec)) is not None:
            since = self.broker.wall() - interval
        if since is None:
            term = f'{{{type_name(spec)},<<"{spec}">>}}'
            text = f"invalid arg 'x-stream-offset' for queue '{self.name}' in vhost '/'"
            raise PreconditionFailed(406, f"PRECONDITION_FAILED - {text}: {{invalid_stream_offset_arg,{term}}}")
        return self.base + bisect_left(self.times, since, self.start)
