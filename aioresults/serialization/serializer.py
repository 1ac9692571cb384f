"""One serializer: a pair of functions, what messages call it, and the limits it is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.charset import decode_text
from aioresults.serialization.depth import is_deeper


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a value may come out of a document."""

    #: How deep its containers may be nested.
    depth: int = 100
    #: How many containers it may have. An empty list is one byte on the wire and sixty in memory.
    containers: int = 1_000_000


def _never(data: Any, limit: int) -> bool:
    return False


class Serializer:
    """Writes values to bytes and reads them back, with nothing but ``EncodeError`` and ``DecodeError``.

    ``dumps`` and ``loads`` deal in ``bytes`` when ``content_encoding`` is ``binary``, else in ``str``. Of a document
    that ``loads`` would be given, ``bound`` quickly gives a number of containers that it cannot exceed, and ``exceeds``
    tells whether it really holds more than that many; without that only the depth is limited.
    """

    __slots__ = ("_binary", "_bound", "_dumps", "_exceeds", "_loads", "content_encoding", "content_type", "name")

    def __init__(
        self,
        name: str,
        dumps: Callable[[Any], bytes | str],
        loads: Callable[[Any], Any],
        content_type: str,
        content_encoding: str = "utf-8",
        bound: Callable[[Any], int] = len,
        exceeds: Callable[[Any, int], bool] = _never,
    ) -> None:
        self.name = name
        self.content_type = content_type
        self.content_encoding = content_encoding
        self._dumps = dumps
        self._loads = loads
        self._bound = bound
        self._exceeds = exceeds
        self._binary = content_encoding == "binary"

    def write(self, value: Any) -> bytes:
        """Return ``value`` as bytes; EncodeError names the type that stands in the way."""
        try:
            data = self._dumps(value)
            return data.encode() if isinstance(data, str) else data
        except EncodeError:
            raise
        except Exception as error:  # whatever a serializer and the values' own hooks may raise
            raise EncodeError(f"{self.name} cannot write this value: {type(error).__name__}: {error}") from error

    def read(self, body: bytes, content_encoding: str | None, limits: Limits) -> Any:
        """Return the value in ``body``; DecodeError for anything that is not one, or beyond a limit."""
        try:
            data = body if self._binary else decode_text(body, content_encoding)
            bound = self._bound(data)
            if bound > limits.depth:
                return self._read_large(data, bound, limits)
            return self._loads(data)
        except DecodeError:
            raise
        except Exception as error:  # input is hostile: parsers answer it with errors of any kind
            # The error's own text may quote the result, and our messages are logged.
            raise DecodeError(f"the body is not readable as {self.name} ({type(error).__name__})") from error

    def _read_large(self, data: Any, bound: int, limits: Limits) -> Any:
        if bound > limits.containers and self._exceeds(data, limits.containers):
            raise DecodeError(f"the body holds more than {limits.containers} containers")
        value = self._loads(data)
        if is_deeper(value, limits.depth):
            raise DecodeError(f"the body is nested deeper than {limits.depth} levels")
        return value


def type_name(value: object) -> str:
    """Return the qualified name of the type of ``value``, for messages."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
