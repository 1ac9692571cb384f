"""What is about to be sent."""

from __future__ import annotations

from typing import NamedTuple

from aioresults.transport.base import Properties


class OutgoingMessage(NamedTuple):
    """A body and its properties, as they go over the wire; ``Producer.publish`` sends it as it is."""

    body: bytes
    properties: Properties
