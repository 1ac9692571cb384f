"""Classic (and quorum) queues and their consumers.

Objects here are counted by the hundred thousand, so a queue that holds nothing is eight slots, and its only consumer
is a slot, not a collection. What is ready is a linked list through the messages themselves, plus a heap of those that
came back: they all stood before whatever was never delivered, so the heap goes first and every message returns to
its place. Everything is called with the broker's lock held, and nothing here calls a user's function.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from aioresults.transport.base import OnCancel, OnMessage
from aioresults.transport.memory.declare import Settings
from aioresults.transport.memory.message import Message

if TYPE_CHECKING:
    from aioresults.transport.memory.deliveries import Deliveries
    from aioresults.transport.memory.topology import Topology

NO_ACK = 1
EXCLUSIVE = 2


class Consumer:
    """One ``basic.consume``; ``unacked`` counts against ``prefetch`` (0: no limit)."""

    __slots__ = ("channel", "mode", "on_cancel", "on_message", "prefetch", "queue", "tag", "unacked")

    def __init__(
        self, tag: str, channel: Deliveries, on_message: OnMessage, on_cancel: OnCancel | None, mode: int
    ) -> None:
        self.tag = tag
        self.channel = channel
        self.on_message = on_message
        self.on_cancel = on_cancel
        self.mode = mode
        self.prefetch = channel.prefetch
        self.unacked = 0
        self.queue: Queue | None = None

    @property
    def free(self) -> bool:
        return not self.prefetch or self.unacked < self.prefetch


class Queue:
    """What every type of queue has: a name, consumers, and a time of its last use."""

    __slots__ = ("backlog", "broker", "consumers", "name", "settings", "unacked", "used_at")

    def __init__(self, broker: Topology, name: str, settings: Settings) -> None:
        self.broker = broker
        self.name = name
        self.settings = settings
        self.backlog: Any = None
        #: None, the only consumer, or several in the order of their turns.
        self.consumers: Consumer | OrderedDict[Consumer, None] | None = None
        self.unacked = 0
        #: When it was last used (only for queues that expire, and only while nobody consumes).
        self.used_at: float | None = None
        self.touch()

    # consumers

    def touch(self) -> None:
        """Count as a use: what RabbitMQ restarts the ``x-expires`` timer for (declare, get, the last consumer gone)."""
        if self.settings.expires is not None and self.consumers is None:
            self.used_at = self.broker.clock()

    @property
    def expired(self) -> bool:
        """Whether nobody used it for ``x-expires``: no consumer, no declare, no get. Publishing is no use."""
        expires = self.settings.expires
        return (
            expires is not None
            and self.consumers is None
            and self.used_at is not None
            and self.broker.clock() - self.used_at >= expires
        )

    @property
    def consumer_count(self) -> int:
        consumers = self.consumers
        if consumers is None:
            return 0
        return len(consumers) if isinstance(consumers, OrderedDict) else 1

    def consumer_list(self) -> list[Consumer]:
        consumers = self.consumers
        if consumers is None:
            return []
        return list(consumers) if isinstance(consumers, OrderedDict) else [consumers]

    @property
    def exclusively_consumed(self) -> bool:
        return isinstance(self.consumers, Consumer) and bool(self.consumers.mode & EXCLUSIVE)

    def add_consumer(self, consumer: Consumer) -> None:
        consumer.queue = self
        consumers = self.consumers
        if consumers is None:
            self.consumers = consumer
        elif isinstance(consumers, OrderedDict):
            consumers[consumer] = None
        else:
            self.consumers = OrderedDict([(consumers, None), (consumer, None)])
        self.used_at = None

    def remove_consumer(self, consumer: Consumer) -> None:
        consumers = self.consumers
        consumer.queue = None
        if isinstance(consumers, OrderedDict):
            consumers.pop(consumer, None)
            if len(consumers) == 1:
                self.consumers = next(iter(consumers))
        elif consumers is consumer:
            self.consumers = None
            self.touch()

    # what the types do in their own way

    @property
    def ready(self) -> int:
        raise NotImplementedError

    def refuses(self, size: int) -> bool:
        """Whether a message of ``size`` bytes would get a negative confirm."""
        return False

    def put(self, message: Message) -> None:
        raise NotImplementedError

    def pump(self) -> None:
        """Deliver what can be delivered now."""
        raise NotImplementedError

    def settled(self, consumer: Consumer | None) -> None:
        """One delivery is off the books; ``consumer`` may get another."""
        self.unacked -= 1
        if consumer is not None:
            consumer.unacked -= 1

    def requeue(self, messages: list[Message]) -> None:
        raise NotImplementedError


class Backlog:
    """The messages that are ready: ``returned`` first, then the list from ``head`` to ``tail``."""

    __slots__ = ("bytes", "count", "deadline", "head", "returned", "tail")

    def __init__(self) -> None:
        self.head: Message | None = None
        self.tail: Message | None = None
        self.returned: list[Message] | None = None
        self.count = 0
        self.bytes = 0
        #: The time the broker was told to look at this queue, for its dead letters.
        self.deadline: float | None = None

    def append(self, message: Message) -> None:
        if self.tail is None:
            self.head = message
        else:
            self.tail.next = message
        self.tail = message
        self.count += 1
        self.bytes += len(message.body)

    def put_back(self, message: Message) -> None:
        if self.returned is None:
            self.returned = []
        heappush(self.returned, message)
        self.count += 1
        self.bytes += len(message.body)

    @property
    def first(self) -> Message:
        first = self.returned[0] if self.returned else self.head
        assert first is not None  # a backlog with nothing in it is not kept
        return first

    def pop(self) -> Message:
        if self.returned:
            message = heappop(self.returned)
        else:
            message = self.first
            self.head = message.next
            message.next = None
            if self.head is None:
                self.tail = None
        self.count -= 1
        self.bytes -= len(message.body)
        return message


class ClassicQueue(Queue):
    """A queue whose messages leave it: round-robin to consumers with credit, one at a time to ``basic.get``."""

    __slots__ = ()

    backlog: Backlog | None

    @property
    def ready(self) -> int:
        self.drop_expired()
        return 0 if self.backlog is None else self.backlog.count

    def refuses(self, size: int) -> bool:
        """Reject-publish looks at the length alone: x-max-length 0 refuses even with a consumer waiting."""
        settings = self.settings
        if not settings.limited or settings.overflow == "drop-head":
            return False
        self.drop_expired()
        count, total = (0, 0) if self.backlog is None else (self.backlog.count, self.backlog.bytes)
        return (settings.max_length is not None and count >= settings.max_length) or (
            settings.max_bytes is not None and total + size > settings.max_bytes
        )

    def put(self, message: Message) -> None:
        message.position = self.broker.next_position()
        self._set_expiry(message)
        if self.backlog is not None:
            self.drop_expired()
        if self.backlog is None and self.consumers is not None:
            consumer = self._next_consumer()
            if consumer is not None:
                consumer.channel.deliver(consumer, self, message)
                return
        if self.backlog is None:
            self.backlog = Backlog()
        self.backlog.append(message)
        self._shorten()
        self._watch()

    def _set_expiry(self, message: Message) -> None:
        ttl = self.settings.ttl
        if message.properties.expiration is not None:
            own = int(message.properties.expiration) / 1000
            ttl = own if ttl is None else min(ttl, own)
        if ttl is not None:
            message.expires_at = self.broker.clock() + ttl

    def _shorten(self) -> None:
        """Drop from the head what is over the limit; only what is ready counts."""
        settings = self.settings
        if not settings.limited:
            return
        while (backlog := self.backlog) is not None and (
            (settings.max_length is not None and backlog.count > settings.max_length)
            or (settings.max_bytes is not None and backlog.bytes > settings.max_bytes)
        ):
            self.broker.dead_letter(self, self._pop(), "maxlen")

    def _pop(self) -> Message:
        backlog = self.backlog
        assert backlog is not None
        message = backlog.pop()
        if not backlog.count:
            self.backlog = None
        return message

    def drop_expired(self) -> None:
        """Let go of what expired at the head: RabbitMQ, too, looks only there."""
        backlog = self.backlog
        if backlog is None or backlog.first.expires_at is None:
            return
        now = self.broker.clock()
        while (backlog := self.backlog) is not None:
            due = backlog.first.expires_at
            if due is None or due > now:
                break
            self.broker.dead_letter(self, self._pop(), "expired")
        self._watch()

    def _watch(self) -> None:
        """A dead letter may have somebody waiting for it, so its time must be noticed; other expiry can wait."""
        backlog = self.backlog
        if backlog is None or self.settings.dead_letter_exchange is None:
            return
        due = backlog.first.expires_at
        if due is not None and (backlog.deadline is None or due < backlog.deadline):
            backlog.deadline = due
            self.broker.watch(due, self)

    def look(self, due: float) -> None:
        """The time asked for with ``watch`` has come."""
        backlog = self.backlog
        if backlog is not None and backlog.deadline == due:
            backlog.deadline = None
            self.drop_expired()
            self._watch()

    def _next_consumer(self) -> Consumer | None:
        consumers = self.consumers
        if not isinstance(consumers, OrderedDict):
            return consumers if consumers is not None and consumers.free else None
        if self.settings.single_active:
            first = next(iter(consumers))
            return first if first.free else None
        for consumer in consumers:
            if consumer.free:
                consumers.move_to_end(consumer)
                return consumer
        return None

    def pump(self) -> None:
        self.drop_expired()
        while self.backlog is not None and (consumer := self._next_consumer()) is not None:
            consumer.channel.deliver(consumer, self, self._pop())
            self.drop_expired()

    def take(self) -> Message | None:
        """One message for ``basic.get``."""
        self.drop_expired()
        return None if self.backlog is None else self._pop()

    def settled(self, consumer: Consumer | None) -> None:
        self.unacked -= 1
        if consumer is not None:
            consumer.unacked -= 1
            if self.backlog is not None:
                self.pump()

    def requeue(self, messages: list[Message]) -> None:
        """Put back what was delivered and not acknowledged, each at the place it had."""
        if self.backlog is None:
            self.backlog = Backlog()
        for message in messages:
            message.redelivered = True
            self.backlog.put_back(message)
        self._shorten()
        self._watch()

    def purge(self) -> int:
        self.drop_expired()
        backlog = self.backlog
        if backlog is None:
            return 0
        self.backlog = None
        count = backlog.count
        while backlog.count:
            backlog.pop()  # one by one: a long chain of messages is not to be freed recursively
        return count

    def keep_persistent(self) -> None:
        """What a restart leaves: persistent messages, in their order."""
        backlog, self.backlog = self.backlog, None
        kept = Backlog()
        while backlog is not None and backlog.count:
            message = backlog.pop()
            if message.persistent:
                kept.append(message)
        if kept.count:
            self.backlog = kept
