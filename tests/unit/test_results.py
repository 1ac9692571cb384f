from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from aioresults import AMQPBackend, AsyncResult, Request, ResultMeta
from aioresults.results import walk_children


def handle(task_id: str) -> AsyncResult[Any]:
    return AsyncResult(task_id, AMQPBackend("memory://unused"))


@pytest.mark.parametrize("value", [None, Decimal("1.10"), (1, 2), SimpleNamespace(id="no handle")])
def test_value_is_kept_as_it_is(value: Any) -> None:
    assert ResultMeta.of("task", value, "SUCCESS").result is value


def test_handle_on_a_task_becomes_what_celery_writes() -> None:
    assert ResultMeta.of("task", handle("other"), "SUCCESS").result == (("other", None), None)


def test_children_may_be_handles_or_what_celery_writes() -> None:
    written = (("group", "task"), [(("member", None), None)])

    meta = ResultMeta.of("task", 1, "SUCCESS", request=Request(children=[handle("child"), written]))

    assert meta.children == [(("child", None), None), written]


def test_request_without_children() -> None:
    assert ResultMeta.of("task", 1, "SUCCESS", request=SimpleNamespace(children=None)).children == []


# The walk over children: every id once, whatever the shape


def child(task_id: str, *members: Any) -> list[Any]:
    return [[task_id, None], list(members) or None]


def test_groups_before_their_members() -> None:
    children = [child("a"), child("g", child("b"), child("h", child("c"))), child("d")]
    assert list(walk_children(children)) == ["a", "g", "b", "h", "c", "d"]


def test_a_retried_task_names_itself() -> None:
    assert list(walk_children([child("a"), child("a", child("a")), child("b")])) == ["a", "b"]


def test_cycles_end() -> None:
    group = child("g", child("a"))
    group[1].append(group)
    assert list(walk_children([group])) == ["g", "a"]


def test_depth_costs_no_stack() -> None:
    deep = child("0")
    for number in range(1, 50_000):
        deep = child(str(number), deep)
    assert len(list(walk_children([deep]))) == 50_000


@pytest.mark.parametrize(
    "children", [None, 5, "text", [], [None], [[]], [["a", None]], [[[], None]], [[[5, None], None]], {"a": 1}]
)
def test_other_shapes_hold_no_ids(children: object) -> None:
    assert list(walk_children(children)) == []
