"""Many documents in one body: ``(length, task id, length, document)*``, lengths as 32-bit big-endian numbers.

Reading needs no decoding, so an index can take the documents out as they are, and a corrupt document costs only
its own result.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from aioresults.errors import DecodeError, EncodeError

MEDIA_TYPE: Final = "application/x-aioresults-batch"
CONTENT_TYPE: Final = f"{MEDIA_TYPE}; v=1"
CONTENT_ENCODING: Final = "binary"

MAX_DOCUMENTS: Final = 65_536
"""More than any writer coalesces; keeps a body of empty documents from becoming millions of objects."""

_LENGTH: Final = struct.Struct(">I")


def frame(documents: Sequence[tuple[str, bytes]]) -> bytes:
    """Return one body for ``(task id, document)`` pairs, at most ``MAX_DOCUMENTS`` of them."""
    if len(documents) > MAX_DOCUMENTS:
        raise ValueError(f"{len(documents)} documents are more than a batch may hold ({MAX_DOCUMENTS})")
    pack = _LENGTH.pack
    pieces: list[bytes] = []
    for task_id, document in documents:
        try:
            name = task_id.encode()
        except UnicodeEncodeError as error:
            raise EncodeError("a task id is not text that can be written") from error
        pieces += pack(len(name)), name, pack(len(document)), document
    return b"".join(pieces)


def unframe(body: bytes) -> list[tuple[str, bytes]]:
    """Return the ``(task id, document)`` pairs of ``body``; DecodeError when it does not end where a frame ends."""
    unpack, size, total = _LENGTH.unpack_from, _LENGTH.size, len(body)
    documents: list[tuple[str, bytes]] = []
    end = 0
    try:
        while end < total:
            start = end + size
            middle = start + unpack(body, end)[0]
            document = middle + size
            end = document + unpack(body, middle)[0]
            if end > total:
                raise DecodeError("the batch is truncated")
            if len(documents) == MAX_DOCUMENTS:
                raise DecodeError(f"a batch of more than {MAX_DOCUMENTS} documents")
            documents.append((body[start:middle].decode(), body[document:end]))
    except struct.error as error:
        raise DecodeError("the batch is truncated") from error
    except UnicodeDecodeError as error:
        raise DecodeError("a task id in a batch is not utf-8 text") from error
    return documents
