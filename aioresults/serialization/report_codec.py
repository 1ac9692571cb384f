"""Reports as messages: what is published for a report, and what a received message reports.

The one door between values and hostile bytes. Writing goes ``write`` (a report to a document), then ``single`` or
``batch`` (documents to a message). Reading goes ``open`` (a message to documents: signature, size, content type,
compression, frames, in this order), then ``decode`` (a document to a report). Reading raises nothing but
``DecodeError`` and its kinds. The error says whose result it was: see ``open`` and ``decode``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from time import time as wall_clock
from typing import Any, Final, NamedTuple, Protocol

from aioresults import validation
from aioresults.errors import (
    ConfigurationError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    NotAReport,
    RemoteError,
    ResultTooLarge,
    SignatureMismatch,
)
from aioresults.results import ResultMeta
from aioresults.serialization import wire_format
from aioresults.serialization.compression import COMPRESSION_HEADER, compression_of, find_compression
from aioresults.serialization.conversion import to_plain
from aioresults.serialization.exceptions import ExceptionClasses, read_exception, salvage, shortened, write_exception
from aioresults.serialization.registry import Serializers
from aioresults.serialization.serializer import DecodeLimits, Serializer, known_charset
from aioresults.states import EXCEPTION_STATES, READY_STATES, SUCCESS
from aioresults.transport.base import PERSISTENT, TRANSIENT, OutgoingMessage, Properties

#: Bodies of fewer bytes are never compressed: it costs more than it saves.
COMPRESSION_THRESHOLD: Final = 1024


class ReceivedMessage(Protocol):
    """A message as it was received, whoever delivered it."""

    @property
    def body(self) -> bytes: ...

    @property
    def properties(self) -> Properties: ...


class Document(NamedTuple):
    """One report, verified, decompressed and not yet decoded.

    A named tuple, because one is made for every result, and a frozen dataclass takes more than twice as long to make.
    """

    #: The task the message says it is about: the correlation id, or the id in the frame of a batch.
    task_id: str | None
    content_type: str | None
    content_encoding: str | None
    body: bytes


class ReportCodec:
    """Writes reports with one serializer, reads those of every accepted one, and holds what it reads to limits.

    Pure and synchronous. What it writes it reads: the content type of ``serializer`` is accepted whatever ``accept``
    says, and a serializer that cannot read back what it writes is refused here.

    Args:
        serializers: the serializers and exception classes that are known; None for those of this package.
        serializer: name or content type of the serializer that writes.
        compression: ``zlib``, ``bz2``, ``lzma``, ``zstd``, or None.
        accept: names or content types of serializers that are read as well; may be empty.
        signing_key: with a key every message is signed, and unsigned ones are refused. Of several keys the first
            signs, and all verify.
        persistent: whether messages survive a restart of the broker (delivery mode 2).
        dated: whether messages say when they were sent, for readers that decide themselves what is too old.
        max_age: seconds after which a signed message is refused, because it may have been recorded and sent again; None
            for no limit.
        max_size: the most bytes that the body of a message with one report may have when it is sent.
        max_body_size: the most bytes that the body of a received message may have,
        max_decompressed_size: and that it may have when it is decompressed.
        max_depth: how deep the lists and dicts of a received document may be nested,
        max_containers: and how many of them it may hold.

    Raises:
        ConfigurationError: an argument that cannot work, named.
    """

    def __init__(
        self,
        *,
        serializers: Serializers | None = None,
        serializer: str = "json",
        compression: str | None = None,
        accept: Iterable[str] = ("json", "msgpack"),
        signing_key: bytes | Sequence[bytes] | None = None,
        persistent: bool = True,
        dated: bool = False,
        max_age: float | None = None,
        # Limits
        max_size: int = 16 * 2**20,
        max_body_size: int = 16 * 2**20,
        max_decompressed_size: int = 64 * 2**20,
        max_depth: int = 100,
        max_containers: int = 1_000_000,
    ) -> None:
        known = Serializers() if serializers is None else serializers
        self._writer = writer = known.find(serializer)
        accepted = [*map(known.find, validation.names("accept", accept)), writer]
        self._readers: dict[str | None, Serializer] = {reader.content_type: reader for reader in accepted}
        self._exceptions = known.exceptions
        self._compression = None if compression is None else find_compression(compression)
        self._signer = None if signing_key is None else wire_format.Signer(signing_key)
        self._delivery_mode = PERSISTENT if persistent else TRANSIENT
        self._dated = dated
        self._max_age = max_age
        self._max_size = validation.count("max_size", max_size, 1)
        self._max_body_size = validation.count("max_body_size", max_body_size, 1)
        self._max_decompressed_size = validation.count("max_decompressed_size", max_decompressed_size, 1)
        self._limits = DecodeLimits(
            validation.count("max_depth", max_depth, 1), validation.count("max_containers", max_containers, 1)
        )
        self._check_writer()

    def _check_writer(self) -> None:
        """Write the smallest report and read it back, so that no result is lost to a serializer that cannot do both."""
        probe, writer = ResultMeta("a task id", SUCCESS), self._writer
        try:
            document = Document(None, writer.content_type, writer.content_encoding, self._encode(probe))
            read = self.decode(document)
        except (EncodeError, DecodeError) as error:
            raise ConfigurationError(f"serializer {writer.name!r} does not read what it writes: {error}") from error
        if read != probe:
            raise ConfigurationError(f"serializer {writer.name!r} does not read what it writes: it reads another value")

    # Writing

    def write(self, meta: ResultMeta, correlation_id: str) -> bytes:
        """Return the document of a report.

        A failure is always written: arguments of its exception that cannot be are replaced by their ``repr``, and a
        text that is too long is shortened. What ``wait_for(type=)`` reads is written, too: see ``to_plain``.

        Raises:
            EncodeError: a value that the serializer cannot write; names its type.
            ResultTooLarge: more than one message may hold, compressed if it is.
        """
        document = self._encode(meta)
        if len(document) > self._max_size:
            size = len(self.single(correlation_id, document).body)
            if size > self._max_size:
                document = self._encode_shortened(meta) if _is_failure(meta) else document
                if len(document) > self._max_size:
                    raise ResultTooLarge(meta.task_id, size, self._max_size)
        return document

    def _encode_shortened(self, meta: ResultMeta) -> bytes:
        """Return the document of a failure with the beginning of its message and the end of its traceback."""
        room = self._max_size // 32  # characters each: one may take 12 bytes
        record = write_exception(meta.result)
        record["exc_message"] = [shortened(record["exc_message"], room)]
        short = ResultMeta(
            meta.task_id, meta.status, RemoteError(record["exc_type"], record["exc_message"], record["exc_module"]),
            meta.traceback and meta.traceback[-room:],
            date_done=meta.date_done, group_id=meta.group_id, parent_id=meta.parent_id,
        )  # fmt: skip
        return self._encode(short)

    def _encode(self, meta: ResultMeta) -> bytes:
        report = write_report(meta)
        try:
            return self._writer.write(report)
        except EncodeError:
            if not _is_failure(meta):
                if meta.status in EXCEPTION_STATES:
                    raise
                report["result"] = to_plain(meta.result)
                if report["result"] is meta.result:
                    raise
                return self._writer.write(report)
        report["result"] = salvage(report["result"], self._can_write)
        if meta.traceback is not None:
            report["traceback"] = meta.traceback.encode("utf-8", "backslashreplace").decode()
        return self._writer.write(report)

    def _can_write(self, value: Any) -> bool:
        try:
            self._writer.write(value)
        except EncodeError:
            return False
        return True

    def single(self, correlation_id: str, document: bytes, message_id: str | None = None) -> OutgoingMessage:
        """Return the message that carries one document: what Celery sends.

        ``correlation_id`` is the task id, unless the request for the task asked for another. A signature covers it.
        """
        writer = self._writer
        return self._message(document, writer.content_type, writer.content_encoding, {}, correlation_id, message_id)

    def batch(self, documents: Sequence[tuple[str, bytes]], message_id: str | None = None) -> OutgoingMessage:
        """Return the message that carries many documents, ``(task id, document)`` each."""
        headers = wire_format.batch_headers(self._writer.content_type, self._writer.content_encoding)
        body = wire_format.frame(documents)
        content_type, content_encoding = wire_format.BATCH_CONTENT_TYPE, wire_format.BATCH_CONTENT_ENCODING
        return self._message(body, content_type, content_encoding, headers, None, message_id)

    def _message(
        self,
        body: bytes,
        content_type: str,
        content_encoding: str,
        headers: dict[str, Any],
        correlation_id: str | None,
        message_id: str | None,
    ) -> OutgoingMessage:
        if self._compression is not None and len(body) >= COMPRESSION_THRESHOLD:
            compressed = self._compression.compress(body)
            if len(compressed) < len(body):
                body = compressed
                headers[COMPRESSION_HEADER] = self._compression.header
        properties = Properties(
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers,
            delivery_mode=self._delivery_mode,
            priority=0,
            correlation_id=correlation_id,
            message_id=message_id,
            timestamp=int(wall_clock()) if self._dated or self._signer is not None else None,
        )
        if self._signer is not None:
            headers[wire_format.SIGNATURE_HEADER] = self._signer.sign(body, properties)
        return OutgoingMessage(body, properties)

    # Reading

    def open(self, message: ReceivedMessage) -> list[Document]:
        """Return the documents of a message, not decoded yet: one, or those of a batch.

        Nothing is decompressed before the signature was verified and the content type accepted.

        Raises:
            DecodeError: nothing of the message can be read. ``task_id`` says whose result it was; of a batch
                ``task_ids`` says whose results it claims to hold, as far as that can be told without decompressing.
        """
        content_type = message.properties.content_type
        is_batch = content_type not in self._readers and _media_type(content_type) == wire_format.BATCH_MEDIA_TYPE
        try:
            return self._open(message.body, message.properties, is_batch)
        except DecodeError as error:
            if is_batch:
                error.task_ids = self._claimed(message)
            else:
                error.task_id = message.properties.correlation_id
            raise

    def _open(self, body: bytes, properties: Properties, is_batch: bool) -> list[Document]:
        if self._signer is not None:  # before anything that ends waits
            self._verify(self._signer, body, properties)
        if len(body) > self._max_body_size:
            raise DecodeError(f"a body of {len(body)} bytes is longer than {self._max_body_size}")
        headers = properties.headers or {}
        content_type, content_encoding = properties.content_type, properties.content_encoding
        if is_batch:
            if content_type != wire_format.BATCH_CONTENT_TYPE:
                raise DecodeError(f"a batch of an unknown version: {str(content_type)[:100]!r}")
            content_type, content_encoding = wire_format.document_type(headers)
        # By the names that we have for them: a sender has endless names for the same.
        reader = self._readers.get(content_type) or self._reader(content_type)
        content_type = reader.content_type
        if content_encoding != reader.content_encoding:
            is_binary = reader.content_encoding == wire_format.BINARY
            content_encoding = wire_format.BINARY if is_binary else known_charset(content_encoding)
        if compression := headers.get(COMPRESSION_HEADER):
            body = compression_of(compression).decompress(body, self._max_decompressed_size)
        if is_batch:
            return [
                Document(task_id, content_type, content_encoding, each) for task_id, each in wire_format.unframe(body)
            ]
        return [Document(properties.correlation_id, content_type, content_encoding, body)]

    def _verify(self, signer: wire_format.Signer, body: bytes, properties: Properties) -> None:
        signer.verify(body, properties)
        if self._max_age is not None:
            age = wall_clock() - (properties.timestamp or 0)
            if age > self._max_age:
                raise SignatureMismatch("the message is older than results are kept", is_signed=False)

    def is_genuine(self, message: ReceivedMessage) -> bool:
        """Whether a message is what a holder of a key wrote; where there is no key, every message is."""
        if self._signer is not None:
            try:
                self._verify(self._signer, message.body, message.properties)
            except DecodeError:
                return False
        return True

    def _reader(self, content_type: str | None) -> Serializer:
        """Return what reads a content type that is not written exactly as its serializer has it: that is rare."""
        reader = self._readers.get(_media_type(content_type))
        if reader is None:
            raise ContentDisallowed("" if content_type is None else str(content_type)[:100])
        return reader

    def _claimed(self, message: ReceivedMessage) -> tuple[str, ...]:
        """Return the tasks that a refused batch claims to be about; none where that would need decompressing."""
        properties = message.properties
        is_readable = properties.content_type == wire_format.BATCH_CONTENT_TYPE
        is_compressed = bool(properties.headers and properties.headers.get(COMPRESSION_HEADER))
        if not is_readable or is_compressed or len(message.body) > self._max_body_size:
            return ()
        try:
            return tuple(task_id for task_id, _ in wire_format.unframe(message.body))
        except DecodeError:
            return ()

    def decode(self, document: Document) -> ResultMeta:
        """Return the report in a document.

        Raises:
            DecodeError: it cannot be read; ``task_id`` says whose result it was.
        """
        try:
            task_id, content_type, content_encoding, body = document
            if not body:
                raise NotAReport("the document is empty")
            reader = self._readers.get(content_type) or self._reader(content_type)
            return read_report(reader.read(body, content_encoding, self._limits), task_id, self._exceptions)
        except DecodeError as error:
            error.task_id = document.task_id
            raise

    def read(self, message: ReceivedMessage) -> ResultMeta:
        """Return the report of a message that holds exactly one.

        Raises:
            DecodeError: it cannot be read, or is a batch of another number of reports; names tasks as ``open`` does.
        """
        documents = self.open(message)
        if len(documents) != 1:
            error = DecodeError(f"a batch of {len(documents)} reports, where one message is one report")
            error.task_ids = tuple(document.task_id for document in documents if document.task_id)
            raise error
        return self.decode(documents[0])

    def read_all(self, message: ReceivedMessage) -> Iterator[tuple[ResultMeta | DecodeError, Document]]:
        """Yield each report of a message with its document, or the error of one that cannot be read.

        Raises:
            DecodeError: nothing of the message can be read; names tasks as ``open`` does.
        """
        for document in self.open(message):
            try:
                yield self.decode(document), document
            except DecodeError as error:
                yield error, document


def _is_failure(meta: ResultMeta) -> bool:
    return isinstance(meta.result, BaseException) and meta.status in EXCEPTION_STATES


def _media_type(content_type: str | None) -> str | None:
    if content_type is None or (";" not in content_type and content_type.islower()):
        return content_type
    return content_type.partition(";")[0].strip().lower()


# A report as Celery's dict: Celery's keys in Celery's order. Only ``status`` must be there to read one. An optional key
# whose value is not of its type is kept in ``extra`` as it came: the result is worth more than the remark about it.

#: Fields that are written only when they are set, in order.
_OPTIONAL: Final = ("group_id", "parent_id", "name", "args", "kwargs", "worker", "retries", "queue")
_NOTHING: Final = (None,) * len(_OPTIONAL)
_optional_of: Final = attrgetter(*_OPTIONAL)
_parse_date: Final = datetime.fromisoformat

_TYPES: Final[dict[str, type]] = {
    **dict.fromkeys(_OPTIONAL, str),
    "args": object,
    "kwargs": object,
    "retries": int,
    "traceback": str,
    "children": list,
}


def write_report(meta: ResultMeta) -> dict[str, Any]:
    """Return ``meta`` as the dict that Celery's ``rpc`` backend would publish."""
    status, result, date_done = meta.status, meta.result, meta.date_done
    if status in EXCEPTION_STATES and isinstance(result, BaseException):
        result = write_exception(result)
    report: dict[str, Any] = {
        "status": status,
        "result": result,
        "traceback": meta.traceback,
        "children": meta.children,
        "date_done": date_done.isoformat() if date_done is not None and status in READY_STATES else None,
    }
    optional = _optional_of(meta)
    if optional != _NOTHING:
        report.update((key, value) for key, value in zip(_OPTIONAL, optional, strict=True) if value is not None)
    if meta.extra:
        for key, value in meta.extra.items():
            report.setdefault(key, value)
    report["task_id"] = meta.task_id
    return report


