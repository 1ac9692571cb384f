"""`yaml`, as workers of Celery write it, and the traps that YAML has of its own."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.safe_yaml import yaml_serializer
from aioresults.serialization.serializer import DecodeLimits

YAML = yaml_serializer()
SHARED = {"n": [1]}


def read(text: str) -> Any:
    return YAML.read(text.encode(), "utf-8", DecodeLimits())


@pytest.mark.parametrize(
    "value",
    [None, True, 2**80, 2.5, "žlu\u2028\x00", b"\xff", {1: 2}, {1, 2}, date(2024, 2, 29), [SHARED, SHARED], "1:30"],
    ids=repr,
)
def test_round_trip(value: object) -> None:
    assert YAML.read(YAML.write({"value": value}), "utf-8", DecodeLimits()) == {"value": value}


def test_an_aware_datetime_stays_the_same_instant() -> None:
    instant = datetime(2024, 7, 1, 8, 0, 0, 7, tzinfo=UTC)
    assert YAML.read(YAML.write(instant), "utf-8", DecodeLimits()) == instant


@pytest.mark.parametrize(("value", "named"), [(timedelta(1), "timedelta"), (object(), "object")])
def test_what_cannot_be_written_is_named(value: object, named: str) -> None:
    with pytest.raises(EncodeError, match=named):
        YAML.write([value])


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "a: b: c",
        "!!python/object/apply:os.system [ls]",
        "!!int ''",
        "!!timestamp 2024-13-45",
        "? [1]\n: 2",
        "*undefined",
        "[" * 100_000,
        "- " * 20_000,
        "[" * 101 + "]" * 101,
        "&a [*a]",
        "1" + ":59" * 200_000,
        "--- 1\n--- 2",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_safe_yaml_is_a_decode_error(text: str) -> None:
    with pytest.raises(DecodeError):
        read(text)


def test_aliases_cannot_multiply() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 8)}]" for name in "bcdefghij"]
    with pytest.raises(DecodeError, match="more than 1000000 values"):
        read("\n".join(lines))


def test_a_long_text_with_colons_is_no_number() -> None:
    assert read("'" + "1:" * 5000 + "x'") == "1:" * 5000 + "x"
