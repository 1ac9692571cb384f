"""MessagePack as Celery writes and reads it, and aware datetimes as the format's own timestamps.

Keys of any scalar type are read. An aware ``datetime`` is written as the timestamp extension (the same instant, in
UTC); a naive one is refused, since it names no instant. An extension type that is not the timestamp is refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NoReturn

import msgpack

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.serializer import Serializer, type_name

_NOT_CONTAINERS: Final = bytes(
    byte for byte in range(256) if not (0x80 <= byte <= 0x9F or byte in (0xDC, 0xDD, 0xDE, 0xDF))
)
"""Every byte that cannot be the head of a map or an array."""

_SMALL: Final = 1024  # bytes


def _refuse_value(value: Any) -> NoReturn:
    if isinstance(value, int):
        raise EncodeError("msgpack cannot write an int of more than 64 bits")
    if isinstance(value, datetime):
        raise EncodeError("msgpack cannot write a datetime without a time zone")
    raise EncodeError(f"msgpack cannot write a value of type {type_name(value)}")


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise DecodeError(f"unknown msgpack extension type {code}")


_unpack: Final = msgpack.unpackb


def _loads(body: bytes) -> Any:
    if len(body) > _SMALL:
        _check_claims(body)
    return _unpack(body, strict_map_key=False, timestamp=3, ext_hook=_refuse_extension)


def _check_claims(body: bytes) -> None:
    """Refuse a body that ends before the arrays in it do.

    An array is allocated at the length it claims, and claims can be nested, so a few bytes could ask for gigabytes.
    Skipping allocates nothing. msgpack accepts no claim beyond the length of the body, so small bodies are harmless.
    """
    scanner = msgpack.Unpacker(max_buffer_size=len(body))
    scanner.feed(body)
    scanner.skip()


def _upper_bound(body: bytes) -> int:
    return len(body.translate(None, _NOT_CONTAINERS))


def _exceeds(body: bytes, limit: int) -> bool:
    """Read the body without keeping anything of it, and stop counting at the limit."""
    _check_claims(body)
    left = iter(range(limit))

    def count(container: object) -> bool:
        next(left)
        return False

    try:
        _unpack(body, strict_map_key=False, object_hook=count, list_hook=count)
    except StopIteration:
        return True
    return False


def msgpack_serializer() -> Serializer:
    """Return the serializer ``msgpack``."""
    pack = msgpack.Packer(use_bin_type=True, datetime=True, default=_refuse_value).pack
    return Serializer("msgpack", pack, _loads, "application/x-msgpack", "binary", _upper_bound, _exceeds)
