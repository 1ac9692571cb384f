"""The bounds of one backend: how much is kept, and how long things may take."""

from __future__ import annotations

from dataclasses import dataclass

from aioresults import validation


@dataclass(frozen=True, slots=True)
class Limits:
    """Checked when made; the fields are parameters of ``AMQPBackend``, and explained there."""

    max_cached_results: int = 10_000
    max_unclaimed_results: int = 100_000
    max_unclaimed_bytes: int = 256 * 2**20
    max_result_size: int = 16 * 2**20
    connect_timeout: float = 10.0
    rpc_timeout: float = 5.0

    def __post_init__(self) -> None:
        validation.count("max_cached_results", self.max_cached_results)
        validation.count("max_unclaimed_results", self.max_unclaimed_results, 1)
        validation.count("max_unclaimed_bytes", self.max_unclaimed_bytes, 1)
        validation.count("max_result_size", self.max_result_size, 1)
        validation.seconds("connect_timeout", self.connect_timeout)
        validation.seconds("rpc_timeout", self.rpc_timeout)
