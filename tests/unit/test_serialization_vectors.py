"""Every message captured from real Celery workers (`tests/vectors`) reads as Celery's own client shows it.

Where we differ on purpose, `docs/serialization.md` says so, and why.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from aioresults.errors import DecodeError, RemoteError, TaskRevoked
from aioresults.results import ResultMeta
from aioresults.serialization import ReportCodec
from aioresults.transport.base import OutgoingMessage, Properties
from tests.celery_vectors import Vector, captured, check, check_pickled, vectors, with_pickle


def read(codec: ReportCodec, vector: Vector) -> ResultMeta:
    names = ("content_type", "content_encoding", "headers", "correlation_id")
    properties = Properties(**{name: vector["message"]["properties"][name] for name in names})
    return codec.read(OutgoingMessage(base64.b64decode(vector["message"]["body_b64"]), properties))


@pytest.mark.parametrize("vector", [pytest.param(vector, id=name) for name, vector in captured(pickled=False)])
def test_captured_message(vector: Vector) -> None:
    codec = ReportCodec(accept=["json", "msgpack", "yaml"])
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
    properties = Properties("application/json", "utf-8", {}, correlation_id=correlation_id)
    meta = ReportCodec().read(OutgoingMessage(json.dumps(body).encode(), properties))
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
    child = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, timeout=200)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) == len(list(captured(pickled=True)))


def read_pickles() -> int:
    codec = ReportCodec(serializers=with_pickle(), accept=["pickle"])
    read_ = 0
    for _, vector in captured(pickled=True):
        check_pickled(read(codec, vector), vector)
        read_ += 1
    return read_


if __name__ == "__main__":
    print(read_pickles())  # noqa: T201
