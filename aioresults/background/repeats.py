"""Messages that come a second time: their ack was lost, or they were published again for want of a confirm."""

from __future__ import annotations

from typing import Final

#: Message ids that are remembered, at least; at most twice as many.
REMEMBERED: Final = 10_000


class Repeats:
    """Remembers the ids of the last messages, in two halves of which the older one goes."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._size = remembered
        self._new: set[str] = set()
        self._old: set[str] = set()

    def __contains__(self, message_id: str | None) -> bool:
        return message_id in self._new or message_id in self._old

    def note(self, message_id: str | None) -> None:
        """Remember a message that was dealt with; one without an id cannot be told from others."""
        if message_id is not None:
            self._new.add(message_id)
            if len(self._new) >= self._size:
                self._new, self._old = set(), self._new
