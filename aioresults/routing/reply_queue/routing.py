"""``ReplyQueue``: where results go, and the inbox they come back to."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from aioresults import validation
from aioresults.errors import ConfigurationError
from aioresults.messaging import NoCacheQueue, Queue
from aioresults.routing.base import OURS, Reader, ReaderParts, Routing, RoutingOptions, correlation_id_of
from aioresults.routing.reply_queue.named_inbox import SINGLE_ACTIVE, NamedInboxReader
from aioresults.routing.reply_queue.reader import ReplyQueueReader

PREFIX: Final = OURS + "inbox."
QUEUE_TYPES: Final = ("classic", "quorum")
#: Milliseconds. RabbitMQ 4.3 keeps a consumer whose node is lost for a minute, with its messages and its place as the
#: single active consumer, and this process, connected to another node, would wait for itself. Older versions keep none,
#: and ignore the argument.
DISCONNECTED_TIMEOUT: Final = 1000


@dataclass(frozen=True)
class ReplyQueue(Routing):
    """One durable inbox, ``aioresults.inbox.<name>``, for all results that this process waits for: the fastest routing.

    Example::

        async with AMQPBackend("memory://example", routing=ReplyQueue()) as backend:
            assert backend.reply_to is not None  # goes into the task message
            await backend.store_result("task", 42, request=Request(reply_to=backend.reply_to))
            assert await backend.wait_for("task", timeout=5) == 42

    The process that asked receives the results. It keeps those that no call has asked for yet, within limits. The
    content of the inbox survives restarts of the broker and reconnects. The address is drawn when the backend is
    opened.

    Args:
        name: a stable name, by which the next process finds what this one has not taken, however it ended: at least
            once, because results travel together, up to some 300 in a message, and a message stays until all of them
            are taken. One process of a name reads at a time; when the next one comes, the waits of the first end with
            ``InboxTakenOver``. Without a name the inbox gets a random one, and is deleted when the backend is closed.
        queue_type: ``classic``, or ``quorum`` to survive the loss of a cluster's node.
        expires: seconds without a reader after which the broker deletes the inbox; None for never. The backend sets it.
    """

    needs_reply_to: ClassVar[bool] = True

    name: str | None = None
    queue_type: str = "classic"
    expires: float | None = field(default=86400.0, kw_only=True)

    def __post_init__(self) -> None:
        validation.choice("queue_type", self.queue_type, QUEUE_TYPES)
        if self.name is not None:
            validation.non_empty("the name of an inbox", self.name)
            validation.short_string("the name of an inbox", PREFIX + self.name)

    def configured(self, options: RoutingOptions) -> ReplyQueue:
        """Keep the inbox at least as long as the results in it."""
        return replace(super().configured(options), expires=options.expires)

    def inbox(self) -> Queue:
        """Return the inbox of this process; without a name, another one each time."""
        arguments: dict[str, Any] = {"x-queue-type": self.queue_type}
        if self.expires is not None:
            arguments["x-expires"] = int(self.expires * 1000)
        if self.queue_type == "quorum":
            arguments["x-consumer-disconnected-timeout"] = DISCONNECTED_TIMEOUT
        if self.name is not None:
            arguments[SINGLE_ACTIVE] = True
        address = PREFIX + (self.name or uuid.uuid4().hex)
        return NoCacheQueue(address, routing_key=address, queue_arguments=arguments)

    def destination_for(self, rkey: str, task_id: str, request: Any | None) -> tuple[str, str]:
        """Return the address and the correlation id that the caller put into the task message.

        Raises:
            ConfigurationError: there is no ``reply_to`` in ``request``.
        """
        reply_to = getattr(request, "reply_to", None)
        if not reply_to or not isinstance(reply_to, str):
            raise ConfigurationError(
                f"no reply_to for task {task_id!r}: with ReplyQueue a result goes to whoever asked, so store it with "
                "request=Request(reply_to=...), the address from the task message"
            )
        return reply_to, correlation_id_of(task_id, request)

    def coalesces(self, routing_key: str) -> bool:
        """Whether many reports may travel in one message: only to an inbox of ours. Others expect Celery's."""
        return routing_key.startswith(PREFIX)

    def reader(self, parts: ReaderParts) -> Reader:
        """Return what consumes the inbox."""
        inbox = parts.overrides.inbox()
        if inbox is None:
            raise ConfigurationError("inbox() of the backend returns None, and ReplyQueue needs a queue to read")
        return ReplyQueueReader(parts, inbox) if self.name is None else NamedInboxReader(parts, inbox)
