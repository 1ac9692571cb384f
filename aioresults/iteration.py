"""Iterating over what arrives, for callers that may be cancelled at any turn."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Generic, Protocol, Self, TypeVar

T = TypeVar("T")


class Listening(Protocol):
    """What waits on behalf of an iteration."""

    def join(self) -> None:
        """Begin to wait, or go on."""

    def leave(self) -> None:
        """Wait no longer: what was not taken is for others, or for the next ``join``. Twice is no error."""


class Iteration(ABC, Generic[T]):
    """One iteration over what arrives.

    Cancelling ``anext`` is safe: nothing is waited for until the next call, if there is one, which goes on where this
    one was. (An async generator would have ended, and the next call would say that nothing more comes.) Leaving the
    loop ends it, and so does ``aclose``.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        #: What waits now. It must not refer to the iteration, which would never be collected then.
        self._listening: Listening | None = None

    @abstractmethod
    async def _next(self) -> T:
        """Return what is next, or raise ``StopAsyncIteration``; cancelled, it is still there for the next call."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._is_over:
            raise StopAsyncIteration
        try:
            return await self._next()
        except asyncio.CancelledError:
            self._leave()
            raise
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """End now. Safe to call twice."""
        self._end()

    def _listen(self, listening: Listening) -> None:
        """Have ``listening`` wait from here on, unless it does."""
        if self._listening is None:
            self._listening = listening
            listening.join()

    def _leave(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.leave()

    def _end(self) -> None:
        self._is_over = True
        self._leave()

    def __del__(self) -> None:
        if self._listening is not None:
            with suppress(RuntimeError):  # the loop is closed, and what was waited for with it
                # Not at once: the garbage collector may run in any thread.
                self._loop.call_soon_threadsafe(self._listening.leave)
