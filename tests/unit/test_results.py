from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from aioresults import AMQPBackend, AsyncResult, Request, ResultMeta


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
