"""Reports as messages: what is published for a report, and what a received message reports."""

from __future__ import annotations

from typing import Final

from aioresults.errors import ResultTooLarge
from aioresults.messaging import Message
from aioresults.results import ResultMeta
from aioresults.serialization import Codec, Envelope
from aioresults.transport.base import PERSISTENT, TRANSIENT, Properties


class Reports:
    """Writes and reads reports.

    Args:
        codec: documents to bytes and back.
        persistent: whether messages survive a restart of the broker (delivery mode 2).
        max_size: the most bytes that one message may have.
    """

    def __init__(self, codec: Codec, *, persistent: bool, max_size: int) -> None:
        self._codec = codec
        self._delivery_mode: Final = PERSISTENT if persistent else TRANSIENT
        self._max_size = max_size

    def write(self, meta: ResultMeta, correlation_id: str) -> tuple[bytes, Properties]:
        """Return body and properties of the message for one report: those that Celery sends.

        Raises:
            EncodeError: a value that the serializer cannot write.
            ResultTooLarge: more than one message may hold.
        """
        envelope = self._codec.seal(correlation_id, self._codec.encode(meta))
        if len(envelope.body) > self._max_size:
            raise ResultTooLarge(meta.task_id, len(envelope.body), self._max_size)
        return envelope.body, Properties(
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            headers=dict(envelope.headers),
            delivery_mode=self._delivery_mode,
            priority=0,
            correlation_id=correlation_id,
        )

    def read(self, message: Message) -> ResultMeta:
        """Return what a message that holds one report says; raises ``DecodeError``."""
        properties = message.properties
        envelope = Envelope(message.body, properties.content_type, properties.content_encoding, message.headers)
        [document] = self._codec.open(envelope, properties.correlation_id)
        return self._codec.decode(document)
