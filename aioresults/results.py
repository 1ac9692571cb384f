"""What is stored and read: one state report about a task, and the request that it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from aioresults import states

__all__ = ["Request", "ResultMeta", "walk_children"]

#: What nearly every report holds besides its fields. Shared, because a dict for each report would cost 64 bytes and
#: make the garbage collector, whose work grows with what is kept, run more often.
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return NOTHING


@dataclass(slots=True)
class ResultMeta:
    """One state report about a task; the fields are those of Celery's result messages.

    Example::

        meta = await backend.get_task_meta(task_id)
        assert (meta.task_id, meta.status, meta.result) == (task_id, "SUCCESS", 42)

    ``task_id`` and ``status`` are always there. All other fields depend on the program that wrote the report.
    """

    task_id: str
    #: One of ``aioresults.states``, or a state of the user's own.
    status: str
    #: The return value; for FAILURE, RETRY and REVOKED an exception; for other states whatever was reported.
    result: Any = None
    #: The text of the remote traceback.
    traceback: str | None = None
    #: The task's children as Celery writes them, ``[[task_id, parent], [child, ...] | None]`` each.
    children: list[Any] | None = None
    #: When the task became ready; None for reports that are not ready.
    date_done: datetime | None = None
    group_id: str | None = None
    parent_id: str | None = None
    #: Celery's extended result fields.
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    #: All other content of the report, by its key.
    extra: Mapping[str, Any] = field(default_factory=_nothing)

    @classmethod
    def of(
        cls,
        task_id: str,
        result: Any,
        status: str,
        traceback: str | None = None,
        request: Any | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> ResultMeta:
        """Return the report that a worker makes now, dated when it is ready.

        Example::

            meta = ResultMeta.of("task", 42, "SUCCESS", request=Request(group="group"))
            assert meta.group_id == "group"

        Args:
            request: a ``Request``, or any object with some of its attributes; the report takes children, group and
                parent from it.
            extra: further fields, by name. Names that ``ResultMeta`` does not have go into its ``extra``.
        """
        children = getattr(request, "children", None)
        meta = cls(
            task_id,
            status,
            _plain(result),
            traceback,
            [_plain(child) for child in children] if children else [],
            datetime.now(UTC) if status in states.READY_STATES else None,
            getattr(request, "group", None),
            getattr(request, "parent_id", None),
        )
        if extra:
            meta._add(extra)
        return meta

    def _add(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if name == "children":
                self.children = None if value is None else [_plain(child) for child in value]
            elif name in _SETTABLE:
                setattr(self, name, value)
        self.extra = {name: value for name, value in fields.items() if name != "children" and name not in _SETTABLE}

    @property
    def is_ready(self) -> bool:
        """Whether this report ends a wait."""
        return self.status in states.READY_STATES

    @property
    def is_failure(self) -> bool:
        """Whether a wait that propagates raises this report as an exception."""
        return self.status in states.PROPAGATE_STATES

    def value(self, propagate: bool = True) -> Any:
        """Return the result; raise it if it is a failure and ``propagate`` is true.

        Example::

            assert ResultMeta("task", "SUCCESS", 42).value() == 42
        """
        if propagate and self.is_failure and isinstance(self.result, BaseException):
            # Without the frames of earlier callers, which a cached report would keep alive.
            raise self.result.with_traceback(None)
        return self.result


def _plain(value: Any) -> Any:
    """Return the form in which Celery writes a handle on a task, ours or Celery's; any other value as it is."""
    # Both are needed: a Decimal has an ``as_tuple`` as well.
    return value.as_tuple() if hasattr(value, "as_tuple") and hasattr(value, "id") else value


_SETTABLE = frozenset({"group_id", "parent_id", "name", "args", "kwargs", "worker", "retries", "queue"})


_END: Final = object()


def walk_children(children: Any) -> Iterator[str]:
    """Yield the id of every task and group in ``children``, each once, a group before its members.

    Example::

        meta = ResultMeta("task", "SUCCESS", children=[[["child", None], None]])
        assert list(walk_children(meta.children)) == ["child"]

    Terminates on any value: a retried task names itself as its child, and entries of another shape are skipped.
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


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker knows about the message that asked for a task: where the answer goes, and what the report says.

    Example::

        request = Request(reply_to=backend.reply_to, correlation_id=task_id)
        await backend.store_result(task_id, 42, request=request)

    Any object with some of these attributes will do instead, for example Celery's ``task.request``.
    """

    #: The address that the caller put into the task message; None when the routing needs none.
    reply_to: str | None = None
    #: The caller's correlation id; the task id when None.
    correlation_id: str | None = None
    children: list[Any] = field(default_factory=list)
    group: str | None = None
    parent_id: str | None = None
    #: The task's name (Celery's ``request.task``).
    task: str | None = None
    args: Any = None
    kwargs: Any = None
    hostname: str | None = None
    retries: int | None = None
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
