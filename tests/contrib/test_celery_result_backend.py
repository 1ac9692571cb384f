"""``ResultBackend``, the workers' side, on the broker inside the process."""
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, states
from celery.app.task import Context
from celery.result import AsyncResult, GroupResult
from kombu.exceptions import EncodeError

from aioresults import AMQPBackend, ConfigurationError, QueuePerTask, ReplyQueue
from aioresults.contrib.celery import ResultBackend
from aioresults.contrib.celery.bridge import BRIDGE


@pytest.fixture
def url() -> str:
    return f"memory://{secrets.token_hex(8)}"


@pytest.fixture(autouse=True)
def _closed_bridge() -> Iterator[None]:
    yield
    BRIDGE.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "aioresults"]


def worker(url: str, **conf: Any) -> ResultBackend:
    """The backend of a worker's app."""
    app = Celery("plug-in", broker=url, backend="aioresults.contrib.celery:ResultBackend://", set_as_current=False)
    app.conf.update(conf)
    backend: ResultBackend = app.backend
    return backend


def request_of(caller: AMQPBackend, task_id: str, **fields: Any) -> Context:
    return Context(id=task_id, reply_to=caller.reply_to, correlation_id=task_id, **fields)


async def test_a_store(url: str) -> None:
    task_id = str(uuid.uuid4())
    backend = worker(url, result_extended=True)
    async with AMQPBackend(url, routing=ReplyQueue()) as caller:
        request = request_of(caller, task_id, task="t", args=(1,), kwargs={"k": 2}, group="g", retries=1, children=[])

        assert backend.store_result(task_id, {"x": 1}, states.SUCCESS, request=request) == {"x": 1}

        meta = await caller.consume(task_id, timeout=30)
    assert (meta.result, meta.group_id, meta.name, meta.args, meta.kwargs) == ({"x": 1}, "g", "t", [1], {"k": 2})
    assert (meta.retries, meta.children, meta.date_done is None) == (1, [], False)


async def test_a_failure(url: str) -> None:
    task_id = str(uuid.uuid4())
    async with AMQPBackend(url, routing=ReplyQueue()) as caller:
        request = request_of(caller, task_id)
        worker(url).mark_as_failure(task_id, KeyError("k"), traceback="the traceback", request=request)

        with pytest.raises(KeyError, match="k") as raised:
            await caller.wait_for(task_id, timeout=30)
    assert str(raised.value.__cause__) == "the traceback"


async def test_what_cannot_be_stored(url: str, caplog: pytest.LogCaptureFixture) -> None:
    backend = worker(url)
    async with AMQPBackend(url, routing=ReplyQueue()) as caller:
        with pytest.raises(EncodeError, match="json cannot write a value of type object"):
            backend.store_result("task", object(), states.SUCCESS, request=request_of(caller, "task"))
    backend.store_result("task", 1, states.SUCCESS, request=Context(reply_to="aioresults.inbox.gone"))

    assert "dropped: the result of task 'task' was not stored: there is no queue" in caplog.text
    assert backend.store_result("task", 1, states.SUCCESS) == 1  # nobody asked to hear of it


async def test_looks_and_groups(url: str) -> None:
    backend = worker(url, result_backend_transport_options={"routing": QueuePerTask(), "compression": "zlib"})
    assert backend.get_state("task") == "PENDING"
    backend.store_result("task", ValueError("no"), states.FAILURE)
    backend.store_result("other", b"bytes", states.SUCCESS)

    meta = backend.get_task_meta("task")
    assert (meta["status"], meta["result"].args) == ("FAILURE", ("no",))
    assert backend.get_result("other") == b"bytes"
    backend.forget("task")
    assert backend.get_state("task") == "PENDING"

    group = GroupResult("group", [AsyncResult(name, app=backend.app) for name in ("a", "b")])
    assert backend.restore_group("group") is None
    backend.save_group("group", group)
    assert backend.restore_group("group") == group
    async with AMQPBackend(url) as ours:
        restored = await ours.restore_group("group")
        assert restored is not None
        assert [*restored.task_ids()] == ["a", "b"]
    backend.delete_group("group")
    assert backend.restore_group("group") is None


def test_chords_are_refused(url: str) -> None:
    with pytest.raises(NotImplementedError, match=r"does not support chords.*CeleryClient\.chord"):
        worker(url).apply_chord(("group", []), None)


def test_its_broker(url: str) -> None:
    name = "aioresults.contrib.celery:ResultBackend"
    app = Celery("plug-in", broker=url, backend=f"{name}+amqps://user:secret@there/", set_as_current=False)
    assert app.backend.as_uri() == "amqps://user:**@there/"
    assert worker("amqp://here//").as_uri() == "amqp://here//"


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"result_backend_transport_options": {"rooting": 1}}, "rooting"),
        ({"result_backend_transport_options": {"serializer": "pickle"}}, "pickle"),
        ({"broker_url": "redis://host"}, "redis"),
    ],
)
def test_a_setting_that_cannot_work_is_named_at_the_start(url: str, conf: dict[str, Any], named: str) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=named):
        worker(url, **conf)


def test_threads_share_one_bridge(url: str) -> None:
    backend = worker(url, result_backend_transport_options={"routing": QueuePerTask()})

    def store(number: int) -> None:
        backend.app.backend.store_result(f"task-{number}", number, states.SUCCESS)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [backend.get_result(f"task-{number}") for number in range(20)] == list(range(20))
    assert sum(thread.name == "aioresults" for thread in threading.enumerate()) == 1


FORK = """
import os, sys
from tests.contrib.test_celery_result_backend import worker
from aioresults import QueuePerTask

backend = worker("memory://fork", result_backend_transport_options={"routing": QueuePerTask()})
backend.store_result("parent", 1, "SUCCESS")
child = os.fork()
if not child:
    backend.store_result("child", 2, "SUCCESS")
    os._exit(backend.get_result("child") != 2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
backend.store_result("parent", 3, "SUCCESS")
print(backend.get_result("parent"))
"""


def test_a_fork_has_a_bridge_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", FORK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
