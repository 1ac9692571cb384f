"""Reports to bytes and back: data only, bounded, and never an error outside our own tree."""

from __future__ import annotations

from aioresults.serialization.conversion import convert
from aioresults.serialization.registry import Serializers
from aioresults.serialization.report_codec import Document, ReportCodec

__all__ = ["Document", "ReportCodec", "Serializers", "convert"]
