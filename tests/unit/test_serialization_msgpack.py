"""`msgpack`: what is written, what is read, what is refused."""

from __future__ import annotations

import math
import resource
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from kombu.serialization import loads

from aioresults.errors import DecodeError, EncodeError
from aioresults.serialization.messagepack import msgpack_serializer
from aioresults.serialization.serializer import DecodeLimits

MSGPACK = msgpack_serializer()
kombu_loads: Any = loads
PLAIN: list[Any] = [None, True, -7, 2**63, 2.5, "žlu\u2028\x00", b"\xff", [], {}, {"a": [1, {"b": None}]}, math.inf]


def read(body: bytes, limits: DecodeLimits | None = None) -> Any:
    return MSGPACK.read(body, "binary", limits or DecodeLimits())


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_what_is_written_both_we_and_kombu_read(value: object) -> None:
    body = MSGPACK.write({"value": value})
    kombus = kombu_loads(body, "application/x-msgpack", "binary", accept={"application/x-msgpack"})
    assert read(body) == kombus == {"value": value}


def test_keys_of_any_scalar_type_and_tuples() -> None:
    assert read(MSGPACK.write({1: (2, 3), None: 4, 2.5: 5})) == {1: [2, 3], None: 4, 2.5: 5}


def test_an_aware_datetime_stays_the_same_instant() -> None:
    instant = datetime(2024, 7, 1, 8, 0, 0, 7, tzinfo=timezone(timedelta(hours=2)))
    assert read(MSGPACK.write(instant)) == instant
    assert read(MSGPACK.write(instant)).tzinfo == UTC


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (datetime(2024, 1, 1), "without a time zone"),
        (date(2024, 1, 1), "datetime.date"),
        (timedelta(1), "datetime.timedelta"),
        (Decimal(1), "decimal.Decimal"),
        ({1}, "set"),
        (2**80, "int of more than 64 bits"),
        ("\ud800", "surrogates"),
    ],
)
def test_what_cannot_be_written_is_named(value: object, named: str) -> None:
    with pytest.raises(EncodeError, match=named):
        MSGPACK.write([value])
    assert MSGPACK.write([1]) == b"\x91\x01"  # nothing of a failed value is left in the packer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x92\x01",
        b"\x01\x01",
        b"\xc1",
        b"\xa1\xff",
        b"\x81\x90\x01",
        b"\xd4\x05\x01",
        b"\xd7\xff" + b"\xff" * 8,
        b"\xc7\x0c\xff\x00\x00\x00\x00\x7f" + b"\xff" * 7,
        b"\xc7\x02\xff\x00\x00",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=lambda body: repr(body[:8]),
)
def test_what_is_not_msgpack_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        read(body)


def test_an_unknown_extension_is_named() -> None:
    with pytest.raises(DecodeError, match="extension type 5"):
        read(msgpack.packb(msgpack.ExtType(5, b"x")))


def test_depth_is_limited_exactly() -> None:
    assert read(b"\x91" * 99 + b"\x90")
    with pytest.raises(DecodeError, match="deeper than 100 levels"):
        read(b"\x91" * 100 + b"\x90")


def test_text_that_looks_like_containers_counts_for_nothing() -> None:
    value = ["\u0410" * 5000, b"\x91" * 5000]  # a Cyrillic letter: d0 90
    assert read(MSGPACK.write(value), DecodeLimits(depth=1, containers=1)) == value


def test_containers_are_limited_exactly() -> None:
    limits = DecodeLimits(depth=2, containers=1001)
    assert len(read(msgpack.packb([[]] * 1000), limits)) == 1000
    with pytest.raises(DecodeError, match="more than 1001 containers"):
        read(msgpack.packb([[]] * 1000 + [{}]), limits)


@pytest.mark.parametrize("filler", [b"\x00", b"\x90"], ids=["numbers", "lists"])
def test_claims_of_length_that_the_body_does_not_keep_cost_no_memory(filler: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError):
        read(b"\xdd\x00\x1f\xff\x00" * 1000 + filler * 2**21)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
