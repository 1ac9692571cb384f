"""YAML through PyYAML's safe loader and dumper (``aioresults[yaml]``): for workers that already write it.

It is slow (about a megabyte a second), so accept it only where workers write it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Final

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.serializer import Serializer, type_name

_MAX_NESTING: Final = 500
"""libyaml's loader recurses on the C stack and would overflow it; Python's own stack ends near 1000 calls."""


_MAX_DIGITS: Final = 4300
"""Python's own limit for decimal numbers; YAML's sexagesimal ones (``1:30:00``) escape it, at quadratic cost."""


_MAX_NODES: Final = 1_000_000
"""Aliases let a few lines stand for billions of values."""


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
    _check(yaml, yaml.parse(text, Loader=loader))
    return yaml.load(text, Loader=loader)


def _check(yaml: Any, events: Iterator[Any]) -> None:
    """Refuse a document that would cost far more than its length, before anything is built of its events."""
    nodes = [0]  # of each open collection and, first, of the document, with aliases counted as what they stand for
    opened: list[str | None] = []  # the anchors of the open collections
    anchored: dict[str | None, int] = {}
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            nodes.append(1)
            opened.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size = nodes.pop()
            anchored[opened.pop()] = size
            nodes[-1] += size
        elif isinstance(event, yaml.AliasEvent):
            nodes[-1] += anchored.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchored[event.anchor] = 1
            nodes[-1] += 1
            if len(event.value) > _MAX_DIGITS and _is_sexagesimal(event.value):
                raise DecodeError(f"a number of more than {_MAX_DIGITS} digits")
        if len(nodes) > _MAX_NESTING:
            raise DecodeError(f"the body is nested deeper than {_MAX_NESTING} levels")
        if nodes[-1] > _MAX_NODES:
            raise DecodeError(f"the body holds more than {_MAX_NODES} values")


def _is_sexagesimal(scalar: str) -> bool:
    return ":" in scalar and not scalar.strip("0123456789:_+-.")


def _upper_bound(text: str) -> int:
    return sys.maxsize  # an alias makes a cycle in a dozen characters


def yaml_serializer() -> Serializer:
    """Return the serializer ``yaml``."""
    return Serializer("yaml", _dumps, _loads, "application/x-yaml", "utf-8", _upper_bound)
