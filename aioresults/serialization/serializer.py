"""One serializer: two functions, what messages call their format, and the limits that hold for what is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aioresults.errors import DecodeError, EncodeError


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """How much of a value may come out of a document."""

    #: How deep its containers may be nested.
    depth: int = 100
    #: How many containers it may have. An empty list is one byte on the wire and sixty in memory.
    containers: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Serializer:
    """Writes values to bytes and reads them back. Raises nothing but ``EncodeError`` and ``DecodeError``.

    ``Serializers.register`` makes one and explains its fields.
    """

    name: str
    dumps: Callable[[Any], bytes | str]
    loads: Callable[[Any], Any]
    content_type: str
    content_encoding: str = "utf-8"
    upper_bound: Callable[[Any], int] = len
    exceeds: Callable[[Any, int], bool] | None = None

    def write(self, value: Any) -> bytes:
        """Return ``value`` as bytes; EncodeError names the type that cannot be written."""
        try:
            data = self.dumps(value)
            return data.encode() if isinstance(data, str) else data
        except EncodeError:
            raise
        except Exception as error:  # whatever a serializer and the values' own hooks may raise
            raise EncodeError(f"{self.name} cannot write this value: {type(error).__name__}: {error}") from error

    def read(self, body: bytes, content_encoding: str | None, limits: DecodeLimits) -> Any:
        """Return the value in ``body``; DecodeError when there is none, or it is beyond a limit."""
        try:
            data = body if self.content_encoding == "binary" else decode_text(body, content_encoding)
            bound = self.upper_bound(data)
            if bound > limits.depth:
                return self._read_large(data, bound, limits)
            return self.loads(data)
        except DecodeError:
            raise
        except Exception as error:  # input is hostile: parsers answer it with errors of any kind
            # The error's own text may quote the result, and our messages are logged.
            raise DecodeError(f"the body is not readable as {self.name} ({type(error).__name__})") from error

    def _read_large(self, data: Any, bound: int, limits: DecodeLimits) -> Any:
        if bound > limits.containers and self.exceeds is not None and self.exceeds(data, limits.containers):
            raise DecodeError(f"the body holds more than {limits.containers} containers")
        value = self.loads(data)
        if is_deeper(value, limits.depth):
            raise DecodeError(f"the body is nested deeper than {limits.depth} levels")
        return value


# Text. The names of charsets are a closed list. Python's own registry of codecs is never asked: it imports modules by
# name, and holds codecs whose cost is quadratic.

#: ``binary``, or nothing at all, says nothing about a text; Celery reads these as UTF-8, too.
_UTF8: Final = frozenset({None, "", "utf-8", "utf8", "binary"})

_CHARSETS: Final = {
    "ascii": "ascii", "us-ascii": "ascii",
    "latin-1": "latin-1", "latin1": "latin-1", "iso-8859-1": "latin-1",
    "utf-16": "utf-16", "utf-16le": "utf-16-le", "utf-16-le": "utf-16-le", "utf-16be": "utf-16-be",
    "utf-16-be": "utf-16-be", "utf-32": "utf-32",
}  # fmt: skip


def known_charset(charset: str | None) -> str:
    """Return the one name of a charset that goes by several.

    Raises:
        DecodeError: it is unknown.
    """
    if charset in _UTF8:
        return "utf-8"
    name = str(charset).lower()
    codec = "utf-8" if name in _UTF8 else _CHARSETS.get(name, "")
    if not codec:
        raise DecodeError(f"unknown charset {name[:100]!r} in content_encoding")
    return codec


def decode_text(body: bytes, charset: str | None) -> str:
    """Return ``body`` as text, by the charset that a message names.

    Raises:
        DecodeError: the charset is unknown, or the bytes are not of it.
    """
    codec = known_charset(charset)
    try:
        return body.decode(codec)
    except UnicodeDecodeError as error:
        raise DecodeError(f"the body is not {codec} text (byte {error.start})") from error


# Values

_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


def is_deeper(value: Any, limit: int) -> bool:
    """Tell whether containers are nested more than ``limit`` levels deep in ``value``; a lone container is one level.

    Goes level by level, without recursion, and looks only once per level at a container that is shared. So neither
    aliases that would multiply nor a cycle (which is deeper than any limit) make it slow.
    """
    level: dict[int, Any] = {id(value): value} if isinstance(value, _CONTAINERS) else {}
    for _ in range(limit):
        inner: dict[int, Any] = {}
        for container in level.values():
            for item in container.values() if isinstance(container, dict) else container:
                if isinstance(item, _CONTAINERS):
                    inner[id(item)] = item
        if not inner:
            return False
        level = inner
    return bool(level)


def type_name(value: object) -> str:
    """Return the qualified name of the type of ``value``, for messages."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
