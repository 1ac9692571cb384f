"""How deep a value is nested, without recursion and without counting what is shared twice."""

from __future__ import annotations

from typing import Any

import pytest

from aioresults.serialization.depth import is_deeper


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value, 0]
    return value


@pytest.mark.parametrize("levels", [0, 1, 2, 5, 50_000])
def test_exactly(levels: int) -> None:
    value = nested(levels)
    assert not is_deeper(value, levels)
    assert levels == 0 or is_deeper(value, levels - 1)


def test_aliases_do_not_multiply() -> None:
    value: list[Any] = []
    for _ in range(90):
        value = [value] * 10
    assert not is_deeper(value, 91)
    assert is_deeper(value, 90)


def test_a_cycle_is_deeper_than_any_limit() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    assert is_deeper(cycle, 1000)
