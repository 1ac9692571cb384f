"""The parts of a reader that is tested without a backend: what it overrides, and the settings that matter to it."""

from __future__ import annotations

from typing import Any

from aioresults.events import Events
from aioresults.retry import RetryPolicy
from aioresults.routing import ReaderParts
from aioresults.settings import BackendSettings


def parts(
    codec: Any, overrides: Any, events: Events, *, max_cached: int = 100, max_unclaimed: int = 1, max_bytes: int = 1
) -> ReaderParts:
    """Return the parts of a reader that has neither sessions nor an outbox."""
    nothing: Any = None
    settings = BackendSettings(
        transport=nothing,
        codec=codec,
        events=events,
        retry_policy=RetryPolicy(),
        unroutable_policy=(),
        expires=None,
        store_only=False,
        max_cached_results=max_cached,
        max_unclaimed_results=max_unclaimed,
        max_unclaimed_bytes=max_bytes,
        connect_timeout=10,
        rpc_timeout=10,
    )
    return ReaderParts(nothing, nothing, overrides, settings)
