"""Reports as messages: what is published for a report, and what a received message reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import time as wall_clock
from typing import Final, Protocol

from aioresults.errors import DecodeError, ResultTooLarge
from aioresults.results import ResultMeta
from aioresults.serialization.codec import Codec
from aioresults.serialization.envelope import Document, Envelope
from aioresults.transport.base import PERSISTENT, TRANSIENT, OutgoingMessage, Properties


class ReceivedMessage(Protocol):
    """A message as it was received, whoever delivered it."""

    @property
    def body(self) -> bytes: ...

    @property
    def properties(self) -> Properties: ...


class ReportCodec:
    """Writes and reads reports.

    Args:
        codec: documents to bytes and back.
        persistent: whether messages survive a restart of the broker (delivery mode 2).
        max_size: the most bytes that one message may have.
        dated: whether messages say when they were sent, for readers that know by themselves what is too old.
    """

    def __init__(self, codec: Codec, *, persistent: bool, max_size: int, dated: bool = False) -> None:
        self._codec = codec
        self._dated = dated
        self._delivery_mode: Final = PERSISTENT if persistent else TRANSIENT
        self._max_size = max_size

    def write(self, meta: ResultMeta, correlation_id: str) -> bytes:
        """Return the document of a report.

        Raises:
            EncodeError: a value that the serializer cannot write.
            ResultTooLarge: more than one message may hold, compressed if it is.
        """
        document = self._codec.encode(meta)
        if len(document) > self._max_size:
            size = len(self._codec.seal(correlation_id, document).body)
            if size > self._max_size:
                raise ResultTooLarge(meta.task_id, size, self._max_size)
        return document

    def single(self, correlation_id: str, document: bytes) -> OutgoingMessage:
        """Return the message that carries one document: what Celery sends."""
        return self._message(self._codec.seal(correlation_id, document), correlation_id)

    def batch(self, documents: Sequence[tuple[str, bytes]]) -> OutgoingMessage:
        """Return the message that carries many documents, ``(task id, document)`` each."""
        return self._message(self._codec.seal_batch(documents), None)

    def _message(self, envelope: Envelope, correlation_id: str | None) -> OutgoingMessage:
        properties = Properties(
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            headers=dict(envelope.headers),
            delivery_mode=self._delivery_mode,
            priority=0,
            correlation_id=correlation_id,
            timestamp=int(wall_clock()) if self._dated else None,
        )
        return OutgoingMessage(envelope.body, properties)

    def open(self, message: ReceivedMessage) -> list[Document]:
        """Return the documents of a message, not decoded yet; raises ``DecodeError``."""
        properties = message.properties
        envelope = Envelope(
            message.body, properties.content_type, properties.content_encoding, properties.headers or {}
        )
        return self._codec.open(envelope, properties.correlation_id)

    def read(self, message: ReceivedMessage) -> ResultMeta:
        """Return what a message that holds one report says; raises ``DecodeError``."""
        documents = self.open(message)
        if len(documents) != 1:
            raise DecodeError(f"a batch of {len(documents)} reports, where one message is one report")
        return self._codec.decode(documents[0])

    def decode(self, document: Document) -> ResultMeta:
        """Return what a document says; raises ``DecodeError``."""
        return self._codec.decode(document)

    def read_all(self, message: ReceivedMessage) -> Iterator[tuple[ResultMeta | DecodeError, Document]]:
        """Yield each report of a message with its document, or the error of one that cannot be read.

        Raises:
            DecodeError: nothing of the message can be read.
        """
        for document in self.open(message):
            try:
                yield self._codec.decode(document), document
            except DecodeError as error:
                yield error, document
