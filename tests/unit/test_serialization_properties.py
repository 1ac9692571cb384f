"""Properties of the codec: what goes in comes out, and what comes out of hostile input is one of our errors.

`AIORESULTS_FUZZ_EXAMPLES=100000 pytest tests/unit/test_serialization_properties.py -k fuzz --timeout=0` fuzzes at
length; without it a few hundred examples are run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aioresults.errors import DecodeError
from aioresults.results import ResultMeta
from aioresults.serialization import ReportCodec
from aioresults.transport.base import OutgoingMessage, Properties

EXAMPLES = int(os.environ.get("AIORESULTS_FUZZ_EXAMPLES", "300"))
SLOW = 1.0  # seconds that no input may take

SERIALIZERS = ("json", "msgpack", "yaml")
COMPRESSIONS = (None, "zlib", "bz2", "lzma", "zstd")
CODECS = {
    (serializer, compression, signed): ReportCodec(
        serializer=serializer,
        compression=compression,
        accept=[serializer],
        signing_key=b"a key" if signed else None,
    )
    for serializer, compression, signed in product(SERIALIZERS, COMPRESSIONS, (False, True))
}

texts = st.text(st.characters(exclude_categories=["Cs"]))
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1)))
)
instants = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC) | offsets)
common = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts
scalars = {
    "json": common
    | (st.integers() | st.text() | st.binary() | st.dates() | st.times() | st.datetimes() | instants | st.uuids())
    | st.decimals(allow_nan=False),
    "msgpack": common | st.binary() | instants,
    # YAML's own idea of a printable text is narrower; PyYAML writes a second's fraction and an offset its own way.
    "yaml": common | st.integers() | st.binary() | st.dates(),
}
keys = {
    # An object of these two keys is a type mark.
    "json": st.text().filter(lambda key: not key.startswith("__")),
    "msgpack": texts | st.integers(-(2**63), 2**63) | st.booleans(),
    "yaml": texts | st.integers(),
}


def values(serializer: str) -> st.SearchStrategy[object]:
    """Values that come back from a serializer as they were."""
    return st.recursive(
        scalars[serializer],
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys[serializer], inner, max_size=5),
        max_leaves=15,
    )


def metas(serializer: str) -> st.SearchStrategy[ResultMeta]:
    return st.builds(
        ResultMeta,
        task_id=ids,
        status=st.sampled_from(["SUCCESS", "STARTED", "PROGRESS"]),
        result=values(serializer),
        traceback=st.none() | texts,
        children=st.none() | st.lists(st.lists(st.none() | texts, max_size=2), max_size=2),
        group_id=st.none() | texts,
        parent_id=st.none() | texts,
        name=st.none() | texts,
        args=st.none() | st.lists(values(serializer), max_size=2),
        kwargs=st.none() | st.dictionaries(texts.filter(lambda key: not key.startswith("__")), common, max_size=2),
        worker=st.none() | texts,
        retries=st.none() | st.integers(0, 100),
        queue=st.none() | texts,
        extra=st.dictionaries(st.sampled_from(["stamped_headers", "who", "žlutý"]), values(serializer), max_size=2),
    )


@pytest.mark.parametrize("serializer", SERIALIZERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_round_trip(serializer: str, data: st.DataObject) -> None:
    """One document through every compression, signed and not, alone and in a batch."""
    meta = data.draw(metas(serializer))
    for (name, _, _), codec in CODECS.items():
        if name != serializer:
            continue
        document = codec.write(meta, "c-1")
        assert codec.read(codec.single("c-1", document)) == meta
        in_batch = codec.open(codec.batch([(meta.task_id, document)] * 40))
        assert {document.body for document in in_batch} == {document}
        assert {document.task_id for document in in_batch} == {meta.task_id}


@pytest.mark.parametrize("serializer", SERIALIZERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_date_done_comes_back(serializer: str, data: st.DataObject) -> None:
    codec = CODECS[serializer, None, False]
    meta = ResultMeta("t-1", "SUCCESS", date_done=data.draw(instants))
    assert codec.read(codec.single("t-1", codec.write(meta, "t-1"))).date_done == meta.date_done


@settings(max_examples=200)
@given(st.lists(st.tuples(ids, st.binary(max_size=100)), max_size=20))
def test_batch_comes_back(documents: list[tuple[str, bytes]]) -> None:
    codec = CODECS["json", None, False]
    opened = codec.open(codec.batch(documents))
    assert [(document.task_id, document.body) for document in opened] == documents


# Fuzzing

HOSTILE = ReportCodec(
    accept=["json", "msgpack"], max_body_size=2**20, max_decompressed_size=2**20, max_depth=20, max_containers=1000
)
SEEDS: list[tuple[bytes, str]] = [
    (CODECS[serializer, None, False].write(meta, "t-1"), f"application/{prefix}{serializer}")
    for serializer, prefix in (("json", ""), ("msgpack", "x-"))
    for meta in (
        ResultMeta("t-1", "SUCCESS", {"a": [1, 2.5, "ž", None]}, children=[], date_done=datetime.now(UTC)),
        ResultMeta("t-1", "FAILURE", OSError(2, "x"), traceback="Traceback: ...", retries=1),
        ResultMeta("t-1", "REVOKED", ValueError({"deep": [[[[]]]]}), extra={"a": 1}),
        ResultMeta("t-1", "SUCCESS", datetime.now(UTC), group_id="g"),
    )
]
MARKS = [
    f'{{"status":"SUCCESS","result":{{"__type__":"{mark}","__value__":{value}}}}}'.encode()
    for mark in ("datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "x")
    for value in ('"2024-01-01"', "NaN", '{"hex":"1"}', "null")
]
BATCHES = [
    CODECS[serializer, compression, False].batch([("t-1", b"{}")] * 50)
    for serializer in ("json", "msgpack")
    for compression in COMPRESSIONS
]
CONTENT_TYPES = ["application/json", "application/x-msgpack", "application/x-aioresults-batch; v=2", "text/plain", None]
PIECES = [b"[" * 30, b"{", b'"', b"\\ud800", b"NaN", b"1e999", b"9" * 5000, b"\xdd\xff\xff\xff\xff", b"\x91" * 30]
PIECES += [b"\xc1", b"\xff", b"\x00", b'{"__type__":', b"exc_type", b"null", b"\xd6\xff", b"\x80"]


def mutate(body: bytes, changes: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Replace some stretches of ``body``."""
    for position, length, piece in changes:
        start = position % (len(body) + 1)
        body = body[:start] + piece + body[start + length :]
    return body


