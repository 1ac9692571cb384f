"""Properties are written as pamqp writes them, and read as it reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from time import perf_counter
from typing import Any

import pytest
from aiormq import spec
from hypothesis import assume, given
from hypothesis import strategies as st
from pamqp import decode, encode

from aioresults.errors import EncodeError
from aioresults.transport.amqp import frames
from aioresults.transport.amqp.properties import read_properties, write_properties
from aioresults.transport.base import Properties

TEXT = st.characters(exclude_categories=["Cs"])
SHORT = st.none() | st.text(TEXT, min_size=1, max_size=60)
NAMES = st.text(TEXT, min_size=1, max_size=30)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.text(TEXT, max_size=300)
    | st.just(Decimal("1.5"))
    | st.just(datetime(2026, 5, 4, tzinfo=UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
PROPERTIES = st.builds(
    Properties,
    **dict.fromkeys(("content_type", "content_encoding", "correlation_id", "reply_to", "message_id"), SHORT),
    **dict.fromkeys(("expiration", "type", "user_id", "app_id"), SHORT),
    headers=st.none() | st.dictionaries(NAMES, VALUES, max_size=6),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 255),
    timestamp=st.none() | st.integers(0, 2**32),
)


def as_pamqp_has_them(properties: Properties) -> spec.Basic.Properties:
    fields = asdict(properties)
    seconds = fields.pop("timestamp")
    moment = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return spec.Basic.Properties(message_type=fields.pop("type"), timestamp=moment, **fields)


def by_pamqp(write: Callable[[], bytes]) -> bytes:
    try:
        return write()
    except struct.error:
        assume(False)  # pamqp 3 cannot write some negative numbers
        raise


@given(PROPERTIES)
def test_as_pamqp_has_them(properties: Properties) -> None:
    written = write_properties(properties)
    assert written == by_pamqp(as_pamqp_has_them(properties).marshal)
    assert read_properties(b"xy" + written, 2) == properties


def test_what_is_not_used_is_passed_over() -> None:
    cluster_id = b"\x00\x0c\x02me\x08reserved"
    assert read_properties(cluster_id, 0) == Properties(app_id="me")


def headers(written: bytes) -> bytes:
    return b"\x20\x80" + struct.pack(">I", len(written)) + written + b"\x02id"


@pytest.mark.parametrize(
    "written",
    [
        b"\x01\xfft\x01",  # a name that is no UTF-8
        b"\x01aT" + b"\xff" * 8,  # a year that Python does not know
        b"\x01a?",  # a type that AMQP does not know
    ],
)
def test_headers_that_cannot_be_read_are_taken_for_none(written: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert read_properties(headers(written), 0) == Properties(headers={}, message_id="id")
    assert "the headers of a message cannot be read" in caplog.text


@pytest.mark.parametrize(("depth", "is_read"), [(100, True), (101, False), (5_000, False)])
def test_tables_in_each_other(depth: int, is_read: bool) -> None:
    written, value = b"A" + bytes(4), list[Any]()
    for _ in range(depth - 1):
        written, value = b"A" + struct.pack(">I", len(written)) + written, [value]
    expected = {"a": value} if is_read else {}
    assert read_properties(headers(b"\x01a" + written), 0) == Properties(headers=expected, message_id="id")


def test_tables_are_read_in_linear_time() -> None:
    """pamqp, which copies what is left before each value, takes 1.6 s for these."""
    count = 130_900
    began = perf_counter()
    read = read_properties(headers(b"\x01aA" + struct.pack(">I", count) + b"V" * count), 0)
    assert perf_counter() - began < 0.5
    assert read.headers == {"a": [None] * count}


def same(ours: Any, pamqps: Any) -> bool:
    return repr(ours) == repr(pamqps)  # not a number is not itself


KINDS = st.sampled_from([bytes([kind]) for kind in b"tbBsuIilLfdDSATFVx\x00"])
FIELD = st.tuples(KINDS, st.binary(max_size=12)).map(b"".join)
BYTES = st.binary(max_size=40) | st.lists(FIELD.map(lambda value: b"\x01a" + value), max_size=4).map(b"".join)


#: pamqp 3 goes round for ever in some tables that are cut short.
needs_pamqp_4 = pytest.mark.skipif(version("pamqp").startswith("3."), reason="pamqp 3 hangs on what is malformed")


@needs_pamqp_4
@given(BYTES)
def test_any_table_is_what_pamqp_reads_or_none(written: bytes) -> None:
    data = struct.pack(">I", len(written)) + written
    ours = read_properties(b"\x20\x00" + data, 0).headers
    try:
        _, pamqps = decode.field_table(data)
    except (ValueError, OverflowError, IndexError, struct.error):
        pamqps = {}
    assert ours == {} or same(ours, pamqps)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_any_table_of_pamqps_is_read(table: dict[str, Any]) -> None:
    data = by_pamqp(lambda: encode.field_table(table))
    ours = read_properties(b"\x20\x00" + data, 0).headers
    assert same(ours, decode.field_table(data)[1])


def test_text_that_is_no_utf_8() -> None:
    assert read_properties(b"\x84\x00\x02a\xff\x01b", 0) == Properties(content_type="a\ufffd", correlation_id="b")


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x00\x00", b"\x20\x00\x00\x00\x00\x09x"])
def test_what_is_none(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError, struct.error)):
        read_properties(data, 0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"reply_to": "x" * 256}, "reply_to: 256 bytes"),
        ({"reply_to": 5}, "reply_to: "),
        ({"priority": 256}, "priority: "),
        ({"timestamp": -1}, "timestamp: "),
        ({"headers": {"x": object()}}, "headers: "),
        ({"headers": {"x" * 256: 1}}, "headers: 256 bytes"),
        ({"headers": {"x": {"y": [float("nan")]}}}, "headers: RabbitMQ closes the connection"),
        ({"headers": {"x": 1e300}}, "headers: "),
    ],
)
def test_what_amqp_cannot_carry(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(EncodeError, match=f"a message cannot have such {text}"):
        write_properties(Properties(**fields))


@pytest.mark.parametrize(
    ("properties", "exchange", "routing_key", "text"),
    [
        (Properties(headers={"x": "y" * 200}), "", "q", "properties of 2.. bytes; the broker takes 192"),
        (Properties(), "", "x" * 256, "routing key 'x+': 256 bytes"),
        (Properties(), "é" * 128, "q", "exchange 'é+', routing key 'q': 256 bytes"),
    ],
)
def test_messages_that_would_cost_the_connection(
    properties: Properties, exchange: str, routing_key: str, text: str
) -> None:
    with pytest.raises(EncodeError, match=text):
        frames.publish(1, b"", properties, exchange, routing_key, mandatory=True, max_size=200)
