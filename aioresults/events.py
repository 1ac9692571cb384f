"""What an operator may want to know about a backend: plain frozen values.

Each event is logged once, at its own level, by the logger ``aioresults``, and passed to the backend's ``on_event``. No
event holds a result, a password or any other content of a message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

__all__ = [
    "Blocked",
    "ConnectFailed",
    "ConnectRefused",
    "Connected",
    "ConnectionLost",
    "Dropped",
    "Event",
    "Events",
    "Evicted",
    "InboxBusy",
    "InboxLost",
    "LateResult",
    "NotRouted",
    "OnEvent",
    "QueueLost",
    "QueuesLeft",
    "Unblocked",
    "Unconfirmed",
    "Unreadable",
    "Unreported",
    "Unroutable",
]

logger: Final = logging.getLogger("aioresults")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; its ``str`` is the log line."""

    _level: ClassVar[int] = logging.WARNING

    @property
    def level(self) -> int:
        """The level at which the event is logged, as in ``logging``."""
        return self._level


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """A session with the broker is ready: everything is declared, and every queue of the routing is consumed."""

    _level: ClassVar[int] = logging.INFO

    #: The broker's URL, without the password.
    uri: str
    #: The number of the session: 1 is the first; more are reconnects.
    session: int
    #: The number of attempts that it took.
    attempts: int
    #: Seconds since the last session was lost, or since ``open``.
    seconds: float

    def __str__(self) -> str:
        return f"connected to {self.uri} after {self.seconds:.2f} s (session {self.session}, attempt {self.attempts})"


@dataclass(frozen=True, slots=True)
class ConnectionLost(Event):
    """A session was lost. The next one is on its way; waits go on, and stores are tried again."""

    uri: str
    reason: str
    #: Seconds that the event loop was blocked just before. If that is a few heartbeats long, it is the cause.
    lag: float

    def __str__(self) -> str:
        lag = f"; the event loop had been blocked for {self.lag:.1f} s" if self.lag else ""
        return f"lost the connection to {self.uri}, reconnecting: {self.reason}{lag}"


@dataclass(frozen=True, slots=True)
class ConnectFailed(Event):
    """An attempt to connect failed; the next one follows."""

    uri: str
    reason: str
    #: The number of the attempt in this outage; only the first, 1, is logged as a warning.
    attempt: int

    @property
    def level(self) -> int:
        """WARNING for the first failed attempt of an outage, DEBUG for the others."""
        return logging.WARNING if self.attempt == 1 else logging.DEBUG

    def __str__(self) -> str:
        return f"no connection to {self.uri}, trying again: {self.reason}"


@dataclass(frozen=True, slots=True)
class ConnectRefused(Event):
    """The broker refuses this client: password, vhost, TLS, a declaration. The next call tries again."""

    _level: ClassVar[int] = logging.ERROR

    uri: str
    reason: str

    def __str__(self) -> str:
        return f"the broker at {self.uri} refuses this client: {self.reason}"


@dataclass(frozen=True, slots=True)
class Blocked(Event):
    """The broker blocks publishers (an alarm of memory or disk): stores wait."""

    uri: str
    #: The reason in the broker's own words.
    reason: str

    def __str__(self) -> str:
        return f"{self.uri} blocks publishers: {self.reason}"


@dataclass(frozen=True, slots=True)
class Unblocked(Event):
    """The broker accepts messages again."""

    _level: ClassVar[int] = logging.INFO

    uri: str
    #: Seconds that publishers were blocked.
    seconds: float

    def __str__(self) -> str:
        return f"{self.uri} accepts messages again, after {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Unreported(Event):
    """A report of ``recording`` that is not ready, which nobody waits for, could not be stored."""

    task_id: str
    status: str
    reason: str

    def __str__(self) -> str:
        return f"a report of task {self.task_id!r} in state {self.status!r} was not stored: {self.reason}"


@dataclass(frozen=True, slots=True)
class Unroutable(Event):
    """An inbox is missing, not there yet or gone: its results are retried by the ``unroutable_policy``."""

    _level: ClassVar[int] = logging.DEBUG

    destination: str
    #: How many results of this process wait for the inbox.
    waiting: int

    def __str__(self) -> str:
        return f"there is no queue {self.destination}: retrying {self.waiting} results for it"


