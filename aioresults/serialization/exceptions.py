"""Exceptions on the wire, as Celery writes them: ``{exc_type, exc_message, exc_module}``.

Reading never imports anything and never looks a class up in a module. A name in a message selects a builtin
exception or a class that the user registered; where it selects neither, a ``RemoteError`` keeps what the message said.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import Any, Final

from aioresults import states
from aioresults.errors import RemoteError, RemoteTraceback, TaskRevoked

ExceptionClasses = Mapping[tuple[str, str], type[Exception]]
"""Exception classes that may be rebuilt, by ``(exc_module, exc_type)``."""

_REVOKED: Final = ("celery.exceptions", "TaskRevokedError")

_BUILTINS: Final[dict[str, type[Exception]]] = {
    name: cls
    for name, cls in vars(builtins).items()
    # SystemExit, KeyboardInterrupt and GeneratorExit are no Exception: a message must not end the process.
    # A coroutine and a future refuse StopIteration and StopAsyncIteration with errors of their own.
    if isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, (StopIteration, StopAsyncIteration))
}


def write_exception(error: BaseException) -> dict[str, Any]:
    """Return the dict that stands for ``error`` in a document."""
    if isinstance(error, RemoteError):
        message = list(error.exc_message) if isinstance(error.exc_message, tuple) else error.exc_message
        return {"exc_type": error.exc_type, "exc_message": message, "exc_module": error.exc_module}
    if isinstance(error, TaskRevoked):
        return {"exc_type": _REVOKED[1], "exc_message": [error.reason], "exc_module": _REVOKED[0]}
    cls = type(error)
    return {"exc_type": cls.__qualname__, "exc_message": list(error.args), "exc_module": cls.__module__}


def salvage(record: dict[str, Any], can_write: Callable[[Any], bool]) -> dict[str, Any]:
    """Return ``record`` with each argument that cannot be written replaced by its ``repr``."""
    message = record["exc_message"]
    arguments = message if isinstance(message, list) else [message]
    return {**record, "exc_message": [item if can_write(item) else _safe_repr(item) for item in arguments]}


def shortened(message: Any, room: int) -> str:
    """Return at most ``room`` characters of an exception's arguments."""
    only = message[0] if isinstance(message, list) and len(message) == 1 else message
    text = only if isinstance(only, str) else _safe_repr(only)
    return text if len(text) <= room else text[: max(room - 3, 0)] + "..."


def _safe_repr(value: object) -> str:
    try:
        return repr(value).encode("utf-8", "backslashreplace").decode()
    except Exception as error:  # a __repr__ is anybody's code, and a failure must be storable whatever it does
        return f"<{type(value).__qualname__} whose repr raised {type(error).__name__}>"


def read_exception(status: str, value: Any, traceback: str | None, known: ExceptionClasses) -> BaseException | None:
    """Return the exception for ``value``, the result of a report in one of ``EXCEPTION_STATES``.

    Never raises, whatever ``value`` is. Returns None for a RETRY that gave no reason. The remote ``traceback`` becomes
    the cause of the exception.
    """
    if value is None and status == states.RETRY:
        return None
    error = TaskRevoked(_reason(value)) if status == states.REVOKED else _read_failure(value, known, traceback)
    if traceback:
        error.__cause__ = RemoteTraceback(traceback)
    return error


def _reason(value: Any) -> str:
    """Return the reason in a REVOKED report; Celery puts it into the arguments of its exception."""
    message = value.get("exc_message") if isinstance(value, dict) else value
    if isinstance(message, (list, tuple)) and message:
        message = message[0]
    return message if isinstance(message, str) and message else "revoked"


def _read_failure(value: Any, known: ExceptionClasses, traceback: str | None) -> Exception:
    if isinstance(value, Exception):  # out of a pickle, where the user registered that
        return value
    if isinstance(value, BaseException):
        value = write_exception(value)
    name = value.get("exc_type") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        # The report names no class: update_state("FAILURE", meta={"x": 1}).
        return RemoteError("Exception", value, None, traceback)
    module = value.get("exc_module")
    module = module if isinstance(module, str) else None
    message = value.get("exc_message", "")
    if (module, name) == _REVOKED:
        return TaskRevoked(_reason(value))
    return _rebuild(module, name, message, known) or RemoteError(name, message, module, traceback)


def _rebuild(module: str | None, name: str, message: Any, known: ExceptionClasses) -> Exception | None:
    """Return an instance of the class with this name, or None if there is no such class or it cannot be built."""
    if module is None:
        return None
    cls = known.get((module, name)) or (_BUILTINS.get(name) if module == "builtins" else None)
    if cls is None:
        return None
    try:
        error = cls(*message) if isinstance(message, (list, tuple)) else cls(message)
    except Exception:  # the class wants other arguments than those it keeps, or is ours and simply fails
        return None
    return error if isinstance(error, cls) else None
