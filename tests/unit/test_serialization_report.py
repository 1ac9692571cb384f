"""A report as Celery's dict: order and presence of keys, and what is made of odd ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aioresults.errors import DecodeError
from aioresults.results import ResultMeta
from aioresults.serialization.report_codec import read_report, write_report

NOW = datetime(2026, 11, 22, 11, 7, 28, 12587, tzinfo=UTC)


def test_keys_in_celerys_order() -> None:
    meta = ResultMeta(
        "t-1",
        "SUCCESS",
        1,
        None,
        [],
        NOW,
        "g",
        "p",
        "task",
        [1],
        {"k": 2},
        "w@h",
        0,
        "q",
        {"who": "me", "task_id": "x"},
    )
    report = write_report(meta)
    assert list(report) == [
        "status",
        "result",
        "traceback",
        "children",
        "date_done",
        "group_id",
        "parent_id",
        "name",
        "args",
        "kwargs",
        "worker",
        "retries",
        "queue",
        "who",
        "task_id",
    ]
    assert report["task_id"] == "t-1"
    assert report["date_done"] == "2026-11-22T11:07:28.012587+00:00"


def test_what_is_not_set_is_left_out_as_celery_does() -> None:
    assert write_report(ResultMeta("t-1", "STARTED")) == {
        "status": "STARTED",
        "result": None,
        "traceback": None,
        "children": None,
        "date_done": None,
        "task_id": "t-1",
    }


def test_only_ready_reports_are_dated() -> None:
    assert write_report(ResultMeta("t-1", "RETRY", date_done=NOW))["date_done"] is None
    assert write_report(ResultMeta("t-1", "REVOKED", date_done=NOW))["date_done"] == NOW.isoformat()


def test_extra_never_replaces_a_field() -> None:
    report = write_report(ResultMeta("t-1", "SUCCESS", 1, extra={"status": "FAILURE", "result": 2, "group_id": 3}))
    assert (report["status"], report["result"], report["group_id"]) == ("SUCCESS", 1, 3)


def test_the_least_that_is_a_report() -> None:
    assert read_report({"status": "X"}, "t-1", {}) == ResultMeta("t-1", "X")
    assert read_report({"status": "X", "task_id": "t-2"}, "t-1", {}) == ResultMeta("t-2", "X")


@pytest.mark.parametrize("task_id", [None, "", 5, ["t"], b"t"])
def test_the_message_names_the_task_where_the_document_does_not(task_id: object) -> None:
    assert read_report({"status": "X", "task_id": task_id}, "t-1", {}).task_id == "t-1"
    for nothing in (None, ""):
        with pytest.raises(DecodeError, match="names no task"):
            read_report({"status": "X", "task_id": task_id}, nothing, {})


@pytest.mark.parametrize("report", [None, 1, "text", [], [["status", "X"]], {1, 2}])
def test_what_is_not_a_dict(report: object) -> None:
    with pytest.raises(DecodeError, match="not a dict but of type"):
        read_report(report, "t-1", {})


@pytest.mark.parametrize("report", [{}, {"status": None}, {"status": ""}, {"status": 5}, {"status": ["X"]}])
def test_a_report_needs_a_status(report: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match="no status"):
        read_report(report, "t-1", {})


def test_odd_values_are_kept_in_extra() -> None:
    odd: dict[str, Any] = {
        "traceback": 1,
        "children": "x",
        "date_done": "yesterday",
        "group_id": 2,
        "retries": "3",
        "unknown": None,
    }
    meta = read_report({"status": "X", **odd}, "t-1", {})
    assert meta == ResultMeta("t-1", "X", extra=odd)
    assert write_report(meta)["group_id"] == 2


def test_none_is_the_same_as_absent_in_known_keys() -> None:
    report = dict.fromkeys(["traceback", "children", "date_done", "group_id", "name", "retries", "args"])
    assert read_report({"status": "X", **report}, "t-1", {}) == ResultMeta("t-1", "X")


@pytest.mark.parametrize("key", [1, None, b"x", (1,)])
def test_keys_must_be_text(key: object) -> None:
    with pytest.raises(DecodeError, match="a key of the document"):
        read_report({"status": "X", key: 1}, "t-1", {})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-22T11:07:28.012587+00:00", NOW),
        ("2026-11-22T11:07:28.012587Z", NOW),
        ("2026-11-22T11:07:28.012587", NOW.replace(tzinfo=None)),  # as Celery 4 wrote it
        (NOW, NOW),
    ],
)
def test_dates(written: object, read: datetime) -> None:
    meta = read_report({"status": "SUCCESS", "date_done": written}, "t-1", {})
    assert meta.date_done == read


@pytest.mark.parametrize("written", [float("nan"), 1e400, 5, "", "2026-13-01", [], {"a": 1}])
def test_dates_that_are_none_cost_no_result(written: object) -> None:
    meta = read_report({"status": "SUCCESS", "result": 1, "date_done": written}, "t-1", {})
    assert (meta.result, meta.date_done, list(meta.extra)) == (1, None, ["date_done"])
