"""The consumer of one task's queue, and what came through it that is not settled yet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from aioresults.errors import ChannelClosed, ConfigurationError
from aioresults.messaging import Consumer, Message
from aioresults.results import ResultMeta

#: Unacknowledged messages per consumer. A task's reports are few; this bounds a worker that reports in a loop.
PREFETCH: Final = 100


class SubscriptionState(Enum):
    """Where the consumer of one queue is."""

    OPEN = "open"
    #: Cancelled by the broker: the queue was deleted, or its node lost.
    CANCELLED = "cancelled"
    #: Being closed by us.
    CLOSING = "closing"


@dataclass(slots=True, eq=False)
class Subscription:
    """The consumer of one task's queue, and the deliveries that are not settled yet."""

    task_id: str
    queue: str
    consumer: Consumer
    state: SubscriptionState = SubscriptionState.OPEN
    #: The ready report that counts, and its message: returned to the queue unless somebody takes it.
    meta: ResultMeta | None = None
    message: Message | None = None
    #: Asks whether a report follows that replaces ``meta``, before anybody is told of it.
    asking: asyncio.Task[None] | None = None
    #: What else has to return to the queue when the consumer is closed; earlier it would come straight back.
    set_aside: tuple[Message, ...] = ()
    #: Set when what nobody has taken is back in the queue, or when somebody waits for it again.
    decided: asyncio.Event = field(default_factory=asyncio.Event)

    def decide(self) -> None:
        """Wake the looks that wait to know where the messages are."""
        self.decided.set()
        self.decided = asyncio.Event()

    async def put_back(self) -> None:
        """Return to the queue what nobody has taken, and wait until it is there for whoever looks next."""
        messages = (*self.set_aside, *((self.message,) if self.message else ()))
        for message in messages:
            message.requeue()
        if messages:
            with suppress(ChannelClosed):
                # It changes nothing, but is answered after what was sent before. A passive declaration, which would
                # do as well, closes the channel that all consumers share where the queue is gone.
                await self.consumer.channel.basic_qos(PREFETCH)


def shared_queue(queue: str, task_id: str, other: str) -> ConfigurationError:
    """Return the error for a queue that two tasks share: whoever takes the result of one would delete the other's."""
    return ConfigurationError(
        f"the tasks {task_id!r} and {other!r} share the queue {queue!r}: rkey() must give each task a queue of its own"
    )
