"""Waiting for something to become true: at once when it does, and with an error when it does not in time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from time import monotonic


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within: float = 30.0) -> None:
    """Return as soon as `condition` holds; fail when it does not within so many seconds."""
    deadline = monotonic() + within
    while True:
        holds = condition()
        if await holds if inspect.isawaitable(holds) else holds:
            return
        if monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.005)
