"""Message bodies: values to bytes and back, for every message that is not a report."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from aioresults import validation
from aioresults.errors import ConfigurationError, ContentDisallowed, EncodeError
from aioresults.serialization import Serializers
from aioresults.serialization.compression import compression_of, find_compression
from aioresults.serialization.serializer import DecodeLimits, decode_text
from aioresults.transport.base import OutgoingMessage, Properties

#: The content types of text and of bytes. No serializer reads them, and they are always accepted.
TEXT: Final = "text/plain"
DATA: Final = "application/data"
#: The largest size of a decompressed body, in bytes.
MAX_DECOMPRESSED: Final = 64 * 2**20
_LIMITS: Final = DecodeLimits()


@cache
def _default_serializers() -> Serializers:
    # Making a registry takes 50 us. This one may be shared, because it is never handed out to be registered with.
    return Serializers()


class BodyCodec:
    """Writes and reads message bodies.

    Args:
        serializers: a registry of your own; None means ``json``, ``msgpack``, and ``yaml`` where it is installed.
        accept: names or content types of what may be read; None means everything that the registry knows.

    Raises:
        ConfigurationError: ``accept`` contains a name that the registry does not know.
    """

    __slots__ = ("_readers", "_serializers", "accept")

    def __init__(self, serializers: Serializers | None = None, accept: Iterable[str] | None = None) -> None:
        self._serializers = _default_serializers() if serializers is None else serializers
        self._readers = None
        if accept is not None:
            named = (name for name in validation.names("accept", accept) if name not in (TEXT, DATA))
            self._readers = {one.content_type: one for one in map(self._serializers.find, named)}
        #: The content types that are read; None for everything that the registry knows.
        self.accept: frozenset[str] | None = None if self._readers is None else frozenset(self._readers)

    def write(
        self,
        value: Any,
        properties: Properties,
        *,
        serializer: str | None = None,
        compression: str | None = None,
    ) -> OutgoingMessage:
        """Return a message that carries ``value``, and note in ``properties`` how to read it.

        If ``properties`` names a content type, the value must be bytes or text and is sent as it is. Otherwise
        ``serializer`` writes it. Without a serializer, text and bytes are sent as they are, and other values as JSON.

        Raises:
            EncodeError: the value cannot be written.
            ConfigurationError: there is no such serializer or compression.
        """
        if properties.content_type:
            encoding = "utf-8" if isinstance(value, str) else "binary"
            properties.content_encoding = properties.content_encoding or encoding
            body = raw(value, properties.content_encoding)
        elif serializer is None and isinstance(value, str):
            properties.content_type, properties.content_encoding = TEXT, "utf-8"
            body = raw(value, "utf-8")
        elif serializer is None and isinstance(value, (bytes, bytearray, memoryview)):
            properties.content_type, properties.content_encoding = DATA, "binary"
            body = bytes(value)
        else:
            writer = self._serializers.find(serializer or "json")
            properties.content_type, properties.content_encoding = writer.content_type, writer.content_encoding
            body = writer.write(value)
        if compression is not None:
            chosen = find_compression(compression)
            body = chosen.compress(body)
            properties.headers = {**(properties.headers or {}), "compression": chosen.header}
        return OutgoingMessage(body, properties)

    def read(self, body: bytes, properties: Properties) -> Any:
        """Return the value that a message carries.

        Raises:
            ContentDisallowed: the content type is not accepted; nothing was decompressed or decoded.
            DecodeError: the body cannot be read.
        """
        content_type = properties.content_type or DATA
        media_type = content_type.partition(";")[0].strip().lower()
        reader = None
        if media_type not in (TEXT, DATA):
            reader = self._reader(media_type)
            if reader is None:
                raise ContentDisallowed(content_type[:100])
        header = (properties.headers or {}).get("compression")
        if header:
            body = compression_of(header).decompress(body, MAX_DECOMPRESSED)
        if reader is not None:
            return reader.read(body, properties.content_encoding, _LIMITS)
        return decode_text(body, properties.content_encoding) if media_type == TEXT else body

    def _reader(self, media_type: str) -> Any:
        if self._readers is not None:
            return self._readers.get(media_type)
        try:
            return self._serializers.find(media_type)
        except ConfigurationError:
            return None


def raw(value: Any, encoding: str) -> bytes:
    """Return bytes as they are, and text encoded with the charset ``encoding``.

    Raises:
        EncodeError: the value is neither bytes nor text, or the charset cannot encode it.
    """
    if isinstance(value, str):
        try:
            return value.encode(encoding)
        except (LookupError, UnicodeEncodeError) as error:
            raise EncodeError(f"the text cannot be written as {encoding[:100]}: {error}") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise EncodeError(f"a body that is not serialized must be bytes or text, not {type(value).__name__}")
