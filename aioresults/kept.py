"""A report that is kept until somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable

from aioresults import states
from aioresults.results import ResultMeta
from aioresults.serialization import Document

Decode = Callable[[Document], ResultMeta]


class Kept:
    """One report: undecoded where its document is at hand, else as it was made.

    Undecoded it takes a fraction of the memory and gives the garbage collector next to nothing to go through; and it
    is made anew for whoever asks, so that no two callers share what they may change.
    """

    __slots__ = ("_form", "status")

    def __init__(self, meta: ResultMeta, document: Document | None) -> None:
        self.status = meta.status
        self._form = meta if document is None else document

    @property
    def is_ready(self) -> bool:
        """Whether the report ends a wait."""
        return self.status in states.READY_STATES

    @property
    def document(self) -> Document | None:
        """The report as it came; None where it is not kept so."""
        return self._form if isinstance(self._form, Document) else None

    @property
    def size(self) -> int:
        """How many bytes it had on the wire; 0 when nobody knows."""
        return len(self._form.body) if isinstance(self._form, Document) else 0

    def read(self, decode: Decode) -> ResultMeta:
        """Return the report."""
        return decode(self._form) if isinstance(self._form, Document) else self._form
