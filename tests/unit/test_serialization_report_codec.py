"""The codec: messages out of reports and back, and everything it refuses."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from backports import zstd
from kombu.compression import compress, decompress

from aioresults.errors import (
    ConfigurationError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ResultTooLarge,
    SignatureMismatch,
)
from aioresults.results import ResultMeta
from aioresults.serialization import Document, ReportCodec, Serializers
from aioresults.transport.base import OutgoingMessage, Properties

META = ResultMeta("t-1", "SUCCESS", {"answer": 42}, children=[], date_done=datetime(2026, 11, 22, tzinfo=UTC))
LARGE = ResultMeta("t-1", "SUCCESS", "x" * 10_000)
BODY = b'{"status": "SUCCESS", "result": 1, "task_id": "t-1"}'
kombu_compress: Any = compress
kombu_decompress: Any = decompress
COMPRESSIONS = {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "application/zstd": zstd.compress,
}


def message(body: bytes = BODY, content_type: str | None = "application/json", **headers: Any) -> OutgoingMessage:
    properties = Properties(content_type=content_type, content_encoding="utf-8", headers=headers, correlation_id="t-1")
    return OutgoingMessage(body, properties)


def changed(sealed: OutgoingMessage, body: bytes | None = None, **properties: Any) -> OutgoingMessage:
    """Return a message with another body or other properties."""
    return OutgoingMessage(sealed.body if body is None else body, replace(sealed.properties, **properties))


def there_and_back(codec: ReportCodec, meta: ResultMeta) -> ResultMeta:
    return codec.read(codec.single(meta.task_id, codec.write(meta, meta.task_id)))


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "application/json"])
def test_a_report_comes_back(serializer: str) -> None:
    assert there_and_back(ReportCodec(serializer=serializer, accept=["json", "msgpack", "yaml"]), META) == META


def test_a_single_message_is_celerys() -> None:
    codec = ReportCodec()
    document = codec.write(META, "t-1")
    assert list(json.loads(document)) == ["status", "result", "traceback", "children", "date_done", "task_id"]
    properties = Properties("application/json", "utf-8", {}, delivery_mode=2, priority=0, correlation_id="t-1")
    assert codec.single("t-1", document) == OutgoingMessage(document, properties)
    properties = ReportCodec(serializer="msgpack", persistent=False).single("t-1", b"x").properties
    assert (properties.content_type, properties.content_encoding) == ("application/x-msgpack", "binary")
    assert properties.delivery_mode == 1


def test_a_message_says_when_it_was_sent_where_that_is_asked_for() -> None:
    before = int(time.time())
    for sealed in (ReportCodec(dated=True).single("t-1", BODY), ReportCodec(dated=True).batch([("t-1", BODY)])):
        assert before <= (sealed.properties.timestamp or 0) <= time.time()
    assert ReportCodec().single("t-1", BODY).properties.timestamp is None


def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    document = ReportCodec().write(LARGE, "t-1")
    assert ReportCodec(max_size=len(document)).write(LARGE, "t-1") == document
    with pytest.raises(ResultTooLarge) as caught:
        ReportCodec(max_size=len(document) - 1).write(LARGE, "t-1")
    assert (caught.value.task_id, caught.value.size, caught.value.limit) == ("t-1", len(document), len(document) - 1)
    assert ReportCodec(max_size=1000, compression="zlib").write(LARGE, "t-1") == document


def test_a_plain_message_of_celery_is_read() -> None:
    codec = ReportCodec()
    [document] = codec.open(changed(message(), correlation_id="c-1"))
    assert document == Document("c-1", "application/json", "utf-8", BODY)
    assert codec.decode(document) == ResultMeta("t-1", "SUCCESS", 1)


@pytest.mark.parametrize("content_type", ["Application/JSON", "application/json; charset=utf-8"])
def test_content_types_are_compared_as_media_types(content_type: str) -> None:
    codec = ReportCodec()
    [document] = codec.open(message(content_type=content_type))
    assert codec.decode(document).result == 1


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/x-yaml", "text/plain", "", None]
)
def test_other_content_types_are_refused_by_name(content_type: str | None) -> None:
    codec = ReportCodec()
    with pytest.raises(ContentDisallowed) as caught:
        codec.open(message(content_type=content_type))
    assert caught.value.content_type == (content_type or "")
    assert caught.value.task_id == "t-1"
    with pytest.raises(ContentDisallowed):
        codec.decode(Document("t-1", content_type, "utf-8", BODY))


def test_nothing_refused_is_decompressed_or_decoded() -> None:
    def loads(data: bytes) -> Any:
        raise AssertionError("decoded")

    serializers = Serializers()
    serializers.register("pickle", pickle.dumps, loads, "application/x-python-serialize", "binary")
    codec = ReportCodec(serializers=serializers, accept=["json"])
    with pytest.raises(ContentDisallowed):
        codec.open(message(b"not zlib", "application/x-python-serialize", compression="application/x-gzip"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"serializer": "xml"}, "'xml': known are json, msgpack, yaml"),
        ({"serializer": "pickle"}, "'pickle': it runs code"),
        ({"accept": ["json", "xml"]}, "'xml'"),
        ({"accept": "json"}, "a collection of names, not 'json'"),
        ({"compression": "rar"}, "'rar': known are zlib, bz2, lzma, zstd"),
        ({"signing_key": b""}, "signing_key"),
        ({"signing_key": "text"}, "signing_key"),
        ({"signing_key": []}, "signing_key"),
        ({"signing_key": [b"key", b""]}, "signing_key"),
        ({"max_body_size": 0}, "max_body_size"),
        ({"max_decompressed_size": -1}, "max_decompressed_size"),
        ({"max_depth": True}, "max_depth"),
        ({"max_containers": 1.5}, "max_containers"),
    ],
    ids=str,
)
def test_what_cannot_work_is_said_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ReportCodec(**options)


# Batches


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"signing_key": b"key"}], ids=str)
def test_a_batch_comes_back(options: dict[str, Any]) -> None:
    codec = ReportCodec(serializer="msgpack", **options)
    metas = [ResultMeta(f"t-{number}", "SUCCESS", number) for number in range(300)]
    sealed = codec.batch([(meta.task_id, codec.write(meta, meta.task_id)) for meta in metas])
    assert sealed.properties.content_type == "application/x-aioresults-batch; v=2"
    assert sealed.properties.correlation_id is None
    documents = codec.open(sealed)
    assert [document.task_id for document in documents] == [meta.task_id for meta in metas]
    assert [codec.decode(document) for document in documents] == metas


def test_a_corrupt_document_costs_one_result() -> None:
    codec = ReportCodec()
    documents = codec.open(codec.batch([("t-0", b"{"), ("t-1", BODY)]))
    with pytest.raises(DecodeError) as caught:
        codec.decode(documents[0])
    assert caught.value.task_id == "t-0"
    assert codec.decode(documents[1]).result == 1


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(DecodeError, match="unknown version: 'application/x-aioresults-batch; v=3'"):
        ReportCodec().open(message(content_type="application/x-aioresults-batch; v=3"))


@pytest.mark.parametrize("inner", ["application/x-python-serialize", None, 5])
def test_what_is_in_a_batch_must_be_accepted(inner: object) -> None:
    headers = {"x-aioresults-content-type": inner}
    with pytest.raises(ContentDisallowed):
        ReportCodec().open(message(b"", "application/x-aioresults-batch; v=2", **headers))


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b"\x00\x00\x00\x01",
        b"\x00\x00\x00\x01a",
        b"\x00\x00\x00\x01a\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xff\x00\x00\x00\x00",
        b"\x00" * 8 * 65_537,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_broken_frames_are_decode_errors(body: bytes) -> None:
    headers = {"x-aioresults-content-type": "application/json"}
    with pytest.raises(DecodeError):
        ReportCodec().open(message(body, "application/x-aioresults-batch; v=2", **headers))


def test_a_batch_may_hold_65536_documents() -> None:
    codec = ReportCodec()
    assert len(codec.open(codec.batch([("", b"")] * 65_536))) == 65_536
    with pytest.raises(ValueError, match="more than a batch may hold"):
        codec.batch([("", b"")] * 65_537)


def test_a_task_id_that_is_no_text_is_refused() -> None:
    with pytest.raises(EncodeError, match="task id"):
        ReportCodec().batch([("\ud800", BODY)])


# Whose result an error is about


def claims(codec: ReportCodec, received: OutgoingMessage) -> tuple[str | None, tuple[str, ...]]:
    """Return what the error of a message that cannot be opened says of its tasks."""
    with pytest.raises(DecodeError) as caught:
        codec.open(received)
    return caught.value.task_id, caught.value.task_ids


@pytest.mark.parametrize(
    "received",
    [message(content_type="text/plain"), message(compression="zlib"), message(compression="brotli"), message(BODY * 9)],
    ids=lambda received: repr(received.properties.headers or received.properties.content_type),
)
def test_the_error_of_a_message_names_its_task(received: OutgoingMessage) -> None:
    assert claims(ReportCodec(max_body_size=400), received) == ("t-1", ())


def test_the_error_of_a_batch_names_the_tasks_that_it_claims_to_hold() -> None:
    batch = ReportCodec().batch([("t-1", BODY), ("t-2", BODY)])
    other = ReportCodec(serializer="msgpack", accept=())
    assert claims(ReportCodec(signing_key=b"key"), batch) == (None, ("t-1", "t-2"))
    assert claims(other, batch) == (None, ("t-1", "t-2"))


def test_the_error_of_a_batch_names_nothing_that_would_cost_more() -> None:
    reader, documents = ReportCodec(signing_key=b"key", max_body_size=5000), [("t-1", BODY), ("t-2", BODY)]
    batch = ReportCodec().batch(documents)
    refused = [
        ReportCodec(compression="zlib").batch(documents * 20),  # nobody vouches for what it would become
        ReportCodec().batch(documents * 100),  # too long to be looked at
        changed(batch, content_type="application/x-aioresults-batch; v=3"),
        changed(batch, batch.body[:-1]),
    ]
    for each in refused:
        assert claims(reader, each) == (None, ())


def test_one_report_is_read_where_there_is_one() -> None:
    codec = ReportCodec()
    assert codec.read(codec.batch([("t-1", BODY)])) == codec.read(message()) == ResultMeta("t-1", "SUCCESS", 1)
    with pytest.raises(DecodeError, match="a batch of 2 reports") as caught:
        codec.read(codec.batch([("t-1", BODY), ("t-2", BODY)]))
    assert caught.value.task_ids == ("t-1", "t-2")


def test_each_report_of_a_batch_is_read() -> None:
    codec = ReportCodec()
    (first, bad), (second, good) = codec.read_all(codec.batch([("t-0", b"{"), ("t-1", BODY)]))
    assert isinstance(first, DecodeError)
    assert (first.task_id, bad.task_id, good.body) == ("t-0", "t-0", BODY)
    assert second == ResultMeta("t-1", "SUCCESS", 1)
    with pytest.raises(ContentDisallowed):
        list(codec.read_all(message(content_type="text/plain")))


# Compression


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("zlib", "application/x-gzip"),
        ("gzip", "application/x-gzip"),
        ("bz2", "application/x-bz2"),
        ("lzma", "application/x-lzma"),
        ("zstd", "application/zstd"),
    ],
)
def test_large_results_are_compressed_as_kombu_would(name: str, header: str) -> None:
    codec = ReportCodec(compression=name)
    document = codec.write(LARGE, "t-1")
    sealed = codec.single("t-1", document)
    assert sealed.properties.headers == {"compression": header}
    assert len(sealed.body) < 500
    assert kombu_decompress(sealed.body, header) == document
    assert there_and_back(codec, LARGE) == LARGE


def test_what_is_small_or_does_not_shrink_stays_plain() -> None:
    codec = ReportCodec(compression="zlib")
    assert codec.single("t-1", b"x" * 1023).properties.headers == {}
    assert codec.single("t-1", b"x" * 1024).properties.headers != {}
    random = zlib.compress(b"".join(bytes([n % 256, n * n % 256, n * n * n % 251]) for n in range(5000)), 9) * 1
    assert codec.single("t-1", random).body is random


@pytest.mark.parametrize(("header", "compress"), COMPRESSIONS.items())
def test_what_kombu_compresses_is_read(header: str, compress: Callable[[bytes], bytes]) -> None:
    codec = ReportCodec()
    [document] = codec.open(message(kombu_compress(BODY, header)[0], compression=header))
    assert document.body == BODY
    assert codec.open(message(compress(BODY), compression=header)) == [document]


def test_gzips_own_framing_is_read_under_the_name_that_zlib_took() -> None:
    [document] = ReportCodec().open(message(gzip.compress(BODY), compression="application/x-gzip"))
    assert document.body == BODY


@pytest.mark.parametrize(("header", "compress"), COMPRESSIONS.items())
def test_bombs_and_damage(header: str, compress: Callable[[bytes], bytes]) -> None:
    codec = ReportCodec(max_decompressed_size=1000)
    assert codec.open(message(compress(b" " * 1000), compression=header))[0].body == b" " * 1000
    for body, said in [
        (compress(b" " * 1001), "larger than 1000 bytes"),
        (compress(b"\0" * 2**26), "larger than 1000 bytes"),
        (compress(BODY)[:-1], "truncated|not readable"),
        (b"", "truncated"),
        (compress(BODY) + b"x", "after the end"),
        (b"junk" * 10, "not readable"),
    ]:
        with pytest.raises(DecodeError, match=said):
            codec.open(message(body, compression=header))


def test_xz_that_wants_gigabytes_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**30}]
    with pytest.raises(DecodeError, match=r"lzma \(LZMAError\)"):
        ReportCodec().open(message(lzma.compress(b"x", filters=filters), compression="xz"))


@pytest.mark.parametrize("header", ["application/x-brotli", "none", 5, b"zlib"])
def test_unknown_compressions_are_named(header: object) -> None:
    with pytest.raises(DecodeError, match="unknown compression"):
        ReportCodec().open(message(compression=header))


def test_a_body_has_a_limit() -> None:
    assert ReportCodec(max_body_size=len(BODY)).open(message())
    with pytest.raises(DecodeError, match=f"longer than {len(BODY) - 1}"):
        ReportCodec(max_body_size=len(BODY) - 1).open(message())


# Signatures


def test_the_first_key_signs_and_all_verify() -> None:
    old, new, both = (
        ReportCodec(signing_key=b"old"),
        ReportCodec(signing_key=b"new"),
        ReportCodec(signing_key=[b"new", b"old"]),
    )
    for writer, reader in [(old, old), (old, both), (new, both), (both, new)]:
        assert reader.read(writer.single("t-1", BODY)).result == 1
    with pytest.raises(SignatureMismatch):
        old.open(both.single("t-1", BODY))


def test_unsigned_messages_are_refused_where_a_key_is_set_and_only_there() -> None:
    with pytest.raises(SignatureMismatch, match="not signed") as caught:
        ReportCodec(signing_key=b"key").open(message())
    assert caught.value.task_id == "t-1"
    assert ReportCodec().open(ReportCodec(signing_key=b"key").single("t-1", BODY))


def test_a_signature_covers_everything_that_matters() -> None:
    codec = ReportCodec(signing_key=b"key", compression="zlib")
    sealed = codec.single("t-1", codec.write(LARGE, "t-1"))
    headers = sealed.properties.headers or {}
    unlabelled = {"x-aioresults-signature": headers["x-aioresults-signature"]}
    assert codec.open(sealed)
    forged = [
        changed(sealed, correlation_id="t-2"),
        changed(sealed, correlation_id=None),
        changed(sealed, sealed.body + b" "),
        changed(sealed, content_type="application/x-msgpack"),
        changed(sealed, content_type=None),
        changed(sealed, content_encoding="latin-1"),
        changed(sealed, headers=None),
        changed(sealed, headers=unlabelled),
        changed(sealed, headers=headers | {"compression": "zstd"}),
        changed(sealed, headers=headers | {"x-aioresults-content-type": "application/json"}),
    ]
    forged += [
        changed(sealed, headers=headers | {"x-aioresults-signature": signature})
        for signature in ("", "0" * 64, "é", 5, headers["x-aioresults-signature"].upper())
    ]
    for each in forged:
        with pytest.raises(SignatureMismatch):
            codec.open(each)


def test_a_signature_covers_the_type_of_what_is_in_a_batch() -> None:
    codec = ReportCodec(signing_key=b"key")
    sealed = codec.batch([("t-1", BODY)])
    assert codec.open(sealed)
    inner = (sealed.properties.headers or {}) | {"x-aioresults-content-type": "application/x-msgpack"}
    for forged in (
        changed(sealed, headers=inner),
        changed(sealed, sealed.body.replace(b"t-1", b"t-2")),
        changed(sealed, correlation_id="t-2"),
    ):
        with pytest.raises(SignatureMismatch):
            codec.open(forged)


def test_a_signature_is_checked_before_decompression() -> None:
    with pytest.raises(SignatureMismatch):
        ReportCodec(signing_key=b"key").open(message(b"junk", compression="zlib"))


# Failures that are hard to write


class Sulky:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
def test_arguments_that_cannot_be_written_become_their_repr(serializer: str) -> None:
    codec = ReportCodec(serializer=serializer, accept=[serializer])
    error = ValueError("ok", object, {1, 2} if serializer != "yaml" else 1j, Sulky())
    meta = there_and_back(codec, ResultMeta("t-1", "FAILURE", error, traceback="\ud800 tb"))
    assert isinstance(meta.result, ValueError)
    odd = "{1, 2}" if serializer != "yaml" else "1j"
    assert meta.result.args == ("ok", "<class 'object'>", odd, "<Sulky whose repr raised RuntimeError>")
    assert meta.traceback == "\\ud800 tb"


def test_a_failure_with_a_result_that_is_no_exception_is_written_as_it_is() -> None:
    assert json.loads(ReportCodec().write(ResultMeta("t-1", "FAILURE", {"x": 1}), "t-1"))["result"] == {"x": 1}
    with pytest.raises(EncodeError, match="set"):
        ReportCodec().write(ResultMeta("t-1", "FAILURE", {1}), "t-1")


def test_an_exception_that_is_no_failure_is_a_value_that_cannot_be_written() -> None:
    with pytest.raises(EncodeError, match="ValueError"):
        ReportCodec().write(ResultMeta("t-1", "SUCCESS", ValueError("x")), "t-1")


def test_a_codec_shows_no_key() -> None:
    assert "sesame" not in repr(vars(ReportCodec(signing_key=b"sesame")))
