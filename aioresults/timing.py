"""A deadline that speaks of the broker."""

from __future__ import annotations

import asyncio
from types import TracebackType

from aioresults.errors import BrokerUnavailable


class fail_after:  # noqa: N801  # used like a function, as asyncio.timeout is
    """Raise ``BrokerUnavailable`` when the body takes longer than ``timeout`` seconds; None for no limit.

    ``what`` begins the message: it names what did not happen in time. A ``TimeoutError`` that the body raises passes.
    """

    # Not a decorated generator: that costs more than the timer, and this is entered with every task that is sent.
    __slots__ = ("_scope", "_timeout", "_what")

    def __init__(self, timeout: float | None, what: str = "no answer from the broker") -> None:
        self._scope = asyncio.timeout(timeout)
        self._timeout = timeout
        self._what = what

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            raise BrokerUnavailable(f"{self._what} within {self._timeout:g} s") from expired