@dataclass(frozen=True, slots=True)
class NotRouted(Event):
    """An inbox stayed missing: these stores failed with ``ResultNotRouted``, and those that follow fail at once.

    Told once for each inbox, until that is found again.
    """

    destination: str
    results: int

    def __str__(self) -> str:
        return f"gave up {self.results} results: there is no queue {self.destination}"


@dataclass(frozen=True, slots=True)
class LateResult(Event):
    """A result arrived after every wait for it had ended. It is kept for the next call that asks."""

    _level: ClassVar[int] = logging.INFO

    task_id: str
    status: str

    def __str__(self) -> str:
        return f"the result of task {self.task_id!r} ({self.status}) arrived after every wait for it had ended"


@dataclass(frozen=True, slots=True)
class Evicted(Event):
    """A result that nobody had asked for was evicted to make room."""

    task_id: str
    #: Results evicted so far; the first is logged as a warning.
    count: int

    @property
    def level(self) -> int:
        """WARNING for the first eviction, DEBUG for the others."""
        return logging.WARNING if self.count == 1 else logging.DEBUG

    def __str__(self) -> str:
        return f"evicted the unclaimed result of task {self.task_id!r} to make room ({self.count} so far)"


def _reports_of(task_id: str | None, count: int) -> str:
    first = "a message" if task_id is None else f"a report of task {task_id!r}"
    return first if count == 1 else f"{first} and {count - 1} more"


@dataclass(frozen=True, slots=True)
class Unreadable(Event):
    """A report that this process cannot read was left where it is; a wait for its task ends with the ``DecodeError``.

    Another process may be able to read it: with another key, serializer or limit.
    """

    #: The first task, of several; None when even the task id cannot be read.
    task_id: str | None
    reason: str
    #: How many reports of one message.
    count: int = 1

    def __str__(self) -> str:
        return f"cannot read {_reports_of(self.task_id, self.count)}, left in place: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dropped(Event):
    """A message was dropped because no process can make use of it.

    It is no report, or not signed, or stood in an inbox that goes with this process. A wait for its task ends with the
    ``DecodeError`` where the result cannot come any more.
    """

    #: The first task, of several; None when even the task id cannot be read.
    task_id: str | None
    reason: str
    #: How many reports of one message.
    count: int = 1

    def __str__(self) -> str:
        return f"cannot read {_reports_of(self.task_id, self.count)}, dropped: {self.reason}"


@dataclass(frozen=True, slots=True)
class InboxBusy(Event):
    """Another process reads the named inbox, which comes to this one when that one has handed it over or has ended."""

    queue: str

    def __str__(self) -> str:
        return f"another process reads the inbox {self.queue}: waiting until it hands the inbox over, or ends"


@dataclass(frozen=True, slots=True)
class InboxLost(Event):
    """A newer process of the same name has come: it gets what was not taken, and all waits here have ended."""

    queue: str

    def __str__(self) -> str:
        return f"handed the inbox {self.queue} over to another process of its name; all waits here have ended"


@dataclass(frozen=True, slots=True)
class QueueLost(Event):
    """The queue of this process was deleted, or has expired. It is declared again; its content is gone."""

    queue: str

    def __str__(self) -> str:
        return f"the queue {self.queue} was gone; declaring it again"


@dataclass(frozen=True, slots=True)
class Unconfirmed(Event):
    """``close`` gave up results that the broker had not confirmed; their stores failed with ``BackendClosed``."""

    results: int
    reason: str

    def __str__(self) -> str:
        return f"closed with {self.results} results unconfirmed: {self.reason}"


@dataclass(frozen=True, slots=True)
class QueuesLeft(Event):
    """``close`` gave up deleting queues that are no longer needed: those of taken results, or its own inbox."""

    reason: str

    def __str__(self) -> str:
        return f"closed with unneeded queues left behind; they will expire: {self.reason}"


OnEvent = Callable[[Event], object]


class Events:
    """Logs each event, and passes it to the operator's callback.

    Args:
        on_event: called in the event loop; must not block. An exception that it raises is logged, and nothing else.
    """

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event: Final = on_event

    def emit(self, event: Event) -> None:
        """Log an event and pass it on."""
        logger.log(event.level, "%s", event)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("on_event failed for %s", type(event).__name__)
