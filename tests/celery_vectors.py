"""The messages captured from real Celery workers (`tests/vectors`), and whether one reads as Celery's client shows it.

Where we differ on purpose a comment says `difference`, and the table in `docs/serialization.md` why.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from aioresults.errors import RemoteError, RemoteTraceback, TaskRevoked
from aioresults.results import ResultMeta, walk_children
from aioresults.serialization import Serializers

VECTORS = Path(__file__).parent / "vectors"
PICKLE = "application/x-python-serialize"
EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue")

Vector = dict[str, Any]


def vectors(name: str) -> list[Vector]:
    with (VECTORS / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def captured(*, pickled: bool) -> Iterator[tuple[str, Vector]]:
    """The vectors that have a message, each with a name of its own."""
    for name in ("celery-rpc", "celery-amqp"):
        for number, vector in enumerate(vectors(name)):
            message = vector["message"]
            if message is not None and (message["properties"]["content_type"] == PICKLE) == pickled:
                yield f"{name}-{number}-{vector['case']}-{vector['seq']}", vector


def check(meta: ResultMeta, vector: Vector) -> None:
    shown = vector["shown"]
    assert meta.task_id == vector["message"]["properties"]["correlation_id"]
    assert meta.status == shown["state"]
    assert meta.traceback == shown["traceback"]
    check_result(meta, shown)
    if shown["date_done"] is None:
        assert meta.date_done is None
    else:
        assert meta.date_done is not None
        assert meta.date_done.utcoffset() == timedelta(0)
        assert repr(meta.date_done).partition("tzinfo")[0] == shown["date_done"].partition("tzinfo")[0]
    ids = set(walk_children(meta.children))
    assert len(ids) == len(shown["children"] or ())
    assert all(child in str(shown["children"]) for child in ids)
    for key in EXTENDED:
        assert getattr(meta, key) == shown.get(key)
    wire = set(shown["meta_keys"]) - {"status", "result", "traceback", "children", "date_done", "task_id", *EXTENDED}
    assert set(meta.extra) == wire - {"group_id", "parent_id"}


def check_result(meta: ResultMeta, shown: dict[str, Any]) -> None:
    result, want = meta.result, shown["result"]
    if not isinstance(result, BaseException):
        assert type_of(result) == want["type"]
        if "json" in want:
            assert json.loads(json.dumps(result)) == want["json"]
        if not isinstance(result, (dict, set)):
            assert repr(result) == want["repr"]
        assert not meta.is_failure
        return
    if meta.traceback:
        assert isinstance(result.__cause__, RemoteTraceback)
        assert str(result.__cause__) == meta.traceback
    if isinstance(result, TaskRevoked):  # difference: our own class for a revoked task
        assert want["type"] == "celery.exceptions.TaskRevokedError"
        assert repr((result.reason,)) == want["args_repr"]
    elif isinstance(result, RemoteError) and result.exc_type == "ExceptionGroup":  # difference: it keeps its name
        assert want["type"] == "builtins.Exception"
        assert repr(result.exc_message) in shown["result"]["str"]
    elif isinstance(result, RemoteError):  # difference: a record instead of a class made up for the name
        assert want["type"].endswith(f".{result.exc_type}")
        assert [as_text(item) for item in result.exc_message] == [as_text(item) for item in args_of(want)]
        assert want["type"].startswith(("celery.", "kombu.", "billiard."))
    else:
        assert type_of(result) == want["type"]
        assert repr(result) == want["repr"]
        assert repr(result.args) == want["args_repr"]


def args_of(want: dict[str, Any]) -> list[Any]:
    return list(eval(want["args_repr"], {"__builtins__": {}}))


def as_text(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def type_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


class VectorErrors(pickle.Unpickler):
    """Finds the workers' own module of exceptions, which does not exist here, in classes made for its names."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "vt_errors":
            return type(name, (Exception,), {"__module__": module})
        if module == "vt":
            return type(name, (), {"__module__": module, "__qualname__": name})
        return super().find_class(module, name)


def with_pickle() -> Serializers:
    """Serializers that know pickle; for a child process, since what is unpickled runs."""
    serializers = Serializers()
    serializers.register("pickle", pickle.dumps, lambda data: VectorErrors(io.BytesIO(data)).load(), PICKLE, "binary")
    return serializers


def check_pickled(meta: ResultMeta, vector: Vector) -> None:
    shown = vector["shown"]
    assert meta.status == shown["state"], vector
    want = shown["result"]
    if type(meta.result).__name__ == "UnpickleableExceptionWrapper":  # difference: what was pickled is what is read
        assert want["type"] == f"{meta.result.exc_module}.{meta.result.exc_cls_name}", vector
    elif isinstance(meta.result, TaskRevoked):
        assert want["type"] == "celery.exceptions.TaskRevokedError", vector
    else:
        assert type_of(meta.result).rpartition(".")[2] == want["type"].rpartition(".")[2], vector
        if "0x" not in want["repr"] and not isinstance(meta.result, (set, frozenset, dict)):
            assert repr(meta.result) == want["repr"] or not want["type"].startswith("builtins"), vector
