"""The publishes of one channel that the broker has not answered yet."""

from __future__ import annotations

import asyncio

from aioresults.errors import AioResultsError, MessageNacked, MessageReturned


class Confirms:
    """Futures of publishes, by the number that the broker counts them with on a channel with confirms.

    A message that comes back is known by its id alone; its confirm follows, and says nothing more.
    """

    def __init__(self) -> None:
        self._pending: dict[int, tuple[asyncio.Future[None], str]] = {}
        self._last = 0

    def __len__(self) -> int:
        """How many publishes are not answered."""
        return len(self._pending)

    def expect(self, message_id: str) -> asyncio.Future[None]:
        """Return what the next publish waits for."""
        self._last += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[self._last] = (future, message_id)
        return future

    def answer(self, delivery_tag: int, *, multiple: bool, ack: bool) -> None:
        """Take in a confirm, of all publishes up to ``delivery_tag`` when it is ``multiple``."""
        if multiple:
            answered = []
            for tag in self._pending:
                if tag > delivery_tag:
                    break
                answered.append(tag)
            for tag in answered:
                self._answer(tag, ack)
        elif delivery_tag in self._pending:
            self._answer(delivery_tag, ack)

    def _answer(self, tag: int, ack: bool) -> None:
        future, _ = self._pending.pop(tag)
        if future.done():
            return
        if ack:
            future.set_result(None)
        else:
            _fail(future, MessageNacked("the broker did not take the message (negative confirm)"))

    def give_back(self, message_id: str | None, error: MessageReturned) -> None:
        """Fail the publish of a message that came back; the broker returns them in order, so it is among the first."""
        for tag, (future, expected) in self._pending.items():
            if expected == message_id:
                del self._pending[tag]
                if not future.done():
                    _fail(future, error)
                return

    def fail(self, error: AioResultsError) -> None:
        """Fail what was not answered: nobody knows what became of it."""
        pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            if not future.done():
                _fail(future, error)


def _fail(future: asyncio.Future[None], error: AioResultsError) -> None:
    future.set_exception(error)
    future.exception()  # or asyncio logs it, where who waited for it is cancelled in this moment
