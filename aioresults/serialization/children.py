"""A walk over the children that a report names: ``[[task_id, parent], [child, ...] | None]`` each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_END: Final = object()


def walk_children(children: Any) -> Iterator[str]:
    """Yield the id of every task and group in ``children``, each once, a group before its members.

    Terminates on any value: a retried task names itself as its child, and what is not of this shape is passed over.
    """
    seen: set[str] = set()
    pending = [iter(children if isinstance(children, (list, tuple)) else ())]
    while pending:
        entry = next(pending[-1], _END)
        if entry is _END:
            pending.pop()
        elif isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], (list, tuple)):
            head, members = entry
            if head and isinstance(head[0], str) and head[0] not in seen:
                seen.add(head[0])
                yield head[0]
                if isinstance(members, (list, tuple)):
                    pending.append(iter(members))
