"""What a routing answers; the rest of the package asks, and does the I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from aioresults.errors import AioResultsError, ConfigurationError
from aioresults.messaging import Exchange, Queue

#: What the names of our own queues begin with.
OURS: Final = "aioresults."


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """What ``AMQPBackend`` was told about exchange and queues; None means: as the routing prefers."""

    exchange: str | None = None
    exchange_type: str | None = None
    auto_delete: bool | None = None
    persistent: bool = True
    #: Seconds after which a queue that nobody uses is deleted; None: never.
    expires: float | None = None


class Stream(NamedTuple):
    """A stream, and how its readers treat it."""

    queue: Queue
    #: Seconds after which a result counts no longer; None: never.
    max_age: float | None
    #: How much of it a reader keeps in memory, in bytes of documents and in tasks.
    index_bytes: int
    index_count: int


class Routing(Protocol):
    """Answers where results go, and which queues a process must consume now."""

    def configured(self, options: RoutingOptions) -> Routing:
        """Return this routing with the backend's options filled in; ``ConfigurationError`` where they cannot be."""
        ...

    def topology(self) -> Sequence[Exchange | Queue]:
        """Return what must exist before a session is used."""
        ...

    @property
    def reply_to(self) -> str | None:
        """The address for task messages, or None when the routing needs none."""
        ...

    @property
    def exchange(self) -> Exchange:
        """The exchange that results are published to."""
        ...

    def rkey(self, task_id: str) -> str:
        """Return the routing key of a task; ``ConfigurationError`` for an id that this layout cannot hold."""
        ...

    def destination_for(self, rkey: str, task_id: str, request: Any | None) -> tuple[str, str]:
        """Return routing key and correlation id of a report about ``task_id``, whose own key is ``rkey``."""
        ...

    def queue(self, rkey: str) -> Queue | None:
        """Return the queue that holds the reports of the task with this routing key, if it has one of its own."""
        ...

    def inbox(self) -> Queue | None:
        """Return the one queue that this process consumes for all tasks, if there is one."""
        ...

    def stream(self) -> Stream | None:
        """Return the stream that all processes share, if there is one."""
        ...

    def explained(self, error: AioResultsError) -> AioResultsError:
        """Return what to raise for ``error`` with which ``topology`` could not be declared: often that error."""
        ...

    @property
    def keeps_inbox(self) -> bool:
        """Whether the inbox outlives the backend."""
        ...

    def coalesces(self, routing_key: str) -> bool:
        """Whether many reports for this routing key may travel in one message."""
        ...


def correlation_id_of(task_id: str, request: Any | None) -> str:
    """Return the correlation id that a request asks for, or else the task id.

    Raises:
        ConfigurationError: it is no string.
    """
    correlation_id: object = getattr(request, "correlation_id", None) or task_id
    if not isinstance(correlation_id, str):
        raise ConfigurationError(f"a correlation id must be a string, not {correlation_id!r}")
    return correlation_id


def configured(routing: Routing, options: RoutingOptions) -> Routing:
    """Return a routing with the backend's options filled in.

    Raises:
        ConfigurationError: it is no routing, a class of one for example; or the options cannot be.
    """
    given: object = routing
    if isinstance(given, type) or not hasattr(given, "configured"):
        raise ConfigurationError(f"routing must be a routing, such as ReplyQueue(), not {given!r}")
    return routing.configured(options)
