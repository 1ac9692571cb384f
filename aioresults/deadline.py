"""A limit of time for what the broker is asked, told as an error that callers understand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aioresults.errors import BrokerUnavailable


@asynccontextmanager
async def limited(timeout: float | None, what: str = "no answer from the broker") -> AsyncIterator[None]:
    """Raise ``BrokerUnavailable`` when the body takes longer than ``timeout`` seconds; None for no limit.

    ``what`` is what did not happen in time. A ``TimeoutError`` of the body's own passes.
    """
    try:
        async with asyncio.timeout(timeout) as scope:
            yield
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise BrokerUnavailable(f"{what} within {timeout:g} s") from error
