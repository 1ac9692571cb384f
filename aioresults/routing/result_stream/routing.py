"""``ResultStream``: where results go, and how the stream is declared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar, Final

from aioresults import validation
from aioresults.errors import (
    AioResultsError,
    ConfigurationError,
    InequivalentArgument,
    NotSupported,
    PreconditionFailed,
)
from aioresults.messaging import Exchange, NoCacheQueue, Queue
from aioresults.routing.base import OURS, Reader, ReaderParts, Routing, RoutingOptions
from aioresults.routing.result_stream.reader import ResultStreamReader

#: The segments of a stream, in bytes. The upper limit is RabbitMQ's. Below the lower one it accepts the stream and
#: confirms nothing: 4.3 with less than about 1,500 bytes, 3.10 with some sizes below 60.
MIN_SEGMENT: Final = 4096
MAX_SEGMENT: Final = 3_000_000_000


@dataclass(frozen=True)
class ResultStream(Routing):
    """One durable RabbitMQ stream for all results: for status pages, many readers, history.

    Example::

        async with AMQPBackend("memory://example", routing=ResultStream()) as backend:
            await backend.store_result("task", 42)
            for _ in range(2):  # again and again, in any process
                assert await backend.wait_for("task", timeout=5) == 42

    A backend that is not ``store_only`` reads the stream from its beginning, then follows its growth, and keeps an
    index of it in memory. So any process answers for any id, any number of times; nothing is consumed. The broker drops
    what is older than ``max_age``, whole segments at a time. Readers ignore what is older than ``expires``.

    Args:
        name: the name of the stream. Processes that work together use the same name and the same retention.
        max_age: seconds, or a ``timedelta``, that the broker keeps results; None for as long as the backend's
            ``expires``.
        max_length_bytes: bytes that the broker keeps; the oldest segments are dropped first. None for no limit.
        segment_bytes: bytes of one segment, from 4,096 to 3,000,000,000.
        index_bytes: bytes of the newest results that this process keeps in memory. Of older results it keeps the
            position in the stream, and reads them again when a caller asks for them.
        index_count: the number of tasks whose position is kept at least. An unknown id is searched for in the stream
            only if the stream holds more tasks.
        expires: seconds after which readers ignore a result; None for never. The backend sets it.
    """

    rereads: ClassVar[bool] = True
    knows_absence: ClassVar[bool] = True
    dated: ClassVar[bool] = True

    name: str = OURS + "results"
    max_age: float | timedelta | None = None
    max_length_bytes: int | None = None
    segment_bytes: int = 64 * 2**20
    index_bytes: int = 128 * 2**20
    index_count: int = 1_000_000
    expires: float | None = field(default=86400.0, kw_only=True)

    def __post_init__(self) -> None:
        validation.short_string("the name of a stream", validation.non_empty("the name of a stream", self.name))
        if self.max_age is not None:
            age = self.max_age.total_seconds() if isinstance(self.max_age, timedelta) else self.max_age
            if validation.seconds("max_age", age) < 1:
                raise ConfigurationError(f"max_age must be 1 second or more, not {self.max_age!r}")
        if self.max_length_bytes is not None:
            validation.count("max_length_bytes", self.max_length_bytes, 1)
        if not MIN_SEGMENT <= validation.count("segment_bytes", self.segment_bytes) <= MAX_SEGMENT:
            raise ConfigurationError(
                f"segment_bytes must be {MIN_SEGMENT} to {MAX_SEGMENT}, not {self.segment_bytes!r}"
            )
        validation.count("index_bytes", self.index_bytes, 1)
        validation.count("index_count", self.index_count, 1)

    def configured(self, options: RoutingOptions) -> ResultStream:
        """Fill in how long results are kept."""
        return replace(super().configured(options), expires=options.expires)

    @cached_property
    def _queue(self) -> Queue:
        arguments: dict[str, Any] = {"x-queue-type": "stream", "x-stream-max-segment-size-bytes": self.segment_bytes}
        age = self.max_age.total_seconds() if isinstance(self.max_age, timedelta) else self.max_age
        age = self.expires if age is None else age
        if age is not None:
            arguments["x-max-age"] = f"{math.ceil(age)}s"
        if self.max_length_bytes is not None:
            arguments["x-max-length-bytes"] = self.max_length_bytes
        return NoCacheQueue(self.name, routing_key=self.name, queue_arguments=arguments)

    def topology(self) -> Sequence[Exchange | Queue]:
        """Return the stream."""
        return (self._queue,)

    def explain(self, error: AioResultsError) -> AioResultsError:
        """Return what to do about a stream that the broker refused."""
        text = str(error)
        if isinstance(error, InequivalentArgument):
            return ConfigurationError(
                f"the queue {self.name!r} exists already, and differs in {error.argument}: asked for {error.declared}, "
                f"there is {error.existing}. Use another name, or the same settings everywhere; or delete it, with "
                "the results in it"
            )
        if "feature flag" in text or ("x-queue-type" in text and "invalid arg" in text):
            # RabbitMQ 3.10 closes the connection (541) when the flag is off.
            return NotSupported(
                "the broker has no streams: they need RabbitMQ 3.9 or newer, and the feature flag stream_queue "
                f"(rabbitmqctl enable_feature_flag stream_queue); it said: {text}"
            )
        if isinstance(error, PreconditionFailed):
            return ConfigurationError(f"the broker refuses the stream {self.name!r} as it is described: {text}")
        return error

    def destination_for(self, rkey: str, task_id: str, request: Any | None) -> tuple[str, str]:
        """Return the stream and the task id: that is what readers look for, whatever the request says."""
        return self.name, task_id

    def coalesces(self, routing_key: str) -> bool:
        """Yes: only we read it."""
        return True

    def inbox(self) -> Queue:
        """Return the stream."""
        return self._queue

    def reader(self, parts: ReaderParts) -> Reader:
        """Return what reads the stream."""
        stream = parts.overrides.inbox()
        if stream is None:
            raise ConfigurationError("inbox() of the backend returns None, and ResultStream needs a stream to read")
        return ResultStreamReader(
            parts, stream, max_age=self.expires, index_bytes=self.index_bytes, index_count=self.index_count
        )
