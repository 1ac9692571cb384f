"""Frames that name a queue, for any name that RabbitMQ takes; and properties that are written with fewer calls.

pamqp checks names twice, when a frame is made and when it is written, and refuses those with characters other than
``a-zA-Z0-9-_.:@#,/+`` and space. RabbitMQ takes any UTF-8, and a task id may be any text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from aiormq import spec
from pamqp import encode


class _AnyName:
    """Leaves the check of names to the broker."""

    def validate(self) -> None:
        """Accept everything."""


class QueueDeclare(_AnyName, spec.Queue.Declare):
    """``queue.declare``."""


class QueueBind(_AnyName, spec.Queue.Bind):
    """``queue.bind``."""


class QueueUnbind(_AnyName, spec.Queue.Unbind):
    """``queue.unbind``."""


class QueuePurge(_AnyName, spec.Queue.Purge):
    """``queue.purge``."""


class QueueDelete(_AnyName, spec.Queue.Delete):
    """``queue.delete``."""


class BasicConsume(_AnyName, spec.Basic.Consume):
    """``basic.consume``."""


class BasicGet(_AnyName, spec.Basic.Get):
    """``basic.get``."""


_FLAGS: Final = struct.Struct(">H").pack
_LENGTH: Final = struct.Struct(">I").pack


def _short_string(value: str) -> bytes:
    data = value.encode()
    if len(data) > 255:
        raise TypeError(f"a short string of {len(data)} bytes; AMQP allows 255")
    return bytes((len(data),)) + data


def _table(headers: Mapping[str, Any]) -> bytes:
    """Return what pamqp's ``field_table`` does; most headers are text."""
    parts: list[bytes] = []
    for name in sorted(headers):
        value = headers[name]
        if type(value) is str:
            data = value.encode()
            parts += (_short_string(name), b"S", _LENGTH(len(data)), data)
        else:
            parts += (_short_string(name), encode.encode_table_value(value))
    written = b"".join(parts)
    return _LENGTH(len(written)) + written


_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {"shortstr": _short_string, "table": _table}


class Properties(spec.Basic.Properties):
    """The properties of a message that is published. pamqp needs six calls for each, and four for each header."""

    _FIELDS: Final = tuple(
        (name, spec.Basic.Properties.flags[name], _WRITERS.get(kind) or partial(encode.by_type, data_type=kind))
        for name in spec.Basic.Properties.__slots__
        for kind in (spec.Basic.Properties.amqp_type(name),)
    )

    def marshal(self) -> bytes:
        """Return them as they go into a content header (AMQP 0-9-1, 4.2.6.1)."""
        flags, parts = 0, []
        for name, flag, write in self._FIELDS:
            value = getattr(self, name)
            if value is not None and value != "":
                flags |= flag
                parts.append(write(value))
        return _FLAGS(flags) + b"".join(parts)
