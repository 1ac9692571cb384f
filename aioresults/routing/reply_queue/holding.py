"""Messages of a named inbox that are not acknowledged yet, and what they wait for.

A message of many reports is acknowledged when every ready result in it is done with: taken by a caller, evicted, or
forgotten. Reports that are not ready hold nothing. Until then the broker has the message as well, and gives it to the
next process of this name if this one ends.

When the channel closes, the broker delivers all of them again. Each is known by its id, is not read again, and from
then on is acknowledged by its new delivery.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from aioresults.messaging import Message
from aioresults.transport import Channel
from aioresults.waiting.memory import Deduplicator

#: What each unreadable message takes besides its body, in bytes.
OVERHEAD: Final = 1024


class Held:
    """One message that is not acknowledged; without its body, which the memory has, if anybody needs it."""

    __slots__ = ("channel", "delivery_tag", "is_read", "message_id", "pending", "size")

    def __init__(self, message: Message) -> None:
        self.message_id = message.properties.message_id
        self.size = len(message.body) + OVERHEAD
        #: The tasks whose ready results are not done with.
        self.pending: set[str] = set()
        #: Whether ``pending`` is complete.
        self.is_read = False
        self.deliver(message)

    def deliver(self, message: Message) -> None:
        """Take the delivery by which the message is to be acknowledged from now on."""
        self.channel: Channel | None = message.channel
        self.delivery_tag = message.delivery_tag


class Holding:
    """All messages that one process holds.

    Args:
        deduplicator: remembers the messages that were acknowledged.
        max_unreadable: bytes of messages that cannot be read here and are kept for another process.
    """

    def __init__(self, deduplicator: Deduplicator, max_unreadable: int) -> None:
        self._deduplicator = deduplicator
        self._max_unreadable = max_unreadable
        self._all: set[Held] = set()
        self._by_id: dict[str, Held] = {}
        self._by_task: dict[str, tuple[Held, ...]] = {}
        #: Those that cannot be read, the oldest first.
        self._unreadable: deque[Held] = deque()
        self.unreadable_bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def knows(self, message: Message) -> bool:
        """Whether a message of this id is held."""
        return message.properties.message_id in self._by_id

    def drop(self, held: Held) -> None:
        """Take a message off the inbox that nobody can make use of."""
        if held.channel is not None:
            held.channel.basic_nack(held.delivery_tag, multiple=False, requeue=False)
        self._forget(held)

    def hold(self, message: Message) -> Held | None:
        """Begin to hold a message that is to be read; None if it is held already."""
        message_id = message.properties.message_id
        known = self._by_id.get(message_id) if message_id is not None else None
        if known is None:
            held = Held(message)
            self._all.add(held)
            if message_id is not None:
                self._by_id[message_id] = held
            return held
        if known.channel is None:
            known.deliver(message)
            self._settle(known)
        else:
            message.ack()  # published twice
        return None

    def expect(self, held: Held, task_id: str) -> None:
        """Hold a message until the result of this task is done with."""
        held.pending.add(task_id)
        self._by_task[task_id] = (*self._by_task.get(task_id, ()), held)

    def read(self, held: Held) -> None:
        """Take in that a message was read: nothing more will be expected of it."""
        held.is_read = True
        self._settle(held)

    def keep(self, held: Held, *, is_genuine: bool) -> bool:
        """Hold a message that cannot be read, for as long as there is room; return whether older ones were dropped.

        Returned to the queue now, it would come straight back (measured). Unless it is genuine, its id is somebody's
        claim: it is not known by that.
        """
        self._all.add(held)
        if not is_genuine:
            self._unname(held)
        self._unreadable.append(held)
        self.unreadable_bytes += held.size
        has_room = self.unreadable_bytes <= self._max_unreadable
        while self.unreadable_bytes > self._max_unreadable:
            oldest = self._unreadable.popleft()
            self.unreadable_bytes -= oldest.size
            self.drop(oldest)
        return not has_room

    def release(self, task_id: str) -> None:
        """Take in that the result of a task is done with."""
        for held in self._by_task.pop(task_id, ()):
            held.pending.discard(task_id)
            self._settle(held)

    def lose(self) -> None:
        """Take in that the channel is closed: all deliveries are void, and will come again."""
        for held in tuple(self._all):
            # Without an id it cannot be known again. What was done with before the last loss did not come again.
            is_named = held.message_id is not None and self._by_id.get(held.message_id) is held
            if not is_named or (held.channel is None and held.is_read and not held.pending):
                self._forget(held)
            held.channel = None
        self._unreadable = deque(held for held in self._unreadable if held in self._all)
        self.unreadable_bytes = sum(held.size for held in self._unreadable)

    def clear(self) -> None:
        """Forget everything; the broker has it."""
        for held in tuple(self._all):
            self._forget(held)
        self._unreadable.clear()
        self.unreadable_bytes = 0

    def _settle(self, held: Held) -> None:
        """Acknowledge a message if nothing is expected of it any more."""
        if held.is_read and not held.pending and held.channel is not None:
            held.channel.basic_ack(held.delivery_tag, multiple=False)
            self._deduplicator.note(held.message_id)
            self._forget(held)

    def _unname(self, held: Held) -> None:
        if held.message_id is not None and self._by_id.get(held.message_id) is held:
            del self._by_id[held.message_id]

    def _forget(self, held: Held) -> None:
        self._all.discard(held)
        self._unname(held)
        for task_id in held.pending:
            rest = tuple(each for each in self._by_task.get(task_id, ()) if each is not held)
            if rest:
                self._by_task[task_id] = rest
            else:
                self._by_task.pop(task_id, None)