changes = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 20), st.sampled_from(PIECES) | st.binary(max_size=4)), max_size=4
)
headers = st.dictionaries(
    st.sampled_from(["compression", "x-aioresults-content-type", "x-aioresults-content-encoding"]),
    st.sampled_from(["application/x-gzip", "application/x-bz2", "application/x-lzma", "application/zstd"])
    | st.sampled_from(["application/json", "application/x-msgpack", "utf-16", "brotli"])
    | st.none()
    | st.integers()
    | st.binary(max_size=3),
    max_size=3,
)
correlation_ids = st.sampled_from(["t-1", "", None])
seeds = st.sampled_from(SEEDS + [(body, "application/json") for body in MARKS])
mutants = st.builds(
    lambda seed, done, head, correlation_id: OutgoingMessage(
        mutate(seed[0], done), Properties(seed[1], "utf-8", head, correlation_id=correlation_id)
    ),
    seeds,
    changes,
    st.just({}) | st.just({}) | headers,
    correlation_ids,
)
mutated_batches = st.builds(
    lambda batch, done, head: OutgoingMessage(
        mutate(batch.body, done), replace(batch.properties, headers={**batch.properties.headers, **head})
    ),
    st.sampled_from(BATCHES),
    changes,
    st.just({}) | headers,
)
anything = st.builds(
    OutgoingMessage,
    st.binary(max_size=300),
    st.builds(
        Properties,
        content_type=st.sampled_from(CONTENT_TYPES) | st.text(max_size=30),
        content_encoding=st.sampled_from(["utf-8", "binary", "utf-16", "rot13", None]),
        headers=headers | st.none(),
        correlation_id=correlation_ids,
    ),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(message=mutants | mutated_batches | anything)
def test_fuzz(message: OutgoingMessage) -> None:
    started = time.process_time()
    try:
        documents = HOSTILE.open(message)
    except DecodeError:
        documents = []
    for document in documents:
        try:
            meta = HOSTILE.decode(document)
        except DecodeError as error:
            named = error.task_id
        else:
            named = document.task_id
            assert isinstance(meta.task_id, str)
            assert isinstance(meta.status, str)
            assert not meta.is_failure or isinstance(meta.result, Exception)
        assert named == document.task_id
    assert time.process_time() - started < SLOW
