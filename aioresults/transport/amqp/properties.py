"""The properties of a message, as they stand in its content header (AMQP 0-9-1, 4.2.6.1).

Every message has some, and pamqp needs some forty calls for those of one: they are read and written here, and only what
is rare in a header table is left to it.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, Final

from pamqp import decode, encode

from aioresults.errors import EncodeError
from aioresults.transport.base import Properties

logger: Final = logging.getLogger("aioresults")

_FLAGS: Final = struct.Struct(">H")
_LENGTH: Final = struct.Struct(">I")
_TIMESTAMP: Final = struct.Struct(">Q")


def write_short_string(value: str) -> bytes:
    """Return a text with its length; ``ValueError`` when that is more than a byte can say."""
    data = value.encode()
    if len(data) > 255:
        raise ValueError(f"{len(data)} bytes, and AMQP allows 255")
    return bytes((len(data),)) + data


def _table(values: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    for name in sorted(values):
        parts += (write_short_string(name), _table_value(values[name]))
    written = b"".join(parts)
    return _LENGTH.pack(len(written)) + written


def _table_value(value: Any) -> bytes:
    if type(value) is str:
        data = value.encode()
        return b"S" + _LENGTH.pack(len(data)) + data
    if isinstance(value, dict):
        return b"F" + _table(value)
    if isinstance(value, list):
        written = b"".join(map(_table_value, value))
        return b"A" + _LENGTH.pack(len(written)) + written
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"RabbitMQ closes the connection over a header that is {value}")
    return encode.encode_table_value(value)


def _octet(value: int) -> bytes:
    return bytes((value,))


def _timestamp(value: int) -> bytes:
    return _TIMESTAMP.pack(value)


def read_short_string(data: bytes, at: int) -> tuple[str, int]:
    """Return the text at ``at``, and where it ends.

    RabbitMQ passes on what is no UTF-8, again and again after each reconnect, if it cost the connection here.
    """
    stop = at + 1 + data[at]
    return data[at + 1 : stop].decode(errors="replace"), stop


def _read_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    (length,) = _LENGTH.unpack_from(data, at)
    stop = at + 4 + length
    if stop > len(data):
        raise ValueError("a table that is longer than its frame")
    try:
        _, table = decode.field_table(data[at:stop])
    except (ValueError, OverflowError, RecursionError) as error:
        logger.warning("the headers of a message cannot be read, and are taken for none: %s", error)
        table = {}
    return dict(table), stop


def _read_octet(data: bytes, at: int) -> tuple[int, int]:
    return data[at], at + 1


def _read_timestamp(data: bytes, at: int) -> tuple[int, int]:
    return _TIMESTAMP.unpack_from(data, at)[0], at + 8


_Write = Callable[[Any], bytes]
_Read = Callable[[bytes, int], tuple[Any, int]]
_SHORT_STRING: Final[tuple[_Write, _Read]] = (write_short_string, read_short_string)
_TABLE: Final[tuple[_Write, _Read]] = (_table, _read_table)
_OCTET: Final[tuple[_Write, _Read]] = (_octet, _read_octet)
_SECONDS: Final[tuple[_Write, _Read]] = (_timestamp, _read_timestamp)

#: In the order in which they are sent: the first has the highest flag.
_KINDS: Final[dict[str, tuple[_Write, _Read]]] = {
    "content_type": _SHORT_STRING,
    "content_encoding": _SHORT_STRING,
    "headers": _TABLE,
    "delivery_mode": _OCTET,
    "priority": _OCTET,
    "correlation_id": _SHORT_STRING,
    "reply_to": _SHORT_STRING,
    "expiration": _SHORT_STRING,
    "message_id": _SHORT_STRING,
    "timestamp": _SECONDS,
    "type": _SHORT_STRING,
    "user_id": _SHORT_STRING,
    "app_id": _SHORT_STRING,
}
_WRITERS: Final = tuple((name, 1 << 15 - place, write) for place, (name, (write, _)) in enumerate(_KINDS.items()))
_MORE_FLAGS: Final = 1


def write_properties(properties: Properties) -> bytes:
    """Return the flags and the properties that are not None, nor empty text.

    Raises:
        EncodeError: AMQP cannot carry one of them.
    """
    flags, parts = 0, [b""]
    for name, flag, write in _WRITERS:
        value = getattr(properties, name)
        if value is not None and value != "":
            try:
                parts.append(write(value))
            except (TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
                raise EncodeError(f"a message cannot have such {name}: {error}") from error
            flags |= flag
    parts[0] = _FLAGS.pack(flags)
    return b"".join(parts)


@lru_cache(maxsize=256)
def _readers(flags: int) -> tuple[tuple[str, _Read], ...]:
    # Two or three combinations are all that one peer sends.
    return tuple((name, read) for place, (name, (_, read)) in enumerate(_KINDS.items()) if flags & 1 << 15 - place)


def read_properties(data: bytes, at: int) -> Properties:
    """Return the properties whose flags stand at ``at``.

    Raises:
        ValueError, IndexError, struct.error: these are none.
    """
    (flags,) = _FLAGS.unpack_from(data, at)
    if flags & _MORE_FLAGS:
        raise ValueError("more flags of properties than AMQP 0-9-1 has")
    at += 2
    properties = Properties()
    for name, read_one in _readers(flags):
        value, at = read_one(data, at)
        setattr(properties, name, value)
    return properties
