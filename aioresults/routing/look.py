"""A look into a queue: read to its end, with everything put back but what the caller takes."""

from __future__ import annotations

from contextlib import suppress

from aioresults.errors import BacklogLimitExceeded, DecodeError, NotFound
from aioresults.messaging import Message, Queue
from aioresults.results import ResultMeta
from aioresults.serialization import ReportCodec
from aioresults.waiting.memory import Precedence


class Look:
    """What one look into a queue found: for each task the report that counts, or why none of its reports can be read.

    Reports that the one that counts has replaced are acknowledged. What cannot be read is left for others to read.

    """

    def __init__(self, codec: ReportCodec, precedence: Precedence) -> None:
        self._codec = codec
        self._precedence = precedence
        self._reports: dict[str, tuple[Message, ResultMeta]] = {}
        self._set_aside: list[Message] = []
        #: By task, as far as a message that cannot be read says whose it is (else ``""``).
        self.unreadable: dict[str, DecodeError] = {}

    async def read(self, queue: Queue, task_id: str, limit: int) -> None:
        """Read a queue to its end; where there is no queue, nothing is found, and nothing is declared.

        Args:
            queue: bound to a channel that nothing else uses meanwhile.

        Raises:
            BacklogLimitExceeded: the queue holds ``limit`` messages or more; names ``task_id``.
        """
        with suppress(NotFound):
            for _ in range(limit):
                if (message := await queue.get()) is None:
                    return
                self._sort(message)
            raise BacklogLimitExceeded(task_id, limit)

    def _sort(self, message: Message) -> None:
        try:
            new = self._codec.read(message)
        except DecodeError as error:
            if error.is_readable_elsewhere:
                self.unreadable.setdefault(error.task_id or "", error)
            self._set_aside.append(message)
            return
        before, old = self._reports.get(new.task_id, (None, None))
        if old is None or self._precedence.supersedes(new.status, old.status):
            self._reports[new.task_id] = message, new
            if before is not None:
                before.ack()
        else:
            message.ack()

    async def put_back(self, queue: Queue) -> None:
        """Return to the queue what was not taken, and wait until it is there for whoever looks next."""
        reports = [message for message, _ in self._reports.values()]
        messages = [message for message in (*self._set_aside, *reports) if not message.acknowledged]
        for message in messages:
            message.requeue()
        if messages:
            with suppress(NotFound):
                await queue.declare(passive=True)

    @property
    def task_ids(self) -> list[str]:
        """The tasks of which there are readable reports in the queue."""
        return list(self._reports)

    def report(self, task_id: str) -> ResultMeta | None:
        """Return the report of a task that counts; None when there is none.

        Raises:
            DecodeError: nothing that the queue holds of this task can be read.
        """
        if task_id in self._reports:
            return self._reports[task_id][1]
        error = self.unreadable.get(task_id)
        if error is not None:
            raise error
        return None

    def only_report(self, task_id: str) -> ResultMeta | None:
        """Return the same, of a queue that is this task's alone: what cannot be read there is of this task, too."""
        meta = self.report(task_id)
        if meta is None:
            for error in self.unreadable.values():
                raise error
        return meta

    def take(self, task_id: str) -> None:
        """Acknowledge the report of a task that counts, if there is one."""
        if task_id in self._reports:
            self._reports[task_id][0].ack()
