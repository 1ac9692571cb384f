"""What the parts of a backend need to know of how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aioresults import validation
from aioresults.events import Events
from aioresults.retry import RetryPolicy
from aioresults.serialization.report_codec import ReportCodec
from aioresults.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """The parameters of ``AMQPBackend`` that count beyond its constructor, each as it is explained there."""

    transport: Transport
    codec: ReportCodec
    events: Events
    retry_policy: RetryPolicy
    unroutable_policy: Sequence[float]
    expires: float | None
    store_only: bool
    max_cached_results: int
    max_unclaimed_results: int
    max_unclaimed_bytes: int
    connect_timeout: float
    rpc_timeout: float

    def __post_init__(self) -> None:
        validation.count("max_cached_results", self.max_cached_results)
        validation.count("max_unclaimed_results", self.max_unclaimed_results, 1)
        validation.count("max_unclaimed_bytes", self.max_unclaimed_bytes, 1)
        validation.seconds("connect_timeout", self.connect_timeout)
        validation.seconds("rpc_timeout", self.rpc_timeout)
