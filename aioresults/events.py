"""What happens to a backend that its operator may want to know: plain frozen values.

Each is logged once, at its own level, by the logger ``aioresults``, and handed to the backend's ``on_event``. None
holds a result, a password or anything else that was in a message.
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
    "LateResult",
    "NotRouted",
    "OnEvent",
    "QueueLost",
    "QueuesLeft",
    "Unblocked",
    "Unconfirmed",
    "Unreadable",
    "Unroutable",
]

logger: Final = logging.getLogger("aioresults")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; its ``str`` is the log line."""

    _level: ClassVar[int] = logging.WARNING

    @property
    def level(self) -> int:
        """The level it is logged at, as in ``logging``."""
        return self._level


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """A session with the broker can be used: everything is declared, and consumed where something is."""

    _level: ClassVar[int] = logging.INFO

    #: Where to, without the password.
    uri: str
    #: The number of the session: 1 is the first; more are reconnects.
    session: int
    #: Attempts it took.
    attempts: int
    #: Since the last session was lost, or since ``open``.
    seconds: float

    def __str__(self) -> str:
        return f"connected to {self.uri} after {self.seconds:.2f} s (session {self.session}, attempt {self.attempts})"


@dataclass(frozen=True, slots=True)
class ConnectionLost(Event):
    """A session was lost. The next one is on its way; waits go on, and stores are tried again."""

    uri: str
    reason: str
    #: Seconds that the event loop stood still just before; a few heartbeats long, it is the cause.
    lag: float

    def __str__(self) -> str:
        stood_still = f"; the event loop had stood still for {self.lag:.1f} s" if self.lag else ""
        return f"lost {self.uri}, connecting again: {self.reason}{stood_still}"


@dataclass(frozen=True, slots=True)
class ConnectFailed(Event):
    """An attempt to connect failed; the next one follows."""

    uri: str
    reason: str
    #: In this outage: 1 is the first, which alone is logged as a warning.
    attempt: int

    @property
    def level(self) -> int:
        """WARNING for the first attempt of an outage, DEBUG for those after it."""
        return logging.WARNING if self.attempt == 1 else logging.DEBUG

    def __str__(self) -> str:
        return f"no connection to {self.uri}, trying again: {self.reason}"


@dataclass(frozen=True, slots=True)
class ConnectRefused(Event):
    """The broker will not have us: password, vhost, TLS, a declaration. Nothing is tried until a call asks for it."""

    _level: ClassVar[int] = logging.ERROR

    uri: str
    reason: str

    def __str__(self) -> str:
        return f"refused by {self.uri}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Blocked(Event):
    """The broker blocks publishers (an alarm of memory or disk): stores wait."""

    uri: str
    #: The broker's own word.
    reason: str

    def __str__(self) -> str:
        return f"{self.uri} blocks publishers: {self.reason}"


@dataclass(frozen=True, slots=True)
class Unblocked(Event):
    """The broker takes messages again."""

    _level: ClassVar[int] = logging.INFO

    uri: str
    #: How long it was blocked.
    seconds: float

    def __str__(self) -> str:
        return f"{self.uri} takes messages again, after {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Unroutable(Event):
    """An inbox is not there, yet or no more: its results are tried again by the ``unroutable_policy``."""

    _level: ClassVar[int] = logging.INFO

    destination: str
    #: Results that wait for it here.
    waiting: int

    def __str__(self) -> str:
        return f"there is no queue {self.destination}: trying again with {self.waiting} results for it"


@dataclass(frozen=True, slots=True)
class NotRouted(Event):
    """An inbox stayed away: these stores failed with ``ResultNotRouted``."""

    destination: str
    results: int

    def __str__(self) -> str:
        return f"gave up {self.results} results: there is no queue {self.destination}"


@dataclass(frozen=True, slots=True)
class LateResult(Event):
    """A result arrived after those who had waited for it had left. It is kept for who asks again."""

    _level: ClassVar[int] = logging.INFO

    task_id: str
    status: str

    def __str__(self) -> str:
        return f"the result of task {self.task_id!r} ({self.status}) came after its waits had ended"


@dataclass(frozen=True, slots=True)
class Evicted(Event):
    """A result that nobody had asked for had to make room."""

    task_id: str
    #: Results evicted so far; the first is logged as a warning.
    count: int

    @property
    def level(self) -> int:
        """WARNING for the first, DEBUG for those after it."""
        return logging.WARNING if self.count == 1 else logging.DEBUG

    def __str__(self) -> str:
        return (
            f"the result of task {self.task_id!r}, which nobody had asked for, had to make room ({self.count} so far)"
        )


@dataclass(frozen=True, slots=True)
class Unreadable(Event):
    """A report that cannot be read here was left where it is; a wait for its task ends with the ``DecodeError``.

    Another process may be able to read it: with another key, serializer or limit.
    """

    #: None when even that cannot be read.
    task_id: str | None
    reason: str

    def __str__(self) -> str:
        return f"left a report of task {self.task_id!r} that cannot be read here: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dropped(Event):
    """A report that cannot be read was taken off its queue; a wait for its task ends with the ``DecodeError``."""

    #: None when even that cannot be read.
    task_id: str | None
    reason: str

    def __str__(self) -> str:
        return f"dropped a report of task {self.task_id!r} that cannot be read: {self.reason}"


@dataclass(frozen=True, slots=True)
class QueueLost(Event):
    """The queue of this process was deleted, or has expired; it is declared anew. What was in it is gone."""

    queue: str

    def __str__(self) -> str:
        return f"the queue {self.queue} was gone, and is declared anew"


@dataclass(frozen=True, slots=True)
class Unconfirmed(Event):
    """``close`` gave up results that the broker had not confirmed; their stores failed with ``BackendClosed``."""

    results: int
    reason: str

    def __str__(self) -> str:
        return f"closed with {self.results} results unconfirmed: {self.reason}"


@dataclass(frozen=True, slots=True)
class QueuesLeft(Event):
    """``close`` gave up deleting queues that nobody needs any more: of results that were taken, or its own inbox."""

    reason: str

    def __str__(self) -> str:
        return f"closed before every queue was deleted that is not needed any more, they expire: {self.reason}"


OnEvent = Callable[[Event], object]


class Events:
    """Logs each event, and hands it to the operator's callback.

    Args:
        on_event: called in the event loop, must not block; what it raises is logged, and disturbs nothing.
    """

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event: Final = on_event

    def emit(self, event: Event) -> None:
        """Tell of an event."""
        logger.log(event.level, "%s", event)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("on_event failed for %s", type(event).__name__)
