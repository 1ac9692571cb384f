"""Errors as HTTP has them.

| raised                                                            | answered |
|-------------------------------------------------------------------|----------|
| what the task raised: its own exception, `RemoteError`, `TaskRevoked` | 502 |
| `DecodeError`, `BacklogLimitExceeded`, `StoreError`               | 502 |
| `BrokerUnavailable`, `BackendClosed`                              | 503, with `Retry-After` |
| `ResultTimeout`                                                   | 504 |
| `ResultForgotten`, `ResultEvicted`                                | 410 |

Anything else is an error of the service, and goes its usual way. So does a builtin exception of a task that came
without a traceback, where ``wait_for`` raised it: nothing tells it from one that the path function raised itself.
`wait_or_202` knows.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import HTTPException

from aioresults import (
    BackendClosed,
    BacklogLimitExceeded,
    BrokerUnavailable,
    DecodeError,
    RemoteError,
    RemoteTraceback,
    ResultEvicted,
    ResultForgotten,
    ResultTimeout,
    StoreError,
    TaskRevoked,
)
from aioresults.contrib.fastapi.models import ErrorResponse, Problem

_STATUS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...]] = (
    ((RemoteError, TaskRevoked, DecodeError, BacklogLimitExceeded, StoreError), 502),
    ((BrokerUnavailable, BackendClosed), 503),
    (ResultTimeout, 504),
    ((ResultForgotten, ResultEvicted), 410),
)

#: For ``responses=`` of path functions that wait.
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    410: {"model": ErrorResponse, "description": "The result was deleted"},
    502: {"model": ErrorResponse, "description": "The task failed"},
    503: {"model": ErrorResponse, "description": "The broker cannot be reached"},
    504: {"model": ErrorResponse, "description": "No result in time"},
}


def http_error(error: Exception, *, traceback: bool) -> HTTPException | None:
    """Return what to answer for ``error``; None when it is not about a result.

    Args:
        traceback: show the worker's.
    """
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None and isinstance(error.__cause__, RemoteTraceback):
        status = 502
    return None if status is None else answer(status, error, traceback=traceback)


def answer(status: int, error: Exception, task_id: str | None = None, *, traceback: bool = False) -> HTTPException:
    """Return ``error`` as an answer with this status."""
    problem = Problem.of(error, task_id or getattr(error, "task_id", None), traceback=traceback)
    headers = {"Retry-After": "1"} if status == 503 else None
    return HTTPException(status, detail=problem.model_dump(exclude_none=True), headers=headers)
