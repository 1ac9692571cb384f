"""What a routing is: where results go, and how one process reads them.

A routing brings all of itself. ``Routing`` says where a report goes and what must exist for it; it makes its own
``Reader``, which consumes, looks up, takes, forgets and remembers. Both are base classes with defaults, so a routing of
one's own is one file: ``docs/architecture.md`` shows one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self

from aioresults import validation
from aioresults.errors import (
    AioResultsError,
    ConfigurationError,
    DecodeError,
    NotAReport,
    ResultTimeout,
    SignatureMismatch,
)
from aioresults.events import Dropped, Unreadable
from aioresults.messaging import Consumer, Exchange, Message, Producer, Queue
from aioresults.results import ResultMeta
from aioresults.routing.look import Look
from aioresults.serialization import Document
from aioresults.sessions.outbox import Outbox
from aioresults.sessions.sessions import Session, Sessions
from aioresults.settings import BackendSettings
from aioresults.transport import Channel
from aioresults.waiting.memory import Deduplicator, Memory, RefusedMessages
from aioresults.waiting.waiters import Waiter, Waiters

#: What the names of our own queues begin with.
OURS: Final = "aioresults."
#: Reports that one look may read.
DEFAULT_BACKLOG_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """What ``AMQPBackend`` was told about exchange and queues; None means: as the routing prefers."""

    exchange: str | None = None
    exchange_type: str | None = None
    auto_delete: bool | None = None
    persistent: bool = True
    #: Seconds after which a queue that nobody uses is deleted; None: never.
    expires: float | None = None


class Overrides(Protocol):
    """What a backend lets its subclasses override, as readers see it. Not called before the backend is opened."""

    Consumer: type[Consumer]
    Producer: type[Producer]

    def queue_for(self, task_id: str) -> Queue | None:
        """Return the queue that holds the reports of a task; None where it has none of its own."""

    def inbox(self) -> Queue | None:
        """Return the one queue that a process reads for all tasks; None where there is none."""

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it."""


@dataclass(frozen=True, slots=True)
class ReaderParts:
    """What a reader works with: the parts of one lifetime of a backend, and the backend's settings."""

    sessions: Sessions
    outbox: Outbox
    overrides: Overrides
    settings: BackendSettings

    def memory(self, *, keeps_unclaimed: bool) -> Memory:
        """Return a memory within the backend's limits.

        Args:
            keeps_unclaimed: whether reports that nobody has asked for are kept here, and not by the broker.
        """
        its = self.settings
        return Memory(
            self.overrides, its.codec, its.events,
            max_cached=its.max_cached_results,
            max_unclaimed=its.max_unclaimed_results if keeps_unclaimed else None,
            max_bytes=its.max_unclaimed_bytes,
            max_age=its.expires,
        )  # fmt: skip


class Routing(ABC):
    """Says where results go and what must exist for them, without I/O; makes the reader that brings them in.

    An immutable value. A subclass overrides ``reader``, and of the rest what differs. By itself a report goes to the
    default exchange, with the routing key of its task.
    """

    #: Whether a result that was read is still there for whoever asks next, in any process.
    rereads: ClassVar[bool] = False
    #: Whether a report can be stored only with the address that the caller put into the task message.
    needs_reply_to: ClassVar[bool] = False
    #: Whether a reader can tell that there is no report of a task anywhere.
    knows_absence: ClassVar[bool] = False
    #: Whether messages say when they were sent, for readers that tell by themselves what is too old.
    dated: ClassVar[bool] = False

    def configured(self, options: RoutingOptions) -> Self:
        """Return this routing with the backend's options filled in.

        Raises:
            ConfigurationError: an option has no meaning for this routing.
        """
        for name in ("exchange", "exchange_type", "auto_delete"):
            if getattr(options, name) is not None:
                raise ConfigurationError(
                    f"{name} has no meaning for {type(self).__name__}: it publishes to the default exchange"
                )
        return self

    # Where reports go

    @property
    def exchange(self) -> Exchange:
        """The exchange that results are published to: the default exchange."""
        return Exchange()

    def rkey(self, task_id: str) -> str:
        """Return the routing key of a task; its id, where a task has no address of its own.

        Raises:
            ConfigurationError: an id that this layout cannot hold.
        """
        return validation.short_task_id(task_id)

    def destination_for(self, rkey: str, task_id: str, request: Any | None) -> tuple[str, str]:
        """Return routing key and correlation id of a report about ``task_id``, whose own key is ``rkey``.

        By itself the task's own key, and the request's correlation id or else the task id.

        Raises:
            ConfigurationError: ``request`` does not say what must be known.
        """
        return rkey, correlation_id_of(task_id, request)

    def coalesces(self, routing_key: str) -> bool:
        """Whether many reports for this routing key may travel in one message: not where others read it."""
        return False

    # What must exist

    def topology(self) -> Sequence[Exchange | Queue]:
        """Return what must exist before a session is used: nothing."""
        return ()

    def explain(self, error: AioResultsError) -> AioResultsError:
        """Return what to raise for ``error``, with which the broker refused what is in ``topology``."""
        return error

    def queue(self, rkey: str) -> Queue | None:
        """Return the queue that holds the reports of the task with this routing key; None where it has none."""
        return None

    def inbox(self) -> Queue | None:
        """Return the one queue that a process reads for all tasks; None where there is none."""
        return None

    # Reading

    @abstractmethod
    def reader(self, parts: ReaderParts) -> Reader:
        """Return the reading half of this routing for one lifetime of a backend, from ``open`` to ``close``."""


