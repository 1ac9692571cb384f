"""Reports to bytes and back: data only, bounded, and never an error outside our own tree."""

from __future__ import annotations

from aioresults.serialization.children import walk_children
from aioresults.serialization.codec import Codec
from aioresults.serialization.envelope import Document, Envelope
from aioresults.serialization.registry import Serializers

__all__ = ["Codec", "Document", "Envelope", "Serializers", "walk_children"]
