"""The reading half of a lifetime: what brings results in, and what looks for them, for each kind of routing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aioresults.background.drain import Drain
from aioresults.background.hooks import Hooks
from aioresults.background.inbox import Inbox
from aioresults.background.lookup import Lookup
from aioresults.background.outbox import Outbox
from aioresults.background.sessions import Session, Sessions
from aioresults.background.stream import TOMBSTONE, StreamLookup, Tail
from aioresults.errors import AioResultsError
from aioresults.events import Emit
from aioresults.results import ResultMeta
from aioresults.serialization.report_codec import ReportCodec
from aioresults.stored import Stored
from aioresults.waiting.waiters import Waiters


class Reader(Protocol):
    """Brings in results, from session to session."""

    async def start(self, session: Session) -> None:
        """Do what must be done before the session is used."""
        ...

    async def caught_up(self, timeout: float) -> None:
        """Return when what was stored before is here, if it is all to be here; at the latest after so many seconds."""
        ...

    async def run(self, session: Session) -> None:
        """Work until the session is lost, or until cancelled."""
        ...

    async def finish(self, session: Session) -> None:
        """Do what is left to do when the backend is closed."""
        ...

    @property
    def has_to_delete(self) -> bool:
        """Whether there are queues that ``finish`` deletes."""
        ...

    async def stop(self, error: AioResultsError) -> None:
        """End what goes on beside ``run``; who waits for it gets ``error``."""
        ...

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures: at least how many queues are consumed, and what came, came twice, and could not be read."""
        ...


class Looks(Protocol):
    """Answers what is known now."""

    async def latest(self, task_id: str, backlog_limit: int) -> ResultMeta | None:
        """Return the report that counts, without consuming it."""
        ...

    async def take(self, task_id: str) -> ResultMeta:
        """Look once, and take the ready report that is there."""
        ...

    async def take_ready(self, task_ids: Sequence[str]) -> list[ResultMeta]:
        """Look once for each task, and take the ready reports that are there."""
        ...

    async def delete(self, task_id: str) -> None:
        """Delete what the broker holds of a task."""
        ...


def reading(
    hooks: Hooks,
    sessions: Sessions,
    waiters: Waiters,
    reports: ReportCodec,
    outbox: Outbox,
    *,
    keeps_inbox: bool,
    reads: bool,
    rpc_timeout: float,
    emit: Emit,
) -> tuple[Reader, Looks]:
    """Return what reads results where this routing has them.

    Args:
        keeps_inbox: whether the inbox, if there is one, outlives the backend.
        reads: whether anything is consumed.
        emit: is told what happens.
    """
    stream, inbox = hooks.stream(), hooks.inbox()
    if stream is not None:

        def forget(task_id: str) -> Stored:
            tombstone = Stored(task_id, task_id, TOMBSTONE, None)
            outbox.put(stream.queue.name, tombstone)
            return tombstone

        tail = Tail(
            stream, waiters, reports, sessions, forget,
            consumer=hooks.Consumer, producer=hooks.Producer, rpc_timeout=rpc_timeout, emit=emit,
        )  # fmt: skip
        return tail, StreamLookup(tail, reads=reads, rpc_timeout=rpc_timeout)
    reader: Inbox | Drain
    if inbox is not None:
        reader = Inbox(inbox, waiters, reports, keep=keeps_inbox, consumer=hooks.Consumer, emit=emit)
    else:
        reader = Drain(waiters, hooks.queue_for, reports.read, hooks.Consumer, emit)
    return reader, Lookup(
        sessions,
        waiters,
        hooks.queue_for,
        reports.read,
        reader.deletion,
        reader.forgetting,
        rpc_timeout=rpc_timeout,
        emit=emit,
    )
