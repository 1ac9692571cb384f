"""A look into the queue of a task: the latest report, read without being consumed."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from aioresults.errors import BacklogLimitExceeded, ConfigurationError, DecodeError, NotFound
from aioresults.messaging import Message, Queue
from aioresults.results import ResultMeta
from aioresults.waiting.memory import Precedence


class ReportReader(Protocol):
    """What reads messages."""

    def read(self, message: Message) -> ResultMeta:
        """Return what a message that holds one report says; raises ``DecodeError``."""


async def peek(
    queue: Queue, task_id: str, codec: ReportReader, precedence: Precedence, *, backlog_limit: int
) -> tuple[ResultMeta | None, str | None]:
    """Return the report that counts among those in ``queue``, or None when there is none, or no queue.

    And the id of another task that has a report there, too, or None.

    Reads on until the queue is empty. The report that counts goes back to the queue for the next reader, the other
    reports are acknowledged. What cannot be read goes back, too: another process may read it. Nothing is declared.

    Args:
        queue: bound to a channel for this look alone, which the broker closes when there is no queue.
        precedence: says which report counts.
        backlog_limit: messages that may be read; one look at an empty queue is not one of them.

    Raises:
        BacklogLimitExceeded: after ``backlog_limit`` messages the queue was not found empty.
        DecodeError: no message of the task can be read.
    """
    best: tuple[Message, ResultMeta] | None = None
    set_aside: list[Message] = []
    unreadable: DecodeError | None = None
    other: str | None = None
    try:
        for _ in range(backlog_limit):
            message = await queue.get()
            if message is None:
                break
            try:
                meta = codec.read(message)
            except DecodeError as error:
                unreadable = error
                set_aside.append(message)
                continue
            if meta.task_id != task_id:
                other = meta.task_id
                set_aside.append(message)
            elif best is None or precedence.supersedes(meta.status, best[1].status):
                if best is not None:
                    best[0].ack()
                best = message, meta
            else:
                message.ack()
        else:
            raise BacklogLimitExceeded(task_id, backlog_limit)
    except NotFound:
        return None, None
    finally:
        for message in (*set_aside, *((best[0],) if best is not None else ())):
            message.requeue()
    if set_aside or best is not None:
        # Answered when they are back in the queue: whoever looks next, in any process, finds them.
        with suppress(NotFound):
            await queue.declare(passive=True)
    if best is None and unreadable is not None:
        raise unreadable
    return best[1] if best is not None else None, other


def shared_queue(queue: str, task_id: str, other: str) -> ConfigurationError:
    """Return the error for a queue that two tasks share: whoever takes the result of one would delete the other's."""
    return ConfigurationError(
        f"the tasks {task_id!r} and {other!r} share the queue {queue!r}: rkey() must give each task a queue of its own"
    )
