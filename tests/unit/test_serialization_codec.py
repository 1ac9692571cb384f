"""The codec: messages out of reports and back, and everything it refuses."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from backports import zstd
from kombu.compression import compress, decompress

from aioresults.errors import ConfigurationError, ContentDisallowed, DecodeError, EncodeError, SignatureMismatch
from aioresults.results import ResultMeta
from aioresults.serialization import Codec, Document, Envelope, Serializers

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


def message(body: bytes = BODY, content_type: str | None = "application/json", **headers: Any) -> Envelope:
    return Envelope(body, content_type, "utf-8", headers)


def there_and_back(codec: Codec, meta: ResultMeta) -> ResultMeta:
    [document] = codec.open(codec.seal(meta.task_id, codec.encode(meta)), meta.task_id)
    return codec.decode(document)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "application/json"])
def test_a_report_comes_back(serializer: str) -> None:
    assert there_and_back(Codec(serializer=serializer, accept=["json", "msgpack", "yaml"]), META) == META


def test_a_single_message_is_celerys() -> None:
    codec = Codec()
    document = codec.encode(META)
    assert list(json.loads(document)) == ["status", "result", "traceback", "children", "date_done", "task_id"]
    assert codec.seal("t-1", document) == Envelope(document, "application/json", "utf-8", {})
    assert Codec(serializer="msgpack").seal("t-1", b"x") == Envelope(b"x", "application/x-msgpack", "binary", {})


def test_a_plain_message_of_celery_is_read() -> None:
    codec = Codec()
    [document] = codec.open(message(), "c-1")
    assert document == Document("c-1", "application/json", "utf-8", BODY)
    assert codec.decode(document) == ResultMeta("t-1", "SUCCESS", 1)


@pytest.mark.parametrize("content_type", ["Application/JSON", "application/json; charset=utf-8"])
def test_content_types_are_compared_as_media_types(content_type: str) -> None:
    codec = Codec()
    [document] = codec.open(message(content_type=content_type), None)
    assert codec.decode(document).result == 1


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/x-yaml", "text/plain", "", None]
)
def test_other_content_types_are_refused_by_name(content_type: str | None) -> None:
    codec = Codec()
    with pytest.raises(ContentDisallowed) as caught:
        codec.open(message(content_type=content_type), "t-1")
    assert caught.value.content_type == (content_type or "")
    assert caught.value.task_id == "t-1"
    with pytest.raises(ContentDisallowed):
        codec.decode(Document("t-1", content_type, "utf-8", BODY))


def test_nothing_refused_is_decompressed_or_decoded() -> None:
    def loads(data: bytes) -> Any:
        raise AssertionError("decoded")

    serializers = Serializers()
    serializers.register("pickle", pickle.dumps, loads, "application/x-python-serialize", "binary")
    codec = Codec(serializers=serializers, accept=["json"])
    with pytest.raises(ContentDisallowed):
        codec.open(message(b"not zlib", "application/x-python-serialize", compression="application/x-gzip"), None)


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
        Codec(**options)


# Batches


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"signing_key": b"key"}], ids=str)
def test_a_batch_comes_back(options: dict[str, Any]) -> None:
    codec = Codec(serializer="msgpack", **options)
    metas = [ResultMeta(f"t-{number}", "SUCCESS", number) for number in range(300)]
    envelope = codec.seal_batch([(meta.task_id, codec.encode(meta)) for meta in metas])
    assert envelope.content_type == "application/x-aioresults-batch; v=1"
    documents = codec.open(envelope, "whatever")
    assert [document.task_id for document in documents] == [meta.task_id for meta in metas]
    assert [codec.decode(document) for document in documents] == metas


def test_a_corrupt_document_costs_one_result() -> None:
    codec = Codec()
    documents = codec.open(codec.seal_batch([("t-0", b"{"), ("t-1", BODY)]), None)
    with pytest.raises(DecodeError) as caught:
        codec.decode(documents[0])
    assert caught.value.task_id == "t-0"
    assert codec.decode(documents[1]).result == 1


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(DecodeError, match="unknown version: 'application/x-aioresults-batch; v=2'"):
        Codec().open(message(content_type="application/x-aioresults-batch; v=2"), None)


@pytest.mark.parametrize("inner", ["application/x-python-serialize", None, 5])
def test_what_is_in_a_batch_must_be_accepted(inner: object) -> None:
    headers = {"x-aioresults-content-type": inner}
    with pytest.raises(ContentDisallowed):
        Codec().open(message(b"", "application/x-aioresults-batch; v=1", **headers), None)


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
        Codec().open(message(body, "application/x-aioresults-batch; v=1", **headers), None)


def test_a_batch_may_hold_65536_documents() -> None:
    codec = Codec()
    assert len(codec.open(codec.seal_batch([("", b"")] * 65_536), None)) == 65_536
    with pytest.raises(ValueError, match="more than a batch may hold"):
        codec.seal_batch([("", b"")] * 65_537)


def test_a_task_id_that_is_no_text_is_refused() -> None:
    with pytest.raises(EncodeError, match="task id"):
        Codec().seal_batch([("\ud800", BODY)])


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
    codec = Codec(compression=name)
    document = codec.encode(LARGE)
    envelope = codec.seal("t-1", document)
    assert envelope.headers == {"compression": header}
    assert len(envelope.body) < 500
    assert kombu_decompress(envelope.body, header) == document
    assert there_and_back(codec, LARGE) == LARGE


def test_what_is_small_or_does_not_shrink_stays_plain() -> None:
    codec = Codec(compression="zlib")
    assert codec.seal("t-1", b"x" * 1023).headers == {}
    assert codec.seal("t-1", b"x" * 1024).headers != {}
    random = zlib.compress(b"".join(bytes([n % 256, n * n % 256, n * n * n % 251]) for n in range(5000)), 9) * 1
    assert codec.seal("t-1", random).body is random


@pytest.mark.parametrize(("header", "compress"), COMPRESSIONS.items())
def test_what_kombu_compresses_is_read(header: str, compress: Callable[[bytes], bytes]) -> None:
    codec = Codec()
    [document] = codec.open(message(kombu_compress(BODY, header)[0], compression=header), None)
    assert document.body == BODY
    assert codec.open(message(compress(BODY), compression=header), None) == [document]


def test_gzips_own_framing_is_read_under_the_name_that_zlib_took() -> None:
    [document] = Codec().open(message(gzip.compress(BODY), compression="application/x-gzip"), None)
    assert document.body == BODY


@pytest.mark.parametrize(("header", "compress"), COMPRESSIONS.items())
def test_bombs_and_damage(header: str, compress: Callable[[bytes], bytes]) -> None:
    codec = Codec(max_decompressed_size=1000)
    assert codec.open(message(compress(b" " * 1000), compression=header), None)[0].body == b" " * 1000
    for body, said in [
        (compress(b" " * 1001), "larger than 1000 bytes"),
        (compress(b"\0" * 2**26), "larger than 1000 bytes"),
        (compress(BODY)[:-1], "truncated|not readable"),
        (b"", "truncated"),
        (compress(BODY) + b"x", "after the end"),
        (b"junk" * 10, "not readable"),
    ]:
        with pytest.raises(DecodeError, match=said):
            codec.open(message(body, compression=header), None)


def test_xz_that_wants_gigabytes_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**30}]
    with pytest.raises(DecodeError, match=r"lzma \(LZMAError\)"):
        Codec().open(message(lzma.compress(b"x", filters=filters), compression="xz"), None)


@pytest.mark.parametrize("header", ["application/x-brotli", "none", 5, b"zlib"])
def test_unknown_compressions_are_named(header: object) -> None:
    with pytest.raises(DecodeError, match="unknown compression"):
        Codec().open(message(compression=header), "t-1")


def test_a_body_has_a_limit() -> None:
    assert Codec(max_body_size=len(BODY)).open(message(), None)
    with pytest.raises(DecodeError, match=f"longer than {len(BODY) - 1}"):
        Codec(max_body_size=len(BODY) - 1).open(message(), None)


# Signatures


def test_the_first_key_signs_and_all_verify() -> None:
    old, new, both = Codec(signing_key=b"old"), Codec(signing_key=b"new"), Codec(signing_key=[b"new", b"old"])
    for writer, reader in [(old, old), (old, both), (new, both), (both, new)]:
        envelope = writer.seal("t-1", BODY)
        assert reader.decode(reader.open(envelope, "t-1")[0]).result == 1
    with pytest.raises(SignatureMismatch):
        old.open(both.seal("t-1", BODY), "t-1")


def test_unsigned_messages_are_refused_where_a_key_is_set_and_only_there() -> None:
    with pytest.raises(SignatureMismatch, match="not signed") as caught:
        Codec(signing_key=b"key").open(message(), "t-1")
    assert caught.value.task_id == "t-1"
    assert Codec().open(Codec(signing_key=b"key").seal("t-1", BODY), "t-1")


def test_a_signature_covers_everything_that_matters() -> None:
    codec = Codec(signing_key=b"key", compression="zlib")
    sealed = codec.seal("t-1", codec.encode(LARGE))
    headers = dict(sealed.headers)
    unlabelled = {"x-aioresults-signature": headers["x-aioresults-signature"]}
    assert codec.open(sealed, "t-1")
    changed: list[tuple[Envelope, str | None]] = [
        (sealed, "t-2"),
        (sealed, None),
        (sealed._replace(body=sealed.body + b" "), "t-1"),
        (sealed._replace(content_type="application/x-msgpack"), "t-1"),
        (sealed._replace(content_type=None), "t-1"),
        (sealed._replace(content_encoding="latin-1"), "t-1"),
        (sealed._replace(headers=unlabelled), "t-1"),
        (sealed._replace(headers=headers | {"compression": "zstd"}), "t-1"),
        (sealed._replace(headers=headers | {"x-aioresults-content-type": "application/json"}), "t-1"),
    ]
    changed += [
        (sealed._replace(headers=headers | {"x-aioresults-signature": signature}), "t-1")
        for signature in ("", "0" * 64, "é", 5, headers["x-aioresults-signature"].upper())
    ]
    for envelope, correlation_id in changed:
        with pytest.raises(SignatureMismatch):
            codec.open(envelope, correlation_id)


def test_a_signature_covers_the_type_of_what_is_in_a_batch() -> None:
    codec = Codec(signing_key=b"key")
    sealed = codec.seal_batch([("t-1", BODY)])
    assert codec.open(sealed, "whatever")
    inner = dict(sealed.headers) | {"x-aioresults-content-type": "application/x-msgpack"}
    for envelope in (sealed._replace(headers=inner), sealed._replace(body=sealed.body.replace(b"t-1", b"t-2"))):
        with pytest.raises(SignatureMismatch):
            codec.open(envelope, "whatever")


def test_a_signature_is_checked_before_decompression() -> None:
    with pytest.raises(SignatureMismatch):
        Codec(signing_key=b"key").open(message(b"junk", compression="zlib"), "t-1")


# Failures that are hard to write


class Sulky:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
def test_arguments_that_cannot_be_written_become_their_repr(serializer: str) -> None:
    codec = Codec(serializer=serializer, accept=[serializer])
    error = ValueError("ok", object, {1, 2} if serializer != "yaml" else 1j, Sulky())
    meta = there_and_back(codec, ResultMeta("t-1", "FAILURE", error, traceback="\ud800 tb"))
    assert isinstance(meta.result, ValueError)
    odd = "{1, 2}" if serializer != "yaml" else "1j"
    assert meta.result.args == ("ok", "<class 'object'>", odd, "<Sulky whose repr raised RuntimeError>")
    assert meta.traceback == "\\ud800 tb"


def test_a_failure_with_a_result_that_is_no_exception_is_written_as_it_is() -> None:
    assert json.loads(Codec().encode(ResultMeta("t-1", "FAILURE", {"x": 1})))["result"] == {"x": 1}
    with pytest.raises(EncodeError, match="set"):
        Codec().encode(ResultMeta("t-1", "FAILURE", {1}))


def test_an_exception_that_is_no_failure_is_a_value_that_cannot_be_written() -> None:
    with pytest.raises(EncodeError, match="ValueError"):
        Codec().encode(ResultMeta("t-1", "SUCCESS", ValueError("x")))


# Serializers of the user's


def test_a_serializer_of_the_users() -> None:
    serializers = Serializers()
    serializers.register(
        "reversed", lambda value: json.dumps(value)[::-1], lambda text: json.loads(text[::-1]), "x/rev"
    )
    serializers.register("packed", msgpack.packb, msgpack.unpackb, "X/Packed", "binary")
    for name in ("reversed", "packed"):
        codec = Codec(serializers=serializers, serializer=name, accept=[name])
        assert there_and_back(codec, META) == META
        with pytest.raises(EncodeError, match=name):
            codec.encode(ResultMeta("t-1", "SUCCESS", object()))
        with pytest.raises(DecodeError, match=name):
            codec.decode(Document("t-1", codec.seal(None, b"").content_type, None, b""))
        deep: list[Any] = []
        for _ in range(100):
            deep = [deep]
        with pytest.raises(DecodeError, match="deeper"):
            there_and_back(codec, ResultMeta("t-1", "SUCCESS", deep))


@pytest.mark.parametrize(
    ("name", "content_type", "encoding"),
    [("", "a/b", "utf-8"), ("n", "ab", "utf-8"), ("n", "a/b; v=1", "utf-8"), ("n", "a/b", "latin-1")],
)
def test_a_registration_that_cannot_work(name: str, content_type: str, encoding: str) -> None:
    with pytest.raises(ConfigurationError):
        Serializers().register(name, json.dumps, json.loads, content_type, encoding)


def test_registries_know_nothing_of_each_other() -> None:
    Serializers().register("mine", json.dumps, json.loads, "x/mine")
    with pytest.raises(ConfigurationError, match="'mine'"):
        Serializers().find("mine")


def test_a_codec_shows_no_key() -> None:
    assert "sesame" not in repr(vars(Codec(signing_key=b"sesame")))
