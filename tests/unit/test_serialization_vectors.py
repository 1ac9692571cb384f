"""Every message captured from real Celery workers (`tests/vectors`) reads as Celery's own client shows it.

Where we differ on purpose, `expected` says so, and the table in `docs/serialization.md` why.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import tests
from aioresults.errors import DecodeError, RemoteError, RemoteTraceback, TaskRevoked
from aioresults.results import ResultMeta
from aioresults.serialization import Codec, Envelope, Serializers, walk_children

VECTORS = Path(tests.__file__).parent / "vectors"
PICKLE = "application/x-python-serialize"
EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue")

Vector = dict[str, Any]


def vectors(name: str) -> list[Vector]:
    with (VECTORS / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def captured(*, pickled: bool) -> Iterator[Any]:
    for name in ("celery-rpc", "celery-amqp"):
        for number, vector in enumerate(vectors(name)):
            message = vector["message"]
            if message is not None and (message["properties"]["content_type"] == PICKLE) == pickled:
                yield pytest.param(vector, id=f"{name}-{number}-{vector['case']}-{vector['seq']}")


def read(codec: Codec, vector: Vector) -> ResultMeta:
    properties = vector["message"]["properties"]
    envelope = Envelope(
        base64.b64decode(vector["message"]["body_b64"]),
        properties["content_type"],
        properties["content_encoding"],
        properties["headers"],
    )
    [document] = codec.open(envelope, properties["correlation_id"])
    return codec.decode(document)


@pytest.mark.parametrize("vector", list(captured(pickled=False)))
def test_captured_message(vector: Vector) -> None:
    codec = Codec(accept=["json", "msgpack", "yaml"])
    shown = vector["shown"]
    if "get_task_meta_raises" in shown and "int is not allowed for map key" in str(shown):
        assert read(codec, vector).result == {1: "t", None: "none", 2.5: "f"}  # difference: msgpack keys
        return
    if "get_task_meta_raises" in shown:
        assert shown["get_task_meta_raises"]["type"] == "kombu.exceptions.DecodeError"
        with pytest.raises(DecodeError, match="unknown json type mark 'unknown'"):
            read(codec, vector)
        return
    check(read(codec, vector), vector)


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


def test_nothing_was_left_out() -> None:
    messages = [*captured(pickled=False), *captured(pickled=True)]
    silent = [vector for name in ("celery-rpc", "celery-amqp") for vector in vectors(name) if vector["message"] is None]
    assert len(messages) + len(silent) + len(vectors("celery-calls")) == 496


def answers() -> Iterator[Any]:
    for vector in vectors("celery-calls"):
        for number, reply in enumerate(vector.get("replies") or ()):
            body = reply.get("body", reply)
            yield pytest.param(body, reply.get("correlation_id"), id=f"{vector['case']}-{number}")


@pytest.mark.parametrize(("body", "correlation_id"), list(answers()))
def test_answer_to_a_call(body: dict[str, Any], correlation_id: str | None) -> None:
    codec = Codec()
    [document] = codec.open(Envelope(json.dumps(body).encode(), "application/json", "utf-8", {}), correlation_id)
    meta = codec.decode(document)
    assert meta.task_id == (body["task_id"] or correlation_id)
    assert meta.status == body["status"]
    assert (meta.group_id, meta.parent_id) == (body.get("group_id"), body.get("parent_id"))
    if meta.status == "SUCCESS":
        assert meta.result == body["result"]
    elif meta.status == "REVOKED":
        assert isinstance(meta.result, TaskRevoked)
        assert [meta.result.reason] == body["result"]["exc_message"]
    elif isinstance(meta.result, BaseException):
        message = meta.result.exc_message if isinstance(meta.result, RemoteError) else meta.result.args
        assert list(message) == body["result"]["exc_message"]
    else:
        assert meta.result == body["result"]


def test_pickles_read_as_shown_where_pickle_was_registered() -> None:
    """In a child process: what is unpickled runs."""
    child = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, timeout=50)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) == len(list(captured(pickled=True)))


class VectorErrors(pickle.Unpickler):
    """Finds the workers' own module of exceptions, which does not exist here, in classes made for its names."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "vt_errors":
            return type(name, (Exception,), {"__module__": module})
        if module == "vt":
            return type(name, (), {"__module__": module, "__qualname__": name})
        return super().find_class(module, name)


def read_pickles() -> int:
    serializers = Serializers()
    serializers.register("pickle", pickle.dumps, lambda data: VectorErrors(io.BytesIO(data)).load(), PICKLE, "binary")
    codec = Codec(serializers=serializers, accept=["pickle"])
    read_ = 0
    for parameter in captured(pickled=True):
        [vector] = parameter.values
        meta = read(codec, vector)
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
        read_ += 1
    return read_


if __name__ == "__main__":
    print(read_pickles())  # noqa: T201
