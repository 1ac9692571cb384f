"""A look at what is known of a task: answered from the index of the stream, and from the stream only if need be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aioresults.background.stream.tail import Tail
from aioresults.errors import ConfigurationError, ResultTimeout
from aioresults.results import ResultMeta
from aioresults.timing import fail_after


class StreamLookup:
    """The looks of ``lookup.Lookup``, at a stream. Nothing is taken: the next one who looks sees the same.

    Args:
        reads: whether this process reads the stream at all.
        rpc_timeout: seconds that a look may take beyond the deadline of its caller, though the stream goes on coming.
    """

    def __init__(self, tail: Tail, *, reads: bool, rpc_timeout: float) -> None:
        self._tail = tail
        self._reads = reads
        self._rpc_timeout = rpc_timeout

    async def latest(self, task_id: str, backlog_limit: int) -> ResultMeta | None:
        """Return the report that counts; None when there is none. There is no backlog: nothing is in a queue.

        Raises:
            ConfigurationError: this process does not read the stream.
            BrokerUnavailable, AccessRefused: as ``Tail.look``.
        """
        if not self._reads:
            raise ConfigurationError(
                "this backend is store_only: it does not read the stream, and cannot know of a result"
            )
        reports = await self._tail.look(task_id)
        return reports[-1] if reports else None

    async def take(self, task_id: str) -> ResultMeta:
        """Return the ready report of a task; ``ResultTimeout`` when there is none."""
        for meta in await self.take_ready([task_id]):
            return meta
        raise ResultTimeout(0, [task_id])

    async def take_ready(self, task_ids: Sequence[str]) -> list[ResultMeta]:
        """Return the ready reports of these tasks.

        Raises:
            BrokerUnavailable: the stream could not be read so far within ``rpc_timeout``.
        """
        async with fail_after(self._rpc_timeout, "the stream was not read to its end"):
            known = await asyncio.gather(*map(self._tail.look, task_ids))
        return [reports[-1] for reports in known if reports and reports[-1].is_ready]

    async def delete(self, task_id: str) -> None:
        """Hide what there is of a task from every reader."""
        await self._tail.forget(task_id)
