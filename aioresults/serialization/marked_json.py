"""JSON with kombu's type marks, so that Celery reads what we write and the other way round.

A value that JSON does not know is written as ``{"__type__": mark, "__value__": value}``: ``datetime``, ``date``,
``time`` (ISO text), ``decimal`` (text), ``uuid`` (``{"hex": ...}``), ``bytes`` (UTF-8 text) and ``base64``. Objects
with a method ``__json__`` are written as what that returns. NaN and the infinities are written and read as bare
words. Tuples become lists, keys of dicts become strings.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.serializer import Serializer, type_name


def _marked(mark: str, value: Any) -> dict[str, Any]:
    return {"__type__": mark, "__value__": value}


def _write_bytes(value: bytes) -> dict[str, Any]:
    try:
        return _marked("bytes", value.decode())
    except UnicodeDecodeError:
        return _marked("base64", b64encode(value).decode())


# A datetime is a date, too: the order matters.
_WRITERS: Final[tuple[tuple[type, Callable[[Any], dict[str, Any]]], ...]] = (
    (datetime, lambda value: _marked("datetime", value.isoformat())),
    (date, lambda value: _marked("date", value.isoformat())),
    (time, lambda value: _marked("time", value.isoformat())),
    (Decimal, lambda value: _marked("decimal", str(value))),
    (UUID, lambda value: _marked("uuid", {"hex": value.hex})),
    (bytes, _write_bytes),
)

_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda value: datetime.fromisoformat(value).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: UUID(hex=value["hex"]),
    "bytes": lambda value: value.encode(),
    "base64": b64decode,
}


def _write_other(value: Any) -> Any:
    """Write what JSON itself does not know: the encoder's ``default``."""
    reduce = getattr(type(value), "__json__", None)
    if reduce is not None:
        return reduce(value)
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value)
    raise EncodeError(f"json cannot write a value of type {type_name(value)}")


def _read_object(value: dict[str, Any]) -> Any:
    """Read a mark back: the decoder's ``object_hook``."""
    if len(value) != 2 or "__type__" not in value or "__value__" not in value:
        return value
    mark = value["__type__"]
    read = _READERS.get(mark) if isinstance(mark, str) else None
    if read is None:
        shown = repr(mark[:100]) if isinstance(mark, str) else f"of type {type_name(mark)}"
        raise DecodeError(f"unknown json type mark {shown}")
    try:
        return read(value["__value__"])
    except Exception as error:
        raise DecodeError(f"a json value marked {mark!r} is not one ({type(error).__name__})") from error


_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)

_encode: Final = json.JSONEncoder(default=_write_other, separators=(",", ":")).encode
_decode_plain: Final = json.JSONDecoder().decode
_decode_marked: Final = json.JSONDecoder(object_hook=_read_object).decode


def _decode(text: str) -> Any:
    # The hook costs a call for every object, and most documents hold no mark. "\u005f" is an underscore in disguise.
    if "__type__" in text or "\\u005" in text:
        return _decode_marked(text)
    return _decode_plain(text)


def _upper_bound(text: str) -> int:
    return text.count("[") + text.count("{")


def _exceeds(text: str, limit: int) -> bool:
    return _upper_bound(_STRING.sub("", text)) > limit


def json_serializer() -> Serializer:
    """Return the serializer ``json``."""
    return Serializer("json", _encode, _decode, "application/json", "utf-8", _upper_bound, _exceeds)
