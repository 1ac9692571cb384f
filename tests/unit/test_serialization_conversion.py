"""Typed results: what fits is converted, what does not is named by its path and never by its value."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypedDict

import pydantic
import pytest

from aioresults.errors import ConfigurationError, DecodeError
from aioresults.serialization.conversion import convert


@dataclass
class Point:
    x: int
    y: int = 0


class Order(TypedDict):
    id: int
    points: list[Point]


class Model(pydantic.BaseModel):
    when: datetime
    points: dict[str, Point]


@dataclass
class Nested:
    models: list[Model] = field(default_factory=list)


class Color(Enum):
    RED = "red"


class Opaque:
    pass


def test_what_fits() -> None:
    assert convert({"x": 1}, Point) == Point(1)
    assert convert([{"x": 1, "y": 2}], list[Point]) == [Point(1, 2)]
    assert convert({"id": 1, "points": [{"x": 1}]}, Order) == {"id": 1, "points": [Point(1)]}
    written = {"when": "2026-11-22T00:00:00Z", "points": {"a": {"x": 1}}}
    model = Model(when=datetime(2026, 11, 22, tzinfo=UTC), points={"a": Point(1)})
    assert convert(written, Model) == model
    assert convert({"models": [written]}, Nested) == Nested([model])
    assert convert([1, 2, 2], set[int]) == {1, 2}
    assert convert([1, "a"], tuple[int, str]) == (1, "a")
    assert convert({"1": 2}, dict[int, int]) == convert({1: 2}, dict[int, int]) == {1: 2}
    assert convert("red", Color) is Color.RED
    assert convert(None, Point | None) is None
    for anything in ("text", Opaque()):
        assert convert(anything, Any) is convert(anything, object) is anything


@pytest.mark.parametrize(
    ("value", "type_", "said"),
    [
        ({"y": 2}, Point, "is not a Point: .*`x`"),
        ({"id": 1, "points": [{"x": 1}, {"x": "secret"}]}, Order, r"is not a Order: .* at `\$\.points\[1\]\.x`"),
        ({"when": "secret", "points": {"a": 5}}, Model, r"at `when`; .* at `points\.a`"),
        ({"models": [{"when": "secret", "points": {}}]}, Nested, r"at `when` - at `\$\.models\[0\]`"),
        ("secret", int, "is not a int: Expected `int`, got `str`"),
        (["secret"], list[int], r"is not a list\[int\]: .* at `\$\[0\]`"),
        ("secret", Color, "is not a Color: Invalid enum value$"),
        (["secret"], list[Color], r"Invalid enum value - at `\$\[0\]`"),
        ("secret", Opaque, "Expected `Opaque`, got `str`"),
        (None, Point, "got `null`"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(value: object, type_: Any, said: str) -> None:
    with pytest.raises(DecodeError, match=said) as caught:
        convert(value, type_)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("type_", [5, "int", list["NoSuchType"], Point | Nested])  # type: ignore[name-defined]  # noqa: F821
def test_what_is_no_type_to_convert_to(type_: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be converted to"):
        convert([{}], type_)


def test_without_msgspec_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['msgspec'] = None\n"
        "from aioresults.serialization.conversion import convert\n"
        "try: convert(1, int)\n"
        "except ValueError as error: print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "typed results need msgspec: install aioresults[typed]\n"
