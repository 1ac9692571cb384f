"""The properties of a message and its header table, as they stand in a content header (AMQP 0-9-1, 4.2.5 and 4.2.6).

The bytes and the values are those of pamqp, which is not used here: it makes some forty calls for the properties of one
message, and copies the rest of a table before it reads each value, so that an array of 130,900 voids costs seconds.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import Any, Final

from aioresults.errors import EncodeError
from aioresults.transport.base import Properties

logger: Final = logging.getLogger("aioresults")

_FLAGS: Final = struct.Struct(">H")
_LENGTH: Final = struct.Struct(">I")
_TIMESTAMP: Final = struct.Struct(">Q")
_DECIMAL: Final = struct.Struct(">Bi")
_FLOAT: Final = struct.Struct(">f")
#: Tables and arrays within each other that are read.
_MAX_DEPTH: Final = 100

# Strings


def write_short_string(value: str) -> bytes:
    """Return a text with its length; ``ValueError`` when that is more than a byte can say."""
    data = value.encode()
    if len(data) > 255:
        raise ValueError(f"{len(data)} bytes, and AMQP allows 255")
    return bytes((len(data),)) + data


def read_short_string(data: bytes, at: int) -> tuple[str, int]:
    """Return the text at ``at``, and where it ends.

    Bytes that are no UTF-8 are replaced: RabbitMQ passes them on, and delivers them again after each reconnect if
    they cost the connection here.
    """
    stop = at + 1 + data[at]
    if stop > len(data):
        raise ValueError("a string that is longer than its frame")
    return data[at + 1 : stop].decode(errors="replace"), stop


# Tables, written

#: The first type that holds a whole number is taken.
_INTEGERS: Final = tuple(
    (kind.encode(), struct.Struct(f">{code}").pack) for kind, code in zip("bsuIil", "bhHiIq", strict=True)
)


def write_table(values: Mapping[str, Any]) -> bytes:
    """Return a table with its length.

    Raises:
        TypeError, ValueError, AttributeError, OverflowError, struct.error: AMQP cannot carry one of the values.
    """
    return _sized(b"".join(write_short_string(name) + _write_value(values[name]) for name in sorted(values)))


def _sized(data: bytes | bytearray) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _write_value(value: Any) -> bytes:
    match value:
        case str():
            return b"S" + _sized(value.encode())
        case None:
            return b"V"
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int():
            for kind, pack in _INTEGERS:
                with suppress(struct.error):
                    return kind + pack(value)
            raise ValueError(f"{value} does not fit into 64 bits")
        case float():
            if not isfinite(value):
                raise ValueError(f"RabbitMQ closes the connection over a header that is {value}")
            return b"f" + _FLOAT.pack(value)
        case dict():
            return b"F" + write_table(value)
        case list():
            return b"A" + _sized(b"".join(map(_write_value, value)))
        case datetime():
            moment = value if value.utcoffset() is not None else value.replace(tzinfo=UTC)
            return b"T" + _TIMESTAMP.pack(int(moment.timestamp()))
        case Decimal():
            places = max(0, -int(value.as_tuple().exponent))
            return b"D" + _DECIMAL.pack(places, int(value.scaleb(places)))
        case bytearray():
            return b"x" + _sized(value)
    raise TypeError(f"AMQP has no type for {type(value).__name__}")


# Tables, read

_FIXED: Final = {ord(kind): struct.Struct(f">{code}") for kind, code in zip("tbBsuIilLfd", "?bBhHiIqqfd", strict=True)}


def _read_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    stop = _stop(data, at)
    try:
        return _read_fields(data, at + 4, stop, 0), stop
    except (ValueError, OverflowError, OSError, IndexError, struct.error) as error:
        logger.warning("the headers of a message cannot be read, and are taken for none: %s", error)
        return {}, stop


def _stop(data: bytes, at: int) -> int:
    """Return where a value ends whose length stands at ``at``."""
    stop: int = at + 4 + _LENGTH.unpack_from(data, at)[0]
    if stop > len(data):
        raise ValueError("a value that is longer than its frame")
    return stop


def _read_fields(data: bytes, at: int, stop: int, depth: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    while at < stop:
        begin = at + 1 + data[at]
        fields[data[at + 1 : begin].decode()], at = _read_value(data, begin, depth)
    if at != stop:
        raise ValueError("a value that is longer than its table")
    return fields


def _read_array(data: bytes, at: int, stop: int, depth: int) -> list[Any]:
    values = []
    while at < stop:
        value, at = _read_value(data, at, depth)
        values.append(value)
    if at != stop:
        raise ValueError("a value that is longer than its array")
    return values


def _read_value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind, at = data[at], at + 1
    if kind in _FIXED:
        form = _FIXED[kind]
        return form.unpack_from(data, at)[0], at + form.size
    match chr(kind):
        case "V" | "\x00":
            return None, at
        case "T":
            (seconds,) = _TIMESTAMP.unpack_from(data, at)
            # Beyond the year 2106 they are milliseconds.
            return datetime.fromtimestamp(seconds if seconds < 2**32 else seconds / 1000, UTC), at + 8
        case "D":
            places, digits = _DECIMAL.unpack_from(data, at)
            return Decimal(digits).scaleb(-places), at + 5
        case "S" | "x" | "A" | "F" as sized:
            stop = _stop(data, at)
            return _read_sized(sized, data, at + 4, stop, depth), stop
    raise ValueError(f"a type that AMQP does not know: {chr(kind)!r}")


def _read_sized(kind: str, data: bytes, at: int, stop: int, depth: int) -> Any:
    if kind == "S":
        try:
            return data[at:stop].decode()
        except UnicodeDecodeError:
            return data[at:stop]
    if kind == "x":
        return bytearray(data[at:stop])
    if depth == _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} tables and arrays within each other")
    return (_read_array if kind == "A" else _read_fields)(data, at, stop, depth + 1)


# Properties


_Write = Callable[[Any], bytes]
_Read = Callable[[bytes, int], tuple[Any, int]]


def _fixed(form: struct.Struct) -> tuple[_Write, _Read]:
    return form.pack, lambda data, at: (form.unpack_from(data, at)[0], at + form.size)


_SHORT_STRING: Final[tuple[_Write, _Read]] = (write_short_string, read_short_string)
_OTHERS: Final[dict[str, tuple[_Write, _Read]]] = {
    "headers": (write_table, _read_table),
    "delivery_mode": _fixed(struct.Struct(">B")),
    "priority": _fixed(struct.Struct(">B")),
    "timestamp": _fixed(_TIMESTAMP),
}
#: In the order in which they are sent, which is that of `Properties`: the first has the highest flag.
_KINDS: Final = {each.name: _OTHERS.get(each.name, _SHORT_STRING) for each in fields(Properties)}
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
            except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, struct.error) as error:
                raise EncodeError(f"a message cannot have such {name}: {error}") from error
            flags |= flag
    parts[0] = _FLAGS.pack(flags)
    return b"".join(parts)


@lru_cache(maxsize=256)
def _readers(flags: int) -> tuple[tuple[str, _Read], ...]:
    # One peer sends two or three combinations in all.
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
