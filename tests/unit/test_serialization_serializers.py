"""Serializers of the user's: what can be registered, what a codec makes of them, and how deep a value may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from aioresults.errors import ConfigurationError, ContentDisallowed, DecodeError, EncodeError
from aioresults.results import ResultMeta
from aioresults.serialization import Document, ReportCodec, Serializers
from aioresults.serialization.serializer import DecodeLimits, is_deeper

META = ResultMeta("t-1", "SUCCESS", {"answer": [42]})


def there_and_back(codec: ReportCodec, meta: ResultMeta) -> ResultMeta:
    return codec.read(codec.single(meta.task_id, codec.write(meta, meta.task_id)))


@pytest.mark.parametrize("name", ["reversed", "packed"])
def test_a_serializer_of_the_users(name: str) -> None:
    serializers = Serializers()
    serializers.register(
        "reversed", lambda value: json.dumps(value)[::-1], lambda text: json.loads(text[::-1]), "x/rev"
    )
    serializers.register("packed", msgpack.packb, msgpack.unpackb, "X/Packed", "binary")
    codec = ReportCodec(serializers=serializers, serializer=name, accept=[name])
    assert there_and_back(codec, META) == META
    with pytest.raises(EncodeError, match=name):
        codec.write(ResultMeta("t-1", "SUCCESS", object()), "t-1")
    body = b"\xc1" if name == "packed" else b"x"
    with pytest.raises(DecodeError, match=name):
        codec.decode(Document("t-1", codec.single("t-1", b"").properties.content_type, None, body))
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(DecodeError, match="deeper"):
        there_and_back(codec, ResultMeta("t-1", "SUCCESS", deep))


def test_a_serializer_that_counts_is_held_to_the_number_of_containers() -> None:
    counted: list[str] = []

    def exceeds(text: str, limit: int) -> bool:
        counted.append(text)
        return text.count("[") > limit

    def upper_bound(text: str) -> int:
        return text.count("[")

    serializers = Serializers()
    serializers.register("lists", json.dumps, json.loads, "x/lists", upper_bound=upper_bound, exceeds=exceeds)
    lists, limits = serializers.find("lists"), DecodeLimits(depth=2, containers=3)
    assert lists.read(b"[[]]", None, limits) == [[]]
    assert lists.read(b"[[], []]", None, limits) == [[], []]
    assert not counted
    with pytest.raises(DecodeError, match="more than 3 containers"):
        lists.read(b"[[], [], []]", None, limits)
    with pytest.raises(DecodeError, match="deeper than 2 levels"):
        lists.read(b"[[[]]]", None, limits)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": ""}, "the name of a serializer must be a non-empty string"),
        ({"name": 5}, "the name of a serializer must be a non-empty string"),
        ({"name": "x/y"}, "a name without a slash"),
        ({"content_type": None}, "content_type must be a non-empty string"),
        ({"content_type": "ab"}, "a media type, not 'n' and 'ab'"),
        ({"content_type": "a/b; v=1"}, "a media type, not 'n' and 'a/b; v=1'"),
        ({"content_type": "application/x-aioresults-batch"}, "the content type of batches"),
        ({"content_encoding": "latin-1"}, "content_encoding must be"),
        ({"dumps": None}, "dumps of serializer 'n' must be a callable, not None"),
        ({"loads": None}, "loads of serializer 'n' must be a callable, not None"),
        ({"loads": "json.loads"}, "loads of serializer 'n' must be a callable"),
        ({"upper_bound": None}, "upper_bound of serializer 'n' must be a callable"),
        ({"exceeds": 5}, "exceeds must be a callable"),
    ],
    ids=str,
)
def test_a_registration_that_cannot_work(changed: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"name": "n", "dumps": json.dumps, "loads": json.loads, "content_type": "a/b"}
    serializers = Serializers()
    with pytest.raises(ConfigurationError, match=said):
        serializers.register(**arguments | changed)
    with pytest.raises(ConfigurationError, match="there is no serializer 'n'"):
        serializers.find("n")


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON"])
def test_two_serializers_cannot_have_one_content_type(content_type: str) -> None:
    with pytest.raises(ConfigurationError, match="is the content type of the serializer 'json'"):
        Serializers().register("mine", json.dumps, json.loads, content_type)


def test_a_serializer_can_be_replaced_under_its_name() -> None:
    serializers = Serializers()
    serializers.register("json", lambda value: json.dumps(value, indent=1), json.loads, "application/json")
    assert serializers.find("application/json") is serializers.find("json")
    assert b"\n" in ReportCodec(serializers=serializers).write(META, "t-1")
    serializers.register("json", json.dumps, json.loads, "x/json")
    with pytest.raises(ConfigurationError, match="'application/json'"):
        serializers.find("application/json")
    serializers.register("other", json.dumps, json.loads, "application/json")
    assert serializers.find("application/json").name == "other"


def test_registries_know_nothing_of_each_other() -> None:
    Serializers().register("mine", json.dumps, json.loads, "x/mine")
    with pytest.raises(ConfigurationError, match="'mine'"):
        Serializers().find("mine")


@pytest.mark.parametrize("name", ["", None, 5, ["json"]])
def test_what_is_no_name_is_not_found(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a serializer must be a non-empty string"):
        Serializers().find(name)


# What a codec writes it reads


@pytest.mark.parametrize("accept", [("json", "msgpack"), ("application/json",), ()])
@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "application/x-yaml", "mine"])
def test_what_is_written_is_read_whatever_is_accepted(serializer: str, accept: tuple[str, ...]) -> None:
    serializers = Serializers()
    serializers.register("mine", json.dumps, json.loads, "x/mine")
    codec = ReportCodec(serializers=serializers, serializer=serializer, accept=accept)
    assert there_and_back(codec, META) == META
    document = codec.write(META, "t-1")
    [(meta, _)] = codec.read_all(codec.batch([("t-1", document)]))
    assert meta == META


def test_nothing_else_is_read_for_it() -> None:
    codec = ReportCodec(serializer="msgpack", accept=())
    with pytest.raises(ContentDisallowed):
        codec.read(ReportCodec().single("t-1", b"{}"))


def fails(value: Any) -> Any:
    raise TypeError("no such thing")


@pytest.mark.parametrize(
    ("dumps", "loads", "content_encoding", "said"),
    [
        (fails, json.loads, "utf-8", "cannot write this value: TypeError: no such thing"),
        (json.dumps, fails, "utf-8", "not readable as mine"),
        (msgpack.packb, msgpack.unpackb, "utf-8", "not utf-8 text"),  # the content encoding was forgotten
        (lambda value: value, lambda value: value, "utf-8", "not readable as mine"),
        (json.dumps, str, "utf-8", "the document is not a dict"),
        (json.dumps, lambda text: {}, "utf-8", "names no task"),
        (json.dumps, lambda text: {**json.loads(text), "result": 1}, "utf-8", "it reads another value"),
    ],
)
def test_a_serializer_that_cannot_read_what_it_writes_does_not_write(
    dumps: Callable[[Any], Any], loads: Callable[[Any], Any], content_encoding: str, said: str
) -> None:
    serializers = Serializers()
    serializers.register("mine", dumps, loads, "x/mine", content_encoding)
    with pytest.raises(ConfigurationError, match=f"serializer 'mine' does not read what it writes: .*{said}"):
        ReportCodec(serializers=serializers, serializer="mine")
    assert there_and_back(ReportCodec(serializers=serializers, accept=["mine"]), META) == META


@pytest.mark.parametrize("limits", [{"max_depth": 1}, {"max_containers": 1}, {"max_body_size": 1}, {"max_size": 1}])
def test_limits_of_what_is_read_are_no_reason_to_refuse_a_serializer(limits: dict[str, int]) -> None:
    for serializer in ("json", "msgpack", "yaml"):
        ReportCodec(serializer=serializer, **limits)  # type: ignore[arg-type]


# How deep a value is nested, without recursion and without counting what is shared twice


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