def read_report(report: Any, task_id: str | None, known: ExceptionClasses) -> ResultMeta:
    """Return what a decoded document says; ``task_id`` is used where it does not name its task itself.

    Raises:
        NotAReport: it is no report: not a dict, or without a task id or a status.
    """
    if not isinstance(report, dict):
        raise NotAReport(f"the document is not a dict but of type {type(report).__name__}")
    take = report.pop
    named = take("task_id", None)
    if isinstance(named, str) and named:
        task_id = named
    if not task_id:
        raise NotAReport("the document names no task, and neither does its message")
    status = take("status", None)
    if not isinstance(status, str) or not status:
        raise NotAReport("the document has no status")
    meta = ResultMeta(task_id, status, take("result", None))
    extra: dict[str, Any] | None = None
    date_done = take("date_done", None)
    if date_done is not None:
        try:
            meta.date_done = date_done if isinstance(date_done, datetime) else _parse_date(date_done)
        except (TypeError, ValueError):
            extra = {"date_done": date_done}
    for key, value in report.items():
        kind = _TYPES.get(key)
        if kind is not None and (value is None or isinstance(value, kind)):
            if value is not None:
                setattr(meta, key, value)
            continue
        if not isinstance(key, str):
            raise DecodeError(f"a key of the document is not text but of type {type(key).__name__}")
        extra = {} if extra is None else extra
        extra[key] = value
    if extra is not None:
        meta.extra = extra
    if status in EXCEPTION_STATES:
        meta.result = read_exception(status, meta.result, meta.traceback, known)
    return meta
