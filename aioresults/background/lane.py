"""Reports on their way to one routing key."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container
from typing import Final

from aioresults.messaging import OutgoingMessage
from aioresults.stored import Stored

#: How many reports travel in one message: more saves nothing, and delays the first of them.
MAX_BATCH_COUNT: Final = 300


class Lane:
    """What goes to one routing key: the batch in flight, and what waits behind it."""

    __slots__ = ("coalesces", "in_flight", "is_retrying", "message", "routing_key", "task", "timer", "waiting")

    def __init__(self, routing_key: str, coalesces: bool) -> None:
        self.routing_key = routing_key
        self.coalesces = coalesces
        self.waiting: deque[Stored] = deque()
        self.in_flight: list[Stored] = []
        #: Whether what is in flight has failed before.
        self.is_retrying = False
        #: What is in flight, as it is published; published again, it is known by its id.
        self.message: OutgoingMessage | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.waiting) + len(self.in_flight)

    def is_lone_beside(self, task_id: str) -> bool:
        """Whether all there is in this lane is one report in flight, of another task, that has not failed."""
        return (
            len(self.in_flight) == 1
            and not self.waiting
            and not self.is_retrying
            and self.in_flight[0].task_id != task_id
        )

    def load(self, max_bytes: int, held: Container[str] = ()) -> int:
        """Put the next batch in flight; return how many reports were withdrawn, their callers having left.

        The batch ends before a report of a task in ``held``, which may leave it empty.
        """
        batch: list[Stored] = []
        size, most = 0, MAX_BATCH_COUNT if self.coalesces else 1
        waiting, before = self.waiting, len(self.waiting)
        while waiting and len(batch) < most:
            report = waiting.popleft()
            if report.done():
                continue
            size += len(report.document)
            if (size > max_bytes and batch) or report.task_id in held:
                waiting.appendleft(report)
                break
            batch.append(report)
        self.in_flight, self.message = batch, None
        return before - len(waiting) - len(batch)

    def withdraw(self) -> int:
        """Take out of flight the reports whose callers have left; return how many."""
        kept = [report for report in self.in_flight if not report.done()]
        withdrawn = len(self.in_flight) - len(kept)
        if withdrawn:
            self.in_flight, self.message = kept, None
        return withdrawn

    def unload(self, keep: int) -> None:
        """Leave the first ``keep`` reports in flight, and let the others wait again, in order."""
        if keep < len(self.in_flight):
            self.waiting.extendleft(reversed(self.in_flight[keep:]))
            self.in_flight, self.message = self.in_flight[:keep], None
