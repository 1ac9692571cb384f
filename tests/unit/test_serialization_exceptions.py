"""Exceptions on the wire: what is rebuilt, what stays a record, and that nothing of it ever raises."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from aioresults.errors import ConfigurationError, RemoteError, RemoteTraceback, TaskRevoked
from aioresults.results import ResultMeta
from aioresults.serialization import ReportCodec, Serializers
from aioresults.serialization.exceptions import read_exception, write_exception


class AppError(Exception):
    class Inner(ValueError):
        pass


class Demanding(Exception):
    def __init__(self, *, detail: str) -> None:
        super().__init__(detail)


class Strange(Exception):
    def __new__(cls, *args: object) -> Any:
        return "not an exception"


def failure(value: Any, status: str = "FAILURE", serializers: Serializers | None = None) -> Any:
    """What a report of Celery with that result is read as."""
    codec = ReportCodec(serializers=serializers)
    body = json.dumps({"status": status, "result": value, "task_id": "t-1"}).encode()
    return codec.read(codec.single("t-1", body)).result


def record(exc_type: Any, exc_message: Any, exc_module: Any = "builtins") -> dict[str, Any]:
    return {"exc_type": exc_type, "exc_message": exc_message, "exc_module": exc_module}


def as_record(error: RemoteError) -> tuple[Any, Any, Any]:
    return error.exc_type, error.exc_message, error.exc_module


@pytest.mark.parametrize(
    ("error", "written"),
    [
        (ValueError("a", 1), record("ValueError", ["a", 1])),
        (FileNotFoundError(2, "No such file", "x.txt"), record("FileNotFoundError", [2, "No such file"])),
        (AppError.Inner(), record("AppError.Inner", [], __name__)),
        (SystemExit(3), record("SystemExit", [3])),
        (RemoteError("E", ["x"], "m", "tb"), record("E", ["x"], "m")),
        (RemoteError("E", "text"), record("E", "text", None)),
        (RemoteError("E"), record("E", [], None)),
        (TaskRevoked("expired"), record("TaskRevokedError", ["expired"], "celery.exceptions")),
    ],
    ids=repr,
)
def test_written(error: BaseException, written: dict[str, Any]) -> None:
    assert write_exception(error) == written


@pytest.mark.parametrize(
    "error",
    [ValueError("a", 1), KeyError("k"), FileNotFoundError(2, "x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")],
    ids=repr,
)
def test_builtins_are_rebuilt(error: Exception) -> None:
    codec = ReportCodec()
    rebuilt = codec.read(codec.single("t", codec.write(ResultMeta("t", "FAILURE", error), "t"))).result
    assert type(rebuilt) is type(error)
    assert rebuilt.args == error.args


@pytest.mark.parametrize(
    "name",
    [
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "BaseException",
        "BaseExceptionGroup",
        "ExceptionGroup",
        "CancelledError",
        "StopIteration",
        "StopAsyncIteration",
        "print",
        "object",
        "NoSuchError",
        "__import__",
    ],
)
def test_what_must_not_be_raised_here_is_a_record(name: str) -> None:
    error = failure(record(name, ["x"]))
    assert isinstance(error, RemoteError)
    assert as_record(error) == (name, ["x"], "builtins")


@pytest.mark.parametrize(
    ("exc_type", "exc_message"),
    [("UnicodeDecodeError", ["x"]), ("ExceptionGroup", ["eg", "[ValueError(1)]"]), ("OSError", {"a": [1]})],
)
def test_a_builtin_that_wants_other_arguments(exc_type: str, exc_message: Any) -> None:
    error = failure(record(exc_type, exc_message))
    assert isinstance(error, OSError if exc_type == "OSError" else RemoteError)


def test_registered_classes_are_rebuilt() -> None:
    serializers = Serializers()
    before = failure(record("AppError", ["x"], __name__), serializers=serializers)
    serializers.register_exception(AppError)
    serializers.register_exception(AppError.Inner)
    serializers.register_exception(AppError, name="Renamed", module="elsewhere")
    assert isinstance(before, RemoteError)
    for name, module, cls in [
        ("AppError", __name__, AppError),
        ("AppError.Inner", __name__, AppError.Inner),
        ("Renamed", "elsewhere", AppError),
    ]:
        rebuilt = failure(record(name, ["x", 1], module), serializers=serializers)
        assert type(rebuilt) is cls
        assert rebuilt.args == ("x", 1)


def test_a_registered_class_that_will_not_be_built() -> None:
    serializers = Serializers()
    for cls in (Demanding, Strange):
        serializers.register_exception(cls)
        error = failure(record(cls.__name__, ["detail"], __name__), serializers=serializers)
        assert as_record(error) == (cls.__name__, ["detail"], __name__)


@pytest.mark.parametrize("cls", [KeyboardInterrupt, asyncio.CancelledError, int])
def test_only_exceptions_can_be_registered(cls: Any) -> None:
    with pytest.raises(ConfigurationError):
        Serializers().register_exception(cls)


def test_nothing_is_imported_because_a_message_named_it() -> None:
    code = (
        "import sys; from aioresults.serialization.exceptions import read_exception\n"
        "before = set(sys.modules)\n"
        "value = {'exc_type': 'Error', 'exc_message': [], 'exc_module': 'sqlite3'}\n"
        "print(read_exception('FAILURE', value, None, {}), set(sys.modules) - before)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "sqlite3.Error() set()\n"


def test_a_class_in_sys_modules_is_not_looked_up() -> None:
    assert isinstance(failure(record("JSONDecodeError", ["x", "y", 0], "json.decoder")), RemoteError)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (record("E", "text", "m"), ("E", "text", "m")),
        (record("E", None, "m"), ("E", None, "m")),
        ({"exc_type": "E", "exc_module": "m"}, ("E", "", "m")),
        ({"exc_type": "ValueError", "exc_message": ["x"]}, ("ValueError", ["x"], None)),
        (record("E", ["x"], ["m"]), ("E", ["x"], None)),
        (record("E", ["x"], "m") | {"more": 1}, ("E", ["x"], "m")),
        ({"x": 1}, ("Exception", {"x": 1}, None)),
        ({}, ("Exception", {}, None)),
        (record(None, ["x"]), ("Exception", record(None, ["x"]), None)),
        (record([1], ["x"]), ("Exception", record([1], ["x"]), None)),
        ("text", ("Exception", "text", None)),
        ([1, 2], ("Exception", [1, 2], None)),
        (5, ("Exception", 5, None)),
        (None, ("Exception", None, None)),
        (
            record("UnpickleableExceptionWrapper", ["m", "E", ["a"], "E('a')"], "celery.utils.serialization"),
            ("UnpickleableExceptionWrapper", ["m", "E", ["a"], "E('a')"], "celery.utils.serialization"),
        ),
    ],
    ids=repr,
)
def test_odd_shapes_are_records(value: Any, shown: tuple[Any, Any, Any]) -> None:
    error = failure(value)
    assert as_record(error) == shown
    assert failure(write_exception(error)).args == error.args
    assert str(error)


def test_a_message_that_is_a_text_is_the_argument() -> None:
    assert failure(record("ValueError", "boom")).args == ("boom",)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (record("TaskRevokedError", ["expired"], "celery.exceptions"), "expired"),
        (record("TaskRevokedError", "terminated", "celery.exceptions"), "terminated"),
        (record("TaskRevokedError", [], "celery.exceptions"), "revoked"),
        (record("TaskRevokedError", [[1]], "celery.exceptions"), "revoked"),
        ("by hand", "by hand"),
        (None, "revoked"),
        ({}, "revoked"),
    ],
    ids=repr,
)
def test_revoked(value: Any, reason: str) -> None:
    error = failure(value, "REVOKED")
    assert isinstance(error, TaskRevoked)
    assert error.reason == reason


def test_a_task_that_failed_because_another_was_revoked() -> None:
    error = failure(record("TaskRevokedError", ["expired"], "celery.exceptions"))
    assert isinstance(error, TaskRevoked)


def test_retry() -> None:
    assert failure(None, "RETRY") is None
    assert isinstance(failure(record("ValueError", ["again"]), "RETRY"), ValueError)


def test_results_of_other_states_are_not_touched() -> None:
    assert failure(record("ValueError", ["x"]), "SUCCESS") == record("ValueError", ["x"])


def test_the_remote_traceback_is_the_cause() -> None:
    for value in (record("ValueError", ["x"]), record("E", ["x"], "m")):
        error = read_exception("FAILURE", value, "Traceback: ...", {})
        assert isinstance(error, Exception)
        assert isinstance(error.__cause__, RemoteTraceback)
        assert str(error.__cause__) == "Traceback: ..."
    assert isinstance(error, RemoteError)
    assert error.traceback == "Traceback: ..."


def test_exceptions_out_of_a_pickle() -> None:
    error = ValueError("x")
    assert read_exception("FAILURE", error, None, {}) is error
    exit_ = read_exception("FAILURE", SystemExit(3), None, {})
    assert isinstance(exit_, RemoteError)
    assert as_record(exit_) == ("SystemExit", [3], "builtins")
