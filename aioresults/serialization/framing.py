"""Many documents in one body: ``(length, task id, length, document)*``, lengths as 32-bit big-endian numbers.

Reading needs no decoding, so an index can take the documents out as they are, and a corrupt document costs only
its own result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

from aioresults.errors import DecodeError, EncodeError

MEDIA_TYPE: Final = "application/x-aioresults-batch"
CONTENT_TYPE: Final = f"{MEDIA_TYPE}; v=1"
CONTENT_ENCODING: Final = "binary"

MAX_DOCUMENTS: Final = 65_536
"""More than any writer coalesces; keeps a body of empty documents from becoming millions of objects."""

_LENGTH: Final = Struct(">I")


def frame(documents: Sequence[tuple[str, bytes]]) -> bytes:
    """Return one body for ``(task id, document)`` pairs, at most ``MAX_DOCUMENTS`` of them."""
    if len(documents) > MAX_DOCUMENTS:
        raise ValueError(f"{len(documents)} documents are more than a batch may hold ({MAX_DOCUMENTS})")
    return b"".join(_pieces(documents))


def _pieces(documents: Iterable[tuple[str, bytes]]) -> Iterable[bytes]:
    pack = _LENGTH.pack
    for task_id, document in documents:
        try:
            name = task_id.encode()
        except UnicodeEncodeError as error:
            raise EncodeError("a task id is not text that can be written") from error
        yield pack(len(name))
        yield name
        yield pack(len(document))
        yield document


def unframe(body: bytes) -> list[tuple[str, bytes]]:
    """Return the ``(task id, document)`` pairs of ``body``; DecodeError when it does not end where a frame ends."""
    documents: list[tuple[str, bytes]] = []
    position = 0
    while position < len(body):
        name, position = _piece(body, position)
        document, position = _piece(body, position)
        if len(documents) == MAX_DOCUMENTS:
            raise DecodeError(f"a batch of more than {MAX_DOCUMENTS} documents")
        try:
            documents.append((name.decode(), document))
        except UnicodeDecodeError as error:
            raise DecodeError("a task id in a batch is not utf-8 text") from error
    return documents


def _piece(body: bytes, position: int) -> tuple[bytes, int]:
    start = position + _LENGTH.size
    if start > len(body):
        raise DecodeError("the batch is truncated")
    end = start + _LENGTH.unpack_from(body, position)[0]
    if end > len(body):
        raise DecodeError("the batch is truncated")
    return body[start:end], end
