"""An iteration that can be ended from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

import anyio

T = TypeVar("T")


async def until(stop: anyio.Event, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield from ``items`` until it ends or ``stop`` is set, and close it. Cancelling is safe: so it is there."""
    stopping = asyncio.create_task(stop.wait())
    async with aclosing(items):
        try:
            while (item := await _next_before(stopping, items)) is not None:
                yield item
        finally:
            stopping.cancel()


async def _next_before(stopping: asyncio.Task[None], items: AsyncGenerator[T, None]) -> T | None:
    """Return the next of ``items``, or None when there is none before ``stopping`` is done."""
    step = asyncio.create_task(_next(items))
    try:
        await asyncio.wait([step, stopping], return_when=asyncio.FIRST_COMPLETED)
        return step.result() if step.done() else None
    finally:
        step.cancel()
        with anyio.CancelScope(shield=True):  # an iterator that still runs cannot be closed
            await asyncio.wait([step])


async def _next(items: AsyncGenerator[T, None]) -> T | None:
    return await anext(items, None)
