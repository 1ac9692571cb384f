"""Text out of bytes, by the charset that a message names.

The names are a closed list. Python's own registry of codecs is never asked: it imports modules by name, and holds
codecs whose cost is quadratic.
"""

from __future__ import annotations

from aioresults.errors import DecodeError

_UTF8 = frozenset({None, "", "utf-8", "utf8", "binary"})
"""``binary``, or nothing at all, says nothing about a text; Celery reads these as UTF-8, too."""

_OTHERS = {
    "ascii": "ascii",
    "us-ascii": "ascii",
    "latin-1": "latin-1",
    "latin1": "latin-1",
    "iso-8859-1": "latin-1",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16-le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-16-be": "utf-16-be",
    "utf-32": "utf-32",
}


def decode_text(body: bytes, charset: str | None) -> str:
    """Return ``body`` as text; DecodeError for an unknown charset and for bytes that are not of it."""
    codec = "utf-8"
    if charset not in _UTF8:
        name = str(charset).lower()
        codec = "utf-8" if name in _UTF8 else _OTHERS.get(name, "")
        if not codec:
            raise DecodeError(f"unknown charset {name[:100]!r} in content_encoding")
    try:
        return body.decode(codec)
    except UnicodeDecodeError as error:
        raise DecodeError(f"the body is not {codec} text (byte {error.start})") from error
