"""Typed results: a decoded value as a dataclass, a TypedDict, a pydantic model, or a container of these.

Needs pydantic (``aioresults[typed]``), imported on first use.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aioresults.errors import ConfigurationError, DecodeError


def convert(value: Any, type: Any) -> Any:
    """Return ``value`` as a ``type``; DecodeError names the path of each field that does not fit, never its value.

    What the wire cannot say is taken from what it can: an ISO text becomes a ``datetime``, a list a ``tuple`` or a
    ``set``. ConfigurationError when pydantic is missing, or ``type`` is none that it can validate.
    """
    adapter, mismatch = _adapter(type)
    try:
        return adapter.validate_python(value)
    except mismatch as error:
        # The error's own text quotes the values.
        problems = error.errors(include_url=False, include_input=False, include_context=False)
    shown = "; ".join(f"{_path(problem['loc'])}: {problem['msg']}" for problem in problems[:5])
    raise DecodeError(f"the result is not a {_name(type)}: {shown}")


@lru_cache(maxsize=256)
def _adapter(type: Any) -> tuple[Any, Any]:
    """Return the validator of a type, which is costly to build, and the error it raises."""
    try:
        import pydantic
    except ImportError as error:
        raise ConfigurationError("typed results need pydantic: install aioresults[typed]") from error
    try:
        return pydantic.TypeAdapter(type), pydantic.ValidationError
    except (pydantic.PydanticUserError, NameError, TypeError) as error:
        raise ConfigurationError(f"results cannot be converted to {_name(type)}: {error}") from error


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "the value itself"


def _name(type: Any) -> str:
    return getattr(type, "__qualname__", None) or str(type)
