"""For tasks that an ordinary Celery app sends, and whose results are awaited here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

S = TypeVar("S")


def with_reply_to(signature: S, reply_to: str | None) -> S:
    """Return a copy of a Celery signature, chain, group or chord whose members all answer to ``reply_to``.

    ``chain(...).apply_async(reply_to=...)`` has only its first member answer there: the others keep the address of the
    process that sends them. Their links are set, too.

    Args:
        signature: of Celery's; it is not changed.
        reply_to: ``backend.reply_to``; None, of a routing that needs none, changes nothing.
    """
    if reply_to is None:
        return signature
    # Celery's signatures are dicts, and inside each other may be plain ones.
    original: Any = signature
    copy: Any = original.clone() if hasattr(original, "clone") else dict(original)
    parts = {
        name: _each(copy["kwargs"][name], reply_to) for name in ("tasks", "header", "body") if name in copy["kwargs"]
    }
    links = {name: _each(copy["options"][name], reply_to) for name in ("link", "link_error") if name in copy["options"]}
    copy["kwargs"] = {**copy["kwargs"], **parts}
    copy["options"] = {**copy["options"], **links, "reply_to": reply_to}
    with_address: S = copy
    return with_address


def _each(signatures: Any, reply_to: str) -> Any:
    """Return one signature, or several, as copies with an address; None as it is."""
    if signatures is None or isinstance(signatures, Mapping):
        return signatures and with_reply_to(signatures, reply_to)
    return [with_reply_to(signature, reply_to) for signature in signatures]
