"""A report as Celery's dict and as ``ResultMeta``: which key is which field, and what may be missing.

Celery's keys in Celery's order. Only ``status`` must be there to read one; an optional key whose value is not of
its type is kept in ``extra`` as it came, since the result is worth more than the remark about it.
"""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from aioresults.errors import DecodeError
from aioresults.results import ResultMeta
from aioresults.serialization.exceptions import ExceptionClasses, read_exception, write_exception
from aioresults.states import EXCEPTION_STATES, READY_STATES

_OPTIONAL: Final = ("group_id", "parent_id", "name", "args", "kwargs", "worker", "retries", "queue")
"""Fields that are written only when they are set, in order."""
_NOTHING: Final = (None,) * len(_OPTIONAL)
_optional_of: Final = attrgetter(*_OPTIONAL)
_parse_date: Final = datetime.fromisoformat

_TYPES: Final[dict[str, type]] = {
    "traceback": str,
    "children": list,
    "group_id": str,
    "parent_id": str,
    "name": str,
    "args": object,
    "kwargs": object,
    "worker": str,
    "retries": int,
    "queue": str,
}


def write_report(meta: ResultMeta) -> dict[str, Any]:
    """Return ``meta`` as the dict that Celery's ``rpc`` backend would publish."""
    status, result, date_done = meta.status, meta.result, meta.date_done
    if status in EXCEPTION_STATES and isinstance(result, BaseException):
        result = write_exception(result)
    report: dict[str, Any] = {
        "status": status,
        "result": result,
        "traceback": meta.traceback,
        "children": meta.children,
        "date_done": date_done.isoformat() if date_done is not None and status in READY_STATES else None,
    }
    optional = _optional_of(meta)
    if optional != _NOTHING:
        report.update((key, value) for key, value in zip(_OPTIONAL, optional, strict=True) if value is not None)
    if meta.extra:
        for key, value in meta.extra.items():
            report.setdefault(key, value)
    report["task_id"] = meta.task_id
    return report


def read_report(report: Any, task_id: str | None, known: ExceptionClasses) -> ResultMeta:
    """Return what a decoded document says; ``task_id`` is used where it does not name its task itself.

    DecodeError when it is not a report: not a dict, or without a task id or a status.
    """
    if not isinstance(report, dict):
        raise DecodeError(f"the document is not a dict but of type {type(report).__name__}")
    take = report.pop
    named = take("task_id", None)
    if isinstance(named, str) and named:
        task_id = named
    if not task_id:
        raise DecodeError("the document names no task, and neither does its message")
    status = take("status", None)
    if not isinstance(status, str) or not status:
        raise DecodeError("the document has no status")
    meta = ResultMeta(task_id, status, take("result", None))
    extra: dict[str, Any] | None = None
    date_done = take("date_done", None)
    if date_done is not None:
        try:
            meta.date_done = date_done if isinstance(date_done, datetime) else _parse_date(date_done)
        except (TypeError, ValueError):
            extra = {"date_done": date_done}
    for key, value in report.items():
        kind = _TYPES.get(key)
        if kind is not None and (value is None or isinstance(value, kind)):
            if value is not None:
                setattr(meta, key, value)
            continue
        if not isinstance(key, str):
            raise DecodeError(f"a key of the document is not text but of type {type(key).__name__}")
        extra = {} if extra is None else extra
        extra[key] = value
    if extra is not None:
        meta.extra = extra
    if status in EXCEPTION_STATES:
        meta.result = read_exception(status, meta.result, meta.traceback, known)
    return meta
