"""What this package adds to Celery's messages: batches of documents, and signatures.

A batch is many documents in one body: ``(length, task id, length, document)*``, lengths as 32-bit big-endian numbers.
Headers say how the documents are to be read. A batch is split without decoding anything, so an index can keep the
documents as they are, and a corrupt document costs only its own result.

Every message of this package has an identity: its message id is the id of its writer, drawn for each lifetime of a
backend, and the number of the message. Readers know a repeated message by it.

A signature is an HMAC-SHA256 over the body, and over every property that decides how the body is read, whose it is,
which message it is, and when it was issued. So nobody without the key can take away an identity that a writer will use,
or give an old message another one.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from aioresults.errors import ConfigurationError, DecodeError, EncodeError, SignatureMismatch
from aioresults.serialization.compression import COMPRESSION_HEADER
from aioresults.transport.base import Properties

# Batches

BATCH_MEDIA_TYPE: Final = "application/x-aioresults-batch"
BATCH_CONTENT_TYPE: Final = f"{BATCH_MEDIA_TYPE}; v=2"
BINARY: Final = "binary"
BATCH_CONTENT_ENCODING: Final = BINARY

#: More than any writer puts into one batch. It keeps a body of empty documents from becoming millions of objects.
MAX_DOCUMENTS: Final = 65_536

_DOCUMENT_TYPE: Final = "x-aioresults-content-type"
_DOCUMENT_ENCODING: Final = "x-aioresults-content-encoding"
_LENGTH: Final = struct.Struct(">I")


def batch_headers(content_type: str, content_encoding: str) -> dict[str, Any]:
    """Return the headers of a batch whose documents have this content type and encoding."""
    return {_DOCUMENT_TYPE: content_type, _DOCUMENT_ENCODING: content_encoding}


def document_type(headers: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the content type and encoding of the documents of a batch, by its headers."""
    return _text(headers, _DOCUMENT_TYPE), _text(headers, _DOCUMENT_ENCODING)


def frame(documents: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the body of a batch of ``(task id, document)`` pairs, at most ``MAX_DOCUMENTS`` of them."""
    if len(documents) > MAX_DOCUMENTS:
        raise ValueError(f"{len(documents)} documents are more than a batch may hold ({MAX_DOCUMENTS})")
    pack = _LENGTH.pack
    pieces: list[bytes] = []
    for task_id, document in documents:
        try:
            name = task_id.encode()
        except UnicodeEncodeError as error:
            raise EncodeError("a task id is not text that can be written") from error
        pieces += pack(len(name)), name, pack(len(document)), document
    return b"".join(pieces)


def unframe(body: bytes) -> list[tuple[str, bytes]]:
    """Return the ``(task id, document)`` pairs of a batch; DecodeError when a frame is cut off."""
    unpack, size, total = _LENGTH.unpack_from, _LENGTH.size, len(body)
    documents: list[tuple[str, bytes]] = []
    end = 0
    try:
        while end < total:
            start = end + size
            middle = start + unpack(body, end)[0]
            document = middle + size
            end = document + unpack(body, middle)[0]
            if end > total:
                raise DecodeError("the batch is truncated")
            if len(documents) == MAX_DOCUMENTS:
                raise DecodeError(f"a batch of more than {MAX_DOCUMENTS} documents")
            documents.append((body[start:middle].decode(), body[document:end]))
    except struct.error as error:
        raise DecodeError("the batch is truncated") from error
    except UnicodeDecodeError as error:
        raise DecodeError("a task id in a batch is not utf-8 text") from error
    return documents


# Signatures

SIGNATURE_HEADER: Final = "x-aioresults-signature"

_CONTEXT: Final = b"aioresults-signature-2\n"


class Signer:
    """Signs with the first key and verifies with every key, so that keys can be rotated.

    Raises:
        ConfigurationError: a key that is empty or not bytes, or no key at all.
    """

    def __init__(self, keys: bytes | Sequence[bytes]) -> None:
        given: object = keys
        given = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
        usable = [key for key in given if isinstance(key, bytes) and key]
        if not usable or len(usable) < len(given):
            raise ConfigurationError("signing_key must be bytes, or a sequence of them, and none may be empty")
        # Each is the state of a digest that has taken in its key; a message continues from a copy.
        self._begun = [hmac.new(key, _CONTEXT, hashlib.sha256) for key in usable]

    def sign(self, body: bytes, properties: Properties) -> str:
        """Return the signature of a message, which must not change afterwards."""
        return next(self._signatures(body, properties))

    def verify(self, body: bytes, properties: Properties) -> None:
        """Raise ``SignatureMismatch`` unless the message was signed with one of the keys."""
        signature = (properties.headers or {}).get(SIGNATURE_HEADER)
        if signature is None:
            raise SignatureMismatch("the message is not signed", is_signed=False)
        if isinstance(signature, str) and signature.isascii():
            for expected in self._signatures(body, properties):
                if hmac.compare_digest(expected, signature):
                    return
        raise SignatureMismatch("the message is not signed with a key that is known here, or was changed")

    def _signatures(self, body: bytes, properties: Properties) -> Iterator[str]:
        headers = properties.headers or {}
        facts = (
            properties.content_type,
            properties.content_encoding,
            _text(headers, COMPRESSION_HEADER),
            *document_type(headers),
            properties.correlation_id,
            properties.message_id,
            None if properties.timestamp is None else str(properties.timestamp),
        )
        covered = b"".join(map(_unambiguous, facts))
        for begun in self._begun:
            digest = begun.copy()
            digest.update(covered)
            digest.update(body)
            yield digest.hexdigest()


def _unambiguous(fact: str | None) -> bytes:
    """Return a form in which two lists of facts never look the same once joined."""
    if fact is None:
        return b"-,"
    data = fact.encode("utf-8", "surrogatepass")
    return b"%d:%s," % (len(data), data)


def _text(headers: Mapping[str, Any], name: str) -> str | None:
    value = headers.get(name)
    return value if isinstance(value, str) else None
