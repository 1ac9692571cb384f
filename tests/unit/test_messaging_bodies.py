"""What goes into the bodies of messages, and what comes out of hostile ones."""

from __future__ import annotations

import zlib

import pytest

from aioresults import ConfigurationError, ContentDisallowed, DecodeError, EncodeError
from aioresults.errors import AccessRefused, ChannelClosed, ChannelError, NotFound, PreconditionFailed, ResourceLocked
from aioresults.messaging import body_codec
from aioresults.messaging.body_codec import BodyCodec
from aioresults.messaging.message import WRITTEN
from aioresults.transport.base import Properties
from aioresults.transport.broker_errors import is_of_publish


class TestReading:
    @pytest.mark.parametrize(
        ("body", "content_type", "encoding", "value"),
        [
            (b"{}", "application/json", "utf-8", {}),
            (b"{}", "Application/JSON; charset=utf-8", None, {}),
            (b"\xe9", "text/plain", "latin-1", "é"),
            (b"\xff", None, None, b"\xff"),
            (b"\xff", "application/data", "binary", b"\xff"),
        ],
    )
    def test_values(self, body: bytes, content_type: str | None, encoding: str | None, value: object) -> None:
        assert BodyCodec().read(body, Properties(content_type, encoding)) == value

    @pytest.mark.parametrize("content_type", ["application/x-python-serialize", "image/png", "x"])
    def test_unknown_types(self, content_type: str) -> None:
        with pytest.raises(ContentDisallowed):
            BodyCodec().read(b"", Properties(content_type))

    def test_text_and_bytes_need_no_leave(self) -> None:
        strict = BodyCodec(accept=[])
        assert strict.read(b"x", Properties("text/plain")) == "x"
        assert strict.accept == frozenset()
        assert BodyCodec(accept=["text/plain", "json"]).accept == frozenset({"application/json"})
        with pytest.raises(ContentDisallowed):
            strict.read(b"{}", Properties("application/json"))

    def test_decompression_has_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(body_codec, "MAX_DECOMPRESSED", 1000)
        properties = Properties("text/plain", headers={"compression": "application/x-gzip"})
        assert BodyCodec().read(zlib.compress(b"x" * 1000), properties) == "x" * 1000
        with pytest.raises(DecodeError, match="larger than 1000"):
            BodyCodec().read(zlib.compress(b"x" * 1001), properties)

    def test_what_is_refused_is_not_decompressed(self) -> None:
        properties = Properties("image/png", headers={"compression": "application/x-gzip"})
        with pytest.raises(ContentDisallowed):
            BodyCodec().read(b"not compressed", properties)


class TestWriting:
    def test_own_headers_are_kept(self) -> None:
        properties = Properties(headers={"mine": 1})
        _, written = BodyCodec().write("x", properties, compression="bz2")
        assert written.headers == {"mine": 1, "compression": "application/x-bz2"}

    def test_text_that_has_no_bytes(self) -> None:
        for properties in (Properties(), Properties("text/plain", "ascii"), Properties("text/plain", "rot14")):
            with pytest.raises(EncodeError, match="cannot be written as"):
                BodyCodec().write("\ud800", properties)

    def test_serializer_may_be_a_content_type(self) -> None:
        assert BodyCodec().write("x", Properties(), serializer="application/json").body == b'"x"'
        with pytest.raises(ConfigurationError):
            BodyCodec().write("x", Properties(), serializer="nothing")


async def test_what_acknowledging_returns_may_be_awaited_at_any_time() -> None:
    assert await WRITTEN is None  # type: ignore[func-returns-value]
    assert await WRITTEN is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (NotFound(404, "NOT_FOUND - no exchange 'x' in vhost '/'"), True),
        (NotFound(404, "NOT_FOUND - no exchange 'y' in vhost '/'"), False),
        (NotFound(404, "NOT_FOUND - no queue 'x' in vhost '/'"), False),
        (AccessRefused(403, "ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused for user 'u'"), True),
        (AccessRefused(403, "ACCESS_REFUSED - access to queue 'x' in vhost '/' refused for user 'u'"), False),
        (ResourceLocked(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'x'"), False),
        (PreconditionFailed(406, "PRECONDITION_FAILED - message size 4 is larger than max size 3"), True),
        (PreconditionFailed(406, "PRECONDITION_FAILED - message size 9 is larger than max size 3"), False),
        (PreconditionFailed(406, "PRECONDITION_FAILED - invalid expiration 'x': no_integer"), True),
        (PreconditionFailed(406, "PRECONDITION_FAILED - unknown delivery tag 1"), False),
        (PreconditionFailed(406, "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use"), False),
        (PreconditionFailed(406, "PRECONDITION_FAILED - unknown exchange type 'z'"), False),
        (PreconditionFailed(406, "PRECONDITION_FAILED - invalid arg 'x-expires' for queue 'q' in vhost '/'"), False),
        (ChannelClosed(), False),
    ],
)
def test_whose_refusal_closed_the_channel(error: ChannelError, own: bool) -> None:
    assert is_of_publish(error, b"1234", "x") is own
