"""Destinations that are known to be gone."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

#: Seconds between two looks whether a destination has come back.
PROBE_INTERVAL: Final = 1.0
#: Destinations that are remembered; beyond that the oldest is tried again.
MAX_GONE: Final = 10_000


class GoneDestinations(OrderedDict[str, float]):
    """The routing keys whose queues are gone, and when each is looked for again, by the clock of the event loop."""

    def add(self, routing_key: str) -> bool:
        """Remember a destination; return whether that is news."""
        is_news = routing_key not in self
        if is_news and len(self) >= MAX_GONE:
            self.popitem(last=False)
        self[routing_key] = asyncio.get_running_loop().time() + PROBE_INTERVAL
        return is_news

    def keeps_out(self, routing_key: str, *, is_ready: bool) -> bool:
        """Whether a report is not to be sent: its destination is gone, and it is not the one that looks for that."""
        looked_for = self.get(routing_key)
        if looked_for is None:
            return False
        if not is_ready or asyncio.get_running_loop().time() < looked_for:
            return True
        self.add(routing_key)
        return False
