"""One serializer: a pair of functions, what messages call it, and the limits it is held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.charset import decode_text
from aioresults.serialization.depth import is_deeper


class Serializer:
    """Writes values to bytes and reads them back, with nothing but ``EncodeError`` and ``DecodeError``.

    ``dumps`` and ``loads`` deal in ``bytes`` when ``content_encoding`` is ``binary``, else in ``str``. ``containers``
    gives, faster than a walk over the value, a number that its depth of nesting cannot exceed.
    """

    __slots__ = ("_binary", "_containers", "_dumps", "_loads", "content_encoding", "content_type", "name")

    def __init__(
        self,
        name: str,
        dumps: Callable[[Any], bytes | str],
        loads: Callable[[Any], Any],
        content_type: str,
        content_encoding: str = "utf-8",
        containers: Callable[[Any], int] = len,
    ) -> None:
        self.name = name
        self.content_type = content_type
        self.content_encoding = content_encoding
        self._dumps = dumps
        self._loads = loads
        self._containers = containers
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

    def read(self, body: bytes, content_encoding: str | None, max_depth: int) -> Any:
        """Return the value in ``body``; DecodeError for anything that is not one, or nested too deep."""
        try:
            data = body if self._binary else decode_text(body, content_encoding)
            value = self._loads(data)
            if self._containers(data) > max_depth and is_deeper(value, max_depth):
                raise DecodeError(f"the body is nested deeper than {max_depth} levels")
            return value
        except DecodeError:
            raise
        except Exception as error:  # input is hostile: parsers answer it with errors of any kind
            # The error's own text may quote the result, and our messages are logged.
            raise DecodeError(f"the body is not readable as {self.name} ({type(error).__name__})") from error


def type_name(value: object) -> str:
    """Return the qualified name of the type of ``value``, for messages."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
