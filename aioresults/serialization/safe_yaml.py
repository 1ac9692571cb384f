"""YAML through PyYAML's safe loader and dumper (``aioresults[yaml]``): for workers that already write it.

It is slow (about a megabyte a second), so accept it only from those who need it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.serializer import Serializer, type_name

_MAX_NESTING: Final = 500
"""libyaml's loader recurses on the C stack and would overflow it; Python's own stack ends near 1000 calls."""


def is_installed() -> bool:
    """Tell whether PyYAML can be imported."""
    return find_spec("yaml") is not None


def _dumps(value: Any) -> str:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        return str(yaml.dump(value, Dumper=dumper, allow_unicode=True, sort_keys=False))
    except yaml.representer.RepresenterError as error:
        raise EncodeError(f"yaml cannot write a value of type {type_name(error.args[-1])}") from None


def _loads(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_NESTING:
                raise DecodeError(f"the body is nested deeper than {_MAX_NESTING} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return yaml.load(text, Loader=loader)


def yaml_serializer() -> Serializer:
    """Return the serializer ``yaml``."""
    return Serializer("yaml", _dumps, _loads, "application/x-yaml", "utf-8")
