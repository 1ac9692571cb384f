"""Iterating over what arrives, in callers that may be cancelled at any ``await``."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Generic, Protocol, Self, TypeVar

T = TypeVar("T")


class Listening(Protocol):
    """A wait on behalf of an iteration."""

    def join(self) -> None:
        """Begin to wait, or continue."""
        ...

    def leave(self) -> None:
        """Stop waiting: what was not taken is for others, or for the next ``join``. Twice is no error."""
        ...


class Iteration(ABC, Generic[T]):
    """One iteration over what arrives.

    Cancelling ``anext`` is safe: nothing waits until the next call, which continues where the cancelled one stopped. (A
    cancelled async generator would have ended, and its next call would report that nothing more comes.) Leaving the
    loop ends the iteration, and so does ``aclose``.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        #: What waits now. It must not refer to the iteration, which would never be collected then.
        self._listening: Listening | None = None

    @abstractmethod
    async def _next(self) -> T:
        """Return the next item, or raise ``StopAsyncIteration``. A cancelled call leaves it for the next call."""

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
        """End the iteration now. Safe to call twice.

        Example::

            reports = backend.watch(task_id)
            first = await anext(reports)
            await reports.aclose()
        """
        self._end()

    def _listen(self, listening: Listening) -> None:
        """Let ``listening`` wait from now on, unless it already does."""
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
