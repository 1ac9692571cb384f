"""Typed results: a decoded value as a dataclass, a TypedDict, a pydantic model, or a container of these; and back.

Needs msgspec (``aioresults[typed]``), imported on first use. Unlike pydantic, msgspec takes ``typing.TypedDict`` on
Python 3.11, and has no schema to build and keep. A pydantic model validates itself, wherever it stands in a type.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from aioresults.errors import ConfigurationError, DecodeError

#: What serializers write by themselves.
_WRITTEN: Final = (bytes, datetime, date, time, Decimal, UUID)
_ENUM: Final = re.compile(r"(Invalid enum value) .*?( - at `\$.*)?", re.DOTALL)


def convert(value: Any, type: Any) -> Any:
    """Return ``value`` as a ``type``.

    What the wire does not have is made of what it has: an ISO text becomes a ``datetime``, a list a ``tuple`` or a
    ``set``, and a key that JSON turned into text becomes a number again.

    Example::

        from dataclasses import dataclass

        from aioresults.serialization import convert

        @dataclass
        class Point:
            x: int
            y: int

        assert convert([{"x": 1, "y": 2}], list[Point]) == [Point(1, 2)]

    Raises:
        DecodeError: a field does not fit; names its path, never its value.
        ConfigurationError: msgspec is missing, or cannot convert to ``type``.
    """
    try:
        import msgspec
    except ImportError as error:
        raise ConfigurationError("typed results need msgspec: install aioresults[typed]") from error
    try:
        return msgspec.convert(value, type, str_keys=True, dec_hook=_convert_class)
    except msgspec.ValidationError as error:
        problem = str(error)
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"results cannot be converted to {_name(type)}: {error}") from error
    quoted = _ENUM.fullmatch(problem)
    if quoted is not None:
        problem = "".join(filter(None, quoted.groups()))
    raise DecodeError(f"the result is not a {_name(type)}: {problem}")


def to_plain(value: Any) -> Any:
    """Return a value as the dicts, lists and scalars that ``convert`` makes the same value of.

    Dataclasses, attrs and msgspec classes, pydantic models, enums and sets, wherever they stand. Without msgspec
    (``aioresults[typed]``), or where something else stands in it, the value itself.
    """
    try:
        import msgspec
    except ImportError:
        return value
    try:
        return msgspec.to_builtins(value, builtin_types=_WRITTEN, enc_hook=_plain_class)
    except Exception:  # whatever the classes' own code may raise: the serializer says what it could not write
        return value


def _plain_class(value: Any) -> Any:
    """Return what msgspec does not know as something that it knows."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    raise TypeError(type(value).__qualname__)


def _convert_class(type: Any, value: Any) -> Any:
    """Return ``value`` as an instance of a class that msgspec does not know."""
    if hasattr(type, "model_validate"):
        return _validate(type, value)
    if isinstance(value, type):
        return value
    raise ValueError(f"Expected `{_name(type)}`, got `{value.__class__.__name__}`")


def _validate(model: Any, value: Any) -> Any:
    import pydantic

    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        # The error's own text quotes the values.
        problems = error.errors(include_url=False, include_input=False, include_context=False)
    shown = (f"{problem['msg']} - at `{'.'.join(map(str, problem['loc'])) or '$'}`" for problem in problems[:5])
    raise ValueError(f"{_name(model)}: {'; '.join(shown)}")


def _name(type: Any) -> str:
    return str(type) if hasattr(type, "__args__") else getattr(type, "__qualname__", str(type))
