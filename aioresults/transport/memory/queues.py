"""Queues and streams, their subscribers, and the deliveries that are not acknowledged yet.

Everything here is called with the broker's lock held, and calls no function of a user.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from aioresults.transport.base import OnCancel, OnMessage
from aioresults.transport.memory.values import (
    QueueSettings,
    StoredMessage,
    failed,
    refused,
    seconds,
    type_name,
    unsupported,
)

Clock = Callable[[], float]


class Recipient(Protocol):
    """The channel of a subscriber, as its queue sees it."""

    def deliver(self, subscriber: Subscriber, message: StoredMessage) -> None:
        """Send one message to a subscriber of this channel."""

    def cancelled(self, subscriber: Subscriber) -> None:
        """Tell a subscriber of this channel that its queue is gone."""


@dataclass(slots=True, eq=False)
class Subscriber:
    """One ``basic.consume``; ``unacked`` counts against ``prefetch`` (0: no limit)."""

    tag: str
    queue: MemoryQueue
    recipient: Recipient
    on_message: OnMessage
    on_cancel: OnCancel | None
    prefetch: int
    no_ack: bool
    exclusive: bool
    unacked: int = 0
    #: The offset that it gets next, where the queue is a stream.
    offset: int = 0

    @property
    def has_credit(self) -> bool:
        return not self.prefetch or self.unacked < self.prefetch


class MemoryQueue(ABC):
    """What all types of queue share: a name, settings, subscribers, and the time of the last use."""

    __slots__ = ("_clock", "_used_at", "name", "settings", "subscribers", "unacked")

    def __init__(self, name: str, settings: QueueSettings, clock: Clock) -> None:
        self.name: str = name
        self.settings: QueueSettings = settings
        #: The one whose turn is next comes first.
        self.subscribers: tuple[Subscriber, ...] = ()
        #: How many of its messages are delivered and not acknowledged.
        self.unacked: int = 0
        self._clock = clock
        self._used_at = clock()

    def touch(self) -> None:
        """Restart the time to ``x-expires``: at a declaration, a get, and when the last subscriber leaves.

        As in RabbitMQ, a publish does not count as a use.
        """
        self._used_at = self._clock()

    @property
    def expired(self) -> bool:
        """Whether the queue was not used for ``x-expires``."""
        expires = self.settings.expires
        return expires is not None and not self.subscribers and self._clock() - self._used_at >= expires

    @abstractmethod
    def subscribe(self, subscriber: Subscriber, offset: Any) -> None:
        """Add a subscriber, which gets its first messages from ``pump``; ``offset`` is ``x-stream-offset``."""
        self.subscribers += (subscriber,)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self.subscribers = tuple(one for one in self.subscribers if one is not subscriber)
        self.touch()

    @property
    @abstractmethod
    def ready(self) -> int:
        """How many messages wait for a subscriber."""

    def is_full(self, size: int) -> bool:
        """Whether a message of ``size`` bytes would get a negative confirm."""
        return False

    @abstractmethod
    def put(self, message: StoredMessage) -> None:
        """Add a message, and deliver it if a subscriber can take it now."""

    @abstractmethod
    def pump(self) -> None:
        """Deliver what the subscribers can take now."""

    @abstractmethod
    def take(self) -> StoredMessage | None:
        """Take one message for ``basic.get``."""

    @abstractmethod
    def purge(self) -> int:
        """Drop the messages that are ready, and return how many there were."""

    @abstractmethod
    def requeue(self, messages: Iterable[StoredMessage]) -> None:
        """Put unacknowledged messages back, each to the place it had."""

    @abstractmethod
    def restart(self) -> None:
        """Drop what a restart of the broker loses."""


class ClassicQueue(MemoryQueue):
    """A queue whose messages leave it: round-robin to subscribers with credit, one at a time to ``basic.get``.

    The ready messages are a heap by position, so that a requeued message returns to its place.
    """

    __slots__ = ("_bytes", "_last_position", "_ready")

    def __init__(self, name: str, settings: QueueSettings, clock: Clock) -> None:
        super().__init__(name, settings, clock)
        self._ready: list[StoredMessage] = []
        self._bytes = 0
        self._last_position = 0

    def subscribe(self, subscriber: Subscriber, offset: Any) -> None:
        if any(one.exclusive for one in self.subscribers) or (subscriber.exclusive and self.subscribers):
            raise refused(f"queue '{self.name}' in vhost '/' in exclusive use")
        super().subscribe(subscriber, offset)

    @property
    def ready(self) -> int:
        self._drop_expired()
        return len(self._ready)

    def is_full(self, size: int) -> bool:
        """With reject-publish, x-max-length 0 refuses a message even while a subscriber waits for one."""
        return self.settings.rejects_publishes and self._exceeds(self.ready + 1, self._bytes + size)

    def _exceeds(self, count: int, total: int) -> bool:
        limit, max_bytes = self.settings.max_length, self.settings.max_bytes
        return (limit is not None and count > limit) or (max_bytes is not None and total > max_bytes)

    def put(self, message: StoredMessage) -> None:
        self._last_position += 1
        message.position = self._last_position
        message.expires_at = self._expiry(message)
        subscriber = None if self.ready else self._next_subscriber()
        if subscriber is not None:
            subscriber.recipient.deliver(subscriber, message)
        else:
            self._push(message)
            self._shorten()

    def _expiry(self, message: StoredMessage) -> float | None:
        limits = [] if self.settings.ttl is None else [self.settings.ttl]
        if message.properties.expiration is not None:
            limits.append(int(message.properties.expiration) / 1000)
        return self._clock() + min(limits) if limits else None

    def _push(self, message: StoredMessage) -> None:
        heappush(self._ready, message)
        self._bytes += len(message.body)

    def _pop(self) -> StoredMessage:
        message = heappop(self._ready)
        self._bytes -= len(message.body)
        return message

    def _shorten(self) -> None:
        """Drop messages from the head until the limits are kept; only ready messages count."""
        while self._exceeds(len(self._ready), self._bytes):
            self._pop()

    def _drop_expired(self) -> None:
        """Drop expired messages from the head; RabbitMQ, too, looks only there."""
        while self._ready and (due := self._ready[0].expires_at) is not None and due <= self._clock():
            self._pop()

    def _next_subscriber(self) -> Subscriber | None:
        candidates = self.subscribers[:1] if self.settings.single_active else self.subscribers
        chosen = next((one for one in candidates if one.has_credit), None)
        if chosen is not None and candidates is self.subscribers and len(candidates) > 1:
            self.subscribers = (*(one for one in candidates if one is not chosen), chosen)
        return chosen

    def pump(self) -> None:
        while self.ready and (subscriber := self._next_subscriber()) is not None:
            subscriber.recipient.deliver(subscriber, self._pop())

    def take(self) -> StoredMessage | None:
        self.touch()
        return self._pop() if self.ready else None

    def purge(self) -> int:
        count = self.ready
        self._ready, self._bytes = [], 0
        return count

    def requeue(self, messages: Iterable[StoredMessage]) -> None:
        for message in messages:
            message.redelivered = True
            self._push(message)
        self._shorten()

    def restart(self) -> None:
        """Keep the persistent messages."""
        kept = [message for message in self._ready if message.persistent]
        self.purge()
        for message in kept:
            self._push(message)
        self.touch()


class StreamQueue(MemoryQueue):
    """A log that is read, never emptied.

    Every message is a chunk of its own here, so ``last`` starts at the last message, and retention drops message by
    message (RabbitMQ: by segment, and only when a segment is full). Offsets are dense; RabbitMQ's need not be.
    """

    __slots__ = ("_bytes", "_first", "_log")

    def __init__(self, name: str, settings: QueueSettings, clock: Clock) -> None:
        super().__init__(name, settings, clock)
        #: When each message came, in seconds since the epoch, and the message.
        self._log: list[tuple[float, StoredMessage]] = []
        #: The offset of the first one that is kept.
        self._first = 0
        self._bytes = 0

    def subscribe(self, subscriber: Subscriber, offset: Any) -> None:
        if subscriber.no_ack:
            raise unsupported("automatic acknowledgement", self.name)
        if not subscriber.prefetch:
            raise failed(f"consumer prefetch count is not set for stream queue '{self.name}' in vhost '/'")
        subscriber.offset = self._locate(offset)
        super().subscribe(subscriber, offset)

    @property
    def ready(self) -> int:
        self._retain()
        return len(self._log)

    @property
    def _end(self) -> int:
        return self._first + len(self._log)

    def put(self, message: StoredMessage) -> None:
        numbered = {**(message.properties.headers or {}), "x-stream-offset": self._end}
        stored = replace(message, properties=replace(message.properties, headers=numbered))
        self._log.append((self._clock(), stored))
        self._bytes += len(message.body)
        self._retain()
        self.pump()

    def _retain(self) -> None:
        """Drop what ``x-max-length-bytes`` and ``x-max-age`` no longer keep; the last message always stays."""
        max_bytes, max_age = self.settings.max_bytes, self.settings.max_age
        oldest = None if max_age is None else self._clock() - max_age
        dropped = 0
        while dropped < len(self._log) - 1:
            came, message = self._log[dropped]
            if (max_bytes is None or self._bytes <= max_bytes) and (oldest is None or came >= oldest):
                break
            self._bytes -= len(message.body)
            dropped += 1
        del self._log[:dropped]
        self._first += dropped

    def pump(self) -> None:
        for subscriber in self.subscribers:
            while subscriber.has_credit and subscriber.offset < self._end:
                index = max(subscriber.offset - self._first, 0)
                subscriber.offset = self._first + index + 1
                subscriber.recipient.deliver(subscriber, self._log[index][1])

    def _locate(self, offset: Any) -> int:
        """Translate an ``x-stream-offset`` argument; absent means ``next``.

        Raises:
            PreconditionFailed: as RabbitMQ 4.3 says it (3.10 closes the connection for most of these).
        """
        self._retain()
        if offset is None or offset == "next":
            return self._end
        if offset == "first":
            return self._first
        if offset == "last":
            return max(self._end - 1, self._first)
        if isinstance(offset, int) and not isinstance(offset, bool):
            return offset
        age = seconds(offset)
        if isinstance(offset, datetime):
            age = time.time() - (offset if offset.tzinfo is not None else offset.replace(tzinfo=UTC)).timestamp()
        if age is None:
            where = f"queue '{self.name}' in vhost '/'"
            term = f'{{invalid_stream_offset_arg,{{{type_name(offset)},<<"{offset}">>}}}}'
            raise failed(f"invalid arg 'x-stream-offset' for {where}: {term}")
        return self._first + bisect_left(self._log, self._clock() - age, key=itemgetter(0))

    def take(self) -> StoredMessage | None:
        raise unsupported("basic.get", self.name)

    def purge(self) -> int:
        raise unsupported("queue.purge", self.name)

    def requeue(self, messages: Iterable[StoredMessage]) -> None:
        """Do nothing: a message that is delivered never leaves a stream."""

    def restart(self) -> None:
        """Do nothing: a stream keeps all its messages, and does not expire."""


class Outstanding(NamedTuple):
    """A message that was delivered and is not acknowledged; ``subscriber`` is None for ``basic.get``."""

    message: StoredMessage
    queue: MemoryQueue
    subscriber: Subscriber | None


class Deliveries:
    """The unacknowledged deliveries of one channel, by delivery tag."""

    __slots__ = ("_last_tag", "_lowest", "_outstanding")

    def __init__(self) -> None:
        self._outstanding: dict[int, Outstanding] = {}
        self._last_tag = 0
        #: No delivery with a lower tag is outstanding.
        self._lowest = 1

    def next_tag(self) -> int:
        self._last_tag += 1
        return self._last_tag

    def add(self, tag: int, one: Outstanding) -> None:
        self._outstanding[tag] = one
        self._count(one, 1)

    def take(self, tag: int, multiple: bool) -> list[Outstanding]:
        """Remove and return the deliveries that an acknowledgement names; tag 0 with ``multiple`` names all."""
        if multiple and tag == 0:
            return self.take_all()
        if tag not in self._outstanding:
            raise failed(f"unknown delivery tag {tag}")
        # Counting up from the lowest tag: iterating over the dict would walk over its deleted entries each time.
        tags = range(self._lowest, tag + 1) if multiple else (tag,)
        if multiple:
            self._lowest = tag + 1
        taken = [self._outstanding.pop(one) for one in tags if one in self._outstanding]
        for one in taken:
            self._count(one, -1)
        return taken

    def take_all(self) -> list[Outstanding]:
        taken, self._outstanding = list(self._outstanding.values()), {}
        for one in taken:
            self._count(one, -1)
        return taken

    @staticmethod
    def _count(one: Outstanding, change: int) -> None:
        one.queue.unacked += change
        if one.subscriber is not None:
            one.subscriber.unacked += change


def give_back(taken: Iterable[Outstanding]) -> list[MemoryQueue]:
    """Requeue messages and return their queues, which the caller pumps.

    All messages of a queue return before the first one is delivered again, so that their order stays the same.
    """
    returned: dict[MemoryQueue, list[StoredMessage]] = {}
    for one in taken:
        returned.setdefault(one.queue, []).append(one.message)
    for queue, messages in returned.items():
        queue.requeue(messages)
    return list(returned)
