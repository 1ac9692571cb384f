"""The backend of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioresults import AMQPBackend
    from aioresults.transport.memory import MemoryBroker


def new_backend(broker: MemoryBroker, options: dict[str, Any]) -> AMQPBackend:
    """Return a backend on ``broker`` that is not open yet."""
    from aioresults import AMQPBackend  # not before it is needed: see the plug-in

    return AMQPBackend(broker.url, **options)
