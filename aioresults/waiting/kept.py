"""A report that is kept until somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from aioresults import states
from aioresults.results import ResultMeta
from aioresults.serialization import Document

Decode = Callable[[Document], ResultMeta]
#: Status and document as a plain tuple of text and bytes, which the garbage collector leaves alone.
Packed: TypeAlias = "tuple[str, str | None, str | None, str | None, bytes] | Kept"


class Kept:
    """One report: undecoded where its document is at hand, else as it was made.

    Undecoded it takes a fraction of the memory and gives the garbage collector next to nothing to go through; and it
    is made anew for whoever asks, so that no two callers share what they may change.
    """

    __slots__ = ("_form", "status")

    def __init__(self, meta: ResultMeta, document: Document | None) -> None:
        self.status = meta.status
        self._form: ResultMeta | Document = meta if document is None else document

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

    def packed(self) -> Packed:
        """Return it in the form in which very many of them may be kept."""
        return (self.status, *self._form) if isinstance(self._form, Document) else self

    @classmethod
    def unpack(cls, packed: Packed) -> Kept:
        """Return what was packed."""
        if isinstance(packed, Kept):
            return packed
        kept = cls.__new__(cls)
        kept.status, kept._form = packed[0], Document(*packed[1:])
        return kept

    def read(self, decode: Decode) -> ResultMeta:
        """Return the report."""
        return decode(self._form) if isinstance(self._form, Document) else self._form
