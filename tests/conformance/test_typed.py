"""Typed results: the value as what the caller says it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

import pydantic
import pytest

from aioresults import AMQPBackend, AsyncResult, ConfigurationError, DecodeError
from tests.conformance.conftest import Store
from tests.conformance.lab import new_id, only


@dataclass
class Point:
    x: int
    when: datetime


class Row(TypedDict):
    name: str


class Model(pydantic.BaseModel):
    rows: list[dict[str, str]]


CASES: list[tuple[Any, Any, Any]] = [
    (
        {"x": 1, "when": "2026-01-01T00:00:00+00:00"},
        Point,
        Point(1, datetime.fromisoformat("2026-01-01T00:00:00+00:00")),
    ),
    ([1, 2, 2], set[int], {1, 2}),
    ({"name": "n"}, Row, {"name": "n"}),
    ({"rows": [{"name": "n"}]}, Model, Model(rows=[{"name": "n"}])),
    ({"1": "a"}, dict[int, str], {1: "a"}),
]


@only("per_task", "reply_queue")
class TestTyped:
    @pytest.mark.parametrize(("stored", "kind", "expected"), CASES)
    async def test_the_value_is_converted(
        self, caller: AMQPBackend, store: Store, stored: Any, kind: Any, expected: Any
    ) -> None:
        task_id = new_id()
        await store(task_id, stored)
        value = await caller.wait_for(task_id, timeout=30, type=kind)
        assert value == expected
        assert type(value) is type(expected)

    async def test_a_handle_has_a_type_too(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, [1, 2])
        result = AsyncResult(task_id, caller, tuple[int, int])
        assert await result == (1, 2)

    async def test_a_mismatch_names_the_field_and_not_its_value(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, {"x": "secret", "when": "2026-01-01T00:00:00+00:00"})
        with pytest.raises(DecodeError, match=r"\$\.x") as caught:
            await caller.wait_for(task_id, timeout=30, type=Point)
        assert "secret" not in str(caught.value)
        assert (await caller.wait_for(task_id, timeout=30))["x"] == "secret"

    async def test_a_failure_is_raised_as_it_is(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, KeyError("k"), "FAILURE")
        with pytest.raises(KeyError):
            await caller.wait_for(task_id, timeout=30, type=Point)
        failure = await caller.wait_for(task_id, timeout=30, propagate=False, type=Point)
        assert isinstance(failure, KeyError)

    async def test_what_is_no_type_is_refused(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, 1)
        kind: Any = "no type"
        with pytest.raises(ConfigurationError):
            await caller.wait_for(task_id, timeout=30, type=kind)
