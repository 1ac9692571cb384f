"""Trying again what failed for a reason that may pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from aioresults.errors import BrokerRefused, BrokerUnavailable, ChannelClosed, MessageNacked
from aioresults.retry import RetryPolicy

T = TypeVar("T")

#: Errors that may pass: with a channel from the next session, or by themselves. A confirm lost with its channel is one:
#: nobody knows, so it is published again.
TRANSIENT: Final = (BrokerUnavailable, ChannelClosed, MessageNacked)


async def retrying(attempt: Callable[[], Awaitable[T]], policy: RetryPolicy | Mapping[str, Any] | None) -> T:
    """Return what ``attempt`` returns, trying as often as ``policy`` says; then its last error is raised."""
    delays = RetryPolicy.of(policy or {}).delays()
    while True:
        try:
            return await attempt()
        except BrokerRefused:
            raise
        except TRANSIENT:
            delay = next(delays, None)
            if delay is None:
                raise
        await asyncio.sleep(delay)