class Reader:
    """The reading half of a routing in one process, for one lifetime of a backend.

    It brings reports in (``start``, ``run``), answers what is known now (``peek``, ``take``), and remembers what nobody
    waits for. ``deliver`` and ``refuse`` are the one way in for what was received. By itself it keeps in memory what
    nobody has asked for; a reader that leaves reports with the broker says ``keeps_unclaimed = False``.

    It is the ``Source`` of its waits: it is told when they begin and end.
    """

    #: Whether reports that nobody has asked for are kept here; otherwise the broker keeps them.
    keeps_unclaimed: ClassVar[bool] = True
    #: Messages that are acknowledged together, and seconds that one waits for the others.
    ack_count: ClassVar[int] = 20
    ack_delay: ClassVar[float] = 0.005
    #: The address that belongs into task messages; None where the routing needs none.
    reply_to: str | None = None

    def __init__(self, parts: ReaderParts) -> None:
        self.parts: Final = parts
        self.settings: Final = parts.settings
        self.memory: Final = parts.memory(keeps_unclaimed=self.keeps_unclaimed)
        self.waiters: Final = Waiters(self, parts.overrides)
        self.deduplicator: Deduplicator = Deduplicator()
        self.refusals: Final = RefusedMessages()
        #: The last message that is to be acknowledged, how many with it, and when that is done at the latest.
        self._last: Message | None = None
        self._owed = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self.received = 0
        self.repeated: int = 0
        self.undecodable: int = 0

    # From session to session

    async def start(self, session: Session) -> None:
        """Do what must be done before a session is used; by itself nothing."""

    async def caught_up(self, timeout: float) -> None:
        """Return when what was stored before is here, if it is all to be here; after ``timeout`` seconds at the latest.

        By itself at once: the broker keeps what is not here.
        """

    async def run(self, session: Session) -> None:
        """Work until the session is lost, or until cancelled; by itself only wait for that."""
        await asyncio.wait([session.lost])

    async def finish(self, session: Session) -> None:
        """Do what is left to do when the backend is closed; by itself nothing."""

    @property
    def has_to_delete(self) -> bool:
        """Whether there are queues that ``finish`` deletes."""
        return False

    async def stop(self, error: AioResultsError) -> None:
        """End what goes on beside ``run``; whoever waits for it gets ``error``. By itself nothing does."""

    # What is received

    def deliver(self, meta: ResultMeta, document: Document | None = None) -> bool:
        """Pass a report on to whoever waits, or keep it; return whether it counts."""
        self.refusals.forget(meta.task_id)
        return self.waiters.report(meta, document)

    def refuse(self, *errors: DecodeError, leave: bool) -> bool:
        """Take in that a message, or reports in it, cannot be read here; return whether it is to be left for others.

        - What this process cannot read is not this process's to destroy: it is left where others may read it, with
          other keys, serializers or limits; unless ``leave`` is false, because nobody else ever will. The waits for its
          tasks end with the error, those that begin later, too.
        - What is no report, for whoever reads it, or is not signed where signatures are asked for, is dropped.
        - Neither that, nor what is signed with an unknown key, ends a wait: the result may still come.

        The waits that time out say what was refused. One event tells of all ``errors``.
        """
        leave = leave and any(error.is_readable_elsewhere for error in errors)
        self.undecodable += len(errors)
        event = Unreadable if leave else Dropped
        self.settings.events.emit(event(errors[0].task_id, str(errors[0]), len(errors)))
        for error in errors:
            self.fail(error)
        return leave

    def fail(self, error: DecodeError) -> None:
        """End the waits for the tasks that ``error`` names, those to come as well, if their results cannot come."""
        ends_waits = not isinstance(error, (NotAReport, SignatureMismatch))
        for task_id in (*error.task_ids, *([error.task_id] if error.task_id else ())):
            self.refusals.note(task_id, error, ends_waits=ends_waits)
            if ends_waits:
                self.waiters.fail(task_id, error)

    def refused(self, task_ids: Iterable[str]) -> dict[str, str]:
        """Return how many messages of these tasks were refused, and why."""
        return self.refusals.told(task_ids)

    def is_repeated(self, message_id: str | None) -> bool:
        """Whether a message was dealt with before, and count it if so."""
        repeated = message_id in self.deduplicator
        self.repeated += repeated
        return repeated

    def acknowledge_soon(self, message: Message) -> None:
        """Acknowledge a message with those that follow on its channel: a frame for each costs a third of reading it."""
        self._last = message
        self._owed += 1
        if self._owed >= self.ack_count:
            self.acknowledge()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(self.ack_delay, self.acknowledge)

    def acknowledge(self) -> None:
        """Acknowledge all that is owed; void where the channel is closed."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._last is not None:
            self._last.ack(multiple=True)
        self._owed, self._last = 0, None

    # Waits that begin and end

    def wait_began(self, task_id: str) -> tuple[Sequence[ResultMeta], Document | None]:
        """Return what is known of a task that somebody waits for from now on."""
        if self.waiters.latest(task_id) is not None:
            return (), None  # others wait for it already, and have what was known
        claimed = self.memory.claim(task_id)
        if self.keeps_unclaimed and not (claimed is not None and claimed[0].is_ready):
            self.refusals.check(task_id)  # where the broker keeps reports, it may have another by now
        return ((), None) if claimed is None else ((claimed[0],), claimed[1])

    def wait_ended(self, task_id: str, last: ResultMeta | None, document: Document | None, *, taken: bool) -> None:
        """Remember what the last one who waited for a task leaves behind."""
        self.memory.settle(task_id, last, document, taken=taken)

    def keep(self, meta: ResultMeta, document: Document | None) -> bool:
        """Keep a report that nobody waits for; return whether it counts."""
        return self.memory.keep(meta, document)

    # Looking

    def ready(self, task_id: str) -> ResultMeta | None:
        """Return the result of a task if it was taken in this process."""
        return self.memory.ready(task_id)

    def known(self, task_id: str) -> ResultMeta | None:
        """Return the report that counts among those that this process has seen."""
        return self.waiters.latest(task_id) or self.memory.latest(task_id)

    async def peek(self, task_id: str, backlog_limit: int = DEFAULT_BACKLOG_LIMIT) -> ResultMeta | None:
        """Return the report that counts, without taking it; None when there is none. By itself: what is known here.

        Args:
            backlog_limit: reports that may be read for it, where they stand in a queue.

        Raises:
            DecodeError: there is one, and it cannot be read here.
        """
        known = self.known(task_id)
        if known is None:
            self.refusals.check(task_id)
        return known

    def learn(self, meta: ResultMeta) -> ResultMeta:
        """Take in what a look at the broker showed; return the report that counts of this and what was known."""
        known = self.known(meta.task_id)
        if known is not None and not self.waiters.supersedes(meta.status, known.status):
            return known
        if meta.task_id in self.waiters:
            self.deliver(meta)
        else:
            self.memory.see(meta)
        return meta

    async def take(self, task_ids: Sequence[str]) -> list[ResultMeta]:
        """Look once for each task, take the ready reports that are there, and return them.

        Cancelled, or when one look fails, nothing is taken. By itself: of what is here.
        """
        return [meta for task_id in task_ids if (meta := self._take_here(task_id)) is not None]

    async def take_one(self, task_id: str) -> ResultMeta:
        """Look once, and take the ready report that is there; ``ResultTimeout`` when there is none."""
        for meta in await self.take([task_id]):
            return meta
        raise ResultTimeout(0, [task_id], refused=self.refused([task_id]))

    def _take_here(self, task_id: str) -> ResultMeta | None:
        waiter = Waiter(self.waiters, task_id, None)
        try:
            if not waiter.done():
                return None
            waiter.take()
            return waiter.result()
        finally:
            waiter.leave()

    @asynccontextmanager
    async def look(self, task_id: str, limit: int = DEFAULT_BACKLOG_LIMIT) -> AsyncIterator[Look]:
        """Read the queue of a task to its end; what is not taken when the block ends goes back to it.

        Nothing is declared: where there is no queue, nothing is found. Until the block ends, no consumer and no other
        look gets what this one has: let the looks of one process wait for each other.

        Example::

            async with self.look(task_id) as found:
                report = found.report(task_id)
                found.take(task_id)

        Args:
            limit: messages that may be read.

        Raises:
            BacklogLimitExceeded: the queue holds ``limit`` messages or more.
            BrokerUnavailable: no session, or no end, within ``rpc_timeout``.

        Cancelling is safe: everything goes back.
        """
        look = Look(self.settings.codec, self.waiters)
        channel: Channel | None = None
        try:
            if (queue := self.parts.overrides.queue_for(task_id)) is not None:
                async with self.parts.sessions.within(self.settings.rpc_timeout) as session:
                    channel = await session.consumer(0)
                    await look.read(queue(channel), task_id, limit)
            yield look
        finally:
            if channel is not None:
                await channel.close()

    # Forgetting

    def discard(self, task_id: str) -> None:
        """Drop what was seen and taken of a task; those who wait for it go on waiting."""
        self.memory.discard(task_id)
        self.refusals.forget(task_id)

    def forget(self, task_id: str) -> None:
        """Drop all that this process knows of a task; those who wait for it get ``ResultForgotten``."""
        self.memory.forget(task_id)
        self.refusals.forget(task_id)
        self.waiters.forget(task_id)

    async def delete(self, task_id: str) -> None:
        """Delete what the broker holds of a task; by itself nothing: it holds nothing of one task alone."""

    # Figures

    @property
    def consuming(self) -> int:
        """How many queues are consumed."""
        return 0

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures: plain values, cheap."""
        return {
            "waiting": len(self.waiters),
            "cached": self.memory.cached,
            "unclaimed": self.memory.unclaimed,
            "unclaimed_bytes": self.memory.unclaimed_bytes,
            "evicted": self.memory.evicted,
            "late": self.memory.late,
            "redundant": self.waiters.redundant,
            "consuming": self.consuming,
            "received": self.received,
            "repeated": self.repeated,
            "undecodable": self.undecodable,
            "refused": len(self.refusals),
        }


def correlation_id_of(task_id: str, request: Any | None) -> str:
    """Return the correlation id that a request asks for, or else the task id.

    Raises:
        ConfigurationError: it is no string.
    """
    correlation_id: object = getattr(request, "correlation_id", None) or task_id
    if not isinstance(correlation_id, str):
        raise ConfigurationError(f"a correlation id must be a string, not {correlation_id!r}")
    return correlation_id


def checked(routing: object) -> Routing:
    """Return what is a routing.

    Raises:
        ConfigurationError: it is none, a class of one for example; says what it lacks.
    """
    if isinstance(routing, Routing):
        return routing
    if isinstance(routing, type):
        raise ConfigurationError(f"routing must be an instance, such as ReplyQueue(), not {routing!r}")
    missing = sorted(name for name in vars(Routing) if not name.startswith("_") and not hasattr(routing, name))
    lacks = f"; it lacks {', '.join(missing)}" if missing else ""
    raise ConfigurationError(f"routing must be a subclass of Routing, such as ReplyQueue(), not {routing!r}{lacks}")
