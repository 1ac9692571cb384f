"""What clients read: the bodies of responses and events, as OpenAPI shows them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from aioresults import BrokerUnavailable, RemoteError, RemoteTraceback, ResultMeta


def _encodable(text: str) -> str:
    """Return ``text`` with what UTF-8 has no bytes for spelt out: Celery's JSON may hold half a surrogate pair."""
    return text.encode(errors="backslashreplace").decode()


Text = Annotated[str, BeforeValidator(_encodable)]


class Problem(BaseModel):
    """What went wrong."""

    error: Text = Field(description="The class of the error", examples=["ValueError"])
    message: Text
    task_id: str | None = None
    traceback: Text | None = Field(None, description="The worker's traceback, where the service shows them")

    @classmethod
    def of(cls, error: BaseException, task_id: str | None = None, *, traceback: bool = False) -> Self:
        """Describe ``error``; with ``traceback`` by the worker's traceback, too, if there is one."""
        name, message = type(error).__name__, str(error)
        if isinstance(error, RemoteError):
            name = error.exc_type
            arguments = error.exc_message if isinstance(error.exc_message, (list, tuple)) else [error.exc_message]
            message = ", ".join(map(str, arguments))
        elif isinstance(error, BrokerUnavailable):
            message = "the broker cannot be reached"  # and where it is, is for the log
        cause = error.__cause__
        shown = str(cause) if traceback and isinstance(cause, RemoteTraceback) else None
        return cls(error=name, message=message, task_id=task_id, traceback=shown)


class ErrorResponse(BaseModel):
    """The body of an error."""

    detail: Problem


class TaskStatus(BaseModel):
    """The latest report about a task."""

    task_id: str
    status: Text = Field(description="PENDING when nothing is known", examples=["PENDING", "PROGRESS", "SUCCESS"])
    ready: bool = Field(description="Whether the task has ended")
    result: Any = Field(None, description="What it returned, or what it reported on its way")
    error: Problem | None = None
    date_done: datetime | None = None
    report_id: str = Field(description="Two reports with the same one are the same: the id of events")

    @classmethod
    def of(cls, meta: ResultMeta, *, traceback: bool = False) -> Self:
        """Return a report as JSON has it: bytes as base64, what else JSON does not know as a string."""
        error = meta.result if isinstance(meta.result, BaseException) else None
        result = None if error is not None else plain(meta.result)
        problem = None if error is None else Problem.of(error, meta.task_id, traceback=traceback)
        what = to_json([meta.task_id, _encodable(meta.status), result, meta.date_done, problem])
        return cls(
            task_id=meta.task_id,
            status=meta.status,
            ready=meta.is_ready,
            result=result,
            error=problem,
            date_done=meta.date_done,
            report_id=hashlib.blake2s(what, digest_size=12).hexdigest(),
        )


def plain(value: Any) -> Any:
    """Return ``value`` as JSON has it: bytes as base64, infinities and NaN null, what else it does not know as text."""
    try:
        return _jsonable(value)
    except (UnicodeEncodeError, PydanticSerializationError):
        return _jsonable(_spelt_out(value))


def _jsonable(value: Any) -> Any:
    return to_jsonable_python(value, fallback=str, bytes_mode="base64", inf_nan_mode="null", serialize_unknown=True)


def _spelt_out(value: Any) -> Any:
    match value:
        case str():
            return _encodable(value)
        case list() | tuple():
            return [_spelt_out(item) for item in value]
        case dict():
            return {_spelt_out(key): _spelt_out(item) for key, item in value.items()}
    return value


class Accepted(BaseModel):
    """A task that goes on: ask again at ``status_url``."""

    task_id: str
    status_url: str


class Health(BaseModel):
    """How the service gets on with its broker."""

    status: Literal["ok", "unavailable"]
    sessions: int = Field(description="How often it connected")
    waiting: int = Field(description="Tasks that somebody waits for")
    unconfirmed: int = Field(description="Reports on their way to the broker")
