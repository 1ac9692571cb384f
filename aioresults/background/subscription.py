"""The consumer of one task's queue."""

from __future__ import annotations

from enum import Enum

from aioresults.messaging import Consumer, Message
from aioresults.results import ResultMeta


class State(Enum):
    """Where the consumer of one queue is."""

    OPEN = "open"
    #: Cancelled by the broker: the queue was deleted, or its node lost.
    CANCELLED = "cancelled"
    #: Being closed by us.
    CLOSING = "closing"


class Subscription:
    """The consumer of one task's queue, and the deliveries that are not settled yet."""

    __slots__ = ("consumer", "message", "meta", "state", "strays", "task_id")

    def __init__(self, task_id: str, consumer: Consumer) -> None:
        self.task_id = task_id
        self.consumer = consumer
        self.state = State.OPEN
        #: The ready report that counts, and its message: returned to the queue unless somebody takes it.
        self.meta: ResultMeta | None = None
        self.message: Message | None = None
        #: What else has to return to the queue.
        self.strays: list[Message] | None = None

    def set_aside(self, message: Message) -> None:
        """Keep a message until the consumer is closed; returned earlier it would come straight back."""
        self.strays = [*(self.strays or ()), message]

    def requeue(self) -> None:
        """Return to the queue what nobody has taken."""
        for message in (*(self.strays or ()), *((self.message,) if self.message else ())):
            message.requeue()
