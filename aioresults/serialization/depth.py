"""How deep a value is nested, found without recursion."""

from __future__ import annotations

from typing import Any

_CONTAINERS = (dict, list, tuple, set, frozenset)


def is_deeper(value: Any, limit: int) -> bool:
    """Tell whether containers are nested more than ``limit`` levels deep in ``value``; a lone container is one level.

    Goes level by level, and looks only once per level at a container that is shared. So neither aliases that would
    multiply nor a cycle (which is deeper than any limit) make it slow.
    """
    level: dict[int, Any] = {id(value): value} if isinstance(value, _CONTAINERS) else {}
    for _ in range(limit):
        inner: dict[int, Any] = {}
        for container in level.values():
            for item in container.values() if isinstance(container, dict) else container:
                if isinstance(item, _CONTAINERS):
                    inner[id(item)] = item
        if not inner:
            return False
        level = inner
    return bool(level)
