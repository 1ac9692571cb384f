"""`json` with kombu's type marks: what is written, what is read, what is refused."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections import namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from kombu.utils.json import dumps, loads

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.marked_json import json_serializer
from aioresults.serialization.serializer import DecodeLimits

JSON = json_serializer()
kombu_dumps: Any = dumps
kombu_loads: Any = loads

MARKED = [
    datetime(2024, 7, 1, 8, 0, 0, 7, tzinfo=timezone(timedelta(hours=2))),
    datetime(2024, 7, 1, 8),
    date(2024, 2, 29),
    time(23, 59, 58, 7),
    Decimal("10.50"),
    UUID("12345678-1234-5678-1234-567812345678"),
    b"abc",
    b"",
    b"\xff\x00",
]
PLAIN: list[Any] = [None, True, -7, 2**80, 2.5, "žlu\u2028\x00", "\ud800x", [], {}, {"a": [1, {"b": None}]}, math.inf]


class Color(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int = 0


class Reducible:
    def __json__(self) -> dict[str, int]:
        return {"j": 1}


def read(text: str | bytes, encoding: str | None = "utf-8", limits: DecodeLimits | None = None) -> Any:
    return JSON.read(text.encode() if isinstance(text, str) else text, encoding, limits or DecodeLimits())


@pytest.mark.parametrize("value", MARKED + PLAIN, ids=repr)
def test_what_is_written_both_we_and_kombu_read(value: object) -> None:
    body = JSON.write({"value": value})
    assert read(body) == kombu_loads(body) == {"value": value}


@pytest.mark.parametrize("value", MARKED + PLAIN, ids=repr)
def test_what_kombu_writes_is_read(value: object) -> None:
    assert read(kombu_dumps({"value": value})) == {"value": value}


def test_marks_are_kombus() -> None:
    for value in MARKED:
        assert json.loads(JSON.write(value)) == json.loads(kombu_dumps(value))


def test_tuples_enums_and_objects_that_reduce_themselves() -> None:
    pair = namedtuple("pair", "a b")
    value = [(1, (2,)), pair(3, 4), Number.ONE, Reducible(), {1: "t", None: "n"}]
    assert read(JSON.write(value)) == [[1, [2]], [3, 4], 1, {"j": 1}, {"1": "t", "null": "n"}]


def test_nan_is_read_as_celery_writes_it() -> None:
    assert math.isnan(read("NaN"))
    assert read("[Infinity, -Infinity]") == [math.inf, -math.inf]
    assert JSON.write(math.nan) == b"NaN"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (timedelta(1), "datetime.timedelta"),
        ({1, 2}, "set"),
        (Color.RED, "Color"),
        (Point(), "Point"),
        (object(), "object"),
        (ValueError("x"), "ValueError"),
        ({(1, 2): 3}, "tuple"),
        (bytearray(b"x"), "bytearray"),
    ],
)
def test_what_cannot_be_written_is_named(value: object, named: str) -> None:
    with pytest.raises(EncodeError, match=named):
        JSON.write({"result": [value]})


def test_endless_values_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (cycle, deep, 10**5000):
        with pytest.raises(EncodeError):
            JSON.write(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"__type__": "unknown", "__value__": 1}', "'unknown'"),
        ('{"\\u005f_type__": "unknown", "__value__": 1}', "'unknown'"),
        ('{"__type__": [1], "__value__": 1}', "of type list"),
        ('{"__type__": null, "__value__": 1}', "of type NoneType"),
        ('{"__type__": "datetime", "__value__": NaN}', "marked 'datetime'"),
        ('{"__type__": "date", "__value__": "2024-13-01"}', "marked 'date'"),
        ('{"__type__": "time", "__value__": {}}', "marked 'time'"),
        ('{"__type__": "decimal", "__value__": "x"}', "marked 'decimal'"),
        ('{"__type__": "uuid", "__value__": "12"}', "marked 'uuid'"),
        ('{"__type__": "uuid", "__value__": {"bytes": "12"}}', "marked 'uuid'"),
        ('{"__type__": "bytes", "__value__": "\\ud800"}', "marked 'bytes'"),
        ('{"__type__": "base64", "__value__": "é"}', "marked 'base64'"),
    ],
)
def test_marks_that_cannot_be_read_are_named(text: str, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        read(text)


def test_an_object_with_more_than_a_mark_is_an_object() -> None:
    value = {"__type__": "date", "__value__": "2024-01-01", "more": 1}
    assert read(json.dumps([value, {"__type__": "date"}])) == [value, {"__type__": "date"}]


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": 1', "[1,]", "nul", "{} {}", "1" * 5000, "[" * 100_000, '{"a":' * 100_000, "\ufeff{}"],
    ids=lambda text: text[:10],
)
def test_what_is_not_json_is_a_decode_error(text: str) -> None:
    with pytest.raises(DecodeError):
        read(text)


def test_the_last_of_duplicate_keys_counts() -> None:
    assert read('{"a": 1, "a": 2}') == {"a": 2}


def test_depth_is_limited_exactly() -> None:
    assert read("[" * 100 + "]" * 100)
    with pytest.raises(DecodeError, match="deeper than 100 levels"):
        read("[" * 101 + "]" * 101)


def test_brackets_in_text_count_for_nothing() -> None:
    text = '[[{}" \\" ' * 1000
    value = {"a": [text, "[" * 5000], "[": 1}
    assert read(json.dumps(value), limits=DecodeLimits(depth=2, containers=2)) == value


def test_containers_are_limited_exactly() -> None:
    limits = DecodeLimits(depth=2, containers=1001)
    assert len(read("[" + "[]," * 999 + "{}]", limits=limits)) == 1000
    with pytest.raises(DecodeError, match="more than 1001 containers"):
        read("[" + "[]," * 1000 + "{}]", limits=limits)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "", None, "binary", "utf-16", "utf-32", "latin-1", "us-ascii"])
def test_charsets(charset: str | None) -> None:
    codec = {"": "utf-8", None: "utf-8", "binary": "utf-8"}.get(charset, charset or "")
    assert read('{"a": 1}'.encode(codec), charset) == {"a": 1}


@pytest.mark.parametrize("charset", ["rot13", "punycode", "idna", "os.path", "utf-7", "zlib_codec", "x" * 1000])
def test_other_charsets_are_named(charset: str) -> None:
    with pytest.raises(DecodeError, match=f"unknown charset '{charset[:100]}'"):
        read("{}", charset)


def test_bytes_that_are_not_of_the_charset() -> None:
    with pytest.raises(DecodeError, match=r"not utf-8 text \(byte 1\)"):
        read(b'"\xff"')


def test_utc_stays_utc() -> None:
    now = datetime.now(UTC)
    assert read(JSON.write(now)).utcoffset() == timedelta(0)


def test_messages_hold_nothing_of_the_body() -> None:
    for text in ('{"secret', '{"__type__": "decimal", "__value__": "secret"}'):
        with pytest.raises(DecodeError) as caught:
            read(text)
        assert "secret" not in str(caught.value)
