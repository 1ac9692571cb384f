"""From a report to the message that carries it, and back: the one door between values and hostile bytes.

Writing goes ``encode`` (a report to a document), then ``seal`` or ``seal_batch`` (documents to a message). Reading
goes ``open`` (a message to documents: signature, content type, compression, frames, in this order), then ``decode``
(a document to a report). Reading raises nothing but ``DecodeError`` and its kinds; writing ``EncodeError``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aioresults import states, validation
from aioresults.errors import ConfigurationError, ContentDisallowed, DecodeError, EncodeError, SignatureMismatch
from aioresults.results import ResultMeta
from aioresults.serialization import framing, signing
from aioresults.serialization.compression import compression_of, find_compression
from aioresults.serialization.envelope import Document, Envelope
from aioresults.serialization.exceptions import salvage
from aioresults.serialization.registry import Serializers
from aioresults.serialization.report import read_report, write_report
from aioresults.serialization.serializer import Limits, Serializer

COMPRESSION_THRESHOLD: Final = 1024
"""Bodies below so many bytes are never compressed: it costs more than it saves."""

_COMPRESSION: Final = "compression"
_INNER_TYPE: Final = "x-aioresults-content-type"
_INNER_ENCODING: Final = "x-aioresults-content-encoding"


class Codec:
    """Writes with one serializer, reads every accepted one, and holds what it reads to limits.

    Pure and synchronous. ``accept`` holds names or content types of serializers. With a ``signing_key`` every message
    is signed and unsigned ones are refused; of several keys the first signs and all verify. A body is refused that is
    longer than ``max_body_size`` or, decompressed, than ``max_decompressed_size`` bytes, or holds more than
    ``max_containers`` lists and dicts, or these nested deeper than ``max_depth``. ConfigurationError names what cannot
    work.
    """

    def __init__(
        self,
        *,
        serializers: Serializers | None = None,
        serializer: str = "json",
        compression: str | None = None,
        accept: Iterable[str] = ("json", "msgpack"),
        signing_key: bytes | Sequence[bytes] | None = None,
        # Limits
        max_body_size: int = 16 * 2**20,
        max_decompressed_size: int = 64 * 2**20,
        max_depth: int = 100,
        max_containers: int = 1_000_000,
    ) -> None:
        registry = Serializers() if serializers is None else serializers
        self._serializer = registry.find(serializer)
        self._compression = None if compression is None else find_compression(compression)
        self._readers = _accepted(registry, accept)
        self._exceptions = registry.exceptions
        self._signer = None if signing_key is None else signing.Signer(signing_key)
        self._max_body_size = _limit("max_body_size", max_body_size)
        self._max_decompressed_size = _limit("max_decompressed_size", max_decompressed_size)
        self._limits = Limits(_limit("max_depth", max_depth), _limit("max_containers", max_containers))

    def encode(self, meta: ResultMeta) -> bytes:
        """Return ``meta`` as one document; EncodeError names the type that cannot be written.

        A failure is always written: arguments of its exception that cannot be are replaced by their ``repr``.
        """
        report = write_report(meta)
        try:
            return self._serializer.write(report)
        except EncodeError:
            if not (isinstance(meta.result, BaseException) and meta.status in states.EXCEPTION_STATES):
                raise
        report["result"] = salvage(report["result"], self._can_write)
        if meta.traceback is not None:
            report["traceback"] = meta.traceback.encode("utf-8", "backslashreplace").decode()
        return self._serializer.write(report)

    def seal(self, correlation_id: str | None, document: bytes) -> Envelope:
        """Return the message that carries one ``document``.

        A signature covers ``correlation_id``, so this must be the one that the message will have: the task id, unless
        the request for the task asked for another.
        """
        serializer = self._serializer
        return self._seal(document, serializer.content_type, serializer.content_encoding, {}, correlation_id)

    def seal_batch(self, documents: Sequence[tuple[str, bytes]]) -> Envelope:
        """Return the message that carries many documents, ``(task id, document)`` each."""
        headers = {_INNER_TYPE: self._serializer.content_type, _INNER_ENCODING: self._serializer.content_encoding}
        return self._seal(framing.frame(documents), framing.CONTENT_TYPE, framing.CONTENT_ENCODING, headers, None)

    def open(self, envelope: Envelope, correlation_id: str | None) -> list[Document]:
        """Return the documents of a message: one, or those of a batch.

        Nothing is decompressed before the signature was verified and the content type accepted. The error of a
        message that is not a batch says in ``task_id`` whose result it was.
        """
        content_type = envelope.content_type
        batch = content_type not in self._readers and _media_type(content_type) == framing.MEDIA_TYPE
        try:
            return self._open_batch(envelope) if batch else [self._open_single(envelope, correlation_id)]
        except DecodeError as error:
            if not batch:
                error.task_id = correlation_id
            raise

    def decode(self, document: Document) -> ResultMeta:
        """Return what a document says; its error says in ``task_id`` whose result it was."""
        try:
            task_id, content_type, content_encoding, body = document
            reader = self._readers.get(content_type) or self._reader(content_type)
            return read_report(reader.read(body, content_encoding, self._limits), task_id, self._exceptions)
        except DecodeError as error:
            error.task_id = document.task_id
            raise

    def _can_write(self, value: Any) -> bool:
        try:
            self._serializer.write(value)
        except EncodeError:
            return False
        return True

    def _seal(
        self,
        body: bytes,
        content_type: str,
        content_encoding: str,
        headers: dict[str, Any],
        correlation_id: str | None,
    ) -> Envelope:
        if self._compression is not None and len(body) >= COMPRESSION_THRESHOLD:
            compressed = self._compression.compress(body)
            if len(compressed) < len(body):
                body = compressed
                headers[_COMPRESSION] = self._compression.header
        envelope = Envelope(body, content_type, content_encoding, headers)
        if self._signer is not None:
            headers[signing.HEADER] = self._signer.sign(body, _facts(envelope, correlation_id))
        return envelope

    def _open_single(self, envelope: Envelope, correlation_id: str | None) -> Document:
        self._check(envelope, correlation_id)
        self._reader(envelope.content_type)
        body = self._plain(envelope)
        return Document(correlation_id, envelope.content_type, envelope.content_encoding, body)

    def _open_batch(self, envelope: Envelope) -> list[Document]:
        try:
            self._check(envelope, None)
        except SignatureMismatch as error:
            error.task_ids = _claimed(envelope)
            raise
        if envelope.content_type != framing.CONTENT_TYPE:
            raise DecodeError(f"a batch of an unknown version: {str(envelope.content_type)[:100]!r}")
        content_type = _text(envelope.headers, _INNER_TYPE)
        content_encoding = _text(envelope.headers, _INNER_ENCODING)
        self._reader(content_type)
        return [
            Document(task_id, content_type, content_encoding, body)
            for task_id, body in framing.unframe(self._plain(envelope))
        ]

    def _check(self, envelope: Envelope, correlation_id: str | None) -> None:
        """Refuse a message that is too long, or not signed as it must be."""
        if len(envelope.body) > self._max_body_size:
            raise DecodeError(f"a body of {len(envelope.body)} bytes is longer than {self._max_body_size}")
        if self._signer is not None:
            signature = envelope.headers.get(signing.HEADER)
            self._signer.verify(signature, envelope.body, _facts(envelope, correlation_id))

    def _plain(self, envelope: Envelope) -> bytes:
        """Return the body, decompressed if need be."""
        header = envelope.headers.get(_COMPRESSION) if envelope.headers else None
        if not header:
            return envelope.body
        return compression_of(header).decompress(envelope.body, self._max_decompressed_size)

    def _reader(self, content_type: str | None) -> Serializer:
        # Nearly every message names its type exactly as the serializer does; parameters and case are rare.
        reader = self._readers.get(content_type) or self._readers.get(_media_type(content_type))
        if reader is None:
            raise ContentDisallowed("" if content_type is None else str(content_type)[:100])
        return reader


def _media_type(content_type: str | None) -> str | None:
    if content_type is None or (";" not in content_type and content_type.islower()):
        return content_type
    return content_type.partition(";")[0].strip().lower()


def _claimed(envelope: Envelope) -> tuple[str, ...]:
    """Return the tasks that a refused batch claims to be about; none when it is compressed: nobody vouches for it."""
    if envelope.content_type != framing.CONTENT_TYPE or envelope.headers.get(_COMPRESSION):
        return ()
    try:
        return tuple(task_id for task_id, _ in framing.unframe(envelope.body))
    except DecodeError:
        return ()


def _text(headers: Mapping[str, Any], name: str) -> str | None:
    value = headers.get(name)
    return value if isinstance(value, str) else None


def _facts(envelope: Envelope, correlation_id: str | None) -> tuple[str | None, ...]:
    """Return what a signature covers beside the body."""
    headers = envelope.headers
    return (
        envelope.content_type,
        envelope.content_encoding,
        _text(headers, _COMPRESSION),
        _text(headers, _INNER_TYPE),
        _text(headers, _INNER_ENCODING),
        correlation_id,
    )


def _accepted(registry: Serializers, accept: Iterable[str]) -> Mapping[str | None, Serializer]:
    named = validation.names("accept", accept)
    return {serializer.content_type: serializer for serializer in map(registry.find, named)}


def _limit(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ConfigurationError(f"{name} must be a positive whole number, not {value!r}")
