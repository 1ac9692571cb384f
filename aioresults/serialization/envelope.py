"""What travels: a message with its properties, and one undecoded report out of it.

Plain values without behaviour. The backend copies an ``Envelope`` into a message and back; whoever keeps reports
undecoded (an index of a stream) keeps ``Document``. Named tuples, since both are made for every result, and a frozen
dataclass takes more than twice as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Envelope(NamedTuple):
    """The body of a message, and those of its properties that say how to read it."""

    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any]


class Document(NamedTuple):
    """One report, verified, decompressed and not yet decoded."""

    #: The task the message says it is about: the correlation id, or the id in the frame of a batch.
    task_id: str | None
    content_type: str | None
    content_encoding: str | None
    body: bytes
