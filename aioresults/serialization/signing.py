"""Signatures: HMAC-SHA256 over a body and over everything that decides how it is read and whose it is."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from aioresults.errors import ConfigurationError, SignatureMismatch

HEADER: Final = "x-aioresults-signature"

_CONTEXT: Final = b"aioresults-signature-1\n"


class Signer:
    """Signs with the first key and verifies with each of them, so that keys can be rotated.

    ``facts`` are the properties a signature covers beside the body, in an order that both sides know.
    """

    def __init__(self, keys: bytes | Sequence[bytes]) -> None:
        given: object = keys
        given = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
        usable = [key for key in given if isinstance(key, bytes) and key]
        if not usable or len(usable) < len(given):
            raise ConfigurationError("signing_key must be bytes, or a sequence of them, and none may be empty")
        # Each is the state of a digest that has taken in its key; a message continues from a copy.
        self._begun = [hmac.new(key, _CONTEXT, hashlib.sha256) for key in usable]

    def sign(self, body: bytes, facts: Sequence[str | None]) -> str:
        """Return the signature of ``body`` and ``facts`` by the first key."""
        return next(self._signatures(body, facts))

    def verify(self, signature: object, body: bytes, facts: Sequence[str | None]) -> None:
        """Return when ``signature`` was made by one of the keys; else raise SignatureMismatch."""
        if signature is None:
            raise SignatureMismatch("the message is not signed")
        if isinstance(signature, str) and signature.isascii():
            for expected in self._signatures(body, facts):
                if hmac.compare_digest(expected, signature):
                    return
        raise SignatureMismatch("the message is not signed with a key that is known here, or was changed")

    def _signatures(self, body: bytes, facts: Sequence[str | None]) -> Iterator[str]:
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
