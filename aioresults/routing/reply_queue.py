"""One inbox per waiting process: its address travels in the task message, and the results come back to it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from aioresults import validation
from aioresults.errors import AioResultsError, ConfigurationError
from aioresults.messaging import Exchange, NoCacheQueue, Queue
from aioresults.routing.base import OURS, RoutingOptions, correlation_id_of

PREFIX = OURS + "inbox."
QUEUE_TYPES = ("classic", "quorum")


@dataclass(frozen=True)
class ReplyQueue:
    """One durable inbox, ``aioresults.inbox.<name>``, for all that this process waits for. The fast way.

    The process that asked gets the results; it keeps what nobody has asked for yet, within limits. What is in the
    inbox survives restarts of the broker and reconnects.

    Args:
        name: a stable name lets a restarted process find what came while it was down. It must be used by one process
            at a time. Without one the inbox has a random name, and is deleted when the backend is closed.
        queue_type: ``classic``, or ``quorum`` to survive the loss of a cluster's node.
    """

    name: str | None = None
    queue_type: str = "classic"
    expires: float | None = field(default=86400.0, kw_only=True)
    address: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.queue_type not in QUEUE_TYPES:
            raise ConfigurationError(f"queue_type must be one of {QUEUE_TYPES}, not {self.queue_type!r}")
        if self.name is not None:
            validation.non_empty("the name of an inbox", self.name)
            validation.short_string("the name of an inbox", PREFIX + self.name)

    def configured(self, options: RoutingOptions) -> ReplyQueue:
        """Choose the address, and keep the inbox at least as long as the results in it."""
        for name in ("exchange", "exchange_type", "auto_delete"):
            if getattr(options, name) is not None:
                raise ConfigurationError(
                    f"{name} has no meaning for a ReplyQueue: its inbox is on the default exchange"
                )
        return replace(self, expires=options.expires, address=PREFIX + (self.name or uuid.uuid4().hex))

    @property
    def exchange(self) -> Exchange:
        """The default exchange."""
        return Exchange()

    @property
    def reply_to(self) -> str | None:
        """The inbox's name: the address for task messages."""
        return self.address

    def topology(self) -> Sequence[Exchange | Queue]:
        """Return nothing: the inbox is declared by the process that consumes it."""
        return ()

    @property
    def _arguments(self) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {"x-queue-type": self.queue_type}
        if self.expires is not None:
            arguments["x-expires"] = int(self.expires * 1000)
        return MappingProxyType(arguments)

    def inbox(self) -> Queue | None:
        """Return the inbox of this process."""
        if self.address is None:
            return None
        return NoCacheQueue(self.address, routing_key=self.address, queue_arguments=self._arguments)

    def stream(self) -> None:
        """Return None: nothing is shared."""

    def explained(self, error: AioResultsError) -> AioResultsError:
        """Return the broker's own error."""
        return error

    @property
    def keeps_inbox(self) -> bool:
        """Whether the inbox outlives the backend, for the next process of its name."""
        return self.name is not None

    def rkey(self, task_id: str) -> str:
        """Return the task id: a task has no address of its own here."""
        return validation.short_task_id(task_id)

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

    def queue(self, rkey: str) -> None:
        """Return None: tasks have no queues of their own here."""

    def coalesces(self, routing_key: str) -> bool:
        """Whether many reports may travel in one message: only to an inbox of ours. Others expect Celery's."""
        return routing_key.startswith(PREFIX)
