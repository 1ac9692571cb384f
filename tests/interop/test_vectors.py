"""Every message captured from real Celery workers, published to the broker, reads as Celery's own client shows it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aioresults import DecodeError, RemoteError, ResultMeta
from aioresults.contrib.rabbitmq import Process
from tests.celery_vectors import captured, check
from tests.eventually import eventually
from tests.interop.vector_reading import Seen, read_back
from tests.interop.worker import ROOT


def problem(seen: Seen) -> str | None:
    """What is not as Celery's client shows it, if anything is."""
    try:
        compare(seen)
    except AssertionError as error:
        return f"{seen.name}: {error}"
    return None


def compare(seen: Seen) -> None:
    shown = seen.vector["shown"]
    if "get_task_meta_raises" in shown:
        compare_unreadable(seen)
        return
    assert isinstance(seen.looked, ResultMeta)
    assert isinstance(seen.after, ResultMeta)
    check(seen.looked, seen.vector)
    check(seen.after, seen.vector)
    if "get" not in shown:
        assert seen.watched is not None
        check(seen.watched, seen.vector)
    elif "raises" in shown["get"]:
        assert isinstance(seen.raised, Exception)
        assert seen.raised is seen.unpropagated
        assert same_error(seen.raised, seen.looked.result)
    else:
        assert seen.raised is None
        assert repr(seen.returned) == repr(seen.looked.result) == repr(seen.unpropagated)
        assert seen.looked.status == "SUCCESS"


def same_error(one: BaseException, other: BaseException) -> bool:
    if type(one) is not type(other) or one.args != other.args:
        return False
    return not isinstance(one, RemoteError) or vars(one) == vars(other)


def compare_unreadable(seen: Seen) -> None:
    """What Celery's client cannot read at all."""
    if "int is not allowed for map key" in str(seen.vector["shown"]):
        assert seen.returned == {1: "t", None: "none", 2.5: "f"}  # difference: msgpack keys
    else:
        assert isinstance(seen.looked, DecodeError)
        assert isinstance(seen.raised, DecodeError)
        assert "unknown json type mark 'unknown'" in str(seen.looked)
        assert isinstance(seen.after, DecodeError)
        assert seen.raised.task_id == seen.after.task_id


async def test_every_captured_message(amqp_url: str) -> None:
    vectors = list(captured(pickled=False))
    assert len(vectors) > 350

    seen = await read_back(amqp_url, vectors, accept=["json", "msgpack", "yaml"])

    assert [found for each in seen if (found := problem(each))] == []


async def test_types_outside_accept_are_refused(amqp_url: str) -> None:
    pickles = list(captured(pickled=True))

    seen = await read_back(amqp_url, pickles)

    refusals = (
        {str(each.looked) for each in seen} | {str(each.raised) for each in seen} | {str(each.after) for each in seen}
    )
    assert refusals == {"refusing content type 'application/x-python-serialize': it is not in accept"}


async def test_pickles_where_pickle_was_registered(amqp_url: str, tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    child = Process(
        [sys.executable, "-m", "tests.interop.vector_reading", amqp_url],
        log=log,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        await eventually(lambda: not child.running, within=120)
    finally:
        child.kill()
    assert child.returncode == 0, log.read_text()
    assert int(log.read_text()) == len(list(captured(pickled=True)))
